//! A reader of JSON for formats that are lenient about content and strict about types: fields in any case, null for
//! nothing, lone surrogates as U+FFFD, unknown values of any depth.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::plain_end;

/// The reason and place of an error. It holds nothing of the text but member names added by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) rule: &'static str,
    /// Bytes before it.
    pub(crate) at: usize,
    /// From the inside out.
    path: Vec<String>,
}

impl Fault {
    #[cold]
    fn new(rule: &'static str, at: usize) -> Box<Self> {
        Box::new(Self { rule, at, path: Vec::new() })
    }

    /// The same fault with the name of the object or array around it.
    #[cold]
    pub(crate) fn within(mut self: Box<Self>, name: &str) -> Box<Self> {
        self.path.push(shown(name));
        self
    }

    /// Where it is, from the outside in; empty at the top.
    pub(crate) fn place(&self) -> String {
        self.path.iter().rev().map(String::as_str).collect::<Vec<_>>().join(".")
    }
}

/// Names come from outside, so they are cut and control characters are removed.
fn shown(name: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown = String::new();
    for c in name.chars().take(LONGEST) {
        if c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            let _ = write!(shown, "{}", c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    if name.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

pub(crate) type Read<T> = Result<T, Box<Fault>>;

pub(crate) const NOT_JSON: &str = "it is not JSON";

/// A position in a text. Each method reads one value; after an error the position is undefined.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    #[cold]
    fn fault<T>(&self, rule: &'static str) -> Read<T> {
        Err(Fault::new(rule, self.at))
    }

    /// The first byte of the next value or sign, without consuming it.
    #[inline]
    fn peek(&mut self) -> Read<u8> {
        loop {
            match self.text.as_bytes().get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(&byte) => return Ok(byte),
                None => return self.fault(NOT_JSON),
            }
        }
    }

    /// Nothing but white space may be left.
    pub(crate) fn end(mut self) -> Read<()> {
        match self.peek() {
            Ok(_) => self.fault("something follows the value"),
            Err(_) => Ok(()),
        }
    }

    /// Reads an object: `member` is given each key and reads its value. `null` is an object without members.
    #[inline]
    pub(crate) fn object(
        &mut self,
        rule: &'static str,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Read<()>,
    ) -> Read<()> {
        match self.peek()? {
            b'{' => self.at += 1,
            b'n' => return self.word("null"),
            _ => return self.wrong(rule),
        }
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek()? != b'"' {
                return self.fault(NOT_JSON);
            }
            let key = self.text_of_string()?;
            if self.peek()? != b':' {
                return self.fault(NOT_JSON);
            }
            self.at += 1;
            member(self, key)?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fault(NOT_JSON),
            }
        }
    }

    /// Reads an array: `item` reads one value each time. `null` is an empty one.
    pub(crate) fn array(
        &mut self,
        rule: &'static str,
        mut item: impl FnMut(&mut Self) -> Read<()>,
    ) -> Read<()> {
        match self.peek()? {
            b'[' => self.at += 1,
            b'n' => return self.word("null"),
            _ => return self.wrong(rule),
        }
        if self.peek()? == b']' {
            self.at += 1;
            return Ok(());
        }
        loop {
            item(self)?;
            match self.peek()? {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.fault(NOT_JSON),
            }
        }
    }

    /// Reads a string; `null` is the empty one.
    #[inline]
    pub(crate) fn string(&mut self) -> Read<Cow<'a, str>> {
        match self.peek()? {
            b'"' => self.text_of_string(),
            b'n' => self.word("null").map(|()| Cow::Borrowed("")),
            _ => self.wrong("it must be a string"),
        }
    }

    /// Reads `true` or `false`; `null` is false.
    pub(crate) fn boolean(&mut self) -> Read<bool> {
        match self.peek()? {
            b't' => self.word("true").map(|()| true),
            b'f' => self.word("false").map(|()| false),
            b'n' => self.word("null").map(|()| false),
            _ => self.wrong("it must be true or false"),
        }
    }

    /// Reads a signed integer; `null` is 0.
    #[inline]
    pub(crate) fn integer(&mut self) -> Read<i64> {
        const RULE: &str = "it must be a whole number of 64 bits, written without fraction and exponent";
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.parsed(RULE),
            b'n' => self.word("null").map(|()| 0),
            _ => self.wrong(RULE),
        }
    }

    /// Reads milliseconds since 1970; `null` is `None`.
    #[inline]
    pub(crate) fn millis(&mut self) -> Read<Option<u64>> {
        const RULE: &str = "it must be milliseconds since 1970: a whole number of 64 bits that is not negative, without fraction and exponent";
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.parsed(RULE).map(Some),
            b'n' => self.word("null").map(|()| None),
            _ => self.wrong(RULE),
        }
    }

    fn parsed<N: std::str::FromStr>(&mut self, rule: &'static str) -> Read<N> {
        let at = self.at;
        // Both number readers of the standard library take "-0" as 0 when signed, and refuse it when not.
        let number = match self.number()? {
            "-0" => "0",
            number => number,
        };
        number.parse().map_err(|_| Fault::new(rule, at))
    }

    /// Reads any value, of any depth, and gives its text.
    pub(crate) fn skip(&mut self) -> Read<&'a str> {
        self.peek()?;
        let start = self.at;
        // The open brackets. On the heap, because a text may consist of brackets only.
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'"' => self.rest_of_string().map(drop)?,
                bracket @ (b'{' | b'[') => {
                    self.at += 1;
                    let close = if bracket == b'{' { b'}' } else { b']' };
                    if self.peek()? != close {
                        open.push(close);
                        if close == b'}' {
                            self.key()?;
                        }
                        continue;
                    }
                    self.at += 1;
                }
                b'n' => self.word("null")?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                _ => self.number().map(drop)?,
            }
            // A value has ended, and perhaps also the objects and arrays around it.
            loop {
                let Some(&close) = open.last() else { return Ok(&self.text[start..self.at]) };
                let sign = self.peek()?;
                self.at += 1;
                if sign == b',' {
                    if close == b'}' {
                        self.key()?;
                    }
                    break;
                }
                if sign != close {
                    return self.fault(NOT_JSON);
                }
                open.pop();
            }
        }
    }

    /// The error for a value of another type than expected, or for no value at all.
    #[cold]
    fn wrong<T>(&mut self, rule: &'static str) -> Read<T> {
        let at = self.at;
        self.skip()?;
        Err(Fault::new(rule, at))
    }

    fn key(&mut self) -> Read<()> {
        if self.peek()? != b'"' {
            return self.fault(NOT_JSON);
        }
        self.rest_of_string()?;
        if self.peek()? != b':' {
            return self.fault(NOT_JSON);
        }
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn text_of_string(&mut self) -> Read<Cow<'a, str>> {
        let start = self.at + 1;
        let escaped = self.rest_of_string()?;
        let inner = &self.text[start..self.at - 1];
        Ok(if escaped { Cow::Owned(unescaped(inner)) } else { Cow::Borrowed(inner) })
    }

    /// Reads a string, standing at its first quote, and says whether it has escapes.
    #[inline]
    fn rest_of_string(&mut self) -> Read<bool> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at = plain_end(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    match bytes.get(self.at + 1) {
                        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
                        Some(b'u') if is_hex(bytes.get(self.at + 2..self.at + 6)) => self.at += 6,
                        _ => return self.fault(NOT_JSON),
                    }
                }
                _ => return self.fault(NOT_JSON),
            }
        }
    }

    fn number(&mut self) -> Read<&'a str> {
        let (bytes, start) = (self.text.as_bytes(), self.at);
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        let leading = self.at;
        self.digits()?;
        if bytes[leading] == b'0' && self.at > leading + 1 {
            return self.fault(NOT_JSON);
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Read<()> {
        let start = self.at;
        while self.text.as_bytes().get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { self.fault(NOT_JSON) } else { Ok(()) }
    }

    #[inline]
    fn word(&mut self, word: &str) -> Read<()> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.fault(NOT_JSON);
        }
        self.at += word.len();
        Ok(())
    }
}

