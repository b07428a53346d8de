//! One deploy, from the settings to the processes: the steps in order, and what is done about a miss.
//!
//! [`crate::check`] goes through the same steps, up to the content of the closure.

use crate::build::Build;
use crate::config::{Config, Wanted};
use crate::doctor::{self, Diagnosis};
use crate::error::BuildpackError;
use crate::launch::procfile::Procfile;
use crate::layers::closure::{ClosureLayer, ClosureLayerError, Target};
use crate::layers::proot::{PRootLayerError, Programs, Use};
use crate::messages::Summary;
use crate::resolve::source::Source;
use crate::resolve::{self, ResolveError, Resolved};
use crate::tools::ToolSource;
use crate::{config, launch, layers, log, messages};
use binary_cache::{CacheUrl, Caches};
use bullet_stream::global::print;
use http_client::Http;
use hydra::{Hydra, Revision, revision};
use libcnb::data::launch::{Label, Launch};
use nix_derivation::StorePath;
use nix_hydra_start::executable::Machine;
use nix_hydra_start::package_name::PackageName;
use std::path::Path;

/// What is read and asked before a deploy begins.
#[derive(Debug)]
pub struct Prepared {
    pub config: Config,
    pub procfile: Option<Procfile>,
    pub http: Http,
    /// The Hydra that [`resolve::set_up`] found.
    pub hydra: Option<Hydra>,
}

/// Reads the settings, of which `setting` returns the value, and the Procfile, and finds the Hydra.
pub fn prepare(
    setting: impl Fn(&str) -> Option<String>,
    app_dir: &Path,
) -> Result<Prepared, BuildpackError> {
    let mut config = Config::read(setting, app_dir)?;
    for binding in &config.unused_bindings {
        log::warning(&messages::settings::unused_binding(binding));
    }
    let procfile = launch::read_procfile(app_dir, config.procfile.as_deref())?;
    let http = Http::new();
    for warning in http.warnings() {
        log::warning(&format!("{warning}."));
    }
    let hydra = resolve::set_up(&mut config, app_dir, &http)?;
    Ok(Prepared {
        config,
        procfile,
        http,
        hydra,
    })
}

/// Warns of those of the variables `names` that the user may believe to be settings.
pub fn warn_of_ineffective_settings(names: impl IntoIterator<Item = String>) {
    for variable in config::ineffective(names) {
        log::warning(&messages::settings::ineffective(&variable));
    }
}

/// Deploys what the settings name: finds the roots, fills the layers, and returns the processes.
///
/// `hydra` and `procfile` are those that [`prepare`] found; `programs` come with the buildpack and go
/// into the image.
pub fn deploy(
    build: &Build,
    mut hydra: Option<Hydra>,
    procfile: Option<&Procfile>,
    programs: &Programs,
) -> Result<Launch, BuildpackError> {
    let machine = resolve::machine(build.arch)?;
    layers::proot::check_programs(programs, machine)?;
    let mut resolved = resolve::resolve(build, hydra.as_mut())?;
    let (closure, is_compiled) = fill_or_build(build, &mut resolved, machine, hydra.as_ref())
        .map_err(|error| explain(error, build, &resolved, hydra.as_mut()))?;
    compare_if_asked(build, &resolved, hydra.as_mut());

    let hooks = &closure.contents.compile_hooks;
    let needed = Use {
        proot: (!closure.is_relocated)
            .then(|| ToolSource::proot(build.config.proot.as_ref(), build.buildpack_dir))
            .transpose()
            .map_err(PRootLayerError::Tool)?,
        commands: &closure.contents.programs,
        machine,
        by_this_build: !hooks.is_empty(),
    };
    layers::proot::handle(build.layers_dir, programs, &needed, build.http)?;
    launch::hook::run(hooks, build.layers_dir, build.app_dir)?;
    let programs = &closure.contents.programs;
    let mut launch = launch::launch(procfile, &resolved.roots, programs, build.layers_dir)?;
    let revision = revision::known(build.config.hydra.revision.as_ref(), build.app_dir);
    launch.labels = labels(&resolved, revision.as_ref());
    if !closure.changes.is_empty() {
        print::bullet("Changes since the previous image");
        closure.changes.iter().for_each(log::sub_bullet);
    }
    print::bullet("Summary");
    let summary = Summary {
        roots: &resolved.roots,
        revision: revision.as_ref(),
        closure: &closure,
        engine: build.config.engine,
        is_compiled,
    };
    summary.lines().iter().for_each(log::sub_bullet);
    Ok(launch)
}

