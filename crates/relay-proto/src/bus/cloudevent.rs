//! Whether a message is a CloudEvent.

use serde_json::Value;

use super::Message;

/// Checks that a message is one CloudEvent of version 0.3 or 1.0 in the binary or structured mode of its HTTP
/// binding. Payload and extensions are not checked.
///
/// # Errors
/// With the missing or wrong attribute.
pub fn check_cloudevent(message: &Message) -> Result<(), NotACloudEvent> {
    let media = message.headers.text("content-type").unwrap_or_default();
    let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media.starts_with("application/cloudevents-batch") {
        return Err(NotACloudEvent { rule: "it is a batch of events" });
    }
    if media.starts_with("application/cloudevents") {
        if media != "application/cloudevents+json" {
            return Err(NotACloudEvent { rule: "its structured format is not JSON" });
        }
        let body: Value = serde_json::from_slice(&message.payload)
            .map_err(|_| NotACloudEvent { rule: "its structured body is not JSON" })?;
        return check(|name| body.get(name)?.as_str().map(str::as_bytes));
    }
    check(|name| {
        let header = match name {
            "specversion" => "ce-specversion",
            "id" => "ce-id",
            "source" => "ce-source",
            _ => "ce-type",
        };
        message.headers.get(header).map(|value| &value[..])
    })
}

fn check<'m>(attribute: impl Fn(&str) -> Option<&'m [u8]>) -> Result<(), NotACloudEvent> {
    if !matches!(attribute("specversion"), Some(b"0.3" | b"1.0")) {
        return Err(NotACloudEvent { rule: "its specversion is neither 0.3 nor 1.0" });
    }
    for (name, rule) in [("id", "it has no id"), ("source", "it has no source"), ("type", "it has no type")] {
        if attribute(name).is_none_or(|value| value.trim_ascii().is_empty()) {
            return Err(NotACloudEvent { rule });
        }
    }
    Ok(())
}

/// A message that is not a CloudEvent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the message is not a CloudEvent: {rule}")]
#[non_exhaustive]
pub struct NotACloudEvent {
    /// The rule that it breaks.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use super::super::Headers;
    use super::*;

    fn judged(headers: &[(&'static str, &'static str)], body: &str) -> Result<(), &'static str> {
        let message = Message::new(Headers::from_iter(headers.iter().copied()), body.to_owned());
        check_cloudevent(&message).map_err(|error| error.rule)
    }

    #[test]
    fn rule_4_binary_and_structured_events_and_what_is_none() {
        let whole = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        assert_eq!(judged(&whole, ""), Ok(()));
        for at in 0..4 {
            let mut part = whole.to_vec();
            part[at].1 = " ";
            assert!(judged(&part, "").is_err(), "{part:?}");
            part.remove(at);
            assert!(judged(&part, "").is_err(), "{part:?}");
        }
        let structured = [("content-type", "Application/CloudEvents+JSON; charset=utf-8")];
        assert_eq!(judged(&structured, r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#), Ok(()));
        for body in [
            "",
            "[]",
            r#"{"specversion":"0.1","id":"1","source":"s","type":"t"}"#,
            r#"{"specversion":"1.0"}"#,
        ] {
            assert!(judged(&structured, body).is_err(), "{body}");
        }
        let batch = [("content-type", "application/cloudevents-batch+json")];
        assert_eq!(judged(&batch, "[]"), Err("it is a batch of events"));
    }
}
