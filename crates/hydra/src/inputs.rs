//! A jobset's inputs beside `NIX_PATH`, so that `<nixpkgs>` is what Hydra used.

use crate::api::{Evaluation, Input};
use crate::error::DeployError;
use crate::evaluation::evaluation_at;
use crate::{Hydra, Job};
use http_client::without_credentials;

/// A jobset's inputs as entries of `NIX_PATH`.
#[derive(Debug)]
pub struct Inputs {
    /// The evaluation that they are of.
    pub evaluation: u64,
    /// Whether this evaluation has the revision that was looked for.
    pub has_revision: bool,
    pub entries: Vec<Entry>,
    /// Inputs that cannot be fetched.
    pub left_out: Vec<LeftOut>,
}

/// A name in angle brackets, and the URL that Nix fetches for it.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub url: String,
}

/// An input that cannot be fetched, and its type.
#[derive(Debug)]
pub struct LeftOut {
    pub name: String,
    pub kind: String,
}

impl Inputs {
    /// Lines of the log about them. `revision` is the one that was looked for.
    pub fn lines(&self, revision: Option<&str>) -> Vec<String> {
        let which = match (revision, self.has_revision) {
            (Some(revision), true) => format!("which has revision {revision}"),
            (Some(revision), false) => format!("the newest: none has revision {revision}"),
            (None, _) => "the newest".to_string(),
        };
        let mut lines = vec![format!(
            "Beside NIX_PATH, using the inputs of evaluation {}, {which}",
            self.evaluation
        )];
        let entries = self.entries.iter();
        lines.extend(
            entries.map(|Entry { name, url }| format!("<{name}> is {}", without_credentials(url))),
        );
        lines.extend(self.left_out.iter().map(|LeftOut { name, kind }| {
            format!("<{name}> is left out: its type, {kind}, or its URL cannot be fetched here")
        }));
        lines
    }

    /// The entries as options of Nix, `name=URL`, without the names in the user's own `NIX_PATH`: an
    /// option would take precedence over it.
    pub fn lookups(&self, nix_path: Option<&str>) -> Vec<String> {
        let entries = nix_path.unwrap_or_default().split(':');
        let own: Vec<&str> = entries
            .filter_map(|entry| Some(entry.split_once('=')?.0))
            .collect();
        self.entries
            .iter()
            .filter(|entry| !own.contains(&entry.name.as_str()))
            .map(|Entry { name, url }| format!("{name}={url}"))
            .collect()
    }
}

/// The inputs of the evaluation that has `revision`, else of the newest one. None if the jobset has
/// no evaluation.
pub fn find(
    hydra: &mut Hydra,
    job: &Job,
    revision: Option<&str>,
    input: Option<&str>,
) -> Result<Option<Inputs>, DeployError> {
    let (evaluation, looked_at) = evaluation_at(hydra, job, revision, input)?;
    let has_revision = revision.is_some() && looked_at.is_none();
    Ok(evaluation.map(|evaluation| of(&evaluation, has_revision)))
}

fn of(evaluation: &Evaluation, has_revision: bool) -> Inputs {
    let mut entries = Vec::new();
    let mut left_out = Vec::new();
    for (name, input) in &evaluation.inputs {
        match url(input) {
            Some(url) => entries.push(Entry {
                name: name.clone(),
                url,
            }),
            // Values are arguments of the expression, and never were in Hydra's own path.
            None if matches!(input.kind.as_str(), "string" | "boolean" | "nix") => {}
            None => left_out.push(LeftOut {
                name: name.clone(),
                kind: input.kind.clone(),
            }),
        }
    }
    Inputs {
        evaluation: evaluation.id,
        has_revision,
        entries,
        left_out,
    }
}

/// Where Nix fetches the tree that Hydra checked out: the archive where the host makes one, whose
/// tree is the checkout's; else the repository.
fn url(input: &Input) -> Option<String> {
    if input.kind != "git" {
        return None;
    }
    let revision = input.revision.as_deref()?;
    let uri = input.uri.as_deref()?.trim_end_matches('/');
    let uri = uri.strip_suffix(".git").unwrap_or(uri);
    let on = |host: &str| {
        let rest = uri
            .strip_prefix("https://")
            .or_else(|| uri.strip_prefix("http://"))
            .or_else(|| uri.strip_prefix("git://"))?;
        let path = rest.strip_prefix(host)?.strip_prefix('/')?;
        (path.split('/').count() >= 2).then_some(path)
    };
    if let Some(path) = on("github.com") {
        return Some(format!(
            "https://github.com/{path}/archive/{revision}.tar.gz"
        ));
    }
    if let Some(path) = on("gitlab.com") {
        return Some(format!(
            "https://gitlab.com/{path}/-/archive/{revision}.tar.gz"
        ));
    }
    let uri = input.uri.as_deref()?;
    if !(uri.starts_with("https://") || uri.starts_with("http://")) {
        return None;
    }
    // A revision need not be on the default branch.
    Some(format!("flake:git+{uri}?rev={revision}&allRefs=1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkout_is_fetched_as_the_archive_of_its_host_or_by_git() {
        let revision = "84a3aecb1d976366060d0f0fd4df7d67b0855f5e";
        for (kind, uri, expected) in [
            (
                "git",
                "https://github.com/NixOS/nixpkgs.git",
                Some("https://github.com/NixOS/nixpkgs/archive/REV.tar.gz"),
            ),
            (
                "git",
                "https://gitlab.com/acme/tools/lib",
                Some("https://gitlab.com/acme/tools/lib/-/archive/REV.tar.gz"),
            ),
            (
                "git",
                "https://git.acme.net/lib.git",
                Some("flake:git+https://git.acme.net/lib.git?rev=REV&allRefs=1"),
            ),
            ("git", "git@github.com:acme/lib", None),
            ("hg", "https://hg.acme.net/lib", None),
        ] {
            let input = Input {
                kind: kind.to_string(),
                uri: Some(uri.to_string()),
                revision: Some(revision.to_string()),
            };
            let expected = expected.map(|url| url.replace("REV", revision));
            assert_eq!(url(&input), expected, "{uri}");
        }
    }
}
