//! Files of each format, made with its own real tool, relocated, and used with that tool: they work, or
//! the closure does not relocate.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails so says where"
)]

use binary_cache::{Caches, TrustSettings};
use closure::fetch::fetch_each;
use closure::plan::{Previous, plan};
use closure::queue::{Queue, QueuedPath};
use closure::relocate::blocker::BlockerReason;
use closure::relocate::references::{ReferenceScanner, ScanFor};
use closure::relocate::relocation::Relocation;
use closure::relocate::report::RelocationReport;
use http_client::Http;
use nix_derivation::{NixHash, StorePath};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use store_references::packing::Packing;
use tempfile::TempDir;

/// The base name of a store path with one program, which says "hello".
const TOOL: &str = "0jn93wz4pk00k76grv8ing8js0yz8cpd-x";

/// That of the store path with the files.
const ROOT: &str = "xbgcfhaawi9iz9s99k58sqy8azc2a1w3-root";

/// A store path with some files, and the tool that they refer to, relocated.
struct Relocated {
    report: RelocationReport,
    /// Where the store path with the files is.
    place: PathBuf,
    _directories: [TempDir; 2],
}

impl Relocated {
    /// Takes all files of `directory`.
    fn new(directory: &Path) -> Self {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let is_program = fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            files.push((name, fs::read(&path).unwrap(), is_program));
        }
        files.sort();
        let tool = b"#!/bin/sh\necho hello\n".to_vec();
        let tool = archive(&[("tool".to_string(), tool, true)]);
        let cache = TempDir::new().unwrap();
        fs::write(
            cache.path().join("nix-cache-info"),
            "StoreDir: /nix/store\n",
        )
        .unwrap();
        put(cache.path(), TOOL, "", &tool);
        put(cache.path(), ROOT, TOOL, &archive(&files));
        let url = format!("file://{}?trusted=true", cache.path().display());
        let trust = TrustSettings {
            keys: Vec::new(),
            required: true,
        };
        let caches = Caches::open(&[url.parse().unwrap()], trust, &Http::new(), &|_, _| None);
        let root: StorePath = format!("/nix/store/{ROOT}").parse().unwrap();
        let closure = plan(&caches, &[root], &Previous::default(), |_, _| {}).unwrap();
        let store = TempDir::new().unwrap();
        let short = tempfile::Builder::new().prefix("r").tempdir_in("/tmp");
        let short = short.unwrap();
        let relocation = Relocation::new(short.path()).unwrap();
        for path in closure.paths.keys() {
            let base = path.to_basename();
            symlink(store.path().join(&base), relocation.place(&base)).unwrap();
        }
        let scanner = ReferenceScanner::new(closure.paths.keys(), Some(relocation.clone()));
        let paths = closure.paths.into_iter().map(|(path, info)| QueuedPath {
            place: store.path().join(path.to_basename()),
            path,
            info,
        });
        let mut report = RelocationReport::default();
        let fetched = fetch_each(&Queue::of(paths), &caches, &ScanFor::All(scanner));
        for (_, found) in fetched.unwrap() {
            report.add(found);
        }
        Self {
            report,
            place: relocation.place(ROOT),
            _directories: [store, short],
        }
    }

    fn reasons(&self) -> Vec<BlockerReason> {
        let blockers = self.report.blockers.iter();
        blockers.map(|blocker| blocker.reason.clone()).collect()
    }
}

/// Puts a store path into a cache of files.
fn put(cache: &Path, base: &str, references: &str, nar: &[u8]) {
    let hash = NixHash::Sha256(Sha256::digest(nar).into()).to_nix_nixbase32_string();
    let narinfo = format!(
        "StorePath: /nix/store/{base}\nURL: {base}.nar\nCompression: none\nNarHash: {hash}\n\
         NarSize: {}\nReferences: {references}\n",
        nar.len()
    );
    fs::write(cache.join(format!("{}.narinfo", &base[..32])), narinfo).unwrap();
    fs::write(cache.join(format!("{base}.nar")), nar).unwrap();
}

/// The NAR of a directory with these files: a name, content, and whether it is a program.
fn archive(files: &[(String, Vec<u8>, bool)]) -> Vec<u8> {
    let mut nar = Vec::new();
    let mut add = |tokens: &[&[u8]]| {
        for token in tokens {
            nar.extend((token.len() as u64).to_le_bytes());
            nar.extend_from_slice(token);
            nar.resize(nar.len().next_multiple_of(8), 0);
        }
    };
    add(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for (name, content, is_program) in files {
        add(&[b"entry", b"(", b"name", name.as_bytes(), b"node"]);
        add(&[b"(", b"type", b"regular"]);
        if *is_program {
            add(&[b"executable", b""]);
        }
        add(&[b"contents", content, b")", b")"]);
    }
    add(&[b")"]);
    nar
}

/// Runs a command that must succeed, and returns what it printed, without the last newline.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_string()
}

