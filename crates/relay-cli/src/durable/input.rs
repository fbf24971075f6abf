//! The input of a producer: read by a thread, and split into messages.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use clap::ValueEnum;
use tokio::sync::mpsc;

/// Where a message of the input ends
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Framing {
    /// At a line feed, which belongs to it unless the stream is JSON
    Lines,
    /// At a NUL, which is dropped
    Nul,
    /// Wherever a read of the input ends
    None,
}

/// The largest number of bytes in one read.
const CHUNK: usize = 64 << 10;
/// The longest message, in bytes.
pub(super) const LONGEST: usize = 64 << 20;

/// Reads stdin or a file in a separate thread, one chunk ahead. The channel ends with the input, or with an error.
pub(super) fn read(file: Option<&Path>) -> anyhow::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let mut input: Box<dyn Read + Send> = match file {
        None => Box::new(io::stdin()),
        Some(path) if path == Path::new("-") => Box::new(io::stdin()),
        Some(path) => {
            Box::new(File::open(path).with_context(|| format!("{} cannot be read", path.display()))?)
        }
    };
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let mut chunk = BytesMut::zeroed(CHUNK);
            let read = match input.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => {
                    chunk.truncate(read);
                    Ok(chunk.freeze())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let ended = read.is_err();
            if sender.blocking_send(read).is_err() || ended {
                return;
            }
        }
    });
    Ok(receiver)
}

/// A message, and the position in the input where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) bytes: Bytes,
    pub(super) end: u64,
}

/// Splits the input into messages, whatever the chunks are.
#[derive(Debug)]
pub(super) struct Framer {
    framing: Framing,
    json: bool,
    /// The beginning of the next message.
    partial: BytesMut,
    /// The number of input bytes so far.
    taken: u64,
    /// Messages and blank lines so far.
    records: u64,
}

/// An error in the input.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadInput {
    #[error("line {line} of the input is not JSON: {why}")]
    NotJson { line: u64, why: String },
    #[error("line {line} of the input is too large: more than {LONGEST} bytes")]
    TooLarge { line: u64 },
}

impl Framer {
    /// A framer that starts at this position of the input.
    pub(super) fn new(framing: Framing, json: bool, at: u64) -> Self {
        Self { framing, json, partial: BytesMut::new(), taken: at, records: 0 }
    }

    /// Takes a chunk, and adds each message that ends in it.
    pub(super) fn feed(
        &mut self,
        mut chunk: Bytes,
        messages: &mut VecDeque<Message>,
    ) -> Result<(), BadInput> {
        let end = match self.framing {
            Framing::Lines => b'\n',
            Framing::Nul => 0,
            Framing::None => {
                self.taken += chunk.len() as u64;
                return self.record(chunk, messages);
            }
        };
        while let Some(at) = chunk.iter().position(|byte| *byte == end) {
            let part = chunk.split_to(at + 1);
            self.taken += part.len() as u64;
            let mut record = if self.partial.is_empty() {
                part
            } else {
                self.partial.extend_from_slice(&part);
                self.partial.split().freeze()
            };
            if self.framing == Framing::Nul {
                record.truncate(record.len() - 1);
            }
            self.record(record, messages)?;
        }
        self.taken += chunk.len() as u64;
        self.partial.extend_from_slice(&chunk);
        if self.partial.len() > LONGEST {
            return Err(BadInput::TooLarge { line: self.records + 1 });
        }
        Ok(())
    }

    /// The input has ended: its last message needs no delimiter.
    pub(super) fn finish(&mut self, messages: &mut VecDeque<Message>) -> Result<(), BadInput> {
        if self.partial.is_empty() {
            return Ok(());
        }
        let record = self.partial.split().freeze();
        self.record(record, messages)
    }

    fn record(&mut self, record: Bytes, messages: &mut VecDeque<Message>) -> Result<(), BadInput> {
        self.records += 1;
        let line = self.records;
        if record.len() > LONGEST {
            return Err(BadInput::TooLarge { line });
        }
        let bytes = if self.json {
            let value = record.slice_ref(record.trim_ascii());
            if value.is_empty() {
                return Ok(());
            }
            let wrong = |why: String| BadInput::NotJson { line, why };
            let text = std::str::from_utf8(&value).map_err(|error| wrong(error.to_string()))?;
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| wrong(error.to_string()))?;
            value
        } else {
            record
        };
        // A stream cannot hold an empty record.
        if !bytes.is_empty() {
            messages.push_back(Message { bytes, end: self.taken });
        }
        Ok(())
    }

    /// Messages and blank lines so far.
    #[cfg(test)]
    fn records(&self) -> u64 {
        self.records
    }

    /// Counts the lines that are skipped.
    pub(super) fn skip_records(&mut self, records: u64) {
        self.records += records;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(framing: Framing, json: bool, chunks: &[&str]) -> Result<Vec<(String, u64)>, BadInput> {
        let mut framer = Framer::new(framing, json, 10);
        let mut messages = VecDeque::new();
        for chunk in chunks {
            framer.feed(Bytes::copy_from_slice(chunk.as_bytes()), &mut messages)?;
        }
        framer.finish(&mut messages)?;
        assert!(framer.records() >= messages.len() as u64);
        let text = |message: &Message| String::from_utf8(message.bytes.to_vec()).unwrap();
        Ok(messages.iter().map(|message| (text(message), message.end)).collect())
    }

    fn owned(messages: &[(&str, u64)]) -> Vec<(String, u64)> {
        messages.iter().map(|(text, end)| ((*text).to_owned(), *end)).collect()
    }

    #[test]
    fn lines_however_they_come() {
        let expected = owned(&[("a\n", 12), ("\n", 13), ("bc\r\n", 17), ("d", 18)]);
        for chunks in
            [&["a\n\nbc\r\nd"][..], &["a", "\n", "\nb", "c\r", "\nd"], &["a\n\n", "bc\r\n", "", "d"]]
        {
            assert_eq!(cut(Framing::Lines, false, chunks).unwrap(), expected);
        }
        let expected = owned(&[("{\"a\":1}", 18), ("2", 22)]);
        assert_eq!(
            cut(Framing::Lines, true, &["{\"a\":1}\n", " \n2 "]).unwrap(),
            owned(&[("{\"a\":1}", 18), ("2", 22)])
        );
        assert_eq!(cut(Framing::Lines, true, &["{\"a\"", ":1}\n \n2 "]).unwrap(), expected);
        assert_eq!(cut(Framing::Nul, false, &["a\nb\0\0c"]).unwrap(), owned(&[("a\nb", 14), ("c", 16)]));
        assert_eq!(cut(Framing::None, false, &["a\n", "b"]).unwrap(), owned(&[("a\n", 12), ("b", 13)]));
    }

    #[test]
    fn what_is_not_json_is_named_by_its_line() {
        for (chunks, bad) in [(&["1\n\n{\n"][..], 3), (&["1\n2\n", "x"], 3), (&["1\n\"\u{1}\"\n"], 2)] {
            let error = cut(Framing::Lines, true, chunks).unwrap_err();
            assert!(matches!(error, BadInput::NotJson { line, .. } if line == bad), "{error}");
        }
    }
}
