//! `relay durable produce`: lines in, each once and in order.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::Args as ClapArgs;
use relay_durable::{
    CreateOptions, DurableStream, IdempotentProducer, Notice, Offset, ProducerConfig, ProducerOptions,
    ProducerState, is_json,
};
use serde_json::json;

use super::digest::InputDigest;
use super::input::{self, Framer, Framing, Message};
use super::notes::{Notes, note};
use super::out::size;
use super::reach::Reach;
use super::state::{Content, StateFile};
use crate::args::{PrintLines, duration, size as parse_size, whole};
use crate::exit::{Exit, OutcomeUnknown, Usage, signalled};
use crate::output::{Output, counted};

mod replay;

#[derive(Debug, ClapArgs)]
pub(super) struct ProduceArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    /// File with the messages. Default: stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where a message ends
    #[arg(long, default_value = "lines", value_name = "FRAMING")]
    framing: Framing,
    /// Make the stream first; one of the same type is fine
    #[arg(long)]
    create: bool,
    /// The stream's type. Default: asked of the server
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Close the stream at the end
    #[arg(long)]
    close: bool,
    /// Name of the producer. Default: a random one, or that of the state file
    #[arg(long, value_name = "ID")]
    producer_id: Option<String>,
    /// Epoch of the producer. Default: 0, or that of the state file
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..1 << 53))]
    epoch: Option<u64>,
    /// When the name was used before, take it over with a higher epoch; at the start only
    #[arg(long)]
    auto_claim: bool,
    /// Largest batch
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = parse_size)]
    max_batch_bytes: u64,
    /// Most messages in a batch
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = whole::<u64>(0..))]
    max_batch_items: u64,
    /// How long a batch waits for more messages
    #[arg(long, default_value = "5ms", value_name = "DURATION", value_parser = duration)]
    linger: Duration,
    /// Batches that are sent before the first is answered: 1 to 32
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = whole::<u64>(1..=32))]
    in_flight: u64,
    /// Bytes that are read and not yet acknowledged, at most; then the input is not read
    #[arg(long, default_value = "8MiB", value_name = "SIZE", value_parser = parse_size)]
    max_buffer: u64,
    /// File that keeps what is acknowledged and what is on its way, so that the same input can be given again
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Continue with the next epoch, after a gap or when the producer was fenced
    #[arg(long, requires = "state")]
    new_epoch: bool,
    /// With --new-epoch: also send again batches of which it is unknown whether the server took them
    #[arg(long)]
    retry_unsafe: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

/// After a signal, the input that was read is delivered within this time.
const GRACE: Duration = Duration::from_secs(5);

/// Counts of the acknowledged messages.
struct Tally {
    out: Output,
    messages: u64,
    bytes: u64,
    batches: u64,
    duplicates: u64,
    input_bytes: u64,
    offset: Option<Offset>,
    closed: bool,
}

/// The tally, which the producer's events update.
#[derive(Clone)]
struct Told(Arc<Mutex<Tally>>, Notes);

pub(super) async fn produce(args: ProduceArgs) -> anyhow::Result<Exit> {
    let told = Told::new(&args);
    let ended = run(args, &told).await;
    told.end(&ended);
    ended
}

