//! Decoding events.

use std::borrow::Cow;
use std::fmt;

use super::environment::{EnvironmentRep, FilterRep, read_fields, read_map};
use crate::json::lenient::{Fault, Read, Reader};

const OBJECT: &str = "it must be an object";

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message<'a> {
    /// `put`: all environments and filters.
    Put(Put<'a>),
    /// `patch`: one environment or filter, new or changed.
    Patch(Box<Patch<'a>>),
    /// `delete`: one environment or filter is gone.
    Delete(Delete<'a>),
    /// `reconnect`: the service asks the client to connect again. Its data is ignored.
    Reconnect,
    /// An event with another name.
    Unknown(Cow<'a, str>),
}

/// The data of a `put`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Put<'a> {
    /// What it is about.
    pub path: Path<'a>,
    /// The content, when the path is [`Path::All`]; else empty.
    pub content: PutContent<'a>,
}

/// All environments and filters: the field `data` of a `put`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PutContent<'a> {
    /// By id, in the order of the ids, each id once.
    pub environments: Vec<(Cow<'a, str>, EnvironmentRep<'a>)>,
    /// By id, in the order of the ids, each id once.
    pub filters: Vec<(Cow<'a, str>, FilterRep<'a>)>,
}

/// The data of a `patch`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Patch<'a> {
    /// What it is about.
    pub path: Path<'a>,
    /// What it is now, when the path is [`Path::Environment`].
    pub environment: Option<EnvironmentRep<'a>>,
    /// What it is now, when the path is [`Path::Filter`].
    pub filter: Option<FilterRep<'a>>,
}

/// The data of a `delete`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Delete<'a> {
    /// What it is about.
    pub path: Path<'a>,
    /// The version of the deletion.
    pub version: i64,
}

/// The path of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Path<'a> {
    /// `/`
    All,
    /// `/environments/ID`. The id may be empty, and is not decoded.
    Environment(Cow<'a, str>),
    /// `/filters/ID`
    Filter(Cow<'a, str>),
    /// Another path, perhaps of a later version of the protocol.
    #[default]
    Other,
}

impl<'a> Path<'a> {
    /// Parses a path. The id follows the last slash and is not decoded.
    pub fn parse(text: impl Into<Cow<'a, str>>) -> Self {
        let text = text.into();
        if text == "/" {
            return Self::All;
        }
        let Some(slash) = text.rfind('/') else { return Self::Other };
        let kind = match &text[..=slash] {
            "/environments/" => Self::Environment,
            "/filters/" => Self::Filter,
            _ => return Self::Other,
        };
        kind(match text {
            Cow::Borrowed(text) => Cow::Borrowed(&text[slash + 1..]),
            Cow::Owned(text) => Cow::Owned(text[slash + 1..].to_owned()),
        })
    }
}

/// The data of an event is invalid. Displays the event, the field, its place and the rule, and nothing of the data
/// but ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeError {
    event: &'static str,
    place: String,
    rule: &'static str,
    at: usize,
}

impl DecodeError {
    fn new(event: &'static str, fault: &Fault) -> Self {
        Self { event, place: fault.place(), rule: fault.rule, at: fault.at }
    }

    /// The rule that was broken.
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// The field that broke it, with what is around it, separated by dots; empty for the data as a whole.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Bytes of the data before it.
    pub fn offset(&self) -> usize {
        self.at
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the data of a {} is wrong", self.event)?;
        if !self.place.is_empty() {
            write!(f, " in {}", self.place)?;
        }
        write!(f, " at byte {}: {}", self.at, self.rule)
    }
}

impl std::error::Error for DecodeError {}

impl<'a> Message<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// When the data is not JSON, or has a wrong type. Then nothing of the event counts.
    pub fn decode(event: &'a str, data: &'a str) -> Result<Self, DecodeError> {
        let decoded = |event, message: Read<Self>| message.map_err(|fault| DecodeError::new(event, &fault));
        match event {
            "put" => decoded("put", Put::read(data).map(Self::Put)),
            "patch" => decoded("patch", Patch::read(data).map(|patch| Self::Patch(Box::new(patch)))),
            "delete" => decoded("delete", Delete::read(data).map(Self::Delete)),
            "reconnect" => Ok(Self::Reconnect),
            other => Ok(Self::Unknown(Cow::Borrowed(other))),
        }
    }
}

