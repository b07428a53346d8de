//! Messages of the doctor: one page, whose first line is the answer.
//!
//! Each kind of cause has one function, which gives its answer, its evidence and its cure together.

use super::miss;
use crate::doctor::cause::{Cause, Dependencies, SourceCause, SourceKind};
use crate::doctor::compare::{Difference, Side, name};
use crate::doctor::our_side::OurSide;
use crate::doctor::tree::Change;
use crate::doctor::{Diagnosis, Finding, NotBuilt};
use hydra::api::InputRevision;
use hydra::short;
use std::fmt::Write as _;
use words::list;

/// The number of lines of a list that are shown.
const SHOWN: usize = 8;

/// The longest value of a variable that is shown in full, in characters.
const VALUE_LENGTH: usize = 100;

/// Why no evaluation may have a revision.
const NOT_LISTED: &str = "\
Either Hydra has not evaluated it yet: wait for it, and deploy again, or set NIX_HYDRA_JOB without
NIX_HYDRA_INPUTS, which waits. Or its evaluation had nothing new to build: Hydra lists no such
evaluation, and the revision has the builds of the one before.
";

/// Where the other side of a comparison is.
const HYDRA: &str = "on Hydra";

/// Where nothing can be read of Hydra's derivations.
const UNREADABLE: &str = "
No binary cache serves Hydra's derivations, so they could not be compared. Hydra itself
does where it has a store of its own: name it in NIX_EXTRA_BINARY_CACHE.
";

/// A finding in words.
struct Page {
    /// One line.
    answer: String,
    /// One line for a deploy that found no binary cache with the root, where that differs.
    on_miss: Option<String>,
    explanation: String,
}

/// A cause in words.
struct Told {
    /// One line.
    answer: String,
    /// The facts that it follows from, as whole lines.
    evidence: String,
    cure: &'static str,
}

impl Diagnosis {
    /// The answer, in one line.
    #[must_use]
    pub fn answer(&self) -> String {
        let page = self.page();
        let Some(revision) = self.other_revision() else {
            return page.answer;
        };
        let build = self.build.as_ref();
        build.and_then(|build| build.looked_at).map_or_else(
            || {
                let name = name(&self.root);
                format!(
                    "None of Hydra's newest builds of {name} is known to be of revision {revision}"
                )
            },
            |looked_at| none_has(looked_at, revision),
        )
    }

    /// The answer for a deploy whose root no binary cache has.
    #[must_use]
    pub fn answer_to_miss(&self) -> String {
        self.page().on_miss.unwrap_or_else(|| self.answer())
    }

    /// Both sides, the evidence, and the next step.
    #[must_use]
    pub fn explanation(&self) -> String {
        let page = self.page();
        let mut text = self.sides() + "\n";
        if self.other_revision().is_some() {
            text.push_str(NOT_LISTED);
            let _ = writeln!(text, "\nCompared with the newest build: {}.\n", page.answer);
        }
        text.push_str(&page.explanation);
        text.trim_end().to_string()
    }

    /// Whether Hydra built the same as is deployed here.
    #[must_use]
    pub fn is_same(&self) -> bool {
        matches!(self.finding, Finding::Same)
    }