/// Whether all these programs are there; one that is not is said.
fn has(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh")
            .args(["-c", "command -v \"$0\""])
            .arg(program)
            .output();
        !found.is_ok_and(|found| found.status.success())
    });
    if let Some(program) = missing {
        platform::left_out(&format!("there is no {program}"));
    }
    missing.is_none()
}

/// Runs a script that makes files in a new directory, where `$TOOL` is the program in the store.
fn made(script: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    let mut shell = Command::new("sh");
    shell
        .args(["-ec", script])
        .current_dir(&directory)
        .env("TOOL", format!("/nix/store/{TOOL}/tool"));
    output(&mut shell);
    directory
}

/// A format whose references are rewritten: its programs, how a file is made, and how it is used, which
/// prints what the tool says.
const SAFE: [(&str, &[&str], &str, &str); 10] = [
    ("text", &[], "echo \"exec $TOOL\" >script", "sh ./script"),
    (
        "ELF",
        &["cc"],
        "echo '#include <unistd.h>
         int main(void) { return execl(TOOL, TOOL, (char *) 0); }' >../main.c
         cc -g -DTOOL=\"\\\"$TOOL\\\"\" -o program ../main.c",
        "./program",
    ),
    (
        "ar archive",
        &["cc", "ar"],
        "echo 'const char *tool = TOOL;' >../lib.c
         cc -c -DTOOL=\"\\\"$TOOL\\\"\" -o ../lib.o ../lib.c
         ar rcs lib.a ../lib.o",
        "out=$(mktemp)
         echo '#include <unistd.h>
         extern const char *tool;
         int main(void) { return execl(tool, tool, (char *) 0); }' >$out.c
         cc -o $out.program $out.c ./lib.a && $out.program; rm $out*",
    ),
    (
        "a Rust library",
        &["rustc"],
        "echo \"pub const TOOL: &str = \\\"$TOOL\\\";\" >../one.rs
         rustc --edition 2024 --crate-type rlib --out-dir . ../one.rs",
        "out=$(mktemp -d)
         echo 'fn main() { std::process::Command::new(one::TOOL).status().unwrap(); }' >$out/main.rs
         rustc --edition 2024 --extern one=libone.rlib -o $out/main $out/main.rs && $out/main; rm -r $out",
    ),
    (
        "a Go program",
        &["go"],
        "cat >../main.go <<END
package main

import (\"os\"; \"os/exec\")

func main() { c := exec.Command(\"$TOOL\"); c.Stdout = os.Stdout; c.Run() }
END
         GOCACHE=$(mktemp -d) GOFLAGS= go build -o program ../main.go",
        "./program",
    ),
    (
        "Java class",
        &["javac", "java"],
        "echo \"class Main { public static void main(String[] a) throws Exception {
             new ProcessBuilder(\\\"$TOOL\\\").inheritIO().start().waitFor(); } }\" >../Main.java
         javac -d . ../Main.java",
        "java -cp . Main",
    ),
    (
        "Lua bytecode",
        &["luac5.4", "lua5.4"],
        "echo \"os.execute('$TOOL')\" >../main.lua; luac5.4 -o main.luac ../main.lua",
        "lua5.4 main.luac",
    ),
    (
        "OCaml bytecode",
        &["ocamlc", "ocamlrun"],
        "echo \"let () = exit (Sys.command \\\"$TOOL\\\")\" >../main.ml
         ocamlc -o main ../main.ml",
        "ocamlrun ./main",
    ),
    (
        "GVariant database",
        &["glib-compile-schemas", "gsettings"],
        "echo \"<schemalist><schema id='org.example' path='/org/example/'><key name='tool' type='s'>
             <default>'$TOOL'</default></key></schema></schemalist>\" >../a.gschema.xml
         glib-compile-schemas --targetdir=. ..",
        "sh -c \"$(GSETTINGS_BACKEND=memory GSETTINGS_SCHEMA_DIR=. gsettings get org.example tool)\"",
    ),
    (
        "BEAM module",
        &["erlc", "erl"],
        "echo \"-module(main). -export([main/0]). main() -> put(tool, '$TOOL'), io:put_chars(os:cmd(atom_to_list(get(tool)))).\" >../main.erl
         erlc ../main.erl",
        "erl -noshell -pa . -eval 'main:main(), halt().'",
    ),
];

#[test]
fn a_file_of_a_known_format_works_as_before() {
    for (name, programs, make, use_it) in SAFE {
        if !has(programs) {
            continue;
        }
        let directory = made(&format!("mkdir out; cd out; {make}"));
        let relocated = Relocated::new(&directory.path().join("out"));
        assert_eq!(relocated.reasons(), [], "{name}");
        assert!(relocated.report.references > 0, "{name}");
        let mut shell = Command::new("sh");
        shell.args(["-ec", use_it]).current_dir(&relocated.place);
        assert_eq!(output(&mut shell), "hello", "{name}");
    }
}

/// A format that a rewrite would break, or that is not looked into: how a file is made, and the reason.
fn others() -> Vec<(&'static [&'static str], &'static str, BlockerReason)> {
    let format = |name: &str| BlockerReason::Format(name.to_string());
    let sealed = |name: &str| BlockerReason::Sealed(name.to_string());
    vec![
        (
            &["sqlite3"],
            "sqlite3 a.sqlite \"create table files (path text primary key, size int) without rowid;
             insert into files values ('$TOOL', 1), ('/lib/b', 2), ('/usr/c', 3)\"",
            format("SQLite database"),
        ),
        (
            &["gdbmtool"],
            "gdbmtool --newdb a.db store \"$TOOL\" 1",
            format("GDBM database"),
        ),
        (
            &["db5.3_load"],
            "printf '%s\\n1\\n' \"$TOOL\" | db5.3_load -T -t btree a.db",
            format("Berkeley DB"),
        ),
        (
            &["mdb_load"],
            "printf '%s\\n1\\n' \"$TOOL\" | mdb_load -T -n a.mdb; rm -f a.mdb-lock",
            format("LMDB database"),
        ),
        (
            &["msgfmt"],
            "printf 'msgid \"a\"\\nmsgstr \"%s\"\\n' \"$TOOL\" | msgfmt -o a.mo -",
            format("gettext catalogue"),
        ),
        (
            &["git"],
            "echo \"$TOOL\" >../file; git init -q ../r
             hash=$(git -C ../r hash-object -w ../file); cp ../r/.git/objects/*/${hash#??} object",
            BlockerReason::Packed(Packing::Zlib),
        ),
        (
            &["git"],
            "echo \"$TOOL\" >../file; git init -q ../r
             git -C ../r hash-object -w ../file | git -C ../r pack-objects --stdout >a.pack",
            sealed("git pack"),
        ),
        (
            &["brotli"],
            "echo \"$TOOL $TOOL\" >../a.html; brotli -o a.html.br ../a.html",
            BlockerReason::Packed(Packing::Brotli),
        ),
        (
            &["mksquashfs"],
            "mkdir ../d; echo \"$TOOL\" >../d/a; mksquashfs ../d a.squashfs -quiet -no-progress",
            sealed("squashfs image"),
        ),
        (
            &["tar"],
            "echo \"$TOOL\" >../a; tar -C .. -cf a.tar a",
            format("tar archive"),
        ),
        (
            &["erlc"],
            "echo \"-module(main). -export([main/0]). main() -> \\\"$TOOL is a tool\\\".\" >../main.erl
             erlc ../main.erl",
            BlockerReason::Packed(Packing::Beam),
        ),
    ]
}

#[test]
fn a_file_that_a_rewrite_would_break_prevents_it() {
    for (programs, make, reason) in others() {
        if !has(programs) {
            continue;
        }
        let directory = made(&format!("mkdir out; cd out; {make}"));
        // Where it is packed, only this one is seen to refer to the tool.
        fs::write(
            directory.path().join("out/text"),
            format!("/nix/store/{TOOL}/tool"),
        )
        .unwrap();
        let relocated = Relocated::new(&directory.path().join("out"));
        assert_eq!(relocated.reasons(), [reason]);
    }
}

/// A small generator of numbers below a limit, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

#[test]
fn what_is_not_known_is_never_rewritten_without_being_named() {
    let mut random = Random(11);
    for round in 0..20 {
        let directory = TempDir::new().unwrap();
        let count = 40;
        for number in 0..count {
            // Bytes that no format begins with, and one that no text has.
            let mut bytes: Vec<u8> = (0..random.below(700))
                .map(|_| u8::try_from(random.below(256)).unwrap())
                .collect();
            bytes.splice(0..0, [0x9d, 0, 0xfe]);
            let at = 3 + random.below(bytes.len() - 2);
            let reference = format!("/nix/store/{TOOL}/tool").into_bytes();
            bytes.splice(at..at, reference);
            fs::write(directory.path().join(format!("{number:02}")), bytes).unwrap();
        }
        let relocated = Relocated::new(directory.path());
        let reasons = relocated.reasons();
        assert_eq!(reasons.len(), count, "round {round}: {reasons:?}");
        let is_unknown = |reason: &BlockerReason| matches!(reason, BlockerReason::UnknownFormat(bytes) if bytes.starts_with("9d00fe"));
        assert!(reasons.iter().all(is_unknown), "round {round}: {reasons:?}");
    }
}
