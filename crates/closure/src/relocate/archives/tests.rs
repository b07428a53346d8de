use super::*;
use crate::relocate::relocation::Relocation;
use platform::greedy::{xz_with_a_large_dictionary, zstd_with_window};
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

const HASH: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3";
const MOVED: &str = "/layers/nix_hydra/closure/xbgcfhaawi9iz9s99";

fn references(moves: bool) -> ReferenceScanner {
    let path = format!("/nix/store/{HASH}-x").parse().unwrap();
    let to = Relocation::new(Path::new("/layers/nix_hydra/closure")).unwrap();
    ReferenceScanner::new([&path], moves.then_some(to))
}

fn text() -> String {
    format!("exec /nix/store/{HASH}-x/bin/x\n").repeat(3)
}

fn gzipped(text: &str) -> Vec<u8> {
    let mut encoder = GzBuilder::new()
        .filename("name")
        .mtime(7)
        .write(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zipped(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (index, (name, bytes)) in members.iter().enumerate() {
        let method = [
            zip::CompressionMethod::Deflated,
            zip::CompressionMethod::Stored,
        ];
        let options = SimpleFileOptions::default().compression_method(method[index % 2]);
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// What is found in a file with these bytes, and what the file is afterwards.
fn looked(bytes: &[u8], moves: bool) -> (ArchiveScan, Vec<u8>) {
    looked_within(&Budget::new(MAX_LOOK), bytes, moves)
}

fn looked_within(budget: &Budget, bytes: &[u8], moves: bool) -> (ArchiveScan, Vec<u8>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
    let packing = Packing::of_beginning(bytes).unwrap_or(Packing::Zip);
    assert_eq!(packing == Packing::Zip, Packing::is_zip_end(bytes));
    let inside = look_into(&path, packing, &references(moves), budget).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o555);
    (inside, fs::read(&path).unwrap())
}

fn members(bytes: &[u8]) -> Vec<(String, String)> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut member = archive.by_index(index).unwrap();
            let mut text = String::new();
            member.read_to_string(&mut text).unwrap();
            (member.name().unwrap().to_string(), text)
        })
        .collect()
}

#[test]
fn a_gzip_file_is_packed_anew_and_keeps_its_header() {
    let bytes = gzipped(&text());
    let (inside, untouched) = looked(&bytes, false);
    assert_eq!((inside.references, inside.blocker), (3, None));
    assert_eq!(untouched, bytes);
    let (_, written) = looked(&bytes, true);
    let mut decoder = MultiGzDecoder::new(written.as_slice());
    let mut read = String::new();
    decoder.read_to_string(&mut read).unwrap();
    assert_eq!(read, text().replace(&format!("/nix/store/{HASH}"), MOVED));
    assert_eq!(decoder.header().unwrap().filename().unwrap(), b"name");
    assert_eq!(decoder.header().unwrap().mtime(), 7);
}

#[test]
fn a_zip_is_rewritten_member_by_member() {
    let bytes = zipped(&[
        ("a", text().as_bytes()),
        ("b", b"plain"),
        ("c", text().as_bytes()),
    ]);
    let (inside, written) = looked(&bytes, true);
    assert_eq!((inside.references, inside.blocker), (6, None));
    let moved = text().replace(&format!("/nix/store/{HASH}"), MOVED);
    let expected = [("a", moved.as_str()), ("b", "plain"), ("c", &moved)];
    assert_eq!(
        members(&written),
        expected.map(|(name, text)| (name.to_string(), text.to_string()))
    );
}

#[test]
fn what_cannot_be_packed_anew_is_told_and_left_alone() {
    let text = text();
    let inner = zipped(&[("a", text.as_bytes())]);
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(text.as_bytes()).unwrap();
    let appended = [b"#!/bin/sh\n".as_slice(), &inner].concat();
    let bare = gzipped(HASH);
    let cut = &gzipped(&text.repeat(1000));
    let cut = &cut[..cut.len() - 20];
    for (bytes, reason) in [
        (zipped(&[("inner.jar", &inner)]), BlockerReason::Nested),
        (
            zipped(&[("META-INF/X.SF", b""), ("a", text.as_bytes())]),
            BlockerReason::Signed,
        ),
        (appended, BlockerReason::Appended),
        (xz.finish().unwrap(), BlockerReason::Packed(Packing::Xz)),
        (
            zstd::encode_all(text.as_bytes(), 1).unwrap(),
            BlockerReason::Packed(Packing::Zstd),
        ),
        (bare, BlockerReason::Packed(Packing::Gzip)),
        (cut.to_vec(), BlockerReason::Unseen(Packing::Gzip)),
    ] {
        let (inside, written) = looked(&bytes, true);
        assert_eq!(inside.blocker, Some(reason));
        assert_eq!(written, bytes);
    }
}

