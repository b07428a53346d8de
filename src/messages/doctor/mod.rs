//! Messages of the doctor: one page, whose first line is the answer.
//!
//! Each kind of cause has one function, which gives its answer, its evidence and its cure together.

mod alone;
mod derivation;
mod lists;
mod source;

pub(super) use self::alone::Alone;
use self::alone::alone;
pub(super) use self::derivation::difference_in;
use self::derivation::{dependencies, value};
pub(super) use self::lists::{SHOWN, differing, shown, some};
use self::source::source;
use super::miss;
use crate::doctor::cause::Cause;
use crate::doctor::compare::{Difference, name};
use crate::doctor::our_side::OurSide;
use crate::doctor::{Diagnosis, Finding, NotBuilt};
use hydra::short;
use std::fmt::Write as _;
use words::list;

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
    pub fn answer_to_miss(&self) -> String {
        self.page().on_miss.unwrap_or_else(|| self.answer())
    }

    /// Both sides, the evidence, and the next step.
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
