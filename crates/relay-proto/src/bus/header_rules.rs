//! The headers that are forwarded.

use bytes::Bytes;

use super::Headers;

/// The list of headers that are forwarded: on receiving, on sending, and in replies of subscribers. All others are
/// dropped, for example credentials and cookies.
///
/// ```
/// use relay_proto::bus::HeaderRules;
/// let rules = HeaderRules::y2018().forward("baggage")?.forward("x-shop-*")?;
/// assert!(rules.passes("x-shop-region") && rules.passes("baggage"));
/// assert!(!rules.passes("traceparent"));
/// # Ok::<(), relay_proto::bus::InvalidHeaderRule>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRules {
    trace_context: bool,
    names: Vec<String>,
    prefixes: Vec<String>,
}

/// Headers that a bus of 2018 forwards.
const NAMES: [&str; 2] = ["content-type", "x-request-id"];
const PREFIXES: [&str; 4] = ["knative-", "ce-", "x-b3-", "x-ot-"];
/// Today's trace headers.
pub(super) const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];
/// Headers of one connection, or of the transfer of a body; they are never forwarded.
const NEVER: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "prefer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl HeaderRules {
    /// The list of 2018 exactly: `content-type`, `x-request-id`, and what begins with `knative-`, `ce-`, `x-b3-` or
    /// `x-ot-`.
    pub fn y2018() -> Self {
        Self { trace_context: false, names: Vec::new(), prefixes: Vec::new() }
    }

    /// Forwards another header: `NAME`, or `PREFIX*`.
    ///
    /// # Errors
    /// When it is not a header name, or belongs to a single connection.
    pub fn forward(mut self, rule: &str) -> Result<Self, InvalidHeaderRule> {
        let lower = rule.to_ascii_lowercase();
        let (name, prefix) = lower.strip_suffix('*').map_or((lower.as_str(), false), |name| (name, true));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(token) || (!prefix && NEVER.contains(&name)) {
            return Err(InvalidHeaderRule { rule: rule.chars().take(100).collect() });
        }
        if prefix {
            self.prefixes.push(name.to_owned())
        } else {
            self.names.push(name.to_owned())
        }
        Ok(self)
    }

    /// Whether a header is forwarded; the name must be in lower case.
    pub fn passes(&self, name: &str) -> bool {
        let listed = NAMES.contains(&name)
            || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || self.trace_context && TRACE_CONTEXT.contains(&name);
        listed
            || (self.names.iter().any(|known| known == name)
                || self.prefixes.iter().any(|prefix| name.starts_with(prefix)))
                && !NEVER.contains(&name)
    }

    /// The forwarded headers; of a repeated one the first value.
    pub fn filter<'h>(&self, headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Headers {
        let mut passed = Headers::new();
        for (name, value) in headers {
            let lower;
            let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                lower = name.to_ascii_lowercase();
                &lower
            } else {
                name
            };
            if self.passes(name) && passed.get(name).is_none() {
                passed.insert(name, Bytes::copy_from_slice(value));
            }
        }
        passed
    }
}

/// The list of 2018, and `traceparent` and `tracestate`: without them every trace ends at the bus.
impl Default for HeaderRules {
    fn default() -> Self {
        Self { trace_context: true, ..Self::y2018() }
    }
}

/// A header that cannot be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot forward the header {rule:?}: a header name or PREFIX*, and none that belongs to a single connection"
)]
#[non_exhaustive]
pub struct InvalidHeaderRule {
    /// The requested rule.
    pub rule: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_3_the_list_of_2018_todays_trace_headers_and_additions() {
        let (old, new) = (HeaderRules::y2018(), HeaderRules::default());
        for name in
            ["content-type", "x-request-id", "knative-a", "ce-id", "ce-", "x-b3-traceid", "x-ot-span-context"]
        {
            assert!(old.passes(name) && new.passes(name), "{name}");
        }
        for name in ["traceparent", "tracestate"] {
            assert!(!old.passes(name) && new.passes(name), "{name}");
        }
        for name in ["authorization", "cookie", "baggage", "host", "ce", "content-length", "x-b3", "prefer"] {
            assert!(!old.passes(name) && !new.passes(name), "{name}");
        }
        let more = old.forward("Baggage").unwrap().forward("x-*").unwrap().forward("t*").unwrap();
        assert!(more.passes("baggage") && more.passes("x-anything") && more.passes("traceparent"));
        assert!(!more.passes("transfer-encoding") && !more.passes("te") && !more.passes("authorization"));
        for bad in ["", "*", "a b", "a:", "Host", "content-length", "a**", "ü"] {
            assert!(HeaderRules::default().forward(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rule_3_the_first_value_of_a_repeated_header_opaque() {
        let sent: [(&str, &[u8]); 5] = [
            ("CE-Id", b"\xc3\xbc\xff"),
            ("ce-id", b"second"),
            ("Cookie", b"c"),
            ("X-Request-Id", b""),
            ("x-request-id", b"late"),
        ];
        let passed = HeaderRules::default().filter(sent);
        assert_eq!(passed, Headers::from_iter([("ce-id", &b"\xc3\xbc\xff"[..]), ("x-request-id", b"")]));
    }
}
