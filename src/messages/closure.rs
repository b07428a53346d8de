//! Messages about the closure: a path that no cache has, a failed download, a failed relocation.

use super::message::{Message, disk};
use crate::doctor::Diagnosis;
use crate::layers::closure::processor::WrongProcessor;
use crate::log::{self, bytes};
use crate::report::budget::OverBudget;
use binary_cache::{Answer, CacheAnswer, CacheError, Untrusted, Unusable};
use closure::fetch::{FetchError, FetchFailure};
use closure::plan::Miss;
use closure::relocate::blocker::NotRelocatable;
use closure::unpack::UnpackError;
use http_client::HttpError;
use indoc::formatdoc;
use nix_derivation::StorePath;
use std::fmt::Write as _;
use words::{list, listed};

/// How many forbidden paths are listed; the rest are counted.
const FORBIDDEN_SHOWN: usize = 20;

/// How many missing paths are described in full; the rest are counted.
const MISSES_SHOWN: usize = 3;

/// How many referrers of a missing path are named; the rest are counted.
const REFERRERS_SHOWN: usize = 20;

pub(super) fn miss(misses: &[Miss], hint: &str) -> Message {
    let mut body = String::new();
    for miss in misses.iter().take(MISSES_SHOWN) {
        // Writing to a string does not fail.
        let _ = writeln!(body, "{}", miss.path);
        let referrers = miss.wanted_by.iter().rev();
        for (depth, referrer) in referrers.take(REFERRERS_SHOWN).enumerate() {
            let indent = "  ".repeat(depth + 1);
            let _ = writeln!(body, "{indent}wanted by {referrer}");
        }
        if miss.wanted_by.len() > REFERRERS_SHOWN {
            let more = miss.wanted_by.len() - REFERRERS_SHOWN;
            let _ = writeln!(body, "  … and {more} more");
        }
        for CacheAnswer { cache, answer } in &miss.answers {
            let _ = writeln!(body, "  {cache}: {}", answer_in_words(answer));
        }
        body.push('\n');
    }
    if misses.len() > MISSES_SHOWN {
        let _ = writeln!(body, "… and {} more.\n", misses.len() - MISSES_SHOWN);
    }
    body.push_str(hint);
    let answers = misses.iter().flat_map(|miss| &miss.answers);
    let (failed, answered): (Vec<_>, Vec<_>) =
        answers.partition(|asked| matches!(asked.answer, Answer::Refused(_) | Answer::Failed(_)));
    let has = if misses.iter().any(Miss::is_untrusted) {
        "No binary cache has a trusted copy of"
    } else if failed.is_empty() {
        "No binary cache has"
    } else if answered.is_empty() {
        "No binary cache could be asked for"
    } else {
        "No binary cache that could be asked has"
    };
    let header = match misses {
        [only] => format!("{has} {}", only.path.name()),
        _ => format!("{has} {} of the store paths needed", misses.len()),
    };
    Message::new(header, body)
}

/// The diagnosis is the header: the missing path only led to it.
pub(super) fn diagnosed(misses: &[Miss], diagnosis: &Diagnosis) -> Message {
    let mut body = format!("No binary cache has {}:\n", diagnosis.root);
    let miss = misses.iter().find(|miss| miss.path == diagnosis.root);
    for CacheAnswer { cache, answer } in miss.iter().flat_map(|miss| &miss.answers) {
        let _ = writeln!(body, "  {cache}: {}", answer_in_words(answer));
    }
    body.push('\n');
    body.push_str(&diagnosis.explanation());
    Message::new(diagnosis.answer_to_miss(), body)
}

pub(super) fn answer_in_words(answer: &Answer) -> String {
    match answer {
        Answer::Absent => "it does not have the path".to_string(),
        Answer::Another => "it has the path, but with other content than expected".to_string(),
        Answer::Untrusted(Untrusted::NotSigned) => {
            "it has the path, but without a signature".to_string()
        }
        Answer::Untrusted(Untrusted::UnknownKeys(keys)) => format!(
            "it has the path, but signed only by {}, which is not trusted",
            list(keys)
        ),
        Answer::Untrusted(Untrusted::BadSignature(key)) => {
            format!("it has the path, but its signature by {key} is wrong")
        }
        Answer::Refused(reason) | Answer::Failed(reason) => reason.clone(),
    }
}

const GIVE_CREDENTIALS: &str = "The binary cache requires credentials, or refused the ones it got: give the build\n\
     credentials for it in a service binding of type `nix-binary-cache`, a netrc file\n\
     (NIX_NETRC_FILE) or the URL. Check the cache's name in its URL as well: attic refuses one\n\
     that it does not have.";

