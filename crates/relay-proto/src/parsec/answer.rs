//! Responses of a Parsec server to single requests.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Position;

/// The response to a publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Published {
    /// The position of the envelope.
    pub position: Position,
    /// The offset of the position.
    pub offset: u64,
    /// The epoch of the position.
    pub epoch: String,
    /// Whether the same envelope had been accepted before, so that an earlier response was lost.
    #[serde(default)]
    pub duplicate: bool,
}

impl Published {
    /// A receipt with a position.
    pub fn new(position: Position, duplicate: bool) -> Self {
        Self { offset: position.offset(), epoch: position.epoch().to_owned(), position, duplicate }
    }
}

/// A part of a channel's history, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The channel.
    pub channel: String,
    /// The epoch of its log.
    pub epoch: String,
    /// The newest offset, 0 when there is none.
    pub head: u64,
    /// The oldest retained offset; `None` when nothing is retained.
    #[serde(default)]
    pub oldest: Option<u64>,
    /// The requested envelopes.
    pub envelopes: Vec<HistoryEntry>,
}

impl HistoryPage {
    /// A page.
    pub fn new(channel: &str, head: &Position, oldest: Option<u64>, envelopes: Vec<HistoryEntry>) -> Self {
        Self { channel: channel.into(), epoch: head.epoch().into(), head: head.offset(), oldest, envelopes }
    }
}

/// An envelope of a history, not decoded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HistoryEntry {
    /// Its position; `None` when the server does not send it.
    #[serde(default)]
    pub position: Option<Position>,
    /// Its text.
    pub envelope: Box<RawValue>,
}

impl HistoryEntry {
    /// An envelope at a position.
    pub fn new(position: Position, envelope: &str) -> Self {
        Self { position: Some(position), envelope: super::frame::raw(envelope) }
    }
}

/// The subscribers of a channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PresenceList {
    /// The channel.
    pub channel: String,
    /// The number of subscribers.
    pub subscribers: u64,
    /// One per open stream, sorted by client id.
    pub entries: Vec<PresenceEntry>,
}

impl PresenceList {
    /// A list, which is sorted.
    pub fn new(channel: &str, mut entries: Vec<PresenceEntry>) -> Self {
        entries.sort_by(|a, b| (&a.client_id, &a.user_id).cmp(&(&b.client_id, &b.user_id)));
        Self { channel: channel.into(), subscribers: entries.len() as u64, entries }
    }
}

/// A subscriber.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PresenceEntry {
    /// The token's subject; `anonymous` without tokens.
    pub user_id: String,
    /// The name that the subscriber gave.
    pub client_id: String,
    /// Other information that the subscriber gave: any JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_info: Option<Box<RawValue>>,
}

impl PresenceEntry {
    /// An entry; `conn_info` that is not JSON becomes null.
    pub fn new(user_id: &str, client_id: &str, conn_info: Option<&str>) -> Self {
        Self {
            user_id: user_id.into(),
            client_id: client_id.into(),
            conn_info: conn_info.map(super::frame::raw),
        }
    }
}

/// The channels of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChannelList {
    /// Sorted by name; only those that the token may read.
    pub channels: Vec<ChannelInfo>,
}

impl ChannelList {
    /// A list, which is sorted.
    pub fn new(mut channels: Vec<ChannelInfo>) -> Self {
        channels.sort_by(|a, b| a.channel.cmp(&b.channel));
        Self { channels }
    }
}

/// The status of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "servers make it")]
pub struct ChannelInfo {
    /// Its name.
    pub channel: String,
    /// The epoch of its log.
    pub epoch: String,
    /// The newest offset, 0 when there is none.
    pub head: u64,
    /// The number of retained envelopes.
    pub retained: u64,
    /// The number of open streams.
    pub subscribers: u64,
}

/// The status of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "servers make it")]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// The number of channels.
    pub channels: u64,
    /// The number of open streams.
    pub subscribers: u64,
    /// The size of the retained envelopes, in bytes.
    pub retained_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_written_as_documented() {
        let published = Published::new(Position::new("Xy", 3), false);
        assert_eq!(
            serde_json::to_string(&published).unwrap(),
            r#"{"position":"Xy.3","offset":3,"epoch":"Xy","duplicate":false}"#
        );
        let entry = HistoryEntry::new(Position::new("Xy", 3), r#"{"payload":1.50}"#);
        let page = HistoryPage::new("public:a.b", &Position::new("Xy", 3), Some(1), vec![entry]);
        assert_eq!(
            serde_json::to_string(&page).unwrap(),
            r#"{"channel":"public:a.b","epoch":"Xy","head":3,"oldest":1,"envelopes":[{"position":"Xy.3","envelope":{"payload":1.50}}]}"#
        );
        let entries = vec![PresenceEntry::new("u", "b", Some("[1]")), PresenceEntry::new("u", "a", None)];
        assert_eq!(
            serde_json::to_string(&PresenceList::new("public:a.b", entries)).unwrap(),
            r#"{"channel":"public:a.b","subscribers":2,"entries":[{"user_id":"u","client_id":"a"},{"user_id":"u","client_id":"b","conn_info":[1]}]}"#
        );
    }
}
