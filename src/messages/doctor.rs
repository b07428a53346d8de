//! The diagnosis as people read it: one page, whose first line is the answer.

use crate::doctor::cause::{Cause, Dependencies, SourceCause, SourceKind};
use crate::doctor::compare::{Difference, Side};
use crate::doctor::our_side::OurSide;
use crate::doctor::tree::{Change, TreeDifference};
use crate::doctor::{Diagnosis, Finding};
use hydra::api::InputRevision;
use hydra::short;
use std::fmt::Write as _;
use words::list;

/// Lines of a list that are shown.
const SHOWN: usize = 8;

/// The longest value of a variable that is shown in full.
const VALUE_LENGTH: usize = 100;

/// What a revision may be that no evaluation has.
const NOT_LISTED: &str = "\
Either Hydra has not evaluated it yet: wait for it, and deploy again, or set NIX_HYDRA_JOB without
NIX_HYDRA_INPUTS, which waits. Or its evaluation had nothing new to build: Hydra lists no such
evaluation, and what it built before is what the revision has.
";

impl Diagnosis {
    /// The answer, in one line.
    #[must_use]
    pub fn answer(&self) -> String {
        let Some(revision) = self.other_revision().filter(|_| self.differs()) else {
            return self.difference();
        };
        let build = self.build.as_ref();
        build.and_then(|build| build.looked_at).map_or_else(
            || {
                let name = crate::doctor::compare::name(&self.root);
                format!(
                    "None of Hydra's newest builds of {name} is known to be of revision {revision}"
                )
            },
            |looked_at| none_has(looked_at, revision),
        )
    }

    /// The answer for whoever misses the root: where nothing looks wrong, that is the likeliest.
    #[must_use]
    pub fn answer_to_miss(&self) -> String {
        match &self.finding {
            Finding::Alone(_) if !alone(&self.ours).2 => format!(
                "No binary cache has {}: Hydra may not have built this revision yet",
                self.root.name()
            ),
            Finding::Same => format!(
                "Hydra built {}, but no binary cache has it any more",
                self.root.name()
            ),
            _ => self.answer(),
        }
    }

    /// The revision that is deployed, where the build is of another one.
    fn other_revision(&self) -> Option<&str> {
        let is_other = self.build.as_ref()?.same_revision == Some(false);
        let own = self.ours.revision.as_deref()?;
        is_other.then(|| short(own))
    }

    /// Whether it is not what was built.
    fn differs(&self) -> bool {
        matches!(
            self.finding,
            Finding::NotBuilt(_) | Finding::Different { .. } | Finding::Unreadable { .. }
        )
    }

    fn difference(&self) -> String {
        match &self.finding {
            Finding::NotEvaluated {
                revision,
                jobset,
                looked_at,
            } => format!("{} of {jobset}", none_has(*looked_at, revision)),
            Finding::NotBuilt(what) => what.clone(),
            Finding::Same => "What is evaluated here is what Hydra built".to_string(),
            Finding::Different { causes, .. } | Finding::Unreadable { causes } => {
                causes.first().map_or_else(
                    || match self.finding {
                        Finding::Unreadable { .. } => {
                            "Hydra built another derivation, which cannot be read".to_string()
                        }
                        _ => {
                            "Hydra's derivation differs, but not in what was looked at".to_string()
                        }
                    },
                    answer,
                )
            }
            Finding::Alone(_) => alone(&self.ours).0,
        }
    }

