//! Messages about Nix, PRoot, and the files and layers that they are unpacked to.

use super::message::{Message, disk, internal};
use crate::layers::launch_layer::LayerError;
use crate::layers::proot::PRootLayerError;
use crate::tools::ToolError;
use http_client::without_credentials;
use indoc::formatdoc;
use nix_runner::archive::ArchiveError;
use nix_runner::temporary::NoTemporary;
use nix_runner::{MIN_VERSION, NixError};

pub(super) fn tool(error: &ToolError) -> Message {
    match error {
        ToolError::Inventory(reason) => internal("A tool is not in the inventory", reason),
        ToolError::Http(url, error) => Message::of(&formatdoc! {"
            Failed to download a tool

            {url} could not be downloaded: {error}.

            Build again. Where this address cannot be reached, put the file where it can
            be, and set NIX_ARCHIVE_URL and NIX_ARCHIVE_SHA256 (for Nix) or
            NIX_PROOT_URL and NIX_PROOT_SHA256 (for PRoot).
        ", url = without_credentials(url.as_str())}),
        ToolError::Read(url, error) => Message::of(&formatdoc! {"
            Failed to download a tool

            {url} could not be read to its end: {error}.

            Build again. If you set this URL, check it.
        ", url = without_credentials(url.as_str())}),
        ToolError::TooLarge(url) => Message::of(&formatdoc! {"
            A tool is too large

            {url} is larger than any release of Nix or PRoot.

            Check NIX_ARCHIVE_URL and NIX_PROOT_URL.
        ", url = without_credentials(url.as_str())}),
        ToolError::Write(path, error) => disk("Failed to write a tool", path, error),
        ToolError::Temporary(error) => temporary(error),
        ToolError::NotPackaged(path, error) => Message::of(&formatdoc! {"
            The buildpack comes without PRoot

            {path} could not be read: {error}.

            Use a released package of this buildpack, or package it anew: `script/setup proot` makes
            what it needs. Or set NIX_PROOT_URL and NIX_PROOT_SHA256.
        ", path = path.display()}),
        ToolError::NotInCaches(path, error) => Message::of(&formatdoc! {"
            No binary cache gives the Nix to evaluate with

            {path} is the Nix of NIX_EVALUATOR: {error}.

            Push it with its closure, signed by a key of NIX_TRUSTED_PUBLIC_KEYS, to a binary cache of this
            build; or name a release for this case in NIX_ARCHIVE_URL and NIX_ARCHIVE_SHA256.
        "}),
        ToolError::WrongHash {
            url,
            expected,
            actual,
        } => Message::of(&formatdoc! {"
            A downloaded tool has the wrong hash

            {url} does not have the expected SHA-256:

            expected  {expected}
            received  {actual}

            It was not used. If you set this URL, set the hash of its file; otherwise the file was
            changed on its way.
        ", url = without_credentials(url.as_str())}),
    }
}

pub(super) fn nix_archive(error: &ArchiveError) -> Message {
    let hint = "Use a release of Nix 2.34 or newer for this system, as its `nix-VERSION-SYSTEM.tar.xz`\n\
                archive, in NIX_ARCHIVE_URL; or set neither it nor NIX_ARCHIVE_SHA256.";
    match error {
        ArchiveError::Read(error) => Message::new(
            "Nix cannot be unpacked",
            format!("The release archive cannot be read: {error}.\n\n{hint}"),
        ),
        ArchiveError::Entry(name, reason) => Message::new(
            "Nix cannot be unpacked",
            format!(
                "The release archive has an entry that is not allowed, `{name}`: {reason}.\n\n{hint}"
            ),
        ),
        ArchiveError::Write(path, error) => disk("Failed to unpack Nix", path, error),
        ArchiveError::NoNix => Message::new(
            "Nix cannot be unpacked",
            format!("It has no `bin/nix-instantiate`.\n\n{hint}"),
        ),
        ArchiveError::Kept(path, error) => internal(
            "Nix cannot be unpacked",
            &format!("What was just written of {path} is not what was downloaded: {error}"),
        ),
    }
}

pub(super) fn nix(error: &NixError) -> Message {
    match error {
        NixError::Serve(error) => Message::of(&formatdoc! {"
            Sources cannot be given to Nix

            Nix reads pinned sources over HTTP from this build, on an address of loopback. That
            could not be opened: {error}.

            Let the build container have loopback.
        "}),
        NixError::Write(path, error) => disk("Failed to set up Nix", path, error),
        NixError::Temporary(error) => temporary(error),
        NixError::Start(program, error) => Message::of(&formatdoc! {"
            Nix cannot be started

            {program} could not be run: {error}.

            If this is a Nix of your own, check that it is one for this system, and that
            programs may run from the directory it is in.
        ", program = program.display()}),
        NixError::Archive(error) => nix_archive(error),
        NixError::TooOld(version) => Message::of(&formatdoc! {"
            This Nix is too old

            NIX_EVALUATOR or NIX_ARCHIVE_URL gives Nix {version}. Evaluating without `/nix` needs {MIN_VERSION} or newer.

            Name a newer one in NIX_EVALUATOR or NIX_ARCHIVE_URL, or set neither.
        "}),
        NixError::NoEngine(tried) => {
            let tried: Vec<String> = tried
                .iter()
                .map(|(how, why)| format!("  {how}: {why}"))
                .collect();
            Message::of(&formatdoc! {"
                Nix cannot work in this build container

                It needs a store at `/nix` for this, and there is no way to provide one:

                {tried}

                Allow user namespaces or `ptrace` in the container; or have Hydra build the app, without
                import from derivation.
            ", tried = tried.join("\n")})
        }
        NixError::Build(said) => Message::of(&formatdoc! {"
            The app could not be built

            {said}

            No binary cache has it, so it was built here, since NIX_ON_MISS=build. The builder's
            output is above. It is better to have Hydra build it, and to name its binary cache in
            NIX_EXTRA_BINARY_CACHE.
        "}),
        NixError::Failed(said) => internal(
            "Nix failed to set up its store",
            &format!("It said:\n\n{said}"),
        ),
    }
}

pub(super) fn proot(error: &PRootLayerError) -> Message {
    match error {
        PRootLayerError::Tool(error) => tool(error),
        PRootLayerError::Program(reason) => Message::of(&formatdoc! {"
            The downloaded PRoot cannot be used

            It has not the expected form: {reason}.

            NIX_PROOT_URL takes a static program, or a `.tar.gz` or `.apk` with one that is
            named `proot` or `proot.static`.
        "}),
        PRootLayerError::StartProgram(path, error) => internal(
            "The buildpack is incomplete",
            &format!(
                "Its start program {} cannot be read: {error}",
                path.display()
            ),
        ),
        PRootLayerError::OtherPackage(path, machine) => Message::of(&formatdoc! {"
            This package of the buildpack is for another processor

            The image is for {machine}, and {path} is not. Commands of the image would not start.

            Use the buildpack's package or image for {machine}.
        ", path = path.display()}),
        PRootLayerError::Layer(error) => layer(error),
    }
}

pub(super) fn layer(error: &LayerError) -> Message {
    disk("Failed to write a layer", &error.path, &error.reason)
}

pub(super) fn temporary(NoTemporary(tried): &NoTemporary) -> Message {
    let tried = tried.iter();
    let tried = tried.map(|(directory, why)| format!("  {}: {why}\n", directory.display()));
    Message::of(&formatdoc! {"
        There is no place for temporary files

        Nix is unpacked to evaluate, and none of these directories can be written:

        {tried}
        Let the build write one of them, or set TMPDIR to a directory that it may write.
    ", tried = tried.collect::<String>()})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::BuildpackError;
    use crate::messages::tests::{full, texts};
    use crate::resolve::ResolveError;
    use closure::plan::Miss;
    use closure::unpack::UnpackError;
    use http_client::HttpError;
    use nix_derivation::StorePath;
    use nix_hydra_start::executable::Machine;
    use nix_runner::programs::ProgramsError;
    use std::io;

    fn url() -> url::Url {
        "https://user:hunter2@tools.example.org/nix.tar.xz"
            .parse()
            .unwrap()
    }

    fn evaluator() -> StorePath {
        "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-nix-2.36.0"
            .parse()
            .unwrap()
    }

    fn errors() -> Vec<BuildpackError> {
        let mut errors: Vec<_> = [
            ToolError::Inventory("no Nix for riscv64".into()),
            ToolError::Http(url(), HttpError::Status(404)),
            ToolError::Read(url(), io::ErrorKind::UnexpectedEof.into()),
            ToolError::TooLarge(url()),
            ToolError::Write("/layers/nix_hydra/proot/download".into(), full()),
            ToolError::Temporary(NoTemporary(vec![(
                "/tmp".into(),
                io::ErrorKind::ReadOnlyFilesystem,
            )])),
            ToolError::NotPackaged(
                "/cnb/buildpacks/nix_hydra/proot/proot".into(),
                io::ErrorKind::NotFound.into(),
            ),
            ToolError::NotInCaches(
                evaluator(),
                ProgramsError::Missing(vec![Miss {
                    path: evaluator(),
                    wanted_by: Vec::new(),
                    answers: Vec::new(),
                }]),
            ),
            ToolError::NotInCaches(evaluator(), ProgramsError::Unsigned(evaluator())),
            ToolError::WrongHash {
                url: url(),
                expected: "00".repeat(32),
                actual: "11".repeat(32),
            },
        ]
        .map(|error| BuildpackError::from(ResolveError::Tool(error)))
        .into();
        errors.extend(
            [
                ArchiveError::Read(io::ErrorKind::InvalidData.into()),
                ArchiveError::Entry("../etc".into(), "its name leads out of the archive"),
                ArchiveError::Write("/tmp/nix-1/x".into(), full()),
                ArchiveError::NoNix,
                ArchiveError::Kept(evaluator(), UnpackError::TooLong),
            ]
            .map(|error| BuildpackError::from(ResolveError::Nix(NixError::Archive(error)))),
        );
        errors.extend(
            [
                NixError::Write("/tmp/nix-1".into(), full()),
                NixError::Temporary(NoTemporary(vec![
                    ("/tmp".into(), io::ErrorKind::PermissionDenied),
                    ("/dev/shm".into(), io::ErrorKind::NotFound),
                ])),
                NixError::Serve(io::ErrorKind::PermissionDenied.into()),
                NixError::Start("/usr/bin/nix-store".into(), io::ErrorKind::NotFound.into()),
                NixError::Failed("error: the store is odd".into()),
                NixError::TooOld(semver::Version::new(2, 31, 2)),
                NixError::NoEngine(vec![
                    (
                        "in a user namespace".into(),
                        "unshare: Operation not permitted".into(),
                    ),
                    ("under PRoot".into(), "Failed to download a tool".into()),
                ]),
                NixError::Build("error: builder for '/nix/store/x.drv' failed".into()),
            ]
            .map(|error| BuildpackError::from(ResolveError::Nix(error))),
        );
        errors.push(BuildpackError::PRootLayer(PRootLayerError::Program(
            "it holds no file named `proot` or `proot.static`".into(),
        )));
        errors.push(BuildpackError::PRootLayer(PRootLayerError::StartProgram(
            "/cnb/nix-hydra".into(),
            io::ErrorKind::NotFound.into(),
        )));
        errors.push(BuildpackError::PRootLayer(PRootLayerError::OtherPackage(
            "/cnb/nix-hydra".into(),
            Machine::AARCH64,
        )));
        errors
    }

    #[test]
    fn messages_about_tools() {
        insta::assert_snapshot!(texts(&errors()));
    }
}
