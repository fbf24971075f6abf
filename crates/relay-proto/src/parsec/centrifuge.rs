//! The JSON protocol (version 2) of `centrifuge` servers, in both directions, and the Twirp calls that belong to it.
//!
//! A text frame holds one or more lines. Each line is a command, a reply or a push, and their order is the order of
//! events. Zero values are left out on the wire, so every member may be missing. `data` is kept as its bytes.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Commands of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// The first command of a connection.
    Connect {
        /// The credential of the connection; empty for none.
        token: String,
        /// The name of the client's software.
        name: String,
    },
    /// Subscribes to a channel.
    Subscribe {
        /// The channel.
        channel: String,
        /// The credential for the channel; empty for none.
        token: String,
        /// The position to recover from; `None` for what is published from now on.
        recover: Option<Recover>,
    },
    /// Unsubscribes from a channel.
    Unsubscribe {
        /// The channel.
        channel: String,
    },
    /// Answers a ping.
    Pong,
}

/// The position to recover from. Without epoch and offset: everything, if nothing was trimmed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(clippy::exhaustive_structs, reason = "as on the wire")]
pub struct Recover {
    /// The epoch of the stream; empty for any.
    pub epoch: String,
    /// What follows this offset is requested.
    pub offset: u64,
}

/// A message of a server: a line of a frame.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Message {
    /// Checks whether the client is alive.
    Ping,
    /// Answers a command.
    Reply {
        /// The id of the command.
        id: u32,
        /// The result.
        result: Result<Reply, CommandError>,
    },
    /// A publication of a channel.
    Publication {
        /// The channel.
        channel: String,
        /// The publication.
        publication: Publication,
    },
    /// The server ended a subscription.
    Unsubscribe {
        /// The channel.
        channel: String,
        /// A code below 2500 means that the subscription is over for good.
        code: u32,
        /// A text.
        reason: String,
    },
    /// The server closes the connection.
    Disconnect {
        /// The code, as in a close frame.
        code: u32,
        /// A text.
        reason: String,
    },
    /// A push of an unknown kind.
    Other,
}

/// The reply to a successful command.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// The reply to `connect`.
    Connect(Connected),
    /// The reply to `subscribe`.
    Subscribe(Subscribed),
    /// The reply to `unsubscribe`, or to an unknown command.
    Other,
}

/// A connection is ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::exhaustive_structs, reason = "as on the wire")]
pub struct Connected {
    /// The server's name for the connection.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The server's version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Seconds between pings; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub ping: u64,
    /// Whether the client must answer pings.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pong: bool,
}

/// A subscription is open.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::exhaustive_structs, reason = "as on the wire")]
pub struct Subscribed {
    /// Whether it can be recovered after a drop.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recoverable: bool,
    /// Whether the server checks positions.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub positioned: bool,
    /// The epoch of the stream; empty when it has no positions.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub epoch: String,
    /// The newest offset; but **the requested one** when the subscription was recovered.
    #[serde(skip_serializing_if = "is_zero")]
    pub offset: u64,
    /// Whether nothing was lost since the requested position.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// Whether recovery was requested.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub was_recovering: bool,
    /// The publications since the requested position.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
}

impl Subscribed {
    /// The newest offset: the maximum of `offset` and the offsets of the publications.
    pub fn newest(&self) -> u64 {
        self.publications.iter().map(|publication| publication.offset).fold(self.offset, u64::max)
    }
}

/// A publication. `Debug` shows the size of the data, never the data.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "as on the wire")]
pub struct Publication {
    /// The bytes, unchanged.
    pub data: Bytes,
    /// Its offset in the stream; 0 when it has none.
    pub offset: u64,
}

impl std::fmt::Debug for Publication {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publication").field("bytes", &self.data.len()).field("offset", &self.offset).finish()
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, thiserror::Error)]
#[serde(default)]
#[error("error {code}: {message}")]
#[allow(clippy::exhaustive_structs, reason = "as on the wire")]
pub struct CommandError {
    /// 100 internal, 101 unauthorized, 102 unknown channel, 103 permission denied, 105 already subscribed, 106 limit,
    /// 107 bad request, 108 not available, 109 token expired, 112 unrecoverable position.
    pub code: u32,
    /// A text.
    pub message: String,
    /// Whether a retry may succeed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub temporary: bool,
}

