//! The members of an image's closure: every store path with its size and its references.
//!
//! The file is JSON, one store path a line, in the order of their names:
//!
//! ```text
//! {"roots":["xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0"],
//! "paths":[
//! {"path":"0jn93wz4pk00k76grv8ing8js0yz8cpd-zlib-1.3","size":123456,"references":[]},
//! {"path":"xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0","size":7890,"references":["0jn9…-zlib-1.3"]}
//! ]}
//! ```
//!
//! Paths are base names, which have no letter that JSON escapes, so that the lines are read here
//! without a JSON parser. Sizes are bytes of the NAR. A path's reference to itself is left out.

use crate::seen_store::SeenStore;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

/// The file's name in the closure layer; no store path is called so.
pub const FILE: &str = ".closure.json";

/// Letters of a base name before the name: the hash and a dash.
const HASH: usize = 33;

/// A store path of the closure; a number, of its place in the order.
pub type Index = usize;

/// Every store path of an image. References are to paths that are in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    roots: Vec<Index>,
    paths: Vec<Member>,
}

/// A store path as the closure has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The base name, `<hash>-<name>`.
    pub path: String,
    /// Bytes of the NAR.
    pub size: u64,
    /// Its references, without itself.
    pub references: Vec<Index>,
}

/// Programs that compile and build, as `is_compiler` knows them.
const COMPILERS: &str = "autoconf automake binutils bison cargo clang cmake gcc gfortran ghc gnumake go jdk llvm \
    meson ninja openjdk pkg-config rustc scala stdenv-linux swift zig";

/// What a store path is that programs rarely need when they run, by its name; to follow "which is".
fn build_only(path: &str) -> Option<&'static str> {
    let name = name(path);
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&["-dev"]) || name.starts_with("linux-headers-") {
        Some("headers and other files to build with")
    } else if ends(&["-doc", "-devdoc"]) {
        Some("documentation")
    } else if ends(&["-debug", "-dbg"]) {
        Some("debug symbols")
    } else if ends(&[".drv", ".tar.gz", ".tar.xz", ".tar.bz2", ".tar.zst"]) {
        Some("source code or a derivation")
    } else {
        is_compiler(name).then_some("a compiler or build tool")
    }
}

/// Whether this is a compiler or build tool: one of [`COMPILERS`], a version attached to it
/// (`gcc12`) or after a dash, as such or as a wrapper (`ghc-9.8.4-with-packages`). Other outputs are
/// not: compiled programs need `gcc-14.3.0-lib`, and Java programs `openjdk-…-jre`.
fn is_compiler(name: &str) -> bool {
    const WRAPPERS: [&str; 4] = ["", "-wrapper", "-with-packages", "-unwrapped"];
    let is_version = |text: &str| {
        let version = text.strip_prefix('-').unwrap_or(text);
        version
            .chars()
            .all(|c| c.is_ascii_digit() || ".+".contains(c))
    };
    COMPILERS.split(' ').any(|compiler| {
        let Some(rest) = name.strip_prefix(compiler) else {
            return false;
        };
        let rest = rest.strip_prefix("-wrapper").unwrap_or(rest);
        let mut wrappers = WRAPPERS.iter();
        wrappers.any(|wrapper| rest.strip_suffix(wrapper).is_some_and(is_version))
    })
}

/// A base name without its hash.
pub fn name(path: &str) -> &str {
    path.get(HASH..).unwrap_or(path)
}

