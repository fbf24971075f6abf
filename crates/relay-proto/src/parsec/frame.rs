//! Frames of a Parsec server over Server-Sent Events.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::Position;
use crate::sse::{Encoder, Event};
use crate::time::Timestamp;

/// One event of a channel's stream.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StreamFrame {
    /// The first of each connection.
    Connected(Connected),
    /// An envelope, not decoded, with its position, which is the event's id. `None` when the id is not a position.
    Envelope {
        /// Its position.
        position: Option<Position>,
        /// Its text.
        envelope: Bytes,
    },
    /// The server cannot send everything that follows the subscriber's position.
    Gap(StreamGap),
    /// Everything up to this position was sent.
    Heartbeat {
        /// The position.
        position: Position,
    },
    /// The server ends the connection. The delay before the next one comes as a `retry` line.
    Closing(ClosingReason),
    /// An event of another name, such as one of a later version; or an event of upstream's servers, which has no name.
    Other {
        /// Its name; `message` when it had none.
        kind: String,
    },
}

/// The start of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Connected {
    /// The version of the protocol: 1.
    #[serde(default)]
    pub protocol: u64,
    /// The channel.
    #[serde(default)]
    pub channel: String,
    /// The epoch of the channel's log.
    #[serde(default)]
    pub epoch: String,
    /// The newest offset when the connection was made; 0 for none.
    #[serde(default)]
    pub head: u64,
    /// Envelopes after this position follow.
    pub resumes_after: Position,
    /// The name of the subscriber in presence lists.
    #[serde(default)]
    pub client_id: String,
    /// The heartbeat interval in seconds.
    #[serde(default = "fifteen")]
    pub heartbeat_seconds: f64,
}

fn fifteen() -> f64 {
    15.0
}

impl Connected {
    /// The start of a connection with this version of the protocol.
    pub fn new(
        channel: &str,
        head: u64,
        resumes_after: Position,
        client_id: &str,
        heartbeat: Duration,
    ) -> Self {
        Self {
            protocol: 1,
            channel: channel.to_owned(),
            epoch: resumes_after.epoch().to_owned(),
            head,
            resumes_after,
            client_id: client_id.to_owned(),
            heartbeat_seconds: heartbeat.as_secs_f64(),
        }
    }

    /// The heartbeat interval; `None` when it is not from 1 ms to a day.
    pub fn heartbeat(&self) -> Option<Duration> {
        let usual = (0.001..=86_400.0).contains(&self.heartbeat_seconds);
        usual.then(|| Duration::from_secs_f64(self.heartbeat_seconds))
    }
}

/// A gap: envelopes that a subscriber does not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StreamGap {
    /// The reason.
    pub reason: GapReason,
    /// The requested position, unchanged.
    #[serde(default)]
    pub requested: Option<String>,
    /// Retained envelopes after this position follow.
    pub resumes_after: Position,
    /// The number of lost envelopes; `None` when unknown.
    #[serde(default)]
    pub missed: Option<u64>,
}

impl StreamGap {
    /// A gap.
    pub fn new(reason: GapReason, resumes_after: Position) -> Self {
        Self { reason, requested: None, resumes_after, missed: None }
    }

    /// Sets the requested position.
    #[must_use]
    pub fn requested(mut self, requested: Option<String>) -> Self {
        self.requested = requested;
        self
    }

    /// Sets the number of lost envelopes.
    #[must_use]
    pub fn missed(mut self, missed: Option<u64>) -> Self {
        self.missed = missed;
        self
    }
}

/// Why a subscriber does not receive everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GapReason {
    /// The log no longer has the envelopes after the position.
    Trimmed,
    /// The position is of another epoch of the log.
    EpochChanged,
    /// The position is ahead of the log, or was not made by this server.
    UnknownPosition,
    /// The subscriber was too slow: its next envelope was dropped from the log.
    SlowConsumer,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(String),
}

impl GapReason {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Trimmed => "trimmed",
            Self::EpochChanged => "epoch-changed",
            Self::UnknownPosition => "unknown-position",
            Self::SlowConsumer => "slow-consumer",
            Self::Other(name) => name,
        }
    }
}

/// Why a server closes a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClosingReason {
    /// The server ends.
    Shutdown,
    /// The connection has reached its age limit.
    Lifetime,
    /// The token was removed, or no longer includes the channel.
    Revoked,
    /// The channel is gone; a reconnect is of no use.
    Deleted,
    /// A reason of a later version.
    #[serde(untagged)]
    Other(String),
}

