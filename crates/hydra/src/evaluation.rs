//! The evaluation that has a revision as an input, and waiting for it.

use crate::api::{Evaluation, Evaluations, InputRevision, Jobset};
use crate::error::{DeployError, Fetched, Newest, NotEvaluated};
use crate::wait::{Say, Wait, since};
use crate::{Hydra, Job, Revision, jobset_path, segment};
use std::collections::BTreeSet;

/// Pages of evaluations that are searched for a revision: 20 evaluations each.
const PAGES: u64 = 25;

/// The same where the newest evaluation will do as well: older ones have other inputs anyway.
const RECENT_PAGES: u64 = 5;

/// Evaluations that are looked at by their numbers at a time, since Hydra lists none without new builds.
const UNLISTED: u64 = 100;

/// Numbers in a row that no evaluation has, before the last one is taken to be reached.
const MISSING: u64 = 3;

/// Inputs for which Hydra is asked whether it has fetched a revision.
const DIFFS: usize = 3;

/// The revision to deploy, and where it is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub job: &'a Job,
    pub revision: &'a Revision,
    /// `NIX_HYDRA_INPUT`.
    pub input: Option<&'a str>,
    /// Nix's name of the image's system.
    pub system: &'a str,
}

/// The result of a search for a revision.
#[derive(Debug)]
enum Search {
    /// The newest evaluation that has it, and the one before on the same page that has it as well.
    Found(Evaluation, Option<Evaluation>),
    /// None of `looked_at` evaluations has it; the newest of them.
    Missing {
        looked_at: usize,
        newest: Option<Evaluation>,
    },
}

/// Searches the newest `pages` pages of evaluations for `revision`, which may be the beginning of one.
fn find_evaluation(
    hydra: &mut Hydra,
    job: &Job,
    revision: &str,
    input: Option<&str>,
    pages: u64,
) -> Result<Search, DeployError> {
    let mut looked_at = 0;
    let mut newest = None;
    for number in 1..=pages {
        let path = format!("{}/evals?page={number}", jobset_path(job));
        let page: Evaluations = hydra.get(&path)?;
        looked_at += page.evals.len();
        if newest.is_none() {
            newest = page.evals.first().cloned();
            check_input(input, newest.as_ref())?;
        }
        let mut evaluations = page.evals.into_iter();
        while let Some(evaluation) = evaluations.next() {
            let mut candidates = evaluation.revisions_at(revision, input);
            let Some(first) = candidates.first().cloned() else {
                continue;
            };
            if candidates
                .iter()
                .any(|other| other.revision != first.revision)
            {
                candidates.sort();
                return Err(DeployError::Ambiguous {
                    revision: revision.to_string(),
                    candidates,
                });
            }
            let before = evaluations.find(|other| {
                let mut revisions = other.revisions_at(revision, input).into_iter();
                revisions.any(|other| other.revision == first.revision)
            });
            return Ok(Search::Found(evaluation, before));
        }
        if page.next.is_none() {
            break;
        }
    }
    Ok(Search::Missing { looked_at, newest })
}

/// The evaluation that has `revision`, else the newest one, with the number of those that were searched for
/// the revision in vain.
pub fn evaluation_at(
    hydra: &mut Hydra,
    job: &Job,
    revision: Option<&str>,
    input: Option<&str>,
) -> Result<(Option<Evaluation>, Option<usize>), DeployError> {
    let Some(revision) = revision else {
        let path = format!("{}/evals?page=1", jobset_path(job));
        let page: Evaluations = hydra.get(&path)?;
        return Ok((page.evals.into_iter().next(), None));
    };
    Ok(
        match find_evaluation(hydra, job, revision, input, RECENT_PAGES)? {
            Search::Found(evaluation, _) => (Some(evaluation), None),
            Search::Missing { looked_at, newest } => (newest, Some(looked_at)),
        },
    )
}

/// Checks that the newest evaluation has the input that the user names.
fn check_input(input: Option<&str>, newest: Option<&Evaluation>) -> Result<(), DeployError> {
    match (input, newest) {
        (Some(input), Some(newest)) if input != "flake" && !newest.inputs.contains_key(input) => {
            Err(DeployError::NoInput {
                input: input.to_string(),
                inputs: newest.inputs.keys().cloned().collect(),
            })
        }
        _ => Ok(()),
    }
}

/// What the looks for a revision have shown so far.
#[derive(Debug, Default)]
struct Looks {
    /// How many evaluations the first searched, which reads all pages.
    looked_at: Option<usize>,
    /// When Hydra had last looked at the jobset, as of the first.
    last_check: Option<u64>,
    /// Whether Hydra had fetched the revision, as of the last.
    fetched: Option<Fetched>,
    /// Numbers of unlisted evaluations that are of another jobset or revision.
    others: BTreeSet<u64>,
}