    /// What the answer rests on, and what to do.
    #[must_use]
    pub fn explanation(&self) -> String {
        let mut text = self.sides();
        text.push('\n');
        if self.other_revision().is_some() && self.differs() {
            text.push_str(NOT_LISTED);
            let _ = writeln!(
                text,
                "\nAgainst the newest that there is: {}.\n",
                self.difference()
            );
        }
        match &self.finding {
            Finding::NotEvaluated { .. } => {
                text.push_str(NOT_LISTED);
                text.push_str(
                    "\nThe newest evaluation has no such job, so there is nothing to compare with.\n",
                );
            }
            Finding::NotBuilt(_) => text.push_str("The build's page tells more.\n"),
            Finding::Same => text.push_str(
                "If no binary cache has it, it was garbage-collected (restart the build on Hydra, or keep\n\
                 it), or Hydra stores elsewhere: set NIX_EXTRA_BINARY_CACHE to that.\n",
            ),
            Finding::Different { causes, comparison } => {
                self.causes(&mut text, causes);
                if let [first, ..] = comparison.unread.as_slice() {
                    let _ = writeln!(
                        text,
                        "\n{first} could not be read from the binary caches, so what is below it was not compared.",
                    );
                }
            }
            Finding::Unreadable { causes } => {
                if causes.is_empty() {
                    text.push_str(&alone(&self.ours).1);
                } else {
                    self.causes(&mut text, causes);
                }
                text.push_str(
                    "\nNo binary cache serves Hydra's derivations, so they could not be compared. Hydra itself\n\
                     does where it has a store of its own: name it in NIX_EXTRA_BINARY_CACHE.\n",
                );
            }
            Finding::Alone(why) => {
                text.push_str(&alone(&self.ours).1);
                let _ = writeln!(
                    text,
                    "\nThis is from our side alone. {why}.\n\
                     With NIX_HYDRA_URL (and NIX_HYDRA_JOB), both sides are compared.",
                );
            }
        }
        text.trim_end().to_string()
    }