/// The image's origin, as labels of the OCI image specification (`annotations.md`). They differ only
/// where the deployed revision or package does.
fn labels(resolved: &Resolved, revision: Option<&Revision>) -> Vec<Label> {
    let root = resolved.roots.first();
    let version = root.and_then(|root| PackageName::parse(root.path.name()).version);
    let origin = resolved.origin.as_ref();
    [
        ("revision", revision.map(|revision| revision.name.clone())),
        ("source", origin.and_then(|origin| origin.source.clone())),
        ("url", origin.map(|origin| origin.page.clone())),
        ("version", version.map(str::to_string)),
    ]
    .into_iter()
    .filter_map(|(name, value)| {
        Some(Label {
            key: format!("org.opencontainers.image.{name}"),
            value: value?,
        })
    })
    .collect()
}

/// Fills the layers with the closure of the roots, or, where the settings say so, builds what is missing.
/// Also returns whether it was built here.
fn fill_or_build(
    build: &Build,
    resolved: &mut Resolved,
    machine: Machine,
    hydra: Option<&Hydra>,
) -> Result<(ClosureLayer, bool), BuildpackError> {
    let fill = |resolved: &Resolved, caches: &[CacheUrl]| {
        let target = Target {
            roots: &resolved.roots,
            memo: resolved.memo.as_ref(),
            machine,
        };
        layers::closure::handle(build.layers_dir, target, build.config, || {
            open(build, caches)
        })
    };
    match from_caches(build, resolved, hydra, fill) {
        Err(BuildpackError::ClosureLayer(ClosureLayerError::Miss { misses, unusable })) => {
            match resolve::realise(build, resolved, &misses)? {
                Some(cache) => {
                    print::bullet("Closure with what was built here");
                    Ok((fill(resolved, &[cache])?, true))
                }
                None => Err(ClosureLayerError::Miss { misses, unusable }.into()),
            }
        }
        filled => Ok((filled?, false)),
    }
}

/// Has `take` find the closure of the roots in the binary caches. On a miss, resolves again with nothing
/// left out.
pub(crate) fn from_caches<T>(
    build: &Build,
    resolved: &mut Resolved,
    hydra: Option<&Hydra>,
    take: impl Fn(&Resolved, &[CacheUrl]) -> Result<T, ClosureLayerError>,
) -> Result<T, BuildpackError> {
    let mut caches = build.config.caches.clone();
    // It may have signed in meanwhile.
    if let Some(hydra) = hydra {
        hydra.let_into(&mut caches);
    }
    print::bullet("Closure");
    let mut taken = take(resolved, &caches);
    if let Err(ClosureLayerError::Miss { misses, .. }) = &taken {
        let first = resolved.roots.clone();
        resolve::resolve_fully(build, resolved, misses)?;
        if resolved.roots != first {
            print::bullet("Closure of the second evaluation");
            taken = take(resolved, &caches);
        }
    }
    Ok(taken?)
}

/// Opens binary caches, as the settings say.
pub(crate) fn open(build: &Build, caches: &[CacheUrl]) -> Caches {
    Caches::open(
        caches,
        build.config.trust.clone(),
        build.http,
        &hydra::sign_in,
    )
}

