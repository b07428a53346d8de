//! Git's files: an index, whole or split, is refused or has paths of bounded length, and a repository of
//! any files is read or refused.

use app_dir::AppDir;
use app_dir::git::{Repository, changes, index, paths_of_submodules, submodules};
use gix_hash::Kind;
use std::fs;
use std::path::Path;

/// Files of a repository, each of which gets a piece of the input.
const FILES: [&str; 6] = [
    ".git/index",
    ".git/objects/pack/x.pack",
    ".git/objects/pack/x.idx",
    ".git/packed-refs",
    ".gitattributes",
    ".git/config",
];

/// Where one piece ends and the next begins.
const CUT: &[u8] = b"\n%%%%\n";

pub fn run(data: &[u8]) {
    for hash in [Kind::Sha1, Kind::Sha256] {
        if let Some((part, link)) = index::parse(data, hash) {
            let whole = match (link, index::parse(data, hash)) {
                (Some(link), Some((shared, _))) => link.apply(part, shared),
                _ => Some(part),
            };
            let paths = whole.map(|whole| whole.by_path().entries.into_keys());
            assert!(
                paths
                    .into_iter()
                    .flatten()
                    .all(|path| path.as_os_str().len() <= 4096)
            );
        }
    }
    let _ = paths_of_submodules(&String::from_utf8_lossy(data)).count();

    let directory = tempfile::tempdir().expect("there is space");
    let app = directory.path();
    fs::create_dir_all(app.join(".git/objects/pack")).expect("there is space");
    fs::write(app.join(".git/HEAD"), "ref: refs/heads/main\n").expect("there is space");
    let mut rest = data;
    for file in FILES {
        let end = rest.windows(CUT.len()).position(|piece| piece == CUT);
        let (piece, next) = match end {
            Some(end) => (&rest[..end], &rest[end + CUT.len()..]),
            None => (rest, &rest[rest.len()..]),
        };
        fs::write(app.join(file), piece).expect("there is space");
        rest = next;
    }
    let app = AppDir::at(app).expect("it is there");
    let _ = submodules(&app, Path::new(""));
    if let Ok(Some(repository)) = Repository::at(&app, Path::new("")) {
        let head = repository.head().map(|head| head.to_string());
        let _ = repository.commit(&head.unwrap_or_default());
        let _ = changes(&repository);
    }
}
