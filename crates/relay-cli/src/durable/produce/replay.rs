//! Finding the place in the input where an earlier run ended.

use std::collections::VecDeque;
use std::io;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use relay_durable::ProducerState;
use tokio::sync::mpsc;

use super::super::digest::InputDigest;
use super::super::input::{Framer, Framing, Message};
use super::super::state::Content;

/// The place where the input continues.
pub(super) struct Replayed {
    /// The messages of each batch that was in flight.
    pub(super) batches: Vec<VecDeque<Message>>,
    pub(super) framer: Framer,
    /// Bytes that were read and belong to the following messages.
    pub(super) rest: Option<Bytes>,
    pub(super) ended: bool,
    /// The number of skipped lines.
    pub(super) skipped: u64,
}

/// The rest of the input after the acknowledged part.
pub(super) struct Skipped {
    rest: Bytes,
    /// The position where it begins.
    at: u64,
    /// The number of records before it.
    records: u64,
}

/// Skips the acknowledged input, and checks that it is the same as before.
pub(super) async fn skip(
    chunks: &mut mpsc::Receiver<io::Result<Bytes>>,
    digest: &InputDigest,
    known: Option<&Content>,
    framing: Framing,
) -> anyhow::Result<Skipped> {
    let mut input = Input { chunks, digest, rest: Bytes::new(), ended: false };
    let Some(known) = known else { return Ok(Skipped { rest: input.rest, at: 0, records: 0 }) };
    let (mut records, mut left) = (0, known.input_bytes);
    while left > 0 {
        let Some(bytes) = input.take(left).await? else {
            let read = known.input_bytes - left;
            bail!("the input is shorter than what is acknowledged: {read} of {} bytes", known.input_bytes);
        };
        left -= bytes.len() as u64;
        records += ends(framing, &bytes);
    }
    if digest.up_to(known.input_bytes) != known.input_sha256 {
        bail!("another input: its first {} bytes are not those that are acknowledged", known.input_bytes);
    }
    Ok(Skipped { rest: input.rest, at: known.input_bytes, records })
}

/// The number of records that end in these bytes.
fn ends(framing: Framing, bytes: &[u8]) -> u64 {
    let end = if framing == Framing::Nul { 0 } else { b'\n' };
    bytes.iter().filter(|byte| **byte == end).count() as u64
}

/// Reads the batches that were in flight.
pub(super) async fn replay(
    chunks: &mut mpsc::Receiver<io::Result<Bytes>>,
    digest: &InputDigest,
    skipped: Skipped,
    resume: Option<&ProducerState>,
    (framing, json): (Framing, bool),
) -> anyhow::Result<Replayed> {
    let Skipped { rest, at, records } = skipped;
    let mut input = Input { chunks, digest, rest, ended: false };
    let mut batches = Vec::new();
    let mut lines = records;
    let in_flight = resume.map_or(&[][..], |resume| &resume.in_flight);
    for bounds in in_flight {
        let mut framer = Framer::new(framing, json, bounds.first);
        framer.skip_records(lines);
        let (mut messages, mut left) = (VecDeque::new(), bounds.last - bounds.first);
        while left > 0 {
            let Some(bytes) = input.take(left).await? else {
                bail!("the input is shorter than what was sent of it: it ends before byte {}", bounds.last);
            };
            left -= bytes.len() as u64;
            lines += ends(framing, &bytes);
            framer.feed(bytes, &mut messages).context("another input")?;
        }
        framer.finish(&mut messages).context("another input")?;
        if messages.is_empty() {
            bail!("another input: there is no message from byte {} to byte {}", bounds.first, bounds.last);
        }
        batches.push(messages);
    }
    let at = in_flight.last().map_or(at, |bounds| bounds.last);
    let mut framer = Framer::new(framing, json, at);
    framer.skip_records(lines);
    let rest = Some(input.rest).filter(|rest| !rest.is_empty());
    Ok(Replayed { batches, framer, rest, ended: input.ended, skipped: records })
}

/// The input, in pieces of a given length.
struct Input<'i> {
    chunks: &'i mut mpsc::Receiver<io::Result<Bytes>>,
    digest: &'i InputDigest,
    rest: Bytes,
    ended: bool,
}

impl Input<'_> {
    /// At most this many bytes; `None` at the end.
    async fn take(&mut self, most: u64) -> anyhow::Result<Option<Bytes>> {
        if self.rest.is_empty() {
            match self.chunks.recv().await.transpose().context("the input cannot be read")? {
                None => {
                    self.ended = true;
                    return Ok(None);
                }
                Some(chunk) => {
                    self.digest.read(chunk.clone());
                    self.rest = chunk;
                }
            }
        }
        let length = usize::try_from(most).unwrap_or(usize::MAX).min(self.rest.len());
        Ok(Some(self.rest.split_to(length)))
    }
}
