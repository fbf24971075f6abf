//! Text for people: pieces with a meaning, measured in terminal columns, without control characters.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthChar;

/// The meaning of a piece of text, which determines its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    /// Everything is in order.
    Good,
    /// In progress, or worth a look.
    Warn,
    /// An error.
    Bad,
    /// Less important.
    Faint,
    /// A heading, or the most important part.
    Strong,
}

impl Tone {
    /// A piece of text with this meaning.
    pub(crate) fn text(self, text: impl AsRef<str>) -> Text {
        Text::default().and(self, text)
    }

    fn style(self) -> Style {
        let color = |color: AnsiColor| color.on_default();
        match self {
            Self::Plain => Style::new(),
            Self::Good => color(AnsiColor::Green),
            Self::Warn => color(AnsiColor::Yellow),
            Self::Bad => color(AnsiColor::Red),
            Self::Faint => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
        }
    }
}

/// Text in pieces. Characters that a terminal interprets, or that change the direction of text, are escaped when the
/// text is made, so they can never be printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Text {
    text: String,
    /// The end of each piece and its meaning; the last piece ends with the text. If it is empty, all of the text is
    /// plain.
    tones: Vec<(usize, Tone)>,
}

impl Text {
    /// Adds a piece.
    #[must_use]
    pub(crate) fn and(mut self, tone: Tone, text: impl AsRef<str>) -> Self {
        self.push(tone, text.as_ref());
        self
    }

    /// Adds a piece without a special meaning.
    #[must_use]
    pub(crate) fn plain(self, text: impl AsRef<str>) -> Self {
        self.and(Tone::Plain, text)
    }

    pub(crate) fn push(&mut self, tone: Tone, text: &str) {
        if self.tones.is_empty() && tone != Tone::Plain && !self.text.is_empty() {
            self.tones.push((self.text.len(), Tone::Plain));
        }
        if harmless(text) {
            self.text.push_str(text);
        } else {
            self.text.push_str(&escaped(text));
        }
        if tone != Tone::Plain || !self.tones.is_empty() {
            self.tones.push((self.text.len(), tone));
        }
    }

    /// Adds another text.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (tone, piece) in other.pieces() {
            self.push(tone, piece);
        }
    }

    /// This text, followed by another one.
    #[must_use]
    pub(crate) fn joined(mut self, other: &Self) -> Self {
        self.extend(other);
        self
    }

    /// The characters alone.
    #[cfg(test)]
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The width in columns.
    pub(crate) fn width(&self) -> usize {
        width(&self.text)
    }

    fn pieces(&self) -> impl Iterator<Item = (Tone, &str)> {
        let plain = self.tones.is_empty().then_some((self.text.len(), Tone::Plain));
        self.tones
            .iter()
            .copied()
            .chain(plain)
            .scan(0, |start, (end, tone)| Some((tone, &self.text[std::mem::replace(start, end)..end])))
    }

    /// The text cut to this width, with an ellipsis in the middle.
    pub(crate) fn cut_middle(&self, columns: usize) -> Self {
        if self.width() <= columns {
            return self.clone();
        }
        let ends = columns.saturating_sub(1);
        let head = self.head(ends.div_ceil(2));
        let tail = tail_start(&self.text, ends - width(&self.text[..head]).min(ends));
        self.without(head, tail, columns)
    }

    /// The text cut to this width, with an ellipsis at the end.
    pub(crate) fn cut_end(&self, columns: usize) -> Self {
        if self.width() <= columns {
            return self.clone();
        }
        self.without(self.head(columns.saturating_sub(1)), self.text.len(), columns)
    }

    /// Lines of at most this width, broken between words; a word that is longer than a line continues on the next one.
    pub(crate) fn wrapped(&self, columns: usize) -> Vec<Self> {
        let (mut lines, mut start) = (Vec::new(), 0);
        loop {
            let rest = &self.text[start..];
            let fits = head_end(rest, columns.max(1));
            if fits == rest.len() {
                lines.push(self.part(start, self.text.len()));
                return lines;
            }
            let space = if rest[fits..].starts_with(' ') { Some(fits) } else { rest[..fits].rfind(' ') };
            // At least one character, so that the loop ends.
            let least = rest.chars().next().map_or(1, char::len_utf8);
            let taken = space.filter(|space| *space > 0).unwrap_or(fits).max(least);
            lines.push(self.part(start, start + taken));
            start += taken + (rest[taken..].len() - rest[taken..].trim_start_matches(' ').len());
            if start == self.text.len() {
                return lines;
            }
        }
    }

    /// The text between two positions, in bytes.
    fn part(&self, from: usize, to: usize) -> Self {
        let (mut part, mut at) = (Self::default(), 0);
        for (tone, piece) in self.pieces() {
            let (start, end) = (at, at + piece.len());
            at = end;
            if start < to && end > from {
                part.push(tone, &self.text[start.max(from)..end.min(to)]);
            }
        }
        part
    }

    /// The number of bytes of the longest beginning that fits.
    fn head(&self, columns: usize) -> usize {
        head_end(&self.text, columns)
    }

    /// The text before `head` and from `tail` on, with an ellipsis between them.
    fn without(&self, head: usize, tail: usize, columns: usize) -> Self {
        let mut cut = Self::default();
        let mut at = 0;
        let mut gap = columns > 0;
        for (tone, piece) in self.pieces() {
            let (start, end) = (at, at + piece.len());
            at = end;
            cut.push(tone, &self.text[start..end.min(head).max(start)]);
            if gap && end > head {
                cut.push(tone, "…");
                gap = false;
            }
            cut.push(tone, &self.text[start.max(tail).min(end)..end]);
        }
        cut
    }

    /// Writes the text, with or without colour.
    pub(crate) fn render(&self, color: bool, out: &mut String) {
        if !color || self.tones.is_empty() {
            out.push_str(&self.text);
            return;
        }
        for (tone, piece) in self.pieces() {
            if !piece.is_empty() {
                let style = tone.style();
                let _ = write!(out, "{style}{piece}{style:#}");
            }
        }
    }
}

