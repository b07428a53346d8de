//! The table in `docs/parity.md`: for each kind of tree and expression, what both sides get.

use crate::common::{fixtures, nix, output};
use crate::evaluate::{config, evaluate, nix_in_place};
use crate::pins::{Pinned, styles};
use crate::source::{awkward_tree, commit, commit_with_submodule, git};
use platform::fixtures::Fixtures;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const BEGIN: &str = "<!-- parity:begin -->";
const END: &str = "<!-- parity:end -->";

/// A derivation of the whole tree.
const WHOLE: &str =
    r#"derivation { name = "app"; system = "x86_64-linux"; builder = "/bin/sh"; src = ./.; }"#;

/// What happens to the directory between the commit and the deploy.
type Change = fn(&Path);

struct Case {
    name: &'static str,
    /// Makes the committed tree; `default.nix` is [`WHOLE`] unless it is there.
    tree: Change,
    /// What the platform does to it.
    platform: Change,
    settings: &'static [(&'static str, &'static str)],
    /// The attribute that Hydra builds.
    attribute: Option<&'static str>,
    file: &'static str,
    same: bool,
}

impl Case {
    const fn new(name: &'static str, tree: Change) -> Self {
        Self {
            name,
            tree,
            platform: |_| {},
            settings: &[],
            attribute: None,
            file: "default.nix",
            same: true,
        }
    }
}

fn expression(app: &Path, text: &str) {
    fs::write(app.join("default.nix"), text).unwrap();
}

fn flake(app: &Path) {
    let flake = format!("{{ outputs = _: {{ hydraJobs.app = {WHOLE}; }}; }}");
    fs::write(app.join("flake.nix"), flake).unwrap();
    let lock = r#"{"nodes":{"root":{}},"root":"root","version":7}"#;
    fs::write(app.join("flake.lock"), lock).unwrap();
}

fn cases() -> impl Iterator<Item = Case> {
    let all = [
        same_trees(),
        same_expressions(),
        same_submodules(),
        others(),
    ];
    all.into_iter().flatten()
}

fn same_trees() -> Vec<Case> {
    vec![
        Case::new("a tree of everything that git can hold", awkward_tree),
        Case {
            platform: |app| {
                fs::create_dir_all(app.join("empty/below")).unwrap();
                fs::create_dir(app.join("lost+found")).unwrap();
                fs::write(app.join("pax_global_header"), "52 comment=0000").unwrap();
            },
            ..Case::new("empty directories and a volume's own files", |_| {})
        },
        Case {
            platform: |app| fs::remove_dir_all(app.join(".git")).unwrap(),
            ..Case::new("a directory without `.git`", |_| {})
        },
    ]
}

