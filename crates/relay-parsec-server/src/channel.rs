//! A channel: its log, producers and subscribers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use relay_log::{Checkpoint, Limit, Log, Page};
use relay_proto::parsec::{Envelope, Position, PresenceEntry, Published, problems};
use relay_proto::problem::{Problem, ProblemCode};
use relay_state::sequences::ProducerMarks;
use relay_transport::server::Refusal;
use tokio::time::Instant;

/// A channel, from its creation until it is forgotten.
pub(crate) struct Channel {
    pub(crate) name: String,
    pub(crate) log: Log,
    /// Position 0.
    genesis: Position,
    /// Serialises publishes: sequences are checked and recorded in the order of the log.
    writer: tokio::sync::Mutex<Writer>,
    /// Boxed, because a map node reserves space for eleven entries, and most channels have one.
    listeners: Mutex<BTreeMap<u64, Box<PresenceEntry>>>,
    /// The time of the last publish, or of the last end of a stream.
    touched: Mutex<Instant>,
    /// The channel's bytes in the count of the hub.
    pub(crate) counted: AtomicU64,
}

pub(crate) struct Writer {
    marks: ProducerMarks,
    /// Producer (its hash), sequence and offset of retained envelopes, to find the original of a retry.
    recent: VecDeque<(u64, i64, u64)>,
    /// Whether used sequences are stored, so that they survive the process.
    durable: bool,
    /// Publishes since used sequences were stored.
    since_checkpoint: u32,
    /// Whether the hub has forgotten the channel. Callers that still hold it look it up again.
    pub(crate) gone: bool,
}

/// Publishes after which used sequences are stored again.
const CHECKPOINT_EVERY: u32 = 256;

impl Channel {
    /// A channel on its log; used sequences are read from the log.
    pub(crate) async fn open(
        name: &str,
        log: Log,
        max_producers: usize,
        durable: bool,
    ) -> Result<Self, relay_log::Error> {
        let mut writer = Writer {
            marks: ProducerMarks::new(max_producers),
            recent: VecDeque::new(),
            durable,
            since_checkpoint: 0,
            gone: false,
        };
        if durable {
            let mut kept = log.recover().await?;
            match kept.checkpoint() {
                Some(checkpoint) => {
                    let marks: Vec<(String, i64)> =
                        serde_json::from_slice(&checkpoint.body).unwrap_or_default();
                    for (producer, sequence) in marks {
                        writer.marks.observe(&producer, sequence);
                    }
                }
                // From now on all entries are kept until they are in a checkpoint.
                None => {
                    log.save_checkpoint(Checkpoint { position: kept.position(), body: "[]".into() }).await?
                }
            }
            loop {
                let entries = kept.next(Limit::default()).await?;
                if entries.is_empty() {
                    break;
                }
                for entry in entries {
                    writer.note(&entry.body, entry.position);
                }
            }
        }
        let genesis = Position::new(log.identity().epoch(), 0);
        Ok(Self {
            name: name.to_owned(),
            genesis,
            writer: tokio::sync::Mutex::new(writer),
            listeners: Mutex::new(BTreeMap::new()),
            touched: Mutex::new(Instant::now()),
            counted: AtomicU64::new(0),
            log,
        })
    }

    /// A position in the present epoch.
    pub(crate) fn at(&self, offset: u64) -> Position {
        self.genesis.at(offset)
    }

    pub(crate) async fn writer(&self) -> tokio::sync::MutexGuard<'_, Writer> {
        self.writer.lock().await
    }

    /// Appends a checked envelope; `text` is stored and sent.
    ///
    /// # Errors
    /// 409 when its sequence was used; 503 when the log cannot take it.
    pub(crate) async fn publish(
        &self,
        writer: &mut Writer,
        envelope: &Envelope,
        text: Bytes,
    ) -> Result<Published, Refusal> {
        let (producer, sequence) = (envelope.producer().id(), envelope.sequence());
        let last = writer.marks.high_water(producer);
        if sequence <= last {
            if let Some(offset) = self.original(writer, producer, sequence, &text).await? {
                return Ok(Published::new(self.at(offset), true));
            }
            let detail = format!(
                "channel {}: sequence {sequence} of producer {producer:?} is not above the last one taken, {last}",
                self.name
            );
            let problem = Problem::new(problems::SEQUENCE_CONFLICT, detail).member("last_sequence", last);
            return Err(Box::new(problem));
        }
        let positions = self.log.append(vec![text]).await.map_err(|error| unavailable(&error))?;
        self.touch();
        writer.marks.observe(producer, sequence);
        writer.recent.push_back((hash(producer), sequence, positions.last));
        let base = self.log.bounds().base;
        while writer.recent.front().is_some_and(|(.., offset)| *offset <= base) {
            writer.recent.pop_front();
        }
        writer.since_checkpoint += 1;
        if writer.durable && writer.since_checkpoint >= CHECKPOINT_EVERY {
            writer.since_checkpoint = 0;
            let marks: Vec<(&str, i64)> = writer.marks.iter().collect();
            let body = serde_json::to_vec(&marks).unwrap_or_default().into();
            // The envelope is accepted. The entries since the last checkpoint are kept, and contain what this one
            // would.
            if let Err(error) = self.log.save_checkpoint(Checkpoint { position: positions.last, body }).await
            {
                tracing::error!(channel = self.name, %error, "the taken sequences cannot be written down");
            }
        }
        Ok(Published::new(self.at(positions.last), false))
    }

    /// The position of the envelope with the same text and the same sequence, if it is retained.
    async fn original(
        &self,
        writer: &Writer,
        producer: &str,
        sequence: i64,
        text: &Bytes,
    ) -> Result<Option<u64>, Refusal> {
        let wanted = hash(producer);
        let same = |(id, number, offset): &(u64, i64, u64)| {
            (*id == wanted && *number == sequence).then_some(*offset)
        };
        let Some(offset) = writer.recent.iter().rev().find_map(same) else { return Ok(None) };
        match self.log.read(offset - 1, Limit::entries(1)).await {
            Ok(Page::Entries(entries)) => {
                Ok(entries.first().filter(|entry| entry.body == *text).map(|entry| entry.position))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(unavailable(&error)),
        }
    }

    pub(crate) fn listeners(&self) -> MutexGuard<'_, BTreeMap<u64, Box<PresenceEntry>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn touch(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since the last publish, or the last end of a stream.
    pub(crate) fn quiet(&self) -> Duration {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Change of its retained bytes since the last call.
    pub(crate) fn growth(&self) -> i64 {
        let now = self.log.bounds().bytes;
        now.cast_signed() - self.counted.swap(now, Ordering::AcqRel).cast_signed()
    }
}

impl Writer {
    fn note(&mut self, text: &Bytes, offset: u64) {
        if let Ok(envelope) = Envelope::decode(text.clone()) {
            let (producer, sequence) = (envelope.producer().id(), envelope.sequence());
            self.marks.observe(producer, sequence);
            self.recent.push_back((hash(producer), sequence, offset));
        }
    }
}

/// Only to find candidates, which are then compared.
fn hash(producer: &str) -> u64 {
    producer
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The response when a log fails.
pub(crate) fn unavailable(error: &relay_log::Error) -> Refusal {
    tracing::error!(%error, "a log cannot be used");
    Box::new(Problem::new(ProblemCode::NOT_READY, "the channel's log cannot be used now"))
}