/// Compares `root` with what Hydra has or, where no binary cache has it and there is no Hydra, with what
/// the caches and the previous image have. Nothing where it was not evaluated here.
fn examine(
    build: &Build,
    resolved: &Resolved,
    root: &StorePath,
    is_missing: bool,
    hydra: Option<&mut Hydra>,
) -> Result<Option<Diagnosis>, BuildpackError> {
    let (Some(expression), Some(store)) = (doctor::expression(build.config), resolved.store())
    else {
        return Ok(None);
    };
    print::bullet("Doctor");
    let source =
        Source::read(build.app_dir, &build.config.source_name).map_err(ResolveError::from)?;
    let before = is_missing
        .then(|| layers::closure::previous(build.layers_dir))
        .flatten();
    let evaluated = doctor::Evaluated {
        store,
        root,
        source: &source,
        expression,
        system: &resolve::system(build.arch)?,
        is_missing,
        before: before.as_ref(),
    };
    // Where neither it nor a job is named, a Hydra among the caches may know the name.
    let mut found;
    let hydra = if let Some(hydra) = hydra {
        Ok(hydra)
    } else {
        found =
            Hydra::find(&build.config.caches, None, build.http).map_err(|error| error.to_string());
        found.as_mut().map_err(|why| why.clone())
    };
    let timer = print::sub_start_timer(match hydra {
        Err(_) if is_missing => "Comparing it with what the binary caches have",
        _ => "Comparing it with Hydra's",
    });
    let open_caches = |hydra: Option<&Hydra>| {
        let mut urls = build.config.caches.clone();
        if let Some(hydra) = hydra {
            hydra.let_into(&mut urls);
        }
        open(build, &urls)
    };
    let diagnosis = doctor::diagnose(&evaluated, build.config, hydra, open_caches);
    timer.done();
    Ok(Some(diagnosis))
}

/// Compares the result with what Hydra has, where the settings say so. It is deployed whether or not it
/// can be compared.
pub(crate) fn compare_if_asked(build: &Build, resolved: &Resolved, hydra: Option<&mut Hydra>) {
    if build.config.doctor
        && let Err(error) = report(build, resolved, hydra)
    {
        log::warning(&error.message().to_string());
    }
}

/// Compares what was evaluated with what Hydra has, and prints what is found. What was not evaluated
/// is evaluated for this.
fn report(
    build: &Build,
    resolved: &Resolved,
    hydra: Option<&mut Hydra>,
) -> Result<(), BuildpackError> {
    let own;
    let resolved = match (resolved.store(), doctor::expression(build.config)) {
        (None, Some(expression)) => {
            print::bullet("Evaluation for the doctor");
            own = resolve::evaluate_fully(build, expression)?;
            &own
        }
        _ => resolved,
    };
    let diagnosis = match resolved.roots.first() {
        Some(root) => examine(build, resolved, &root.path, false, hydra)?,
        None => None,
    };
    if let Some(diagnosis) = diagnosis {
        let answer = diagnosis.answer();
        if diagnosis.is_same() {
            log::sub_bullet(answer);
        } else {
            log::warning(&format!("{answer}\n\n{}", diagnosis.explanation()));
        }
    } else {
        print::bullet("Doctor");
        log::sub_bullet("There is no expression in the app to compare with Hydra's build");
    }
    Ok(())
}

/// Adds to a miss why the root is missing, where that can be found out. Other errors say all there is to say.
pub(crate) fn explain(
    error: BuildpackError,
    build: &Build,
    resolved: &Resolved,
    hydra: Option<&mut Hydra>,
) -> BuildpackError {
    let (misses, unusable) = match error {
        BuildpackError::ClosureLayer(ClosureLayerError::Miss { misses, unusable }) => {
            (misses, unusable)
        }
        other => return other,
    };
    for named in &build.config.not_asked {
        log::warning(&format!(
            "{} names the binary cache {}, which was not asked. Add it to NIX_EXTRA_BINARY_CACHE and its \
             key to NIX_TRUSTED_PUBLIC_KEYS; or set NIX_ACCEPT_FLAKE_CONFIG=true, and all that is named \
             there is used.",
            named.place, named.cache
        ));
    }
    let diagnosis = match (resolve::missing_root(&misses), &build.config.wanted) {
        (Some(_), Wanted::HydraJob(job, _)) => {
            return BuildpackError::NotKept {
                misses,
                unusable,
                job: job.clone(),
            };
        }
        // Where this fails, the miss is what matters.
        (Some(root), Wanted::Expression(_)) => {
            let examined = examine(build, resolved, root, true, hydra);
            examined.ok().flatten()
        }
        _ => None,
    };
    match diagnosis {
        Some(diagnosis) => BuildpackError::Diagnosed {
            misses,
            diagnosis: Box::new(diagnosis),
        },
        None => ClosureLayerError::Miss { misses, unusable }.into(),
    }
}
