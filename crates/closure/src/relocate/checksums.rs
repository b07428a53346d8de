//! Lists of checksums: which files are such lists, and which files they vouch for.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The largest file that is taken for a list of checksums.
const MAX_CHECKSUM_FILE: u64 = 1024 * 1024;

/// Fewest hexadecimal digits of a checksum: MD5's.
const MIN_CHECKSUM: usize = 32;

/// What checksums are made by, as the names of their lists have it.
const ALGORITHMS: [&[u8]; 7] = [
    b"md5", b"sha1", b"sha224", b"sha256", b"sha384", b"sha512", b"b2",
];

/// Whether a file of this name holds checksums of others beside it, or a signature of one.
pub(crate) fn is_checksum_file(name: &[u8]) -> bool {
    if is_signature(name) {
        return true;
    }
    let name = name.to_ascii_lowercase();
    let stem = name.strip_suffix(b".txt").unwrap_or(&name);
    let dot = stem.iter().rposition(|byte| *byte == b'.');
    let is_ending = dot.is_some();
    let word = &stem[dot.map_or(0, |dot| dot + 1)..];
    if matches!(word, b"hmac" | b"checksums") {
        return is_ending == (word == b"hmac");
    }
    // `md5sum` alone is a program.
    let is_list = is_ending || word.ends_with(b"s") || stem.len() < name.len();
    match word.strip_suffix(b"s").unwrap_or(word).strip_suffix(b"sum") {
        Some(algorithm) => is_list && ALGORITHMS.contains(&algorithm),
        None => is_ending && ALGORITHMS.contains(&word),
    }
}

/// Whether a file of this name is a signature of the file with the name before the ending.
fn is_signature(name: &[u8]) -> bool {
    let endings = [&b".asc"[..], b".sig", b".sign", b".minisig", b".p7s"];
    endings.iter().any(|ending| name.ends_with(ending))
}

/// The files that the checksum file at `path` vouches for, named as `file` is; `None` where it is
/// too large to be read.
///
/// A line with nothing but a checksum is about the file that the checksum file is named after, where
/// `.name.hmac` is libgcrypt's and OpenSSL's habit.
pub(crate) fn checksummed(path: &Path, file: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    if fs::metadata(path)?.len() > MAX_CHECKSUM_FILE {
        return Ok(None);
    }
    let directory = file.parent().unwrap_or(Path::new(""));
    if is_signature(file.file_name().unwrap_or_default().as_bytes()) {
        return Ok(Some(vec![file.with_extension("")]));
    }
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let mut named = Vec::new();
    for name in text.lines().filter_map(name_on) {
        if name.is_empty() {
            let own = file.file_stem().unwrap_or_default().as_bytes();
            let own = own.strip_prefix(b".").unwrap_or(own);
            named.push(directory.join(std::ffi::OsStr::from_bytes(own)));
        } else {
            named.extend(beside(directory, name));
        }
    }
    Ok(Some(named))
}

/// The name on a line with a checksum: `<sum>  <name>` as `sha256sum` has it, or with no name; or
/// `SHA256 (<name>) = <sum>` as the BSDs and OpenSSL have it.
fn name_on(line: &str) -> Option<&str> {
    let is_sum = |word: &str| {
        word.len() >= MIN_CHECKSUM && word.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (sum, name) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    if is_sum(sum) {
        return Some(name.trim_start_matches([' ', '*']).trim_end());
    }
    let (name, sum) = line.rsplit_once('=')?;
    let (_, name) = name.trim_end().strip_suffix(')')?.split_once('(')?;
    is_sum(sum.trim()).then_some(name)
}

/// What `name` means in `directory`, both of a store path; `None` where it leads out of that.
fn beside(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut path = directory.to_path_buf();
    for component in Path::new(name).components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_files_are_known_by_their_names() {
        for name in [
            "x.sha256",
            "SHA512SUMS",
            "sha256sums.txt",
            ".libx.so.1.hmac",
            "a.MD5",
            "x.tar.sha256sum",
            "x.sha512sum",
            "x.md5sum",
            "md5sum.txt",
            "x.sha384",
            "SHA384SUMS",
            "B2SUMS",
            "checksums.txt",
            "a.so.sig",
            "a.tar.asc",
        ] {
            assert!(is_checksum_file(name.as_bytes()), "{name}");
        }
        for name in [
            "sha256.h",
            "RECORD",
            "md5",
            "md5sum",
            "checksums.py",
            "x.checksums",
        ] {
            assert!(!is_checksum_file(name.as_bytes()), "{name}");
        }
    }
}
