//! Destinations of messages.

use std::fmt;

use super::{ChannelHost, ChannelReference};

/// A resolved destination. Its credentials are kept apart from the URL and are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    url: String,
    userinfo: Option<String>,
}

impl Destination {
    /// Resolves the destination in a subscription: an `http` or `https` URL is used unchanged; else `HOST[:PORT]`,
    /// where a host without a dot is a service of `namespace` and becomes `HOST.NAMESPACE.svc.CLUSTER-DOMAIN`.
    ///
    /// # Errors
    /// When there is no namespace to expand a name with, or the text is neither a URL nor a host.
    pub fn resolve(text: &str, namespace: &str, cluster_domain: &str) -> Result<Self, InvalidDestination> {
        let unusable = |rule| InvalidDestination::Unusable { destination: without_userinfo(text), rule };
        if text.bytes().any(|byte| byte <= b' ' || byte >= 0x7f || b"\\\"<>`{}|^".contains(&byte)) {
            return Err(unusable("it has a character that no URL has"));
        }
        let scheme = text.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
        let (scheme, rest) = match scheme {
            Some((scheme, rest)) if scheme == "http" || scheme == "https" => (scheme, rest),
            Some(_) => return Err(unusable("its scheme is neither http nor https")),
            None => return Self::service(text, namespace, cluster_domain),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (userinfo, host) = match authority.rsplit_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        check_host(host).map_err(unusable)?;
        let slash = if after.starts_with('/') { "" } else { "/" };
        Ok(Self {
            url: format!("{scheme}://{host}{slash}{after}"),
            userinfo: userinfo.filter(|userinfo| !userinfo.is_empty()).map(Into::into),
        })
    }

    fn service(text: &str, namespace: &str, cluster_domain: &str) -> Result<Self, InvalidDestination> {
        let unusable = |rule| InvalidDestination::Unusable { destination: without_userinfo(text), rule };
        if text.contains(['/', '?', '#', '@']) {
            return Err(unusable("it is neither an http or https URL nor HOST[:PORT]"));
        }
        check_host(text).map_err(unusable)?;
        let (host, port) = match text.rfind(':').filter(|_| !text.ends_with(']')) {
            Some(colon) => text.split_at(colon),
            None => (text, ""),
        };
        let url = if host.contains('.') || host.starts_with('[') {
            format!("http://{host}{port}/")
        } else if namespace.is_empty() {
            return Err(InvalidDestination::NoNamespace { name: host.into() });
        } else {
            format!("http://{host}.{namespace}.svc.{cluster_domain}{port}/")
        };
        Ok(Self { url, userinfo: None })
    }

    /// The URL, without user information.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// `user:password`, still percent-encoded, if the URL has it. For this host only, and not for display.
    pub fn userinfo(&self) -> Option<&str> {
        self.userinfo.as_deref()
    }

    /// The channel whose address this is: `NAME.NAMESPACE.channels.CLUSTER-DOMAIN`, on any port.
    pub fn channel(&self, cluster_domain: &str) -> Option<ChannelReference> {
        let rest = self.url.split_once("://").map(|(_, rest)| rest)?;
        let authority = rest.split(['/', '?']).next()?;
        let host = authority.split(':').next()?.trim_end_matches('.');
        let mut labels = host.splitn(4, '.').skip(2);
        let (third, domain) = (labels.next()?, labels.next()?);
        if !third.eq_ignore_ascii_case("channels") || !domain.eq_ignore_ascii_case(cluster_domain) {
            return None;
        }
        ChannelHost::parse(authority).ok().map(|host| host.channel().clone())
    }
}

/// The URL without user information.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({})", self.url)
    }
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]` or `[ADDRESS]:PORT`.
fn check_host(authority: &str) -> Result<(), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("its address has no closing bracket")?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| "what is in brackets is no IPv6 address")?;
            (address, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() {
        return Err("it has no host");
    }
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&byte);
    if !host.bytes().all(named) {
        return Err("its host has a character that no host has");
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(()),
        _ => Err("its port is no number from 1 to 65535"),
    }
}

/// The text after its last `@`, because credentials may be before it.
fn without_userinfo(text: &str) -> String {
    let (start, rest) = text.split_at(text.find("://").map_or(0, |at| at + 3));
    let shown = rest.rsplit('@').next().unwrap_or_default();
    format!("{start}{shown}").chars().take(200).collect()
}

/// A destination that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidDestination {
    /// A name without a dot, and no namespace for it.
    #[error("no namespace to expand {name}")]
    NoNamespace {
        /// The name.
        name: String,
    },
    /// Neither a URL nor a host.
    #[error("the destination {destination:?} cannot be used: {rule}")]
    Unusable {
        /// The text without user information, cut.
        destination: String,
        /// What it breaks.
        rule: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_6_urls_as_they_are_and_names_as_services() {
        for (text, url) in [
            ("http://h/a%2Fb?q=1#f", "http://h/a%2Fb?q=1"),
            ("HTTPS://h:8443", "https://h:8443/"),
            ("http://h?x", "http://h/?x"),
            ("http://[::1]:80/", "http://[::1]:80/"),
            ("name", "http://name.ns.svc.dom/"),
            ("name:8080", "http://name.ns.svc.dom:8080/"),
            ("localhost:1", "http://localhost.ns.svc.dom:1/"),
            ("a.b", "http://a.b/"),
            ("a.b:8080", "http://a.b:8080/"),
            ("127.0.0.1:8080", "http://127.0.0.1:8080/"),
            ("[::1]:8080", "http://[::1]:8080/"),
        ] {
            assert_eq!(Destination::resolve(text, "ns", "dom").unwrap().url(), url, "{text}");
        }
        for text in [
            "",
            "http://",
            "http://:80/",
            "ftp://h/",
            "a/b",
            "a b",
            "a:b",
            "a:0",
            "a:99999",
            "http://h:x/",
            "http://h\r\nx",
            "http://[::1/",
            "u:p@h",
            "ü",
        ] {
            assert!(Destination::resolve(text, "ns", "dom").is_err(), "{text}");
        }
        let error = Destination::resolve("name:8080", "", "dom").unwrap_err();
        assert_eq!(error.to_string(), "no namespace to expand name");
        assert!(Destination::resolve("a.b", "", "dom").is_ok());
    }

    #[test]
    fn credentials_are_kept_apart_and_never_shown() {
        let to = Destination::resolve("http://user:se%40cret@h:1/p", "ns", "dom").unwrap();
        assert_eq!((to.url(), to.userinfo()), ("http://h:1/p", Some("user:se%40cret")));
        assert_eq!(format!("{to} {to:?}"), "http://h:1/p Destination(http://h:1/p)");
        for bad in ["http://user:secret@h:x/", "user:secret@h", "ftp://user:secret@h/", "http://secret@:1/"] {
            let error = Destination::resolve(bad, "ns", "dom").unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn rule_6_the_address_of_a_channel() {
        let channel = |text: &str| {
            let to = Destination::resolve(text, "ns", "cluster.local").unwrap();
            to.channel("cluster.local").map(|channel| channel.to_string())
        };
        for text in [
            "c.ns.channels.cluster.local",
            "http://C.ns.channels.Cluster.Local:8080/path",
            "http://c.ns.channels.cluster.local./",
        ] {
            assert_eq!(channel(text).as_deref(), Some("ns/c"), "{text}");
        }
        for text in
            ["c", "c.ns", "c.ns.svc.cluster.local", "c.ns.channels.other", "c.ns.channels", "http://[::1]/"]
        {
            assert_eq!(channel(text), None, "{text}");
        }
    }
}