fn same_expressions() -> Vec<Case> {
    vec![
        Case::new("a part of the tree", |app| {
            fs::create_dir(app.join("web")).unwrap();
            fs::write(app.join("web/index.html"), "x").unwrap();
            expression(app, &WHOLE.replace("./.", "./web"));
        }),
        Case::new("a filtered tree", |app| {
            fs::write(app.join("notes.txt"), "x").unwrap();
            expression(
                app,
                &WHOLE.replace(
                    "./.",
                    "builtins.filterSource (path: _: baseNameOf path != \"notes.txt\") ./.",
                ),
            );
        }),
        Case::new("a named tree", |app| {
            expression(
                app,
                &WHOLE.replace("./.", "builtins.path { name = \"mine\"; path = ./.; }"),
            );
        }),
        Case::new("a copy that is read again while evaluating", |app| {
            expression(
                app,
                &WHOLE.replace(
                    "\"app\"",
                    "baseNameOf (builtins.head (builtins.attrNames (builtins.readDir \"${./.}\")))",
                ),
            );
        }),
        Case::new("a file made while evaluating", |app| {
            expression(app, &WHOLE.replace("./.", "builtins.toFile \"x\" \"y\""));
        }),
        Case::new("a function with defaults", |app| {
            expression(app, &format!("{{ lib ? 1, ... }}: {WHOLE}"));
        }),
        Case {
            settings: &[("NIX_ATTRIBUTES", "jobs.web")],
            attribute: Some("jobs.web"),
            ..Case::new("an attribute", |app| {
                expression(app, &format!("{{ }}: {{ jobs = {{ web = {WHOLE}; }}; }}"));
            })
        },
        Case {
            settings: &[("NIX_FILE", "nix/release.nix")],
            file: "nix/release.nix",
            ..Case::new("an expression in a directory of its own", |app| {
                fs::create_dir(app.join("nix")).unwrap();
                fs::write(app.join("nix/release.nix"), WHOLE.replace("./.", "../.")).unwrap();
            })
        },
        Case {
            settings: &[("NIX_ATTRIBUTES", "hydraJobs.app")],
            attribute: Some("hydraJobs.app"),
            file: "flake.nix",
            ..Case::new("a flake", flake)
        },
        Case {
            settings: &[("NIX_ATTRIBUTES", "hydraJobs.app")],
            attribute: Some("hydraJobs.app"),
            file: "flake.nix",
            ..Case::new("a flake that uses its revision and its date", |app| {
                let versions = "rev = self.rev or \"dirty\"; short = self.shortRev or \"dirty\"; \
                                date = self.lastModifiedDate; time = self.lastModified;";
                let derivation = WHOLE.replace("src =", &format!("{versions} src ="));
                let flake =
                    format!("{{ outputs = {{ self }}: {{ hydraJobs.app = {derivation}; }}; }}");
                fs::write(app.join("flake.nix"), flake).unwrap();
            })
        },
        Case {
            settings: &[("NIX_SOURCE_NAME", "git-export")],
            ..Case::new("an old Hydra's `git-export`", |_| {})
        },
    ]
}

fn same_submodules() -> Vec<Case> {
    vec![
        Case {
            platform: |app| fs::remove_dir_all(app.join(".git")).unwrap(),
            ..Case::new("a submodule", |app| {
                let library = app.with_file_name("library");
                fs::create_dir(&library).unwrap();
                fs::write(library.join("file"), "x").unwrap();
                commit(&library);
                commit_with_submodule(app, "library", "vendor");
            })
        },
        Case {
            platform: |app| fs::remove_dir_all(app.join(".git")).unwrap(),
            ..Case::new("a submodule of a submodule", |app| {
                for name in ["deep", "library"] {
                    fs::create_dir(app.with_file_name(name)).unwrap();
                    fs::write(app.with_file_name(name).join("file"), name).unwrap();
                }
                commit(&app.with_file_name("deep"));
                commit_with_submodule(&app.with_file_name("library"), "deep", "deep");
                commit_with_submodule(app, "library", "vendor");
            })
        },
        Case {
            // A clone has an empty directory in its place.
            platform: |app| {
                fs::remove_dir_all(app.join("vendor")).unwrap();
                fs::create_dir(app.join("vendor")).unwrap();
            },
            settings: &[("NIX_ATTRIBUTES", "hydraJobs.app")],
            attribute: Some("hydraJobs.app"),
            file: "flake.nix",
            ..Case::new("a flake with a submodule", |app| {
                let library = app.with_file_name("library");
                fs::create_dir(&library).unwrap();
                fs::write(library.join("file"), "x").unwrap();
                commit(&library);
                flake(app);
                commit_with_submodule(app, "library", "vendor");
            })
        },
    ]
}

/// What the deploying side cannot mend.
fn others() -> Vec<Case> {
    vec![
        Case {
            platform: |app| fs::write(app.join("stray.log"), "x").unwrap(),
            same: false,
            ..Case::new("a file that git does not have", |_| {})
        },
        Case {
            platform: |app| {
                let file = app.join("run");
                fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
            },
            same: false,
            ..Case::new("a lost executable bit", |app| {
                fs::write(app.join("run"), "x").unwrap();
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(app.join("run"), mode).unwrap();
            })
        },
        Case {
            platform: |app| fs::write(app.join("text"), "a\n").unwrap(),
            same: false,
            ..Case::new("line ends that were changed", |app| {
                fs::write(app.join("text"), "a\r\n").unwrap();
            })
        },
    ]
}