impl Closure {
    /// The closure of `roots`, the leading one first, from base names, sizes and base names of the
    /// references. References to paths that are not in it are left out.
    pub fn new<'a, R>(
        roots: impl IntoIterator<Item = &'a str>,
        paths: impl IntoIterator<Item = (String, u64, R)>,
    ) -> Self
    where
        R: IntoIterator<Item = String>,
    {
        let all: BTreeMap<String, (u64, R)> = paths
            .into_iter()
            .map(|(path, size, references)| (path, (size, references)))
            .collect();
        let places: BTreeMap<String, Index> = all.keys().cloned().zip(0..).collect();
        let place = |path: &str| places.get(path).copied();
        Self {
            roots: roots.into_iter().filter_map(place).collect(),
            paths: all
                .into_iter()
                .enumerate()
                .map(|(index, (path, (size, references)))| Member {
                    path,
                    size,
                    references: references
                        .into_iter()
                        .filter_map(|reference| place(&reference))
                        .filter(|reference| *reference != index)
                        .collect(),
                })
                .collect(),
        }
    }

    /// Reads the file's text. None if it has another format, or a path that is no base name of a store path:
    /// it may be from anywhere.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let roots = strings(lines.next()?.strip_prefix("{\"roots\":")?);
        let mut paths = Vec::new();
        for line in lines.filter(|line| line.starts_with("{\"path\":")) {
            let (head, references) = line.split_once(",\"references\":")?;
            let (path, size) = head.split_once(",\"size\":")?;
            let [path] = strings(path.strip_prefix("{\"path\":")?)[..] else {
                return None;
            };
            if !is_base_name(path) {
                return None;
            }
            let references = strings(references).into_iter().map(String::from);
            paths.push((
                path.to_string(),
                size.parse().ok()?,
                references.collect::<Vec<_>>(),
            ));
        }
        let closure = Self::new(roots, paths);
        (!closure.roots.is_empty()).then_some(closure)
    }

    pub fn roots(&self) -> &[Index] {
        &self.roots
    }

    pub fn paths(&self) -> &[Member] {
        &self.paths
    }

    /// Bytes of all NARs.
    pub fn size(&self) -> u64 {
        self.paths.iter().map(|path| path.size).sum()
    }

    /// All paths, largest first.
    pub fn by_size(&self) -> Vec<Index> {
        let mut all: Vec<Index> = (0..self.paths.len()).collect();
        all.sort_by_key(|index| std::cmp::Reverse(self.paths[*index].size));
        all
    }

    /// The paths that programs rarely need when they run, largest first, each with what it is (to follow
    /// "which is"). What is deployed by name is not among them.
    pub fn build_only(&self) -> Vec<(Index, &'static str)> {
        self.by_size()
            .into_iter()
            .filter(|index| !self.roots.contains(index))
            .filter_map(|index| Some((index, build_only(&self.paths[index].path)?)))
            .collect()
    }

    /// The shortest way of references from a root to each path, both included. Where several are
    /// as short, that of the earlier root and then of the earlier name is taken.
    pub fn chains(&self) -> Vec<Vec<Index>> {
        let mut from: Vec<Option<Index>> = vec![None; self.paths.len()];
        let mut queue: VecDeque<Index> = self.roots.iter().copied().collect();
        for root in &self.roots {
            from[*root] = Some(*root);
        }
        while let Some(index) = queue.pop_front() {
            for reference in &self.paths[index].references {
                if from[*reference].is_none() {
                    from[*reference] = Some(index);
                    queue.push_back(*reference);
                }
            }
        }
        (0..self.paths.len())
            .map(|index| {
                let mut chain = vec![index];
                let mut last = index;
                while let Some(before) = from[last].filter(|before| *before != last) {
                    chain.push(before);
                    last = before;
                }
                chain.reverse();
                chain
            })
            .collect()
    }

    /// A chain in words, names without their hashes: `myapp-1.0 → python3-3.13 → zlib-1.3`.
    pub fn chain_words(&self, chain: &[Index]) -> String {
        let names: Vec<&str> = chain
            .iter()
            .map(|index| name(&self.paths[*index].path))
            .collect();
        names.join(" → ")
    }

    /// Bytes of a path and of all that it needs.
    pub fn size_with_references(&self, index: Index) -> u64 {
        let mut seen = BTreeSet::from([index]);
        let mut left = vec![index];
        while let Some(next) = left.pop() {
            let references = self.paths[next].references.iter().copied();
            left.extend(references.filter(|reference| seen.insert(*reference)));
        }
        seen.into_iter().map(|index| self.paths[index].size).sum()
    }

    /// The paths that refer to this one.
    pub fn referrers(&self, index: Index) -> Vec<Index> {
        let refers = |(at, path): (Index, &Member)| path.references.contains(&index).then_some(at);
        self.paths.iter().enumerate().filter_map(refers).collect()
    }

    /// The paths that a user means: a store path, or a file below one; else a name, its beginning, or a
    /// part of it.
    pub(crate) fn find(&self, store: &SeenStore, wanted: &str) -> Vec<Index> {
        let matching = |holds: &dyn Fn(&str) -> bool| -> Vec<Index> {
            let all = self.paths.iter().enumerate();
            all.filter_map(|(index, path)| holds(&path.path).then_some(index))
                .collect()
        };
        let base = store.base_name(wanted);
        if base.is_empty() {
            return Vec::new();
        }
        let candidates: [&dyn Fn(&str) -> bool; 3] = [
            &|path| path == base || name(path) == base || store.shown(path) == base,
            &|path| name(path).starts_with(base),
            &|path| name(path).contains(base),
        ];
        let mut found = candidates.into_iter().map(matching);
        found.find(|found| !found.is_empty()).unwrap_or_default()
    }
}