fn is_hex(digits: Option<&[u8]>) -> bool {
    digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
}

/// The content of a string whose escapes are well formed.
#[cold]
fn unescaped(inner: &str) -> String {
    let mut text = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let kind = rest.as_bytes()[at + 1];
        rest = &rest[at + 2..];
        text.push(match kind {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = code_unit(rest);
                rest = &rest[4..];
                let low = rest.strip_prefix("\\u").filter(|_| matches!(unit, 0xd800..=0xdbff)).map(code_unit);
                match low {
                    Some(low @ 0xdc00..=0xdfff) => {
                        rest = &rest[6..];
                        let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    _ => char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER),
                }
            }
            itself => char::from(itself),
        });
    }
    text.push_str(rest);
    text
}

fn code_unit(digits: &str) -> u32 {
    u32::from_str_radix(&digits[..4], 16).unwrap_or(0xfffd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Option<String> {
        let mut reader = Reader::new(text);
        let string = reader.string().ok()?.into_owned();
        reader.end().ok().map(|()| string)
    }

    #[test]
    fn strings_come_out_as_they_are_meant() {
        for (text, meant) in [
            (r#""plain""#, "plain"),
            (r#" "" "#, ""),
            ("null", ""),
            (r#""a\"\\\/\b\f\n\r\tz""#, "a\"\\/\u{8}\u{c}\n\r\tz"),
            (r#""\u00e9\u20AC""#, "\u{e9}\u{20ac}"),
            (r#""\ud83d\ude00!""#, "\u{1f600}!"),
            (r#""\ud83d""#, "\u{fffd}"),
            (r#""\ud83dx""#, "\u{fffd}x"),
            (r#""\ude00\ud83d""#, "\u{fffd}\u{fffd}"),
            (r#""\ud83d\ud83d\ude00""#, "\u{fffd}\u{1f600}"),
            (r#""\ud83d\n""#, "\u{fffd}\n"),
            (r#""\ud83d\u0041""#, "\u{fffd}A"),
        ] {
            assert_eq!(string(text).as_deref(), Some(meant), "{text}");
        }
        for bad in [
            r#"""#,
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            "\"\n\"",
            r#""\"#,
            r#""\u00zz""#,
            "",
            "\"a\"b",
            "nul",
            "'a'",
        ] {
            assert_eq!(string(bad), None, "{bad}");
        }
    }

    #[test]
    fn skipping_agrees_with_serde_on_what_is_json() {
        for text in [
            "{}",
            "[]",
            "[[],{}]",
            r#"{"a":[1,2,{"b":null}],"c":true}"#,
            "-0.5e+10",
            "1e999999",
            "[1,]",
            "{,}",
            "[,1]",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1 2]",
            "{1:2}",
            "[}",
            "{]",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "tru",
            "nulll",
            "[",
            "{\"a\":[}",
            "[\"\u{1}\"]",
            "[1]]",
            " [ 1 , 2 ] ",
        ] {
            let mut reader = Reader::new(text);
            let ours = reader.skip().is_ok() && reader.end().is_ok();
            let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(text).is_ok();
            assert_eq!(ours, theirs, "{text}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(Reader::new(&deep).skip().map(str::len), Ok(200_000));
        assert!(Reader::new(&deep[..150_000]).skip().is_err());
    }

    #[test]
    fn numbers_are_whole_or_wrong() {
        let integer = |text| Reader::new(text).integer().ok();
        assert_eq!(integer("9223372036854775807"), Some(i64::MAX));
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer("-0"), Some(0));
        assert_eq!(integer("null"), Some(0));
        for bad in
            ["9223372036854775808", "1.5", "1e3", "1.0", "\"10\"", "true", "[]", "{}", "+1", "01", "--1"]
        {
            assert_eq!(integer(bad), None, "{bad}");
        }
        let millis = |text| Reader::new(text).millis().ok();
        assert_eq!(millis("18446744073709551615"), Some(Some(u64::MAX)));
        assert_eq!(millis("null"), Some(None));
        for bad in ["-1", "18446744073709551616", "1.5", "1e3", "\"10\"", "false"] {
            assert_eq!(millis(bad), None, "{bad}");
        }
    }
}