    /// What is compared.
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
                .map(|found| format!("{} {}", found.input, short(&found.revision)))
                .collect();
            let _ = writeln!(text, "       with {}", list(&revisions));
        }
        if let Some(revision) = self.other_revision() {
            let _ = writeln!(
                text,
                "       and not with {revision}, which is deployed here"
            );
        }
        text
    }

    fn causes(&self, text: &mut String, causes: &[Cause]) {
        if let [first, rest @ ..] = causes {
            text.push_str(&explanation(first, &self.ours));
            if !rest.is_empty() {
                text.push_str("\nAlso:\n");
            }
            for cause in rest.iter().take(SHOWN) {
                let _ = writeln!(text, "    {}", answer(cause));
            }
        }
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

/// One cause in one line.
fn answer(cause: &Cause) -> String {
    match cause {
        Cause::System(ours, theirs) => format!("It is for {ours} here, but for {theirs} on Hydra"),
        Cause::Source(source) if source.filtered && !source.difference.is_empty() => format!(
            "{} (which the filter leaves out, but which changes the name)",
            source_answer(source)
        ),
        Cause::Source(source) => source_answer(source),
        Cause::Revision(derivation, variable, ours, theirs) => format!(
            "The expression uses the revision: `{variable}` of {derivation} is {} here, but {} on Hydra",
            value(ours.as_deref()),
            value(theirs.as_deref())
        ),
        Cause::Dependencies(dependencies) => dependencies_answer(dependencies),
        Cause::Other(derivation, difference) => other_answer(derivation, difference),
    }
}

fn source_answer(source: &SourceCause) -> String {
    let TreeDifference {
        only_here,
        only_there,
        changed,
    } = &source.difference;
    let changed: Vec<&str> = changed.iter().map(|(name, _)| name.as_str()).collect();
    match &source.kind {
        SourceKind::GitExport => {
            "Hydra calls its sources `git-export`, but here they are called `source`".to_string()
        }
        SourceKind::OutsideTheStore => format!(
            "What Hydra has was evaluated in a directory named {}, not in the store",
            source.theirs.name()
        ),
        SourceKind::OtherName => format!(
            "The source has the same files, but is called {} here, and {} on Hydra",
            source.ours.name(),
            source.theirs.name()
        ),
        SourceKind::Submodules(paths) => match paths.as_slice() {
            [only] => format!("The git submodule {only} is missing here"),
            paths => format!("{} git submodules are missing here", paths.len()),
        },
        SourceKind::SubmodulesEmptyThere(paths) => match paths.as_slice() {
            [only] => format!("The git submodule {only} is checked out here, but not on Hydra"),
            paths => format!(
                "{} git submodules are checked out here, but not on Hydra",
                paths.len()
            ),
        },
        SourceKind::OtherPath => format!(
            "The source has the same files and name, but is {} here, and {} on Hydra",
            source.ours, source.theirs
        ),
        SourceKind::Only(change) => changed_answer(*change, &changed),
        SourceKind::Uncommitted(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            format!(
                "The source has changes that are not committed: {}",
                some(&names)
            )
        }
        SourceKind::Stray => {
            let names: Vec<&str> = only_here.iter().map(String::as_str).collect();
            format!(
                "The source has {} here that Hydra's has not: {}",
                count(&names),
                some(&names)
            )
        }
        SourceKind::LeftOut => {
            let names: Vec<&str> = only_there.iter().map(String::as_str).collect();
            format!(
                "The source lacks {} here that Hydra's has: {}",
                count(&names),
                some(&names)
            )
        }
        SourceKind::Content => {
            let names: Vec<&str> = source.difference.names().collect();
            format!(
                "The source differs from Hydra's in {}: {}",
                count(&names),
                some(&names)
            )
        }
        SourceKind::NamedAfterWhole => {
            "The source is filtered, but called after the whole, which differs".to_string()
        }
        SourceKind::Unreadable => format!(
            "The source differs from Hydra's, {}, which cannot be read",
            source.theirs
        ),
    }
}

/// The same change of one or several files.
fn changed_answer(change: Change, names: &[&str]) -> String {
    let one = names.len() == 1;
    let names = some(names);
    let (is, has) = if one { ("is", "has") } else { ("are", "have") };
    let side = |here: bool| {
        if here {
            "here, but not on Hydra"
        } else {
            "on Hydra, but not here"
        }
    };
    let order = |here: bool, yes: &'static str, no: &'static str| {
        if here { (yes, no) } else { (no, yes) }
    };
    match change {
        Change::Executable(here) => format!("{names} {is} executable {}", side(here)),
        Change::LineEndings(here) => {
            let (ours, theirs) = order(here, "CRLF", "LF");
            format!("{names} {has} {ours} line endings here, but {theirs} on Hydra")
        }
        Change::Lfs(here) => {
            let (ours, theirs) = order(here, "a pointer of Git LFS", "the file itself");
            format!("{names} {is} {ours} here, but {theirs} on Hydra")
        }
        Change::Substituted(here) => format!(
            "{names} {is} filled in by `git archive` (export-subst) {}",
            side(here)
        ),
        Change::Link(here) => {
            let (ours, theirs) = order(here, "link", "file");
            format!("{names} {is} a {ours} here, but a {theirs} on Hydra")
        }
        Change::Content => format!("{names} {is} another here than on Hydra"),
    }
}

fn dependencies_answer(dependencies: &Dependencies) -> String {
    let Dependencies { ours, theirs, .. } = dependencies;
    let what = if ours == theirs {
        format!("{ours} is another")
    } else {
        format!("{ours} here, {theirs} on Hydra")
    };
    format!("It is made with other dependencies than Hydra's, as of another nixpkgs: {what}")
}

fn other_answer(derivation: &str, difference: &Difference) -> String {
    match difference {
        Difference::System(ours, theirs) => {
            format!("{derivation} is for {ours} here, but for {theirs} on Hydra")
        }
        Difference::Builder(ours, theirs) => {
            format!("{derivation} is built by {ours} here, but by {theirs} on Hydra")
        }
        Difference::Arguments(ours, theirs) => {
            let different = ours.iter().zip(theirs).find(|(one, other)| one != other);
            let (one, other) = different.map_or((None, None), |(one, other)| {
                (Some(one.as_str()), Some(other.as_str()))
            });
            format!(
                "The builder of {derivation} gets other arguments: {} here, {} on Hydra",
                value(one),
                value(other)
            )
        }
        Difference::Variable(variable, ours, theirs) => format!(
            "`{variable}` of {derivation} is {} here, but {} on Hydra",
            value(ours.as_deref()),
            value(theirs.as_deref())
        ),
        Difference::Source(_, ours, theirs) => {
            format!("{derivation} is made of {ours} here, but of {theirs} on Hydra")
        }
        Difference::SourceOnly(side, path) => {
            format!("{derivation} is made of {} {}", path.name(), only(*side))
        }
        Difference::InputOnly(side, path) => format!(
            "{derivation} is made with {} {}",
            path.name().trim_end_matches(".drv"),
            only(*side)
        ),
        Difference::Outputs(ours, theirs) => format!(
            "{derivation} has the outputs {} here, but {} on Hydra",
            list(ours),
            list(theirs)
        ),
    }
}

/// What a cause rests on, and its cure.
fn explanation(cause: &Cause, ours: &OurSide) -> String {
    match cause {
        Cause::System(..) => {
            "Name the job, or the attribute (NIX_ATTRIBUTES), for the system of the image. An expression\n\
             that takes `system` must pass on what it is given.\n"
                .to_string()
        }
        Cause::Source(source) => source_explanation(source),
        Cause::Revision(..) => {
            "Hydra passes `rev`, `revCount`, `shortRev` and `gitTag` of an input to the expression; here\n\
             there is only the source. Do not use them in what is deployed: put a version into a file of\n\
             the source, or give the program its revision when it runs.\n"
                .to_string()
        }
        Cause::Dependencies(dependencies) => dependencies_explanation(dependencies, ours),
        Cause::Other(_, Difference::Variable(..)) => {
            "Something that the expression takes from outside differs: an argument that the jobset has an\n\
             input for (pass the same, or give it a default), a time, or the environment.\n"
                .to_string()
        }
        Cause::Other(..) => {
            "The expression does not say the same on both sides: compare the revision, the file and the\n\
             attribute that are evaluated with those of the job.\n"
                .to_string()
        }
    }
}

fn source_explanation(source: &SourceCause) -> String {
    let mut text = String::new();
    let what = source
        .variable
        .as_ref()
        .map_or_else(String::new, |variable| format!(" (`{variable}`)"));
    let _ = writeln!(
        text,
        "{} is made of {}{what}\nhere, and of {} on Hydra.",
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
        let lines: Vec<String> = here
            .map(|name| format!("{name}  only here"))
            .chain(there.map(|name| format!("{name}  only on Hydra")))
            .chain(
                difference
                    .changed
                    .iter()
                    .map(|(name, change)| format!("{name}  {}", change_in_words(*change))),
            )
            .collect();
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(text, "    {line}");
        }
        if lines.len() > SHOWN {
            let _ = writeln!(text, "    … and {} more", lines.len() - SHOWN);
        }
    }
    text.push('\n');
    text.push_str(source_cure(&source.kind));
    text
}

