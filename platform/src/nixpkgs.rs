//! A generated tree of nixpkgs' shape, as a NAR: many small files, most of which no evaluation reads.

use anyhow::{Context, Result};
use nix_archive::nar::Encoder;
use nix_derivation::{CAHash, HashAlgorithm, NixHash, NixHasher, StoreDir, StorePath};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Directories that packages are spread over, as in `pkgs/by-name`.
const SHARDS: usize = 676;

/// How much of it there is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub directories: usize,
    pub files: usize,
    /// Bytes of all files, about.
    pub bytes: usize,
    /// Packages that the first one depends on, each with an expression of its own.
    pub read: usize,
}

/// nixpkgs of 2026, as a NAR of 176 MB.
pub const NIXPKGS: Shape = Shape {
    directories: 38_000,
    files: 50_000,
    bytes: 162_000_000,
    read: 3_000,
};

/// The same, for tests.
pub const SMALL: Shape = Shape {
    directories: 800,
    files: 900,
    bytes: 500_000,
    read: 50,
};

/// A generated tree, in a file.
#[derive(Debug)]
pub struct Tree {
    pub path: StorePath,
    pub nar_hash: NixHash,
    pub nar_size: u64,
}

enum Node {
    Directory(BTreeMap<String, Node>),
    File(String),
}

impl Tree {
    /// Writes the NAR of a tree to `file`: an expression whose attributes `p0`, `p1`, … are derivations,
    /// each of its own file, also as a flake's `legacyPackages`. `note` is in a file of it, so that
    /// trees differ.
    pub fn generate(shape: &Shape, note: &str, file: &Path) -> Result<Self> {
        let mut encoder = Encoder::new(Hashed {
            file: BufWriter::new(File::create(file)?),
            hasher: NixHasher::new(HashAlgorithm::Sha256),
            size: 0,
        })?;
        encode(&tree(shape, note), None, &mut encoder)?;
        let mut written = encoder.finish()?;
        written.file.flush()?;
        let nar_hash = written.hasher.finalize();
        let path = StoreDir::default().build_ca_path(
            "source",
            &CAHash::Nar(nar_hash.clone()),
            [],
            false,
        )?;
        Ok(Self {
            path,
            nar_hash,
            nar_size: written.size,
        })
    }

    /// Generates a tree into a directory that is a binary cache, with its narinfo.
    pub fn into_cache(shape: &Shape, note: &str, cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(cache.join("nar"))?;
        let info = cache.join("nix-cache-info");
        if !info.exists() {
            std::fs::write(info, "StoreDir: /nix/store\n")?;
        }
        let partial = cache.join("nar/partial");
        let tree = Self::generate(shape, note, &partial)?;
        let basename = tree.path.to_basename();
        let (hash_part, _) = basename.split_once('-').context("no name")?;
        std::fs::rename(&partial, cache.join(format!("nar/{hash_part}.nar")))?;
        let hash = tree.nar_hash.to_nix_nixbase32_string();
        let text = format!(
            "StorePath: {}\nURL: nar/{hash_part}.nar\nCompression: none\nNarHash: {hash}\n\
             NarSize: {}\nReferences: \nCA: fixed:r:{hash}\n",
            tree.path, tree.nar_size,
        );
        std::fs::write(cache.join(format!("{hash_part}.narinfo")), text)?;
        Ok(tree)
    }

    /// The hash as `fetchTarball` takes it.
    pub fn sha256(&self) -> String {
        self.nar_hash.to_sri_string()
    }
}

