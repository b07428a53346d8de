//! The table of settings: one row for each, with everything that is known about it.
//!
//! To add a setting, add a row and the field of [`Values`] that it fills. `buildpack.toml` and
//! `docs/application_contract.md` list the rows in this order and in these words; tests compare them
//! and print the text to paste.

use super::read::{Given, Invalid, Values};
use super::{app, caches, hydra, tools};
use nix_hydra_start::engine;

/// One setting: an environment variable of the build.
pub struct Setting {
    pub name: &'static str,
    /// What it does: Markdown, without a full stop.
    pub doc: &'static str,
    /// The values that it takes. Completes "It takes …".
    pub takes: &'static str,
    pub default: Default,
    /// Whether the start program in the image reads it as well.
    pub at_launch: bool,
    /// Whether the empty string is a value. Otherwise an empty variable counts as not set.
    pub takes_empty: bool,
    /// A setting that must be set as well.
    pub needs: Option<&'static str>,
    /// Parses a value into its field.
    pub(super) parse: fn(&Given, &mut Values) -> Result<(), Invalid>,
}

/// What holds where a setting is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    None,
    /// This value, which is parsed like any other.
    Value(&'static str),
    /// A rule, in the words of the documentation.
    Rule(&'static str),
}

/// What most rows have in common.
const SETTING: Setting = Setting {
    name: "",
    doc: "",
    takes: "",
    default: Default::None,
    at_launch: false,
    takes_empty: false,
    needs: None,
    parse: |_, _| Ok(()),
};

const FLAG: &str = "`true` or `false`";
const CACHES: &str = "URLs of binary caches, separated by spaces, such as \
    `https://hydra.example.org` or `file:///var/cache/nix`";
const SHA256: &str =
    "the file's SHA-256, as 64 hexadecimal digits or as Nix writes it (`sha256-…`)";
const DOWNLOAD: &str = "an `https`, `http` or `file` URL, such as `file:///var/cache/archive`";

/// Puts what a parser returned into its field.
fn put<T>(field: &mut T, parsed: Result<T, Invalid>) -> Result<(), Invalid> {
    *field = parsed?;
    Ok(())
}

/// Every setting, in the order of the documentation.
pub static SETTINGS: [Setting; 32] = [
    Setting {
        name: "NIX_EXTRA_BINARY_CACHE",
        doc: "URLs of the binary caches to ask before the default one, separated by spaces (`https`, `http`, `s3` or `file`): Hydra, nix-serve, harmonia, attic, Cachix, or a directory of files",
        takes: CACHES,
        parse: |given, values| put(&mut values.extra_caches, caches::urls(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_DEFAULT_BINARY_CACHE",
        doc: "the binary cache that is asked last, whose paths must be signed; the empty string leaves it out",
        takes: CACHES,
        default: Default::Value("https://cache.nixos.org"),
        takes_empty: true,
        parse: |given, values| put(&mut values.default_caches, caches::urls(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_TRUSTED_PUBLIC_KEYS",
        doc: "public keys, `name:base64`, separated by spaces; once set, a path that neither they nor cache.nixos.org's key have signed is an error",
        takes: "public keys separated by spaces, such as `cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=`",
        default: Default::Rule("the key of cache.nixos.org"),
        parse: |given, values| put(&mut values.keys, caches::keys(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_REQUIRE_SIGNATURES",
        doc: "`true`: a path that no known key has signed is an error, even where `NIX_TRUSTED_PUBLIC_KEYS` is not set",
        takes: FLAG,
        default: Default::Value("false"),
        parse: |given, values| put(&mut values.require_signatures, given.flag()),
        ..SETTING
    },
    Setting {
        name: "NIX_NETRC_FILE",
        doc: "a netrc file with the credentials of private binary caches, and of other hosts that the expression fetches from",
        takes: "the path of a netrc file that is there during the build",
        default: Default::Rule("`/etc/nix/netrc`, if it exists"),
        parse: |given, values| put(&mut values.netrc_file, caches::netrc_file(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_ACCESS_TOKENS",
        doc: "tokens for the servers of private flake inputs, as `access-tokens` of `nix.conf` has them: `github.com=TOKEN gitlab.example.org=PAT:TOKEN`",
        takes: "tokens separated by spaces, each with its host, such as `github.com=TOKEN`",
        parse: |given, values| {
            put(
                &mut values.access_tokens,
                caches::access_tokens(given.value),
            )
        },
        ..SETTING
    },
    Setting {
        name: "NIX_ACCEPT_FLAKE_CONFIG",
        doc: "`true`: the substituters, public keys and access tokens that a flake's `nixConfig`, the app's `nix.conf` or `NIX_CONFIG` name are used as well",
        takes: FLAG,
        default: Default::Value("false"),
        parse: |given, values| put(&mut values.accept_flake_config, given.flag()),
        ..SETTING
    },
    Setting {
        name: "NIX_STORE_PATH",
        doc: "the store path to deploy; no source, expression or Nix is then needed",
        takes: "one store path, such as `/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp-1.0`",
        parse: |given, values| put(&mut values.store_path, app::store_path(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_HYDRA_JOB",
        doc: "deploy what Hydra built for this job, `project/jobset/job`, from the revision being deployed; no Nix is then needed",
        takes: "a job as `project/jobset/job`, such as `acme/main/myapp`",
        parse: |given, values| put(&mut values.job, hydra::job(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_HYDRA_URL",
        doc: "the Hydra to ask, with or without a job; it also serves as a binary cache unless it says that it is none",
        takes: "the URL of a Hydra, such as `https://hydra.example.org`",
        default: Default::Rule("the first binary cache that is a Hydra"),
        parse: |given, values| put(&mut values.hydra_url, hydra::url(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_REVISION",
        doc: "the git revision to deploy from Hydra, or `latest`; if all 40 digits are given, they are also a flake's `self.rev`",
        takes: "a git revision, as at least 7 hexadecimal digits, or `latest`",
        default: Default::Rule(
            "the platform's (such as `SOURCE_VERSION`), else that of a clean `.git`",
        ),
        parse: |given, values| put(&mut values.revision, hydra::revision(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_HYDRA_INPUT",
        doc: "the jobset's input that is the app's repository",
        takes: "the name of an input",
        default: Default::Rule("any input that has the revision"),
        parse: |given, values| put(&mut values.input, given.text()),
        ..SETTING
    },
    Setting {
        name: "NIX_HYDRA_WAIT",
        doc: "how long to wait for Hydra to evaluate and build: minutes, or a time with units (`90s`, `10m`, `1h30m`); 0 does not wait",
        takes: "a number of minutes, or a time with units, such as `90s`, `10m` or `1h30m`; 0 does not wait",
        default: Default::Value("10m"),
        parse: |given, values| put(&mut values.wait, hydra::wait(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_HYDRA_INPUTS",
        doc: "`true`: evaluate the expression, and find the inputs of `NIX_HYDRA_JOB`'s jobset (nixpkgs and others) by `<name>`, after `NIX_PATH`",
        takes: FLAG,
        default: Default::Value("false"),
        parse: |given, values| put(&mut values.inputs, given.flag()),
        ..SETTING
    },
    Setting {
        name: "NIX_FILE",
        doc: "the file with the expression to evaluate, relative to the app",
        takes: "a file in the app's directory, relative to it, such as `nix/deploy.nix`",
        default: Default::Rule(
            "the first of `deploy.nix`, `flake.nix`, `shell.nix` and `default.nix`",
        ),
        parse: |given, values| put(&mut values.file, app::expression_file(given)),
        ..SETTING
    },
    Setting {
        name: "NIX_ATTRIBUTES",
        doc: "the attributes of the expression to deploy, as Nix writes them, separated by spaces: `web jobs.worker tool^bin`",
        takes: "attributes of the expression as Nix writes them, separated by spaces, such as `web jobs.worker tool^bin`",
        default: Default::Rule("the expression's own value"),
        parse: |given, values| put(&mut values.attributes, app::attributes(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_TARGET",
        doc: "which of `NIX_ATTRIBUTES` comes first on `PATH`",
        takes: "one of the attributes in `NIX_ATTRIBUTES`",
        default: Default::Rule("the first"),
        parse: |given, values| put(&mut values.target, app::target(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_SOURCE_NAME",
        doc: "the name of the source's store path: `git-export` for a Hydra from before 2018",
        takes: "`source`, or `git-export` for a Hydra from before 2018",
        default: Default::Value("source"),
        parse: |given, values| put(&mut values.source_name, app::source_name(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_PATH",
        doc: "where the expression's `<name>` is looked up, in Nix's own format",
        takes: "entries separated by colons, such as `nixpkgs=https://example.org/nixpkgs.tar.gz`",
        parse: |given, values| put(&mut values.nix_path, given.text()),
        ..SETTING
    },
    Setting {
        name: "NIX_ON_MISS",
        doc: "what to do when no binary cache has a path: `error`, or `build`",
        takes: "`error`, or `build` to build what no binary cache has",
        default: Default::Rule(
            "`error`; `build` where there is no binary cache at all, the default one included, and no Hydra",
        ),
        parse: |given, values| put(&mut values.on_miss, tools::on_miss(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_ALLOW_IMPORT_FROM_DERIVATION",
        doc: "`false`: an expression that reads what a derivation makes (import from derivation) is an error, even where a binary cache has it",
        takes: FLAG,
        default: Default::Value("true"),
        parse: |given, values| put(&mut values.allow_import_from_derivation, given.flag()),
        ..SETTING
    },
    Setting {
        name: "NIX_DEBUG",
        doc: "`true`: list the largest store paths of the closure, and the largest files that were downloaded; `doctor`: compare what is evaluated here with what Hydra has",
        takes: "`true`, `false` or `doctor`",
        default: Default::Value("false"),
        parse: |given, values| put(&mut values.debug, tools::debug(given)),
        ..SETTING
    },
    Setting {
        name: "NIX_EVALUATOR",
        doc: "the store path of a Nix (2.34 or newer) to evaluate with, instead of the pinned one; it comes from the binary caches, signed, else from `NIX_ARCHIVE_URL`",
        takes: "a store path, such as `/nix/store/…-nix-2.35.2`",
        parse: |given, values| put(&mut values.evaluator, app::store_path(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_ARCHIVE_URL",
        doc: "a Nix release archive (`.tar.xz` or `.tar.zst`, Nix 2.34 or newer) to evaluate with, instead of the pinned one",
        takes: DOWNLOAD,
        needs: Some("NIX_ARCHIVE_SHA256"),
        parse: |given, values| put(&mut values.archive_url, tools::url(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_ARCHIVE_SHA256",
        doc: "the SHA-256 of `NIX_ARCHIVE_URL`, as 64 hexadecimal digits or as `sha256-…`",
        takes: SHA256,
        needs: Some("NIX_ARCHIVE_URL"),
        parse: |given, values| put(&mut values.archive_sha256, tools::sha256(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_PROOT_URL",
        doc: "a static PRoot to use instead of the packaged one: the program itself, or a `.tar.gz` or `.apk` that holds it",
        takes: DOWNLOAD,
        needs: Some("NIX_PROOT_SHA256"),
        parse: |given, values| put(&mut values.proot_url, tools::url(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_PROOT_SHA256",
        doc: "the SHA-256 of `NIX_PROOT_URL`, as 64 hexadecimal digits or as `sha256-…`",
        takes: SHA256,
        needs: Some("NIX_PROOT_URL"),
        parse: |given, values| put(&mut values.proot_sha256, tools::sha256(given.value)),
        ..SETTING
    },
    Setting {
        name: engine::SETTING,
        doc: "how the closure appears at `/nix/store`: `direct`, `namespace`, `proot`, `relocate` or `auto`; read when the image is built, and again each time it runs",
        takes: engine::EXPECTED,
        default: Default::Rule("the cheapest that works where a process starts"),
        at_launch: true,
        parse: |given, values| put(&mut values.engine, tools::engine(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_PROCFILE",
        doc: "the file with the processes, relative to the app",
        takes: "a file in the app's directory, relative to it, such as `Procfile.web`",
        default: Default::Rule("`Procfile`, if it exists"),
        parse: |given, values| put(&mut values.procfile, app::file(given)),
        ..SETTING
    },
    Setting {
        name: "NIX_RELOCATE_IGNORE",
        doc: "patterns of files in the closure that do not prevent relocation, separated by spaces, such as `*/share/doc/*`",
        takes: "patterns of files with `*` and `?`, separated by spaces, such as `*/share/doc/*`",
        parse: |given, values| put(&mut values.relocate_ignore, app::patterns(given.value)),
        ..SETTING
    },
    Setting {
        name: "NIX_CLOSURE_LIMIT",
        doc: "the largest closure that is deployed, such as `300MB`; a larger one is an error that names its largest paths",
        takes: "a number of bytes with a unit, such as `300MB` or `1.5GiB`",
        parse: |given, values| put(&mut values.budget.limit, app::size(given.value).map(Some)),
        ..SETTING
    },
    Setting {
        name: "NIX_FORBID",
        doc: "patterns of packages that must not be in the closure, separated by spaces, such as `gcc ghc *-dev`; one that is there is an error that names the chain of references to it",
        takes: "patterns of packages with `*` and `?`, separated by spaces, such as `gcc ghc *-dev`",
        parse: |given, values| put(&mut values.budget.forbid, app::patterns(given.value)),
        ..SETTING
    },
];

/// Settings of earlier buildpacks that have no effect any more, and why.
pub const RETIRED: [(&str, &str); 3] = [
    ("NIX_BUILD_FLAGS", "no `nix-build` is run"),
    ("NIX_APP_NAME", "NIX_TARGET says whose programs come first"),
    (
        "NIX_VERSION",
        "Nix is pinned; NIX_ARCHIVE_URL names another one",
    ),
];

/// Variables with such a name that are not settings of the build: the start program's, and Nix's own
/// whose names are like one of a setting.
pub(super) const OTHERS: [&str; 6] = [
    "NIX_ENGINE_LOG",
    "NIX_ENGINE_STRICT",
    "NIX_SSL_CERT_FILE",
    "NIX_PROFILES",
    "NIX_STORE",
    "NIX_STORE_DIR",
];

/// Returns the setting of this name.
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `[[metadata.configurations]]` of `buildpack.toml`.
    fn configurations() -> String {
        let entry = |setting: &Setting| {
            let mut first = setting.doc.chars();
            // A name in backquotes keeps its first letter.
            let doc = first.next().map(|letter| letter.to_uppercase().to_string());
            let doc = doc.unwrap_or_default() + first.as_str();
            let (rule, default) = match setting.default {
                Default::None => (String::new(), String::new()),
                Default::Value(value) => (String::new(), format!("default = \"{value}\"\n")),
                Default::Rule(rule) => (format!(" Default: {rule}."), String::new()),
            };
            let launch = if setting.at_launch {
                "launch = true\n"
            } else {
                ""
            };
            // As a string in TOML.
            let description = format!("{doc}.{rule}").replace('"', "\\\"");
            format!(
                "[[metadata.configurations]]\nname = \"{}\"\ndescription = \"{description}\"\n{default}build = true\n{launch}",
                setting.name
            )
        };
        SETTINGS.iter().map(entry).collect::<Vec<_>>().join("\n")
    }

    /// The table of the contract.
    fn rows() -> String {
        let row = |setting: &Setting| {
            let default = match setting.default {
                Default::None => String::new(),
                Default::Value(value) => format!("`{value}` "),
                Default::Rule(rule) => format!("{rule} "),
            };
            format!("| `{}` | {} | {default}|\n", setting.name, setting.doc)
        };
        SETTINGS.iter().map(row).collect()
    }

    #[test]
    fn buildpack_toml_lists_the_settings_as_the_table_has_them() {
        let descriptor = include_str!("../../buildpack.toml");
        let listed = descriptor.find("[[metadata.configurations]]");
        let (listed, expected) = (&descriptor[listed.unwrap()..], configurations());
        assert!(
            listed == expected,
            "buildpack.toml must end with:\n\n{expected}"
        );
    }

    #[test]
    fn the_contract_lists_the_settings_as_the_table_has_them() {
        let contract = include_str!("../../docs/application_contract.md");
        let (_, after) = contract.split_once("\n## Settings\n").unwrap();
        let (section, _) = after.split_once("\n## ").unwrap();
        let listed: String = section
            .split_inclusive('\n')
            .filter(|line| line.starts_with("| `"))
            .collect();
        let expected = rows();
        assert!(
            listed == expected,
            "the contract's table must be:\n\n{expected}"
        );
    }

    #[test]
    fn the_readme_names_settings_that_there_are_and_the_contract_those_that_are_retired() {
        let readme = include_str!("../../README.md");
        let (_, after) = readme.split_once("\n## Settings\n").unwrap();
        let (section, _) = after.split_once("\n## ").unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split(','));
        for name in names.map(|name| name.trim().trim_matches('`')) {
            assert!(setting(name).is_some(), "{name}");
        }
        let contract = include_str!("../../docs/application_contract.md");
        for (name, _) in RETIRED {
            assert!(contract.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn every_default_is_a_value_that_its_setting_takes() {
        for setting in &SETTINGS {
            if let Default::Value(value) = setting.default {
                let app_dir = std::path::Path::new("/");
                let given = Given { value, app_dir };
                let parsed = (setting.parse)(&given, &mut Values::default());
                assert!(parsed.is_ok(), "{}", setting.name);
            }
        }
    }
}