impl std::fmt::Display for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Tone::Plain.text(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        if harmless(&text) { Self { text, tones: Vec::new() } } else { Tone::Plain.text(text) }
    }
}

/// The width of a text in columns.
pub(crate) fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char_width).sum() }
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// The number of bytes of the longest beginning that fits.
fn head_end(text: &str, columns: usize) -> usize {
    let mut used = 0;
    let fits = text.char_indices().find(|(_, c)| {
        used += char_width(*c);
        used > columns
    });
    fits.map_or(text.len(), |(at, _)| at)
}

/// The position where the longest end that fits begins. It is not between a character and those that combine with it.
fn tail_start(text: &str, columns: usize) -> usize {
    let mut used = 0;
    let mut start = text.len();
    for (at, c) in text.char_indices().rev() {
        used += char_width(c);
        if used > columns {
            break;
        }
        if char_width(c) > 0 {
            start = at;
        }
    }
    start
}

/// Whether a text can be written to a terminal unchanged.
pub(crate) fn harmless(text: &str) -> bool {
    if text.is_ascii() {
        return !text.bytes().any(|byte| byte.is_ascii_control());
    }
    !text.chars().any(commands)
}

/// Control characters; marks that change the direction of text, so that it can be misread; line separators.
pub(crate) fn commands(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with escapes for all characters that are not harmless.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.extend(c.escape_default()),
            c if u32::from(c) < 0x100 && commands(c) => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if commands(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// JSON whose strings contain no raw characters that a terminal interprets, with the same meaning. The JSON writer does
/// not escape characters above U+001F.
pub(crate) fn tame_json(json: String) -> String {
    if json.bytes().all(|byte| byte != 0x7f && byte < 0x80) || harmless(&json) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if commands(c) && c != '\n' {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// `1 pod`, `2 pods`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_is_singular_and_everything_else_plural() {
        let said = [0, 1, 2, 21].map(|count| counted(count, "more event"));
        assert_eq!(said, ["0 more events", "1 more event", "2 more events", "21 more events"]);
    }

    #[test]
    fn names_are_cut_in_the_middle_and_sentences_at_the_end() {
        let name = Text::from("web-7d9f8b6c5d-abcde");
        for (columns, middle, end) in [
            (20, "web-7d9f8b6c5d-abcde", "web-7d9f8b6c5d-abcde"),
            (11, "web-7…abcde", "web-7d9f8b…"),
            (10, "web-7…bcde", "web-7d9f8…"),
            (3, "w…e", "we…"),
            (2, "w…", "w…"),
            (1, "…", "…"),
            (0, "", ""),
        ] {
            assert_eq!(name.cut_middle(columns).as_str(), middle, "{columns}");
            assert_eq!(name.cut_end(columns).as_str(), end, "{columns}");
        }
    }

    #[test]
    fn wide_and_combining_characters_keep_their_columns() {
        assert_eq!(Text::from("日本語").width(), 6);
        assert_eq!(Text::from("e\u{301}e\u{301}").width(), 2);
        assert_eq!(Text::from("日本語のポッド").cut_middle(8).as_str(), "日本…ド");
        assert_eq!(Text::from("aaae\u{301}bbb").cut_middle(5).as_str(), "aa…bb");
        assert_eq!(Text::from("aaabbe\u{301}b").cut_middle(5).as_str(), "aa…e\u{301}b");
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (text, shown) in [
            ("a\x1b[2Jb", "a\\x1b[2Jb"),
            ("line\nline\r\ttab", "line\\nline\\r\\ttab"),
            ("\u{9b}31m", "\\x9b31m"),
            ("del\u{7f}", "del\\x7f"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("ü 日本", "ü 日本"),
        ] {
            assert_eq!(Text::from(text).as_str(), shown);
            assert_eq!(Text::from(text.to_owned()).as_str(), shown);
            let json = serde_json::to_string(text).unwrap();
            let tame = tame_json(json);
            assert!(harmless(&tame), "{tame}");
            assert_eq!(serde_json::from_str::<String>(&tame).unwrap(), text);
        }
    }

    #[test]
    fn sentences_are_wrapped_between_words() {
        let text = Text::from("no connection: ").and(Tone::Bad, "refused by 127.0.0.1:40605, twice");
        for (columns, lines) in [
            (80, vec!["no connection: refused by 127.0.0.1:40605, twice"]),
            (25, vec!["no connection: refused by", "127.0.0.1:40605, twice"]),
            (14, vec!["no connection:", "refused by", "127.0.0.1:4060", "5, twice"]),
        ] {
            let wrapped = text.wrapped(columns);
            assert_eq!(wrapped.iter().map(Text::as_str).collect::<Vec<_>>(), lines, "{columns}");
        }
        let mut color = String::new();
        text.wrapped(25)[1].render(true, &mut color);
        assert_eq!(color, "\x1b[31m127.0.0.1:40605, twice\x1b[0m");
        assert_eq!(Text::default().wrapped(3), [Text::default()]);
        assert_eq!(Text::from("日本").wrapped(1).len(), 2);
    }

    #[test]
    fn colour_is_beside_the_text() {
        let text = Text::from("a ").and(Tone::Good, "ready").plain(" b");
        let (mut plain, mut color) = (String::new(), String::new());
        text.render(false, &mut plain);
        text.render(true, &mut color);
        assert_eq!(plain, "a ready b");
        assert_eq!(color, "a \x1b[32mready\x1b[0m b");
        let mut cut = String::new();
        text.cut_middle(5).render(true, &mut cut);
        assert_eq!(cut, "a \x1b[32m…\x1b[0m b");
    }

    proptest! {
        #[test]
        fn a_cut_fits_and_keeps_both_ends(text in "\\PC{0,40}", columns in 0usize..50) {
            let whole = Text::from(text.as_str());
            let middle = whole.cut_middle(columns);
            prop_assert!(middle.width() <= columns);
            prop_assert!(whole.cut_end(columns).width() <= columns);
            if whole.width() <= columns {
                prop_assert_eq!(&middle, &whole);
            } else if columns > 0 {
                let (head, tail) = middle.as_str().split_once('…').unwrap();
                prop_assert!(whole.as_str().starts_with(head));
                prop_assert!(text.contains('…') || whole.as_str().ends_with(tail));
            }
        }

        #[test]
        fn a_wrapped_text_fits_and_loses_no_word(text in "[a-z ]{0,60}", columns in 1usize..30) {
            let lines = Text::from(text.as_str()).wrapped(columns);
            let all: String = lines.iter().map(Text::as_str).collect();
            prop_assert_eq!(all.replace(' ', ""), text.replace(' ', ""));
            for line in &lines {
                prop_assert!(line.width() <= columns);
            }
        }

        #[test]
        fn no_text_gives_orders(text in any::<String>()) {
            prop_assert!(harmless(Text::from(text.as_str()).as_str()));
            let tame = tame_json(serde_json::to_string(&text).unwrap());
            prop_assert!(harmless(&tame));
            prop_assert_eq!(serde_json::from_str::<String>(&tame).unwrap(), text);
        }
    }
}