impl ClosingReason {
    /// The name on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Lifetime => "lifetime",
            Self::Revoked => "revoked",
            Self::Deleted => "deleted",
            Self::Other(name) => name,
        }
    }
}

/// The form in which upstream's servers send envelopes: an event without name and id, whose data contains the envelope
/// as a text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LegacyFrame {
    /// The channel.
    pub channel: String,
    /// The envelope's text.
    pub envelope: Bytes,
    /// The offset that the server gave it.
    pub offset: u64,
}

impl LegacyFrame {
    /// Reads an event's data; `None` when it has another form.
    pub fn decode(data: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Data<'a> {
            #[serde(default)]
            channel: String,
            #[serde(borrow)]
            data: Cow<'a, str>,
            #[serde(default)]
            offset: u64,
        }
        let Data { channel, data, offset } = serde_json::from_str(data).ok()?;
        Some(Self { channel, envelope: data.into_owned().into(), offset })
    }
}

/// An event of a known name with wrong content. The error names the event and the member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event:?} cannot be read: {reason}")]
#[non_exhaustive]
pub struct FrameError {
    /// The event's name.
    pub event: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Serialize, Deserialize)]
struct Heartbeat<'a> {
    position: Position,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    time: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
struct Closing {
    reason: ClosingReason,
}

impl StreamFrame {
    /// Reads an event. `near` is the position of the previous event; the new position shares its memory.
    ///
    /// # Errors
    /// [`FrameError`], but never for an envelope, because that is not decoded.
    pub fn decode(event: &Event, near: Option<&Position>) -> Result<Self, FrameError> {
        fn read<'a, T: Deserialize<'a>>(event: &'static str, data: &'a str) -> Result<T, FrameError> {
            // Serde alone would accept a list for an object.
            if !data.trim_start().starts_with('{') {
                return Err(FrameError { event, reason: "it is no JSON object".into() });
            }
            serde_json::from_str(data).map_err(|error| FrameError { event, reason: error.to_string() })
        }
        match event.kind() {
            "envelope" => Ok(Self::Envelope {
                position: Position::parse_near(event.last_event_id(), near).ok(),
                envelope: event.data_bytes(),
            }),
            "connected" => read("connected", event.data()).map(Self::Connected),
            "gap" => read("gap", event.data()).map(Self::Gap),
            "heartbeat" => {
                let Heartbeat { position, .. } = read("heartbeat", event.data())?;
                Ok(Self::Heartbeat { position })
            }
            "closing" => {
                let Closing { reason } = read("closing", event.data())?;
                Ok(Self::Closing(reason))
            }
            kind => Ok(Self::Other { kind: kind.to_owned() }),
        }
    }

    /// Appends a `connected` event.
    pub fn write_connected<B: BufMut + ?Sized>(out: &mut B, connected: &Connected) {
        write(out, "connected", None, connected);
    }

    /// Appends an `envelope` event. The text is not decoded; a line end in it starts another `data` line.
    pub fn write_envelope<B: BufMut + ?Sized>(out: &mut B, position: &Position, envelope: &str) {
        let id = position.to_string();
        // The type is fixed, and positions have no line ends.
        let _ = Encoder::new(out).event(Some("envelope"), Some(&id), envelope);
    }

    /// Appends a `gap` event.
    pub fn write_gap<B: BufMut + ?Sized>(out: &mut B, gap: &StreamGap) {
        write(out, "gap", Some(&gap.resumes_after), gap);
    }

    /// Appends a `heartbeat` event.
    pub fn write_heartbeat<B: BufMut + ?Sized>(out: &mut B, position: &Position, time: &Timestamp) {
        let time = Some(Cow::Borrowed(time.as_str()));
        write(out, "heartbeat", None, &Heartbeat { position: position.clone(), time });
    }

    /// Appends a `closing` event with the delay before the next connection.
    pub fn write_closing<B: BufMut + ?Sized>(out: &mut B, reason: &ClosingReason, retry: Duration) {
        Encoder::new(out).retry(retry);
        write(out, "closing", None, &Closing { reason: reason.clone() });
    }
}

fn write<B: BufMut + ?Sized>(out: &mut B, kind: &str, id: Option<&Position>, data: &impl Serialize) {
    let data = serde_json::to_string(data).unwrap_or_else(|_| Value::Null.to_string());
    let id = id.map(ToString::to_string);
    // The types are fixed, and positions have no line ends.
    let _ = Encoder::new(out).event(Some(kind), id.as_deref(), &data);
}

