//! The roots by Hydra: what it built of the revision that is deployed. No Nix is needed.

use super::by_evaluation::system;
use super::{Origin, ResolveError};
use crate::build::Build;
use crate::config::{Config, Wanted};
use crate::log;
use crate::root::Root;
use bullet_stream::global::print;
use http_client::Http;
use hydra::{DeployError, Hydra, HydraError, Job, Polling, Target, inputs, revision};
use std::path::Path;

/// The Hydra that the settings name, which is a binary cache as well; where they name a job alone, the
/// binary cache that has it. With the jobset's inputs for the evaluation where that is asked for.
pub fn set_up(
    config: &mut Config,
    app_dir: &Path,
    http: &Http,
) -> Result<Option<Hydra>, ResolveError> {
    let settings = &config.hydra;
    let is_asked = !matches!(config.wanted, Wanted::StorePath(_));
    let job = settings.job.as_ref().filter(|_| is_asked);
    let mut hydra = match (&settings.url, job) {
        (Some(url), _) => Hydra::new(url.clone(), http.clone()),
        (None, Some(_)) => Hydra::find(&config.caches, job, http)?,
        (None, None) => return Ok(None),
    };
    hydra.add_to(&mut config.caches);
    if let Some(job) = job.filter(|_| settings.inputs) {
        print::bullet("Hydra");
        let revision = revision::known(settings.revision.as_ref(), app_dir);
        let name = revision.as_ref().map(|revision| revision.name.as_str());
        let inputs = inputs::find(&mut hydra, job, name, settings.input.as_deref())?;
        match inputs {
            Some(inputs) => {
                inputs.lines(name).into_iter().for_each(log::sub_bullet);
                config.lookups = inputs.lookups(config.nix_path.as_deref());
            }
            None => log::sub_bullet("The jobset has no evaluation yet, so no inputs either"),
        }
    }
    Ok(Some(hydra))
}

/// Returns the outputs of Hydra's build of the deployed revision, and where the build comes from.
pub(super) fn by_hydra(
    build: &Build,
    job: &Job,
    hydra: Option<&mut Hydra>,
) -> Result<(Vec<Root>, Origin), ResolveError> {
    let hydra = hydra.ok_or_else(|| HydraError::NoHydra {
        asked: Vec::new(),
        unreached: Vec::new(),
    })?;
    print::bullet("Hydra");
    let settings = &build.config.hydra;
    let revision =
        revision::find(settings.revision.as_ref(), build.app_dir).map_err(DeployError::Revision)?;
    log::sub_bullet(format!(
        "Looking for {job} at {} ({}) on {hydra}",
        revision.name, revision.from
    ));
    let target = Target {
        job,
        revision: &revision,
        input: settings.input.as_deref(),
        system: &system(build.arch)?,
    };
    let polling = Polling::of(settings.wait);
    let deployed = hydra::deploy(hydra, &target, polling, &mut |line| log::sub_bullet(line))?;
    deployed.paths.iter().for_each(log::deploying);
    let origin = Origin {
        page: hydra.page(&format!("build/{}", deployed.build.id)),
        source: deployed.source,
    };
    Ok((
        deployed.paths.into_iter().map(Root::from_path).collect(),
        origin,
    ))
}
