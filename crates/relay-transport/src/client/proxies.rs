//! Which hosts are reached through which proxy.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::client::error::BoxError;

/// Proxies for plain and for encrypted connections, and the hosts that need none.
#[derive(Default)]
pub(crate) struct Proxies {
    http: Option<NamedProxy>,
    https: Option<NamedProxy>,
    except: Exceptions,
    /// This machine is reached directly, whatever the rules say.
    spare_loopback: bool,
}

/// A proxy, and the variable or setting that names it.
struct NamedProxy {
    matcher: Matcher,
    place: &'static str,
}

impl NamedProxy {
    fn new(url: &str, place: &'static str) -> Self {
        Self { matcher: Matcher::builder().all(url).build(), place }
    }

    /// `None` when the text is not the URL of a proxy.
    fn intercept(&self, uri: &Uri) -> Option<Intercept> {
        let proxy = self.matcher.intercept(uri)?;
        let authority = proxy.uri().authority()?;
        let host = authority.host();
        let port_is_one = authority.as_str() == host || authority.port_u16().is_some();
        (!host.is_empty() && port_is_one).then_some(proxy)
    }
}

impl Proxies {
    /// The proxies of the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in
    /// small letters. `variable` looks one up.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 2]| {
            names
                .into_iter()
                .find_map(|name| Some((variable(name).filter(|text| !text.trim().is_empty())?, name)))
        };
        // In a CGI program HTTP_PROXY is a header of the request.
        let cgi = variable("REQUEST_METHOD").is_some();
        let http =
            if cgi { first(["http_proxy", "http_proxy"]) } else { first(["HTTP_PROXY", "http_proxy"]) };
        let all = || first(["ALL_PROXY", "all_proxy"]);
        let via = |(url, place): (String, _)| NamedProxy::new(url.trim(), place);
        Self {
            http: http.or_else(all).map(via),
            https: first(["HTTPS_PROXY", "https_proxy"]).or_else(all).map(via),
            except: first(["NO_PROXY", "no_proxy"])
                .map(|(text, _)| Exceptions::parse(&text))
                .unwrap_or_default(),
            spare_loopback: true,
        }
    }

    /// One proxy for everything except the given hosts. `None` when `url` is not the URL of a proxy.
    pub(crate) fn fixed(url: &str, except: &str) -> Option<Self> {
        let via = || Some(NamedProxy::new(url, "the proxy's URL"));
        via()?.intercept(&Uri::from_static("http://any"))?;
        Some(Self { http: via(), https: via(), except: Exceptions::parse(except), spare_loopback: false })
    }

    /// The proxy for a URL; `None` when it is reached directly.
    ///
    /// # Errors
    /// When the named proxy is not valid: a direct connection may be unwanted.
    pub(crate) fn intercept(&self, uri: &Uri) -> Result<Option<Intercept>, BoxError> {
        let encrypted = uri.scheme_str() == Some("https");
        let Some(via) = (if encrypted { &self.https } else { &self.http }) else { return Ok(None) };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        if (self.spare_loopback && is_loopback(host)) || self.except.contain(host, port) {
            return Ok(None);
        }
        match via.intercept(uri) {
            Some(proxy) => Ok(Some(proxy)),
            // Without its text, which may hold a password.
            None => Err(format!("{} is not the URL of a proxy", via.place).into()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The hosts that are reached without a proxy: the entries of `NO_PROXY`.
#[derive(Default)]
struct Exceptions(Vec<Exception>);

struct Exception {
    who: HostPattern,
    /// `None`: any.
    port: Option<u16>,
}

enum HostPattern {
    Any,
    /// A network: the addresses that share its first bits.
    Network {
        address: IpAddr,
        bits: u8,
    },
    /// In small letters. The domain and everything in it, as with curl.
    Domain(String),
}

impl Exceptions {
    /// Entries are separated by commas or white space: `*`, names, suffixes (`.a.example`, `*.a.example`),
    /// addresses and networks (`10.0.0.0/8`, `fd00::/8`), each but networks with or without a port
    /// (`a.example:6443`, `[::1]:443`). Any other entry matches no host.
    fn parse(text: &str) -> Self {
        let entries = text.split([',', ' ', '\t', '\n', '\r']).filter(|entry| !entry.is_empty());
        Self(entries.filter_map(Exception::parse).collect())
    }

    fn contain(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        self.0.iter().filter(|entry| entry.port.is_none_or(|wanted| wanted == port)).any(|entry| match &entry
            .who
        {
            HostPattern::Any => true,
            HostPattern::Network { address: network, bits } => {
                address.is_some_and(|address| begins_alike(address, *network, *bits))
            }
            // An address has no domain.
            HostPattern::Domain(domain) => {
                let rest = host.strip_suffix(domain.as_str()).filter(|_| address.is_none());
                rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        })
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let any_port = |who| Some(Self { who, port: None });
        if entry == "*" {
            return any_port(HostPattern::Any);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            return (bits <= width(address))
                .then_some(())
                .and_then(|()| any_port(HostPattern::Network { address, bits }));
        }
        let whole = |text: &str| {
            let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok()?;
            Some(HostPattern::Network { address, bits: width(address) })
        };
        if let Some(who) = whole(entry) {
            return any_port(who);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        let domain = || {
            let domain = host.strip_prefix('*').unwrap_or(host).trim_matches('.').to_ascii_lowercase();
            (!domain.is_empty()).then_some(HostPattern::Domain(domain))
        };
        Some(Self { who: whole(host).or_else(domain)?, port })
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn begins_alike(one: IpAddr, other: IpAddr, bits: u8) -> bool {
    let differ = match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => u128::from(u32::from(one) ^ u32::from(other)) << 96,
        (IpAddr::V6(one), IpAddr::V6(other)) => u128::from(one) ^ u128::from(other),
        _ => return false,
    };
    differ.leading_zeros() >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(proxies: &Proxies, url: &str) -> Option<String> {
        proxies.intercept(&url.parse().unwrap()).unwrap().map(|proxy| proxy.uri().to_string())
    }

    fn environment(pairs: &[(&str, &str)]) -> Proxies {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Proxies::from_environment(move |wanted| {
            pairs.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
        })
    }

    #[test]
    fn exceptions_are_names_suffixes_addresses_networks_and_ports() {
        for (entry, url, spared) in [
            ("*", "https://a.example", true),
            ("a.example", "https://a.example:6443", true),
            ("a.example", "https://x.A.Example./path", true),
            ("a.example", "https://ba.example", false),
            (".a.example", "https://x.a.example", true),
            ("*.a.example", "https://x.a.example", true),
            ("A.Example.", "https://a.example", true),
            ("x, \t a.example ,y", "https://a.example", true),
            ("x a.example y", "https://a.example", true),
            ("a.example:6443", "https://a.example:6443", true),
            ("a.example:6443", "https://a.example", false),
            ("a.example:443", "https://a.example", true),
            ("a.example:80", "http://a.example", true),
            ("10.0.0.1", "https://10.0.0.1:6443", true),
            ("10.0.0.1", "https://10.0.0.11", false),
            ("0.0.1", "https://10.0.0.1", false),
            ("10.0.0.1:6443", "https://10.0.0.1:6443", true),
            ("10.0.0.1:6443", "https://10.0.0.1", false),
            ("10.0.0.0/8", "https://10.200.3.4", true),
            ("10.0.0.0/8", "https://11.0.0.0", false),
            ("0.0.0.0/0", "https://11.0.0.0", true),
            ("10.0.0.0/8", "https://10.example", false),
            ("10.0.0.0/33", "https://10.0.0.0", false),
            ("10.0.0.0/x", "https://10.0.0.0", false),
            ("fd00::/8", "https://[fd12::1]:6443", true),
            ("fd00::/8", "https://[fe12::1]", false),
            ("::/0", "https://10.0.0.1", false),
            ("fd00::1", "https://[fd00::1]", true),
            ("[fd00::1]", "https://[fd00::1]", true),
            ("[fd00::1]:6443", "https://[fd00::1]:6443", true),
            ("[fd00::1]:6443", "https://[fd00::1]", false),
            ("a.example:x", "https://a.example", false),
            (".", "https://a.example", false),
            ("*.", "https://a.example", false),
            ("", "https://a.example", false),
        ] {
            let proxies = Proxies::fixed("http://proxy:3128", entry).unwrap();
            assert_eq!(through(&proxies, url).is_none(), spared, "{entry:?} for {url}");
        }
    }

    #[test]
    fn the_environment_names_a_proxy_for_each_scheme() {
        let both =
            [("HTTPS_PROXY", "secure.test:1"), ("http_proxy", "http://plain.test:2"), ("NO_PROXY", "spared")];
        let proxies = environment(&both);
        assert_eq!(through(&proxies, "https://a").as_deref(), Some("http://secure.test:1/"));
        assert_eq!(through(&proxies, "http://a").as_deref(), Some("http://plain.test:2/"));
        for direct in ["https://spared", "https://localhost:1", "http://127.8.0.1", "https://[::1]"] {
            assert_eq!(through(&proxies, direct), None, "{direct}");
        }
        // An empty variable counts as absent, ALL_PROXY is the fallback for both, and lower case is accepted.
        let proxies = environment(&[("HTTPS_PROXY", " "), ("https_proxy", "one:1"), ("all_proxy", "all:2")]);
        assert_eq!(through(&proxies, "https://a").as_deref(), Some("http://one:1/"));
        assert_eq!(through(&proxies, "http://a").as_deref(), Some("http://all:2/"));
        let cgi = environment(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "evil:1")]);
        assert_eq!(through(&cgi, "http://a"), None);
        assert_eq!(through(&environment(&[]), "https://a"), None);
    }

    #[test]
    fn a_fixed_proxy_is_one() {
        for url in
            ["http://", "http://:3128", "http://u:p@:x", "http://proxy:x", "proxy:99999", "", "ftp://proxy"]
        {
            assert!(Proxies::fixed(url, "").is_none(), "{url}");
        }
        for url in ["http://proxy", "proxy:3128", "https://u:p%20p@[::1]:3128/"] {
            assert!(Proxies::fixed(url, "").is_some(), "{url}");
        }
    }

    #[test]
    fn what_is_no_proxy_is_an_error_where_it_would_be_used_and_is_not_quoted() {
        for url in ["http://u:hunter2@p roxy", "ftp://hunter2", "http://", "::hunter2"] {
            let proxies = environment(&[("HTTPS_PROXY", url), ("NO_PROXY", "spared")]);
            let error = proxies.intercept(&"https://a".parse().unwrap()).unwrap_err().to_string();
            assert_eq!(error, "HTTPS_PROXY is not the URL of a proxy", "{url}");
            assert_eq!(through(&proxies, "https://spared"), None);
            assert_eq!(through(&proxies, "http://a"), None);
        }
    }
}