impl Looks {
    /// Whether Hydra has fetched the revision, and will not evaluate it any more.
    fn are_final(
        &mut self,
        hydra: &mut Hydra,
        target: &Target,
        jobset: &Jobset,
        newest: Option<&Evaluation>,
    ) -> bool {
        // Another jobset of the same repository may have fetched it, so Hydra is to look at this one
        // first.
        let is_checked =
            jobset.checkinterval == Some(0) || jobset.lastcheckedtime != self.last_check;
        let fetched = newest
            .filter(|_| is_checked && jobset.is_idle() && jobset.fetcherrormsg.is_none())
            .and_then(|newest| has_fetched(hydra, target, newest));
        // The second look is for an evaluation that ended between two requests.
        let is_final = fetched.is_some() && self.fetched.is_some();
        self.fetched = fetched;
        is_final
    }
}

/// Waits for an evaluation of the target's revision. Returns with it an older one of the same revision.
pub(crate) fn wait_for_evaluation(
    hydra: &mut Hydra,
    target: &Target,
    wait: &mut Wait,
    say: &mut Say,
) -> Result<(Evaluation, Option<Evaluation>), DeployError> {
    let Target {
        job,
        revision,
        input,
        ..
    } = *target;
    let mut looks = Looks::default();
    loop {
        // A new evaluation appears on the first page.
        let pages = if looks.looked_at.is_none() { PAGES } else { 1 };
        let found = wait.ask(say, || {
            find_evaluation(hydra, job, &revision.name, input, pages)
        })?;
        let (count, newest) = match found {
            Search::Found(evaluation, before) => return Ok((evaluation, before)),
            Search::Missing { looked_at, newest } => (looked_at, newest),
        };
        let jobset: Jobset = wait.ask(say, || hydra.get(&jobset_path(job)))?;
        let looked_at = *looks.looked_at.get_or_insert_with(|| {
            looks.last_check = jobset.lastcheckedtime;
            count
        });
        let job = &job.in_jobset(jobset.name.as_deref());
        if let Some(newest) = &newest
            && let Some(unlisted) =
                find_unlisted(hydra, job, newest, &revision.name, &mut looks.others)
        {
            say(&format!(
                "Evaluation {unlisted} has revision {} and brought no new builds: it built the same as \
                 evaluation {}",
                short(&revision.name),
                newest.id
            ));
            return Ok((newest.clone(), None));
        }
        let is_final = looks.are_final(hydra, target, &jobset, newest.as_ref());
        if jobset.enabled != Some(0)
            && !is_final
            && wait.pause(say, || {
                let short = short(&revision.name);
                format!(
                    "Revision {short} is not evaluated yet: {}",
                    in_words(&jobset)
                )
            })
        {
            continue;
        }
        let fetch_error = jobset.fetcherrormsg.clone();
        let error = fetch_error.or_else(|| evaluation_error(hydra, job, None));
        return Err(DeployError::NotEvaluated(Box::new(NotEvaluated {
            revision: revision.clone(),
            page: hydra.page(&jobset_path(job)),
            job: job.clone(),
            input: input.map(str::to_string),
            looked_at,
            newest: newest.as_ref().map(Newest::of),
            waited: wait.waited(),
            doing: in_words(&jobset),
            disabled: jobset.enabled == Some(0),
            fetched: looks.fetched,
            error: error.map(|error| excerpt(&error)),
        })));
    }
}

/// Looks for an evaluation of the job's jobset with `revision` among those after `newest` that Hydra
/// does not list because they brought no new builds. Returns its number. Only those of flakes have a
/// revision. `others` are passed over, and added to.
///
/// The numbers are one sequence for all jobsets of a Hydra. One that is missing may appear later.
fn find_unlisted(
    hydra: &mut Hydra,
    job: &Job,
    newest: &Evaluation,
    revision: &str,
    others: &mut BTreeSet<u64>,
) -> Option<u64> {
    let flake = newest.flake_source()?;
    let mut asked = 0;
    let mut missing = 0;
    for number in newest.id + 1.. {
        if others.contains(&number) {
            missing = 0;
            continue;
        }
        if asked == UNLISTED || missing > MISSING {
            break;
        }
        asked += 1;
        let page = format!("eval/{number}");
        let Ok(evaluation) = hydra.get::<Evaluation>(&page) else {
            missing += 1;
            continue;
        };
        missing = 0;
        let has_revision = evaluation.flake_source() == Some(flake)
            && evaluation
                .flake_revision()
                .is_some_and(|found| found.starts_with(revision));
        if has_revision && evaluation.hasnewbuilds != Some(0) {
            // It came about since the list was read, and is in the next.
            return None;
        }
        // Another jobset may have the same flake. Only the page for people names the jobset.
        let link = format!("/{}\"", jobset_path(job));
        if has_revision && hydra.html(&page).is_some_and(|page| page.contains(&link)) {
            return Some(number);
        }
        others.insert(number);
    }
    None
}

