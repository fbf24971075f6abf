//! The mark that some editors put at the start of a UTF-8 text.

/// The text without the mark (U+FEFF) at its start, if it has one: for files that people write and mount, where it
/// would otherwise belong to the first word.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
