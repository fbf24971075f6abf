//! Patterns of channels.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

/// The values of a pattern's variables.
pub type Bindings = BTreeMap<String, String>;

/// A pattern of channel names: segments that are split at both `.` and `:`.
///
/// A segment is a literal, `{name}` (one segment, bound to the name), `*` (one segment) or, as the last one, `**`
/// (one or more segments).
///
/// ```
/// use relay_proto::parsec::Pattern;
/// let pattern = Pattern::parse("sessions:{id}.events")?;
/// assert_eq!(pattern.matches("sessions:s_19.events").unwrap()["id"], "s_19");
/// assert!(pattern.matches("sessions:s_19.other").is_none());
/// # Ok::<(), relay_proto::parsec::InvalidPattern>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(Box<str>),
    Variable(Box<str>),
    One,
    Rest,
}

/// The text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pattern {pattern:?}: {rule}")]
#[non_exhaustive]
pub struct InvalidPattern {
    /// The text.
    pub pattern: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`InvalidPattern`]: empty, an empty segment, `**` before the end, `{}`, or a mix such as `a*`.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let wrong = |rule| InvalidPattern { pattern: text.chars().take(200).collect(), rule };
        if text.is_empty() {
            return Err(wrong("a pattern is not empty"));
        }
        let parts: Vec<&str> = text.split(['.', ':']).collect();
        let segment = |(at, part): (usize, &&str)| {
            Ok(match *part {
                "" => return Err(wrong("a segment is not empty")),
                "*" => Segment::One,
                "**" if at + 1 == parts.len() => Segment::Rest,
                "**" => return Err(wrong("** is the last segment")),
                _ => match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                    Some("") => return Err(wrong("{} has no name")),
                    Some(name) if !name.contains(['{', '}', '*']) => Segment::Variable(name.into()),
                    None if !part.contains(['{', '}', '*']) => Segment::Literal((*part).into()),
                    _ => return Err(wrong("a segment is a literal, {name}, * or **, not a mix")),
                },
            })
        };
        let segments = parts.iter().enumerate().map(segment).collect::<Result<_, _>>()?;
        Ok(Self { text: text.into(), segments })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The values of its variables for this channel, or `None` when it does not match. If a name occurs twice, the last
    /// segment counts.
    pub fn matches(&self, channel: &str) -> Option<Bindings> {
        let mut parts = channel.split(['.', ':']);
        let mut bindings = Bindings::new();
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(literal) if **literal != *part => return None,
                Segment::Literal(_) | Segment::One => {}
                Segment::Variable(name) => {
                    bindings.insert(name.to_string(), part.to_owned());
                }
                Segment::Rest => return Some(bindings),
            }
        }
        parts.next().is_none().then_some(bindings)
    }

    /// Its specificity: 4 for a literal, 2 for a variable, 1 for `*`, 0 for `**`, summed.
    pub fn specificity(&self) -> u32 {
        let weight = |segment: &Segment| match segment {
            Segment::Literal(_) => 4,
            Segment::Variable(_) => 2,
            Segment::One => 1,
            Segment::Rest => 0,
        };
        self.segments.iter().map(weight).sum()
    }

    /// The greater pattern takes precedence: the more specific one, and of equally specific ones the one with the
    /// smaller text.
    pub fn precedence(&self, other: &Self) -> Ordering {
        self.specificity().cmp(&other.specificity()).then_with(|| other.text.cmp(&self.text))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behaviours 15 to 17.
    #[test]
    fn behaviours_15_and_16_matching() {
        for (pattern, channel, bound) in [
            ("sessions:{id}.events", "sessions:s.events", Some("id=s")),
            ("sessions:{id}.events", "sessions:s.other", None),
            ("sessions:{id}.events", "sessions:s", None),
            ("sessions:{id}.events", "sessions:s.events.x", None),
            ("brands:{slug}.**", "brands:acme.a", Some("slug=acme")),
            ("brands:{slug}.**", "brands:acme.a.b:c", Some("slug=acme")),
            ("brands:{slug}.**", "brands:acme", None),
            ("public:*.b", "public:a.b", Some("")),
            ("public:*.b", "public:a.c", None),
            ("public:a", "public.a", Some("")),
            ("{a}.{a}", "x:y", Some("a=y")),
            ("**", "anything", Some("")),
        ] {
            let found = Pattern::parse(pattern).unwrap().matches(channel);
            let found = found.map(|all| all.iter().map(|(k, v)| format!("{k}={v}")).collect::<String>());
            assert_eq!(found.as_deref(), bound, "{pattern} {channel}");
        }
    }

    #[test]
    fn behaviour_17_mistakes_are_named() {
        for (pattern, word) in [
            ("", "empty"),
            ("a..b", "segment is not empty"),
            ("a.", "segment is not empty"),
            (":a", "segment is not empty"),
            ("a.**.b", "last"),
            ("a.{}", "no name"),
            ("a*", "mix"),
            ("{a", "mix"),
            ("a}b", "mix"),
            ("{a}b", "mix"),
            ("{a*}", "mix"),
            ("***", "mix"),
        ] {
            let error = Pattern::parse(pattern).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains(&format!("{pattern:?}")), "{error}");
        }
    }

    /// Behaviour 19, and ties.
    #[test]
    fn behaviour_19_precedence() {
        let order = ["a.b", "a.{x}", "a.*", "a.**", "{x}.**", "**"];
        let order: Vec<_> = order.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        for pair in order.windows(2) {
            assert_eq!(pair[0].precedence(&pair[1]), Ordering::Greater, "{} {}", pair[0], pair[1]);
        }
        let (a, b) = (Pattern::parse("x.{a}").unwrap(), Pattern::parse("x.{b}").unwrap());
        assert_eq!(a.precedence(&b), Ordering::Greater);
    }
}