/// The next step, by the likeliest cause: a wrong signature, then a cache that did not answer, then
/// paths that differ.
pub(super) fn miss_hint(misses: &[Miss], unusable: &[Unusable]) -> &'static str {
    let answers = || {
        let answers = misses.iter().flat_map(|miss| &miss.answers);
        answers.map(|asked| &asked.answer)
    };
    if answers().next().is_none() {
        return "No binary cache is configured: set NIX_EXTRA_BINARY_CACHE.";
    }
    let forged =
        answers().any(|answer| matches!(answer, Answer::Untrusted(Untrusted::BadSignature(_))));
    if forged {
        return "The signature does not match the narinfo: the narinfo was changed since it was signed, or\n\
                another key is in use under the same name. Nothing of it was used.";
    }
    if misses.iter().any(Miss::is_untrusted) {
        return "Add the key that signs this binary cache's paths to NIX_TRUSTED_PUBLIC_KEYS, as\n\
                `name:base64`, or have the cache sign them.";
    }
    if answers().any(|answer| matches!(answer, Answer::Refused(_))) {
        return GIVE_CREDENTIALS;
    }
    let failed = answers().any(|answer| matches!(answer, Answer::Failed(_)));
    if failed || !unusable.is_empty() {
        return "Check the URLs in NIX_EXTRA_BINARY_CACHE, and that they can be reached from where\n\
                the image is built.";
    }
    if misses.iter().any(|miss| miss.wanted_by.is_empty()) {
        return "Either Hydra has not built this revision (yet), or it evaluated it to another store path:\n\
                its checkout, the expression or an unpinned input differs. Nothing was compiled.";
    }
    "The binary caches have only a part of the closure: the rest was garbage-collected, or is in\n\
     a cache that is not named in NIX_EXTRA_BINARY_CACHE. Nothing was compiled."
}

pub(super) fn fetch(error: &FetchError) -> Message {
    let path = &error.path;
    let failed = |what: String, next: &str| {
        Message::new(
            "Failed to download a store path",
            match &error.cache {
                Some(cache) => format!("{path}\nfrom {cache}: {what}.\n\n{next}"),
                None => format!("{path}: {what}.\n\n{next}"),
            },
        )
    };
    let broken = |what| {
        let next = "Nothing of this closure was kept. Build again; if it comes back, the binary cache has\n\
                    a broken file, and the path must be put into it again.";
        failed(what, next)
    };
    match &error.reason {
        FetchFailure::Open(error) if error.is_absent() => failed(
            error.to_string(),
            "The binary cache describes this path, but does not have its content: it was\n\
             garbage-collected. Have Hydra build it again, or keep it with a release.",
        ),
        FetchFailure::Open(
            error @ CacheError::Http(HttpError::Unauthorized(_) | HttpError::Status(407)),
        ) => failed(error.to_string(), GIVE_CREDENTIALS),
        FetchFailure::Open(CacheError::Http(error)) if error.is_outage() => failed(
            error.to_string(),
            "The binary cache, or the way to it, failed again and again. Nothing of this closure was\n\
             kept: build again once it can be reached from where the image is built.",
        ),
        FetchFailure::Open(error) => broken(error.to_string()),
        FetchFailure::Lost(answers) => lost(path, answers),
        FetchFailure::Unpack(error) => match error {
            UnpackError::Write(path, error) => disk("Failed to unpack a store path", path, error),
            UnpackError::Read(error) => broken(format!("its NAR cannot be read: {error}")),
            UnpackError::Truncated(size) => {
                broken(format!("its NAR ended early, after {}", bytes(*size)))
            }
            UnpackError::TooLong => broken("its NAR is longer than its narinfo says".to_string()),
            UnpackError::Format(reason) => broken(format!("the NAR is corrupt: {reason}")),
            UnpackError::WrongHash(hash) => broken(format!(
                "its NAR is not the one that its narinfo describes; its hash is {}",
                hash.to_nix_nixbase32_string()
            )),
            UnpackError::WrongContent(hash) => failed(
                format!(
                    "it is not signed, and its content does not have the hash that its store path\nrequires, {hash}"
                ),
                "Nothing of it was used. The binary cache, or a proxy between it and this build,\n\
                 serves other content under this name.",
            ),
        },
    }
}

/// A path that an earlier build had, and that has to be downloaded again.
pub(super) fn lost(path: &StorePath, answers: &[CacheAnswer]) -> Message {
    let misses = [Miss {
        path: path.clone(),
        wanted_by: Vec::new(),
        answers: answers.to_vec(),
    }];
    let is_absent = |asked: &CacheAnswer| matches!(asked.answer, Answer::Absent | Answer::Another);
    let hint = if answers.iter().all(is_absent) {
        "An earlier build had it. Since then it was garbage-collected, or the binary cache that\n\
         has it is no longer named."
    } else {
        miss_hint(&misses, &[])
    };
    miss(&misses, hint)
}