/// A JSON text unchanged, or null when it is not JSON.
pub(super) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Decoder, Frame};

    fn events(text: &[u8]) -> Vec<Event> {
        let mut decoder = Decoder::default();
        decoder.feed(text.to_vec());
        std::iter::from_fn(|| decoder.next_frame())
            .filter_map(|frame| if let Frame::Event(event) = frame { Some(event) } else { None })
            .collect()
    }

    #[test]
    fn frames_survive_the_wire() {
        let at = Position::new("Xy", 7);
        let mut out = Vec::new();
        let connected = Connected::new("public:a.b", 7, at.clone(), "c1", Duration::from_millis(1500));
        StreamFrame::write_connected(&mut out, &connected);
        StreamFrame::write_envelope(&mut out, &at.at(8), "{\"payload\":\n1}");
        let gap = StreamGap::new(GapReason::Trimmed, at.at(9)).requested(Some("Xy.1".into())).missed(Some(8));
        StreamFrame::write_gap(&mut out, &gap);
        StreamFrame::write_heartbeat(&mut out, &at.at(9), &Timestamp::new("2026-05-27T14:22:09Z"));
        StreamFrame::write_closing(&mut out, &ClosingReason::Lifetime, Duration::from_millis(250));
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(text.starts_with("event: connected\ndata: {\"protocol\":1,\"channel\":\"public:a.b\",\"epoch\":\"Xy\",\"head\":7,\"resumes_after\":\"Xy.7\",\"client_id\":\"c1\",\"heartbeat_seconds\":1.5}\n\n"), "{text}");
        assert!(text.contains("event: envelope\nid: Xy.8\ndata: {\"payload\":\ndata: 1}\n\n"), "{text}");
        assert!(text.contains("event: gap\nid: Xy.9\ndata: {\"reason\":\"trimmed\",\"requested\":\"Xy.1\",\"resumes_after\":\"Xy.9\",\"missed\":8}\n\n"), "{text}");
        assert!(text.ends_with("retry: 250\nevent: closing\ndata: {\"reason\":\"lifetime\"}\n\n"), "{text}");
        let read: Vec<_> =
            events(&out).iter().map(|event| StreamFrame::decode(event, Some(&at)).unwrap()).collect();
        assert_eq!(
            read,
            [
                StreamFrame::Connected(connected),
                StreamFrame::Envelope { position: Some(at.at(8)), envelope: "{\"payload\":\n1}".into() },
                StreamFrame::Gap(gap),
                StreamFrame::Heartbeat { position: at.at(9) },
                StreamFrame::Closing(ClosingReason::Lifetime),
            ]
        );
    }

    #[test]
    fn other_versions_and_other_servers() {
        let stream = concat!(
            "event: gap\ndata: {\"reason\":\"tired\",\"resumes_after\":\"a.1\",\"x\":1}\n\n",
            "event: connected\ndata: {\"resumes_after\":\"a.1\"}\n\n",
            "event: envelope\ndata: x\n\n",
            "event: envelope\nid: not ours\ndata: x\n\n",
            "event: weather\ndata: x\n\n",
            "event: gap\ndata: {\"reason\":\"trimmed\",\"resumes_after\":\"a\"}\n\n",
            "event: heartbeat\ndata: []\n\n",
        );
        let read: Vec<_> = events(stream.as_bytes()).iter().map(|e| StreamFrame::decode(e, None)).collect();
        assert!(
            matches!(&read[0], Ok(StreamFrame::Gap(gap)) if gap.reason == GapReason::Other("tired".into()))
        );
        assert!(
            matches!(&read[1], Ok(StreamFrame::Connected(c)) if c.heartbeat() == Some(Duration::from_secs(15)))
        );
        for at in [2, 3] {
            assert!(matches!(&read[at], Ok(StreamFrame::Envelope { position: None, .. })));
        }
        assert_eq!(read[4], Ok(StreamFrame::Other { kind: "weather".into() }));
        assert!(read[5].as_ref().unwrap_err().to_string().starts_with("event \"gap\" cannot be read"));
        assert!(read[6].is_err());
        let legacy = LegacyFrame::decode(r#"{"channel":"public:a.b","data":"{\"sequence\":1}","offset":4}"#);
        assert_eq!(legacy.map(|l| (l.offset, l.envelope)), Some((4, "{\"sequence\":1}".into())));
        assert_eq!(LegacyFrame::decode("{\"sequence\":1}"), None);
    }
}
