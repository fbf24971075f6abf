//! Event streams to decode, made from a seed.

use std::fmt::Write as _;

use bytes::Bytes;

/// A stream and how much of it there is.
pub struct Corpus {
    pub name: &'static str,
    pub stream: Bytes,
    pub events: u64,
    /// Sizes of the chunks it comes in, in bytes.
    pub chunks: &'static [usize],
}

const NETWORK: &[usize] = &[16 << 10, 1460];

/// All corpora, about `size` bytes each.
pub fn all(size: usize) -> Vec<Corpus> {
    let pods = || repeat(size, |out, random| pod(out, random, "restarted twice"));
    vec![
        corpus("pods", pods(), NETWORK),
        corpus("pods-utf8", repeat(size, |out, random| pod(out, random, "größe 4 €")), NETWORK),
        corpus("pods-crlf", pods().replace('\n', "\r\n"), NETWORK),
        corpus("deltas", repeat(size, delta), NETWORK),
        corpus("tiny", repeat(size, |out, _| out.push_str("data: 12345\n\n")), &[16 << 10, 1460, 7]),
        corpus("multiline", repeat(size, multiline), NETWORK),
        corpus("long-lines", repeat(size.max(3 << 20), long_line), NETWORK),
    ]
}

/// The stream in chunks of this many bytes.
pub fn cut(stream: &Bytes, size: usize) -> Vec<Bytes> {
    (0..stream.len()).step_by(size).map(|at| stream.slice(at..stream.len().min(at + size))).collect()
}

fn corpus(name: &'static str, stream: String, chunks: &'static [usize]) -> Corpus {
    let blank = if stream.contains('\r') { "\r\n\r\n" } else { "\n\n" };
    let events = stream.matches(blank).count() as u64;
    Corpus { name, stream: stream.into(), events, chunks }
}

fn repeat(size: usize, mut event: impl FnMut(&mut String, &mut Random)) -> String {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut out = String::with_capacity(size + (1 << 20));
    while out.len() < size {
        event(&mut out, &mut random);
    }
    out
}

/// A pod event of about 1 KB, as a relay sends it: type, id and one line of JSON, with a note in it.
fn pod(out: &mut String, random: &mut Random, note: &str) {
    let (name, node, ip) = (random.word(10), random.word(12), random.next() % 250);
    let (hash, previous, uid) = (random.word(40), random.word(40), random.word(36));
    let version = random.next() % 10_000_000;
    let ready = random.next().is_multiple_of(2);
    let _ = write!(
        out,
        "event: pod\nid: {hash}\ndata: {{\"type\":\"MODIFIED\",\"hash\":\"{hash}\",\"previous_hash\":\"{previous}\",\
         \"sequence\":{version},\"timestamp\":\"2026-03-01T12:00:00Z\",\"pod\":{{\"metadata\":{{\"name\":\"worker-{name}\",\
         \"namespace\":\"prod\",\"uid\":\"{uid}\",\"resourceVersion\":\"{version}\",\"labels\":{{\"app\":\"worker\",\"run\":\"{name}\",\
         \"pod-template-hash\":\"{node}\",\"tier\":\"backend\"}},\"annotations\":{{\"note\":\"{note}\"}},\"ownerReferences\":\
         [{{\"kind\":\"ReplicaSet\",\"name\":\"worker-{node}\",\"controller\":true}}]}},\"spec\":{{\"nodeName\":\"node-{node}\",\
         \"containers\":[{{\"name\":\"main\",\"image\":\"registry.example/worker:1.{ip}\",\"ports\":[{{\"containerPort\":8080}}]}}]}},\
         \"status\":{{\"phase\":\"Running\",\"podIP\":\"10.1.2.{ip}\",\"hostIP\":\"192.168.0.{ip}\",\"conditions\":[{{\"type\":\"Ready\",\
         \"status\":\"{ready}\"}},{{\"type\":\"PodScheduled\",\"status\":\"True\"}}],\"containerStatuses\":[{{\"name\":\"main\",\
         \"ready\":{ready},\"restartCount\":{ip}}}]}}}}}}\n\n"
    );
}

/// A piece of generated text of 120 to 250 bytes, as model APIs send them.
fn delta(out: &mut String, random: &mut Random) {
    let length = random.next() as usize % 130;
    let (id, text) = (random.word(20), random.word(length));
    let _ = write!(
        out,
        "event: content_block_delta\ndata: {{\"id\":\"{id}\",\"index\":0,\"delta\":{{\"type\":\"text\",\"text\":\"{text}\"}}}}\n\n"
    );
}

/// Twenty lines of some 90 bytes.
fn multiline(out: &mut String, random: &mut Random) {
    out.push_str("event: log\n");
    for _ in 0..20 {
        let length = 60 + random.next() as usize % 60;
        let text = random.word(length);
        let _ = writeln!(out, "data: {text}");
    }
    out.push('\n');
}

fn long_line(out: &mut String, random: &mut Random) {
    out.push_str("data: ");
    out.push_str(&random.word(1 << 20));
    out.push_str("\n\n");
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn word(&mut self, length: usize) -> String {
        (0..length)
            .map(|_| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[self.next() as usize % 32]))
            .collect()
    }
}
