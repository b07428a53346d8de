//! Messages about Hydra: the server, the revision, the evaluation and the build.

use super::Message;
use binary_cache::Unusable;
use hydra::revision::RevisionError;
use hydra::{
    DeployError, Failed, Fetched, HydraError, Job, NoJob, NotEvaluated, NotFinished,
    lacks_credentials, short,
};
use indoc::formatdoc;
use std::fmt::Write as _;
use std::time::Duration;
use words::{duration, list, listed};

/// Before each line of a list.
const INDENT: &str = "    ";

/// How many jobs, and files that differ, are named; the rest are counted.
const JOBS_SHOWN: usize = 10;
const FILES_SHOWN: usize = 5;

fn hydra(error: &HydraError) -> Message {
    match error {
        HydraError::NoHydra {
            asked: caches,
            unreached,
        } if unreached.is_empty() => Message::of(&formatdoc! {"
            There is no Hydra to ask

            {asked}

            Set NIX_HYDRA_URL to the URL of the Hydra that has the job.
        ", asked = match caches.as_slice() {
            [] => "NIX_HYDRA_JOB is set, but neither NIX_HYDRA_URL nor a binary cache is.".to_string(),
            caches => format!("NIX_HYDRA_JOB is set, but none of the binary caches is a Hydra: {}.", list(caches)),
        }}),
        HydraError::NoHydra {
            asked: caches,
            unreached,
        } => Message::of(&formatdoc! {"
            No binary cache has answered as a Hydra does

            The binary caches are {caches}. These did not answer:

            {unreached}
            Check that they can be reached from where the image is built; or set NIX_HYDRA_URL to the
            URL of the right Hydra.
        ", caches = list(caches), unreached = listed(unreached, usize::MAX, INDENT)}),
        HydraError::Http { url, error } if lacks_credentials(error) => Message::of(&formatdoc! {"
            Hydra cannot be asked without credentials

            {url}: {error}. A proxy in front of Hydra refused the request.

            Give its user and password: in a service binding of type
            `nix-binary-cache` with the Hydra's URL, in the netrc file that NIX_NETRC_FILE names, or
            in NIX_HYDRA_URL.
        "}),
        HydraError::Http { url, error } => Message::of(&formatdoc! {"
            Hydra did not answer

            {url}: {error}.

            Check NIX_HYDRA_URL (or NIX_EXTRA_BINARY_CACHE, where that is the Hydra), and that it
            can be reached from where the image is built.
        "}),
        HydraError::Refused {
            url,
            status,
            message,
        } => Message::of(&formatdoc! {"
            Hydra refused to answer

            {url}: {message} (HTTP status {status})

            Check the names in NIX_HYDRA_JOB, and that this is the Hydra that has the job.
        "}),
        HydraError::Answer { url, reason } => Message::of(&formatdoc! {"
            This does not seem to be a Hydra

            {url}: the answer cannot be used: {reason}.

            Check that NIX_HYDRA_URL is the Hydra's own URL, as a browser shows it, without
            what follows its host (or the prefix under which it is served).
        "}),
        HydraError::Private { url } => Message::of(&formatdoc! {"
            This Hydra is private

            {url} shows its builds to signed-in users only.

            Give the user and password of an account on it: in a service binding of type `nix-binary-cache` with
            its URL, in the netrc file that NIX_NETRC_FILE names, or in NIX_HYDRA_URL.
        "}),
        HydraError::SignIn { url, message } => Message::of(&formatdoc! {"
            Signing in to Hydra failed

            {url}: {message}

            Check the user and password for this host: in the service binding, the netrc file, or
            the URL. An account that signs in through Google or GitHub has no password to give here.
        "}),
    }
}

/// The hint for a path that Hydra has built and no cache has.
pub(super) fn not_kept(job: &Job, unusable: &[Unusable]) -> String {
    let mut text = String::new();
    for Unusable { cache, reason } in unusable {
        let _ = writeln!(text, "{cache}: {reason}.\n");
    }
    let _ = write!(
        text,
        "Hydra has built {job}, but its output was garbage-collected since\n\
         (restart the build on Hydra, or raise the number of evaluations that the jobset keeps), or is\n\
         kept elsewhere: set NIX_EXTRA_BINARY_CACHE to where that is."
    );
    text
}

fn revision(error: &RevisionError) -> Message {
    let header = "The revision to deploy is not known";
    match error {
        RevisionError::Unknown => Message::new(
            header,
            formatdoc! {"
                Hydra is asked for what it built of one revision, but neither NIX_REVISION nor a
                variable of the platform (such as SOURCE_VERSION) names it, and the app has no `.git`.

                Set NIX_REVISION to the git revision; or to `latest`, for whatever Hydra built last.
            "},
        ),
        RevisionError::Git(error) => Message::new(
            header,
            formatdoc! {"
                The app has a `.git`, but its revision cannot be read: {error}.

                Set NIX_REVISION to the git revision.
            "},
        ),
        RevisionError::Changed(files) => Message::new(
            header,
            formatdoc! {"
                The app has a `.git`, but differs from its revision in {count}:

                {files}
                Hydra builds revisions, so it has not built this. Commit the changes, or remove these
                files; or set NIX_REVISION to the revision to deploy anyway.
            ", count = words::count(files.len(), "file"), files = listed(files, FILES_SHOWN, INDENT)},
        ),
    }
}

pub(super) fn deploy(error: &DeployError) -> Message {
    match error {
        DeployError::Hydra(error) => hydra(error),
        DeployError::Revision(error) => revision(error),
        DeployError::NotEvaluated(error) => not_evaluated(error),
        DeployError::Ambiguous {
            revision,
            candidates,
        } => Message::of(&formatdoc! {"
            The short revision {revision} is ambiguous

            One evaluation has {inputs}.

            Set NIX_REVISION to the whole revision, or NIX_HYDRA_INPUT to the right input.
        ", inputs = list(&candidates.iter().map(|found| format!("{} as input {}", found.revision, found.input)).collect::<Vec<_>>())}),
        DeployError::NoInput {
            input,
            inputs: names,
        } => Message::of(&formatdoc! {"
            The jobset has no input named {input}

            NIX_HYDRA_INPUT is set to `{input}`. The newest evaluation has {names}.

            Set it to the input that is the app's repository, or unset it to look at all inputs.
        ", names = if names.is_empty() { "no inputs (a flake counts as `flake`)".to_string() } else { list(names) }}),
        DeployError::NoJob(error) => no_job(error),
        DeployError::NoLatest { job, system } => Message::of(&formatdoc! {"
            Hydra never built {job}

            No build of this job for {system} has succeeded yet.

            Check the name in NIX_HYDRA_JOB, and the job's page on Hydra.
        "}),
        DeployError::NotFinished(not_finished) => self::not_finished(not_finished),
        DeployError::Failed(failed) => build_failed(failed),
        DeployError::System {
            page,
            system,
            wanted,
        } => Message::of(&formatdoc! {"
            Hydra built this job for {system}

            {page}
            is for {system}, but the image is for {wanted}.

            Set NIX_HYDRA_JOB to the job for {wanted}; its name often ends with the system.
        "}),
        DeployError::NoOutput(page) => Message::of(&formatdoc! {"
            Hydra does not say which store path it built

            {page}
            succeeded, but its outputs have no store path. Content-addressed derivations are like this.

            Set NIX_STORE_PATH to the store path, or unset NIX_HYDRA_JOB to evaluate the expression.
        "}),
    }
}

fn not_evaluated(error: &NotEvaluated) -> Message {
    let (job, revision, newest) = (&error.job, &error.revision, error.newest.as_ref());
    let evaluations = match error.looked_at {
        0 => "There is no evaluation yet, so none has".to_string(),
        1 => "Looked at 1 evaluation, which has not".to_string(),
        count => format!("Looked at {count} evaluations, none of which has"),
    };
    let input_name = error.input.as_deref();
    let input = input_name.map_or("an input".into(), |input| format!("the input {input}"));
    let header = format!(
        "Hydra has not evaluated revision {} of {}:{}",
        short(&revision.name),
        job.project,
        job.jobset
    );
    let mut body = format!(
        "{evaluations} {} ({}) as {input}{}.\n{}\n\n",
        revision.name,
        revision.from,
        after(error.waited),
        error.page
    );
    // Writing to a string does not fail.
    if let Some(newest) = newest {
        let inputs: Vec<String> = newest
            .revisions
            .iter()
            .map(|found| format!("{} {}", found.input, short(&found.revision)))
            .collect();
        let _ = writeln!(
            body,
            "The newest, {}, has {}.",
            newest.evaluation,
            list(&inputs)
        );
    }
    let _ = writeln!(body, "{}.\n", error.doing);
    if let Some(error) = &error.error {
        let _ = writeln!(body, "Its last attempt failed:\n\n{}", quoted(error));
    }
    let candidates = newest.iter().flat_map(|newest| &newest.revisions);
    let built = candidates
        .filter(|found| input_name.is_none_or(|input| input == found.input))
        .map(|found| found.revision.as_str());
    let built: Vec<&str> = built.collect();
    if let Some(fetched) = error.fetched
        && let [revision, ..] = built.as_slice()
    {
        body.push_str(match fetched {
            Fetched::After => {
                "Hydra has fetched this revision, and it brought no new builds: what it builds is what the\n\
                 newest evaluation has."
            }
            Fetched::Before => {
                "Hydra has fetched this revision, and has evaluated a later one: of commits that are\n\
                 pushed together, only the last is evaluated."
            }
        });
        let _ = write!(body, " Deploy that with NIX_REVISION={revision}.");
        return Message::new(header, body);
    }
    body.push_str(if error.disabled {
        "The jobset is disabled, so waiting does not help: enable it on Hydra."
    } else if error.error.is_some() {
        "Fix that, push, and deploy the new revision."
    } else {
        "Check that it was pushed to the branch that the jobset watches, and that Hydra checks it\n\
         often enough (or is told by the forge's webhook); then wait longer with NIX_HYDRA_WAIT.\n\
         Hydra does not list evaluations that brought no new builds: if this revision changed\n\
         nothing that is built, deploy the one before, or NIX_REVISION=latest."
    });
    Message::new(header, body)
}

fn no_job(error: &NoJob) -> Message {
    let (page, jobs) = (&error.page, &error.jobs);
    let header = format!("The evaluation has no job named {}", error.job.job);
    if let Some(error) = &error.error {
        let error = quoted(error);
        return Message::new(
            header,
            format!(
                "{page}\nHydra could not evaluate it:\n\n{error}\nFix that, push, and deploy the new revision."
            ),
        );
    }
    let there = match jobs.as_deref() {
        None => "Its jobs could not be listed.".to_string(),
        Some([]) => "It has no jobs.".to_string(),
        Some(jobs) => format!(
            "There are:\n\n{}",
            listed(jobs, JOBS_SHOWN, INDENT).trim_end()
        ),
    };
    Message::new(
        header,
        format!("{page}\n{there}\n\nCheck the name in NIX_HYDRA_JOB: project, jobset, and job."),
    )
}

fn not_finished(not_finished: &NotFinished) -> Message {
    let mut body = formatdoc! {"
        {doing}.
        {page}

        Deploy again when it is done, or set NIX_HYDRA_WAIT to a longer time.
    ", doing = not_finished.doing, page = not_finished.page};
    if let Some(finished) = &not_finished.finished {
        let path = &finished.path;
        let _ = write!(body, "\n{finished}\nNIX_STORE_PATH={path} deploys that.\n");
    }
    Message::new(
        format!("Hydra is not done{}", after(not_finished.waited)),
        body,
    )
}

fn build_failed(failed: &Failed) -> Message {
    let (what, next) = status(failed.status, &failed.system);
    let mut body = format!("{}\n\n", failed.page);
    let _ = match &failed.tail {
        Some(lines) => {
            let lines = listed(lines, usize::MAX, INDENT);
            write!(body, "The end of its log, {}:\n\n{lines}", failed.log)
        }
        None => writeln!(body, "Its log: {}", failed.log),
    };
    let _ = write!(body, "\n{next}");
    Message::new(format!("Hydra's build of {} {what}", failed.job), body)
}

/// How a build ended, and the next step. Source: `renderStatus` of Hydra's templates.
fn status(status: Option<u64>, system: &str) -> (String, String) {
    let again = "Restart it on Hydra, and deploy again.".to_string();
    let fix = "Fix it, push, and deploy the new revision.".to_string();
    match status {
        Some(1) => ("failed".into(), fix),
        Some(2) => (
            "failed, since a dependency did".into(),
            "The build's page names the step that failed. Fix it, push, and deploy the new revision."
                .into(),
        ),
        Some(3) => (
            "was aborted".into(),
            format!("This is a fault of Hydra, not of the job. {again}"),
        ),
        Some(4) => ("was cancelled".into(), again),
        Some(6) => (
            "failed with output".into(),
            "Its output says that it failed (`nix-support/failed`), so it is not deployed.".into(),
        ),
        Some(7) => (
            "timed out".into(),
            "Give the job more time (`meta.timeout`, `meta.maxSilent`), or restart it on Hydra.".into(),
        ),
        Some(9) => (
            "has no machine to run on".into(),
            format!("No machine of this Hydra builds for {system}, with the features that the job needs."),
        ),
        Some(10) => (
            "wrote too long a log".into(),
            "Hydra ends a build whose log is over its limit. Make the build quieter.".into(),
        ),
        Some(11) => (
            "made too large an output".into(),
            "Hydra ends a build whose output is over its limit (`max_output_size`).".into(),
        ),
        Some(12) => (
            "is not deterministic".into(),
            "Building it again gave other files, which this Hydra does not accept.".into(),
        ),
        Some(other) => (format!("ended with the status {other}"), again),
        None => ("ended without a status".into(), again),
    }
}

/// The lines of a text, indented.
fn quoted(text: &str) -> String {
    listed(&text.lines().collect::<Vec<_>>(), usize::MAX, INDENT)
}

/// How long was waited, as a clause, or an empty text.
fn after(waited: Duration) -> String {
    match waited.as_secs() {
        0 => String::new(),
        _ => format!(", after {}", duration(waited)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::tests::texts;
    use crate::resolve::ResolveError;
    use app_dir::git::GitError;
    use http_client::HttpError;
    use hydra::Revision;
    use hydra::api::InputRevision;
    use hydra::{Finished, Newest, Unreached};

    fn job() -> Job {
        Job {
            project: "acme".into(),
            jobset: "main".into(),
            job: "myapp".into(),
        }
    }

    fn page() -> String {
        "https://hydra.acme.net/build/7".into()
    }

    fn of_the_server() -> Vec<DeployError> {
        let url = || "https://hydra.acme.net/eval/1".to_string();
        let unreached = vec![Unreached {
            url: url(),
            error: HttpError::Status(502),
        }];
        let no_hydra = |asked, unreached| HydraError::NoHydra { asked, unreached };
        let errors = [
            no_hydra(Vec::new(), Vec::new()),
            no_hydra(vec!["https://cache.acme.net".into()], Vec::new()),
            no_hydra(vec![url()], unreached),
            HydraError::Http {
                url: url(),
                error: HttpError::Status(407),
            },
            HydraError::Http {
                url: url(),
                error: HttpError::Transport("no route to it".into()),
            },
            HydraError::Refused {
                url: url(),
                status: 404,
                message: "Jobset `main` doesn't exist.".into(),
            },
            HydraError::Answer {
                url: url(),
                reason: "expected value at line 1 column 1".into(),
            },
            HydraError::Private { url: url() },
            HydraError::SignIn {
                url: url(),
                message: "Bad username or password.".into(),
            },
        ];
        errors.map(DeployError::Hydra).into()
    }

    fn not_finished(finished: Option<Finished>) -> NotFinished {
        NotFinished {
            page: page(),
            doing: "It waits for a machine".into(),
            waited: Duration::from_mins(5),
            finished,
        }
    }

    fn of_the_revision() -> Vec<DeployError> {
        let mut files = vec!["main.py".to_string(), "new.py".to_string()];
        files.resize(12, "other.py".to_string());
        let mut errors: Vec<_> = [
            RevisionError::Unknown,
            RevisionError::Git(GitError::Format("/workspace/.git/HEAD".into())),
            RevisionError::Changed(files),
        ]
        .map(DeployError::Revision)
        .into();
        let revision = |end: char| format!("0123456{}", String::from(end).repeat(33));
        let at = |input: &str, revision| InputRevision {
            input: input.into(),
            revision,
        };
        errors.push(DeployError::Ambiguous {
            revision: "0123456".into(),
            candidates: vec![at("src", revision('a')), at("nixpkgs", revision('b'))],
        });
        errors.push(DeployError::NoInput {
            input: "scr".into(),
            inputs: vec!["src".into()],
        });
        for (disabled, error) in [
            (false, None),
            (true, None),
            (false, Some("error: undefined variable `x`".to_string())),
        ] {
            errors.push(DeployError::NotEvaluated(Box::new(NotEvaluated {
                revision: Revision {
                    name: revision('a'),
                    from: "NIX_REVISION".into(),
                },
                page: "https://hydra.acme.net/jobset/acme/main".into(),
                job: job(),
                input: Some("src".into()),
                looked_at: 20,
                newest: Some(Newest {
                    evaluation: 31,
                    revisions: vec![at("src", revision('c'))],
                }),
                waited: Duration::from_mins(5),
                doing: "The jobset is to be evaluated next".into(),
                disabled,
                fetched: None,
                error,
            })));
        }
        errors
    }

    fn of_the_build() -> Vec<DeployError> {
        let mut errors = vec![
            DeployError::NoLatest {
                job: job(),
                system: "x86_64-linux".into(),
            },
            DeployError::NotFinished(not_finished(None)),
            DeployError::NotFinished(not_finished(Some(Finished {
                evaluation: 7,
                page: page(),
                path: "/nix/store/ldgf6y1z2b5ri4xzmxgpxyz21h7s6hvb-myapp".into(),
            }))),
            DeployError::System {
                page: page(),
                system: "aarch64-linux".into(),
                wanted: "x86_64-linux".into(),
            },
            DeployError::NoOutput(page()),
        ];
        for error in [None, Some("error: attribute missing".to_string())] {
            errors.push(DeployError::NoJob(Box::new(NoJob {
                job: job(),
                page: page(),
                jobs: Some((0..12).map(|number| format!("job-{number}")).collect()),
                error,
            })));
        }
        let statuses = [1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 13].map(Some);
        for status in statuses.into_iter().chain([None]) {
            let tail = (status == Some(1)).then(|| vec!["make: *** No rule".to_string()]);
            errors.push(DeployError::Failed(Box::new(Failed {
                job: job(),
                status,
                system: "x86_64-linux".into(),
                page: page(),
                log: page() + "/log",
                tail,
            })));
        }
        errors
    }

    #[test]
    fn messages_about_hydra() {
        let mut errors = of_the_server();
        errors.append(&mut of_the_revision());
        errors.append(&mut of_the_build());
        let errors = errors.into_iter();
        let errors = errors.map(|error| ResolveError::Hydra(error).into());
        insta::assert_snapshot!(texts(&errors.collect::<Vec<_>>()));
    }
}
