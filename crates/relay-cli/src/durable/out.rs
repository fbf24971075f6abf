//! The output of a reader: stdout or a file, unchanged or as JSON lines.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write};
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use clap::ValueEnum;
use relay_durable::{Content, Piece};
use serde_json::{Value, json};

use crate::exit::Usage;

/// How to print data
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ReadFormat {
    /// JSON streams one message per line, others as they are
    Raw,
    /// One JSON object per piece
    Json,
}

/// An output that knows the length of its file.
pub(super) struct Sink {
    target: Target,
    /// Length of the file.
    bytes: u64,
}

enum Target {
    Stdout,
    File(File),
}

impl Sink {
    pub(super) fn stdout() -> Self {
        Self { target: Target::Stdout, bytes: 0 }
    }

    /// Appends to a file, which is first cut back to `length`.
    pub(super) fn file(path: &Path, length: Option<u64>) -> anyhow::Result<Self> {
        let shown = path.display();
        let mut file = File::options()
            .create(true)
            .append(false)
            .write(true)
            .truncate(false)
            .open(path)
            .with_context(|| format!("{shown} cannot be opened"))?;
        let now = file.metadata().with_context(|| format!("{shown} cannot be measured"))?.len();
        let bytes = match length {
            Some(length) if length > now => {
                anyhow::bail!(
                    "{shown} has {now} bytes, less than the {length} of its checkpoint: it is not the file that was written"
                );
            }
            Some(length) => {
                file.set_len(length)
                    .with_context(|| format!("{shown} cannot be cut back to its checkpoint"))?;
                length
            }
            None => now,
        };
        file.seek(SeekFrom::Start(bytes)).with_context(|| format!("{shown} cannot be appended to"))?;
        Ok(Self { target: Target::File(file), bytes })
    }

    /// Length of the file; `None` for stdout.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        matches!(self.target, Target::File(_)).then_some(self.bytes)
    }

    /// Writes all of it, and flushes.
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match &mut self.target {
            Target::Stdout => {
                let mut out = BufWriter::with_capacity(0, io::stdout().lock());
                out.write_all(data)?;
                out.flush()
            }
            Target::File(file) => {
                file.write_all(data)?;
                self.bytes += data.len() as u64;
                Ok(())
            }
        }
    }

    /// Syncs the file, so that the written bytes survive a power loss.
    pub(super) fn sync(&self) -> io::Result<()> {
        match &self.target {
            Target::Stdout => Ok(()),
            Target::File(file) => file.sync_data(),
        }
    }
}

/// The bytes to write for a piece.
pub(super) fn shown(piece: &Piece, format: ReadFormat) -> Vec<u8> {
    match (format, &piece.content) {
        (ReadFormat::Raw, Content::Bytes(bytes)) => bytes.to_vec(),
        (ReadFormat::Raw, Content::Messages(messages)) => {
            let mut out = Vec::with_capacity(messages.iter().map(|message| message.len() + 1).sum());
            for message in messages {
                one_line(&mut out, message);
                out.push(b'\n');
            }
            out
        }
        (ReadFormat::Json, content) => {
            let mut out = b"{".to_vec();
            match content {
                Content::Messages(messages) => {
                    out.extend_from_slice(b"\"items\":[");
                    for (index, message) in messages.iter().enumerate() {
                        if index > 0 {
                            out.push(b',');
                        }
                        one_line(&mut out, message);
                    }
                    out.push(b']');
                }
                Content::Bytes(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => field(&mut out, "text", &json!(text)),
                    Err(_) => {
                        let packed = base64::engine::general_purpose::STANDARD.encode(bytes);
                        field(&mut out, "base64", &json!(packed));
                    }
                },
            }
            let offset = piece.whole.then_some(&piece.checkpoint.offset);
            for (name, value) in [
                ("offset", json!(offset)),
                ("cursor", json!(piece.checkpoint.cursor)),
                ("up_to_date", json!(piece.up_to_date)),
                ("closed", json!(piece.closed)),
            ] {
                out.push(b',');
                field(&mut out, name, &value);
            }
            out.extend_from_slice(b"}\n");
            out
        }
    }
}

fn field(out: &mut Vec<u8>, name: &str, value: &Value) {
    out.extend_from_slice(format!("\"{name}\":{value}").as_bytes());
}

/// A message unchanged, except that line breaks, which can only be white space in it, become spaces.
fn one_line(out: &mut Vec<u8>, message: &[u8]) {
    out.extend(message.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
}

/// Converts a size that was given by a flag.
pub(super) fn size(name: &str, bytes: u64) -> anyhow::Result<usize> {
    match usize::try_from(bytes) {
        Ok(bytes) if bytes > 0 => Ok(bytes),
        _ => Err(Usage(format!("{name}: a size above 0")).into()),
    }
}
