//! Which server a URL names, and URLs as they may be shown.

use url::Url;

/// A text with the users and passwords of the URLs in it left out.
#[must_use]
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

/// Whether credentials for `url` may be sent to `other`: to the same scheme, host and port, or from
/// a host's usual port for `http` to its usual one for `https`.
#[must_use]
pub fn is_same_server(url: &Url, other: &Url) -> bool {
    let upgraded = (url.scheme(), other.scheme()) == ("http", "https")
        && (url.port(), other.port()) == (None, None)
        && url.host() == other.host();
    upgraded || url.origin() == other.origin()
}

/// Whether following `other` would reach the network's own services (`169.254.169.254`, which gives
/// cloud machines their credentials) for a server that is not one of them.
#[must_use]
pub fn leads_to_link_local(url: &Url, other: &Url) -> bool {
    let is_link_local = |url: &Url| match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_link_local(),
        Some(url::Host::Ipv6(address)) => match address.to_ipv4_mapped() {
            Some(address) => address.is_link_local(),
            None => address.is_unicast_link_local(),
        },
        Some(url::Host::Domain(_)) | None => false,
    };
    is_link_local(other) && !is_link_local(url)
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
}