/// Whether Hydra has fetched `revision` for an input and evaluated what it fetched, though no evaluation
/// that it lists has it.
fn has_fetched(hydra: &mut Hydra, target: &Target, newest: &Evaluation) -> Option<Fetched> {
    if evaluation_error(hydra, target.job, None).is_some() {
        return None;
    }
    newest
        .inputs
        .iter()
        .filter(|(name, _)| target.input.is_none_or(|input| input == name.as_str()))
        .filter(|(_, input)| input.kind == "git")
        .filter_map(|(_, input)| input.uri.as_deref().zip(input.revision.as_deref()))
        .take(DIFFS)
        .find_map(|(uri, known)| {
            let path = format!(
                "api/scmdiff?type=git&branch=&uri={}&rev1={}&rev2={}",
                segment(uri),
                segment(known),
                segment(&target.revision.name)
            );
            Fetched::of(&hydra.text(&path).ok()?)
        })
}

impl Fetched {
    /// Reads the answer of `scmdiff` of Hydra's `Controller/API.pm`: the commits between the newest
    /// evaluation's revision and another, and the difference of their files. It is blank for a
    /// revision that Hydra does not have.
    fn of(diff: &str) -> Option<Self> {
        match diff.trim_start() {
            "" => None,
            text if text.starts_with("commit ") => Some(Self::After),
            _ => Some(Self::Before),
        }
    }
}

/// What Hydra does about a jobset at the moment.
fn in_words(jobset: &Jobset) -> String {
    if let Some(start) = jobset.starttime {
        format!("Hydra is evaluating for {}", since(start))
    } else if jobset.fetcherrormsg.is_some() {
        "Hydra cannot fetch an input".to_string()
    } else if let Some(triggered) = jobset.triggertime {
        format!(
            "Hydra was told to evaluate the jobset {} ago",
            since(triggered)
        )
    } else if let Some(checked) = jobset.lastcheckedtime {
        format!("Hydra last looked at the jobset {} ago", since(checked))
    } else {
        "Hydra has never looked at the jobset".to_string()
    }
}

/// Hydra's error about the jobset's last evaluation: of one job, or of the whole.
pub(crate) fn evaluation_error(hydra: &mut Hydra, job: &Job, of: Option<&str>) -> Option<String> {
    let path = format!("{}/errors", jobset_path(job));
    let jobset: Jobset = hydra.get(&path).ok()?;
    job_error(&jobset.errormsg?, of)
}

/// The error about `job` in a jobset's errors, or about the whole if none is named.
/// Format: `hydra-eval-jobset` writes `in job ‘name’:` or `at top-level:` before each error of an
/// evaluation, and nothing before the error of an evaluation that did not come about.
fn job_error(errors: &str, job: Option<&str>) -> Option<String> {
    const JOB: &str = "in job ‘";
    const TOP: &str = "at top-level:";
    let errors = errors.trim();
    let heading = job.map_or_else(|| TOP.to_string(), |job| format!("{JOB}{job}’:"));
    let start = match errors.find(&heading) {
        Some(start) => start + heading.len(),
        None if job.is_some() || errors.is_empty() || errors.starts_with(JOB) => return None,
        None => 0,
    };
    let rest = &errors[start..];
    let next = [JOB, TOP].map(|heading| format!("\n\n{heading}"));
    let end = next.iter().filter_map(|heading| rest.find(heading)).min();
    Some(rest[..end.unwrap_or(rest.len())].trim().to_string())
}

/// The last lines of an error, which have its cause.
pub(crate) fn excerpt(error: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = error.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The first digits of a revision, as people write it.
pub fn short(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// `revision 84a3aecb… of input app`, for each input of the evaluation whose revision begins so.
pub(crate) fn of_input(evaluation: &Evaluation, revision: &str, input: Option<&str>) -> String {
    let texts = evaluation.revisions_at(revision, input);
    let texts: Vec<String> = texts
        .iter()
        .map(|InputRevision { input, revision }| format!("revision {revision} of input {input}"))
        .collect();
    words::list(&texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobset_s_errors_are_told_apart_by_job() {
        let errors =
            "in job ‘a’:\nerror: one\n\nmore\n\nin job ‘b’:\nerror: two\n\nat top-level:\nno";
        assert_eq!(
            job_error(errors, Some("a")).as_deref(),
            Some("error: one\n\nmore")
        );
        assert_eq!(job_error(errors, Some("b")).as_deref(), Some("error: two"));
        assert_eq!(job_error(errors, Some("c")), None);
        assert_eq!(
            job_error("at top-level:\nerror: x\n\n", None).as_deref(),
            Some("error: x")
        );
        assert_eq!(
            job_error("nix-eval-jobs returned exit code 1:\nerror: x\n", None).as_deref(),
            Some("nix-eval-jobs returned exit code 1:\nerror: x")
        );
        // The others were evaluated.
        assert_eq!(job_error("in job ‘a’:\nerror: one\n\n", None), None);
        assert_eq!(job_error("\n", None), None);
    }
}
