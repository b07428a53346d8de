//! Sources that the next evaluation probably needs again, each a file: `<NAR hash>-<name>.nar.zst`.
//!
//! Only paths whose names follow from the hash of their NAR are kept, and that is checked as they are
//! decoded. So it does not matter who vouched for them.

use crate::nar_store::{Entry, NarStore};
use closure::parallel;
use nix_derivation::{CAHash, NixHash, StoreDir, StorePath, nixbase32};
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

/// Higher levels take longer and save little.
const LEVEL: i32 = 3;

const EXTENSION: &str = ".nar.zst";

/// The sources that are kept in a directory.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
}

impl Kept {
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Puts all that is kept into `store`, side by side. Removes what is not what its name says.
    pub fn restore(&self, store: &NarStore) {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let Ok(()) = parallel::each(self.names(), cores, |name| {
            if self.restore_one(&name, store).is_none() {
                // What stays only takes space.
                let _ = fs::remove_file(self.directory.join(name));
            }
            Ok::<(), Infallible>(())
        });
    }

    fn restore_one(&self, name: &str, store: &NarStore) -> Option<()> {
        let (nar_hash, path) = parse(name)?;
        let file = File::open(self.directory.join(name)).ok()?;
        let mut nar = zstd::Decoder::new(file).ok()?;
        store.write_nar(&nar_hash, &mut nar).ok()?;
        let nar_size = store.nar_file(&nar_hash).metadata().ok()?.len();
        let entry = Entry {
            path: &path,
            nar_hash: &nar_hash,
            nar_size,
            references: Vec::new(),
        };
        store.register(&entry).ok()
    }

    /// Keeps `sources` of `store`, given with the hashes of their NARs, and nothing else.
    pub fn keep(&self, store: &NarStore, sources: &[(StorePath, NixHash)]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let mut names = BTreeSet::new();
        for (path, nar_hash) in sources {
            let digits = nixbase32::encode(nar_hash.digest_as_bytes());
            let name = format!("{digits}-{}{EXTENSION}", path.name());
            if parse(&name).as_ref() != Some(&(nar_hash.clone(), path.clone())) {
                continue;
            }
            let file = self.directory.join(&name);
            if !file.exists() {
                pack(&store.nar_file(nar_hash), &file)?;
            }
            names.insert(name);
        }
        for name in self.names() {
            if !names.contains(&name) {
                let _ = fs::remove_file(self.directory.join(name));
            }
        }
        Ok(())
    }

    /// The files in the directory, the largest first.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let mut names: Vec<(u64, String)> = entries
            .filter_map(|entry| {
                let size = entry.metadata().ok()?.len();
                Some((size, entry.file_name().into_string().ok()?))
            })
            .collect();
        names.sort_by(|one, other| other.cmp(one));
        names.into_iter().map(|(_, name)| name).collect()
    }
}

/// The hash in a file's name, and the store path that follows from the name.
fn parse(name: &str) -> Option<(NixHash, StorePath)> {
    let (digits, name) = name.strip_suffix(EXTENSION)?.split_once('-')?;
    let nar_hash: NixHash = format!("sha256:{digits}").parse().ok()?;
    let address = CAHash::Nar(nar_hash.clone());
    let path = StoreDir::default()
        .build_ca_path(name, &address, [], false)
        .ok()?;
    Some((nar_hash, path))
}

/// Packs a file beside `to`, and renames it there once it is whole.
fn pack(from: &Path, to: &Path) -> io::Result<()> {
    let partial = to.with_extension("partial");
    let mut encoder = zstd::Encoder::new(File::create(&partial)?, LEVEL)?;
    io::copy(
        &mut BufReader::with_capacity(256 * 1024, File::open(from)?),
        &mut encoder,
    )?;
    encoder.finish()?;
    fs::rename(partial, to)
}
