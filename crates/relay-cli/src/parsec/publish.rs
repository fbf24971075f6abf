//! `relay parsec publish`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args as ClapArgs, ValueEnum};
use relay_parsec::{Client, Error, ErrorKind, FileSnapshotter, Outgoing, Sent};
use relay_proto::error::chain;
use relay_proto::parsec::{Causation, EnvelopeError, Payload, Producer, ProducerKind};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};

use super::reach::{Reach, Schemas, Who};
use crate::args::{PrintLines, positive_duration};
use crate::exit::{Exit, signalled};
use crate::output::Output;

#[derive(Debug, ClapArgs)]
pub(super) struct PublishArgs {
    /// The channel: public:NAME.NAME or private:NAME.NAME.NAME, four names at most
    channel: String,
    /// What the envelopes are about; needed unless --envelopes
    #[arg(long, value_name = "ASPECT", required_unless_present = "envelopes")]
    aspect: Option<String>,
    /// Id of the producer: its numbers are its own, so no two programs share one
    #[arg(long, value_name = "ID", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    producer: String,
    /// Kind of the producer
    #[arg(long, default_value = "service", value_name = "KIND")]
    kind: KindArg,
    /// Publish this payload, and nothing of stdin
    #[arg(long, value_name = "JSON", allow_hyphen_values = true, conflicts_with = "envelopes")]
    payload: Option<String>,
    /// Lines of stdin are {"aspect"?,"payload"?,"schema_ref"?,"causation"?}, and take precedence over the flags
    #[arg(long)]
    envelopes: bool,
    /// Reference to a schema, which nothing resolves
    #[arg(long, value_name = "REFERENCE", default_value = "", hide_default_value = true)]
    schema_ref: String,
    /// The envelope that led to these
    #[arg(long, value_name = "CHANNEL/SEQUENCE", value_parser = parent)]
    parent: Option<Causation>,
    /// File that keeps the last number of each channel: no number is used twice, whatever happens
    #[arg(long, value_name = "FILE")]
    sequence_file: Option<PathBuf>,
    #[command(flatten)]
    schemas: Schemas,
    /// How long one envelope is tried
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = positive_duration)]
    publish_timeout: Duration,
    /// When a line cannot be published, print a failed event on stdout and go on with the next line
    #[arg(long)]
    keep_going: bool,
    /// Open the channel first: websocket only
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// A person
    User,
    /// A program that acts for itself
    Agent,
    /// Any other program
    Service,
}

impl From<KindArg> for ProducerKind {
    fn from(kind: KindArg) -> Self {
        match kind {
            KindArg::User => Self::User,
            KindArg::Agent => Self::Agent,
            KindArg::Service => Self::Service,
        }
    }
}

fn parent(text: &str) -> Result<Causation, String> {
    let rule = || "CHANNEL/SEQUENCE, the sequence a whole number from 1".to_owned();
    let (channel, sequence) = text.rsplit_once('/').ok_or_else(rule)?;
    let sequence = sequence.parse().ok().filter(|sequence| *sequence > 0).ok_or_else(rule)?;
    if channel.is_empty() { Err(rule()) } else { Ok(Causation::new(channel, sequence)) }
}

/// The longest line that is read. A longer line is not an envelope, and is skipped.
const LONGEST: u64 = 1 << 20;

/// The reason why a line is not published.
struct Failure {
    code: String,
    text: String,
    error: Option<Box<Error>>,
}