    fn page(&self) -> Page {
        let root = self.root.name();
        let page = |answer: String, explanation: String| Page {
            answer,
            on_miss: None,
            explanation,
        };
        match &self.finding {
            Finding::NotEvaluated {
                revision,
                jobset,
                looked_at,
            } => page(
                format!("{} of {jobset}", none_has(*looked_at, revision)),
                format!(
                    "{NOT_LISTED}\nThe newest evaluation has no such job, so there is nothing to compare with.\n"
                ),
            ),
            Finding::NotBuilt(why) => {
                let answer = match why {
                    NotBuilt::Unfinished => "Hydra has not finished its build yet",
                    NotBuilt::Failed => "Hydra's build failed",
                };
                page(answer.into(), "The build's page tells more.\n".into())
            }
            Finding::Same => Page {
                answer: "The derivation evaluated here is the one that Hydra built".into(),
                on_miss: Some(format!(
                    "Hydra built {root}, but no binary cache has it any more"
                )),
                explanation:
                    "If no binary cache has it, it was garbage-collected (restart the build on Hydra, or keep\n\
                     it), or Hydra stores elsewhere: set NIX_EXTRA_BINARY_CACHE to that.\n".into(),
            },
            Finding::Different { causes, comparison } => {
                let nothing = "Hydra's derivation differs, but not in the parts that were compared";
                let (answer, mut text) = self.causes(causes, nothing);
                if let [first, ..] = comparison.unread.as_slice() {
                    let _ = writeln!(
                        text,
                        "\n{first} could not be read from the binary caches, so its inputs were not compared.",
                    );
                }
                page(answer, text)
            }
            Finding::Unreadable { causes } => {
                let nothing = "Hydra built another derivation, which cannot be read";
                let (answer, text) = self.causes(causes, nothing);
                let text = if causes.is_empty() { alone(&self.ours).evidence } else { text };
                page(answer, text + UNREADABLE)
            }
            Finding::Alone(why) => {
                let alone = alone(&self.ours);
                page(
                    alone.suspicion().unwrap_or_else(|| {
                        "Nothing here looks different from Hydra's side".to_string()
                    }),
                    format!(
                        "{}\nOnly our side was examined. {why}.\n\
                         With NIX_HYDRA_URL (and NIX_HYDRA_JOB), both sides are compared.\n",
                        alone.evidence
                    ),
                )
            }
            Finding::Missing {
                why,
                inputs,
                before,
            } => {
                let (inputs, before) = (inputs.as_ref(), before.as_ref());
                let (answer, explanation) = miss::told(root, &alone(&self.ours), why, inputs, before);
                page(answer, explanation)
            }
        }
    }

    /// The first cause in full, and the others in a line each. `nothing` is the answer where there are none.
    fn causes(&self, causes: &[Cause], nothing: &str) -> (String, String) {
        let [first, rest @ ..] = causes else {
            return (nothing.to_string(), String::new());
        };
        let first = told(first, &self.ours);
        let mut text = first.evidence + first.cure;
        if !rest.is_empty() {
            text.push_str("\nAlso:\n");
        }
        for cause in rest.iter().take(SHOWN) {
            let _ = writeln!(text, "    {}", told(cause, &self.ours).answer);
        }
        (first.answer, text)
    }

    /// The deployed revision, where Hydra built something else of another one.
    fn other_revision(&self) -> Option<&str> {
        let differs = matches!(
            self.finding,
            Finding::NotBuilt(_) | Finding::Different { .. } | Finding::Unreadable { .. }
        );
        let is_other = self.build.as_ref()?.same_revision == Some(false);
        let own = self.ours.revision.as_deref()?;
        (is_other && differs).then(|| short(own))
    }

    /// Both sides of the comparison.
    fn sides(&self) -> String {
        let mut text = format!("Here:  {}\n", self.root);
        if let Some(derivation) = &self.ours.derivation {
            let _ = writeln!(text, "       {derivation}");
        }
        let Some(compared) = &self.build else {
            return text;
        };
        let build = &compared.build;
        let path = build
            .outputs
            .get("out")
            .or_else(|| build.outputs.values().next());
        let path = path.and_then(|output| output.path.as_deref());
        let _ = writeln!(text, "Hydra: {}", path.unwrap_or("(no output path)"));
        if let Some(derivation) = &compared.derivation {
            let _ = writeln!(text, "       {derivation}");
        }
        let _ = write!(
            text,
            "       {}: {}:{}:{}",
            compared.page, build.project, build.jobset, build.job
        );
        if let Some(evaluation) = compared.evaluation {
            let _ = write!(text, ", evaluation {evaluation}");
        }
        text.push('\n');
        if !compared.revisions.is_empty() {
            let revisions: Vec<String> = compared
                .revisions
                .iter()
                .map(|at| format!("{} {}", at.input, short(&at.revision)))
                .collect();
            let _ = writeln!(text, "       with {}", list(&revisions));
        }
        if compared.same_revision == Some(false)
            && let Some(revision) = &self.ours.revision
        {
            let revision = short(revision);
            let _ = writeln!(
                text,
                "       and not with {revision}, which is deployed here"
            );
        }
        text
    }
}