fn tree(shape: &Shape, note: &str) -> Node {
    let packages = shape.directories.saturating_sub(SHARDS);
    let size = shape.bytes / shape.files;
    let mut filler = Filler(0x9e37_79b9_7f4a_7c15);
    let mut shards: BTreeMap<String, Node> = BTreeMap::new();
    let more = shape.files.saturating_sub(packages);
    for number in 0..packages {
        let mut text = package(number, shape.read);
        filler.fill(&mut text, size);
        let mut files = BTreeMap::from([("package.nix".to_string(), Node::File(text))]);
        if number < more {
            let mut patch = String::new();
            filler.fill(&mut patch, size);
            files.insert("fix.patch".to_string(), Node::File(patch));
        }
        let shard = shards
            .entry(shard(number))
            .or_insert_with(|| Node::Directory(BTreeMap::new()));
        if let Node::Directory(shard) = shard {
            shard.insert(format!("p{number}"), Node::Directory(files));
        }
    }
    let by_name = BTreeMap::from([("by-name".to_string(), Node::Directory(shards))]);
    let flake = "{ outputs = _: { legacyPackages.x86_64-linux = import ./. { }; }; }\n";
    let mut top = BTreeMap::new();
    top.insert("pkgs".to_string(), Node::Directory(by_name));
    top.insert(
        "default.nix".to_string(),
        Node::File(default_nix(shape.read)),
    );
    top.insert("flake.nix".to_string(), Node::File(flake.to_string()));
    top.insert("note".to_string(), Node::File(note.to_string()));
    Node::Directory(top)
}

fn shard(number: usize) -> String {
    let letter = |number: usize| char::from(b"abcdefghijklmnopqrstuvwxyz"[number % 26]);
    let number = number % SHARDS;
    String::from_iter([letter(number / 26), letter(number)])
}

/// A package that takes two others as arguments, and a patch every now and then.
fn package(number: usize, read: usize) -> String {
    let mut arguments = String::new();
    let mut dependencies = String::new();
    for other in [2 * number + 1, 2 * number + 2] {
        if other < read {
            let _ = write!(arguments, ", p{other}");
            let _ = write!(dependencies, " p{other}");
        }
    }
    let patch = if number.is_multiple_of(50) {
        "./fix.patch"
    } else {
        "null"
    };
    format!(
        "{{ make{arguments} }}:\nmake {{ name = \"p{number}\"; dependencies = [{dependencies} ]; \
         patch = {patch}; }}\n"
    )
}

fn default_nix(read: usize) -> String {
    format!(
        r#"{{ ... }}:
let
  make = {{ name, dependencies, patch }}: derivation {{
    inherit name dependencies patch;
    system = "x86_64-linux";
    builder = "/bin/sh";
  }};
  letters = "abcdefghijklmnopqrstuvwxyz";
  letter = number: builtins.substring (number - number / 26 * 26) 1 letters;
  shard = number: let within = number - number / {SHARDS} * {SHARDS}; in letter (within / 26) + letter within;
  call = number:
    let package = import (./pkgs/by-name + "/${{shard number}}/p${{toString number}}/package.nix");
    in package (builtins.intersectAttrs (builtins.functionArgs package) all);
  all = {{ inherit make; }} // builtins.listToAttrs (
    builtins.genList (number: {{ name = "p${{toString number}}"; value = call number; }}) {read}
  );
in
all
"#
    )
}

/// Comments that compress about as well as nixpkgs does.
struct Filler(u64);

impl Filler {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn fill(&mut self, text: &mut String, size: usize) {
        const WORDS: [&str; 8] = [
            "meta",
            "buildInputs",
            "description",
            "license",
            "homepage",
            "maintainers",
            "fetchurl",
            "hash",
        ];
        while text.len() < size {
            let number = self.next();
            let word = WORDS[(number % 8) as usize];
            let _ = writeln!(
                text,
                "# {word} = with lib; [ {word} {:08x} ];",
                number >> 32
            );
        }
    }
}

struct Hashed {
    file: BufWriter<File>,
    hasher: NixHasher,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn encode(node: &Node, name: Option<&str>, encoder: &mut Encoder<Hashed>) -> Result<()> {
    let raw = name.map(str::as_bytes);
    match node {
        Node::Directory(children) => {
            encoder.start_directory(raw)?;
            for (name, child) in children {
                encode(child, Some(name), encoder)?;
            }
            encoder.end_directory()?;
        }
        Node::File(text) => encoder.regular(raw, false, text.as_bytes())?,
    }
    Ok(())
}