/// Whether this is `<hash>-<name>`, with the letters that Nix allows.
fn is_base_name(path: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=".contains(&byte);
    path.len() > HASH && path.as_bytes()[HASH - 1] == b'-' && path.bytes().all(is_allowed)
}

/// The strings of a piece of JSON without escapes.
fn strings(json: &str) -> Vec<&str> {
    json.split('"').skip(1).step_by(2).collect()
}

impl fmt::Display for Closure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |indices: &[Index]| {
            let quoted: Vec<String> = indices
                .iter()
                .map(|index| format!("\"{}\"", self.paths[*index].path))
                .collect();
            format!("[{}]", quoted.join(","))
        };
        write!(
            formatter,
            "{{\"roots\":{},\n\"paths\":[",
            quoted(&self.roots)
        )?;
        for (index, path) in self.paths.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(
                formatter,
                "{comma}\n{{\"path\":\"{}\",\"size\":{},\"references\":{}}}",
                path.path,
                path.size,
                quoted(&path.references)
            )?;
        }
        writeln!(formatter, "\n]}}")
    }
}

/// A size as people read it: `57.1 MB`, in powers of 1000.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if count < 1000 {
        return format!("{count} bytes");
    }
    let mut size = count as f64 / 1000.0;
    let mut unit = 0;
    while size >= 999.95 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// A small closure for tests: an app with an interpreter, a compiler that slipped in, and a library.