/// What real Nix at `/nix/store` gets for a checkout of what is committed in `app`.
fn hydra(fixtures: &Fixtures, app: &Path, case: &Case) -> String {
    let work = TempDir::new().unwrap();
    let old = case
        .settings
        .iter()
        .any(|(name, _)| *name == "NIX_SOURCE_NAME");
    let checkout = work.path().join(if old { "git-export" } else { "source" });
    let (from, to) = (app.to_str().unwrap(), checkout.to_str().unwrap());
    git(work.path(), &["clone", "--quiet", "--no-local", from, to]);
    if case.file == "flake.nix" {
        let attribute = case.attribute.unwrap_or("packages.x86_64-linux.default");
        // As Hydra fetches it, and not as a directory that may be changed.
        let revision = git(app, &["rev-parse", "HEAD"]);
        let flake = format!("git+file://{from}?rev={revision}");
        let flake = format!("(builtins.getFlake \"{flake}\").{attribute}.outPath");
        let mut evaluate = nix(fixtures, "nix-instantiate", work.path());
        evaluate.args([
            "--extra-experimental-features",
            "flakes",
            "--read-write-mode",
        ]);
        let path = output(evaluate.args(["--eval", "--json", "--expr", &flake]));
        return path.trim_matches('"').to_string();
    }
    git(&checkout, &["submodule", "--quiet", "init"]);
    git(&checkout, &["submodule", "--quiet", "update"]);
    fs::remove_dir_all(checkout.join(".git")).unwrap();
    // A submodule has a file of this name.
    let _ = fs::remove_file(checkout.join("vendor/.git"));
    let source = output(
        nix(fixtures, "nix-store", work.path())
            .args(["--add-fixed", "--recursive", "sha256"])
            .arg(&checkout),
    );
    let mut instantiate = nix(fixtures, "nix-instantiate", work.path());
    instantiate.arg(format!("{source}/{}", case.file));
    if let Some(attribute) = case.attribute {
        instantiate.args(["-A", attribute]);
    }
    let derivation = output(&mut instantiate);
    output(
        nix(fixtures, "nix-store", work.path())
            .args(["--query", "--outputs"])
            .arg(derivation.split('!').next().unwrap()),
    )
}

#[test]
fn both_sides_get_the_paths_in_the_table_of_the_docs() {
    let Some(fixtures) = fixtures() else { return };
    let mut table = String::from("| what | Hydra | deploy | |\n|---|---|---|---|\n");
    for case in cases() {
        let work = TempDir::new().unwrap();
        let app = work.path().join("app");
        fs::create_dir(&app).unwrap();
        (case.tree)(&app);
        let is_whole = app.join("default.nix");
        if !is_whole.exists() || case.name.starts_with("a tree of") {
            expression(&app, WHOLE);
        }
        commit(&app);
        let theirs = hydra(&fixtures, &app, &case);
        let deployed = work.path().join("workspace");
        let (from, to) = (app.to_str().unwrap(), deployed.to_str().unwrap());
        output(std::process::Command::new("cp").args(["-a", from, to]));
        (case.platform)(&deployed);
        let config = config(&deployed, case.settings);
        let nix = nix_in_place(&fixtures, &config);
        let outcome = evaluate(&nix, &deployed, &config).unwrap();
        let ours = outcome.roots[0].path.to_absolute_path();
        assert_eq!(ours == theirs, case.same, "{}", case.name);
        let verdict = if case.same { "same" } else { "differs" };
        let _ = writeln!(
            table,
            "| {} | `{theirs}` | `{ours}` | {verdict} |",
            case.name
        );
    }
    let pinned = Pinned::new(Some("https://pins.invalid/nixpkgs.tar.gz")).unwrap();
    for style in styles() {
        let (ours, theirs) = pinned.paths(&style);
        assert_eq!(ours, theirs, "{}", style.name);
        let _ = writeln!(table, "| {} | `{theirs}` | `{ours}` | same |", style.name);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/parity.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_PARITY").is_some() {
        fs::write(&path, format!("{before}{BEGIN}\n{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(written.trim(), table.trim());
    }
}
