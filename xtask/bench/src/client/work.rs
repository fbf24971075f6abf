//! The streams of the benchmark, and their form on the wire.

use std::time::Duration;

use anyhow::Context as _;

use crate::corpora;

/// A stream of events and its form on the wire.
pub struct Work {
    pub name: &'static str,
    corpus: &'static str,
    /// The number of bytes of an HTTP chunk; 0 for one chunk per event.
    chunk: usize,
    /// The time from one write to the next, with one event in each. Zero means as fast as it is read, with some 16 KiB
    /// in each.
    pub pause: Duration,
    /// How often the corpus is sent in a quick measurement.
    pub quick_passes: u64,
    size: usize,
}

const LOAD: Work =
    Work { name: "", corpus: "", chunk: 0, pause: Duration::ZERO, quick_passes: 50, size: 2 << 20 };

pub const WORKS: &[Work] = &[
    Work { name: "pods", corpus: "pods", ..LOAD },
    Work { name: "pods-16k-chunks", corpus: "pods", chunk: 16 << 10, ..LOAD },
    Work { name: "deltas", corpus: "deltas", quick_passes: 15, ..LOAD },
    Work {
        name: "pods-paced",
        corpus: "pods",
        pause: Duration::from_micros(100),
        quick_passes: 2,
        size: 1 << 20,
        ..LOAD
    },
];

/// What a client must have received.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Seen {
    pub events: u64,
    /// Bytes of the events' data.
    pub data: u64,
    /// Bytes of the body, for clients that do not interpret it.
    pub body: u64,
}

impl Seen {
    pub const MAX: Self = Self { events: u64::MAX, data: u64::MAX, body: u64::MAX };
}

impl Seen {
    /// The same as arguments for the command line.
    pub fn arguments(self) -> [String; 3] {
        [self.events, self.data, self.body].map(|figure| figure.to_string())
    }
}

impl std::ops::Mul<u64> for Seen {
    type Output = Self;

    fn mul(self, times: u64) -> Self {
        Self { events: self.events * times, data: self.data * times, body: self.body * times }
    }
}

impl std::ops::Add for Seen {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            data: self.data + other.data,
            body: self.body + other.body,
        }
    }
}

/// A body in HTTP chunks, in the pieces that are written at once.
pub struct Wire {
    pub writes: Vec<Vec<u8>>,
    pub holds: Seen,
}

/// The approximate size of one write, unless the work is paced.
const WRITE: usize = 16 << 10;

impl Work {
    /// One pass over the corpus.
    pub fn wire(&self) -> anyhow::Result<Wire> {
        wire(self.corpus, self.size, self.chunk, !self.pause.is_zero())
    }
}

/// The first bytes of a connection that will be idle.
pub const GREETING_EVENT: &[u8] = b"d\r\ndata: hello\n\n\r\n";
pub const GREETING: Seen = Seen { events: 1, data: 5, body: 13 };

/// Its later bytes: 1 MB of pod events, one chunk each.
pub fn burst() -> anyhow::Result<Wire> {
    wire("pods", 1_000_000, 0, false)
}

fn wire(corpus: &str, size: usize, chunk: usize, paced: bool) -> anyhow::Result<Wire> {
    let corpora = corpora::all(size);
    let corpus = corpora.iter().find(|candidate| candidate.name == corpus).context("no such corpus")?;
    let text = std::str::from_utf8(&corpus.stream)?;
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::len).sum::<usize>();
    let holds = Seen { events: corpus.events, data: data as u64, body: text.len() as u64 };
    let chunks: Vec<&[u8]> = match chunk {
        0 => text.split_inclusive("\n\n").map(str::as_bytes).collect(),
        size => text.as_bytes().chunks(size).collect(),
    };
    let mut writes = vec![Vec::new()];
    for chunk in chunks {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        match writes.last_mut() {
            Some(last) if !paced && last.len() + framed.len() <= WRITE => last.extend(framed),
            Some(last) if last.is_empty() => *last = framed,
            _ => writes.push(framed),
        }
    }
    Ok(Wire { writes, holds })
}