#[test]
fn a_link_in_a_zip_stands_against_the_move_where_it_would_change() {
    let target = format!("/nix/store/{HASH}-x/bin/x");
    for (target, blocker) in [
        (target.as_str(), Some(BlockerReason::Packed(Packing::Zip))),
        ("a", None),
    ] {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default();
        writer.start_file("a", options).unwrap();
        writer.write_all(text().as_bytes()).unwrap();
        writer.add_symlink("b", target, options).unwrap();
        let bytes = writer.finish().unwrap().into_inner();
        let (inside, written) = looked(&bytes, true);
        assert_eq!(inside.blocker, blocker);
        let mut archive = ZipArchive::new(Cursor::new(written)).unwrap();
        assert!(archive.by_index(1).unwrap().is_symlink());
    }
}

#[test]
fn what_is_packed_twice_is_found() {
    let text = text().repeat(50);
    let inner = zipped(&[("a", text.as_bytes())]);
    for bytes in [
        zipped(&[("a.gz", &gzipped(&text))]),
        zipped(&[("b.zst", &zstd::encode_all(text.as_bytes(), 1).unwrap())]),
        zipped(&[("c.war", &zipped(&[("d.jar", &inner)]))]),
    ] {
        let (inside, written) = looked(&bytes, true);
        assert_eq!(inside.blocker, Some(BlockerReason::Nested));
        assert_eq!(written, bytes);
    }
}

#[test]
fn a_broken_zip_is_no_error() {
    let mut broken = zipped(&[("a", "a long text ".repeat(100).as_bytes())]);
    broken[40..60].fill(0xff);
    let (inside, written) = looked(&broken, true);
    assert!(inside.hashes.is_empty() && inside.blocker.is_none());
    assert_eq!(written, broken);
    let mut cut = b"PK\x03\x04".to_vec();
    cut.extend([0; 100]);
    cut.extend(b"PK\x05\x06");
    cut.extend([0xff; 18]);
    assert!(looked(&cut, true).0.blocker.is_none());
}

#[test]
fn a_packed_file_that_names_no_store_path_stands_against_nothing() {
    for bytes in [gzipped("plain"), zipped(&[("a", b"plain")])] {
        let (inside, written) = looked(&bytes, true);
        assert!(inside.hashes.is_empty() && inside.blocker.is_none());
        assert_eq!(written, bytes);
    }
}

#[test]
fn what_needs_too_much_memory_is_not_looked_into() {
    let text = text();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(text.as_bytes()).unwrap();
    let xz = xz_with_a_large_dictionary(xz.finish().unwrap());
    let zstd = zstd_with_window(28, text.as_bytes());
    for (bytes, packing) in [
        (xz.clone(), Packing::Xz),
        (zstd.clone(), Packing::Zstd),
        (zipped(&[("a.xz", &xz)]), Packing::Xz),
        (zipped(&[("a.zst", &zstd)]), Packing::Zstd),
    ] {
        let (inside, _) = looked(&bytes, true);
        assert_eq!(inside.blocker, Some(BlockerReason::Unseen(packing)));
    }
    let (inside, _) = looked(&zstd_with_window(27, text.as_bytes()), true);
    assert_eq!(inside.blocker, Some(BlockerReason::Packed(Packing::Zstd)));
}

#[test]
fn empty_files_in_a_row_are_not_read_to_their_end() {
    let mut bytes = gzipped("").repeat(200_000);
    bytes.extend(gzipped(&text()));
    let (inside, _) = looked(&bytes, true);
    assert_eq!(inside.blocker, Some(BlockerReason::Unseen(Packing::Gzip)));
}

