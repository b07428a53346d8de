//! The build of a job: waiting for it, and why it failed.

use crate::api::{Build, Evaluation, Step};
use crate::error::{DeployError, Failed, Finished, HydraError, NoJob, NotFinished};
use crate::evaluation::{evaluation_error, excerpt};
use crate::wait::{Say, Wait, since};
use crate::{Hydra, Job, segment};
use nix_derivation::StorePath;

/// Lines of a failed build's log that are shown.
const LOG_LINES: usize = 20;

/// Steps of a build that are looked at: most have a handful.
const STEPS: u64 = 50;

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
            let jobs = builds.map(|builds| {
                let mut jobs: Vec<String> = builds.into_iter().map(|build| build.job).collect();
                jobs.sort();
                jobs
            });
            let error = evaluation_error(hydra, job, Some(&job.job));
            Err(DeployError::NoJob(Box::new(NoJob {
                job: job.clone(),
                page: hydra.page(&format!("eval/{}", evaluation.id)),
                jobs: jobs.ok(),
                error: error.map(|error| excerpt(&error)),
            })))
        }
        other => Ok(other?),
    }
}

/// Waits until `build` is finished. `finished` is one that is, of an older evaluation.
pub(crate) fn wait_for_build(
    hydra: &mut Hydra,
    mut build: Build,
    finished: Option<Finished>,
    wait: &mut Wait,
    say: &mut Say,
) -> Result<Build, DeployError> {
    if !build.is_finished() {
        say(&format!(
            "Waiting for {}",
            hydra.page(&format!("build/{}", build.id))
        ));
    }
    while !build.is_finished() {
        let again = wait.pause(say, || build_in_words(hydra, &build));
        if !again {
            return Err(DeployError::NotFinished(NotFinished {
                page: hydra.page(&format!("build/{}", build.id)),
                doing: build_in_words(hydra, &build),
                waited: wait.waited(),
                finished,
            }));
        }
        build = wait.ask(say, || hydra.get(&format!("build/{}", build.id)))?;
    }
    Ok(build)
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
        // Without the user that Hydra signs in as.
        text.push_str(" on ");
        text.push_str(machine.rsplit('@').next().unwrap_or_default());
    }
    if let Some(start) = step.starttime {
        text.push_str(", for ");
        text.push_str(&since(start));
    }
    text
}

/// The last step of a build, with its number; None if there is none, or this Hydra shows none.
fn last_step(hydra: &mut Hydra, build: &Build) -> Option<(u64, Step)> {
    (1..=STEPS)
        .map_while(|number| {
            let step = hydra.get(&format!("build/{}/step/{number}", build.id));
            Some((number, step.ok()?))
        })
        .last()
}

pub(crate) fn failed(hydra: &mut Hydra, job: &Job, build: &Build) -> DeployError {
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
/// is. None if Hydra does not know their paths.
pub(crate) fn outputs(build: &Build) -> Option<Vec<StorePath>> {
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
