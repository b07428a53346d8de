//! Which server a URL names.

use url::Url;

/// Whether credentials for `url` may be sent to `other`: to the same scheme, host and port, or from
/// a host's usual port for `http` to its usual one for `https`.
pub fn is_same_server(url: &Url, other: &Url) -> bool {
    let upgraded = (url.scheme(), other.scheme()) == ("http", "https")
        && (url.port(), other.port()) == (None, None)
        && url.host() == other.host();
    upgraded || url.origin() == other.origin()
}

/// Whether following `other` would reach the network's own services (`169.254.169.254`, which gives
/// cloud machines their credentials) for a server that is not one of them.
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
    fn credentials_stay_with_their_server() {
        for (url, other, same) in [
            ("http://cache.net/a", "http://cache.net:80/b", true),
            ("http://cache.net/a", "https://cache.net/a", true),
            ("https://cache.net/a", "http://cache.net/a", false),
            ("http://cache.net:5000/a", "https://cache.net/a", false),
            ("http://cache.net/a", "http://cache.net:5000/a", false),
            ("http://cache.net/a", "http://cdn.cache.net/a", false),
        ] {
            let (url, other) = (url.parse::<Url>(), other.parse::<Url>());
            assert!(
                matches!((&url, &other), (Ok(url), Ok(other)) if is_same_server(url, other) == same),
                "{url:?} {other:?}"
            );
        }
    }

    #[test]
    fn only_the_user_leads_to_link_local_addresses() {
        for (url, other, leads) in [
            ("http://cache.net/", "http://169.254.169.254/latest", true),
            ("http://cache.net/", "http://0xa9fea9fe/", true),
            ("http://cache.net/", "http://[fe80::1]/", true),
            (
                "http://cache.net/",
                "http://[::ffff:169.254.169.254]/",
                true,
            ),
            ("http://169.254.0.9/", "http://169.254.0.10/", false),
            ("http://cache.net/", "http://10.0.0.1/", false),
        ] {
            let (from, to) = (url.parse::<Url>(), other.parse::<Url>());
            assert!(
                matches!((&from, &to), (Ok(from), Ok(to)) if leads_to_link_local(from, to) == leads),
                "{url} {other}"
            );
        }
    }
}
