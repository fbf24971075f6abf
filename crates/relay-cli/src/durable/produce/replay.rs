//! Finding the place in the input where an earlier run ended.

use std::io;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use relay_durable::ProducerState;
use tokio::sync::mpsc;

use super::super::digest::InputDigest;
use super::super::input::{Framer, Framing, Message};
use super::super::state::Content;

/// Where the input goes on.
pub(super) struct Replayed {
    /// The messages of each batch that was on its way.
    pub(super) batches: Vec<Vec<Message>>,
    pub(super) framer: Framer,
    /// What was read and belongs to what follows.
    pub(super) rest: Option<Bytes>,
    pub(super) ended: bool,
    /// Lines that were skipped.
    pub(super) skipped: u64,
}

/// Reads over what is acknowledged, checks that it is what it was, and reads the batches that were on their way.
pub(super) async fn replay(
    chunks: &mut mpsc::Receiver<io::Result<Bytes>>,
    digest: &InputDigest,
    known: Option<&Content>,
    resume: Option<&ProducerState>,
    (framing, json): (Framing, bool),
) -> anyhow::Result<Replayed> {
    let (Some(known), Some(resume)) = (known, resume) else {
        let framer = Framer::new(framing, json, 0);
        return Ok(Replayed { batches: Vec::new(), framer, rest: None, ended: false, skipped: 0 });
    };
    let mut input = Input { chunks, digest, rest: Bytes::new(), ended: false };
    let (mut skipped, mut left) = (0, known.input_bytes);
    let end = if framing == Framing::Nul { 0 } else { b'\n' };
    while left > 0 {
        let Some(bytes) = input.take(left).await? else {
            let read = known.input_bytes - left;
            bail!("the input is shorter than what is acknowledged: {read} of {} bytes", known.input_bytes);
        };
        left -= bytes.len() as u64;
        skipped += bytes.iter().filter(|byte| **byte == end).count() as u64;
    }
    if digest.up_to(known.input_bytes) != known.input_sha256 {
        bail!("another input: its first {} bytes are not those that are acknowledged", known.input_bytes);
    }
    let mut batches = Vec::new();
    let mut lines = skipped;
    for bounds in &resume.in_flight {
        let mut framer = Framer::new(framing, json, bounds.first);
        framer.skip_records(lines);
        let (mut messages, mut left) = (Vec::new(), bounds.last - bounds.first);
        while left > 0 {
            let Some(bytes) = input.take(left).await? else {
                bail!("the input is shorter than what was sent of it: it ends before byte {}", bounds.last);
            };
            left -= bytes.len() as u64;
            lines += bytes.iter().filter(|byte| **byte == end).count() as u64;
            framer.feed(bytes, &mut messages).context("another input")?;
        }
        framer.finish(&mut messages).context("another input")?;
        if messages.is_empty() {
            bail!("another input: there is no message from byte {} to byte {}", bounds.first, bounds.last);
        }
        batches.push(messages);
    }
    let at = resume.in_flight.last().map_or(known.input_bytes, |bounds| bounds.last);
    let mut framer = Framer::new(framing, json, at);
    framer.skip_records(lines);
    let rest = Some(input.rest).filter(|rest| !rest.is_empty());
    Ok(Replayed { batches, framer, rest, ended: input.ended, skipped })
}

/// The input, in pieces of a chosen length.
struct Input<'i> {
    chunks: &'i mut mpsc::Receiver<io::Result<Bytes>>,
    digest: &'i InputDigest,
    rest: Bytes,
    ended: bool,
}

impl Input<'_> {
    /// At most so many bytes; `None` at the end.
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
