//! Literal messages: the format of `fixtures/autoconfig-wire/README.md`.

use std::path::Path;
use std::time::Duration;

use relay_proto::sse::{Decoder, Frame};
use relay_state::environments::{Environments, Next, Now, Session, StatusError};
use serde::Deserialize;
use serde_json::Value;

use super::has;
use super::pure::BEGIN;
use super::script::AutoconfigMistake;

/// One message, byte for byte, and the lines that a client without state prints.
#[derive(Debug)]
pub struct AutoconfigMessage {
    entry: Entry,
    bytes: Vec<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    #[serde(rename = "about")]
    _about: String,
    lines: Vec<Value>,
}

impl AutoconfigMessage {
    /// Reads `expected.jsonl` of a directory, and the files that it names. Every file must be named.
    ///
    /// # Errors
    /// A file cannot be read, does not have the described format, or is not named.
    pub fn read_all(directory: &Path) -> Result<Vec<Self>, AutoconfigMistake> {
        let list = directory.join("expected.jsonl");
        let text = std::fs::read_to_string(&list).map_err(|error| AutoconfigMistake::new(&list, 0, error))?;
        let message = |(index, line): (usize, &str)| {
            let entry: Entry = serde_json::from_str(line)
                .map_err(|error| AutoconfigMistake::new(&list, index + 1, error))?;
            let path = directory.join(&entry.file);
            let bytes = std::fs::read(&path).map_err(|error| AutoconfigMistake::new(&path, 0, error))?;
            Ok(Self { entry, bytes })
        };
        let messages: Vec<Self> = text.lines().enumerate().map(message).collect::<Result<_, _>>()?;
        let files =
            std::fs::read_dir(directory).map_err(|error| AutoconfigMistake::new(directory, 0, error))?;
        for file in files.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned())
        {
            if file.ends_with(".sse") && !messages.iter().any(|message| message.entry.file == file) {
                return Err(AutoconfigMistake::new(
                    &directory.join(file),
                    0,
                    "expected.jsonl does not name it",
                ));
            }
        }
        Ok(messages)
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.entry.file
    }

    /// Gives the message to a client in chunks of this many bytes. The client must print exactly the expected lines.
    ///
    /// # Errors
    /// The difference.
    pub fn play(&self, chunk: usize) -> Result<(), String> {
        let mut session = Session::new(Environments::default());
        session.handle_opened();
        while session.poll().is_some() {}
        let (mut decoder, now) = (Decoder::default(), Now::at(BEGIN));
        'play: for chunk in self.bytes.chunks(chunk.max(1)) {
            decoder.feed_slice(chunk);
            while let Some(frame) = decoder.next_frame() {
                let Frame::Event(event) = frame else { continue };
                if session.handle_event(event.kind(), event.data(), now) == Next::Restart {
                    session.handle_ended(StatusError::network("it is known why"), Duration::from_secs(1));
                    break 'play;
                }
            }
        }
        let shown: Vec<Value> = std::iter::from_fn(|| session.poll()).map(|event| event.to_json()).collect();
        let expected = &self.entry.lines;
        if shown.len() == expected.len()
            && shown.iter().zip(expected).all(|(line, expected)| has(line, expected))
        {
            return Ok(());
        }
        Err(format!(
            "{}: expected {}, shown {}",
            self.entry.file,
            Value::from(expected.clone()),
            Value::from(shown)
        ))
    }
}
