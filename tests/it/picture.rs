//! The picture of a closure, as a real browser draws it.

use crate::launch::image;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Names by which browsers of the Chromium family are installed.
const BROWSERS: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome-headless-shell",
];

/// Adds up what has been drawn: boxes, names in them, and whatever is not as it should be.
const LOOK: &str = r"
const svg = document.querySelector('svg');
const view = svg.viewBox.baseVal;
const groups = [...svg.querySelectorAll('g')];
const faults = [];
const boxes = groups.map(group => group.querySelector('rect').getBBox());
const inside = (one, other) =>
    one.x >= other.x - 0.2 && one.y >= other.y - 0.2 &&
    one.x + one.width <= other.x + other.width + 0.2 && one.y + one.height <= other.y + other.height + 0.2;
let named = 0;
groups.forEach((group, at) => {
    const name = group.querySelector('title').textContent.split('\n')[0];
    if (!inside(boxes[at], view)) faults.push(`${name} is outside of the picture`);
    let words = '';
    for (const text of group.querySelectorAll('text')) {
        if (!inside(text.getBBox(), boxes[at])) faults.push(`${text.textContent} is larger than its box`);
        words += text.textContent;
    }
    if (words.startsWith(name.slice('/nix/store/'.length + 33))) named += 1;
    else if (words !== '') faults.push(`${words} is not the name of ${name}`);
    boxes.slice(at + 1).forEach((other, next) => {
        const width = Math.min(boxes[at].x + boxes[at].width, other.x + other.width) - Math.max(boxes[at].x, other.x);
        const height = Math.min(boxes[at].y + boxes[at].height, other.y + other.height) - Math.max(boxes[at].y, other.y);
        if (width > 0.2 && height > 0.2) faults.push(`${name} lies over box ${at + 1 + next}`);
    });
});
const heads = [...svg.querySelectorAll(':scope > text')].map(text => text.getBBox());
heads.forEach((head, at) => {
    if (!inside(head, view)) faults.push(`heading ${at} is outside of the picture`);
    if (at > 0 && heads[at - 1].x + heads[at - 1].width > head.x) faults.push(`heading ${at} lies over another`);
});
const area = boxes.reduce((sum, box) => sum + box.width * box.height, 0) / (view.width * view.height);
document.getElementById('found').textContent = JSON.stringify({ boxes: boxes.length, named, area, faults });
";

/// A browser on this machine.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut programs = BROWSERS.iter().flat_map(|name| {
        directories
            .iter()
            .map(move |directory| directory.join(name))
    });
    programs.find(|program| program.is_file())
}

/// What `browser` prints when it opens `file`.
fn open(browser: &Path, home: &Path, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(browser);
    command
        .env("HOME", home)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
        ])
        .arg(format!(
            "--user-data-dir={}",
            home.join("profile").display()
        ))
        .args(["--window-size=1200,800", "--virtual-time-budget=5000"])
        .args(arguments)
        .arg(format!("file://{}", file.display()));
    crate::common::output(&mut command)
}

#[test]
fn a_browser_shows_every_store_path_as_a_box_with_its_name_inside() {
    let Some(browser) = browser() else {
        platform::left_out("no browser is here: run script/setup browser");
        return;
    };
    let Some((deploy, image)) = image("python") else {
        return;
    };
    let picture = deploy.run(&image, ["nix-hydra", "closure", "--svg"]).stdout;
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("picture.svg"), &picture).unwrap();
    fs::write(
        at("page.html"),
        format!(
            "<!DOCTYPE html><meta charset=utf-8><body>{picture}<pre id=found></pre><script>{LOOK}</script>"
        ),
    )
    .unwrap();

    // By itself, as it is opened from a disk; the variable says where to keep what it looks like.
    let screenshot = std::env::var_os("NIX_HYDRA_SCREENSHOT");
    let screenshot = screenshot.map_or(at("picture.png"), PathBuf::from);
    let option = format!("--screenshot={}", screenshot.display());
    open(&browser, directory.path(), &[&option], &at("picture.svg"));
    let png = fs::read(screenshot).unwrap();
    let number = |from: usize| u32::from_be_bytes(png[from..from + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), (1200, 800));
    // A white page is much smaller than one with boxes and names.
    assert!(png.len() > 20_000, "{} bytes", png.len());

    let page = open(
        &browser,
        directory.path(),
        &["--dump-dom"],
        &at("page.html"),
    );
    let (_, found) = page.split_once("<pre id=\"found\">").unwrap();
    let (found, _) = found.split_once("</pre>").unwrap();
    let found: Value = serde_json::from_str(found).unwrap();
    assert_eq!(found["faults"], Value::Array(Vec::new()), "{found}");
    assert_eq!(found["boxes"], 30, "{found}");
    // What is too small for its name has it under the pointer.
    assert!(found["named"].as_u64().unwrap() >= 12, "{found}");
    assert!(found["area"].as_f64().unwrap() > 0.95, "{found}");
}
