//! The variables that the start program changes for the app.

use crate::image::Image;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// Where run images keep their bundle of certificates: Debian and Alpine, Red Hat, SUSE, others.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// `PATH` where a run image sets none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A variable and its new value; none takes it away.
pub(crate) type Change = (&'static str, Option<OsString>);

/// The changes to an environment that has the values of `variable`.
pub(crate) fn changes(
    image: &Image,
    variable: impl Fn(&str) -> Option<OsString>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<Change> {
    let mut changes = vec![("PATH", Some(path(image, variable("PATH"))))];
    if let Some(value) = variable("LD_LIBRARY_PATH") {
        let kept = own_libraries(image, &value);
        if kept.as_ref() != Some(&value) {
            changes.push(("LD_LIBRARY_PATH", kept));
        }
    }
    let names = ["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"];
    let set = names.map(|name| variable(name).filter(|value| !value.is_empty()));
    let file = set
        .iter()
        .flatten()
        .next()
        .cloned()
        .or_else(|| certificates(image, exists));
    if let Some(file) = file {
        let unset = names.into_iter().zip(set);
        let unset = unset.filter(|(_, value)| value.is_none());
        changes.extend(unset.map(|(name, _)| (name, Some(file.clone()))));
    }
    if let (Some(archive), None) = (&image.locale_archive, variable("LOCALE_ARCHIVE")) {
        changes.push(("LOCALE_ARCHIVE", Some(archive.into())));
    }
    changes
}

/// `PATH` with the roots' programs first. Within a process of the image it is so already.
fn path(image: &Image, rest: Option<OsString>) -> OsString {
    let mut path = OsString::new();
    for root in &image.roots {
        path.push(root.join("bin"));
        path.push(":");
    }
    let rest = rest.filter(|rest| !rest.is_empty());
    let rest = rest.unwrap_or(DEFAULT_PATH.into());
    if rest.as_bytes().starts_with(path.as_bytes()) {
        return rest;
    }
    path.push(rest);
    path
}

/// The directories in `LD_LIBRARY_PATH` that belong to the closure. The others have libraries of the run
/// image, which are built against another libc and would come before the closure's own.
fn own_libraries(image: &Image, value: &OsStr) -> Option<OsString> {
    let store = image.store();
    let kept: Vec<&[u8]> = value
        .as_bytes()
        .split(|byte| *byte == b':')
        .filter(|directory| Path::new(OsStr::from_bytes(directory)).starts_with(store))
        .collect();
    (!kept.is_empty()).then(|| OsString::from_vec(kept.join(&b':')))
}

fn certificates(image: &Image, exists: impl Fn(&Path) -> bool) -> Option<OsString> {
    let mut bundles = CERTIFICATES.iter().map(Path::new);
    bundles
        .find(|bundle| exists(bundle))
        .or(image.certificates.as_deref())
        .map(|bundle| bundle.as_os_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(image: &str, variables: &[(&str, &str)], exists: bool) -> Vec<(String, String)> {
        let variable = |wanted: &str| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| OsString::from(value))
        };
        changes(&Image::parse(image), variable, |_| exists)
            .into_iter()
            .map(|(name, value)| {
                let value = value.unwrap_or("(taken away)".into());
                (name.to_string(), value.to_string_lossy().into_owned())
            })
            .collect()
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
        pairs
            .map(|(name, value)| (name.into(), value.into()))
            .into()
    }

    const ROOTS: &str = "root /nix/store/a-app\nroot /nix/store/b-tool\n";

    #[test]
    fn the_programs_of_the_roots_come_first() {
        let path = "/nix/store/a-app/bin:/nix/store/b-tool/bin";
        assert_eq!(
            changed(ROOTS, &[("PATH", "/bin")], false),
            pairs([("PATH", &format!("{path}:/bin"))])
        );
        assert_eq!(
            changed(ROOTS, &[], false),
            pairs([("PATH", &format!("{path}:{DEFAULT_PATH}"))])
        );
    }

    #[test]
    fn libraries_of_the_run_image_stay_out_of_the_closure() {
        let changed = |value| changed(ROOTS, &[("LD_LIBRARY_PATH", value)], false).pop();
        let library_path = |value: &str| Some(("LD_LIBRARY_PATH".to_string(), value.to_string()));
        assert_eq!(changed("/layers/x/lib:"), library_path("(taken away)"));
        assert_eq!(
            changed("/usr/lib:/nix/store/c-gl/lib:"),
            library_path("/nix/store/c-gl/lib")
        );
        let unchanged = changed("/nix/store/c-gl/lib");
        assert_eq!(unchanged.map(|(name, _)| name), Some("PATH".to_string()));
    }

    #[test]
    fn certificates_are_the_run_image_s_else_the_closure_s_and_the_user_s_before_both() {
        let image = format!("{ROOTS}certificates /nix/store/c/ca.crt\n");
        let both = |file| pairs([("NIX_SSL_CERT_FILE", file), ("SSL_CERT_FILE", file)]);
        let changed = |variables: &[_], exists| changed(&image, variables, exists).split_off(1);
        assert_eq!(changed(&[], true), both(CERTIFICATES[0]));
        assert_eq!(changed(&[], false), both("/nix/store/c/ca.crt"));
        assert_eq!(
            changed(
                &[("SSL_CERT_FILE", "/mine"), ("NIX_SSL_CERT_FILE", "")],
                true
            ),
            pairs([("NIX_SSL_CERT_FILE", "/mine")])
        );
        let set = [("SSL_CERT_FILE", "/mine"), ("NIX_SSL_CERT_FILE", "/other")];
        assert_eq!(changed(&set, true), []);
    }

    #[test]
    fn locales_of_the_closure_are_used_where_the_user_names_none() {
        let image = format!("{ROOTS}locale-archive /nix/store/l/archive\n");
        assert_eq!(
            changed(&image, &[], false).split_off(1),
            pairs([("LOCALE_ARCHIVE", "/nix/store/l/archive")])
        );
        assert_eq!(
            changed(&image, &[("LOCALE_ARCHIVE", "/mine")], false).len(),
            1
        );
    }
}
