//! The channel that a Host names.

use super::{ChannelReference, is_dns_label};

/// The Host of a request: `NAME.NAMESPACE`, perhaps with further labels.
///
/// ```
/// use relay_proto::bus::ChannelHost;
/// let host = ChannelHost::parse("orders-channel.shop.svc.cluster.local")?;
/// assert_eq!(host.channel().to_string(), "shop/orders-channel");
/// assert_eq!(host.behind_service().unwrap().to_string(), "shop/orders");
/// # Ok::<(), relay_proto::bus::InvalidHost>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelHost {
    channel: ChannelReference,
    behind: Option<ChannelReference>,
}

impl ChannelHost {
    /// Reads a Host, or the authority of an absolute request target. A port is cut off, upper case is lowered, one
    /// trailing dot is allowed.
    ///
    /// # Errors
    /// When it has fewer than two labels, one of the first two is not a DNS-1123 label, or it is an address.
    pub fn parse(host: &str) -> Result<Self, InvalidHost> {
        let refuse = |rule| InvalidHost { host: host.chars().take(100).collect(), rule };
        if host.starts_with('[') {
            return Err(refuse("an address names no channel"));
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            Some(_) => return Err(refuse("what follows the colon is no port")),
            None => host,
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        if name.parse::<std::net::IpAddr>().is_ok() {
            return Err(refuse("an address names no channel"));
        }
        let mut labels = name.split('.');
        let (Some(first), Some(second)) = (labels.next(), labels.next()) else {
            return Err(refuse("it needs two labels at least: NAME.NAMESPACE"));
        };
        if !is_dns_label(first) || !is_dns_label(second) {
            return Err(refuse("its first two labels must be DNS-1123 labels"));
        }
        let third = labels.next();
        if third == Some("") || labels.any(str::is_empty) {
            return Err(refuse("it has an empty label"));
        }
        let service = || first.strip_suffix("-kn-channel").or_else(|| first.strip_suffix("-channel"));
        let behind = if third == Some("svc") { service().filter(|name| is_dns_label(name)) } else { None };
        Ok(Self {
            channel: ChannelReference::new(first, second),
            behind: behind.map(|name| ChannelReference::new(name, second)),
        })
    }

    /// The channel of the literal name.
    pub fn channel(&self) -> &ChannelReference {
        &self.channel
    }

    /// The channel whose Service the host may name, when there is no channel of the literal name.
    pub fn behind_service(&self) -> Option<&ChannelReference> {
        self.behind.as_ref()
    }
}

/// A Host that names no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the host {host:?} names no channel: {rule}")]
#[non_exhaustive]
pub struct InvalidHost {
    /// The host, cut.
    pub host: String,
    /// What it breaks.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_1_a_host_names_a_channel_or_nothing() {
        for (host, channel) in [
            ("c.ns", "ns/c"),
            ("c.ns.channels.cluster.local", "ns/c"),
            ("C.Ns.svc.cluster.local:8080", "ns/c"),
            ("c.ns:8080", "ns/c"),
            ("c.ns.", "ns/c"),
            ("c.ns.:80", "ns/c"),
            ("c.ns:", "ns/c"),
            ("1.2.example", "2/1"),
        ] {
            assert_eq!(ChannelHost::parse(host).unwrap().channel().to_string(), channel, "{host}");
        }
        let long = format!("{}.ns", "a".repeat(64));
        for host in [
            "",
            ".",
            "c",
            "c:80",
            "c.",
            "localhost:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
            "::1",
            ".ns",
            "c..ns",
            "c.ns..",
            "-c.ns",
            "c-.ns",
            "c_d.ns",
            "c.n_s",
            "c.ns:80a",
            "u@c.ns",
            "c%2ed.ns",
            "ü.ns",
            long.as_str(),
        ] {
            assert!(ChannelHost::parse(host).is_err(), "{host}");
        }
    }

    #[test]
    fn rule_1_the_service_of_a_channel() {
        let behind = |host: &str| ChannelHost::parse(host).unwrap().behind_service().map(ToString::to_string);
        assert_eq!(behind("c-channel.ns.svc.cluster.local").as_deref(), Some("ns/c"));
        assert_eq!(behind("c-kn-channel.ns.svc").as_deref(), Some("ns/c"));
        for host in ["c-channel.ns", "c-channel.ns.channels.cluster.local", "c.ns.svc", "channel.ns.svc"] {
            assert_eq!(behind(host), None, "{host}");
        }
    }
}
