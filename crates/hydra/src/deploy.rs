//! From a revision to the store paths that Hydra built of it: the evaluation that has it as an
//! input, that evaluation's build of the job, and its outputs; waiting for either.

use super::api::{Build, Evaluation, Evaluations, Jobset, Step};
use super::wait::{Say, Wait, since};
use super::{Hydra, HydraError, Patience, jobset_path, segment};
use crate::revision::RevisionError;
use crate::{Job, Revision};
use nix_derivation::StorePath;
use std::time::Duration;
use words::duration;

/// Pages of evaluations that are searched for a revision: 20 evaluations each.
const PAGES: u64 = 25;

/// Lines of a failed build's log that are shown.
const LOG_LINES: usize = 20;

/// Jobs that are named where the one that was asked for is not there.
const JOBS_SHOWN: usize = 10;

/// Steps of a build that are looked at: most have a handful.
const STEPS: u64 = 50;

/// A build that Hydra finished, and where it came from.
#[derive(Debug)]
pub struct Deployed {
    pub build: Build,
    /// The outputs to deploy, the one with programs first.
    pub paths: Vec<StorePath>,
}

/// Why Hydra has nothing to deploy.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    #[error(transparent)]
    Hydra(#[from] HydraError),
    /// Nothing tells which revision is deployed.
    #[error(transparent)]
    Revision(#[from] RevisionError),
    /// No evaluation has the revision.
    #[error("Hydra has not evaluated the revision")]
    NotEvaluated(Box<NotEvaluated>),
    /// A short revision is the beginning of several: input, and revision.
    #[error("the revision {0} is the beginning of several")]
    Ambiguous(String, Vec<(String, String)>),
    /// `NIX_HYDRA_INPUT` names no input of the newest evaluation, which has these.
    #[error("the jobset has no input named {0}")]
    NoInput(String, Vec<String>),
    /// The evaluation has no such job.
    #[error("the evaluation has no such job")]
    NoJob(Box<NoJob>),
    /// Nothing of this job was ever built successfully.
    #[error("Hydra never built {0}")]
    NoLatest(Job, String),
    /// The build is not finished: what it is waiting for, and how long that was waited for.
    #[error("Hydra has not finished {page}")]
    NotFinished {
        page: String,
        doing: String,
        waited: Duration,
    },
    /// The build ended without what it should have made.
    #[error("Hydra's build failed")]
    Failed(Box<Failed>),
    /// It is for another system than the image.
    #[error("{page} is for {system}")]
    System {
        page: String,
        system: String,
        wanted: String,
    },
    /// Hydra does not tell the output path, or none that can be used.
    #[error("{0} has no output path")]
    NoOutput(String),
}

/// A revision that no evaluation has, and what is known of why.
#[derive(Debug)]
pub struct NotEvaluated {
    pub revision: Revision,
    pub page: String,
    pub job: Job,
    /// The input that was looked at, where one is named.
    pub input: Option<String>,
    /// How many evaluations were looked at.
    pub looked_at: usize,
    /// The newest of them: its number, and its inputs with their revisions.
    pub newest: Option<(u64, Vec<(String, String)>)>,
    pub waited: Duration,
    /// What Hydra does about the jobset at the moment.
    pub doing: String,
    /// The jobset is never evaluated.
    pub disabled: bool,
    /// What Hydra says of its last attempt to fetch or evaluate, where that failed.
    pub error: Option<String>,
}

/// A job that an evaluation does not have.
#[derive(Debug)]
pub struct NoJob {
    pub job: Job,
    pub page: String,
    /// The jobs that there are, as far as they are shown, and their count.
    pub jobs: Vec<String>,
    pub count: usize,
    /// What Hydra says of the job's own evaluation, where that failed.
    pub error: Option<String>,
}

/// A build that failed.
#[derive(Debug)]
pub struct Failed {
    pub job: Job,
    pub status: Option<u64>,
    pub system: String,
    pub page: String,
    pub log: String,
    /// The log's last lines, where they can be had.
    pub tail: Option<Vec<String>>,
}

/// Finds what Hydra built of `job` at `revision` for `system`, waiting as long as `patience` has it.
/// `say` is given what happens, a line at a time.
pub fn deploy(
    hydra: &mut Hydra,
    job: &Job,
    revision: &Revision,
    input: Option<&str>,
    system: &str,
    patience: Patience,
    say: &mut Say,
) -> Result<Deployed, DeployError> {
    let mut wait = Wait::new(patience);
    let build = if revision.name == "latest" {
        latest(hydra, job, input, system, say)?
    } else {
        let evaluation = wait_for_evaluation(hydra, job, revision, input, &mut wait, say)?;
        say(&format!(
            "Evaluation {} has {}",
            evaluation.id,
            of_input(&evaluation, &revision.name, input)
        ));
        wait.ask(say, || build_of(hydra, &evaluation, job))?
    };
    let build = wait_for_build(hydra, build, &mut wait, say)?;
    let page = hydra.page(&format!("build/{}", build.id));
    if build.system != system {
        return Err(DeployError::System {
            page,
            system: build.system,
            wanted: system.to_string(),
        });
    }
    if !build.succeeded() {
        return Err(failed(hydra, job, &build));
    }
    let paths = outputs(&build).ok_or(DeployError::NoOutput(page.clone()))?;
    say(&format!("Build {} succeeded: {page}", build.id));
    Ok(Deployed { build, paths })
}

/// The newest evaluation that has `revision`; where none has, the number of those that were looked
/// at, and the newest of all.
pub fn find_evaluation(
    hydra: &mut Hydra,
    job: &Job,
    revision: &str,
    input: Option<&str>,
    pages: u64,
) -> Result<Result<Evaluation, (usize, Option<Evaluation>)>, DeployError> {
    let mut looked_at = 0;
    let mut newest = None;
    for number in 1..=pages {
        let path = format!("{}/evals?page={number}", jobset_path(job));
        let page: Evaluations = hydra.get(&path)?;
        looked_at += page.evals.len();
        if newest.is_none() {
            newest = page.evals.first().cloned();
            let inputs = newest.as_ref().map(|newest| &newest.inputs);
            if let (Some(input), Some(inputs)) = (input, inputs)
                && input != "flake"
                && !inputs.contains_key(input)
            {
                let names = inputs.keys().cloned().collect();
                return Err(DeployError::NoInput(input.to_string(), names));
            }
        }
        for evaluation in page.evals {
            let names = evaluation.inputs_at(revision, input);
            let mut revisions: Vec<_> = names
                .iter()
                .filter_map(|name| {
                    Some((
                        (*name).to_string(),
                        evaluation.revision_of(name)?.to_string(),
                    ))
                })
                .collect();
            let Some((_, first)) = revisions.first().cloned() else {
                continue;
            };
            if revisions.iter().any(|(_, other)| *other != first) {
                revisions.sort();
                return Err(DeployError::Ambiguous(revision.to_string(), revisions));
            }
            return Ok(Ok(evaluation));
        }
        if page.next.is_none() {
            break;
        }
    }
    Ok(Err((looked_at, newest)))
}

fn wait_for_evaluation(
    hydra: &mut Hydra,
    job: &Job,
    revision: &Revision,
    input: Option<&str>,
    wait: &mut Wait,
    say: &mut Say,
) -> Result<Evaluation, DeployError> {
    let mut pages = PAGES;
    let mut first_look = None;
    loop {
        let found = wait.ask(say, || {
            find_evaluation(hydra, job, &revision.name, input, pages)
        })?;
        let (looked_at, newest) = match found {
            Ok(evaluation) => return Ok(evaluation),
            Err(nothing) => nothing,
        };
        // What comes later comes on the first page.
        pages = 1;
        let looked_at = *first_look.get_or_insert(looked_at);
        let jobset: Jobset = wait.ask(say, || hydra.get(&jobset_path(job)))?;
        let disabled = jobset.enabled == Some(0);
        let doing = jobset_in_words(&jobset);
        let short = short(&revision.name);
        if !disabled
            && wait.pause(say, || {
                format!("Revision {short} is not evaluated yet: {doing}")
            })
        {
            continue;
        }
        let fetch_error = jobset.fetcherrormsg.filter(|error| !error.is_empty());
        let error = fetch_error.or_else(|| evaluation_error(hydra, job, None));
        return Err(DeployError::NotEvaluated(Box::new(NotEvaluated {
            revision: revision.clone(),
            page: hydra.page(&jobset_path(job)),
            job: job.clone(),
            input: input.map(str::to_string),
            looked_at,
            newest: newest.map(|newest| (newest.id, revisions(&newest))),
            waited: wait.waited(),
            doing,
            disabled,
            error: error.map(|error| excerpt(&error)),
        })));
    }
}

/// The inputs of an evaluation that have a revision, with it.
#[must_use]
pub fn revisions(evaluation: &Evaluation) -> Vec<(String, String)> {
    let inputs = evaluation.inputs.iter();
    let mut revisions: Vec<_> = inputs
        .filter_map(|(name, input)| Some((name.clone(), input.revision.clone()?)))
        .collect();
    let flake = evaluation.flake_revision();
    revisions.extend(flake.map(|flake| ("flake".to_string(), flake.to_string())));
    revisions
}

/// The build of `job` in `evaluation`.
pub fn build_of(
    hydra: &mut Hydra,
    evaluation: &Evaluation,
    job: &Job,
) -> Result<Build, DeployError> {
    let path = format!("eval/{}/job/{}", evaluation.id, segment(&job.job));
    match hydra.get(&path) {
        Err(HydraError::Refused { status: 404, .. }) => {
            let builds = hydra.get::<Vec<Build>>(&format!("eval/{}/builds", evaluation.id));
            let mut jobs: Vec<String> = builds
                .map(|builds| builds.into_iter().map(|build| build.job).collect())
                .unwrap_or_default();
            jobs.sort();
            let count = jobs.len();
            jobs.truncate(JOBS_SHOWN);
            let error = evaluation_error(hydra, job, Some(&job.job));
            Err(DeployError::NoJob(Box::new(NoJob {
                job: job.clone(),
                page: hydra.page(&format!("eval/{}", evaluation.id)),
                jobs,
                count,
                error: error.map(|error| excerpt(&error)),
            })))
        }
        other => Ok(other?),
    }
}

/// The newest successful build, which may be of any revision: that is printed.
fn latest(
    hydra: &mut Hydra,
    job: &Job,
    input: Option<&str>,
    system: &str,
    say: &mut Say,
) -> Result<Build, DeployError> {
    let path = format!(
        "job/{}/{}/{}/latest-for/{}",
        segment(&job.project),
        segment(&job.jobset),
        segment(&job.job),
        segment(system)
    );
    let build: Build = match hydra.get(&path) {
        Err(HydraError::Refused { status: 404, .. }) => {
            return Err(DeployError::NoLatest(job.clone(), system.to_string()));
        }
        other => other?,
    };
    // A build that nothing changed is part of many evaluations; the newest is what is asked for.
    if let Some(newest) = build.jobsetevals.iter().max() {
        let evaluation: Evaluation = hydra.get(&format!("eval/{newest}"))?;
        say(&format!(
            "The latest successful build is {}, of evaluation {newest}, with {}",
            build.id,
            of_input(&evaluation, "", input)
        ));
    }
    Ok(build)
}

/// `revision 84a3aecb… of input app`, for each input that was meant.
fn of_input(evaluation: &Evaluation, revision: &str, input: Option<&str>) -> String {
    let texts: Vec<String> = evaluation
        .inputs_at(revision, input)
        .into_iter()
        .filter_map(|name| {
            let revision = evaluation.revision_of(name)?;
            Some(format!("revision {revision} of input {name}"))
        })
        .collect();
    words::list(&texts)
}

fn wait_for_build(
    hydra: &mut Hydra,
    mut build: Build,
    wait: &mut Wait,
    say: &mut Say,
) -> Result<Build, DeployError> {
    while !build.is_finished() {
        let again = wait.pause(say, || build_in_words(hydra, &build));
        if !again {
            return Err(DeployError::NotFinished {
                page: hydra.page(&format!("build/{}", build.id)),
                doing: build_in_words(hydra, &build),
                waited: wait.waited(),
            });
        }
        build = wait.ask(say, || hydra.get(&format!("build/{}", build.id)))?;
    }
    Ok(build)
}

/// What Hydra does about a jobset at the moment.
fn jobset_in_words(jobset: &Jobset) -> String {
    let fetch_error = jobset
        .fetcherrormsg
        .as_ref()
        .filter(|error| !error.is_empty());
    match (jobset.starttime, jobset.lastcheckedtime) {
        (Some(start), _) => format!("Hydra is evaluating for {}", since(start)),
        (None, _) if fetch_error.is_some() => "Hydra cannot fetch an input".to_string(),
        (None, Some(checked)) => {
            format!("Hydra last looked at the jobset {} ago", since(checked))
        }
        (None, None) => "Hydra has never looked at the jobset".to_string(),
    }
}

/// What Hydra does about a build at the moment. Its steps are asked for only here, once a minute.
fn build_in_words(hydra: &mut Hydra, build: &Build) -> String {
    let queued = build.timestamp.map(since).unwrap_or_default();
    let Some((number, step)) = last_step(hydra, build) else {
        // A Hydra from before 2026 has no pages for steps, but lists the builds that have some.
        let busy = hydra.get::<Vec<Build>>("status").unwrap_or_default();
        return if busy.iter().any(|other| other.id == build.id) {
            format!("Hydra is building {}, queued {queued} ago", build.id)
        } else {
            format!("Hydra has build {} queued for {queued}", build.id)
        };
    };
    let name = step
        .drvpath
        .as_deref()
        .and_then(|path| StorePath::from_absolute_path(path.as_bytes()).ok())
        .map_or_else(
            || "a derivation".to_string(),
            |path| path.name().trim_end_matches(".drv").to_string(),
        );
    let mut text = format!("Hydra is building {}: step {number}, {name}", build.id);
    if let Some(machine) = step.machine.filter(|machine| !machine.is_empty()) {
        // The user that Hydra signs in as is nobody's business.
        text.push_str(" on ");
        text.push_str(machine.rsplit('@').next().unwrap_or_default());
    }
    if let Some(start) = step.starttime {
        text.push_str(", for ");
        text.push_str(&since(start));
    }
    text
}

/// The last step of a build, with its number; nothing where there is none, or none is shown.
fn last_step(hydra: &mut Hydra, build: &Build) -> Option<(u64, Step)> {
    (1..=STEPS)
        .map_while(|number| {
            let step = hydra.get(&format!("build/{}/step/{number}", build.id));
            Some((number, step.ok()?))
        })
        .last()
}

fn failed(hydra: &mut Hydra, job: &Job, build: &Build) -> DeployError {
    let tail = |hydra: &Hydra, path: Option<&String>| hydra.log_tail(path?, LOG_LINES);
    let mut log = hydra.page(&format!("build/{}/log", build.id));
    let mut lines = tail(hydra, build.drvpath.as_ref());
    if lines.is_none() {
        // A dependency failed: the last step is where Hydra gave up.
        if let Some((number, step)) = last_step(hydra, build) {
            lines = tail(hydra, step.drvpath.as_ref());
            log = hydra.page(&format!("build/{}/step/{number}/log", build.id));
        }
    }
    DeployError::Failed(Box::new(Failed {
        job: job.clone(),
        status: build.buildstatus,
        system: build.system.clone(),
        page: hydra.page(&format!("build/{}", build.id)),
        log,
        tail: lines.filter(|lines| !lines.is_empty()),
    }))
}

/// The outputs to deploy, as Nix would install them: what `bin` and `out` hold, else whatever there
/// is. Nothing where Hydra does not tell their paths.
fn outputs(build: &Build) -> Option<Vec<StorePath>> {
    let usual: Vec<_> = ["bin", "out"]
        .iter()
        .filter_map(|name| build.outputs.get(*name))
        .collect();
    let chosen = if usual.is_empty() {
        build.outputs.values().take(1).collect()
    } else {
        usual
    };
    let paths: Option<Vec<_>> = chosen
        .into_iter()
        .map(|output| StorePath::from_absolute_path(output.path.as_ref()?.as_bytes()).ok())
        .collect();
    paths.filter(|paths| !paths.is_empty())
}

/// What Hydra says of the jobset's last evaluation: about `of`, as [`job_error`] has it.
fn evaluation_error(hydra: &mut Hydra, job: &Job, of: Option<&str>) -> Option<String> {
    let path = format!("{}/errors", jobset_path(job));
    let jobset: Jobset = hydra.get(&path).ok()?;
    job_error(&jobset.errormsg?, of)
}

/// What a jobset's errors say about a job; about the whole, or else the first, where none is named.
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
    let end = rest.find("\n\nin job ‘").unwrap_or(rest.len());
    Some(rest[..end].trim().to_string())
}

/// The last lines of an error, which have its cause.
fn excerpt(error: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = error.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// A revision as people write it.
#[must_use]
pub fn short(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

impl DeployError {
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Hydra(error) if error.is_passing())
    }

    /// How long was waited, as a clause, or nothing.
    #[must_use]
    pub fn waited(waited: Duration) -> String {
        if waited < Duration::from_secs(1) {
            String::new()
        } else {
            format!(", after {}", duration(waited))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jobset_s_errors_are_told_apart_by_job() {
        let errors = "in job ‘a’:\nerror: one\n\nmore\n\nin job ‘b’:\nerror: two\n\n";
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
