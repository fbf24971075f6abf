//! A message: a map of headers and a payload.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

/// A message of a channel. Cheap to clone: a clone shares payload and header values.
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// Names in lower case, one value each.
    pub headers: Headers,
    /// The body as it came.
    pub payload: Bytes,
}

impl Message {
    /// A message of these parts.
    pub fn new(headers: Headers, payload: impl Into<Bytes>) -> Self {
        Self { headers, payload: payload.into() }
    }

    /// Bytes that the message holds, names and values of headers included.
    pub fn size(&self) -> usize {
        self.payload.len() + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }
}

/// Shows header names and sizes only: values and payloads may be secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("headers", &self.headers)
            .field("payload", &self.payload.len())
            .finish()
    }
}

/// Headers by name, in the order in which they came. Names are lower case; values are opaque bytes, because some
/// senders use raw UTF-8.
#[derive(Clone, Default)]
pub struct Headers(Vec<(ByteString, Bytes)>);

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value of a header; the name in lower case.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(known, _)| known.as_bytes() == name.as_bytes()).map(|(_, value)| value)
    }

    /// The value as text, when it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Sets a header, replacing an earlier value. The name is lowered.
    pub fn insert(&mut self, name: &str, value: impl Into<Bytes>) {
        let value = value.into();
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            ByteString::from(name.to_ascii_lowercase())
        } else {
            ByteString::from(name)
        };
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, held)) => *held = value,
            None => self.0.push((name, value)),
        }
    }

    /// Removes a header; the name in lower case.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known.as_bytes() != name.as_bytes());
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A map has no order.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl<N: AsRef<str>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let mut headers = Self::new();
        for (name, value) in pairs {
            headers.insert(name.as_ref(), value);
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lower_case_and_nothing_is_shown() {
        let mut headers = Headers::from_iter([("Ce-Id", "secret"), ("knative-x", "2")]);
        headers.insert("CE-ID", "other");
        assert_eq!(headers.text("ce-id"), Some("other"));
        assert_eq!((headers.len(), headers.get("Ce-Id")), (2, None));
        assert_eq!(headers, Headers::from_iter([("knative-x", "2"), ("ce-id", "other")]));
        let message = Message::new(headers, "payload");
        assert_eq!(message.size(), "ce-id".len() + "other".len() + "knative-x".len() + 1 + 7);
        assert_eq!(format!("{message:?}"), r#"Message { headers: ["ce-id", "knative-x"], payload: 7 }"#);
    }
}
