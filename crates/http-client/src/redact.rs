//! URLs as they may be shown: without users and passwords.

use crate::Credentials;
use url::Url;

/// `text` without the users and passwords of the URLs in it.
pub fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c == '/' || c.is_whitespace());
        let host = after[..end.unwrap_or(after.len())].rfind('@');
        rest = &after[host.map_or(0, |at| at + 1)..];
    }
    shown.push_str(rest);
    shown
}

/// The same for a text that should be one URL but may be malformed: it also removes a password with
/// slashes, and one that follows no `://`.
pub fn redact_url(text: &str) -> String {
    // How many slashes there are, and which, means little to a URL: only parsing it tells.
    if let Ok(mut url) = Url::parse(text)
        && url.has_host()
    {
        return match Credentials::take_from(&mut url) {
            Some(_) => url.to_string(),
            None => text.to_string(),
        };
    }
    // In a malformed URL the password may end at any `@`.
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_string();
    };
    let is_scheme = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric());
    match before.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => format!("{scheme}://{host}"),
        _ => host.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_left_out_of_any_text_with_urls() {
        for (text, shown) in [
            (
                "a=https://u:p@x.net/y@z:b=flake:git+https://t@y.net/r?rev=1",
                "a=https://x.net/y@z:b=flake:git+https://y.net/r?rev=1",
            ),
            ("nixpkgs=/pins", "nixpkgs=/pins"),
            ("http://u:p@", "http://"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn credentials_are_cut_out_of_a_url_however_it_is_written() {
        for (text, shown) in [
            ("ftp://user:pass@host/x@y", "ftp://host/x@y"),
            ("user:pass@host", "host"),
            ("http://host", "http://host"),
            ("http://user:pa/ss@host/x", "http://host/x"),
            ("http://user:pa#ss?@host", "http://host"),
            ("user:pass@host?next=http://x", "host?next=http://x"),
            ("user:pa://ss@host", "host"),
            ("https:/user:pass@host", "https://host/"),
            (
                "https:///user:pass@host?priority=x",
                "https://host/?priority=x",
            ),
            (r"http:\\user:pass@host", "http://host/"),
            ("https:user:pass@host", "https://host/"),
        ] {
            assert_eq!(redact_url(text), shown);
        }
    }
}
