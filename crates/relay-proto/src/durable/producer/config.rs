//! Inputs and outputs of a producer.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::durable::{Offset, Refusal};
use crate::setters;

/// Settings of a producer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProducerConfig {
    /// Whether the stream takes JSON: a batch is then an array, and a message one of its elements. Default false: a
    /// batch is the messages one after the other.
    pub json: bool,
    /// The epoch to begin with. Default 0.
    pub epoch: u64,
    /// At the start, before anything is acknowledged, uses the epoch after that of the name's last user. Default
    /// false.
    pub auto_claim: bool,
    /// Accepts a duplicate as the response to a batch's first attempt, if the name cannot be claimed. For a caller that
    /// repeats its own batches with the same name and epoch; the messages are not compared. Default false: a duplicate
    /// means that another producer used the name.
    pub accept_duplicates: bool,
    /// Size limit of a batch's body, in bytes; a single larger message is allowed. Default 1 MiB.
    pub max_batch_bytes: usize,
    /// Maximum number of messages in a batch. Default 10,000.
    pub max_batch_items: usize,
    /// How long a batch waits for more messages. Default 5 ms.
    pub linger: Duration,
    /// Batches in flight at once. Default 1.
    pub in_flight: usize,
    /// Size limit of held messages, in bytes, with an overhead of 32 for each; one message is always accepted. Default
    /// 8 MiB.
    pub max_buffer: usize,
    /// Ceiling of the first delay before a retry. Default 100 ms.
    pub retry_base: Duration,
    /// Ceiling of every delay, except a delay requested by the server. Default 10 s.
    pub retry_cap: Duration,
    /// Longest time without an acknowledgement while something is on its way; attempts under way are cut, too. `None`,
    /// the default, is for ever.
    pub retry_for: Option<Duration>,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            json: false,
            epoch: 0,
            auto_claim: false,
            accept_duplicates: false,
            max_batch_bytes: 1 << 20,
            max_batch_items: 10_000,
            linger: Duration::from_millis(5),
            in_flight: 1,
            max_buffer: 8 << 20,
            retry_base: Duration::from_millis(100),
            retry_cap: Duration::from_secs(10),
            retry_for: None,
        }
    }
}

setters! { ProducerConfig {
    json: bool,
    epoch: u64,
    auto_claim: bool,
    accept_duplicates: bool,
    max_batch_bytes: usize,
    max_batch_items: usize,
    linger: Duration,
    in_flight: usize,
    max_buffer: usize,
    retry_base: Duration,
    retry_cap: Duration,
    retry_for: Option<Duration>,
} }

/// The state from which a producer can continue in another process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerState {
    /// Its epoch.
    pub epoch: u64,
    /// The number of the next batch that has not been sent yet.
    pub next_seq: u64,
    /// The caller's mark after the acknowledged messages.
    pub acknowledged: u64,
    /// Batches that were sent and not acknowledged, in order.
    pub in_flight: Vec<Bounds>,
}

/// The messages of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// The batch's number.
    pub seq: u64,
    /// The caller's mark before its first message.
    pub first: u64,
    /// The caller's mark after its last message.
    pub last: u64,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Identifies the attempt.
    pub ticket: u64,
    /// `Producer-Epoch`.
    pub epoch: u64,
    /// `Producer-Seq`.
    pub seq: u64,
    /// The body; empty when the request only closes.
    pub body: Bytes,
    /// Whether to send `Stream-Closed: true`.
    pub close: bool,
    /// Whether this number is sent for the first time: then store the state before sending.
    pub first: bool,
}

/// The next action of a producer's driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerWant {
    /// Send this, and pass the response or the failure to the producer; keep polling meanwhile.
    Send(Attempt),
    /// An event.
    Event(Event),
    /// Poll again at that time, or when there is a response or a message.
    Wait(Duration),
    /// Poll again when there is a response or a message.
    Idle,
    /// The producer has ended. Every later poll returns the same.
    Stop(ProducerStop),
}

/// An event of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A batch is on the server, and so is everything before it.
    Acknowledged(Acknowledged),
    /// Another producer's name was claimed.
    Claimed {
        /// The new epoch.
        epoch: u64,
    },
    /// An attempt failed; another one follows.
    Retry {
        /// What went wrong.
        cause: String,
        /// Time to the next attempt.
        delay: Duration,
    },
    /// The stream is closed.
    Closed {
        /// The final offset of the stream.
        offset: Option<Offset>,
    },
}

/// A batch that is on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acknowledged {
    /// Its epoch.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// The number of its messages.
    pub messages: u64,
    /// The total size of its messages, in bytes.
    pub bytes: u64,
    /// The offset after it. A server may omit it for a duplicate.
    pub offset: Option<Offset>,
    /// Whether an earlier attempt had been accepted.
    pub duplicate: bool,
    /// The number of attempts by this process.
    pub attempts: u32,
    /// The caller's mark after its last message.
    pub mark: u64,
}

/// The end of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStop {
    /// The reason.
    pub refused: Refused,
    /// Its epoch.
    pub epoch: u64,
    /// The caller's mark after the acknowledged messages.
    pub acknowledged: u64,
}

/// Why a producer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A newer producer uses the name.
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
    /// The server expects another number than any batch in flight has.
    Gap {
        /// The expected number.
        expected: u64,
        /// The number that was sent.
        seq: u64,
    },
    /// The response to the first attempt of a batch says that it is a duplicate: another producer used the name and the
    /// epoch before.
    UsedBefore {
        /// The batch's number.
        seq: u64,
    },
    /// A single message is too large.
    TooLarge {
        /// The number of the message in this process, counted from 1.
        message: u64,
        /// Its size.
        bytes: u64,
    },
    /// The server refused for good.
    Refusal {
        /// The reason.
        refusal: Refusal,
        /// The status.
        status: u16,
        /// The final offset of the stream, when it is closed.
        offset: Option<Offset>,
    },
    /// [`ProducerConfig::retry_for`] has passed.
    OutOfTime {
        /// The last failure.
        cause: String,
    },
}