impl Failure {
    fn new(code: &str, text: impl Into<String>) -> Self {
        Self { code: code.to_owned(), text: text.into(), error: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let text = chain(&error).to_string();
        Self { code: error.code().to_owned(), text, error: Some(Box::new(error)) }
    }
}

pub(super) async fn publish(args: PublishArgs) -> anyhow::Result<Exit> {
    let transport = args.reach.transport(&Who::default(), 1, args.open).await?;
    let (base, cap) = args.reach.backoff();
    let mut client = Client::builder_boxed(transport)
        .producer(Producer::new(args.producer.as_str(), args.kind.into()))
        .validator(args.schemas.validator()?)
        .publish_timeout(args.publish_timeout)
        .backoff(base, cap);
    if let Some(path) = &args.sequence_file {
        client = client.snapshotter(FileSnapshotter::open(path).map_err(Error::from)?);
    }
    let client = client.build()?;
    let signalled = signalled();
    tokio::select! {
        exit = signalled => Ok(exit),
        result = publish_all(&client, &args) => {
            client.close().await;
            result
        }
    }
}

async fn publish_all(client: &Client, args: &PublishArgs) -> anyhow::Result<Exit> {
    let mut output = Output::new(args.print);
    if let Some(payload) = &args.payload {
        let outgoing = outgoing(args, payload);
        return match publish_one(client, args, outgoing, &mut output).await? {
            Ok(()) => Ok(Exit::Done),
            Err(failure) => Err(gave_up(failure, "--payload")),
        };
    }
    let mut input = BufReader::with_capacity(64 << 10, tokio::io::stdin());
    let (mut line, mut number, mut failed) = (Vec::new(), 0_u64, false);
    loop {
        number += 1;
        let Some(length) = next_line(&mut input, &mut line).await.context("stdin")? else { break };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let outgoing = read_line(args, &line, length);
        let Err(failure) = publish_one(client, args, outgoing, &mut output).await? else { continue };
        let kind = failure.error.as_deref().map(Error::kind);
        let last_word = matches!(kind, Some(ErrorKind::Denied | ErrorKind::NotFound));
        if last_word || !args.keep_going {
            return Err(gave_up(failure, &format!("line {number}")));
        }
        failed = true;
        output.line(
            || json!({"event": "failed", "line": number, "code": failure.code, "error": failure.text}),
            || format!("line {number} failed: {}", failure.text),
        )?;
    }
    if failed { Err(anyhow::anyhow!("not every line was published")) } else { Ok(Exit::Done) }
}

/// The error of a failure, with its place and its exit code.
fn gave_up(failure: Failure, place: &str) -> anyhow::Error {
    match failure.error {
        Some(error) => anyhow::Error::new(*error).context(place.to_owned()),
        None => anyhow::anyhow!("{place}: {}", failure.text),
    }
}

async fn publish_one(
    client: &Client,
    args: &PublishArgs,
    outgoing: Result<Outgoing, Failure>,
    output: &mut Output,
) -> anyhow::Result<Result<(), Failure>> {
    let sent = match outgoing {
        Ok(outgoing) => client.publish(&args.channel, outgoing).await,
        Err(failure) => return Ok(Err(failure)),
    };
    let Sent { envelope, position, duplicate, .. } = match sent {
        Ok(sent) => sent,
        // Without its numbers, the publisher cannot continue at all.
        Err(error @ Error::Snapshot(_)) => return Err(error.into()),
        Err(error) => return Ok(Err(error.into())),
    };
    let position = position.map(|position| position.to_string());
    // The position is printed completely, because people copy it.
    output.answer(
        || {
            json!({
                "event": "published",
                "channel": args.channel,
                "sequence": envelope.sequence(),
                "position": position,
                "duplicate": duplicate,
                "produced_at": envelope.produced_at_text(),
            })
        },
        || {
            let place = position.as_deref().unwrap_or("-");
            let again = if duplicate { " (had been taken before)" } else { "" };
            format!("published #{} at {place}{again}", envelope.sequence())
        },
    )?;
    Ok(Ok(()))
}

/// Reads a line without its end. Returns its length, which may be more than what is kept; `None` at the end of the
/// input.
async fn next_line(input: &mut BufReader<Stdin>, line: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
    line.clear();
    let mut length = (&mut *input).take(LONGEST + 1).read_until(b'\n', line).await? as u64;
    if length == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        return Ok(Some(length - 1));
    }
    // The rest of a line that is too long is counted and dropped.
    while length > LONGEST {
        let chunk = input.fill_buf().await?;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(chunk.len(), |end| end + 1);
        length += end.map_or(chunk.len(), |end| end) as u64;
        input.consume(taken);
        if end.is_some() || taken == 0 {
            break;
        }
    }
    Ok(Some(length))
}