fn none_has(evaluations: usize, revision: &str) -> String {
    match evaluations {
        1 => format!("The one evaluation that Hydra lists does not have revision {revision}"),
        _ => format!(
            "None of the {evaluations} newest evaluations that Hydra lists has revision {revision}"
        ),
    }
}

/// A cause in words.
fn told(cause: &Cause, ours: &OurSide) -> Told {
    let told = |answer: String, cure| Told {
        answer,
        evidence: String::new(),
        cure,
    };
    match cause {
        Cause::System(ours, theirs) => told(
            format!("It is for {ours} here, but for {theirs} on Hydra"),
            "Name the job, or the attribute (NIX_ATTRIBUTES), for the system of the image. An expression\n\
             that takes `system` must pass it on.\n",
        ),
        Cause::Source(cause) => source(cause),
        Cause::Revision(derivation, variable, ours, theirs) => told(
            format!(
                "The expression uses the revision: `{variable}` of {derivation} is {} here, but {} on Hydra",
                value(ours.as_deref()),
                value(theirs.as_deref())
            ),
            "Hydra passes `rev`, `revCount`, `shortRev` and `gitTag` of an input to the expression; here\n\
             there is only the source. Do not use them in the deployed package: put a version into a file\n\
             of the source, or give the program its revision when it runs.\n",
        ),
        Cause::Dependencies(cause) => dependencies(cause, ours),
        Cause::Other(derivation, difference @ Difference::Variable(..)) => told(
            difference_in(derivation, difference, HYDRA),
            "Something that the expression takes from outside differs: an argument that the jobset has an\n\
             input for (pass the same, or give it a default), a time, or the environment.\n",
        ),
        Cause::Other(derivation, difference) => told(
            difference_in(derivation, difference, HYDRA),
            "The expression is not the same on both sides: compare the revision, the file and the\n\
             attribute that are evaluated with those of the job.\n",
        ),
    }
}

fn source(source: &SourceCause) -> Told {
    let (mut answer, cure) = source_kind(source);
    if source.filtered && !source.difference.is_empty() {
        answer.push_str(" (which the filter leaves out, but which changes the name)");
    }
    let mut text = String::new();
    let variable = source.variable.as_ref();
    let variable = variable.map_or_else(String::new, |variable| format!(" (`{variable}`)"));
    let _ = writeln!(
        text,
        "{} is made of {}{variable}\nhere, and of {} on Hydra.",
        source.derivation, source.ours, source.theirs
    );
    if source.filtered {
        text.push_str(
            "Both have the same files, but are called after the whole source, which differs: give the\n\
             filtered source a name of its own (`cleanSourceWith { name = \"source\"; … }`).\n",
        );
    }
    let difference = &source.difference;
    if !difference.is_empty() {
        text.push('\n');
        let here = difference.only_here.iter();
        let there = difference.only_there.iter();
        let changed = difference.changed.iter();
        let lines: Vec<String> = here
            .map(|name| format!("{name}  only here"))
            .chain(there.map(|name| format!("{name}  only on Hydra")))
            .chain(changed.map(|(name, one)| format!("{name}  {}", change(*one, &[]).in_list)))
            .collect();
        text.push_str(&shown(&lines));
    }
    text.push('\n');
    Told {
        answer,
        evidence: text,
        cure,
    }
}

