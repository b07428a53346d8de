//! Sound NARs whose files mean harm to whoever looks for references in them.

use crate::common::fetch;
use crate::hostile::Node::{Directory, File};
use crate::hostile::{Home, ROOT, answer, asked, cache, member, nar, narinfo, open, plan};
use crate::servers::xz_of;
use closure::relocate::blocker::BlockerReason;
use closure::relocate::references::{ReferenceScanner, ScanFor};
use closure::relocate::relocation::Relocation;
use http_client::Http;
use platform::greedy::{xz_with_a_large_dictionary, zstd_with_window};
use platform::server::Server;
use std::fs;
use std::path::Path;
use store_references::packing::Packing;

/// What stands against moving what `nar` holds; it is taken all the same.
fn blockers(nar: Vec<u8>) -> Vec<(String, BlockerReason)> {
    let server = cache(narinfo(&nar, nar.len() as u64, "none"), nar);
    let caches = open(&server.url(), &Http::new());
    let closure = plan(&caches).unwrap();
    let home = Home::new();
    let survey = fetch(&closure, &caches, &home.store(), &ScanFor::Declared).unwrap();
    home.check("a sound NAR");
    let blockers = survey.blockers.into_iter();
    blockers.map(|one| (one.file, one.reason)).collect()
}

#[test]
fn files_that_want_too_much_memory_are_not_looked_into_and_said() {
    let base = ROOT.rsplit('/').next().unwrap();
    let xz = xz_with_a_large_dictionary(xz_of(b"content"));
    let zstd = zstd_with_window(28, b"content");
    let nar = nar(&Directory(vec![
        (b"a.xz", File(&xz)),
        (b"b.zst", File(&zstd)),
    ]));
    let expected = [("a.xz", Packing::Xz), ("b.zst", Packing::Zstd)]
        .map(|(file, packing)| (format!("{base}/{file}"), BlockerReason::Unseen(packing)));
    assert_eq!(blockers(nar), expected);
}

#[test]
fn no_more_files_of_a_store_path_are_noted_than_memory_is_for() {
    // Deep in directories with long names, so that the notes are longer than the NAR.
    let base = ROOT.rsplit('/').next().unwrap();
    let hash = &base[..32];
    let names: Vec<_> = (0..6_000)
        .map(|number| format!("{hash}-{number:06}"))
        .collect();
    let files = names.iter().map(|name| (name.as_bytes(), File(b"")));
    let long = [b'd'; 255];
    let node = (0..13).fold(Directory(files.collect()), |node, _| {
        Directory(vec![(&long, node)])
    });
    let mut blockers = blockers(nar(&node));
    assert_eq!(
        blockers.remove(0),
        (base.to_string(), BlockerReason::TooMany)
    );
    assert!(
        blockers.len() > 1_000 && blockers.len() < names.len(),
        "{}",
        blockers.len()
    );
    assert!(
        blockers
            .iter()
            .all(|(_, reason)| *reason == BlockerReason::Bare)
    );
}

#[test]
fn a_reference_that_its_narinfo_keeps_quiet_of_moves_with_the_others() {
    // The root refers to 0, which refers to 1; so does the root, and does not say so.
    let base = |number: usize| format!("{number:032}-x");
    let content = format!("/nix/store/{} /nix/store/{}", base(0), base(1));
    let file = nar(&File(content.as_bytes()));
    let server = Server::with_hook("/", move |request| {
        let path = asked(request).unwrap_or_default();
        let references = match path {
            ref path if path.ends_with("-root") => vec![base(0)],
            ref path if *path == base(0) => vec![base(1)],
            _ => vec![],
        };
        answer(request, &member(&path, &references, &file), &file)
    })
    .unwrap();
    let caches = open(&server.url(), &Http::new());
    let closure = plan(&caches).unwrap();
    let home = Home::new();
    let to = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
    let scan_for = ScanFor::All(ReferenceScanner::new(closure.paths.keys(), Some(to)));
    let survey = fetch(&closure, &caches, &home.store(), &scan_for).unwrap();
    assert_eq!((survey.files, survey.references), (3, 6));
    let root = home.store().join(ROOT.rsplit('/').next().unwrap());
    let written = fs::read_to_string(root).unwrap();
    assert_eq!(written.len(), content.len());
    assert!(!written.contains("/nix/store"), "{written}");
}
