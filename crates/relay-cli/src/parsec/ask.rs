//! `relay parsec history` and `relay parsec presence`.

use clap::Args as ClapArgs;
use relay_parsec::{Client, HistoryOptions};
use relay_proto::parsec::PayloadRef;
use serde_json::{Value, json};

use super::reach::{Reach, Who};
use crate::args::{PrintLines, whole};
use crate::exit::{Exit, signalled};
use crate::output::{Column, Output, Row, Text, counted};

#[derive(Debug, ClapArgs)]
pub(super) struct HistoryArgs {
    /// The channel
    channel: String,
    /// Envelopes at most, the newest that match. Default: the server's, 100
    #[arg(long, value_name = "N", value_parser = whole::<u32>(1..=1000))]
    limit: Option<u32>,
    /// Only sequences above this
    #[arg(long, value_name = "N", value_parser = whole::<i64>(0..=i64::MAX.unsigned_abs()))]
    since: Option<i64>,
    /// Only sequences up to this
    #[arg(long, value_name = "N", value_parser = whole::<i64>(0..=i64::MAX.unsigned_abs()))]
    until: Option<i64>,
    /// Only envelopes of this producer
    #[arg(long, value_name = "ID")]
    producer: Option<String>,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PresenceArgs {
    /// The channel
    channel: String,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

/// The columns of `relay parsec history`.
const HISTORY: &[Column] = &[
    Column::new("TIME").timed().least(24).dispensable(2),
    Column::new("POSITION").least(18).dispensable(3),
    Column::name("PRODUCER").least(16),
    Column::new("SEQUENCE").right(),
    Column::name("ASPECT").least(12).dispensable(1),
    Column::sentence("PAYLOAD"),
];

/// The columns of `relay parsec presence`.
const PRESENCE: &[Column] = &[Column::name("CLIENT").least(36), Column::name("USER").least(24)];

pub(super) async fn history(args: HistoryArgs) -> anyhow::Result<Exit> {
    let client = Client::builder_boxed(args.reach.transport(&Who::default(), 1, false).await?).build()?;
    let mut options = HistoryOptions::default();
    options.limit = args.limit;
    options.since = args.since;
    options.until = args.until;
    options.producer.clone_from(&args.producer);
    let items = tokio::select! {
        exit = signalled() => return Ok(exit),
        items = client.history(&args.channel, &options) => items?,
    };
    let mut output = Output::new(args.print);
    output.table(HISTORY);
    let channel = Value::from(args.channel.as_str());
    for item in items {
        let place = item.position.as_ref().map(ToString::to_string);
        match &item.envelope {
            Ok(envelope) => output.written_row(
                || {
                    format!(
                        "{{\"event\":\"envelope\",\"channel\":{channel},\"position\":{},\"envelope\":{}}}",
                        json!(place),
                        envelope.to_json()
                    )
                },
                || {
                    vec![
                        envelope.produced_at_text().unwrap_or_default().into(),
                        shown(place.as_ref()).into(),
                        envelope.producer().id().into(),
                        format!("#{}", envelope.sequence()).into(),
                        envelope.aspect().into(),
                        envelope.payload().map_or("-", PayloadRef::as_str).into(),
                    ]
                },
            )?,
            Err(error) => output.row(
                String::new,
                || {
                    json!({
                        "event": "undecodable", "channel": channel, "position": place, "bytes": item.bytes,
                        "error": error.to_string(),
                    })
                },
                || Row::Sentence {
                    first: vec![Text::default(), shown(place.as_ref()).into()],
                    text: format!("unreadable, {}: {error}", counted(item.bytes as u64, "byte")).into(),
                },
            )?,
        }
    }
    client.close().await;
    Ok(Exit::Done)
}

fn shown(place: Option<&String>) -> &str {
    place.map_or("-", String::as_str)
}

pub(super) async fn presence(args: PresenceArgs) -> anyhow::Result<Exit> {
    let client = Client::builder_boxed(args.reach.transport(&Who::default(), 1, false).await?).build()?;
    let presence = tokio::select! {
        exit = signalled() => return Ok(exit),
        presence = client.presence(&args.channel) => presence?,
    };
    let mut output = Output::new(args.print);
    output.table(PRESENCE);
    if !presence.named {
        let count = presence.subscribers;
        output.line(|| json!({ "subscribers": count }), || counted(count, "subscriber"))?;
    }
    for entry in &presence.entries {
        output.written_row(
            || serde_json::to_string(entry).unwrap_or_default(),
            || vec![Text::from(entry.client_id.as_str()), Text::from(entry.user_id.as_str())],
        )?;
    }
    client.close().await;
    Ok(Exit::Done)
}
