//! The proxies that the environment names: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in
//! capitals or small letters, as curl reads them.

use crate::{Credentials, redact_url};
use std::net::IpAddr;
use ureq::Proxy;
use url::{Host, Url};

/// The proxies, and the servers that are reached without one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    /// For `http` URLs: the proxy gets the whole URL.
    http: Option<PlainProxy>,
    /// For `https` URLs: a tunnel through the proxy.
    https: Option<Proxy>,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone)]
struct PlainProxy {
    url: Url,
    credentials: Option<Credentials>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    /// A host name and the names below it.
    Domain(String),
    /// Addresses that begin with the first bits of this one.
    Network(IpAddr, u32),
}

/// How a request for a URL is sent.
pub(crate) enum Route {
    Direct,
    Tunnel(Proxy),
    /// To the proxy, for this URL of it, with its `Proxy-Authorization`.
    Plain {
        url: String,
        host: String,
        authorization: Option<String>,
    },
}

impl Route {
    /// The URL to request for `url`.
    pub(crate) fn url<'a>(&'a self, url: &'a Url) -> &'a str {
        match self {
            Self::Plain { url, .. } => url,
            Self::Direct | Self::Tunnel(_) => url.as_str(),
        }
    }
}

impl Proxies {
    /// Reads the variables with `get`. Appends what cannot be used to `warnings`.
    pub(crate) fn read(get: impl Fn(&str) -> Option<String>, warnings: &mut Vec<String>) -> Self {
        let get = |name: &str| {
            let value = get(&name.to_ascii_lowercase()).or_else(|| get(name));
            value.filter(|value| !value.trim().is_empty())
        };
        let mut proxy = |name| {
            let (name, value) = [name, "ALL_PROXY"]
                .into_iter()
                .find_map(|name| Some((name, get(name)?)))?;
            let url = parse(value.trim());
            if url.is_none() {
                let shown = redact_url(value.trim());
                warnings.push(format!(
                    "{name} is `{shown}`, which is not the `http` or `https` URL of a proxy: none is used"
                ));
            }
            url
        };
        let http = proxy("HTTP_PROXY");
        let https = proxy("HTTPS_PROXY");
        let exceptions = get("NO_PROXY").unwrap_or_default();
        Self {
            http: http.map(|mut url| PlainProxy {
                credentials: Credentials::take_from(&mut url),
                url,
            }),
            https: https.and_then(|url| Proxy::new(url.as_str()).ok()),
            exceptions: exceptions
                .split([',', ' '])
                .filter_map(Exception::parse)
                .collect(),
        }
    }

    pub(crate) fn route(&self, url: &Url) -> Route {
        if self
            .exceptions
            .iter()
            .any(|exception| exception.covers(url))
        {
            return Route::Direct;
        }
        match (url.scheme(), &self.http, &self.https) {
            ("http", Some(proxy), _) => Route::Plain {
                url: format!("{}{url}", proxy.url),
                host: url[url::Position::BeforeHost..url::Position::AfterPort].to_string(),
                authorization: proxy.credentials.as_ref().map(Credentials::authorization),
            },
            ("https", _, Some(proxy)) => Route::Tunnel(proxy.clone()),
            _ => Route::Direct,
        }
    }
}

