//! Binary caches, keys and tokens that the app's own Nix configuration names: `nixConfig` of its flake,
//! a `nix.conf` in it, and `NIX_CONFIG`. They count once the user accepts them, as Nix asks it.

use super::read::{Get, Values};
use super::{NotAsked, caches};
use nix_runner::AccessTokens;
use std::path::Path;

/// Bytes of a file that is read for this.
const MAX_SIZE: u64 = 1024 * 1024;

/// Adds what the app's configuration names to `values`, if that is accepted. Returns the binary caches
/// that are not asked because it is not.
pub(super) fn apply(values: &mut Values, get: &Get, app_dir: &Path) -> Vec<NotAsked> {
    let file = |name: &str| app_dir::read_to_string(app_dir, Path::new(name), MAX_SIZE).ok();
    let places = [
        ("flake.nix", file("flake.nix").map(|text| of_flake(&text))),
        ("nix.conf", file("nix.conf").map(|text| of_lines(&text))),
        ("NIX_CONFIG", get("NIX_CONFIG").map(|text| of_lines(&text))),
    ];
    let mut not_asked = Vec::new();
    for (place, settings) in places {
        for (name, words) in settings.into_iter().flatten() {
            let text = words.join(" ");
            let name = name.trim_start_matches("extra-");
            match name {
                "substituters" | "trusted-substituters" if values.accept_flake_config => {
                    values
                        .extra_caches
                        .extend(caches::urls(&text).unwrap_or_default());
                }
                "substituters" | "trusted-substituters" => {
                    let urls = caches::urls(&text).unwrap_or_default();
                    not_asked.extend(urls.into_iter().map(|cache| NotAsked { place, cache }));
                }
                "trusted-public-keys" if values.accept_flake_config => {
                    values.keys.extend(caches::keys(&text).unwrap_or_default());
                }
                "access-tokens" if values.accept_flake_config => {
                    let tokens = AccessTokens::parse(&text).unwrap_or_default();
                    values.access_tokens = values.access_tokens.clone().then(tokens);
                }
                _ => {}
            }
        }
    }
    not_asked
}

/// The lines of a `nix.conf`: names, and the words of each.
fn of_lines(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = text.lines().filter_map(|line| {
        let (name, value) = line.split('#').next()?.split_once('=')?;
        let words = value.split_whitespace().map(str::to_string).collect();
        Some((name.trim().to_string(), words))
    });
    lines.collect()
}

/// The settings of a flake's `nixConfig`, which Nix allows to be nothing but literals.
fn of_flake(text: &str) -> Vec<(String, Vec<String>)> {
    let mut settings: Vec<(String, Vec<String>)> = Vec::new();
    let Some(at) = text.find("nixConfig") else {
        return settings;
    };
    // Strings stand at odd places once a line's comment is gone and it is split at quotation marks.
    let mut depth = 0;
    for line in text[at..].lines() {
        let mut is_string = false;
        for part in line.split('"') {
            if is_string {
                if let Some((_, words)) = settings.last_mut() {
                    words.extend(part.split_whitespace().map(str::to_string));
                }
            } else {
                let code = part.split('#').next().unwrap_or_default();
                let mut names = code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                let name = names.rfind(|name| name.contains('-') || *name == "substituters");
                settings.extend(name.map(|name| (name.to_string(), Vec::new())));
                depth += code.matches('{').count();
                let closed = code.matches('}').count();
                if closed > 0 && closed >= depth {
                    return settings;
                }
                depth -= closed;
                if code.len() < part.len() {
                    break;
                }
            }
            is_string = !is_string;
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flake_s_configuration_is_read_as_far_as_it_names_caches_and_keys() {
        let flake = r#"{
          nixConfig = {
            extra-substituters = [
              "https://acme.cachix.org" # ours: "https://other.example.org"
            ];
            # extra-substituters = [ "https://old.example.org" ];
            extra-trusted-public-keys = "acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
          };
          inputs.not-a-setting.url = "github:a/b";
        }"#;
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            of_flake(flake),
            [
                (
                    "extra-substituters".to_string(),
                    words(&["https://acme.cachix.org"])
                ),
                (
                    "extra-trusted-public-keys".to_string(),
                    words(&["acme-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="])
                ),
            ]
        );
        assert_eq!(of_flake("{ outputs = _: { }; }"), []);
    }

    #[test]
    fn lines_of_nix_conf_are_read_without_comments() {
        let read = of_lines("substituters = https://a https://b # c\n\n# keys = x\nmax-jobs = 1");
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].1, ["https://a", "https://b"]);
    }
}
