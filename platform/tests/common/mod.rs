//! A buildpack of two shell scripts, and the root file system to run it in.

#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test that fails so says where, and nobody else uses this"
)]

use platform::image::Image;
use platform::lifecycle::{Build, Outcome};
use platform::process::Launch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The fixtures' root file system; `None`, said in a line, where there is none.
pub(crate) fn rootfs() -> Option<PathBuf> {
    match platform::fixtures::read() {
        Ok(fixtures) => Some(fixtures.rootfs),
        Err(error) => {
            platform::left_out(&format!("{error}"));
            None
        }
    }
}

/// An app and a buildpack whose `bin/build` is given as a script for each build. The script runs
/// in its layers directory, with a function `layer NAME TYPES` that writes a `.toml`.
pub(crate) struct Case {
    pub rootfs: PathBuf,
    pub dir: tempfile::TempDir,
}

const HEAD: &str = r#"#!/bin/bash
set -eu
cd "$CNB_LAYERS_DIR"
layer() { # NAME TYPE…
    local name=$1; shift
    { echo '[types]'; for type in "$@"; do echo "$type = true"; done; echo '[metadata]'
      echo "version = 3"; echo 'name = "it"'; } >"$name.toml"
}
"#;

impl Case {
    pub(crate) fn new() -> Option<Self> {
        let case = Self {
            rootfs: rootfs()?,
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir_all(case.path("app")).unwrap();
        fs::write(case.path("app/hello.txt"), "hello").unwrap();
        fs::create_dir_all(case.path("buildpack/bin")).unwrap();
        fs::write(
            case.path("buildpack/buildpack.toml"),
            "api = '0.10'\n[buildpack]\nid = 'test/shell'\nversion = '1.2.3'\n\
             sbom-formats = ['application/vnd.cyclonedx+json']\n",
        )
        .unwrap();
        case.script("detect", "#!/bin/sh\nexit 0\n");
        Some(case)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn script(&self, name: &str, text: &str) {
        let path = self.path("buildpack/bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn build(&self, script: &str) -> Build {
        self.script("build", &format!("{HEAD}{script}"));
        Build::new(
            &self.rootfs,
            self.path("buildpack"),
            self.path("app"),
            self.path("image"),
        )
    }

    /// Builds, and must succeed.
    pub(crate) fn built(&self, script: &str) -> Outcome {
        let outcome = self.build(script).run().unwrap();
        assert!(outcome.success(), "{outcome:#?}");
        outcome
    }

    /// What a shell script writes in the image.
    pub(crate) fn shell(&self, image: &Image, script: &str) -> String {
        let launch = Launch::new(image, &self.rootfs).command(["bash", "-c", script]);
        let output = launch.run().unwrap();
        assert_eq!((output.code, &*output.stderr), (0, ""), "{}", output.stdout);
        output.stdout
    }
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}
