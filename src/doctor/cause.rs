//! From the differences to their usual causes.

use super::compare::{Comparison, Difference, Site, name, plain_name, was_copied};
use super::hydra_side::Built;
use super::our_side::{OurSide, is_of_app};
use super::stores::Store;
use super::tree::{Change, Tree, TreeDifference};
use hydra::api::InputRevision;
use nix_derivation::StorePath;

/// The fewest digits that git shortens a revision to.
const SHORTEST_REVISION: usize = 7;

/// Why two derivations differ. Of a pair, the first is ours.
#[derive(Debug)]
pub enum Cause {
    System(String, String),
    Source(Box<SourceCause>),
    /// The expression uses something of the revision, which Hydra passes to it: the derivation, the
    /// variable, and its values.
    Revision(String, String, Option<String>, Option<String>),
    Dependencies(Box<Dependencies>),
    /// A difference in a derivation itself, by name, which is not one of the usual ones.
    Other(String, Difference),
}

/// A source that differs.
#[derive(Debug)]
pub struct SourceCause {
    /// The derivation that it is of, and the variable that names it.
    pub derivation: String,
    pub variable: Option<String>,
    pub ours: StorePath,
    pub theirs: StorePath,
    pub kind: SourceKind,
    pub difference: TreeDifference,
    /// The source itself is the same, but it is called after the store path of the whole, which is
    /// what differs (`cleanSource ./.`).
    pub filtered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// Hydra's is called `git-export`.
    GitExport,
    /// Theirs was copied from a directory, and not out of the store.
    OutsideTheStore,
    OtherName,
    Submodules(Vec<String>),
    /// These submodules are empty on Hydra, but not here.
    SubmodulesEmptyThere(Vec<String>),
    /// Neither its content nor its name differs.
    OtherPath,
    /// All differences are of one kind.
    Only(Change),
    /// These differ from the revision in the app's own `.git`.
    Uncommitted(Vec<String>),
    /// Files that only we have.
    Stray,
    /// Files that only Hydra has.
    LeftOut,
    Content,
    /// The whole that it is called after differs, but could not be read.
    NamedAfterWhole,
    /// Hydra's could not be read.
    Unreadable,
}

/// Inputs that differ outside the app: another nixpkgs, as a rule.
#[derive(Debug)]
pub struct Dependencies {
    pub ours: String,
    pub theirs: String,
    /// From the root to it.
    pub way: Vec<String>,
    pub difference: Difference,
    /// The number of derivations that differ, and whether there are more.
    pub pairs: usize,
    pub more: bool,
    /// The revisions of Hydra's inputs.
    pub inputs: Vec<InputRevision>,
}

/// The causes that show without Hydra's derivation.
pub(super) fn of_facts(built: &Built, derivation: &StorePath, system: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if built.build.system != system {
        causes.push(Cause::System(
            system.to_string(),
            built.build.system.clone(),
        ));
    }
    let ours = name(derivation);
    if let Some(theirs) = built.derivation.as_ref().map(name)
        && theirs != ours
    {
        let difference =
            Difference::Variable("name".into(), Some(ours.into()), Some(theirs.into()));
        causes.push(Cause::Other(ours.to_string(), difference));
    }
    causes
}

/// The causes of the differences that a comparison found, likeliest first. `revisions` are those of the
/// other side's inputs, where they are known.
pub(super) fn of(
    comparison: &Comparison,
    revisions: &[InputRevision],
    ours: &OurSide,
    here: &mut dyn Store,
    there: &mut dyn Store,
) -> Vec<Cause> {
    let sites = comparison.sites.iter();
    let all = || {
        sites
            .clone()
            .flat_map(|site| site.differences.iter().map(move |one| (site, one)))
    };
    // Of another system, everything else differs as well.
    let system = all().find_map(|(_, difference)| match difference {
        Difference::System(one, other) => Some(Cause::System(one.clone(), other.clone())),
        _ => None,
    });
    if let Some(system) = system {
        return vec![system];
    }
    let mut classifier = Classifier {
        comparison,
        revisions,
        ours,
        here,
        there,
    };
    let mut causes: Vec<Cause> = Vec::new();
    for (site, difference) in all() {
        if !causes.iter().any(|known| known.explains(difference)) {
            causes.push(classifier.cause(site, difference));
        }
    }
    // The nearest to the root stands for all dependencies.
    let mut has_dependencies = false;
    causes.retain(|cause| {
        !matches!(cause, Cause::Dependencies(_)) || !std::mem::replace(&mut has_dependencies, true)
    });
    causes.sort_by_key(Cause::rank);
    causes
}

/// What a difference is judged by.
struct Classifier<'a> {
    comparison: &'a Comparison,
    revisions: &'a [InputRevision],
    ours: &'a OurSide,
    here: &'a mut dyn Store,
    there: &'a mut dyn Store,
}

