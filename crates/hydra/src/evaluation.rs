//! The evaluation that has a revision as an input, and waiting for it.

use crate::api::{Evaluation, Evaluations, InputRevision, Jobset};
use crate::error::{DeployError, Newest, NotEvaluated};
use crate::wait::{Say, Wait, since};
use crate::{Hydra, HydraError, Job, Revision, jobset_path, segment};

/// Pages of evaluations that are searched for a revision: 20 evaluations each.
const PAGES: u64 = 25;

/// The same where the newest evaluation will do as well: older ones have other inputs anyway.
const RECENT_PAGES: u64 = 5;

/// Evaluations that are looked at by their numbers, since Hydra lists none without new builds.
const UNLISTED: u64 = 100;

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
    let mut pages = PAGES;
    let mut first_look = None;
    let mut times_fetched = 0;
    loop {
        let found = wait.ask(say, || {
            find_evaluation(hydra, job, &revision.name, input, pages)
        })?;
        let (looked_at, newest) = match found {
            Search::Found(evaluation, before) => return Ok((evaluation, before)),
            Search::Missing { looked_at, newest } => (looked_at, newest),
        };
        // A new evaluation appears on the first page.
        pages = 1;
        let looked_at = *first_look.get_or_insert(looked_at);
        if let Some(newest) = &newest
            && let Some(unlisted) = find_unlisted(hydra, newest, &revision.name)
        {
            say(&format!(
                "Evaluation {unlisted} has revision {} and brought no new builds: it built the same as \
                 evaluation {}",
                short(&revision.name),
                newest.id
            ));
            return Ok((newest.clone(), None));
        }
        let jobset: Jobset = wait.ask(say, || hydra.get(&jobset_path(job)))?;
        // Hydra fetches before it evaluates, so what it has fetched while it is idle is evaluated. The
        // second look is for an evaluation that ended between two requests.
        let newest = newest.as_ref();
        let is_fetched = jobset.is_idle()
            && newest.is_some_and(|newest| has_fetched(hydra, newest, revision, input));
        times_fetched = if is_fetched { times_fetched + 1 } else { 0 };
        let may_wait = jobset.enabled != Some(0) && times_fetched < 2;
        if may_wait
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
            newest: newest.map(Newest::of),
            waited: wait.waited(),
            doing: in_words(&jobset),
            disabled: jobset.enabled == Some(0),
            fetched: is_fetched,
            error: error.map(|error| excerpt(&error)),
        })));
    }
}

/// Looks for an evaluation of the same flake as `newest`, with `revision`, among those after `newest`
/// that Hydra does not list because they brought no new builds. Returns its number.
///
/// The numbers are one sequence for all jobsets of a Hydra, with gaps.
fn find_unlisted(hydra: &mut Hydra, newest: &Evaluation, revision: &str) -> Option<u64> {
    let flake = newest.flake_source()?;
    let mut missing = 0;
    for number in newest.id + 1..=newest.id + UNLISTED {
        let evaluation: Evaluation = match hydra.get(&format!("eval/{number}")) {
            Ok(evaluation) => evaluation,
            Err(_) if missing == 3 => return None,
            Err(_) => {
                missing += 1;
                continue;
            }
        };
        missing = 0;
        let is_same = evaluation.flake_source() == Some(flake);
        if is_same && evaluation.flake_revision()?.starts_with(revision) {
            return Some(number);
        }
    }
    None
}

/// Whether Hydra has fetched `revision` for an input, though no evaluation has it: it brought no new
/// builds. Source: `scmdiff` of Hydra's `Controller/API.pm`, whose answer is blank for a revision
/// that Hydra does not have.
fn has_fetched(
    hydra: &mut Hydra,
    newest: &Evaluation,
    revision: &Revision,
    input: Option<&str>,
) -> bool {
    let mut diffs = newest
        .inputs
        .iter()
        .filter(|(name, _)| input.is_none_or(|input| input == name.as_str()))
        .filter(|(_, input)| input.kind == "git")
        .filter_map(|(_, input)| input.uri.as_deref().zip(input.revision.as_deref()))
        .take(DIFFS)
        .map(|(uri, known)| -> Result<String, HydraError> {
            hydra.text(&format!(
                "api/scmdiff?type=git&branch=&uri={}&rev1={}&rev2={}",
                segment(uri),
                segment(known),
                segment(&revision.name)
            ))
        });
    diffs.any(|diff| diff.is_ok_and(|diff| !diff.trim().is_empty()))
}

/// What Hydra does about a jobset at the moment.
fn in_words(jobset: &Jobset) -> String {
    match (jobset.starttime, jobset.lastcheckedtime) {
        (Some(start), _) => format!("Hydra is evaluating for {}", since(start)),
        (None, _) if jobset.fetcherrormsg.is_some() => "Hydra cannot fetch an input".to_string(),
        (None, Some(checked)) => {
            format!("Hydra last looked at the jobset {} ago", since(checked))
        }
        (None, None) => "Hydra has never looked at the jobset".to_string(),
    }
}

/// Hydra's error about the jobset's last evaluation: of one job, or of the whole.
pub(crate) fn evaluation_error(hydra: &mut Hydra, job: &Job, of: Option<&str>) -> Option<String> {
    let path = format!("{}/errors", jobset_path(job));
    let jobset: Jobset = hydra.get(&path).ok()?;
    job_error(&jobset.errormsg?, of)
}

/// The error about `job` in a jobset's errors; about the whole, or else the first, if none is named.
/// Format: `hydra-eval-jobset` writes `in job ‘name’:` or `at top-level:` before each.
fn job_error(errors: &str, job: Option<&str>) -> Option<String> {
    let errors = errors.trim();
    if errors.is_empty() {
        return None;
    }
    let heading = job.map_or_else(
        || "at top-level:".to_string(),
        |job| format!("in job ‘{job}’:"),
    );
    let start = match (errors.find(&heading), job) {
        (Some(start), _) => start + heading.len(),
        (None, Some(_)) => return None,
        (None, None) => 0,
    };
    let rest = &errors[start..];
    let next = ["\n\nin job ‘", "\n\nat top-level:"];
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
        assert_eq!(job_error("\n", None), None);
    }
}
