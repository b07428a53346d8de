//! What is in a closure, for people who wonder why it is so large.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The `count` largest regular files below `directory`, largest first: bytes, and the path in it.
pub fn largest_files(directory: &Path, count: usize) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if metadata.is_file() {
                files.push((metadata.len(), entry.path()));
            }
        }
    }
    files.sort_by(|(one_size, one), (other_size, other)| {
        other_size.cmp(one_size).then_with(|| one.cmp(other))
    });
    files.truncate(count);
    Ok(files
        .into_iter()
        .map(|(size, path)| {
            let inside = path.strip_prefix(directory).map(Path::to_path_buf);
            (size, inside.unwrap_or(path))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_largest_files_come_first_wherever_they_are() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        for (name, size) in [("a/two", 2), ("three", 3), ("a/three", 3), ("one", 1)] {
            fs::write(directory.path().join(name), vec![0; size]).unwrap();
        }
        std::os::unix::fs::symlink("three", directory.path().join("link")).unwrap();
        let files = largest_files(directory.path(), 3).unwrap();
        let expected = [(3, "a/three"), (3, "three"), (2, "a/two")];
        assert_eq!(
            files,
            expected.map(|(size, path)| (size, PathBuf::from(path)))
        );
    }
}
