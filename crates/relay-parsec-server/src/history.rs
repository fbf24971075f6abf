//! Pages of a channel's history.

use std::collections::VecDeque;

use relay_log::{Entry, Limit, Page};
use relay_proto::parsec::{Envelope, HistoryEntry, HistoryPage};
use relay_transport::server::Refusal;

use crate::channel::Channel;
use crate::channel::unavailable;

/// The requested part.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) limit: usize,
    pub(crate) since: i64,
    pub(crate) until: i64,
    pub(crate) producer: Option<String>,
}

impl Asked {
    fn takes(&self, entry: &Entry) -> bool {
        if self.since == 0 && self.until == 0 && self.producer.is_none() {
            return true;
        }
        let Ok(envelope) = Envelope::decode(entry.body.clone()) else { return false };
        let sequence = envelope.sequence();
        (self.since == 0 || sequence > self.since)
            && (self.until == 0 || sequence <= self.until)
            && self.producer.as_ref().is_none_or(|producer| *producer == *envelope.producer().id())
    }
}

/// The newest envelopes that match, oldest first.
///
/// # Errors
/// 503 when the log cannot be read.
pub(crate) async fn page(channel: &Channel, asked: &Asked) -> Result<HistoryPage, Refusal> {
    let bounds = channel.log.bounds();
    let mut after = bounds.base;
    let mut newest: VecDeque<HistoryEntry> = VecDeque::new();
    while after < bounds.head {
        let entries = match channel.log.read(after, Limit::default()).await {
            Ok(Page::Entries(entries)) => entries,
            // Trimmed while it was being read: what is left begins later.
            Ok(_) => {
                after = channel.log.bounds().base.max(after + 1);
                newest.clear();
                continue;
            }
            Err(error) => return Err(unavailable(&error)),
        };
        let Some(last) = entries.last() else { break };
        after = last.position;
        for entry in entries.iter().take_while(|entry| entry.position <= bounds.head) {
            if asked.takes(entry)
                && let Ok(text) = std::str::from_utf8(&entry.body)
            {
                if newest.len() == asked.limit {
                    newest.pop_front();
                }
                newest.push_back(HistoryEntry::new(channel.at(entry.position), text));
            }
        }
    }
    let oldest = (bounds.entries() > 0).then_some(bounds.base + 1);
    Ok(HistoryPage::new(&channel.name, &channel.at(bounds.head), oldest, newest.into()))
}
