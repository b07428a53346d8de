//! The difference between the closures of two releases, by package.

use crate::closure::{Closure, Member, bytes, name};
use crate::package_name::PackageName;
use std::collections::{BTreeMap, BTreeSet};

/// How many lines a kind of change has; the rest are counted.
const SHOWN: usize = 20;

/// The paths that only one of two closures has, by what became of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub updated: Vec<Update>,
    /// Paths of the same name and version with another hash.
    pub rebuilt: usize,
    /// Names with their versions.
    pub new: Vec<String>,
    pub gone: Vec<String>,
    /// The size of both closures, in bytes.
    pub before: u64,
    pub after: u64,
}

/// A package that has another version.
#[derive(Debug, PartialEq, Eq)]
pub struct Update {
    /// With its output, if it is not `out`.
    pub package: String,
    pub from: String,
    pub to: String,
    /// Bytes before and after.
    pub size: (u64, u64),
}

impl Changes {
    /// Compares two closures. Of paths with the same package and output, those that only one side has
    /// are paired in the order of their versions.
    pub fn between(before: &Closure, after: &Closure) -> Self {
        let mut changes = Self {
            before: before.size(),
            after: after.size(),
            ..Self::default()
        };
        let named = |member: &&Member| name(&member.path).to_string();
        let (old, mut new) = (only_in(before, after), only_in(after, before));
        for (package, old) in old {
            let mut new = new.remove(&package).unwrap_or_default();
            let mut old = old;
            old.retain(|member| {
                let same = new
                    .iter()
                    .position(|other| name(&other.path) == name(&member.path));
                if let Some(same) = same {
                    new.remove(same);
                    changes.rebuilt += 1;
                }
                same.is_none()
            });
            let pairs = old.len().min(new.len());
            for (old, new) in old.iter().zip(&new) {
                changes.updated.push(update(package, old, new));
            }
            changes.gone.extend(old[pairs..].iter().map(named));
            changes.new.extend(new[pairs..].iter().map(named));
        }
        changes.new.extend(new.values().flatten().map(named));
        changes.new.sort();
        changes
    }

    pub fn is_empty(&self) -> bool {
        self.updated.is_empty() && self.rebuilt == 0 && self.new.is_empty() && self.gone.is_empty()
    }

    /// The changes in words: the sum first, then a line for each package that was updated, is new or is gone.
    pub fn lines(&self) -> Vec<String> {
        if self.is_empty() {
            return vec!["The same store paths".to_string()];
        }
        let counts = [
            (self.updated.len(), "updated"),
            (self.rebuilt, "rebuilt"),
            (self.new.len(), "new"),
            (self.gone.len(), "gone"),
        ];
        let counts = counts.into_iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        let mut lines = vec![format!(
            "{} ({}): {}",
            bytes(self.after),
            grown(self.before, self.after),
            counts.join(", ")
        )];
        let updated = self.updated.iter().map(|update| {
            let (from, to) = update.size;
            format!(
                "{} {} → {}, {}",
                update.package,
                update.from,
                update.to,
                grown(from, to)
            )
        });
        let new = self.new.iter().map(|name| format!("{name} is new"));
        let gone = self.gone.iter().map(|name| format!("{name} is gone"));
        for kind in [updated.collect::<Vec<_>>(), new.collect(), gone.collect()] {
            lines.extend(words::first(&kind, SHOWN));
        }
        lines
    }
}

/// The paths that `other` does not have, by package and output, in the order of their names.
pub(crate) fn only_in<'a>(
    closure: &'a Closure,
    other: &Closure,
) -> BTreeMap<(&'a str, Option<&'a str>), Vec<&'a Member>> {
    let others: BTreeSet<&str> = other
        .paths()
        .iter()
        .map(|path| path.path.as_str())
        .collect();
    let mut packages: BTreeMap<_, Vec<&Member>> = BTreeMap::new();
    for member in closure.paths() {
        if !others.contains(member.path.as_str()) {
            let package = PackageName::parse(name(&member.path));
            packages
                .entry((package.name, package.output))
                .or_default()
                .push(member);
        }
    }
    for members in packages.values_mut() {
        members.sort_by_key(|member| name(&member.path));
    }
    packages
}

fn update((package, output): (&str, Option<&str>), old: &Member, new: &Member) -> Update {
    let version = |member: &Member| {
        let version = PackageName::parse(name(&member.path)).version;
        version.unwrap_or("without a version").to_string()
    };
    Update {
        package: match output {
            Some(output) => format!("{package} ({output})"),
            None => package.to_string(),
        },
        from: version(old),
        to: version(new),
        size: (old.size, new.size),
    }
}

/// `+3.1 MB`, `-200 bytes`.
fn grown(before: u64, after: u64) -> String {
    if after >= before {
        format!("+{}", bytes(after - before))
    } else {
        format!("-{}", bytes(before - after))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A closure of these names, each with a letter for its hash and a size.
    fn closure(paths: &[(char, &str, u64)]) -> Closure {
        let base = |letter: char, name: &str| format!("{}-{name}", letter.to_string().repeat(32));
        let root = base(paths[0].0, paths[0].1);
        let paths = paths.iter();
        Closure::new(
            [root.as_str()],
            paths.map(|(letter, name, size)| (base(*letter, name), *size, Vec::new())),
        )
    }

    #[test]
    fn a_release_tells_its_changes_by_package() {
        let before = closure(&[
            ('a', "myapp-1.0", 5_000),
            ('b', "openssl-3.0.20", 7_000_000),
            ('c', "openssl-3.0.20-bin", 900_000),
            ('d', "zlib-1.3", 130_000),
            ('e', "perl-5.40", 60_000_000),
            ('f', "config", 10),
        ]);
        let after = closure(&[
            ('g', "myapp-1.1", 5_500),
            ('h', "openssl-3.0.22", 10_100_000),
            ('i', "openssl-3.0.22-bin", 900_000),
            ('j', "zlib-1.3", 130_000),
            ('k', "brotli-1.2", 2_000_000),
            ('l', "xz-5.8", 1_000_000),
            ('f', "config", 10),
        ]);
        insta::assert_snapshot!(Changes::between(&before, &after).lines().join("\n"), @r"
        14.1 MB (-53.9 MB): 3 updated, 1 rebuilt, 2 new, 1 gone
        myapp 1.0 → 1.1, +500 bytes
        openssl 3.0.20 → 3.0.22, +3.1 MB
        openssl (bin) 3.0.20 → 3.0.22, +0 bytes
        brotli-1.2 is new
        xz-5.8 is new
        perl-5.40 is gone
        ");
    }

    #[test]
    fn the_same_closure_has_no_changes() {
        let same = closure(&[('a', "myapp-1.0", 5_000)]);
        assert!(Changes::between(&same, &same).is_empty());
        assert_eq!(
            Changes::between(&same, &same).lines(),
            ["The same store paths"]
        );
    }

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names: Vec<String> = (0..30).map(|number| format!("tool-{number}")).collect();
        let many: Vec<_> = names.iter().map(|name| ('b', name.as_str(), 1)).collect();
        let before = closure(&[('a', "myapp-1.0", 1)]);
        let lines = Changes::between(&before, &closure(&many)).lines();
        assert!(lines.contains(&"… and 10 more".to_string()), "{lines:?}");
    }
}
