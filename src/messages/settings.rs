//! Wrong settings, credentials that cannot be read, and variables without effect.

use super::Message;
use crate::config::{ConfigError, EXPRESSION_FILES, Ineffective, Invalid, Problem, Setting, Slip};
use binary_cache::CacheUrlError;
use binary_cache::credentials::{BINDING_TYPE, CredentialsError, UnusedBinding};
use http_client::EndpointError;
use indoc::formatdoc;
use words::list;

/// One message for all that is wrong with the settings of a build.
pub(super) fn config(error: &ConfigError) -> Message {
    let mut messages: Vec<Message> = error.0.iter().map(problem).collect();
    if messages.len() == 1 {
        return messages.remove(0);
    }
    let bodies: Vec<String> = messages
        .iter()
        .map(|message| message.body.replace("\n\n", "\n"))
        .collect();
    Message::new(
        format!("The settings have {} errors", messages.len()),
        bodies.join("\n\n"),
    )
}

fn problem(problem: &Problem) -> Message {
    match problem {
        Problem::Invalid { setting, invalid } => wrong_value(setting, invalid),
        Problem::UnknownTarget { target, attributes } => Message::of(&formatdoc! {"
            The setting NIX_TARGET cannot be used

            NIX_TARGET is set to `{target}`.

            It takes one of the attributes in NIX_ATTRIBUTES{attributes}.
        ", attributes = match attributes[..] {
            [] => ", which is not set".to_string(),
            _ => format!(": {}", attributes.join(", ")),
        }}),
        Problem::MissingPartner {
            name: name @ "NIX_HYDRA_INPUTS",
            partner,
        } => Message::of(&formatdoc! {"
            The setting {name} needs {partner}

            {name} is set, but {partner} is not, which says whose inputs to use.

            Set {partner} to a job of the jobset: `project/jobset/job`.
        "}),
        Problem::MissingPartner { name, partner } => Message::of(&formatdoc! {"
            The setting {name} needs {partner}

            {name} is set, but {partner} is not. A tool from elsewhere is only used
            together with its hash.

            Set both of them, or neither.
        "}),
        Problem::Credentials(error) => credentials(error),
        Problem::NothingToDeploy => Message::of(&formatdoc! {"
            There is nothing to deploy

            The app has none of {files}, and neither
            NIX_FILE nor NIX_STORE_PATH nor NIX_HYDRA_JOB is set.

            Add an expression to the app, or set NIX_FILE to the one it has.
        ", files = list(&EXPRESSION_FILES.map(|file| format!("`{file}`")))}),
    }
}

fn wrong_value(setting: &Setting, invalid: &Invalid) -> Message {
    let (name, shown, takes) = (setting.name, &invalid.shown, setting.takes);
    let mut body = format!("{name} is set to `{shown}`.\n\nIt takes {takes}.");
    if let Some(slip) = &invalid.slip {
        body.push_str("\n\n");
        body.push_str(&hint(name, slip));
    }
    Message::new(format!("The setting {name} cannot be used"), body)
}

/// What to set instead.
fn hint(name: &str, slip: &Slip) -> String {
    match slip {
        Slip::Commas => "Separate the values with spaces, without commas.".to_string(),
        Slip::Quotes => "Leave out the quotation marks: they have become part of the value.".to_string(),
        Slip::NixConf(setting) => format!(
            "This is a line of nix.conf. Set {setting} to the part after the `=`."
        ),
        Slip::CacheUrl(CacheUrlError::Endpoint(EndpointError::FileHost)) => {
            "A slash is missing: `file://` is followed by the absolute path of a directory, as in `file:///var/cache/nix`.".to_string()
        }
        Slip::CacheUrl(CacheUrlError::S3) => {
            "A bucket is `s3://` and its name, with `?region=`, `endpoint=` (a host), `scheme=` (`https` or `http`) and `addressing-style=` (`virtual` or `path`).".to_string()
        }
        Slip::CacheUrl(CacheUrlError::Priority) => {
            "`?priority=` is followed by a whole number.".to_string()
        }
        Slip::CacheUrl(CacheUrlError::Trusted) => {
            "`?trusted=` is followed by `true` or `false`.".to_string()
        }
        Slip::CacheUrl(error @ CacheUrlError::Endpoint(EndpointError::NotAUrl | EndpointError::Scheme)) => {
            format!("In this value, {error}.")
        }
        Slip::HydraPage { hydra, job } => {
            let job = job.as_ref().map(|job| job.to_string().replace(':', "/"));
            match (name, job) {
                ("NIX_HYDRA_JOB", Some(job)) => format!(
                    "This is the page of a job. Set NIX_HYDRA_JOB to `{job}`, and NIX_HYDRA_URL to `{hydra}`."
                ),
                ("NIX_HYDRA_JOB", None) => format!(
                    "This is a page of the Hydra at `{hydra}`. The page of a job shows the three names."
                ),
                (_, Some(job)) => format!(
                    "This is the page of a job. Set {name} to `{hydra}`, and NIX_HYDRA_JOB to `{job}` to deploy what Hydra built for it."
                ),
                (_, None) => format!("This is a page of a Hydra. Set {name} to `{hydra}`."),
            }
        }
        Slip::Installable(attribute) => match name {
            "NIX_FILE" => format!(
                "A flake's attribute is named apart from its file: set NIX_FILE to `flake.nix`, and NIX_ATTRIBUTES to `{attribute}`."
            ),
            _ => format!("The flake is the app's own, so only the attribute is named: `{attribute}`."),
        },
        Slip::SecretKey => formatdoc! {"
            This is a secret key. Anyone who can read the settings of this build can now sign in its name.
            Replace it: make a new pair with `nix-store --generate-binary-cache-key`, let the binary cache
            sign with that, and set the new public key here."},
        Slip::Derivation => {
            "This is a derivation. Set the path that it builds: `nix-store --query --outputs` prints it.".to_string()
        }
    }
}

/// The warning about a variable that has no effect.
pub fn ineffective(variable: &Ineffective) -> String {
    match variable {
        Ineffective::Misspelt { name, nearest } => format!(
            "{name} is set, but there is no setting of that name, so it has no effect. Did you mean {nearest}?"
        ),
        Ineffective::Retired { name, reason } => {
            format!("{name} is set, but has no effect: {reason}.")
        }
    }
}

/// The warning about a service binding that looks like a binary cache's and is not used.
pub fn unused_binding(binding: &UnusedBinding) -> String {
    let directory = binding.directory.display();
    let kind = binding.kind.as_ref();
    let has = kind.map_or("no `type`".to_string(), |kind| format!("the type `{kind}`"));
    format!(
        "The binding {directory} has {has}, so it is not used: that of a binary cache is `{BINDING_TYPE}`."
    )
}

fn credentials(error: &CredentialsError) -> Message {
    match error {
        CredentialsError::Read(path, error) => Message::of(&formatdoc! {"
            Failed to read the credentials of a binary cache

            {path} could not be read: {error}.

            It must be a text file that the user who builds the image may read.
        ", path = path.display()}),
        CredentialsError::Url(path, _) => Message::of(&formatdoc! {"
            A service binding cannot be used

            {path} does not hold the URL of a binary cache.

            It takes one, such as `https://cache.example.org`.
        ", path = path.display()}),
        CredentialsError::PublicKey(path) => Message::of(&formatdoc! {"
            A service binding cannot be used

            {path} holds something that is not a public key.

            It takes public keys, `name:base64`, separated by spaces. If this is a secret key,
            replace it, since others can read it here.
        ", path = path.display()}),
        CredentialsError::NoUrl(directory) => Message::of(&formatdoc! {"
            A service binding cannot be used

            {directory} has a user or a token, but no `url` to use them for.

            Add a `url`; or a `netrc`, which names the hosts itself.
        ", directory = directory.display()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, ineffective as find_ineffective};
    use std::io;
    use std::path::Path;

    const SECRET: &str = "hunter2";

    /// The message about these settings, in an app that has nothing else.
    fn message(settings: &[(&str, &str)]) -> String {
        let deployed = (
            "NIX_STORE_PATH",
            "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp",
        );
        let get = |name: &str| {
            let mut set = settings.iter().chain([&deployed]);
            let value = set.find(|(set, _)| *set == name);
            value.map(|(_, value)| (*value).to_string())
        };
        let error = Config::read(get, Path::new("/nonexistent")).unwrap_err();
        let message = config(&error).to_string();
        assert!(!message.contains(SECRET), "{message}");
        message
    }

    fn texts(texts: impl IntoIterator<Item = String>) -> String {
        let texts: Vec<String> = texts.into_iter().collect();
        texts.join("\n\n==========\n\n")
    }

    #[test]
    fn messages_about_settings() {
        let problems = [
            Problem::MissingPartner {
                name: "NIX_PROOT_URL",
                partner: "NIX_PROOT_SHA256",
            },
            Problem::MissingPartner {
                name: "NIX_HYDRA_INPUTS",
                partner: "NIX_HYDRA_JOB",
            },
            Problem::UnknownTarget {
                target: "web".into(),
                attributes: Vec::new(),
            },
            Problem::UnknownTarget {
                target: "web".into(),
                attributes: vec!["site".into(), "worker".into()],
            },
            Problem::Credentials(CredentialsError::Read(
                "/bindings/acme/token".into(),
                io::ErrorKind::PermissionDenied.into(),
            )),
            Problem::Credentials(CredentialsError::Url(
                "/bindings/acme/url".into(),
                CacheUrlError::Endpoint(EndpointError::Scheme),
            )),
            Problem::Credentials(CredentialsError::PublicKey(
                "/bindings/acme/public-key".into(),
            )),
            Problem::Credentials(CredentialsError::NoUrl("/bindings/acme".into())),
            Problem::NothingToDeploy,
        ];
        let messages = problems.map(|one| config(&ConfigError(vec![one])).to_string());
        insta::assert_snapshot!(texts(messages));
    }

    #[test]
    fn usual_mistakes_have_their_hint() {
        let secret_key = format!("acme-1:{}==", "A".repeat(86));
        let mistakes = [
            ("NIX_DEBUG", "loud"),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "s3://acme-cache?addressing-style=dns",
            ),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "https://hydra.acme.net,https://cache.acme.net",
            ),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "https://deploy:hunter2@hydra.acme.net, https://cache.acme.net",
            ),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "extra-substituters = https://deploy:hunter2@hydra.acme.net",
            ),
            ("NIX_EXTRA_BINARY_CACHE", "\"https://hydra.acme.net\""),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "https://hydra.acme.net/job/acme/main/myapp",
            ),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "trusted-public-keys = hydra.acme.net-1:abc",
            ),
            ("NIX_EXTRA_BINARY_CACHE", "file://var/cache/nix"),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "https://cache.acme.net?priority=high",
            ),
            (
                "NIX_EXTRA_BINARY_CACHE",
                "https://cache.acme.net?trusted=yes",
            ),
            ("NIX_TRUSTED_PUBLIC_KEYS", &secret_key),
            ("NIX_TRUSTED_PUBLIC_KEYS", "acme-1:abc=,beta-1:def="),
            ("NIX_HYDRA_URL", "https://hydra.acme.net/build/17"),
            (
                "NIX_HYDRA_JOB",
                "https://hydra.acme.net/job/acme/main/myapp/latest",
            ),
            (
                "NIX_HYDRA_JOB",
                "https://u:hunter2@hydra.acme.net/jobset/acme/main",
            ),
            ("NIX_ATTRIBUTES", ".#myapp"),
            ("NIX_ATTRIBUTES", "web,worker"),
            ("NIX_FILE", ".#myapp"),
            (
                "NIX_STORE_PATH",
                "/nix/store/xbgcfhaawi9iz9s99k58sqy8azc2a1w3-myapp.drv",
            ),
        ];
        insta::assert_snapshot!(texts(mistakes.map(|mistake| message(&[mistake]))));
    }

    #[test]
    fn several_mistakes_are_one_message() {
        insta::assert_snapshot!(message(&[
            ("NIX_EXTRA_BINARY_CACHE", "ftp://acme-cache"),
            ("NIX_HYDRA_WAIT", "soon"),
            ("NIX_PROOT_URL", "https://tools.acme.net/proot"),
        ]));
    }

    #[test]
    fn variables_without_effect_are_warned_of() {
        let names = ["NIX_EXTRA_BINARY_CACHES", "NIX_BUILD_FLAGS"].map(str::to_string);
        let warnings = find_ineffective(names);
        insta::assert_snapshot!(texts(warnings.iter().map(ineffective)));
    }
}