/// The line is not a command, a reply or a push. The error contains nothing of the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a line that is not of the protocol: {0}")]
pub struct NotProtocol(String);

#[derive(Serialize, Deserialize)]
struct CommandWire<'a> {
    #[serde(default, skip_serializing_if = "is_zero_32")]
    id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<ConnectWire<'a>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    subscribe: Option<SubscribeWire<'a>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<UnsubscribeWire<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ConnectWire<'a> {
    #[serde(default, skip_serializing_if = "str::is_empty")]
    token: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    name: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct SubscribeWire<'a> {
    channel: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    token: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    recover: bool,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    epoch: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "is_zero")]
    offset: u64,
}

#[derive(Serialize, Deserialize)]
struct UnsubscribeWire<'a> {
    channel: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct MessageWire {
    #[serde(default, skip_serializing_if = "is_zero_32")]
    id: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<CommandError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    connect: Option<Connected>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subscribe: Option<Subscribed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    push: Option<PushWire>,
}

#[derive(Serialize, Deserialize, Default)]
struct PushWire {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    channel: String,
    #[serde(default, rename = "pub", skip_serializing_if = "Option::is_none")]
    publication: Option<Publication>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unsubscribe: Option<CodeWire>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnect: Option<CodeWire>,
}

#[derive(Serialize, Deserialize)]
struct CodeWire {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    reason: String,
}

#[derive(Serialize, Deserialize)]
struct PublicationWire {
    data: Box<RawValue>,
    #[serde(default, skip_serializing_if = "is_zero")]
    offset: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_zero_32(number: &u32) -> bool {
    *number == 0
}

impl Serialize for Publication {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = std::str::from_utf8(&self.data).map_err(serde::ser::Error::custom)?;
        let data = RawValue::from_string(text.to_owned()).map_err(serde::ser::Error::custom)?;
        PublicationWire { data, offset: self.offset }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Publication {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PublicationWire { data, offset } = PublicationWire::deserialize(deserializer)?;
        let text: Box<str> = data.into();
        Ok(Self { data: String::from(text).into(), offset })
    }
}

impl Command {
    /// Writes the line, without its end. `id` identifies the command in the reply; a pong has none.
    pub fn to_line(&self, id: u32) -> String {
        let mut wire = CommandWire { id, connect: None, subscribe: None, unsubscribe: None };
        match self {
            Self::Connect { token, name } => {
                wire.connect = Some(ConnectWire { token: token.into(), name: name.into() });
            }
            Self::Subscribe { channel, token, recover } => {
                let (epoch, offset) = recover.as_ref().map_or(("", 0), |from| (&*from.epoch, from.offset));
                wire.subscribe = Some(SubscribeWire {
                    channel: channel.into(),
                    token: token.into(),
                    recover: recover.is_some(),
                    epoch: epoch.into(),
                    offset,
                });
            }
            Self::Unsubscribe { channel } => {
                wire.unsubscribe = Some(UnsubscribeWire { channel: channel.into() });
            }
            Self::Pong => wire.id = 0,
        }
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// Reads a line, with the id of the command.
    ///
    /// # Errors
    /// [`NotProtocol`].
    pub fn from_line(line: &str) -> Result<(u32, Self), NotProtocol> {
        let wire: CommandWire<'_> = read(line)?;
        let command = if let Some(ConnectWire { token, name }) = wire.connect {
            Self::Connect { token: token.into(), name: name.into() }
        } else if let Some(ask) = wire.subscribe {
            let from = Recover { epoch: ask.epoch.into(), offset: ask.offset };
            let recover = ask.recover.then_some(from);
            Self::Subscribe { channel: ask.channel.into(), token: ask.token.into(), recover }
        } else if let Some(UnsubscribeWire { channel }) = wire.unsubscribe {
            Self::Unsubscribe { channel: channel.into() }
        } else if wire.id == 0 {
            Self::Pong
        } else {
            return Err(NotProtocol("an unknown command".into()));
        };
        Ok((wire.id, command))
    }
}

impl Message {
    /// Reads a line.
    ///
    /// # Errors
    /// [`NotProtocol`].
    pub fn from_line(line: &str) -> Result<Self, NotProtocol> {
        let wire: MessageWire = read(line)?;
        if let Some(push) = wire.push {
            let PushWire { channel, publication, unsubscribe, disconnect } = push;
            return Ok(match (publication, unsubscribe, disconnect) {
                (Some(publication), ..) => Self::Publication { channel, publication },
                (_, Some(CodeWire { code, reason }), _) => Self::Unsubscribe { channel, code, reason },
                (_, _, Some(CodeWire { code, reason })) => Self::Disconnect { code, reason },
                _ => Self::Other,
            });
        }
        if wire.id == 0 {
            return Ok(if wire.error.is_none() { Self::Ping } else { Self::Other });
        }
        let result = match (wire.error, wire.connect, wire.subscribe) {
            (Some(error), ..) => Err(error),
            (_, Some(connected), _) => Ok(Reply::Connect(connected)),
            (_, _, Some(subscribed)) => Ok(Reply::Subscribe(subscribed)),
            _ => Ok(Reply::Other),
        };
        Ok(Self::Reply { id: wire.id, result })
    }