#[test]
fn the_files_of_a_store_path_are_looked_into_as_far_as_their_budget_goes() {
    let file = gzipped(&"plain ".repeat(1000));
    let budget = Budget::new(15_000);
    let blocker = [(); 4].map(|()| looked_within(&budget, &file, true).0.blocker);
    let unseen = Some(BlockerReason::Unseen(Packing::Gzip));
    assert_eq!(blocker, [None, None, unseen.clone(), unseen]);
}

#[test]
fn the_members_of_a_zip_and_what_is_in_them_share_a_budget() {
    let text = text().repeat(100);
    let inner = zipped(&[("a", text.as_bytes())]);
    let names: Vec<_> = (0..100).map(|number| number.to_string()).collect();
    for content in [text.as_bytes(), &inner, &gzipped(&text)] {
        let members: Vec<_> = names.iter().map(|name| (&**name, content)).collect();
        let bytes = zipped(&members);
        let (inside, written) = looked_within(&Budget::new(100_000), &bytes, true);
        assert_eq!(inside.blocker, Some(BlockerReason::Unseen(Packing::Zip)));
        assert_eq!(written, bytes);
    }
}

#[test]
fn what_looks_like_the_place_of_64_bit_numbers_in_a_zip_s_data_is_none() {
    let bytes = zipped(&[("PK\u{6}\u{7}", text().as_bytes())]);
    let (inside, written) = looked(&bytes, true);
    assert_eq!(inside.blocker, None);
    assert_ne!(written, bytes);
}

/// The same zip with a record of 64-bit numbers (APPNOTE 4.3.14 and 4.3.15).
fn with_64_bit_numbers(zip: &[u8]) -> Vec<u8> {
    let (members, end) = zip.split_at(zip.len() - 22);
    let number = |bytes: &[u8]| {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(whole)
    };
    let count = number(&end[10..12]);
    let mut large = members.to_vec();
    large.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
    for number in [count, count, number(&end[12..16]), number(&end[16..20])] {
        large.extend(number.to_le_bytes());
    }
    large.extend(b"PK\x06\x07\0\0\0\0");
    large.extend((members.len() as u64).to_le_bytes());
    large.extend(b"\x01\0\0\0PK\x05\x06\0\0\0\0");
    large.extend([0xff; 12]);
    large.extend([0; 2]);
    large
}

#[test]
fn a_zip_with_64_bit_numbers_prevents_a_move_only_by_what_is_in_it() {
    let plain = [("a", &b"plain"[..]), ("b", b"also")];
    let (inside, _) = looked(&with_64_bit_numbers(&zipped(&plain)), true);
    assert_eq!(inside.blocker, None);
    let text = text();
    for content in [text.as_bytes(), &gzipped(&text), &zipped(&plain)] {
        let bytes = with_64_bit_numbers(&zipped(&[("a", b"plain"), ("b", content)]));
        let (inside, written) = looked(&bytes, true);
        assert_eq!(inside.blocker, Some(BlockerReason::Unseen(Packing::Zip)));
        assert_eq!(written, bytes);
    }
}

#[test]
fn a_zip_that_says_too_much_of_itself_is_not_looked_into() {
    // Names that are as long as a name can be.
    let names: Vec<_> = (0..300).map(|number| format!("{number:060000}")).collect();
    let members: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    // 2^40 members, in an end record of 56 bytes and its place (APPNOTE 4.3.14 and 4.3.15).
    let mut many = b"PK\x03\x04".to_vec();
    let at = many.len() as u64;
    many.extend(b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0\0\0\0\0\0\0\0\0");
    for number in [1_u64 << 40, 1 << 40, 46 << 40, 0] {
        many.extend(number.to_le_bytes());
    }
    many.extend(b"PK\x06\x07\0\0\0\0");
    many.extend(at.to_le_bytes());
    many.extend(b"\x01\0\0\0PK\x05\x06\0\0\0\0");
    many.extend([0xff; 12]);
    many.extend([0; 2]);
    for bytes in [zipped(&members), many] {
        let (inside, _) = looked(&bytes, true);
        assert_eq!(inside.blocker, Some(BlockerReason::Unseen(Packing::Zip)));
    }
}