pub(super) fn relocation(reason: &NotRelocatable) -> Message {
    /// Files that are listed; the first ones mostly tell what the others are like.
    const LISTED: usize = 20;
    let elsewhere = "\n\nWith NIX_ENGINE=auto, or without it, the closure is deployed as it is.";
    let text = match reason {
        NotRelocatable::DirectoryTooLong(directory, error) => format!(
            "Each reference to a store path is rewritten to a path of the same length below {}, and \
             the name of that directory is too long for it by {} bytes.",
            directory.display(),
            error.excess
        ),
        NotRelocatable::SamePlace(one, other) => {
            format!("{one} and {other} would both have the same place in the image.")
        }
        NotRelocatable::Blockers(blockers) => {
            let mut text = String::from(
                "These files name store paths where they cannot be rewritten, or would not work \
                 once they are:\n\n",
            );
            let blockers: Vec<String> = blockers.iter().map(log::blocker).collect();
            text.push_str(&listed(&blockers, LISTED, "- "));
            text.push_str(
                "\nIf the app does not use such a file, pass it over: NIX_RELOCATE_IGNORE takes patterns \
                 of file names, separated by spaces, such as `*/share/doc/*`.",
            );
            text
        }
    };
    Message::new("The closure cannot be relocated", text + elsewhere)
}

