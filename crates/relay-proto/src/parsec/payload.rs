//! Payloads: JSON texts that are kept as they are written.

use std::fmt;

use bytestring::ByteString;

use crate::json::Scanner;

/// Any JSON value, as its text: big integers, key order, escapes and digits are kept; blanks between tokens may be
/// removed.
///
/// `Debug` shows the size, never the content.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub(super) ByteString);

/// The payload of an envelope, borrowed from it. `Debug` shows the size, never the content.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PayloadRef<'a>(pub(super) &'a str);

/// The text is not one JSON value. The position is where reading ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not JSON: {reason}")]
#[non_exhaustive]
pub struct NotJson {
    /// The error, with line and column; it quotes nothing of the text.
    pub reason: String,
    /// The column of the error, in bytes from 1 within its line.
    pub column: usize,
}

impl Payload {
    /// Checks that a text is one JSON value, and keeps it without the blanks between its tokens.
    ///
    /// # Errors
    /// [`NotJson`], also for more than 127 levels and for numbers beyond the range of a double.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        check(text)?;
        Ok(Self(compact(text).into()))
    }

    /// The text of a value that serializes.
    ///
    /// # Errors
    /// The error of the value's own serialization.
    pub fn of<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_string(value).map(|text| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Deserializes it.
    ///
    /// # Errors
    /// When it does not have the shape of the type.
    pub fn to<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0)
    }
}

impl<'a> PayloadRef<'a> {
    /// The text.
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// Reads it as a type, which may borrow from it.
    ///
    /// # Errors
    /// When it is not of that shape.
    pub fn to<T: serde::Deserialize<'a>>(self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0)
    }

    /// A copy, to be kept or published.
    pub fn to_payload(self) -> Payload {
        Payload(self.0.into())
    }
}

impl<'a> From<&'a Payload> for PayloadRef<'a> {
    fn from(payload: &'a Payload) -> Self {
        Self(payload.as_str())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PayloadRef(&self.0).fmt(f)
    }
}

impl fmt::Debug for PayloadRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Payload").field("bytes", &self.0.len()).finish()
    }
}

/// The error for a text that is not one JSON value.
pub(super) fn check(text: &str) -> Result<(), NotJson> {
    let scanned = Scanner::new(text).and_then(|mut scanner| {
        scanner.skip()?;
        scanner.end()
    });
    if scanned.is_ok() {
        return Ok(());
    }
    Err(explain(text))
}

/// Serde's description, without anything of the text.
pub(super) fn explain(text: &str) -> NotJson {
    match serde_json::from_str::<serde_json::Value>(text) {
        Err(error) => NotJson { reason: error.to_string(), column: error.column() },
        // The scanner is as strict as serde. Should they ever differ, the text is refused nevertheless.
        Ok(_) => NotJson { reason: "it is not written as JSON is".into(), column: 0 },
    }
}

/// A JSON text without the blanks between its tokens.
pub(super) fn compact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut kept, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        if quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => quoted = false,
                _ => {}
            }
        } else if byte == b'"' {
            quoted = true;
        } else if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            out.push_str(&text[kept..at]);
            kept = at + 1;
        }
    }
    out.push_str(&text[kept..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_payload_says_what_an_owned_one_says() {
        let payload = Payload::parse(r#"{"a":"b"}"#).unwrap();
        let borrowed = PayloadRef::from(&payload);
        assert_eq!((borrowed.as_str(), borrowed.to_payload()), (payload.as_str(), payload.clone()));
        // It may lend its text.
        let read: std::collections::BTreeMap<&str, &str> = borrowed.to().unwrap();
        assert_eq!(read["a"], "b");
        assert!(borrowed.to::<u8>().is_err());
        assert_eq!(format!("{borrowed:?}"), "Payload { bytes: 9 }");
    }

    #[test]
    fn texts_stay_as_they_are_written_but_for_blanks() {
        for (given, kept) in [
            ("null", "null"),
            (" {\"a\" : [ 1.50 , 9007199254740993 ] }\r\n", "{\"a\":[1.50,9007199254740993]}"),
            ("\"<&> \\u003c \\\" x\"", "\"<&> \\u003c \\\" x\""),
            ("\"\\\\\" ", "\"\\\\\""),
            ("1e-7", "1e-7"),
        ] {
            assert_eq!(Payload::parse(given).unwrap().as_str(), kept);
        }
        let deep = "[".repeat(200);
        for bad in ["", " ", "{", "{\"a\":1,}", "nul", "01", "1 2", "'a'", "\"\n\"", "1e999", deep.as_str()] {
            let error = Payload::parse(bad).unwrap_err();
            assert!(error.to_string().starts_with("not JSON: "), "{error}");
        }
        assert_eq!(Payload::parse("{\"a\":x}").unwrap_err().column, 6);
        assert_eq!(format!("{:?}", Payload::parse("[1]").unwrap()), "Payload { bytes: 3 }");
    }
}
