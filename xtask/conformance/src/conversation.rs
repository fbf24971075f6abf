//! Reading conversations: the format of `fixtures/pods/README.md`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A scripted conversation: the messages of a relay, the requests that a client must make, and the snapshots that its
/// caller must get.
#[derive(Debug)]
pub struct Conversation {
    pub(crate) header: Header,
    pub(crate) lines: Vec<Line>,
    pub(crate) finally: Option<Finally>,
}

/// A conversation that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}:{line}: {what}", path.display())]
pub struct Mistake {
    path: PathBuf,
    line: usize,
    what: String,
}

/// The first line.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) about: String,
    pub(crate) mode: Mode,
    #[serde(default)]
    pub(crate) options: Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Replay,
    State,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    pub(crate) since: Option<String>,
    pub(crate) namespaces: Vec<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) token: Option<String>,
    pub(crate) start_latest: bool,
    pub(crate) apply_backfill: bool,
    pub(crate) yield_bookmarks: bool,
    pub(crate) max_event_bytes: Option<usize>,
}

/// One of the other lines, with its number in the file.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) step: Step,
}

#[derive(Debug)]
pub(crate) enum Step {
    /// `/pods` is requested and answered.
    List(List),
    /// The stream is requested and answered.
    Connect(Connect),
    /// Bytes of the stream.
    Bytes(Vec<u8>),
    /// Nothing happens for this time.
    Time(Duration),
    /// The relay ends the connection.
    Cut,
    /// The client ends the connection.
    ClientEnds,
    /// The caller gets this snapshot.
    Expect(Box<Expect>),
}

