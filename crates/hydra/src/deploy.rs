//! From a revision to the store paths that Hydra built of it: the evaluation that has it as an
//! input, that evaluation's build of the job, and its outputs.

use crate::api::{Build, Evaluation, Jobset};
use crate::build::{build_of, failed, outputs, wait_for_build};
use crate::error::{DeployError, Finished, HydraError};
use crate::evaluation::{Target, of_input, wait_for_evaluation};
use crate::wait::{Polling, Say, Wait};
use crate::{Hydra, Job, jobset_path, segment};
use nix_derivation::StorePath;

/// A build that Hydra finished.
#[derive(Debug)]
pub struct Deployed {
    pub build: Build,
    /// The outputs to deploy, the one with programs first.
    pub paths: Vec<StorePath>,
    /// The URL of the repository that the revision is of.
    pub source: Option<String>,
}

/// Finds the build of `target`, waiting for it as `polling` says. `say` logs a line.
pub fn deploy(
    hydra: &mut Hydra,
    target: &Target,
    polling: Polling,
    say: &mut Say,
) -> Result<Deployed, DeployError> {
    let mut wait = Wait::new(polling);
    let mut finished = None;
    let (build, source) = if target.revision.name == "latest" {
        (latest(hydra, target, say)?, None)
    } else {
        let (evaluation, before) = wait_for_evaluation(hydra, target, &mut wait, say)?;
        let found = of_input(&evaluation, &target.revision.name, target.input);
        if !found.is_empty() {
            say(&format!("Evaluation {} has {found}", evaluation.id));
        }
        let build = wait.ask(say, || build_of(hydra, &evaluation, target.job))?;
        let source = evaluation.source_of(&target.revision.name, target.input);
        finished = before.and_then(|before| finished_before(hydra, target, &build, &before));
        (build, source)
    };
    if let Some(finished) = &finished {
        say(&finished.to_string());
    }
    let build = wait_for_build(hydra, build, finished, &mut wait, say)?;
    let page = hydra.page(&format!("build/{}", build.id));
    if build.system != target.system {
        return Err(DeployError::System {
            page,
            system: build.system,
            wanted: target.system.to_string(),
        });
    }
    if !build.succeeded() {
        return Err(failed(hydra, target.job, &build));
    }
    let paths = outputs(&build).ok_or(DeployError::NoOutput(page.clone()))?;
    say(&format!("Build {} succeeded: {page}", build.id));
    Ok(Deployed {
        build,
        paths,
        source,
    })
}

/// The successful build that an older evaluation of the same revision has, if `build` is not finished.
fn finished_before(
    hydra: &mut Hydra,
    target: &Target,
    build: &Build,
    before: &Evaluation,
) -> Option<Finished> {
    if build.is_finished() {
        return None;
    }
    let older = build_of(hydra, before, target.job).ok()?;
    let path = outputs(&older)?.first()?.to_absolute_path();
    (older.is_finished() && older.succeeded() && older.system == target.system).then(|| Finished {
        evaluation: before.id,
        page: hydra.page(&format!("build/{}", older.id)),
        path,
    })
}

/// The newest successful build. Its revision is logged.
fn latest(hydra: &mut Hydra, target: &Target, say: &mut Say) -> Result<Build, DeployError> {
    let build = match latest_for(hydra, target.job, target.system)? {
        Some(build) => Some(build),
        // Hydra's redirect for a renamed jobset loses the system at the end of the path.
        None => match renamed(hydra, target.job)? {
            Some(job) => latest_for(hydra, &job, target.system)?,
            None => None,
        },
    };
    let build = build.ok_or_else(|| DeployError::NoLatest {
        job: target.job.clone(),
        system: target.system.to_string(),
    })?;
    // A build that nothing changed is part of many evaluations.
    if let Some(newest) = build.jobsetevals.iter().max() {
        let evaluation: Evaluation = hydra.get(&format!("eval/{newest}"))?;
        say(&format!(
            "The latest successful build is {}, of evaluation {newest}, with {}",
            build.id,
            of_input(&evaluation, "", target.input)
        ));
    }
    Ok(build)
}

fn latest_for(hydra: &mut Hydra, job: &Job, system: &str) -> Result<Option<Build>, HydraError> {
    let path = format!(
        "job/{}/{}/{}/latest-for/{}",
        segment(&job.project),
        segment(&job.jobset),
        segment(&job.job),
        segment(system)
    );
    match hydra.get(&path) {
        Err(HydraError::Refused { status: 404, .. }) => Ok(None),
        other => other.map(Some),
    }
}

/// The job in the jobset's new name, if it was renamed. An error if there is no such jobset.
fn renamed(hydra: &mut Hydra, job: &Job) -> Result<Option<Job>, HydraError> {
    let jobset: Jobset = hydra.get(&jobset_path(job))?;
    let present = job.in_jobset(jobset.name.as_deref());
    Ok((present != *job).then_some(present))
}