/// The answer and the cure for a source that differs.
fn source_kind(source: &SourceCause) -> (String, &'static str) {
    let names = |names: &[String]| -> (String, String) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        (count(&names), some(&names))
    };
    match &source.kind {
        SourceKind::GitExport => (
            "Hydra calls its sources `git-export`, but here they are called `source`".to_string(),
            "Hydras from before 2018 call a checkout `git-export`: set NIX_SOURCE_NAME=git-export.\n",
        ),
        SourceKind::OutsideTheStore => (
            format!(
                "Hydra's source was evaluated in a directory named {}, not in the store",
                source.theirs.name()
            ),
            "`./.` is copied under the name of the directory that it is in. Hydra evaluates inside the\n\
             store, and so does this buildpack; `nix-build` in a checkout does not. Let CI put the source\n\
             into the store first, and build that:\n\
             \n    \
                 nix-build $(nix-store --add-fixed --recursive sha256 source)/default.nix\n\
             \n\
             where `source` is a checkout without `.git`; or give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n",
        ),
        SourceKind::OtherName => (
            format!(
                "The source has the same files, but is called {} here, and {} on Hydra",
                source.ours.name(),
                source.theirs.name()
            ),
            "The name is part of a store path. Give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`), or set NIX_SOURCE_NAME.\n",
        ),
        SourceKind::Submodules(paths) => (
            match paths.as_slice() {
                [only] => format!("The git submodule {only} is missing here"),
                paths => format!("{} git submodules are missing here", paths.len()),
            },
            "Hydra checks submodules out. Let the platform do so, too (`git submodule update --init`) before\n\
             it hands the app over.\n",
        ),
        SourceKind::SubmodulesEmptyThere(paths) => (
            match paths.as_slice() {
                [only] => format!("The git submodule {only} is checked out here, but not on Hydra"),
                paths => format!(
                    "{} git submodules are checked out here, but not on Hydra",
                    paths.len()
                ),
            },
            "Hydra checks out the submodules of a repository, but not those of submodules, and those of a\n\
             flake only where its URL has `submodules=1` or `flake.nix` has `inputs.self.submodules = true`.\n\
             Let the platform check out the same (`git submodule update --init` without `--recursive`, or\n\
             none).\n",
        ),
        SourceKind::OtherPath => (
            format!(
                "The source has the same files and name, but is {} here, and {} on Hydra",
                source.ours, source.theirs
            ),
            "It was put into the store in another way on Hydra. Give it a name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n",
        ),
        SourceKind::Only(kind) => {
            let changed = source.difference.changed.iter();
            let changed: Vec<&str> = changed.map(|(name, _)| name.as_str()).collect();
            let words = change(*kind, &changed);
            (words.answer, words.cure)
        }
        kind => content(kind, source, names),
    }
}

/// The same for a source with other files.
fn content(
    kind: &SourceKind,
    source: &SourceCause,
    names: impl Fn(&[String]) -> (String, String),
) -> (String, &'static str) {
    match kind {
        SourceKind::Uncommitted(files) => (
            format!(
                "The source has changes that are not committed: {}",
                names(files).1
            ),
            "Hydra builds commits. Commit and push, or undo the changes, and deploy again.\n",
        ),
        SourceKind::Stray => {
            let (count, names) = names(&source.difference.only_here);
            (
                format!("The source has {count} here that Hydra's has not: {names}"),
                "Something put it there after the checkout: the platform, a buildpack that ran before this one,\n\
                 or a build on your machine. `.gitignore` does not matter here. Exclude it from the deploy\n\
                 (with `pack`, by `exclude` in `project.toml`), or take only the needed files into the\n\
                 expression (`lib.fileset`, `cleanSourceWith` with a name).\n",
            )
        }
        SourceKind::LeftOut => {
            let (count, names) = names(&source.difference.only_there);
            (
                format!("The source lacks {count} here that Hydra's has: {names}"),
                "Something left it out: `exclude` in `project.toml`, `.slugignore`, `export-ignore` in\n\
                 `.gitattributes` (archives leave it out, checkouts do not), or a sparse checkout. An empty\n\
                 directory may be that of a submodule that Hydra does not check out: git makes it, and it must stay.\n",
            )
        }
        SourceKind::NamedAfterWhole => (
            "The source is filtered, but called after the whole, which differs".to_string(),
            "Hydra's whole source is in no binary cache, so the difference is not known.\n",
        ),
        SourceKind::Unreadable => (
            format!(
                "The source differs from Hydra's, {}, which cannot be read",
                source.theirs
            ),
            "No binary cache serves it. Hydra itself does where it has a store of its own.\n",
        ),
        _ => {
            let names: Vec<&str> = source.difference.names().collect();
            (
                format!(
                    "The source differs from Hydra's in {}: {}",
                    count(&names),
                    some(&names)
                ),
                SAME_REVISION,
            )
        }
    }
}

