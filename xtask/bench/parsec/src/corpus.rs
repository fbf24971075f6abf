//! Envelopes of 200 bytes from eight producers. A fault with a seed drops some of them.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use relay_parsec::Item;

pub(crate) const CHANNEL: &str = "public:bench.flow";
pub(crate) const PRODUCERS: u64 = 8;
/// The fault drops one in this many envelopes, on average.
const DROPPED: u64 = 1000;

/// A generator that gives the same numbers for the same seed.
#[derive(Clone)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The envelopes of each producer in turn. Those for which `Some` is false are dropped by the fault.
pub(crate) struct Corpus {
    left: u64,
    counts: [i64; PRODUCERS as usize],
    turn: u64,
    seed: Seed,
    pub(crate) dropped: u64,
}

impl Corpus {
    /// A corpus in which this many envelopes are not dropped.
    pub(crate) fn new(envelopes: u64, seed: u64) -> Self {
        Self { left: envelopes, counts: [0; PRODUCERS as usize], turn: 0, seed: Seed::new(seed), dropped: 0 }
    }
}

impl Iterator for Corpus {
    type Item = (u64, Bytes);

    /// The producer, and its envelope.
    fn next(&mut self) -> Option<(u64, Bytes)> {
        if self.left == 0 {
            return None;
        }
        loop {
            let producer = self.turn % PRODUCERS;
            self.turn += 1;
            let sequence = &mut self.counts[producer as usize];
            *sequence += 1;
            // The first and the last envelopes are never dropped, because no later envelope would show the loss.
            if *sequence > 1 && self.left > PRODUCERS && self.seed.next() % DROPPED == 0 {
                self.dropped += 1;
                continue;
            }
            self.left -= 1;
            return Some((producer, envelope(producer, *sequence)));
        }
    }
}

/// An envelope of 200 bytes.
fn envelope(producer: u64, sequence: i64) -> Bytes {
    let head = format!(
        r#"{{"channel":"{CHANNEL}","sequence":{sequence},"producer":{{"id":"p{producer}","kind":"service"}},"aspect":"data","payload":""#
    );
    let tail = r#"","produced_at":"2026-05-27T14:22:09.331Z"}"#;
    let room = 200_usize.saturating_sub(head.len() + tail.len());
    format!("{head}{}{tail}", "x".repeat(room)).into()
}

/// The items of a subscriber, checked one by one.
#[derive(Default)]
pub(crate) struct Check {
    marks: [i64; PRODUCERS as usize],
    pub(crate) envelopes: u64,
    pub(crate) missing: u64,
    said: Option<u64>,
}

impl Check {
    pub(crate) fn item(&mut self, item: &Item) -> Result<()> {
        match item {
            Item::Subscribed { .. } => {}
            Item::Gap(gap) => {
                ensure!(gap.producer.is_some(), "the channel lost something: {gap:?}");
                self.said = gap.missing;
                self.missing += gap.missing.unwrap_or(0);
            }
            Item::Envelope(delivered) => {
                let envelope = &delivered.envelope;
                // The names of the producers are `p0` to `p7`.
                let producer = envelope.producer().id().bytes().nth(1).context("a producer")?;
                let mark = self.marks.get_mut(usize::from(producer - b'0')).context("a producer")?;
                let jumped = (envelope.sequence() - *mark - 1) as u64;
                ensure!(envelope.sequence() > *mark, "out of order: {envelope:?} after {mark}");
                ensure!(self.said.take().unwrap_or(0) == jumped, "{jumped} are missing before {envelope:?}");
                *mark = envelope.sequence();
                self.envelopes += 1;
            }
            other => anyhow::bail!("unexpected: {other:?}"),
        }
        Ok(())
    }

    /// Checks that all envelopes arrived, and that as many are missing as were dropped.
    pub(crate) fn end(&self, envelopes: u64, dropped: u64) -> Result<()> {
        ensure!(self.envelopes == envelopes, "{} of {envelopes} came", self.envelopes);
        ensure!(self.missing == dropped, "{} were said to be missing, {dropped} were dropped", self.missing);
        Ok(())
    }
}
