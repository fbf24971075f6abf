//! Channel buses: messages and the headers that are forwarded, channels named by a Host, destinations, replies,
//! references, and the four kinds of objects.
//!
//! The model is the package `pkg/buses` of Knative eventing, 2018; `docs/buses.md` says where the rules here differ
//! and why. Nothing here does I/O or keeps state: the functions work on bytes and texts.
//!
//! ```
//! use relay_proto::bus::{ChannelHost, Destination, HeaderRules};
//!
//! let host = ChannelHost::parse("Orders.shop.channels.cluster.local:8080")?;
//! assert_eq!(host.channel().to_string(), "shop/orders");
//!
//! let rules = HeaderRules::default();
//! assert!(rules.passes("ce-id") && !rules.passes("authorization"));
//!
//! let to = Destination::resolve("billing:8080", "shop", "cluster.local")?;
//! assert_eq!(to.url(), "http://billing.shop.svc.cluster.local:8080/");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cloudevent;
mod conditions;
mod destination;
mod header_rules;
mod host;
mod manifest;
mod message;
mod object;
mod parameters;
pub mod problem_codes;
mod reference;
mod reply;

pub use cloudevent::{NotACloudEvent, check_cloudevent};
pub use conditions::{Condition, Conditions, READY};
pub use destination::{Destination, InvalidDestination};
pub use header_rules::{HeaderRules, InvalidHeaderRule};
pub use host::{ChannelHost, InvalidHost};
pub use manifest::{InvalidManifest, Manifest};
pub use message::{Headers, Message};
pub use object::{
    API_VERSION, BusSpec, Channel, ChannelSpec, GROUP, GenericBus, InvalidObject, Kind, Metadata, Object,
    Subscription, SubscriptionSpec, VERSION,
};
pub use parameters::{Argument, MissingArguments, Parameter, ResolvedParameters};
pub use reference::{BusReference, ChannelReference, InvalidReference, SubscriptionReference};
pub use reply::{is_retryable, reply_message};

/// The default domain of a cluster's services.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

/// Whether a text is a DNS-1123 label: 1 to 63 of `a-z`, `0-9` and `-`, neither first nor last a `-`.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}