/// The URL of a proxy, which may be written without a scheme, ending with a slash.
fn parse(text: &str) -> Option<Url> {
    let text = if text.contains("://") {
        text.to_string()
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&text).ok()?;
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    (matches!(url.scheme(), "http" | "https") && url.has_host()).then_some(url)
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text.as_str(), None),
        };
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = address.parse::<IpAddr>() {
            let all = if address.is_ipv4() { 32 } else { 128 };
            return Some(Self::Network(address, bits.unwrap_or(all).min(all)));
        }
        let name = text.strip_prefix('*').unwrap_or(&text);
        let name = name.trim_start_matches('.').split(':').next()?;
        (!name.is_empty()).then(|| Self::Domain(name.to_string()))
    }

    fn covers(&self, url: &Url) -> bool {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match (self, address) {
            (Self::All, _) => true,
            (Self::Network(network, bits), Some(address)) => is_within(address, *network, *bits),
            (Self::Domain(domain), None) => {
                let host = url.host_str().unwrap_or_default();
                let below = host.strip_suffix(domain.as_str());
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
            _ => false,
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let differing = u32::from(address) ^ u32::from(network);
            differing.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let differing = u128::from(address) ^ u128::from(network);
            differing.leading_zeros() >= bits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(settings: &[(&str, &str)]) -> (Proxies, Vec<String>) {
        let mut warnings = Vec::new();
        let get = |name: &str| {
            let found = settings.iter().find(|(other, _)| *other == name);
            found.map(|(_, value)| (*value).to_string())
        };
        let proxies = Proxies::read(get, &mut warnings);
        (proxies, warnings)
    }

    fn kind(proxies: &Proxies, url: &str) -> &'static str {
        match proxies.route(&url.parse().unwrap()) {
            Route::Direct => "direct",
            Route::Tunnel(_) => "tunnel",
            Route::Plain { .. } => "plain",
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_with_a_password() {
        let (proxies, _) = proxies(&[
            ("HTTP_PROXY", "user:p%40ss@proxy:3128"),
            ("https_proxy", "http://user:p%40ss@proxy:3129/"),
        ]);
        let Route::Plain {
            url,
            host,
            authorization,
        } = proxies.route(&"http://cache.net:8080/a?b".parse().unwrap())
        else {
            panic!("not sent to the proxy")
        };
        assert_eq!(url, "http://proxy:3128/http://cache.net:8080/a?b");
        assert_eq!(host, "cache.net:8080");
        assert_eq!(authorization.as_deref(), Some("Basic dXNlcjpwQHNz"));
        let Route::Tunnel(proxy) = proxies.route(&"https://cache.net/".parse().unwrap()) else {
            panic!("no tunnel")
        };
        assert_eq!((proxy.host(), proxy.port()), ("proxy", 3129));
        assert_eq!(proxy.password(), Some("p@ss"));
    }

    #[test]
    fn names_domains_addresses_and_networks_are_reached_without() {
        let (proxies, _) = proxies(&[
            ("ALL_PROXY", "http://proxy"),
            (
                "NO_PROXY",
                "localhost, .acme.net,*.example.org,10.0.0.0/8,192.168.1.2,[fd00::]/8",
            ),
        ]);
        for (host, expected) in [
            ("localhost", "direct"),
            ("acme.net", "direct"),
            ("cache.acme.net", "direct"),
            ("notacme.net", "plain"),
            ("a.example.org", "direct"),
            ("10.1.2.3", "direct"),
            ("11.1.2.3", "plain"),
            ("192.168.1.2", "direct"),
            ("192.168.1.20", "plain"),
            ("cache.net", "plain"),
        ] {
            assert_eq!(
                kind(&proxies, &format!("http://{host}:5000/x")),
                expected,
                "{host}"
            );
        }
        assert_eq!(kind(&proxies, "https://cache.net/"), "tunnel");
        assert_eq!(kind(&proxies, "http://[fd12::1]/"), "direct");
        assert_eq!(kind(&proxies, "http://[fe80::1]/"), "plain");
    }

    #[test]
    fn a_proxy_that_cannot_be_used_is_told_without_its_password() {
        let (proxies, warnings) = proxies(&[("http_proxy", "socks5://u:hunter2@proxy:1080")]);
        assert_eq!(kind(&proxies, "http://cache.net/"), "direct");
        assert_eq!(
            warnings,
            [
                "HTTP_PROXY is `socks5://proxy:1080`, which is not the `http` or `https` URL of a proxy: \
              none is used"
            ]
        );
    }
}
