//! A closure in words: how large it is, what is large in it, and why each path is there.

use crate::closure::{Closure, Index, bytes, name};
use std::fmt::Write as _;

/// How many store paths a report lists.
pub(crate) const LARGEST: usize = 20;

/// The whole report, with the `count` largest paths.
pub(crate) fn report(closure: &Closure, count: usize) -> String {
    let chains = closure.chains();
    let paths = closure.paths();
    let mut text = format!(
        "{} store paths, {}. Deployed:\n\n",
        paths.len(),
        bytes(closure.size())
    );
    for root in closure.roots() {
        let _ = writeln!(text, "            /nix/store/{}", paths[*root].path);
    }
    let title = if count < paths.len() {
        "The largest"
    } else {
        "All, the largest first"
    };
    let _ = writeln!(text, "\n{title}, each with what pulls it in:\n");
    for index in closure.by_size().into_iter().take(count) {
        lines(&mut text, closure, index, &chains[index]);
    }
    let build_only = closure.build_only();
    if !build_only.is_empty() {
        text.push_str("\nRarely needed by programs when they run:\n\n");
        for (index, kind) in build_only {
            lines(&mut text, closure, index, &chains[index]);
            let _ = writeln!(text, "            which is {}", kind.words());
        }
    }
    text
}

/// A path with its size, and its chain where it has been pulled in by another.
fn lines(text: &mut String, closure: &Closure, index: Index, chain: &[Index]) {
    let path = &closure.paths()[index];
    let _ = writeln!(text, "{:>10}  /nix/store/{}", bytes(path.size), path.path);
    if chain.len() > 1 {
        let _ = writeln!(text, "            {}", closure.chain_words(chain));
    }
}

/// Why the paths that `wanted` means are in the closure; nothing where it means none.
pub(crate) fn why(closure: &Closure, wanted: &str) -> Option<String> {
    let chains = closure.chains();
    let paths = closure.paths();
    let found = closure.find(wanted);
    let explained: Vec<String> = found
        .into_iter()
        .map(|index| {
            let mut text = format!(
                "/nix/store/{}\n  {}, {} with all that it needs\n",
                paths[index].path,
                bytes(paths[index].size),
                bytes(closure.size_with_references(index))
            );
            match chains[index][..] {
                [_] => text.push_str("  It is deployed by name.\n"),
                ref chain => {
                    text.push_str("\n  The shortest way to it:\n");
                    for (depth, step) in chain.iter().enumerate() {
                        let indent = "  ".repeat(depth);
                        let _ = writeln!(text, "    {indent}/nix/store/{}", paths[*step].path);
                    }
                }
            }
            let referrers = closure.referrers(index);
            if !referrers.is_empty() {
                let names: Vec<&str> = referrers.iter().map(|at| name(&paths[*at].path)).collect();
                let _ = writeln!(text, "\n  Referred to by {}", names.join(", "));
            }
            text
        })
        .collect();
    (!explained.is_empty()).then(|| explained.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::sample;

    #[test]
    fn a_report_says_what_is_large_and_why_it_is_there() {
        insta::assert_snapshot!(report(&sample(), 2));
    }

    #[test]
    fn a_path_is_explained_from_what_is_deployed_down_to_it() {
        insta::assert_snapshot!(why(&sample(), "gcc").unwrap_or_default());
        insta::assert_snapshot!("why_a_root", why(&sample(), "myapp").unwrap_or_default());
        assert_eq!(why(&sample(), "perl"), None);
    }
}
