//! The items of a subscription as texts that a test can compare.

use std::time::Duration;

use futures_util::StreamExt;
use relay_parsec::{Error, ErrorKind, Item, Items};
use relay_proto::parsec::Position;

/// The longest time that a test waits for one thing.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The offset of a position, or `-`.
fn place(position: Option<&Position>) -> String {
    position.map_or_else(|| "-".to_owned(), |position| position.offset().to_string())
}

/// An item as a short text, with positions as offsets.
pub(crate) fn brief(item: &Item) -> String {
    match item {
        Item::Subscribed { resumed: true, .. } => "resumed".to_owned(),
        Item::Subscribed { .. } => "subscribed".to_owned(),
        Item::Envelope(delivered) => {
            let envelope = &delivered.envelope;
            let warned = if delivered.warning.is_some() { " warned" } else { "" };
            format!(
                "{}{}@{}{warned}",
                envelope.producer().id(),
                envelope.sequence(),
                place(delivered.position.as_ref())
            )
        }
        Item::Gap(gap) => {
            let missing = gap.missing.map_or_else(|| "?".to_owned(), |count| count.to_string());
            let of = match (&gap.producer, gap.from, gap.to) {
                (Some(id), Some(from), Some(to)) => format!(" of {id} {from}-{to}"),
                _ => String::new(),
            };
            format!("gap {} {missing}{of}", gap.cause)
        }
        Item::Duplicate { producer, sequence, high_water, .. } => {
            format!("duplicate {producer}{sequence}<={high_water}")
        }
        Item::Undecodable { position, error, .. } => {
            format!("undecodable@{}: {error}", place(position.as_ref()))
        }
        Item::Rejected { rejection, producer, sequence, .. } => {
            format!("rejected {producer}{sequence} {}", rejection.code())
        }
        Item::Lag { dropped, .. } => format!("lag {dropped}"),
        _ => "unknown".to_owned(),
    }
}

/// The end of a subscription as a short text.
pub(crate) fn ending(error: &Error) -> String {
    let kind = match error.kind() {
        ErrorKind::Denied => "denied",
        ErrorKind::NotFound => "not found",
        ErrorKind::Finished => "finished",
        _ => "failed",
    };
    format!("ended {kind}: {}", relay_proto::error::chain(error))
}

/// The next item; `over` at the end.
pub(crate) async fn next(items: &mut Items) -> String {
    match tokio::time::timeout(LIMIT, items.next()).await.expect("something comes") {
        Some(Ok(item)) => brief(&item),
        Some(Err(error)) => ending(&error),
        None => "over".to_owned(),
    }
}

/// All items up to the first one whose text begins like this.
pub(crate) async fn until(items: &mut Items, last: &str) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let item = next(items).await;
        let done = item.starts_with(last);
        assert!(done || item != "over", "{last} does not come: {seen:?}");
        seen.push(item);
        if done {
            return seen;
        }
    }
}

/// All items up to the end.
pub(crate) async fn all(items: &mut Items) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let item = next(items).await;
        if item == "over" {
            return seen;
        }
        seen.push(item);
    }
}