impl<'a> PutContent<'a> {
    /// Decodes the field `data` of a put.
    ///
    /// # Errors
    /// As [`Message::decode`].
    pub fn decode(data: &'a str) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(data);
        let content = Self::read(&mut reader).and_then(|content| reader.end().map(|()| content));
        content.map_err(|fault| DecodeError::new("put", &fault))
    }

    fn read(reader: &mut Reader<'a>) -> Read<Self> {
        let mut content = Self::default();
        read_fields!(reader, {
            "environments" => |r| { content.environments = read_map(r, EnvironmentRep::read)?; Ok(()) },
            "filters" => |r| { content.filters = read_map(r, FilterRep::read)?; Ok(()) },
        })?;
        Ok(content)
    }
}

/// The path, and the text of `data`, which can be decoded only once the path is known.
struct Unread<'a> {
    path: Path<'a>,
    /// Each with its offset. The last counts, but the others must be valid, too.
    data: Vec<(&'a str, usize)>,
}

impl<'a> Unread<'a> {
    fn new(text: &'a str) -> Read<Self> {
        let mut reader = Reader::new(text);
        let (mut path, mut data) = (Cow::Borrowed(""), Vec::new());
        reader.object(OBJECT, |reader, key| {
            if key.eq_ignore_ascii_case("path") {
                path = reader.string().map_err(|fault| fault.within("path"))?;
            } else if key.eq_ignore_ascii_case("data") {
                let value = reader.skip().map_err(|fault| fault.within("data"))?;
                data.push((value, (value.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize)));
            } else {
                reader.skip()?;
            }
            Ok(())
        })?;
        reader.end()?;
        Ok(Self { path: Path::parse(path), data })
    }

    /// Reads all of `data`; nothing when there is none.
    fn read<T: Default>(self, read: impl Fn(&mut Reader<'a>) -> Read<T>) -> Read<T> {
        let mut last = T::default();
        for (text, before) in self.data {
            last = read(&mut Reader::new(text)).map_err(|mut fault| {
                fault.at += before;
                fault.within("data")
            })?;
        }
        Ok(last)
    }
}

impl<'a> Put<'a> {
    fn read(text: &'a str) -> Read<Self> {
        let mut reader = Reader::new(text);
        // Usually the path comes first and is the usual one: then the data is read once.
        let (mut path, mut content, mut second) = (None, None, false);
        reader.object(OBJECT, |reader, key| {
            if key.eq_ignore_ascii_case("path") {
                second |= path.is_some();
                path = Some(Path::parse(reader.string().map_err(|fault| fault.within("path"))?));
            } else if key.eq_ignore_ascii_case("data") {
                if path == Some(Path::All) && content.is_none() && !second {
                    content = Some(PutContent::read(reader).map_err(|fault| fault.within("data"))?);
                } else {
                    second = true;
                    reader.skip().map_err(|fault| fault.within("data"))?;
                }
            } else {
                reader.skip()?;
            }
            Ok(())
        })?;
        reader.end()?;
        if !second {
            let path = path.unwrap_or_default();
            return Ok(Self { path, content: content.unwrap_or_default() });
        }
        let unread = Unread::new(text)?;
        let path = unread.path.clone();
        let content = if path == Path::All { unread.read(PutContent::read)? } else { PutContent::default() };
        Ok(Self { path, content })
    }
}

impl<'a> Patch<'a> {
    fn read(text: &'a str) -> Read<Self> {
        let unread = Unread::new(text)?;
        let path = unread.path.clone();
        let (mut environment, mut filter) = (None, None);
        match path {
            Path::Environment(_) => environment = Some(unread.read(EnvironmentRep::read)?),
            Path::Filter(_) => filter = Some(unread.read(FilterRep::read)?),
            _ => {}
        }
        Ok(Self { path, environment, filter })
    }
}

impl<'a> Delete<'a> {
    fn read(text: &'a str) -> Read<Self> {
        let mut reader = Reader::new(text);
        let (mut path, mut version) = (Cow::Borrowed(""), 0);
        read_fields!(reader, {
            "path" => |r| { path = r.string()?; Ok(()) },
            "version" => |r| { version = r.integer()?; Ok(()) },
        })?;
        reader.end()?;
        Ok(Self { path: Path::parse(path), version })
    }
}
