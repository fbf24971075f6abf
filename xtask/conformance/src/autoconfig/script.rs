//! Reading conversations: the format of `fixtures/autoconfig/README.md`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// A conversation that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {what}", path.display())]
pub struct AutoconfigMistake {
    path: PathBuf,
    line: usize,
    what: String,
}

impl AutoconfigMistake {
    pub(super) fn new(path: &Path, line: usize, what: impl ToString) -> Self {
        Self { path: path.to_owned(), line, what: what.to_string() }
    }
}

/// The messages of a service, and the lines that a client must print.
#[derive(Debug)]
pub(super) struct Script {
    header: Header,
    /// The steps, each with its line in the file.
    pub(super) steps: Vec<(usize, Step)>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    about: String,
    #[serde(default)]
    hold_ms: u64,
}

/// The next event, or the next printed line.
#[derive(Debug)]
pub(super) enum Step {
    /// The client sends a request and is answered with this status; 200 is a stream.
    Answer(u16),
    /// The stream delivers these bytes.
    Bytes(String),
    /// This many milliseconds pass; below 0 the wall clock is set back.
    Time(i64),
    /// The service ends the connection.
    Cut,
    /// The client has ended the connection by itself.
    Left,
    /// The client prints a line that contains this.
    Line(Value),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    answer: Option<u16>,
    event: Option<String>,
    data: Option<Box<RawValue>>,
    bytes: Option<String>,
    time: Option<i64>,
    end: Option<String>,
    line: Option<Value>,
}

impl Raw {
    fn step(self) -> Result<Step, String> {
        match self {
            Self { event: Some(name), data: Some(data), .. } => {
                // A string stands for its content, and anything else for its own text.
                let text = match data.get().starts_with('"') {
                    true => serde_json::from_str(data.get()).map_err(|error| error.to_string())?,
                    false => data.get().to_owned(),
                };
                Ok(Step::Bytes(format!("event: {name}\ndata: {text}\n\n")))
            }
            Self { answer: Some(status), .. } => Ok(Step::Answer(status)),
            Self { bytes: Some(bytes), .. } => Ok(Step::Bytes(bytes)),
            Self { time: Some(time), .. } => Ok(Step::Time(time)),
            Self { line: Some(line), .. } => Ok(Step::Line(line)),
            Self { end: Some(end), .. } if end == "cut" => Ok(Step::Cut),
            Self { end: Some(end), .. } if end == "client" => Ok(Step::Left),
            _ => Err("a line is an answer, an event with data, bytes, a time, an end or a line".to_owned()),
        }
    }
}

impl Script {
    fn read(path: &Path, name: &str, text: &str) -> Result<Self, AutoconfigMistake> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (_, first) = lines.next().ok_or_else(|| AutoconfigMistake::new(path, 1, "it is empty"))?;
        let header: Header =
            serde_json::from_str(first).map_err(|error| AutoconfigMistake::new(path, 1, error))?;
        if header.name != name {
            return Err(AutoconfigMistake::new(path, 1, "its name is not that of the file"));
        }
        let step = |(index, line): (usize, &str)| {
            let raw = serde_json::from_str::<Raw>(line).map_err(|error| error.to_string());
            let step =
                raw.and_then(Raw::step).map_err(|what| AutoconfigMistake::new(path, index + 1, what))?;
            Ok((index + 1, step))
        };
        Ok(Self { header, steps: lines.map(step).collect::<Result<_, _>>()? })
    }

    pub(super) fn read_all(directory: &Path) -> Result<Vec<Self>, AutoconfigMistake> {
        let io = |error: std::io::Error| AutoconfigMistake::new(directory, 0, error);
        let mut paths = std::fs::read_dir(directory)
            .map_err(io)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(io)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        paths.sort();
        let read = |path: &PathBuf| {
            let text =
                std::fs::read_to_string(path).map_err(|error| AutoconfigMistake::new(path, 0, error))?;
            Self::read(path, &path.file_stem().unwrap_or_default().to_string_lossy(), &text)
        };
        paths.iter().map(read).collect()
    }

    /// The name of the conversation, which is that of its file.
    pub(super) fn name(&self) -> &str {
        &self.header.name
    }

    /// The behaviour that the conversation shows.
    pub(super) fn about(&self) -> &str {
        &self.header.about
    }

    /// How long an empty put is held back, in milliseconds.
    pub(super) fn hold_ms(&self) -> u64 {
        self.header.hold_ms
    }
}
