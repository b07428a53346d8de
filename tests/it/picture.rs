//! The picture and the page of a closure, as a real browser draws them.

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

/// Goes through the page as its readers do, and notes what is not as it should be.
const WALK: &str = r"
const faults = [];
const map = document.getElementById('map');
const all = () => [...map.querySelectorAll('button')];
const heading = () => document.querySelector('#detail h2').textContent;
if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page is ${document.documentElement.scrollWidth} wide`);
const numbers = text => text.match(/[\d.]+/g).map(Number);
const luminance = text => {
    const [red, green, blue] = numbers(text).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
};
const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
};
const style = getComputedStyle;
const look = () => {
    const frame = map.getBoundingClientRect();
    const places = all().map(box => box.getBoundingClientRect());
    places.forEach((one, at) => {
        const name = all()[at].title;
        if (one.left < frame.left - 1 || one.right > frame.right + 1 || one.top < frame.top - 1 || one.bottom > frame.bottom + 1)
            faults.push(`${name} is outside of the map`);
        if (Math.min(one.width, one.height) < 10) faults.push(`${name} is ${one.width} by ${one.height}`);
        places.slice(at + 1).forEach(other => {
            const width = Math.min(one.right, other.right) - Math.max(one.left, other.left);
            const height = Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top);
            if (width > 1 && height > 1) faults.push(`${name} lies over another`);
        });
        const { color, backgroundColor, backgroundImage } = style(all()[at]);
        if (backgroundImage === 'none' && contrast(color, backgroundColor) < 4.5) faults.push(`${name} cannot be read`);
    });
};
// Every store path has a box, if need be behind one that opens.
const reached = new Set();
const visit = depth => {
    look();
    all().forEach((box, at) => {
        if (!box.classList.contains('more')) {
            box.click();
            reached.add(document.querySelector('#detail code').textContent);
        } else if (depth < 4) {
            all()[at].click();
            visit(depth + 1);
            const crumbs = document.querySelectorAll('#crumb button');
            crumbs[crumbs.length - 1].click();
        } else faults.push(`${box.title} does not end`);
    });
};
visit(0);
// From the first box, the arrow keys reach each of those that are shown.
const walked = new Set();
const walk = box => {
    if (walked.has(box)) return;
    walked.add(box);
    for (const key of ['ArrowRight', 'ArrowDown', 'ArrowLeft', 'ArrowUp']) {
        box.focus();
        box.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
        walk(document.activeElement);
    }
};
all()[0].click();
walk(all()[0]);
if (walked.size !== all().length) faults.push(`the arrow keys reach ${walked.size} of ${all().length}`);
if (all().filter(box => box.tabIndex === 0).length !== 1) faults.push('the map is not one stop of the tabulator');
const rows = document.querySelectorAll('#rows tr');
const search = document.getElementById('search');
search.value = 'libssl';
search.dispatchEvent(new Event('input'));
const found = [...rows].filter(row => !row.hidden).length;
const bright = all().filter(box => !box.classList.contains('dim')).length;
search.value = '';
search.dispatchEvent(new Event('input'));
const body = style(document.body);
if (contrast(body.color, body.backgroundColor) < 7) faults.push('the text cannot be read');
const report = document.createElement('pre');
report.id = 'walked';
report.textContent = JSON.stringify({ faults, reached: reached.size, rows: rows.length, found, bright,
    dark: luminance(body.backgroundColor) < 0.2, width: innerWidth });
document.body.append(report);
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
        .arg("--virtual-time-budget=5000")
        .args(arguments)
        .arg(format!("file://{}", file.display()));
    crate::common::output(&mut command)
}

/// Checks that a screenshot has this size and something in it.
fn is_drawn(screenshot: &Path, size: (u32, u32)) {
    let png = fs::read(screenshot).unwrap();
    let number = |from: usize| u32::from_be_bytes(png[from..from + 4].try_into().unwrap());
    assert_eq!((number(16), number(20)), size);
    // A page of one colour is much smaller than one with boxes and names.
    assert!(png.len() > 20_000, "{} bytes", png.len());
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
    let size = "--window-size=1200,800";
    open(
        &browser,
        directory.path(),
        &[size, &option],
        &at("picture.svg"),
    );
    is_drawn(&screenshot, (1200, 800));

    let page = open(
        &browser,
        directory.path(),
        &[size, "--dump-dom"],
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

#[test]
fn the_page_can_be_walked_through_and_read_at_every_size_by_day_and_by_night() {
    let Some(browser) = browser() else {
        platform::left_out("no browser is here: run script/setup browser");
        return;
    };
    let Some((deploy, image)) = image("python") else {
        return;
    };
    let page = deploy
        .run(&image, ["nix-hydra", "closure", "--html"])
        .stdout;
    // Each store path of this closure has a layer of its own.
    assert_eq!(page.matches("\"layer\":\"").count(), 30);
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::write(at("page.html"), &page).unwrap();
    let walk = format!("<script>addEventListener('load', () => {{ {WALK} }});</script></html>");
    fs::write(at("walk.html"), page.replace("</html>", &walk)).unwrap();
    // The variable says where to keep what it looks like.
    let pictures = std::env::var_os("NIX_HYDRA_SCREENSHOTS");
    let pictures = pictures.map_or(directory.path().to_path_buf(), PathBuf::from);
    for (width, height) in [(390, 844), (820, 1180), (1440, 900)] {
        for (number, theme) in ["dark", "light"].iter().enumerate() {
            let size = format!("--window-size={width},{height}");
            let theme_option = format!("--blink-settings=preferredColorScheme={number}");
            let picture = pictures.join(format!("page-{width}-{theme}.png"));
            let shot = format!("--screenshot={}", picture.display());
            open(
                &browser,
                directory.path(),
                &[&size, &theme_option, &shot],
                &at("page.html"),
            );
            is_drawn(&picture, (width, height));

            let dom = open(
                &browser,
                directory.path(),
                &[&size, &theme_option, "--dump-dom"],
                &at("walk.html"),
            );
            let (_, walked) = dom.split_once("<pre id=\"walked\">").unwrap();
            let (walked, _) = walked.split_once("</pre>").unwrap();
            let walked: Value = serde_json::from_str(walked).unwrap();
            let context = format!("{width} {theme}: {walked}");
            assert_eq!(walked["faults"], Value::Array(Vec::new()), "{context}");
            assert_eq!(walked["width"], width, "{context}");
            assert_eq!(walked["dark"], *theme == "dark", "{context}");
            assert_eq!(walked["reached"], 30, "{context}");
            assert_eq!(walked["rows"], 30, "{context}");
            assert_eq!(walked["found"], 1, "{context}");
            assert!(walked["bright"].as_u64().unwrap() >= 1, "{context}");
        }
    }
}
