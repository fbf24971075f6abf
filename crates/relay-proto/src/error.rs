//! Printing errors: each error says its own part, and [`chain`] joins the parts.

use core::error::Error;
use core::fmt;

/// An error and its sources on one line, from the outermost to the innermost, with `: ` between them.
///
/// An error's own text never repeats that of its source, here and in every crate above, so an error is always shown
/// with its chain.
///
/// ```
/// use relay_proto::error::chain;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("cannot read the cursor")]
/// struct Cursor(#[source] std::io::Error);
///
/// let error = Cursor(std::io::Error::other("the disk is on fire"));
/// assert_eq!(chain(&error).to_string(), "cannot read the cursor: the disk is on fire");
/// ```
pub fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl fmt::Display + 'e {
    Chain(error)
}

/// The reason and the position of an error in a JSON text. It quotes nothing of the text, which may be secret; the
/// errors of `serde_json` quote values of the wrong type.
#[cfg(feature = "json")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError(alloc::string::String);

#[cfg(feature = "json")]
impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "json")]
impl Error for JsonError {}

#[cfg(feature = "json")]
impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        use alloc::string::ToString as _;
        let text = error.to_string();
        // Syntax errors have fixed texts.
        if !error.is_data() {
            return Self(text);
        }
        let kinds = ["invalid type", "invalid value", "invalid length", "unknown variant", "unknown field"];
        if let Some(kind) = kinds.into_iter().find(|kind| text.starts_with(kind)) {
            // The value that was found may hold any text; the expectation is text of our own.
            let expected = text.rfind(", expected ").map_or("", |at| &text[at..]);
            return Self(alloc::format!("{kind}{expected}"));
        }
        let names_a_field = ["missing field", "duplicate field"].iter().any(|kind| text.starts_with(kind));
        if names_a_field || !text.contains(['"', '`', '\'']) {
            return Self(text);
        }
        Self(alloc::format!("a value does not fit at line {} column {}", error.line(), error.column()))
    }
}

struct Chain<'e>(&'e (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

#[cfg(all(test, feature = "pods"))]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code, reason = "only how it fails matters")]
    struct Wanted {
        number: u8,
        kind: Kind,
        list: [u8; 2],
    }

    #[derive(Debug, serde::Deserialize)]
    enum Kind {
        One,
    }

    #[test]
    fn what_is_wrong_is_told_and_never_what_stands_there() {
        for (text, told) in [
            (r#"{"number":"s3cret"}"#, "invalid type, expected u8 at line 1 column 18"),
            (r#"{"number":"s3cret, expected x"}"#, "invalid type, expected u8 at line 1 column 30"),
            (r#"{"number":4711}"#, "invalid value, expected u8 at line 1 column 14"),
            (r#"{"kind":"s3cret"}"#, "unknown variant, expected `One` at line 1 column 16"),
            (r#"{"list":[1]}"#, "invalid length, expected an array of length 2 at line 1 column 11"),
            ("{}", "missing field `number` at line 1 column 2"),
            (r#"{"number":s3cret}"#, "expected value at line 1 column 11"),
            (r#"{"number":"s3cret"#, "EOF while parsing a string at line 1 column 17"),
            (r#""s3cret""#, "invalid type, expected struct Wanted at line 1 column 8"),
        ] {
            let error = JsonError::from(serde_json::from_str::<Wanted>(text).unwrap_err()).to_string();
            assert_eq!(error, told, "{text}");
        }
        let own = JsonError::from(<serde_json::Error as serde::de::Error>::custom("not \"s3cret\""));
        assert_eq!(own.to_string(), "a value does not fit at line 0 column 0");
    }
}
