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
    /// The stream takes JSON: a batch is an array, a message one of its elements. Default false: a batch is the
    /// messages one after the other.
    pub json: bool,
    /// The epoch to begin with. Default 0.
    pub epoch: u64,
    /// At the start, before anything is acknowledged, uses the epoch after that of the name's last user. Default
    /// false.
    pub auto_claim: bool,
    /// Accepts a duplicate as the response to a batch's first attempt, if the name cannot be claimed. For a caller
    /// that repeats its own batches with the same name and epoch; the messages are not compared. Default false:
    /// somebody else used the name.
    pub accept_duplicates: bool,
    /// Largest body of a batch, in bytes, but for a single message that is larger. Default 1 MiB.
    pub max_batch_bytes: usize,
    /// Most messages in a batch. Default 10,000.
    pub max_batch_items: usize,
    /// How long a batch waits for more messages. Default 5 ms.
    pub linger: Duration,
    /// Batches in flight at once. Default 1.
    pub in_flight: usize,
    /// Most bytes held, with 32 for each message; one message is always taken. Default 8 MiB.
    pub max_buffer: usize,
    /// Ceiling of the first delay before a retry. Default 100 ms.
    pub retry_base: Duration,
    /// Ceiling of every delay, except a delay requested by the server. Default 10 s.
    pub retry_cap: Duration,
    /// Longest time without progress while attempts fail; `None`, the default, is for ever.
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
    /// The number of the next batch that was never sent.
    pub next_seq: u64,
    /// The caller's mark behind what is acknowledged.
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
    /// The caller's mark behind its last message.
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
    /// The body; empty when it only closes.
    pub body: Bytes,
    /// With `Stream-Closed: true`.
    pub close: bool,
    /// Whether this number is sent for the first time: then store the state before.
    pub first: bool,
}

/// The next action of a producer's driver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProducerWant {
    /// Send this, and hand in the response or the failure; keep polling in between.
    Send(Attempt),
    /// Something happened.
    Event(Event),
    /// Poll again at that time, or when there is an answer or a message.
    Wait(Duration),
    /// Poll again when there is an answer or a message.
    Idle,
    /// The producer has ended, every time.
    Stop(ProducerStop),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A batch is on the server, and so is everything before it.
    Acknowledged(Acknowledged),
    /// The name was taken over.
    Claimed {
        /// The new epoch.
        epoch: u64,
    },
    /// An attempt failed, and another follows.
    Retry {
        /// What went wrong.
        cause: String,
        /// Time to the next attempt.
        delay: Duration,
    },
    /// The stream is closed.
    Closed {
        /// Where it ends.
        offset: Option<Offset>,
    },
}

/// A batch that is on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Acknowledged {
    /// The epoch it was written in.
    pub epoch: u64,
    /// Its number.
    pub seq: u64,
    /// Messages in it.
    pub messages: u64,
    /// Bytes of its messages.
    pub bytes: u64,
    /// The offset behind it. A server need not tell it of a duplicate.
    pub offset: Option<Offset>,
    /// An earlier attempt had been taken.
    pub duplicate: bool,
    /// Attempts by this process.
    pub attempts: u32,
    /// The caller's mark behind its last message.
    pub mark: u64,
}

/// The end of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerStop {
    /// Why.
    pub refused: Refused,
    /// Its epoch.
    pub epoch: u64,
    /// The caller's mark behind what is acknowledged.
    pub acknowledged: u64,
}

/// Why a producer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// A newer producer has the name.
    Fenced {
        /// Its epoch.
        epoch: u64,
    },
    /// The server expects another number, and no batch in flight can change that.
    Gap {
        /// What it expects.
        expected: u64,
        /// What was sent.
        seq: u64,
    },
    /// The first attempt at a batch was answered as a duplicate: another producer used the name and the epoch
    /// before.
    UsedBefore {
        /// The batch's number.
        seq: u64,
    },
    /// A single message is too large.
    TooLarge {
        /// The message of this process, counted from 1.
        message: u64,
        /// Its size.
        bytes: u64,
    },
    /// The server refused for good.
    Refusal {
        /// Why.
        refusal: Refusal,
        /// The status.
        status: u16,
        /// Where the stream ends, when it is closed.
        offset: Option<Offset>,
    },
    /// [`ProducerConfig::retry_for`] is over.
    OutOfTime {
        /// The last failure.
        cause: String,
    },
}
