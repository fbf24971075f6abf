//! `relay parsec history` and `relay parsec presence`.

use clap::Args as ClapArgs;
use relay_parsec::{Client, HistoryOptions};
use relay_proto::parsec::PayloadRef;
use serde_json::{Value, json};

use super::reach::{Reach, Who};
use crate::args::PrintLines;
use crate::exit::{Exit, signalled};
use crate::output::Output;

#[derive(Debug, ClapArgs)]
pub(super) struct HistoryArgs {
    /// The channel
    channel: String,
    /// Envelopes at most, the newest that match. Default: the server's, 100
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: Option<u32>,
    /// Only sequences above this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    since: Option<i64>,
    /// Only sequences up to this
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
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
    let channel = Value::from(args.channel.as_str());
    for item in items {
        let place = item.position.as_ref().map(ToString::to_string);
        match &item.envelope {
            Ok(envelope) => output.written(
                || {
                    format!(
                        "{{\"event\":\"envelope\",\"channel\":{channel},\"position\":{},\"envelope\":{}}}",
                        json!(place),
                        envelope.to_json()
                    )
                },
                || {
                    let (producer, payload) = (envelope.producer().id(), envelope.payload());
                    let payload = payload.map_or("-", PayloadRef::as_str);
                    let place = shown(place.as_ref());
                    format!("{place} {producer} #{} {} {payload}", envelope.sequence(), envelope.aspect())
                },
            )?,
            Err(error) => output.line(
                || {
                    json!({
                        "event": "undecodable", "channel": channel, "position": place, "bytes": item.bytes,
                        "error": error.to_string(),
                    })
                },
                || format!("{} unreadable, {} bytes: {error}", shown(place.as_ref()), item.bytes),
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
    if !presence.named {
        let count = presence.subscribers;
        output.line(|| json!({ "subscribers": count }), || format!("{count} subscribers"))?;
    }
    for entry in &presence.entries {
        output.written(
            || serde_json::to_string(entry).unwrap_or_default(),
            || format!("{:<24} {}", entry.client_id, entry.user_id),
        )?;
    }
    client.close().await;
    Ok(Exit::Done)
}
