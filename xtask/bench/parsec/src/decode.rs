//! The cost of an envelope that is decoded and observed, compared with serde_json into a struct.

use std::hint::black_box;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use cpu_time::ThreadTime;
use relay_bench_report::{Bar, Figure, Options, median};
use relay_proto::parsec::Envelope;
use relay_state::sequences::{GapDetector, Sighting};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::corpus::{CHANNEL, Corpus};

/// A struct for serde's derive: every member is owned, and the payload is kept as its text.
#[derive(Deserialize)]
struct Plain {
    channel: String,
    sequence: i64,
    producer: PlainProducer,
    aspect: String,
    payload: Box<RawValue>,
    produced_at: String,
}

#[derive(Deserialize)]
struct PlainProducer {
    id: String,
    kind: String,
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let texts: Vec<Bytes> = Corpus::new(20_000, 3).map(|(_, envelope)| envelope).collect();
    let gaps = ours(&texts)?;
    ensure!(gaps > 0 && serde(&texts)? == texts.len(), "both take part in the same work");
    let (rounds, passes) = if options.quick { (5, 3) } else { (15, 10) };
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    let nanoseconds = |work: fn(&[Bytes]) -> Result<usize>| -> Result<f64> {
        let begun = ThreadTime::now();
        for _ in 0..passes {
            black_box(work(black_box(&texts))?);
        }
        Ok(begun.elapsed().as_nanos() as f64 / (passes * texts.len()) as f64)
    };
    for _ in 0..rounds {
        own.push(nanoseconds(ours)?);
        theirs.push(nanoseconds(serde)?);
    }
    let (own, theirs) = (median(&own), median(&theirs));
    Ok(vec![
        Figure::new("decode", "decoded and observed", "ns", own),
        Figure::new("decode", "serde_json into a struct", "ns", theirs),
        Figure::new("decode", "beside serde_json", "x", own / theirs).bar(Bar::AtMost(1.2)),
    ])
}

/// The number of gaps.
fn ours(texts: &[Bytes]) -> Result<usize> {
    let mut detector = GapDetector::default();
    let mut gaps = 0;
    for text in texts {
        let envelope = Envelope::decode(text.clone())?;
        envelope.usable()?;
        let sighting = detector.observe(CHANNEL, envelope.producer().id(), envelope.sequence());
        gaps += usize::from(matches!(sighting, Sighting::Gap { .. }));
        black_box(&envelope);
    }
    Ok(gaps)
}

fn serde(texts: &[Bytes]) -> Result<usize> {
    for text in texts {
        let plain: Plain = serde_json::from_slice(text).context("it is an envelope")?;
        let Plain { channel, sequence, producer: PlainProducer { id, kind }, aspect, payload, produced_at } =
            plain;
        black_box((channel, sequence, id, kind, aspect, payload, produced_at));
    }
    Ok(texts.len())
}