pub(super) fn over_budget(over: &OverBudget) -> Message {
    let lines: Vec<String> = match over {
        OverBudget::TooLarge { largest, .. } => largest
            .iter()
            .map(|(size, chain)| format!("{}  {chain}", bytes(*size)))
            .collect(),
        OverBudget::Forbidden(paths) => paths
            .iter()
            .map(|(pattern, chain)| format!("`{pattern}`: {chain}"))
            .collect(),
    };
    let lines = listed(&lines, FORBIDDEN_SHOWN, "- ");
    match over {
        OverBudget::TooLarge { size, limit, .. } => Message::of(&formatdoc! {"
            The closure is too large

            It has {size}, but NIX_CLOSURE_LIMIT is {limit}. Its largest store paths:

            {lines}
            Remove a reference to one of them, or raise the limit. Nothing of it was kept.
        ", size = bytes(*size), limit = bytes(*limit)}),
        OverBudget::Forbidden(_) => Message::of(&formatdoc! {"
            The closure has forbidden packages

            NIX_FORBID has patterns of these, each with the references that bring it:

            {lines}
            Remove the reference, or the pattern. Nothing of it was kept.
        "}),
    }
}

pub(super) fn wrong_processor(wrong: &WrongProcessor) -> Message {
    let (root, programs, image) = (&wrong.root, wrong.programs, wrong.image);
    Message::new(
        format!("What is deployed is for {programs}, not {image}"),
        format!(
            "The programs of {root}\nare for {programs}, and the image is for {image}: none of them would \
             run there.\n\n\
             Deploy what was built for {image}-linux: the job, the store path or the expression for that \
             system. Or build\nan image for {programs}, as with `pack build --platform`. Nothing of it \
             was kept."
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BuildpackError;
    use crate::layers::closure::ClosureLayerError;
    use crate::layers::launch_layer::LayerError;
    use crate::messages::tests::{full, path, texts};
    use closure::relocate::blocker::{Blocker, BlockerReason};
    use closure::relocate::relocation::Relocation;
    use nix_derivation::NixHash;
    use nix_hydra_start::executable::Machine;
    use std::io;
    use std::path::Path;

    fn missed(answers: &[(&str, Answer)], wanted_by: &[&str]) -> Vec<Miss> {
        let owned = |(cache, answer): &(&str, Answer)| CacheAnswer {
            cache: (*cache).to_string(),
            answer: answer.clone(),
        };
        vec![Miss {
            path: path("zlib-1.3"),
            wanted_by: wanted_by.iter().map(|name| path(name)).collect(),
            answers: answers.iter().map(owned).collect(),
        }]
    }

    fn miss_error(misses: Vec<Miss>) -> BuildpackError {
        BuildpackError::ClosureLayer(ClosureLayerError::Miss {
            misses,
            unusable: Vec::new(),
        })
    }

    fn fetch_error(reason: FetchFailure) -> BuildpackError {
        let error = FetchError {
            path: path("zlib-1.3"),
            cache: Some("https://cache.nixos.org".into()),
            reason,
            has_other_build: false,
        };
        BuildpackError::ClosureLayer(ClosureLayerError::Fetch(Box::new(error)))
    }

    fn errors() -> Vec<BuildpackError> {
        let (hydra, nixos) = ("http://hydra.acme.net:3000", "https://cache.nixos.org");
        let untrusted = |untrusted| Answer::Untrusted(untrusted);
        let mut many = Vec::new();
        for _ in 0..5 {
            many.extend(missed(&[(nixos, Answer::Absent)], &["myapp", "curl-8"]));
        }
        let mut errors = vec![
            miss_error(missed(
                &[(hydra, Answer::Absent), (nixos, Answer::Absent)],
                &[],
            )),
            miss_error(many),
            miss_error(missed(&[], &[])),
            miss_error(missed(
                &[(
                    hydra,
                    Answer::Refused("HTTP status 401 Unauthorized".into()),
                )],
                &[],
            )),
            miss_error(missed(&[(hydra, untrusted(Untrusted::NotSigned))], &[])),
            miss_error(missed(
                &[(
                    hydra,
                    untrusted(Untrusted::UnknownKeys(vec!["a-1".into(), "b-1".into()])),
                )],
                &[],
            )),
            miss_error(missed(
                &[(hydra, untrusted(Untrusted::BadSignature("acme-1".into())))],
                &[],
            )),
        ];
        let lost_by = |answer| {
            FetchFailure::Lost(vec![CacheAnswer {
                cache: hydra.into(),
                answer,
            }])
        };
        errors.extend(
            [
                FetchFailure::Open(CacheError::Http(HttpError::Status(410))),
                FetchFailure::Open(CacheError::Http(HttpError::Status(500))),
                FetchFailure::Unpack(UnpackError::Read(io::ErrorKind::ConnectionReset.into())),
                FetchFailure::Unpack(UnpackError::Truncated(1234)),
                FetchFailure::Unpack(UnpackError::TooLong),
                FetchFailure::Unpack(UnpackError::Format("not a NAR: bad magic".into())),
                FetchFailure::Open(CacheError::Http(HttpError::Unauthorized(
                    http_client::sent("its URL"),
                ))),
                FetchFailure::Open(CacheError::NarUrl("ftp://elsewhere".into())),
                FetchFailure::Unpack(UnpackError::WrongHash(NixHash::Sha256([0; 32]))),
                FetchFailure::Unpack(UnpackError::WrongContent("fixed:sha256:0".into())),
                lost_by(Answer::Absent),
                lost_by(Answer::Failed("no answer".into())),
                FetchFailure::Unpack(UnpackError::Write("/layers/x".into(), full())),
            ]
            .map(fetch_error),
        );
        let blockers = |count| {
            (0..count).map(|index| Blocker {
                file: format!("xbgcfhaawi9iz9s99k58sqy8azc2a1w3-lib/share/{index}"),
                reason: BlockerReason::Bare,
            })
        };
        for reason in [
            NotRelocatable::DirectoryTooLong(
                "/a/very/long/layers/directory/closure".into(),
                Relocation::new(Path::new("/a/very/long/layers/directory/closure")).unwrap_err(),
            ),
            NotRelocatable::SamePlace(path("zlib-1.3").to_string(), path("zlib-1.2").to_string()),
            NotRelocatable::Blockers(blockers(1).collect()),
            NotRelocatable::Blockers(blockers(22).collect()),
        ] {
            errors.push(BuildpackError::ClosureLayer(ClosureLayerError::Relocation(
                reason,
            )));
        }
        let chain = "myapp-1.0 → gcc-14.3.0".to_string();
        for over in [
            OverBudget::TooLarge {
                size: 412_000_000,
                limit: 300_000_000,
                largest: vec![(203_000_000, chain.clone())],
            },
            OverBudget::Forbidden(vec![("gcc".into(), chain); 22]),
        ] {
            errors.push(BuildpackError::ClosureLayer(ClosureLayerError::OverBudget(
                over,
            )));
        }
        errors.push(BuildpackError::ClosureLayer(ClosureLayerError::Layer(
            LayerError {
                path: "/layers/nix_hydra/closure".into(),
                reason: io::ErrorKind::PermissionDenied.into(),
            },
        )));
        errors
    }

    #[test]
    fn messages_about_the_closure() {
        let wrong = WrongProcessor {
            root: path("myapp-1.0"),
            programs: Machine::AARCH64,
            image: Machine::X86_64,
        };
        let mut errors = errors();
        let wrong = ClosureLayerError::WrongProcessor(wrong);
        errors.push(BuildpackError::ClosureLayer(wrong));
        insta::assert_snapshot!(texts(&errors));
    }
}
