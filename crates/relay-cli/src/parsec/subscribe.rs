//! `relay parsec subscribe`.

use clap::Args as ClapArgs;
use futures_util::StreamExt;
use futures_util::stream::{self, SelectAll};
use relay_parsec::{Client, Error, ErrorKind, Gap, Item, SubscribeOptions};
use relay_proto::error::chain;
use relay_proto::parsec::{PayloadRef, Position};
use serde_json::{Value, json};

use super::reach::{Reach, Schemas, Who};
use crate::args::{PrintLines, Until, whole};
use crate::exit::{Exit, signalled};
use crate::output::Output;

#[derive(Debug, ClapArgs)]
pub(super) struct SubscribeArgs {
    /// The channels; one that is given twice is two subscriptions
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// Only envelopes of this aspect; repeat for alternatives
    #[arg(long = "aspect", value_name = "ASPECT")]
    aspects: Vec<String>,
    /// Begin with the oldest that is retained
    #[arg(long, conflicts_with_all = ["from_sequence", "after"])]
    from_start: bool,
    /// Begin with the oldest that is retained, and print what has a greater sequence
    #[arg(long, value_name = "N", conflicts_with = "after", value_parser = whole::<i64>(0..=i64::MAX.unsigned_abs()))]
    from_sequence: Option<i64>,
    /// Begin after this position
    #[arg(long, value_name = "POSITION", allow_hyphen_values = true)]
    after: Option<Position>,
    #[command(flatten)]
    schemas: Schemas,
    /// How often a subscribe that fails with error 100 is tried in a row: websocket only
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = whole::<u32>(1..=u32::MAX.into()))]
    subscribe_tries: u32,
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    until: Until,
    #[command(flatten)]
    print: PrintLines,
}

/// An item of a subscription for the common loop.
enum Said {
    Item(Box<Item>),
    Failed(Error),
    Over,
}

pub(super) async fn subscribe(args: SubscribeArgs) -> anyhow::Result<Exit> {
    let transport = args.reach.transport(&args.who, args.subscribe_tries, false).await?;
    let client = Client::builder_boxed(transport).validator(args.schemas.validator()?).build()?;
    let signalled = signalled();
    let time = args.until.time;
    let mut connected = false;
    let ended = tokio::select! {
        exit = signalled => Ok(exit),
        () = async { match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        } } => {
            if connected { Ok(Exit::Done) } else { Err(anyhow::anyhow!("there was no connection within the time given")) }
        }
        result = follow(&client, &args, &mut connected) => result,
    };
    client.close().await;
    ended
}

async fn follow(client: &Client, args: &SubscribeArgs, connected: &mut bool) -> anyhow::Result<Exit> {
    let mut options = SubscribeOptions::default().from_start(args.from_start).after(args.after.clone());
    options.from_sequence = args.from_sequence;
    options.aspects.clone_from(&args.aspects);
    let mut all = SelectAll::new();
    for (index, channel) in args.channels.iter().enumerate() {
        let items = client.subscribe(channel, options.clone()).await?.items();
        let said = items.map(|item| match item {
            Ok(item) => Said::Item(Box::new(item)),
            Err(error) => Said::Failed(error),
        });
        all.push(said.chain(stream::once(async { Said::Over })).map(move |said| (index, said)).boxed());
    }
    let mut output = Output::new(args.print);
    let (mut envelopes, mut failures) = (0_u64, vec![false; args.channels.len()]);
    let mut first: Option<Error> = None;
    while let Some((index, said)) = all.next().await {
        let channel = &args.channels[index];
        match said {
            Said::Item(item) => {
                *connected |= matches!(*item, Item::Subscribed { .. });
                print(&mut output, index, channel, &item)?;
                if matches!(*item, Item::Envelope(_)) {
                    envelopes += 1;
                    if args.until.max.is_some_and(|max| envelopes >= max) {
                        return Ok(Exit::Done);
                    }
                }
            }
            Said::Failed(error) => {
                failures[index] = true;
                let (reason, code) = (chain(&error).to_string(), exit_code(&error));
                output.line(
                    || {
                        let (event, subscription) = ("ended", index);
                        json!({"event": event, "subscription": subscription, "channel": channel, "reason": reason, "code": code})
                    },
                    || format!("{channel}: ended: {reason}"),
                )?;
                if code != 0 && first.is_none() {
                    first = Some(error);
                }
            }
            Said::Over if !failures[index] => output.line(
                || json!({"event": "ended", "subscription": index, "channel": channel, "reason": "unsubscribed", "code": 0}),
                || format!("{channel}: ended"),
            )?,
            Said::Over => {}
        }
    }
    first.map_or(Ok(Exit::Done), |error| Err(error.into()))
}

fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Finished => 0,
        ErrorKind::NotFound => 3,
        ErrorKind::Denied => 4,
        _ => 1,
    }
}

fn print(output: &mut Output, index: usize, channel: &str, item: &Item) -> anyhow::Result<()> {
    if let Item::Envelope(delivered) = item {
        let place = delivered.position.as_ref().map(ToString::to_string);
        return output.written(
            || {
                let warning = delivered.warning.as_ref().map_or(String::new(), |warning| {
                    format!(",\"warning\":{}", Value::from(warning.reason()))
                });
                format!(
                    "{{\"event\":\"envelope\",\"subscription\":{index},\"channel\":{},\"position\":{},\"envelope\":{}{warning}}}",
                    Value::from(channel),
                    json!(place),
                    delivered.envelope.to_json()
                )
            },
            || {
                let envelope = &delivered.envelope;
                let payload = envelope.payload().map_or("-", PayloadRef::as_str);
                let warning = delivered.warning.as_ref().map_or(String::new(), |warning| {
                    format!(" (warning: {})", warning.reason())
                });
                format!(
                    "{channel} {} {} #{} {} {payload}{warning}",
                    place.as_deref().unwrap_or("-"),
                    envelope.producer().id(),
                    envelope.sequence(),
                    envelope.aspect()
                )
            },
        );
    }
    output.line(|| item_json(index, channel, item), || item_text(channel, item))
}

fn item_json(index: usize, channel: &str, item: &Item) -> Value {
    let mut line = match item {
        Item::Subscribed { position, resumed } => {
            json!({"event": "subscribed", "position": position, "resumed": resumed})
        }
        Item::Gap(Gap { producer, missing, from, to, cause, position, .. }) => json!({
            "event": "gap", "producer": producer, "missing": missing, "from": from, "to": to,
            "cause": cause.as_str(), "position": position,
        }),
        Item::Duplicate { producer, sequence, high_water, position } => json!({
            "event": "duplicate", "producer": producer, "sequence": sequence, "high_water": high_water,
            "position": position,
        }),
        Item::Undecodable { position, bytes, error } => json!({
            "event": "undecodable", "position": position, "bytes": bytes, "error": error.to_string(),
        }),
        Item::Rejected { position, producer, sequence, aspect, rejection } => json!({
            "event": "rejected", "position": position, "producer": producer, "sequence": sequence,
            "aspect": aspect, "code": rejection.code(), "reason": rejection.reason(),
        }),
        Item::Lag { dropped, .. } => json!({"event": "lag", "dropped": dropped}),
        _ => json!({"event": "unknown"}),
    };
    line["subscription"] = index.into();
    line["channel"] = channel.into();
    line
}

fn item_text(channel: &str, item: &Item) -> String {
    let place =
        |position: &Option<Position>| position.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    match item {
        Item::Subscribed { position, resumed } => {
            let how = if *resumed { "resumed" } else { "subscribed" };
            format!("{channel}: {how} after {}", place(position))
        }
        Item::Gap(gap) => {
            let count = gap.missing.map_or_else(|| "an unknown number".to_owned(), |count| count.to_string());
            let whose = match (&gap.producer, gap.from, gap.to) {
                (Some(producer), Some(from), Some(to)) => format!(" of {producer}, #{from} to #{to}"),
                _ => String::new(),
            };
            format!("{channel}: GAP: {count} missing{whose} ({}) before {}", gap.cause, place(&gap.position))
        }
        Item::Duplicate { producer, sequence, high_water, position } => {
            let place = place(position);
            format!("{channel}: duplicate #{sequence} of {producer} at {place}, which was at #{high_water}")
        }
        Item::Undecodable { position, bytes, error } => {
            format!("{channel}: unreadable at {}, {bytes} bytes: {error}", place(position))
        }
        Item::Rejected { position, producer, sequence, aspect, rejection } => {
            let (place, code, reason) = (place(position), rejection.code(), rejection.reason());
            format!("{channel}: rejected #{sequence} of {producer} ({aspect}) at {place}: {reason} ({code})")
        }
        Item::Lag { dropped, .. } => format!("{channel}: too slow, {dropped} dropped"),
        _ => format!("{channel}: something that this version does not know"),
    }
}
