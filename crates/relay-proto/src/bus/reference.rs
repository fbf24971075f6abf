//! Names of buses, channels and subscriptions.

use std::fmt;
use std::str::FromStr;

use bytestring::ByteString;

/// A Bus, or with an empty namespace a ClusterBus.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BusReference {
    namespace: ByteString,
    name: ByteString,
}

impl BusReference {
    /// A Bus of a namespace; an empty namespace makes it a ClusterBus. Mind the order: name, namespace.
    pub fn new(name: impl Into<ByteString>, namespace: impl Into<ByteString>) -> Self {
        Self { name: name.into(), namespace: namespace.into() }
    }

    /// A ClusterBus.
    pub fn cluster(name: impl Into<ByteString>) -> Self {
        Self::new(name, "")
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace; empty for a ClusterBus.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether it is a Bus and not a ClusterBus.
    pub fn is_namespaced(&self) -> bool {
        !self.namespace.is_empty()
    }
}

/// `namespace/name`; a ClusterBus is its name alone. (The package of 2018 wrote `/name`.)
impl fmt::Display for BusReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_namespaced() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// A text that is no `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not NAMESPACE/NAME, each a DNS-1123 label")]
#[non_exhaustive]
pub struct InvalidReference {
    /// The text, cut.
    pub text: String,
}

macro_rules! namespaced {
    ($(#[$doc:meta])* $kind:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $kind {
            namespace: ByteString,
            name: ByteString,
        }

        impl $kind {
            /// By name and namespace. Mind the order: name, namespace.
            pub fn new(name: impl Into<ByteString>, namespace: impl Into<ByteString>) -> Self {
                Self { name: name.into(), namespace: namespace.into() }
            }

            /// The name.
            pub fn name(&self) -> &str {
                &self.name
            }

            /// The namespace.
            pub fn namespace(&self) -> &str {
                &self.namespace
            }
        }

        /// `namespace/name`.
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        /// Reads `NAMESPACE/NAME`.
        impl FromStr for $kind {
            type Err = InvalidReference;

            fn from_str(text: &str) -> Result<Self, InvalidReference> {
                match text.split_once('/') {
                    Some((namespace, name)) if [namespace, name].into_iter().all(super::is_dns_label) => {
                        Ok(Self::new(name, namespace))
                    }
                    _ => Err(InvalidReference { text: text.chars().take(100).collect() }),
                }
            }
        }
    };
}

namespaced! {
    /// A Channel.
    ChannelReference
}

namespaced! {
    /// A Subscription.
    SubscriptionReference
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_written_with_their_namespace() {
        assert_eq!(BusReference::new("b", "ns").to_string(), "ns/b");
        assert_eq!(BusReference::cluster("b").to_string(), "b");
        assert!(BusReference::new("b", "ns").is_namespaced() && !BusReference::new("b", "").is_namespaced());
        assert_eq!(ChannelReference::new("c", "ns").to_string(), "ns/c");
        assert_eq!("ns/s".parse(), Ok(SubscriptionReference::new("s", "ns")));
        for bad in ["", "c", "/c", "ns/", "ns/c/d", "Ns/c", "ns/c_d"] {
            assert!(bad.parse::<ChannelReference>().is_err(), "{bad}");
        }
    }
}