/// The cure for files with other content.
const SAME_REVISION: &str = "Deploy the revision that Hydra built, as it is in git; compare the two with\n\
     `git diff` if these are the app's own files.\n";

/// A change of files in words.
struct ChangeTold {
    answer: String,
    /// A few words for a list of files.
    in_list: &'static str,
    cure: &'static str,
}

/// The same change of one or several files.
fn change(change: Change, files: &[&str]) -> ChangeTold {
    let names = some(files);
    let (is, has) = if files.len() == 1 {
        ("is", "has")
    } else {
        ("are", "have")
    };
    let (side, ours, theirs);
    let (answer, in_list, cure) = match change {
        Change::Executable(here) => {
            side = pick(here, "here, but not on Hydra", "on Hydra, but not here");
            (
                format!("{names} {is} executable {side}"),
                pick(here, "executable only here", "executable only on Hydra"),
                "Something on the way lost or set the executable bit: an archive made on Windows, a file\n\
                 system without it, or an upload. Deploy a git checkout as it is.\n",
            )
        }
        Change::LineEndings(here) => {
            (ours, theirs) = order(here, "CRLF", "LF");
            (
                format!("{names} {has} {ours} line endings here, but {theirs} on Hydra"),
                pick(here, "CRLF here, LF on Hydra", "LF here, CRLF on Hydra"),
                "Git converted line endings where it checked out. Set `* -text` in `.gitattributes`, or\n\
                 `core.autocrlf=false` where the app is checked out.\n",
            )
        }
        Change::Lfs(here) => {
            (ours, theirs) = order(here, "a pointer of Git LFS", "the file itself");
            (
                format!("{names} {is} {ours} here, but {theirs} on Hydra"),
                pick(
                    here,
                    "a pointer of Git LFS here",
                    "a pointer of Git LFS on Hydra",
                ),
                "Git LFS ran on one side only. Hydra does not run it: keep sources out of LFS, or fetch them\n\
                 in the expression by their hash.\n",
            )
        }
        Change::Substituted(here) => {
            side = pick(here, "here, but not on Hydra", "on Hydra, but not here");
            (
                format!("{names} {is} filled in by `git archive` (export-subst) {side}"),
                pick(here, "filled in here", "filled in on Hydra"),
                "One side is an archive made by `git archive` (as forges offer for download), the other a\n\
                 checkout. Deploy a checkout, or remove `export-subst` from `.gitattributes`.\n",
            )
        }
        Change::Link(here) => {
            (ours, theirs) = order(here, "link", "file");
            (
                format!("{names} {is} a {ours} here, but a {theirs} on Hydra"),
                pick(
                    here,
                    "a link here, a file on Hydra",
                    "a file here, a link on Hydra",
                ),
                "Something on the way follows links, or cannot make them. Deploy a git checkout as it is.\n",
            )
        }
        Change::Content => (
            format!("{names} {has} other content here than on Hydra"),
            "differs",
            SAME_REVISION,
        ),
    };
    ChangeTold {
        answer,
        in_list,
        cure,
    }
}