    /// Writes the line, without its end. Data that is not JSON makes an empty line.
    pub fn to_line(&self) -> String {
        let mut wire = MessageWire { id: 0, error: None, connect: None, subscribe: None, push: None };
        let code = |code: &u32, reason: &String| Some(CodeWire { code: *code, reason: reason.clone() });
        match self {
            Self::Ping | Self::Other => {}
            Self::Reply { id, result } => {
                wire.id = *id;
                match result {
                    Err(error) => wire.error = Some(error.clone()),
                    Ok(Reply::Connect(connected)) => wire.connect = Some(connected.clone()),
                    Ok(Reply::Subscribe(subscribed)) => wire.subscribe = Some(subscribed.clone()),
                    Ok(Reply::Other) => {}
                }
            }
            Self::Publication { channel, publication } => {
                let publication = Some(publication.clone());
                wire.push = Some(PushWire { channel: channel.clone(), publication, ..PushWire::default() });
            }
            Self::Unsubscribe { channel, code: number, reason } => {
                let unsubscribe = code(number, reason);
                wire.push = Some(PushWire { channel: channel.clone(), unsubscribe, ..PushWire::default() });
            }
            Self::Disconnect { code: number, reason } => {
                wire.push = Some(PushWire { disconnect: code(number, reason), ..PushWire::default() });
            }
        }
        serde_json::to_string(&wire).unwrap_or_default()
    }
}

/// Reads an object. Serde alone would accept a list, too.
fn read<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, NotProtocol> {
    if !line.trim_start().starts_with('{') {
        return Err(NotProtocol("it is no JSON object".into()));
    }
    // Serde's text may quote the content.
    serde_json::from_str(line)
        .map_err(|error| NotProtocol(format!("reading ended at column {}", error.column())))
}

/// The path of a Twirp method below the base URL.
pub fn twirp_path(method: &str) -> String {
    format!("twirp/parsec.ParsecService/{method}")
}

/// The body of `Publish`.
pub fn twirp_publish(channel: &str, envelope: &[u8]) -> String {
    serde_json::json!({"name": channel, "data": STANDARD.encode(envelope)}).to_string()
}

/// The body of `OpenPublic`; the time to live is the server's own.
pub fn twirp_name(channel: &str) -> String {
    serde_json::json!({ "name": channel }).to_string()
}

/// The response to `Publish`: the envelope's position. Numbers may be texts, and names may have either case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TwirpPublished {
    /// The offset.
    #[serde(deserialize_with = "number")]
    pub offset: u64,
    /// The epoch.
    pub epoch: String,
}

/// The response to `Presence`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TwirpPresence {
    /// The number of subscribers.
    #[serde(deserialize_with = "number", alias = "numSubscribers", alias = "num_subscribers")]
    pub subscribers: u64,
}

/// An error response of a Twirp server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct TwirpError {
    /// The code, such as `not_found`.
    pub code: String,
    /// A text.
    pub msg: String,
}

impl TwirpError {
    /// Reads the body of an error response; `None` when it is not from a Twirp server.
    pub fn from_body(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok().filter(|error: &Self| !error.code.is_empty())
    }
}

