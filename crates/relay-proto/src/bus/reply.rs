//! Replies: the meaning of a subscriber's response, and the message that it makes.

use bytes::Bytes;

use super::header_rules::TRACE_CONTEXT;
use super::{HeaderRules, Message};

/// The reply in a successful response; `None` when its body is empty.
///
/// It has the forwarded headers of the response, and its body. The original's `knative-correlation-id` replaces
/// that of the response, and a response without a `traceparent` gets both trace headers of the original; nothing else
/// of the original is used.
pub fn reply_message<'h>(
    rules: &HeaderRules,
    original: &Message,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: Bytes,
) -> Option<Message> {
    if body.is_empty() {
        return None;
    }
    let mut headers = rules.filter(headers);
    let correlation = "knative-correlation-id";
    if let Some(id) = original.headers.get(correlation) {
        headers.insert(correlation, id.clone());
    }
    if headers.get(TRACE_CONTEXT[0]).is_none() {
        for name in TRACE_CONTEXT.into_iter().filter(|name| rules.passes(name)) {
            // A state without its parent belongs to no trace, and least of all to the original's.
            match original.headers.get(name) {
                Some(value) => headers.insert(name, value.clone()),
                None => headers.remove(name),
            }
        }
    }
    Some(Message::new(headers, body))
}

/// Whether a message is retried after this status. Other statuses but 2xx are final.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 404 | 408 | 409 | 429 | 500..=599)
}

#[cfg(test)]
mod tests {
    use super::super::Headers;
    use super::*;

    fn reply(
        original: &[(&'static str, &'static str)],
        answer: &[(&str, &str)],
        rules: &HeaderRules,
    ) -> Message {
        let original = Message::new(Headers::from_iter(original.iter().copied()), "in");
        let answer = answer.iter().map(|(name, value)| (*name, value.as_bytes()));
        reply_message(rules, &original, answer, Bytes::from_static(b"out")).unwrap()
    }

    #[test]
    fn rule_7_the_answer_goes_on_with_the_originals_correlation_and_trace() {
        let rules = HeaderRules::default();
        let original = [
            ("knative-correlation-id", "1"),
            ("x-request-id", "r"),
            ("traceparent", "t"),
            ("tracestate", "s"),
        ];
        let answer = [("Knative-Correlation-Id", "2"), ("ce-id", "x"), ("set-cookie", "c")];
        let expected =
            [("knative-correlation-id", "1"), ("ce-id", "x"), ("traceparent", "t"), ("tracestate", "s")];
        assert_eq!(reply(&original, &answer, &rules).headers, Headers::from_iter(expected));
        let own = reply(&original, &[("traceparent", "own")], &rules);
        assert_eq!((own.headers.text("traceparent"), own.headers.get("tracestate")), (Some("own"), None));
        // A state without its parent gives way to the original's trace, whether that has a state or not.
        let orphan = [("tracestate", "orphan")];
        let both = reply(&original, &orphan, &rules).headers;
        assert_eq!((both.text("traceparent"), both.text("tracestate")), (Some("t"), Some("s")));
        let parent = reply(&original[..3], &orphan, &rules).headers;
        assert_eq!((parent.text("traceparent"), parent.get("tracestate")), (Some("t"), None));
        assert_eq!(reply(&[], &orphan, &rules).headers, Headers::default());
        let old = reply(&original, &[], &HeaderRules::y2018());
        assert_eq!(old.headers, Headers::from_iter([("knative-correlation-id", "1")]));
    }

    #[test]
    fn rule_7_an_empty_body_ends_the_event() {
        let none = reply_message(&HeaderRules::default(), &Message::default(), [], Bytes::new());
        assert_eq!(none, None);
    }

    #[test]
    fn some_statuses_are_worth_another_try() {
        for (status, again) in
            [(404, true), (408, true), (409, true), (429, true), (500, true), (599, true), (400, false)]
        {
            assert_eq!(is_retryable(status), again, "{status}");
        }
        assert!([301, 307, 401, 403, 410, 413, 422, 600].into_iter().all(|status| !is_retryable(status)));
    }
}