impl Classifier<'_> {
    fn cause(&mut self, site: &Site, difference: &Difference) -> Cause {
        let derivation = name(&site.ours).to_string();
        match difference {
            Difference::Source(variable, one, other)
                if is_of_app(one, &self.ours.tree, self.here) =>
            {
                let variable = variable.clone();
                Cause::Source(Box::new(self.source(derivation, variable, one, other)))
            }
            Difference::Variable(variable, one, other)
                if !site.fixed
                    && is_revision(
                        variable,
                        one.as_deref(),
                        other.as_deref(),
                        self.revisions,
                        self.ours,
                    ) =>
            {
                Cause::Revision(derivation, variable.clone(), one.clone(), other.clone())
            }
            _ if site.way.is_empty() => Cause::Other(derivation, difference.clone()),
            _ => Cause::Dependencies(Box::new(Dependencies {
                ours: derivation,
                theirs: name(&site.theirs).to_string(),
                way: site.way.clone(),
                difference: difference.clone(),
                pairs: self.comparison.pairs,
                more: self.comparison.cut_short,
                inputs: self.revisions.to_vec(),
            })),
        }
    }

    fn source(
        &mut self,
        derivation: String,
        variable: Option<String>,
        one: &StorePath,
        other: &StorePath,
    ) -> SourceCause {
        let mut cause = SourceCause {
            derivation,
            variable,
            ours: one.clone(),
            theirs: other.clone(),
            kind: SourceKind::Unreadable,
            difference: TreeDifference::default(),
            filtered: false,
        };
        let (Some(mut our_tree), Some(mut their_tree)) =
            (self.here.tree(one), self.there.tree(other))
        else {
            return cause;
        };
        // A source that is a single file.
        for tree in [&mut our_tree, &mut their_tree] {
            if let Some(file) = tree.files.remove("") {
                tree.files.insert(plain_name(one).to_string(), file);
            }
        }
        cause.difference = our_tree.difference(&their_tree);
        let names = (plain_name(one), plain_name(other));
        if cause.difference.is_empty() && names.0 == names.1 && was_copied(one) && was_copied(other)
        {
            cause.filtered = true;
            let wholes = (copied_from(one), copied_from(other));
            let (Some(our_whole), Some(their_whole)) = (
                wholes.0.and_then(|path| self.here.tree(&path)),
                wholes.1.and_then(|path| self.there.tree(&path)),
            ) else {
                cause.kind = SourceKind::NamedAfterWhole;
                return cause;
            };
            (our_tree, their_tree) = (our_whole, their_whole);
            cause.difference = our_tree.difference(&their_tree);
        }
        cause.kind = if cause.difference.is_empty() {
            match names {
                (_, "git-export") => SourceKind::GitExport,
                _ if was_copied(one) && !was_copied(other) => SourceKind::OutsideTheStore,
                (one, other) if one == other => SourceKind::OtherPath,
                _ => SourceKind::OtherName,
            }
        } else {
            kind(&our_tree, &their_tree, &cause.difference, self.ours)
        };
        cause
    }
}

impl Cause {
    /// Its place in the list of causes.
    fn rank(&self) -> u8 {
        match self {
            Self::System(..) => 0,
            Self::Source(_) => 1,
            Self::Revision(..) => 2,
            Self::Dependencies(_) => 3,
            Self::Other(..) => 4,
        }
    }

    /// Whether `difference` is of the same source.
    fn explains(&self, difference: &Difference) -> bool {
        matches!((self, difference), (Self::Source(known), Difference::Source(_, one, _)) if known.ours == *one)
    }
}

/// The store path that a source was copied from, as its name has it.
fn copied_from(path: &StorePath) -> Option<StorePath> {
    StorePath::from_basename(path.name().as_bytes()).ok()
}

fn kind(here: &Tree, there: &Tree, difference: &TreeDifference, ours: &OurSide) -> SourceKind {
    let submodules = there.submodules().into_iter();
    let submodules: Vec<String> = submodules
        .filter(|path| here.missing_submodules().contains(path))
        .collect();
    let in_submodule = |name: &String| {
        let paths = submodules.iter();
        let mut below = paths.filter_map(|path| name.strip_prefix(path)?.strip_prefix('/'));
        below.any(|below| !below.is_empty())
    };
    if difference.only_there.iter().any(in_submodule) {
        return SourceKind::Submodules(submodules);
    }
    let empty_there = there.submodules_empty_beside(here);
    if !empty_there.is_empty() {
        return SourceKind::SubmodulesEmptyThere(empty_there);
    }
    let only_changes = difference.only_here.is_empty() && difference.only_there.is_empty();
    if let Some((_, first)) = difference.changed.first()
        && only_changes
        && *first != Change::Content
        && difference.changed.iter().all(|(_, change)| change == first)
    {
        return SourceKind::Only(*first);
    }
    let changes = &ours.changes;
    let uncommitted: Vec<String> = difference
        .names()
        .filter(|name| {
            changes.iter().any(|change| {
                change == name || (change.ends_with('/') && name.starts_with(change.as_str()))
            })
        })
        .map(str::to_string)
        .collect();
    if !uncommitted.is_empty() {
        return SourceKind::Uncommitted(uncommitted);
    }
    match (
        difference.only_here.is_empty(),
        difference.only_there.is_empty(),
        difference.changed.is_empty(),
    ) {
        (false, true, true) => SourceKind::Stray,
        (true, false, true) => SourceKind::LeftOut,
        _ => SourceKind::Content,
    }
}

/// Whether a variable holds the revision of an input, or something made of it, on one side. Another
/// revision, as of what a package of nixpkgs is fetched from, tells nothing of Hydra's inputs.
fn is_revision(
    variable: &str,
    one: Option<&str>,
    other: Option<&str>,
    revisions: &[InputRevision],
    ours: &OurSide,
) -> bool {
    // Hydra's own words, whose values are no revisions.
    if ["revCount", "gitTag"].contains(&variable) {
        return true;
    }
    let revisions = revisions.iter().map(|found| &found.revision);
    let revisions: Vec<&String> = revisions
        .chain(&ours.revision)
        .filter(|revision| revision.len() >= SHORTEST_REVISION)
        .collect();
    let mentions = |value: &str| {
        let words = value.split(|c: char| !c.is_ascii_hexdigit());
        let mut words = words.filter(|word| word.len() >= SHORTEST_REVISION);
        words.any(|word| {
            let mut revisions = revisions.iter();
            revisions
                .any(|revision| revision.starts_with(word) || word.starts_with(revision.as_str()))
        })
    };
    one.is_some_and(mentions) || other.is_some_and(mentions)
}