/// A number, or the text of one: 64-bit numbers are texts in protobuf's JSON.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Number(u64),
        Text(String),
    }
    match Number::deserialize(deserializer)? {
        Number::Number(number) => Ok(number),
        Number::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_documented_lines() {
        let recover = |epoch: &str, offset| Some(Recover { epoch: epoch.into(), offset });
        let subscribe = |token: &str, recover| {
            let (channel, token) = ("private:a.b.42".into(), token.into());
            Command::Subscribe { channel, token, recover }
        };
        for (id, command, line) in [
            (
                1,
                Command::Connect { token: String::new(), name: "rs".into() },
                r#"{"id":1,"connect":{"name":"rs"}}"#,
            ),
            (
                2,
                subscribe("T", recover("Xy", 12)),
                r#"{"id":2,"subscribe":{"channel":"private:a.b.42","token":"T","recover":true,"epoch":"Xy","offset":12}}"#,
            ),
            (3, subscribe("", None), r#"{"id":3,"subscribe":{"channel":"private:a.b.42"}}"#),
            (
                4,
                subscribe("", recover("", 0)),
                r#"{"id":4,"subscribe":{"channel":"private:a.b.42","recover":true}}"#,
            ),
            (5, Command::Unsubscribe { channel: "c".into() }, r#"{"id":5,"unsubscribe":{"channel":"c"}}"#),
            (0, Command::Pong, "{}"),
        ] {
            assert_eq!(command.to_line(id), line);
            assert_eq!(Command::from_line(line), Ok((id, command)));
        }
        assert!(Command::from_line(r#"{"id":1,"rpc":{}}"#).is_err());
    }

    #[test]
    fn messages_survive_and_data_is_kept_as_it_was_published() {
        let data = r#"{"payload": {"n": 9007199254740993}}"#;
        for line in [
            "{}".to_owned(),
            r#"{"id":1,"connect":{"client":"c","ping":25,"pong":true}}"#.into(),
            r#"{"id":2,"error":{"code":100,"message":"internal server error","temporary":true}}"#.into(),
            format!(
                r#"{{"id":2,"subscribe":{{"recoverable":true,"positioned":true,"epoch":"Xy","offset":12,"recovered":true,"was_recovering":true,"publications":[{{"data":{data},"offset":13}}]}}}}"#
            ),
            format!(r#"{{"push":{{"channel":"c","pub":{{"data":{data},"offset":15}}}}}}"#),
            r#"{"push":{"channel":"c","unsubscribe":{"code":2000,"reason":"server unsubscribe"}}}"#.into(),
            r#"{"push":{"disconnect":{"code":3012,"reason":"no pong"}}}"#.into(),
        ] {
            assert_eq!(Message::from_line(&line).unwrap().to_line(), line);
        }
        let empty = Message::from_line(r#"{"id":2,"subscribe":{}}"#).unwrap();
        let Message::Reply { result: Ok(Reply::Subscribe(empty)), .. } = empty else { panic!("{empty:?}") };
        assert_eq!((empty.recovered, empty.newest(), empty.epoch.as_str()), (false, 0, ""));
        assert_eq!(Message::from_line(r#"{"push":{"channel":"c","join":{}}}"#), Ok(Message::Other));
        for bad in ["", "x", "[]", r#"{"id":-1}"#, r#"{"push":{"pub":{"offset":1}}}"#] {
            assert!(Message::from_line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_recovered_answer_says_the_offset_that_was_asked_for() {
        let of = |offset| Publication { data: "1".into(), offset };
        let answer = Subscribed { offset: 12, publications: vec![of(13), of(14)], ..Subscribed::default() };
        assert_eq!(answer.newest(), 14);
    }

    #[test]
    fn twirp_answers_in_any_spelling() {
        for text in [r#"{"offset":"7","epoch":"Xy"}"#, r#"{"offset":7,"epoch":"Xy","newField":{}}"#] {
            let published: TwirpPublished = serde_json::from_str(text).unwrap();
            assert_eq!((published.offset, published.epoch.as_str()), (7, "Xy"));
        }
        for text in [r#"{"subscribers":"3"}"#, r#"{"numSubscribers":3}"#] {
            assert_eq!(serde_json::from_str::<TwirpPresence>(text).unwrap().subscribers, 3);
        }
        let error = TwirpError::from_body(br#"{"code":"not_found","msg":"no","meta":{}}"#).unwrap();
        assert_eq!((error.code.as_str(), error.msg.as_str()), ("not_found", "no"));
        assert_eq!(TwirpError::from_body(b"<html>"), None);
        assert_eq!(twirp_publish("c", b"{}"), r#"{"data":"e30=","name":"c"}"#);
        assert_eq!(twirp_path("Publish"), "twirp/parsec.ParsecService/Publish");
    }
}