fn read_line(args: &PublishArgs, line: &[u8], length: u64) -> Result<Outgoing, Failure> {
    if length > LONGEST {
        let limit = relay_proto::parsec::MAX_ENVELOPE_BYTES;
        let text = format!("the line of {length} bytes exceeds MaxEnvelopeSize, {limit} bytes");
        return Err(Failure::new("envelope-too-large", text));
    }
    let text = std::str::from_utf8(line).map_err(|error| {
        Failure::new("not-json", format!("not JSON: not UTF-8 from column {} on", error.valid_up_to() + 1))
    })?;
    if args.envelopes { envelope(args, text) } else { outgoing(args, text) }
}

fn outgoing(args: &PublishArgs, payload: &str) -> Result<Outgoing, Failure> {
    let payload = Payload::parse(payload).map_err(|error| Failure::new("not-json", error.to_string()))?;
    let aspect = args.aspect.clone().unwrap_or_default();
    if aspect.is_empty() {
        return Err(Error::from(EnvelopeError::AspectRequired).into());
    }
    Ok(Outgoing::new(aspect)
        .payload(payload)
        .schema_ref(args.schema_ref.as_str())
        .causation(args.parent.clone().unwrap_or_default()))
}

/// A line of `--envelopes`: its members take precedence over the flags, and unknown members are ignored.
fn envelope(args: &PublishArgs, text: &str) -> Result<Outgoing, Failure> {
    Payload::parse(text).map_err(|error| Failure::new("not-json", error.to_string()))?;
    let wrong = |field: &str, rule: &str| Failure::new("bad-envelope", format!("{field} is not {rule}"));
    let line: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(text).map_err(|_| wrong("the line", "a JSON object"))?;
    // A member that is null counts as absent, as in an envelope; but a null payload is a payload.
    let member = |name: &str| line.get(name).map(|value| value.get()).filter(|value| *value != "null");
    let words = |name: &str| -> Result<Option<String>, Failure> {
        member(name).map(|value| serde_json::from_str(value).map_err(|_| wrong(name, "a text"))).transpose()
    };
    let aspect = words("aspect")?.or_else(|| args.aspect.clone()).unwrap_or_default();
    if aspect.is_empty() {
        return Err(Error::from(EnvelopeError::AspectRequired).into());
    }
    let payload = line.get("payload").map(|payload| Payload::parse(payload.get())).transpose();
    let payload = payload.map_err(|error| Failure::new("not-json", error.to_string()))?;
    let parent = match member("causation") {
        Some(text) => Some(causation(text).map_err(|field| match field {
            "causation" => wrong(field, "an object"),
            "causation.parent_channel" => wrong(field, "a text"),
            _ => wrong(field, "a whole number from 0 to 2^63 - 1"),
        })?),
        None => args.parent.clone(),
    };
    Ok(Outgoing::new(aspect)
        .payload(payload)
        .schema_ref(words("schema_ref")?.unwrap_or_else(|| args.schema_ref.clone()))
        .causation(parent.unwrap_or_default()))
}

/// Reads a causation, or names the invalid member.
fn causation(text: &str) -> Result<Causation, &'static str> {
    let parts: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| "causation")?;
    let channel = match parts.get("parent_channel") {
        None | Some(Value::Null) => "",
        Some(value) => value.as_str().ok_or("causation.parent_channel")?,
    };
    let sequence = match parts.get("parent_sequence") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().filter(|number| *number >= 0).ok_or("causation.parent_sequence")?,
    };
    Ok(Causation::new(channel, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_a_channel_and_a_sequence() {
        assert_eq!(parent("public:a.b/7"), Ok(Causation::new("public:a.b", 7)));
        for bad in ["", "public:a.b", "public:a.b/", "public:a.b/0", "public:a.b/-1", "/7", "x/1.5"] {
            assert!(parent(bad).is_err(), "{bad}");
        }
    }
}