async fn run(args: ProduceArgs, told: &Told) -> anyhow::Result<Exit> {
    let stream = args.reach.stream(&args.stream, args.reach.endless(), &told.1).await?;
    let opened = args.state.as_deref().map(|path| StateFile::open(path, stream.url())).transpose()?;
    let (file, known) = opened.map_or((None, None), |(file, known)| (Some(file), known));
    let id = producer_id(&args, known.as_ref())?;
    let resume = resume(&args, known.as_ref(), &stream)?;
    let (base, cap) = args.reach.retry();
    let config = ProducerConfig::default()
        .epoch(args.epoch.unwrap_or(0))
        .auto_claim(args.auto_claim || args.new_epoch)
        .max_batch_bytes(size("--max-batch-bytes", args.max_batch_bytes)?)
        .max_batch_items(size("--max-batch-items", args.max_batch_items)?)
        .linger(args.linger)
        .in_flight(size("--in-flight", args.in_flight)?)
        .max_buffer(size("--max-buffer", args.max_buffer)?)
        .retry_base(base)
        .retry_cap(cap)
        .retry_for(args.reach.endless());
    let config = match &resume {
        Some(state) => config.epoch(state.epoch),
        None => config,
    };
    let mut options = ProducerOptions::new(id.as_str()).config(config);
    // Before any request.
    options.check()?;
    let mut signalled = Box::pin(signalled());
    let digest = InputDigest::default();
    let mut chunks = input::read(args.file.as_deref())?;
    // The input is compared with that of the last run before any request is made.
    let skipping = replay::skip(&mut chunks, &digest, known.as_ref(), args.framing);
    let skipped = tokio::select! {
        skipped = skipping => skipped?,
        exit = &mut signalled => return Ok(exit),
    };
    let kind = tokio::select! {
        kind = content_type(&args, &stream) => kind?,
        exit = &mut signalled => return Ok(exit),
    };

    let framing = (args.framing, is_json(&kind));
    let replaying = replay::replay(&mut chunks, &digest, skipped, resume.as_ref(), framing);
    let replayed = tokio::select! {
        replayed = replaying => replayed?,
        exit = &mut signalled => return Ok(exit),
    };
    told.lock().input_bytes = resume.as_ref().map_or(0, |state| state.acknowledged);
    let notices = told.clone();
    options = options
        .content_type(kind)
        .messages_before(replayed.skipped)
        .on_notice(move |notice| notices.notice(notice));
    if let Some(file) = file {
        options = options.store(Box::new(StateFile::new(file, stream.url(), &id, digest.clone())));
    }
    if let Some(state) = resume {
        options = options.resume(state);
    }
    let producer = IdempotentProducer::start(&stream, options).await?;
    for batch in &replayed.batches {
        producer.append_batch(batch.iter().map(|message| (&*message.bytes, message.end)));
    }
    let mut feeding = Feeding {
        producer: &producer,
        chunks,
        framer: replayed.framer,
        rest: replayed.rest,
        digest: args.state.is_some().then_some(digest),
        messages: VecDeque::new(),
        ended: replayed.ended,
    };
    let fed = tokio::select! {
        fed = feeding.feed() => fed,
        exit = &mut signalled => {
            // The complete messages that were read are delivered, too.
            return Ok(deliver_after(&producer, feeding.hand_over(), exit).await);
        }
    };
    let delivering = async {
        producer.flush().await?;
        // The messages before the error are delivered.
        fed?;
        if args.close {
            producer.close().await?;
        }
        // The state is on disk before the command reports success.
        producer.end().await?;
        Ok(Exit::Done)
    };
    let exit = tokio::select! {
        delivered = delivering => return delivered,
        exit = signalled => exit,
    };
    Ok(deliver_after(&producer, async { Ok(()) }, exit).await)
}

/// Delivers the messages that were read, unless it takes too long or another signal comes.
async fn deliver_after(
    producer: &IdempotentProducer,
    handing_over: impl Future<Output = anyhow::Result<()>>,
    exit: Exit,
) -> Exit {
    let again = signalled();
    let delivering = async {
        let _ = handing_over.await;
        let _ = producer.flush().await;
        let _ = producer.end().await;
    };
    tokio::select! {
        () = delivering => {}
        () = tokio::time::sleep(GRACE) => {}
        _ = again => {}
    }
    exit
}

fn producer_id(args: &ProduceArgs, known: Option<&Content>) -> anyhow::Result<String> {
    let contradicts = |what: &str, ours: &dyn std::fmt::Display, theirs: &dyn std::fmt::Display| {
        Usage(format!("{what} {ours} contradicts the state file, which has {theirs}"))
    };
    if let (Some(epoch), Some(known)) = (args.epoch, known)
        && epoch != known.epoch
        // The flags are the same as before, but the name was taken over since then.
        && !(epoch < known.epoch && (args.auto_claim || args.new_epoch))
    {
        return Err(contradicts("--epoch", &epoch, &known.epoch).into());
    }
    match (&args.producer_id, known) {
        (Some(id), Some(known)) if *id != known.producer_id => {
            Err(contradicts("--producer-id", id, &known.producer_id).into())
        }
        (Some(id), _) => Ok(id.clone()),
        (None, Some(known)) => Ok(known.producer_id.clone()),
        (None, None) => Ok(random_id()),
    }
}

fn random_id() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let part = |n: u8| RandomState::new().hash_one((n, std::process::id(), std::time::SystemTime::now()));
    format!("relay-{:016x}{:016x}", part(0), part(1))
}

/// The position from which the producer continues.
fn resume(
    args: &ProduceArgs,
    known: Option<&Content>,
    stream: &DurableStream,
) -> anyhow::Result<Option<ProducerState>> {
    let Some(known) = known else { return Ok(None) };
    let mut state = known.producer_state();
    if args.new_epoch {
        if !state.in_flight.is_empty() && !args.retry_unsafe {
            return Err(OutcomeUnknown(format!(
                "{}: outcome unknown: {} batches of the old epoch were on their way; --retry-unsafe sends them again",
                stream.url(),
                state.in_flight.len()
            ))
            .into());
        }
        state = ProducerState {
            epoch: state.epoch + 1,
            next_seq: 0,
            acknowledged: state.acknowledged,
            in_flight: vec![],
        };
    }
    Ok(Some(state))
}

/// The stream's type. Creates the stream if that is wanted.
async fn content_type(args: &ProduceArgs, stream: &DurableStream) -> anyhow::Result<String> {
    if args.create {
        let options = CreateOptions::new().content_type(args.content_type.clone());
        stream.create(options).await?;
    }
    match &args.content_type {
        Some(kind) => Ok(kind.clone()),
        None => Ok(stream.content_type().await?),
    }
}