#[cfg(test)]
pub(crate) fn sample() -> Closure {
    let base = |letter: char, name: &str| format!("{}-{name}", letter.to_string().repeat(32));
    let app = base('d', "myapp-1.0");
    let python = base('b', "python3-3.13.1");
    let gcc = base('c', "gcc-14.3.0");
    let zlib = base('a', "zlib-1.3");
    let root = app.clone();
    Closure::new(
        [root.as_str()],
        [
            (app.clone(), 4_200, vec![app, python.clone(), zlib.clone()]),
            (python.clone(), 41_000_000, vec![gcc.clone(), zlib.clone()]),
            (gcc, 203_000_000, vec![zlib.clone()]),
            (zlib, 130_000, Vec::new()),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_json_and_reads_as_it_was_written() {
        let text = sample().to_string();
        insta::assert_snapshot!(text);
        assert_eq!(Closure::parse(&text), Some(sample()));
        for cut in ["", "{}", "{\"roots\":[]}", &text[..200]] {
            assert_ne!(Closure::parse(cut), Some(sample()), "{cut}");
        }
    }

    #[test]
    fn a_file_whose_paths_are_not_those_of_a_store_is_not_read() {
        let text = sample().to_string();
        for name in ["</script>", "\u{1b}[2J", "myapp 1.0", "\u{202e}"] {
            let other = text.replace("zlib-1.3", name);
            assert_ne!(other, text);
            assert_eq!(Closure::parse(&other), None, "{name:?}");
        }
        let short =
            "{\"roots\":[\"a\"],\n\"paths\":[\n{\"path\":\"a\",\"size\":1,\"references\":[]}\n]}";
        assert_eq!(Closure::parse(short), None);
    }

    #[test]
    fn each_path_has_the_shortest_chain_from_a_root() {
        let closure = sample();
        let chains = closure.chains();
        let words: Vec<String> = chains.iter().map(|c| closure.chain_words(c)).collect();
        assert_eq!(
            words,
            [
                "myapp-1.0 → zlib-1.3",
                "myapp-1.0 → python3-3.13.1",
                "myapp-1.0 → python3-3.13.1 → gcc-14.3.0",
                "myapp-1.0",
            ]
        );
    }

    #[test]
    fn references_may_go_in_a_circle() {
        let (one, other) = ("a-one".to_string(), "b-other".to_string());
        let closure = Closure::new(
            ["a-one"],
            [(one.clone(), 1, vec![other.clone()]), (other, 2, vec![one])],
        );
        assert_eq!(closure.chains(), [vec![0], vec![0, 1]]);
        assert_eq!(closure.size_with_references(1), 3);
    }

    #[test]
    fn what_is_only_built_with_is_known_by_its_name() {
        for (name, expected) in [
            ("gcc-14.3.0", Some("compiler")),
            ("gcc-wrapper-14.3.0", Some("compiler")),
            ("gcc-12-wrapper", Some("compiler")),
            ("gcc12", Some("compiler")),
            ("ghc-9.8.4-with-packages", Some("compiler")),
            ("openjdk-21.0.8+9", Some("compiler")),
            ("openjdk-headless-21.0.8+9-jre", None),
            ("ghc-9.8.4-doc", Some("documentation")),
            ("gcc-14.3.0-lib", None),
            ("gcc-14-base", None),
            ("gcc", Some("compiler")),
            ("go-1.24.2", Some("compiler")),
            ("go-md2man-2.0", None),
            ("stdenv-linux", Some("compiler")),
            ("cmake-3.31.7", Some("compiler")),
            ("ninja-1.12", Some("compiler")),
            ("openssl-3.4.1-dev", Some("headers")),
            ("linux-headers-6.12", Some("headers")),
            ("openssl-3.4.1", None),
            ("openssl-3.4.1-doc", Some("documentation")),
            ("glibc-2.40-debug", Some("debug")),
            ("hello-2.12.tar.gz", Some("source")),
            ("hello-2.12.drv", Some("source")),
            ("nodejs-22.1.0", None),
        ] {
            let path = format!("{}-{name}", "x".repeat(32));
            let kind = build_only(&path);
            let first = kind.map(|kind| kind.split(' ').find(|word| word.len() > 1).unwrap());
            assert_eq!(first, expected, "{name}");
        }
    }

    #[test]
    fn a_root_is_never_build_only_and_the_rest_is_sorted_by_size() {
        let closure = sample();
        assert_eq!(closure.by_size(), [2, 1, 0, 3]);
        assert_eq!(closure.build_only(), [(2, "a compiler or build tool")]);
        let alone = Closure::new(["x-gcc"], [("x-gcc".to_string(), 1, Vec::new())]);
        assert_eq!(alone.build_only(), []);
    }

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        for (count, text) in [
            (0, "0 bytes"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (57_123_456, "57.1 MB"),
            (999_960_000, "1.0 GB"),
            (1_020_000_000, "1.0 GB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn a_path_is_found_by_its_path_a_file_in_it_its_name_or_a_part_of_that() {
        let closure = sample();
        let gcc = &closure.paths()[2].path;
        let store = SeenStore::new("/nix/store");
        for wanted in [
            gcc.clone(),
            format!("/nix/store/{gcc}"),
            format!("/nix/store/{gcc}/bin/cc"),
            "gcc-14.3.0".to_string(),
            "gcc".to_string(),
            "cc-14".to_string(),
        ] {
            assert_eq!(closure.find(&store, &wanted), [2], "{wanted}");
        }
        assert_eq!(closure.find(&store, "perl"), [] as [Index; 0]);
        assert_eq!(closure.find(&store, ""), [] as [Index; 0]);
        assert_eq!(closure.referrers(0), [1, 2, 3]);
    }
}
