//! Settings of Hydra: which one, which job and revision, and how long to wait.

use super::HydraSettings;
use super::caches::cache_url;
use super::read::{Get, Invalid, Slip, Values};
use http_client::{Endpoint, redact_url};
use hydra::{Job, Revision};
use std::time::Duration;
use url::Url;

/// Variables in which platforms name the revision that they build: Heroku and Scalingo, Dokku,
/// GitHub's and GitLab's runners.
const REVISION_VARIABLES: [&str; 4] = ["SOURCE_VERSION", "GIT_REV", "GITHUB_SHA", "CI_COMMIT_SHA"];

pub(super) fn job(value: &str) -> Result<Option<Job>, Invalid> {
    value.parse().map(Some).map_err(|()| {
        let shown = redact_url(value);
        let slip = Url::parse(value).ok().and_then(|url| page(&url));
        Invalid { shown, slip }
    })
}

pub(super) fn url(value: &str) -> Result<Option<Endpoint>, Invalid> {
    let url = cache_url(value)?.endpoint;
    if url.base.scheme() == "file" {
        return Err(Invalid::new(value));
    }
    Ok(Some(url))
}

/// Recognises the URL of a page in Hydra's web interface, by the routes of its controllers.
/// A longer path is something else, such as an artifact in Jenkins.
pub(super) fn page(url: &Url) -> Option<Slip> {
    let segments: Vec<&str> = url
        .path_segments()?
        .filter(|part| !part.is_empty())
        .collect();
    let is_number = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    let is_page = |at: &usize| match segments[*at..] {
        ["jobset", _, _] | ["job", _, _, _] => true,
        ["job", _, _, _, shown] => matches!(shown, "latest" | "latest-finished" | "all"),
        ["build" | "eval", number] => is_number(number),
        _ => false,
    };
    let start = (0..segments.len()).find(is_page)?;
    let mut hydra = url.clone();
    hydra.set_path(&segments[..start].join("/"));
    hydra.set_query(None);
    hydra.set_fragment(None);
    let job = match segments[start..] {
        ["job", project, jobset, job, ..] => format!("{project}/{jobset}/{job}").parse().ok(),
        _ => None,
    };
    let hydra = redact_url(hydra.as_str());
    Some(Slip::HydraPage {
        hydra: hydra.trim_end_matches('/').to_string(),
        job,
    })
}

fn is_hash(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_hexdigit())
}

pub(super) fn revision(value: &str) -> Result<Option<String>, Invalid> {
    let name = value.to_ascii_lowercase();
    if is_hash(&name) || name == "latest" {
        Ok(Some(name))
    } else {
        Err(Invalid::new(value))
    }
}

/// Takes minutes, or a time with units. Months cannot be meant, so `10M` is ten minutes.
pub(super) fn wait(value: &str) -> Result<Duration, Invalid> {
    let text = match value.trim_end_matches(|c: char| c.is_ascii_digit()) {
        "" => format!("{value}m"),
        _ => value.to_ascii_lowercase(),
    };
    humantime::parse_duration(&text).map_err(|_| Invalid::new(value))
}

/// What follows from the settings together, and from the platform's variables.
pub(super) fn settings(values: &mut Values, get: &Get) -> HydraSettings {
    let user_s = values.revision.take().map(|name| Revision {
        name,
        from: "NIX_REVISION".to_string(),
    });
    HydraSettings {
        job: values.job.clone(),
        url: values.hydra_url.take(),
        revision: user_s.or_else(|| platform_s_revision(get)),
        input: values.input.take(),
        wait: values.wait,
        inputs: values.inputs,
    }
}

/// A platform's variable may also hold a tag or a branch, which is passed over.
fn platform_s_revision(get: &Get) -> Option<Revision> {
    REVISION_VARIABLES.iter().find_map(|from| {
        let name = get(from)?.trim().to_ascii_lowercase();
        is_hash(&name).then(|| Revision {
            name,
            from: (*from).to_string(),
        })
    })
}
