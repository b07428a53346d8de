//! What Hydra has for the same job: the build, and the evaluation that it is of.

use super::compare::name;
use crate::config::Config;
use hydra::api::{Build, Evaluation, Found, InputRevision};
use hydra::{DeployError, Hydra, Job, build_of, evaluation_at, segment};
use nix_derivation::StorePath;

/// Builds of the same name that are looked at for the revision, where no job is named.
const BUILDS: usize = 5;

#[derive(Debug)]
pub enum HydraSide {
    /// Hydra could not be asked, or has nothing to compare with; why.
    Unasked(String),
    /// None of the evaluations that Hydra lists has the revision, and the newest has no such job.
    NotEvaluated {
        revision: String,
        jobset: String,
        looked_at: usize,
    },
    Built(Box<Built>),
}

/// A build to compare with.
#[derive(Debug)]
pub struct Built {
    pub build: Build,
    pub derivation: Option<StorePath>,
    pub page: String,
    /// The number of the evaluation that it is compared in, and its inputs' revisions.
    pub evaluation: Option<u64>,
    pub revisions: Vec<InputRevision>,
    /// Whether that evaluation has the revision that is deployed here, where that is known.
    pub same_revision: Option<bool>,
    /// How many evaluations were searched for that revision, where none of them has it.
    pub looked_at: Option<usize>,
}

impl Built {
    /// Whether the build has succeeded and made `root`, which is what `derivation` makes.
    pub(super) fn has_made(&self, root: &StorePath, derivation: &StorePath) -> bool {
        let root = root.to_absolute_path();
        let mut outputs = self.build.outputs.values();
        let is_output = outputs.any(|output| output.path.as_ref() == Some(&root));
        (self.derivation.as_ref() == Some(derivation) || is_output) && self.build.succeeded()
    }
}

/// Finds the build to compare `derivation` with: of the job that the settings name, else of a
/// derivation with the same name; of the same revision, where that is known.
pub(super) fn look(
    hydra: &mut Hydra,
    config: &Config,
    derivation: &StorePath,
    revision: Option<&str>,
) -> HydraSide {
    let found = match &config.hydra.job {
        Some(job) => of_job(hydra, job, revision, config.hydra.input.as_deref()),
        None => of_name(hydra, derivation, revision),
    };
    found.unwrap_or_else(|error| {
        let why = error.to_string();
        HydraSide::Unasked(format!("{hydra} could not be asked: {why}"))
    })
}

fn of_job(
    hydra: &mut Hydra,
    job: &Job,
    revision: Option<&str>,
    input: Option<&str>,
) -> Result<HydraSide, DeployError> {
    let jobset = format!("{}:{}", job.project, job.jobset);
    // Hydra lists no evaluation that brought nothing new, so the newest may stand for it.
    let (evaluation, looked_at) = evaluation_at(hydra, job, revision, input)?;
    let Some(evaluation) = evaluation else {
        return Ok(HydraSide::Unasked(format!(
            "{jobset} has no evaluation yet"
        )));
    };
    let build = match (build_of(hydra, &evaluation, job), revision, looked_at) {
        (Err(DeployError::NoJob(_)), Some(revision), Some(looked_at)) => {
            return Ok(HydraSide::NotEvaluated {
                revision: revision.to_string(),
                jobset,
                looked_at,
            });
        }
        (build, ..) => build?,
    };
    let same = revision.map(|_| looked_at.is_none());
    let mut found = built(hydra, build, Some(&evaluation), same);
    found.looked_at = looked_at;
    Ok(HydraSide::Built(Box::new(found)))
}

/// Hydra's search lists the newest builds first.
fn of_name(
    hydra: &mut Hydra,
    derivation: &StorePath,
    revision: Option<&str>,
) -> Result<HydraSide, DeployError> {
    let wanted = name(derivation);
    // Hydra takes no other characters in a query; the name is checked below.
    let file = format!("-{wanted}.drv");
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let longest = file.split(|c| !allowed(c)).max_by_key(|part| part.len());
    let query = format!("search?query={}", segment(longest.unwrap_or_default()));
    let found: Found = hydra.get(&query)?;
    let same_name = found.buildsdrv.into_iter().filter(|build| {
        let path = build.drvpath.as_deref().unwrap_or_default();
        StorePath::from_absolute_path(path.as_bytes()).is_ok_and(|path| name(&path) == wanted)
    });
    let mut newest = None;
    for build in same_name.take(BUILDS) {
        let number = build.jobsetevals.iter().max().copied();
        let evaluation: Option<Evaluation> = match number {
            Some(number) => hydra.get(&format!("eval/{number}")).ok(),
            None => None,
        };
        let same = revision
            .zip(evaluation.as_ref())
            .map(|(revision, evaluation)| !evaluation.revisions_at(revision, None).is_empty());
        let candidate = built(hydra, build, evaluation.as_ref(), same);
        if same == Some(true) {
            return Ok(HydraSide::Built(Box::new(candidate)));
        }
        newest.get_or_insert(candidate);
    }
    Ok(newest.map_or_else(
        || HydraSide::Unasked(format!("{hydra} has no build of anything named {wanted}")),
        |built| HydraSide::Built(Box::new(built)),
    ))
}

fn built(
    hydra: &Hydra,
    build: Build,
    evaluation: Option<&Evaluation>,
    same_revision: Option<bool>,
) -> Built {
    let path = build.drvpath.as_deref().unwrap_or_default();
    Built {
        derivation: StorePath::from_absolute_path(path.as_bytes()).ok(),
        page: hydra.page(&format!("build/{}", build.id)),
        evaluation: evaluation.map(|evaluation| evaluation.id),
        revisions: evaluation.map(Evaluation::revisions).unwrap_or_default(),
        build,
        same_revision,
        looked_at: None,
    }
}
