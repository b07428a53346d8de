//! What a check has found, in words and as JSON.

use super::settings::UnreadableProject;
use crate::error::BuildpackError;
use crate::launch::procfile::Procfile;
use crate::layers::closure::ClosureLayerError;
use crate::log::bytes;
use crate::messages::{self, Message};
use crate::report;
use crate::resolve::ResolveError;
use crate::resolve::expression::ExpressionError;
use binary_cache::{Answer as CacheAnswer, Caches};
use closure::Closure;
use closure::plan::Miss;
use hydra::DeployError;
use nix_derivation::StorePath;
use nix_hydra_start::engine::EngineSetting;
use nix_hydra_start::package_name::PackageName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use words::{list, paths};

/// The exit statuses, but for 0.
const NO: u8 = 1;
pub(super) const USAGE: u8 = 2;

/// Whether a deploy would find everything.
#[derive(Debug)]
pub(super) enum Answer {
    Found(Box<Found>),
    Failure(Failure),
}

/// What a deploy would find.
#[derive(Debug)]
pub(super) struct Found {
    pub closure: Closure,
    /// How many store paths are from which binary cache.
    pub from: Vec<(String, usize)>,
    /// The page of the build on Hydra.
    pub page: Option<String>,
    pub procfile: Option<Procfile>,
    /// `meta.mainProgram`.
    pub main_program: Option<String>,
    pub engine: EngineSetting,
}

/// Why a deploy would fail.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    message: Message,
    /// Whether it would compile what is missing.
    is_built: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// No binary cache has it.
    Miss,
    /// Hydra is not done.
    Pending,
    Error,
    Usage,
}

/// How many paths of a closure are from which binary cache, in their order.
pub(super) fn sources(closure: &Closure, caches: &Caches) -> Vec<(String, usize)> {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    for info in closure.paths.values() {
        if let (Some(source), Some(name)) = (&info.source, caches.name_of(info)) {
            *counts.entry((source.cache, name)).or_default() += 1;
        }
    }
    counts
        .into_iter()
        .map(|((_, name), count)| (name, count))
        .collect()
}

impl Answer {
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Found(_) => 0,
            Self::Failure(failure) if failure.kind == Kind::Usage => USAGE,
            Self::Failure(_) => NO,
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Found(found) => found.text(),
            Self::Failure(failure) => failure.text(),
        }
    }

    /// A line of JSON for each store path, so that it reads as `nix-hydra closure --json` does.
    pub(super) fn json(&self) -> String {
        match self {
            Self::Found(found) => found.json(),
            Self::Failure(failure) => format!("{}\n", failure.json()),
        }
    }
}

impl Found {
    fn text(&self) -> String {
        let names: Vec<&str> = self.roots().map(StorePath::name).collect();
        let mut text = format!(
            "Hit: the binary caches have {} and all that {}.\n\n",
            list(&names),
            if names.len() == 1 {
                "it needs"
            } else {
                "they need"
            }
        );
        let mut line = |label: &str, value: &str| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{label:<10} {value}");
        };
        let mut label = "Deploys";
        for root in self.roots() {
            line(label, &root.to_absolute_path());
            label = "";
        }
        if let Some(page) = &self.page {
            line("Built by", page);
        }
        let closure = format!(
            "{}, {} unpacked",
            paths(self.closure.paths.len()),
            bytes(self.closure.nar_size())
        );
        line("Closure", &closure);
        let from = self.from.iter();
        let from: Vec<String> = from
            .map(|(cache, count)| format!("{count} from {cache}"))
            .collect();
        let download = format!(
            "{} at first ({}); later what is new",
            bytes(self.closure.download_size()),
            list(&from)
        );
        line("Download", &download);
        let mut label = "Processes";
        for (name, command, note) in self.processes() {
            let command = command.unwrap_or_default();
            line(label, format!("{name}: {command}{note}").trim_end());
            label = "";
        }
        line("Relocated", self.relocation());
        text
    }

    fn json(&self) -> String {
        let members = report::members(&self.closure).to_string();
        let processes = self.processes().into_iter();
        let more = json!({
            "status": "hit",
            "download": self.closure.download_size(),
            "unpacked": self.closure.nar_size(),
            "caches": self.from.iter()
                .map(|(cache, count)| json!({ "url": cache, "paths": count }))
                .collect::<Vec<_>>(),
            "build": self.page,
            "processes": processes
                .map(|(name, command, _)| json!({ "name": name, "command": command }))
                .collect::<Vec<_>>(),
            // Null where only the content tells.
            "relocated": match self.engine {
                EngineSetting::Relocate | EngineSetting::Auto => Value::Null,
                EngineSetting::Unset | EngineSetting::Only(_) => Value::Bool(false),
            },
        });
        let members = members.trim_end();
        let open = members.strip_suffix('}').unwrap_or(members);
        format!("{open},\n{}\n", &more.to_string()[1..])
    }

    fn roots(&self) -> impl Iterator<Item = &StorePath> {
        self.closure.roots.iter()
    }

    /// Names and commands of the processes, and what is to be said of them. A command is none where the
    /// content has to be known.
    fn processes(&self) -> Vec<(String, Option<String>, String)> {
        if let Some(procfile) = &self.procfile {
            let processes = procfile.processes();
            return processes
                .map(|(name, command)| (name.to_string(), Some(command.to_string()), String::new()))
                .collect();
        }
        let unknown = "not known before it is downloaded; a Procfile says it";
        let name = self.roots().next().map_or("", StorePath::name);
        let note = match &self.main_program {
            Some(main) => format!("`{main}`, the main program, if the package has it: {unknown}"),
            None => format!(
                "`{}` if there is such a program, or the only one: {unknown}",
                PackageName::parse(name).name
            ),
        };
        vec![("web".to_string(), None, note)]
    }

    fn relocation(&self) -> &'static str {
        match self.engine {
            EngineSetting::Unset | EngineSetting::Only(_) => "no: NIX_ENGINE does not ask for it",
            EngineSetting::Relocate => {
                "yes, or the deploy fails: whether a file prevents it is not known before it is downloaded"
            }
            EngineSetting::Auto => {
                "if no file prevents it, which is not known before it is downloaded"
            }
        }
    }
}