fn pick(here: bool, ours: &'static str, theirs: &'static str) -> &'static str {
    if here { ours } else { theirs }
}

fn order(here: bool, yes: &'static str, no: &'static str) -> (&'static str, &'static str) {
    if here { (yes, no) } else { (no, yes) }
}

fn dependencies(dependencies: &Dependencies, ours: &OurSide) -> Told {
    let Dependencies {
        ours: name,
        theirs,
        way,
        difference,
        pairs,
        more,
        inputs,
    } = dependencies;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, the first derivation that differs in itself, is reached by {}:\n    {}",
        name,
        way.join(" → "),
        difference_in(name, difference, HYDRA)
    );
    let _ = writeln!(
        text,
        "{}{} derivations differ in all.\n",
        if *more { "More than " } else { "" },
        pairs
    );
    for InputRevision { input, revision } in inputs {
        let _ = writeln!(text, "Hydra's input {input} is {revision}.");
    }
    let _ = writeln!(
        text,
        "NIX_PATH here is {}.",
        ours.nix_path.as_deref().unwrap_or("not set")
    );
    for unpinned in ours.unpinned.iter().take(SHOWN) {
        let _ = writeln!(
            text,
            "Not pinned: {} ({}:{})",
            unpinned.what, unpinned.file, unpinned.line
        );
    }
    text.push('\n');
    let pair = if name == theirs {
        format!("{name} differs")
    } else {
        format!("{name} here, {theirs} on Hydra")
    };
    Told {
        answer: format!("Its dependencies differ from Hydra's, as with another nixpkgs: {pair}"),
        evidence: text,
        cure: "Pin nixpkgs in the app (`fetchTarball` with the revision in its URL and its `sha256`), so that\n\
               both sides use the same; or set NIX_HYDRA_INPUTS=true, to use Hydra's inputs here.\n",
    }
}

/// A difference of one derivation, in one line, to one that is `there`.
pub(super) fn difference_in(derivation: &str, difference: &Difference, there: &str) -> String {
    match difference {
        Difference::System(ours, theirs) => {
            format!("{derivation} is for {ours} here, but for {theirs} {there}")
        }
        Difference::Builder(ours, theirs) => {
            format!("{derivation} is built by {ours} here, but by {theirs} {there}")
        }
        Difference::Arguments(ours, theirs) => {
            let different = ours.iter().zip(theirs).find(|(one, other)| one != other);
            let (one, other) = different.map_or((None, None), |(one, other)| {
                (Some(one.as_str()), Some(other.as_str()))
            });
            format!(
                "The builder of {derivation} gets other arguments: {} here, {} {there}",
                value(one),
                value(other)
            )
        }
        Difference::Variable(variable, ours, theirs) => format!(
            "`{variable}` of {derivation} is {} here, but {} {there}",
            value(ours.as_deref()),
            value(theirs.as_deref())
        ),
        Difference::Source(_, ours, theirs) => {
            format!("{derivation} is made of {ours} here, but of {theirs} {there}")
        }
        Difference::SourceOnly(side, path) => {
            format!(
                "{derivation} is made of {} {}",
                path.name(),
                only(*side, there)
            )
        }
        Difference::InputOnly(side, path) => format!(
            "{derivation} is made with {} {}",
            path.name().trim_end_matches(".drv"),
            only(*side, there)
        ),
        Difference::Outputs(ours, theirs) => format!(
            "{derivation} has the outputs {} here, but {} {there}",
            list(ours),
            list(theirs)
        ),
    }
}

/// Our side in words, where there is nothing to compare with.
pub(super) struct Alone {
    /// What was changed in the source, in one line.
    pub(super) changed: Option<String>,
    /// What is not pinned, in one line.
    pub(super) unpinned: Option<String>,
    pub(super) evidence: String,
}

impl Alone {
    /// The likeliest cause of a difference.
    fn suspicion(&self) -> Option<String> {
        self.changed.clone().or_else(|| self.unpinned.clone())
    }
}