#[derive(Debug)]
pub(crate) struct List {
    pub(crate) status: u16,
    pub(crate) content_type: String,
    pub(crate) body: Vec<u8>,
    /// `None`: not compared.
    pub(crate) at_least: Option<Option<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    #[serde(deserialize_with = "nullable")]
    pub(crate) since: Option<String>,
    #[serde(default)]
    pub(crate) start: Option<String>,
    #[serde(default = "ok")]
    pub(crate) status: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expect {
    pub(crate) phase: String,
    #[serde(default)]
    pub(crate) event: Option<String>,
    #[serde(default)]
    pub(crate) kind: Option<String>,
    #[serde(default)]
    pub(crate) ack: Option<String>,
    #[serde(default)]
    pub(crate) gap: Option<ExpectGap>,
    #[serde(default)]
    pub(crate) cause: Option<String>,
    #[serde(default)]
    pub(crate) changed: Vec<String>,
    /// `None`: as in the expectation before.
    #[serde(default)]
    pub(crate) pods: Option<Vec<ExpectPod>>,
    #[serde(default)]
    pub(crate) historic: bool,
    /// `None`: not compared.
    #[serde(default, deserialize_with = "given")]
    pub(crate) acknowledged: Option<Option<String>>,
    /// `None`: not compared. Known over HTTP only.
    #[serde(default)]
    pub(crate) freshness: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ExpectGap {
    pub(crate) reason: String,
    #[serde(default)]
    pub(crate) hash: Option<String>,
    #[serde(default)]
    pub(crate) sequence: Option<u64>,
}

/// A pod as `namespace/name[/uid][@version]`, or as fields of the flat form, of which the named ones are compared.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum ExpectPod {
    Short(String),
    Fields(serde_json::Map<String, serde_json::Value>),
}

/// What must hold once the relay has gone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Finally {
    #[serde(default, deserialize_with = "given")]
    pub(crate) acknowledged: Option<Option<String>>,
    #[serde(default)]
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Conversation {
    /// Reads all conversations of a directory, sorted by name.
    ///
    /// # Errors
    /// When the directory or a file cannot be read, or a line is not what the format says.
    pub fn read_all(directory: &Path) -> Result<Vec<Self>, Mistake> {
        let mistake =
            |error: std::io::Error| Mistake { path: directory.into(), line: 0, what: error.to_string() };
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(mistake)? {
            let path = entry.map_err(mistake)?.path();
            if path.extension().is_some_and(|extension| extension == "jsonl") {
                paths.push(path);
            }
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    /// Reads one file.
    ///
    /// # Errors
    /// When it cannot be read, or a line is not what the format says.
    pub fn read(path: &Path) -> Result<Self, Mistake> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| Mistake { path: path.into(), line: 0, what: error.to_string() })?;
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        Self::parse(stem, &text).map_err(|mistake| Mistake { path: path.into(), ..mistake })
    }

    /// Reads the text of a file whose name, without its ending, is `stem`.
    ///
    /// # Errors
    /// When a line is not what the format says.
    pub fn parse(stem: &str, text: &str) -> Result<Self, Mistake> {
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let mistake = |line: usize, what: String| Mistake { path: stem.into(), line, what };
        let (_, first) = lines.next().ok_or_else(|| mistake(1, "there is no header line".into()))?;
        let header: Header = read(first).map_err(|what| mistake(1, what))?;
        if header.name != stem {
            return Err(mistake(1, format!("it is named {:?}, not as its file", header.name)));
        }
        let mut conversation = Self { header, lines: Vec::new(), finally: None };
        for (at, line) in lines {
            let number = at + 1;
            if conversation.finally.is_some() {
                return Err(mistake(number, "`finally` is the last line".into()));
            }
            match parse_line(line).map_err(|what| mistake(number, what))? {
                Parsed::Step(step) => conversation.lines.push(Line { number, step }),
                Parsed::Finally(finally) => conversation.finally = Some(finally),
            }
        }
        conversation.check().map_err(|(line, what)| mistake(line, what))?;
        Ok(conversation)
    }

    /// The name of the conversation: the behaviour that it shows.
    pub fn name(&self) -> &str {
        &self.header.name
    }

    /// The behaviour in a sentence.
    pub fn about(&self) -> &str {
        &self.header.about
    }

    /// Checks that everything that is sent on a stream is sent on an open one.
    fn check(&self) -> Result<(), (usize, String)> {
        let (mut open, mut shown) = (false, false);
        for Line { number, step } in &self.lines {
            let wrong = |what: &str| Err((*number, what.to_owned()));
            match step {
                Step::Connect(_) if open => return wrong("the connection before it has no `end`"),
                Step::Connect(connect) => open = connect.status == 200,
                Step::Bytes(_) | Step::Time(_) | Step::Cut | Step::ClientEnds if !open => {
                    return wrong("no connection is open");
                }
                Step::Cut | Step::ClientEnds => open = false,
                Step::Expect(expect) => {
                    if expect.pods.is_none() && !shown {
                        return wrong("the first expectation needs `pods`");
                    }
                    shown = true;
                }
                Step::List(_) | Step::Bytes(_) | Step::Time(_) => {}
            }
        }
        if shown { Ok(()) } else { Err((1, "nothing is expected".into())) }
    }
}

enum Parsed {
    Step(Step),
    Finally(Finally),
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// One key determines the kind of a line.
fn parse_line(line: &str) -> Result<Parsed, String> {
    const KINDS: [&str; 8] = ["list", "list_lines", "connect", "sse", "bytes", "time", "end", "expect"];
    let keys: BTreeMap<String, Box<RawValue>> = read(line)?;
    if let Some(finally) = keys.get("finally") {
        return read(finally.get()).map(Parsed::Finally);
    }
    let kinds: Vec<&str> = KINDS.into_iter().filter(|kind| keys.contains_key(*kind)).collect();
    let [kind] = kinds[..] else {
        return Err(format!("it has {} of the keys {KINDS:?}, not one", kinds.len()));
    };
    let step = match kind {
        "list" | "list_lines" => Step::List(read::<ListLine>(line)?.into_list()?),
        "connect" => Step::Connect(read::<ConnectLine>(line)?.connect),
        "sse" => Step::Bytes(read::<SseLine>(line)?.into_bytes()?),
        "bytes" => {
            let bytes: BytesLine = read(line)?;
            Step::Bytes(bytes.bytes.repeat(bytes.repeat).into_bytes())
        }
        "time" => {
            let seconds = read::<TimeLine>(line)?.time;
            Step::Time(Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?)
        }
        "end" => match read::<EndLine>(line)?.end.as_str() {
            "cut" => Step::Cut,
            "client" => Step::ClientEnds,
            other => return Err(format!("a connection ends by `cut` or `client`, not {other:?}")),
        },
        _ => Step::Expect(Box::new(read::<ExpectLine>(line)?.expect)),
    };
    Ok(Parsed::Step(step))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListLine {
    #[serde(default)]
    list: Option<Box<RawValue>>,
    #[serde(default)]
    list_lines: Option<Vec<Box<RawValue>>>,
    #[serde(default, rename = "type")]
    content_type: Option<String>,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default, deserialize_with = "given")]
    at_least: Option<Option<String>>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

impl ListLine {
    fn into_list(self) -> Result<List, String> {
        let (body, kind) = match (self.list, self.list_lines) {
            (Some(body), _) => (literal(&body)?, "application/json"),
            (None, lines) => {
                let mut body = String::new();
                for line in lines.unwrap_or_default() {
                    body += &literal(&line)?;
                    body.push('\n');
                }
                (body, "application/x-ndjson")
            }
        };
        Ok(List {
            status: self.status,
            content_type: self.content_type.unwrap_or_else(|| kind.to_owned()),
            body: body.into_bytes(),
            at_least: self.at_least,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectLine {
    connect: Connect,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SseLine {
    #[serde(deserialize_with = "nullable")]
    sse: Option<String>,
    #[serde(default)]
    id: Option<String>,
    data: Box<RawValue>,
    #[serde(default)]
    retry: Option<u64>,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

impl SseLine {
    /// One block: a line per field, and one per line of the data.
    fn into_bytes(self) -> Result<Vec<u8>, String> {
        let mut block = String::new();
        if let Some(event) = &self.sse {
            block += &format!("event: {event}\n");
        }
        if let Some(id) = &self.id {
            block += &format!("id: {id}\n");
        }
        if let Some(retry) = self.retry {
            block += &format!("retry: {retry}\n");
        }
        for line in literal(&self.data)?.split('\n') {
            block += &format!("data: {line}\n");
        }
        block.push('\n');
        Ok(block.into_bytes())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BytesLine {
    bytes: String,
    #[serde(default = "once")]
    repeat: usize,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeLine {
    time: f64,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: String,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectLine {
    expect: Expect,
    #[serde(default, rename = "note")]
    _note: Option<String>,
}

/// A string stands for its content, and anything else for its own text, exactly as written.
fn literal(value: &RawValue) -> Result<String, String> {
    if value.get().starts_with('"') { read(value.get()) } else { Ok(value.get().to_owned()) }
}

fn ok() -> u16 {
    200
}

fn once() -> usize {
    1
}

/// A value that must be present, and may be null.
fn nullable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

/// Distinguishes null from an absent value.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"name":"x","about":"a","mode":"replay"}"#;
    const EXPECT: &str = r#"{"expect":{"phase":"CurrentSeed","pods":[]}}"#;

    fn parse(lines: &[&str]) -> Result<Conversation, String> {
        let text = [&[HEADER], lines].concat().join("\n");
        Conversation::parse("x", &text).map_err(|mistake| mistake.to_string())
    }

    #[test]
    fn what_is_on_the_wire_is_literal() {
        let lines = [
            r#"{"list":{"pods" : [ ]}}"#,
            r#"{"list":"not json"}"#,
            r#"{"list_lines":[{"count": 0},{"end":true}]}"#,
            EXPECT,
            r#"{"connect":{"since":null}}"#,
            r#"{"sse":"pod","id":"h1","retry":5,"data":{"b":1, "a":2}}"#,
            r#"{"sse":null,"data":"one\ntwo"}"#,
            r#"{"bytes":": x\n","repeat":2}"#,
        ];
        let conversation = parse(&lines).unwrap();
        let wire: Vec<String> = conversation
            .lines
            .iter()
            .filter_map(|line| match &line.step {
                Step::List(list) => Some(&list.body),
                Step::Bytes(bytes) => Some(bytes),
                _ => None,
            })
            .map(|bytes| String::from_utf8(bytes.clone()).unwrap())
            .collect();
        let expected = [
            "{\"pods\" : [ ]}",
            "not json",
            "{\"count\": 0}\n{\"end\":true}\n",
            "event: pod\nid: h1\nretry: 5\ndata: {\"b\":1, \"a\":2}\n\n",
            "data: one\ndata: two\n\n",
            ": x\n: x\n",
        ];
        assert_eq!(wire, expected);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (lines, what) in [
            (&[r#"{"list":[],"sse":"pod","data":{}}"#][..], "x:2: it has 2 of the keys"),
            (&[r#"{"note":"nothing"}"#], "x:2: it has 0 of the keys"),
            (&[EXPECT, r#"{"sse":"pod","data":{}}"#], "x:3: no connection is open"),
            (&[EXPECT, r#"{"connect":{}}"#], "x:3: missing field `since`"),
            (
                &[EXPECT, r#"{"connect":{"since":null}}"#, r#"{"connect":{"since":null}}"#],
                "x:4: the connection",
            ),
            (&[EXPECT, r#"{"connect":{"since":null}}"#, r#"{"end":"maybe"}"#], "x:4: a connection ends by"),
            (&[r#"{"expect":{"phase":"Live"}}"#], "x:2: the first expectation needs `pods`"),
            (&[r#"{"expect":{"phase":"Live","podz":[]}}"#], "x:2: unknown field `podz`"),
            (&[EXPECT, r#"{"finally":{}}"#, EXPECT], "x:4: `finally` is the last line"),
            (&[r#"{"list":[]}"#], "x:1: nothing is expected"),
        ] {
            let error = parse(lines).unwrap_err();
            assert!(error.starts_with(what), "{error}");
        }
        let error = Conversation::parse("y", HEADER).unwrap_err().to_string();
        assert!(error.contains("not as its file"), "{error}");
    }
}