impl Failure {
    pub(super) fn of(error: BuildpackError) -> Self {
        let kind = kind(&error);
        Self {
            kind,
            message: messages::message(&error.into()),
            is_built: false,
        }
    }

    pub(super) fn of_settings(error: &UnreadableProject) -> Self {
        Self {
            kind: Kind::Usage,
            message: Message {
                header: "The app's project.toml cannot be read".to_string(),
                body: error.to_string(),
            },
            is_built: false,
        }
    }

    /// With `builds`, what is missing would be compiled.
    pub(super) fn unless_built(self, builds: bool) -> Self {
        Self {
            is_built: builds && self.kind == Kind::Miss,
            ..self
        }
    }

    fn text(&self) -> String {
        let kind = match self.kind {
            Kind::Miss => "Miss",
            Kind::Pending => "Not yet",
            Kind::Error => "A deploy would fail",
            Kind::Usage => "Wrong settings",
        };
        let Message { header, body } = &self.message;
        let mut text = format!("{kind}: {header}\n\n{}\n", body.trim_end());
        if self.is_built {
            text.push_str(
                "\nA deploy would compile what is missing, since NIX_ON_MISS is `build`, or no binary cache \
                 is set.\n",
            );
        }
        text
    }

    fn json(&self) -> Value {
        json!({
            "status": match self.kind {
                Kind::Miss => "miss",
                Kind::Pending => "pending",
                Kind::Error => "error",
                Kind::Usage => "usage",
            },
            "error": self.message.header,
            "explanation": self.message.body,
            "compiles": self.is_built,
        })
    }
}

fn kind(error: &BuildpackError) -> Kind {
    match error {
        BuildpackError::Config(_) | BuildpackError::Procfile(_) => Kind::Usage,
        BuildpackError::ClosureLayer(ClosureLayerError::Miss { misses, .. })
        | BuildpackError::NotKept { misses, .. }
        | BuildpackError::Diagnosed { misses, .. } => {
            let is_answered = misses.iter().all(is_answered);
            if is_answered { Kind::Miss } else { Kind::Error }
        }
        BuildpackError::Resolve(ResolveError::Expression(ExpressionError::MustBuild {
            ..
        })) => Kind::Miss,
        BuildpackError::Resolve(ResolveError::Hydra(
            DeployError::NotFinished { .. } | DeployError::NotEvaluated(_),
        )) => Kind::Pending,
        _ => Kind::Error,
    }
}

/// Whether every binary cache could be asked.
fn is_answered(miss: &Miss) -> bool {
    let mut answers = miss.answers.iter();
    answers.all(|asked| {
        !matches!(
            asked.answer,
            CacheAnswer::Refused(_) | CacheAnswer::Failed(_)
        )
    })
}