fn alone(ours: &OurSide) -> Alone {
    let submodules = ours.tree.missing_submodules();
    let pointers = ours.tree.lfs_pointers();
    let changed = if let [first, ..] = ours.changes.as_slice() {
        Some(format!(
            "The source has changes that are not committed, such as {first}"
        ))
    } else if let ([first, ..], false) = (submodules.as_slice(), ours.is_flake) {
        Some(format!("The git submodule {first} is missing here"))
    } else {
        None
    };
    let unpinned = ours.unpinned.first().map(|first| {
        format!(
            "The expression is not pinned: {} in {}:{}",
            first.what, first.file, first.line
        )
    });
    let mut text = String::new();
    if let Some(source) = &ours.source {
        let _ = writeln!(
            text,
            "The app's source is {source}, of {}, for {}.",
            files(ours.source_files),
            ours.system
        );
    }
    text.push_str("Sources of the app in the derivation:\n");
    let sources = ours.sources.own.iter();
    let sources: Vec<String> = sources
        .map(|(source, count)| format!("{source}  {}", files(*count)))
        .collect();
    text.push_str(&shown(&sources));
    if sources.is_empty() {
        text.push_str("    none\n");
    }
    if ours.sources.others > 0 {
        let _ = writeln!(
            text,
            "    (and {} of nixpkgs or other inputs)",
            ours.sources.others
        );
    }
    let mut section = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            text.push_str(&shown(lines));
        }
    };
    section("Not committed, so Hydra does not have it:", &ours.changes);
    let title = if ours.is_flake {
        "Submodules with nothing in them, as on Hydra unless the flake's URL has `submodules=1`:"
    } else {
        "Submodules with nothing in them:"
    };
    section(title, &submodules);
    section("Pointers of Git LFS in place of files:", &pointers);
    let lines = ours.unpinned.iter();
    let lines: Vec<String> = lines
        .map(|unpinned| format!("{}:{}: {}", unpinned.file, unpinned.line, unpinned.what))
        .collect();
    let nix_path = ours.nix_path.as_deref().unwrap_or("not set");
    section(
        &format!("Not pinned, so Hydra may have used another (NIX_PATH is {nix_path}):"),
        &lines,
    );
    Alone {
        changed,
        unpinned,
        evidence: text,
    }
}

/// The first lines of a list, indented, and the number of the others.
pub(super) fn shown(lines: &[String]) -> String {
    let mut text = String::new();
    for line in lines.iter().take(SHOWN) {
        let _ = writeln!(text, "    {line}");
    }
    if lines.len() > SHOWN {
        let _ = writeln!(text, "    … and {} more", lines.len() - SHOWN);
    }
    text
}

fn only(side: Side, there: &str) -> String {
    match side {
        Side::Here => "only here".to_string(),
        Side::There => format!("only {there}"),
    }
}

/// Up to two names, and how many more.
pub(super) fn some(names: &[&str]) -> String {
    match names {
        [one, two, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two} and {} more", rest.len())
        }
        names => list(&names.iter().map(ToString::to_string).collect::<Vec<_>>()),
    }
}

/// The number of files, or of empty directories.
fn count(names: &[&str]) -> String {
    if names.iter().all(|name| name.ends_with('/')) {
        return match names.len() {
            1 => "1 empty directory".to_string(),
            count => format!("{count} empty directories"),
        };
    }
    files(names.len())
}

fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_string(),
        count => format!("{count} files"),
    }
}

/// A variable's value, in one line that is not too long.
fn value(value: Option<&str>) -> String {
    let Some(value) = value else {
        return "not set".to_string();
    };
    let line = value.replace('\n', "\\n");
    if line.chars().count() > VALUE_LENGTH {
        let start: String = line.chars().take(VALUE_LENGTH).collect();
        format!("`{start}…`")
    } else {
        format!("`{line}`")
    }
}