fn source_cure(kind: &SourceKind) -> &'static str {
    match kind {
        SourceKind::GitExport => {
            "Hydras from before 2018 call a checkout `git-export`: set NIX_SOURCE_NAME=git-export.\n"
        }
        SourceKind::OutsideTheStore => {
            "`./.` is copied under the name of the directory that it is in. Hydra evaluates inside the\n\
             store, and so does this buildpack; `nix-build` in a checkout does not. Let CI put the source\n\
             into the store first, and build that:\n\
             \n    \
                 nix-build $(nix-store --add-fixed --recursive sha256 source)/default.nix\n\
             \n\
             where `source` is a checkout without `.git`; or give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n"
        }
        SourceKind::OtherName => {
            "The name is part of a store path. Give the source a fixed name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`), or set NIX_SOURCE_NAME.\n"
        }
        SourceKind::Submodules(_) => {
            "Hydra checks submodules out. Let the platform do so, too (`git submodule update --init`) before\n\
             it hands the app over.\n"
        }
        SourceKind::SubmodulesEmptyThere(_) => {
            "Hydra checks out the submodules of a repository, but not those of submodules, and those of a\n\
             flake only where its URL has `submodules=1` or `flake.nix` has `inputs.self.submodules = true`.\n\
             Let the platform check out the same (`git submodule update --init` without `--recursive`, or\n\
             none).\n"
        }
        SourceKind::OtherPath => {
            "It was put into the store in another way on Hydra. Give it a name in the expression\n\
             (`builtins.path { path = ./.; name = \"source\"; }`).\n"
        }
        SourceKind::Only(Change::Executable(_)) => {
            "Something on the way lost or set the executable bit: an archive made on Windows, a file\n\
             system without it, or an upload. Deploy a git checkout as it is.\n"
        }
        SourceKind::Only(Change::LineEndings(_)) => {
            "Git converted line endings where it checked out. Set `* -text` in `.gitattributes`, or\n\
             `core.autocrlf=false` where the app is checked out.\n"
        }
        SourceKind::Only(Change::Lfs(_)) => {
            "Git LFS ran on one side only. Hydra does not run it: keep what is built out of LFS, or fetch\n\
             it in the expression by its hash.\n"
        }
        SourceKind::Only(Change::Substituted(_)) => {
            "One side is an archive made by `git archive` (as forges offer for download), the other a\n\
             checkout. Deploy a checkout, or remove `export-subst` from `.gitattributes`.\n"
        }
        SourceKind::Only(Change::Link(_)) => {
            "Something on the way follows links, or cannot make them. Deploy a git checkout as it is.\n"
        }
        SourceKind::Uncommitted(_) => {
            "Hydra builds what is committed and pushed. Commit and push, or undo the changes, and deploy\n\
             again.\n"
        }
        SourceKind::Stray => {
            "Something put it there after the checkout: the platform, a buildpack that ran before this one,\n\
             or a build on your machine. `.gitignore` does not matter here. Keep it out of what is deployed\n\
             (with `pack`, by `exclude` in `project.toml`), or take only what is needed into the expression\n\
             (`lib.fileset`, `cleanSourceWith` with a name).\n"
        }
        SourceKind::LeftOut => {
            "Something left it out: `exclude` in `project.toml`, `.slugignore`, `export-ignore` in\n\
             `.gitattributes` (archives leave it out, checkouts do not), or a sparse checkout. An empty\n\
             directory may be that of a submodule that Hydra does not check out: git makes it, and it must stay.\n"
        }
        SourceKind::Only(Change::Content) | SourceKind::Content => {
            "Deploy the revision that Hydra built, as it is in git; compare the two with\n\
             `git diff` if these are the app's own files.\n"
        }
        SourceKind::NamedAfterWhole => {
            "The whole of Hydra's is in no binary cache, so it cannot be said what differs in it.\n"
        }
        SourceKind::Unreadable => {
            "No binary cache serves it. Hydra itself does where it has a store of its own.\n"
        }
    }
}