/// The input of the producer while it is being read.
struct Feeding<'p> {
    producer: &'p IdempotentProducer,
    chunks: tokio::sync::mpsc::Receiver<std::io::Result<bytes::Bytes>>,
    framer: Framer,
    /// Bytes that were read before and not used.
    rest: Option<bytes::Bytes>,
    /// Keeps the bytes until they are acknowledged.
    digest: Option<InputDigest>,
    /// Messages that were read and not given to the producer.
    messages: VecDeque<Message>,
    ended: bool,
}

impl Feeding<'_> {
    async fn feed(&mut self) -> anyhow::Result<()> {
        loop {
            self.hand_over().await?;
            let chunk = match self.rest.take() {
                // These bytes were added to the digest when they were read.
                Some(rest) => Some(rest),
                None if self.ended => None,
                None => {
                    let read = tokio::select! {
                        read = self.chunks.recv() => read,
                        failure = self.producer.failed() => return Err(failure.into()),
                    };
                    let chunk = read
                        .transpose()
                        .map_err(|error| anyhow::Error::new(error).context("the input cannot be read"))?;
                    if let (Some(digest), Some(chunk)) = (&self.digest, &chunk) {
                        digest.read(chunk.clone());
                    }
                    chunk
                }
            };
            let last = chunk.is_none();
            let fed = match chunk {
                Some(chunk) => self.framer.feed(chunk, &mut self.messages),
                None => self.framer.finish(&mut self.messages),
            };
            if last || fed.is_err() {
                self.hand_over().await?;
                return Ok(fed?);
            }
        }
    }

    /// Gives the messages that were read to the producer, as it has room for them.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        while let Some(Message { bytes, end }) = self.messages.front() {
            self.producer.append_owned(bytes.clone(), *end).await?;
            self.messages.pop_front();
        }
        Ok(())
    }
}

impl Told {
    fn new(args: &ProduceArgs) -> Self {
        let tally = Tally {
            out: Output::new(args.print),
            messages: 0,
            bytes: 0,
            batches: 0,
            duplicates: 0,
            input_bytes: 0,
            offset: None,
            closed: false,
        };
        Self(Arc::new(Mutex::new(tally)), Notes::new(args.reach.endless()))
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice(&self, notice: &Notice) {
        let mut tally = self.lock();
        match notice {
            Notice::Acknowledged(batch) => {
                self.1.well();
                tally.messages += batch.messages;
                tally.bytes += batch.bytes;
                tally.batches += 1;
                tally.duplicates += u64::from(batch.duplicate);
                tally.input_bytes = batch.mark;
                if batch.offset.is_some() {
                    tally.offset.clone_from(&batch.offset);
                }
                // If nobody reads the output, the messages must still be delivered.
                let _ = tally.out.line(
                    || {
                        json!({
                            "seq": batch.seq, "epoch": batch.epoch, "messages": batch.messages,
                            "bytes": batch.bytes, "offset": batch.offset, "duplicate": batch.duplicate,
                            "attempts": batch.attempts,
                        })
                    },
                    || {
                        let offset = batch.offset.as_ref().map_or("-", Offset::as_str);
                        let again = if batch.duplicate { ", was there already" } else { "" };
                        format!(
                            "batch {:<8} {:>15} {:>15}, {}, offset {offset}{again}",
                            batch.seq,
                            counted(batch.messages, "message"),
                            counted(batch.bytes, "byte"),
                            counted(batch.attempts.into(), "attempt")
                        )
                    },
                );
            }
            Notice::Retry { cause, delay } => {
                self.1.retry(&relay_durable::Retry { cause: cause.clone(), delay: *delay });
            }
            Notice::Claimed { epoch } => {
                note(&format!("the name of the producer is taken over with epoch {epoch}"))
            }
            Notice::Closed { offset } => {
                tally.closed = true;
                if offset.is_some() {
                    tally.offset.clone_from(offset);
                }
            }
            _ => {}
        }
    }

    /// Prints the last line.
    fn end(&self, ended: &anyhow::Result<Exit>) {
        let mut tally = self.lock();
        let (messages, bytes, batches, duplicates) =
            (tally.messages, tally.bytes, tally.batches, tally.duplicates);
        let (offset, closed, input_bytes) = (tally.offset.clone(), tally.closed, tally.input_bytes);
        let error = match ended {
            Ok(Exit::Done) => None,
            Ok(_) => Some("ended by a signal".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        };
        let _ = match error {
            None => tally.out.line(
                || {
                    json!({
                        "done": true, "messages": messages, "bytes": bytes, "batches": batches,
                        "duplicates": duplicates, "offset": offset, "closed": closed,
                    })
                },
                || format!("done: {messages} messages, {bytes} bytes in {batches} batches"),
            ),
            Some(error) => tally.out.line(
                || json!({"done": false, "messages": messages, "input_bytes": input_bytes, "error": error}),
                || format!("not done: {messages} messages acknowledged, {input_bytes} bytes of the input"),
            ),
        };
    }
}
