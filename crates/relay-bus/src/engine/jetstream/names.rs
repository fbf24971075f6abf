//! Names of channels and subscriptions in NATS, and the encoding of messages.

use async_nats::{HeaderMap, header::HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use relay_proto::bus::{ChannelReference, HeaderRules, Headers, Message, SubscriptionReference};

/// The stream of a channel. Names of objects have no underscore, so that no two channels have one stream.
pub(super) fn stream(channel: &ChannelReference) -> String {
    format!("relay_{}_{}", channel.namespace(), channel.name())
}

/// The subject of a channel's messages.
pub(super) fn subject(channel: &ChannelReference) -> String {
    format!("relay.{}.{}", channel.namespace(), channel.name())
}

/// The durable consumer of a subscription.
pub(super) fn durable(subscription: &SubscriptionReference) -> String {
    format!("relay_{}_{}", subscription.namespace(), subscription.name())
}

/// A consumer and its stream, as in the subjects of NATS' API.
pub(super) fn consumer(stream: &str, durable: &str) -> String {
    format!("{stream}.{durable}")
}

/// Prefix of a header whose value NATS would change; its value is `=` and base64.
const ENCODED: &str = "relay-base64-";
/// Prefix of NATS' own headers.
const NATS: &str = "nats-";

/// A message's headers for NATS, where values are text without spaces around it.
pub(super) fn headers(message: &Message) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in message.headers.iter() {
        let text = std::str::from_utf8(value).ok();
        let kept = text
            .filter(|text| !text.is_empty() && text.trim() == *text && !text.chars().any(char::is_control));
        match kept.and_then(|text| text.parse::<HeaderValue>().ok()) {
            Some(value) => map.insert(name, value),
            None => map.insert(format!("{ENCODED}{name}"), format!("={}", STANDARD.encode(value))),
        }
    }
    map
}

/// The message of these headers and this payload; of foreign headers only those that are forwarded.
pub(super) fn message(map: Option<&HeaderMap>, payload: Bytes, rules: &HeaderRules) -> Message {
    let mut headers = Headers::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        let lower = AsRef::<str>::as_ref(name).to_ascii_lowercase();
        let Some(value) = values.first().map(HeaderValue::as_str) else { continue };
        match lower.strip_prefix(ENCODED) {
            Some(name) => {
                let read = value.strip_prefix('=').and_then(|text| STANDARD.decode(text).ok());
                if let Some(value) = read.filter(|_| rules.passes(name)) {
                    headers.insert(name, value);
                }
            }
            None if lower.starts_with(NATS) || !rules.passes(&lower) => {}
            None => headers.insert(&lower, Bytes::copy_from_slice(value.as_bytes())),
        }
    }
    Message::new(headers, payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_any_bytes_come_back_as_they_were() {
        let sent = Headers::from_iter([
            ("ce-id", &b"1"[..]),
            ("ce-raw", b"\xff\xfe"),
            ("ce-empty", b""),
            ("ce-blank", b" x "),
            ("ce-text", "\u{fc}ber".as_bytes()),
        ]);
        let sent = Message::new(sent, "payload");
        let map = headers(&sent);
        assert_eq!(map.get("ce-id").map(HeaderValue::as_str), Some("1"), "what is text is kept as it is");
        assert_eq!(message(Some(&map), sent.payload.clone(), &HeaderRules::default()), sent);
    }

    #[test]
    fn what_others_publish_goes_through_the_list() {
        let mut map = HeaderMap::new();
        map.insert("Ce-Id", "1");
        map.insert("Nats-Msg-Id", "2");
        map.insert("authorization", "secret");
        map.insert("relay-base64-cookie", "=c2VjcmV0");
        let rules = HeaderRules::default().forward("nats-*").unwrap();
        let read = message(Some(&map), Bytes::new(), &rules);
        assert_eq!(read.headers, Headers::from_iter([("ce-id", "1")]));
    }

    #[test]
    fn names_cannot_collide() {
        let stream_of = |namespace: &str, name: &str| stream(&ChannelReference::new(name, namespace));
        assert_eq!(stream_of("a", "b-c"), "relay_a_b-c");
        assert_ne!(stream_of("a", "b-c"), stream_of("a-b", "c"));
        assert_eq!(subject(&ChannelReference::new("c", "ns")), "relay.ns.c");
        assert_eq!(durable(&SubscriptionReference::new("s", "ns")), "relay_ns_s");
    }
}