fn dependencies_explanation(dependencies: &Dependencies, ours: &OurSide) -> String {
    let Dependencies {
        way,
        difference,
        pairs,
        more,
        inputs,
        ..
    } = dependencies;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, the first that differs in itself, is reached by {}:\n    {}",
        dependencies.ours,
        way.join(" → "),
        other_answer(&dependencies.ours, difference)
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
    text.push_str(
        "\nPin nixpkgs in the app (`fetchTarball` with the revision in its URL and its `sha256`), so that\n\
         both sides use the same; or set NIX_HYDRA_INPUTS=true, to use Hydra's inputs here.\n",
    );
    text
}

/// What can be said with nothing to compare with: the answer, what it rests on, and whether anything
/// looks wrong.
fn alone(ours: &OurSide) -> (String, String, bool) {
    let submodules = ours.tree.missing_submodules();
    let pointers = ours.tree.lfs_pointers();
    let wrong = if let [first, ..] = ours.changes.as_slice() {
        Some(format!(
            "The source has changes that are not committed, such as {first}"
        ))
    } else if let ([first, ..], false) = (submodules.as_slice(), ours.is_flake) {
        Some(format!("The git submodule {first} is missing here"))
    } else {
        ours.unpinned.first().map(|first| {
            format!(
                "The expression is not pinned: {} in {}:{}",
                first.what, first.file, first.line
            )
        })
    };
    let mut text = String::new();
    if let Some(source) = &ours.source {
        let _ = writeln!(
            text,
            "The app's source is {source}, of {}, for {}.",
            files(ours.source_files),
            ours.system
        );
    }
    text.push_str("Sources that entered:\n");
    for (source, count) in ours.sources.iter().take(SHOWN) {
        let _ = writeln!(text, "    {source}  {}", files(*count));
    }
    if ours.sources.len() > SHOWN {
        let _ = writeln!(text, "    … and {} more", ours.sources.len() - SHOWN);
    }
    if ours.sources.is_empty() {
        text.push_str("    none\n");
    }
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{title}");
            for line in lines.iter().take(SHOWN) {
                let _ = writeln!(text, "    {line}");
            }
            if lines.len() > SHOWN {
                let _ = writeln!(text, "    … and {} more", lines.len() - SHOWN);
            }
        }
    };
    section(
        "Not committed, so Hydra has not got it:",
        ours.changes.clone(),
    );
    let title = if ours.is_flake {
        "Submodules with nothing in them, as on Hydra unless the flake's URL has `submodules=1`:"
    } else {
        "Submodules with nothing in them:"
    };
    section(title, submodules);
    section("Pointers of Git LFS in place of files:", pointers);
    let unpinned = ours.unpinned.iter();
    let unpinned: Vec<String> = unpinned
        .map(|unpinned| format!("{}:{}: {}", unpinned.file, unpinned.line, unpinned.what))
        .collect();
    let nix_path = ours.nix_path.as_deref().unwrap_or("not set");
    section(
        &format!("Not pinned, so Hydra may have used another (NIX_PATH is {nix_path}):"),
        unpinned,
    );
    let looks_wrong = wrong.is_some();
    let answer = wrong.unwrap_or("Nothing here looks as if it differed from Hydra".to_string());
    (answer, text, looks_wrong)
}

fn change_in_words(change: Change) -> &'static str {
    match change {
        Change::Executable(true) => "executable here alone",
        Change::Executable(false) => "executable on Hydra alone",
        Change::LineEndings(true) => "CRLF here, LF on Hydra",
        Change::LineEndings(false) => "LF here, CRLF on Hydra",
        Change::Lfs(true) => "a pointer of Git LFS here",
        Change::Lfs(false) => "a pointer of Git LFS on Hydra",
        Change::Substituted(true) => "filled in here",
        Change::Substituted(false) => "filled in on Hydra",
        Change::Link(true) => "a link here, a file on Hydra",
        Change::Link(false) => "a file here, a link on Hydra",
        Change::Content => "differs",
    }
}

fn only(side: Side) -> &'static str {
    match side {
        Side::Here => "only here",
        Side::There => "only on Hydra",
    }
}

/// Up to two names, and how many more.
fn some(names: &[&str]) -> String {
    match names {
        [one, two, rest @ ..] if !rest.is_empty() => {
            format!("{one}, {two} and {} more", rest.len())
        }
        names => list(&names.iter().map(ToString::to_string).collect::<Vec<_>>()),
    }
}

/// How many files, or empty directories, these are.
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
