//! `/pods`: the current pods with the position they reflect, decoded while the bytes arrive.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Epoch, EventHash, Pod, PodKey};
use crate::error::JsonError;
use crate::json::{Scan, Scanner, Unusual};
use crate::time::Timestamp;

/// The current pods and the position of the log that they reflect: events at or below it are included.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PodList {
    /// The pods, in the relay's order.
    pub pods: Vec<Pod>,
    /// The position; `None` from a relay that does not send it.
    pub hash: Option<EventHash>,
    /// Its sequence.
    pub sequence: Option<u64>,
    /// The log's epoch.
    pub epoch: Option<Epoch>,
    /// When the list was made.
    pub as_of: Option<Timestamp>,
}

/// The format of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ListFormat {
    /// One JSON document: `{"pods":[..]}`, `{"items":[..]}` or a bare array.
    Json,
    /// A header line, one pod per line, an end line.
    Ndjson,
}

impl ListFormat {
    /// The format that a `Content-Type` announces; anything but NDJSON is read as one JSON document.
    pub fn from_content_type(content_type: &str) -> Self {
        let essence = content_type.split(';').next().unwrap_or("").trim();
        let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl"];
        if lines.iter().any(|l| essence.eq_ignore_ascii_case(l)) { Self::Ndjson } else { Self::Json }
    }
}

/// Bounds of a [`ListDecoder`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ListLimits {
    /// Bytes of one NDJSON line, and so of one pod. Default 4 MiB; at most this much is buffered.
    pub line: usize,
    /// Bytes of a whole JSON document, which must be buffered. Default 1 GiB.
    pub document: usize,
    /// Pods in a list. Default 5 million.
    pub pods: usize,
}

impl Default for ListLimits {
    fn default() -> Self {
        Self { line: 4 << 20, document: 1 << 30, pods: 5_000_000 }
    }
}

/// Decodes a list from chunks of its body. NDJSON is decoded pod by pod, so that the whole text is never in memory.
///
/// A body that ends early or cannot be decoded is an error, never a short list.
///
/// ```
/// use relay_proto::pods::{ListDecoder, ListFormat, ListLimits};
///
/// let mut decoder = ListDecoder::new(ListFormat::Ndjson, ListLimits::default());
/// decoder.feed(b"{\"count\":1,\"hash\":\"h7\",\"sequence\":7}\n{\"namespace\":\"prod\",")?;
/// decoder.feed(b"\"name\":\"web-1\"}\n{\"end\":true,\"count\":1}\n")?;
/// let list = decoder.finish()?;
/// assert_eq!((list.pods.len(), list.sequence), (1, Some(7)));
/// # Ok::<(), relay_proto::pods::ListError>(())
/// ```
pub struct ListDecoder {
    format: ListFormat,
    limits: ListLimits,
    reuse: Option<Box<Reuse>>,
    /// The unfinished line, or the document so far.
    buffer: Vec<u8>,
    list: PodList,
    announced: Option<u64>,
    lines: u64,
    ended: bool,
}

/// Finds a pod that the caller already has.
type Reuse = dyn Fn(&PodKey) -> Option<Pod> + Send + Sync;

impl ListDecoder {
    /// A decoder at the start of a body.
    pub fn new(format: ListFormat, limits: ListLimits) -> Self {
        Self {
            format,
            limits,
            reuse: None,
            buffer: Vec::new(),
            list: PodList::default(),
            announced: None,
            lines: 0,
            ended: false,
        }
    }

    /// Looks each pod up with `held`: an equal pod is put into the list instead of the received one, so that a list
    /// of known pods takes hardly any memory.
    #[must_use]
    pub fn reuse(mut self, held: impl Fn(&PodKey) -> Option<Pod> + Send + Sync + 'static) -> Self {
        self.reuse = Some(Box::new(held));
        self
    }

    /// Decodes the next bytes of the body.
    ///
    /// # Errors
    /// On a malformed line, text after the end line, or when a limit is exceeded.
    pub fn feed(&mut self, mut chunk: &[u8]) -> Result<(), ListError> {
        if self.format == ListFormat::Json {
            self.hold(chunk, self.limits.document)?;
            return Ok(());
        }
        while let Some(at) = memchr::memchr(b'\n', chunk) {
            let (head, rest) = (&chunk[..at], &chunk[at + 1..]);
            if self.buffer.is_empty() {
                self.line(head)?;
            } else {
                self.hold(head, self.limits.line)?;
                let line = std::mem::take(&mut self.buffer);
                self.line(&line)?;
                self.buffer = line;
                self.buffer.clear();
            }
            chunk = rest;
        }
        self.hold(chunk, self.limits.line)
    }

    /// Number of pods read so far, and the announced number, if there is one.
    pub fn progress(&self) -> (u64, Option<u64>) {
        (self.list.pods.len() as u64, self.announced)
    }

    /// Ends the body and returns the list.
    ///
    /// # Errors
    /// When the body ended early, is malformed, or counts do not agree.
    pub fn finish(mut self) -> Result<PodList, ListError> {
        if self.format == ListFormat::Json {
            return self.document();
        }
        if !self.buffer.is_empty() {
            let line = std::mem::take(&mut self.buffer);
            self.line(&line)?;
        }
        let count = self.list.pods.len() as u64;
        match self.announced {
            _ if !self.ended => Err(ListError::Truncated { pods: count }),
            Some(announced) if announced != count => Err(ListError::Count { announced, count }),
            _ => Ok(self.list),
        }
    }

    fn hold(&mut self, bytes: &[u8], limit: usize) -> Result<(), ListError> {
        if self.buffer.len() + bytes.len() > limit {
            return Err(ListError::TooLarge { what: "bytes of a line or document", limit });
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), ListError> {
        if line.len() > self.limits.line {
            return Err(ListError::TooLarge { what: "bytes of a line or document", limit: self.limits.line });
        }
        self.lines += 1;
        let line_number = self.lines;
        let malformed =
            |error: serde_json::Error| ListError::Malformed { line: line_number, source: error.into() };
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        if self.ended {
            return Err(ListError::AfterEnd);
        }
        if self.lines == 1 {
            let header: Header = serde_json::from_slice(line).map_err(malformed)?;
            self.announced = header.count;
            header.position.put(&mut self.list);
            return Ok(());
        }
        // A pod with an `end` field is not accepted by the scan.
        if let Ok(Ok(pod)) = std::str::from_utf8(line).map(Pod::scan_whole) {
            return self.push(pod);
        }
        if let Ok(end) = serde_json::from_slice::<End>(line) {
            let count = self.list.pods.len() as u64;
            if !end.end || end.count.is_some_and(|announced| announced != count) {
                return Err(ListError::Count { announced: end.count.unwrap_or(0), count });
            }
            self.ended = true;
            return Ok(());
        }
        let pod = if self.list.pods.len() < self.limits.pods {
            serde_json::from_slice(line).map_err(malformed)
        } else {
            Err(self.too_many())
        };
        self.push(pod?)
    }

    fn push(&mut self, pod: Pod) -> Result<(), ListError> {
        if self.list.pods.len() >= self.limits.pods {
            return Err(self.too_many());
        }
        let pod = self.held(pod);
        self.list.pods.push(pod);
        Ok(())
    }

    fn too_many(&self) -> ListError {
        ListError::TooLarge { what: "pods of a list", limit: self.limits.pods }
    }

    /// The equal pod that the caller already has, or this one.
    fn held(&self, pod: Pod) -> Pod {
        let held = self.reuse.as_ref().and_then(|held| held(pod.key()));
        held.filter(|held| *held == pod).unwrap_or(pod)
    }

    fn document(self) -> Result<PodList, ListError> {
        let text = std::str::from_utf8(&self.buffer).map_err(|_| Unusual);
        let list = text.and_then(|text| self.scan(text)).or_else(|Unusual| self.decode_tolerantly())?;
        if list.pods.len() > self.limits.pods {
            return Err(self.too_many());
        }
        Ok(list)
    }

    /// Reads a document in the usual form; other forms are left to serde.
    fn scan(&self, text: &str) -> Scan<PodList> {
        let mut list = PodList::default();
        let mut scanner = Scanner::new(text)?;
        let pods = |list: &mut PodList, scanner: &mut Scanner<'_>| {
            scanner.array(|scanner| {
                list.pods.push(self.held(Pod::scan_any(scanner)?));
                Ok(())
            })
        };
        if scanner.peek()? == b'[' {
            pods(&mut list, &mut scanner)?;
            return scanner.end().map(|()| list);
        }
        let field = |scanner: &mut Scanner<'_>, at| {
            match at {
                // A list that is null is an empty one.
                _ if scanner.null()? => {}
                0 => pods(&mut list, scanner)?,
                1 => {
                    let hash = scanner.string()?.plain(text)?;
                    list.hash = Some(EventHash::new(hash).map_err(|_| Unusual)?);
                }
                2 => list.sequence = Some(scanner.count()?),
                3 => list.epoch = Some(Epoch::new(scanner.string()?.plain(text)?)),
                _ => list.as_of = Some(Timestamp::new(scanner.string()?.plain(text)?)),
            }
            Ok(())
        };
        let other = |scanner: &mut Scanner<'_>, key: &str| match key {
            "items" | "asOf" => Err(Unusual),
            _ => scanner.skip(),
        };
        let names = ["\"pods\":", "\"hash\":", "\"sequence\":", "\"epoch\":", "\"as_of\":"];
        let seen = scanner.fields(&names, field, other)?;
        if seen & 1 == 0 {
            return Err(Unusual);
        }
        scanner.end().map(|()| list)
    }

    pub(super) fn decode_tolerantly(&self) -> Result<PodList, ListError> {
        let malformed = |error: serde_json::Error| ListError::Malformed { line: 1, source: error.into() };
        let first = self.buffer.iter().find(|b| !b.is_ascii_whitespace());
        let mut list = PodList::default();
        let pods: Option<Vec<Pod>> = if matches!(first, Some(b'[' | b'n')) {
            serde_json::from_slice(&self.buffer).map_err(malformed)?
        } else {
            let document: Document = serde_json::from_slice(&self.buffer).map_err(malformed)?;
            document.position.put(&mut list);
            document.pods
        };
        list.pods = pods.unwrap_or_default().into_iter().map(|pod| self.held(pod)).collect();
        Ok(list)
    }
}

impl fmt::Debug for ListDecoder {
    /// Shows the progress, without the buffer, which may contain secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListDecoder")
            .field("format", &self.format)
            .field("limits", &self.limits)
            .field("pods", &self.list.pods.len())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Header {
    count: Option<u64>,
    #[serde(flatten)]
    position: ListPosition,
}

#[derive(Deserialize)]
struct ListPosition {
    hash: Option<EventHash>,
    sequence: Option<u64>,
    epoch: Option<Epoch>,
    #[serde(alias = "asOf")]
    as_of: Option<Timestamp>,
}

impl ListPosition {
    fn put(self, list: &mut PodList) {
        (list.hash, list.sequence, list.epoch, list.as_of) =
            (self.hash, self.sequence, self.epoch, self.as_of);
    }
}

#[derive(Deserialize)]
struct End {
    end: bool,
    count: Option<u64>,
}

#[derive(Deserialize)]
struct Document {
    /// Null is an empty list, as written by servers in Go. The field is required.
    #[serde(alias = "items", deserialize_with = "Option::deserialize")]
    pods: Option<Vec<Pod>>,
    #[serde(flatten)]
    position: ListPosition,
}

/// A list that cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The body ended before its end line.
    #[error("the list ended early, after {pods} pods")]
    Truncated {
        /// Pods read so far.
        pods: u64,
    },
    /// A line, or the document, is malformed.
    #[error("line {line} of the list")]
    Malformed {
        /// Line number, from 1.
        line: u64,
        /// What is wrong.
        source: JsonError,
    },
    /// The announced count differs from the number of pods.
    #[error("the list announced {announced} pods and brought {count}")]
    Count {
        /// What was announced.
        announced: u64,
        /// What came.
        count: u64,
    },
    /// There is text after the end line.
    #[error("the list goes on after its end line")]
    AfterEnd,
    /// A limit is exceeded.
    #[error("the list is over the limit of {limit} {what}")]
    TooLarge {
        /// What is limited.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        "{\"count\":2,\"hash\":\"h9\",\"sequence\":9,\"epoch\":\"e\",\"as_of\":\"2026-11-21T09:00:00Z\"}\n",
        "{\"namespace\":\"prod\",\"name\":\"a\"}\n",
        "{\"namespace\":\"prod\",\"name\":\"b\",\"labels\":{\"x\":\"ü\"}}\r\n",
        "{\"end\":true,\"count\":2}\n"
    );

    fn decode(format: ListFormat, body: &[u8], chunk: usize) -> Result<PodList, ListError> {
        let mut decoder = ListDecoder::new(format, ListLimits { line: 80, document: 400, pods: 3 });
        for part in body.chunks(chunk) {
            decoder.feed(part)?;
        }
        decoder.finish()
    }

    #[test]
    fn a_list_that_is_null_is_empty_and_one_that_is_missing_is_an_error() {
        for body in [
            r#"{"pods":null,"hash":"h9","sequence":9}"#,
            r#"{"hash":"h9","sequence":9,"items":null,"kind":"PodList"}"#,
            r#"{"pods":[],"hash":"h9","sequence":9}"#,
        ] {
            let list = decode(ListFormat::Json, body.as_bytes(), 400).unwrap();
            assert_eq!((list.pods.len(), list.sequence), (0, Some(9)), "{body}");
        }
        assert_eq!(decode(ListFormat::Json, b" null", 400).unwrap(), PodList::default());
        for body in [r#"{"hash":"h9"}"#, r#"{"pods":0}"#, r#"{"pods":{}}"#, "nul", "0"] {
            assert!(decode(ListFormat::Json, body.as_bytes(), 400).is_err(), "{body}");
        }
    }

    #[test]
    fn ndjson_is_the_same_in_every_chunking() {
        for chunk in 1..=LINES.len() {
            let list = decode(ListFormat::Ndjson, LINES.as_bytes(), chunk);
            // The header is 79 bytes long, which just fits the limit.
            let list = list.unwrap_or_else(|error| panic!("chunks of {chunk}: {error}"));
            assert_eq!((list.pods.len(), list.sequence, list.hash.unwrap().as_str()), (2, Some(9), "h9"));
            assert_eq!(list.epoch.unwrap().as_str(), "e");
        }
    }

    #[test]
    fn every_truncation_of_ndjson_is_an_error() {
        let end = LINES.trim_end().len();
        for cut in 0..end {
            assert!(decode(ListFormat::Ndjson, &LINES.as_bytes()[..cut], 7).is_err(), "cut at {cut}");
        }
        assert!(
            decode(ListFormat::Ndjson, &LINES.as_bytes()[..end], 7).is_ok(),
            "the last line end may be missing"
        );
    }

    #[test]
    fn json_comes_bare_or_wrapped() {
        for (body, hash) in [
            (r#"[{"namespace":"a","name":"b"}]"#, None),
            (r#" {"items":[{"metadata":{"namespace":"a","name":"b"}}]}"#, None),
            (r#"{"pods":[{"namespace":"a","name":"b"}],"hash":"h","sequence":1,"asOf":"x"}"#, Some("h")),
        ] {
            let list = decode(ListFormat::Json, body.as_bytes(), 5).unwrap();
            assert_eq!(list.pods[0].key().to_string(), "a/b");
            assert_eq!(list.hash.as_ref().map(EventHash::as_str), hash);
        }
    }

    #[test]
    fn bad_lists_name_what_is_wrong() {
        let pod = "{\"namespace\":\"a\",\"name\":\"b\"}\n";
        let end = "{\"end\":true}\n";
        for (format, body, why) in [
            (ListFormat::Ndjson, String::new(), "ended early, after 0"),
            (ListFormat::Ndjson, format!("{{\"count\":1}}\n{pod}"), "ended early, after 1"),
            (ListFormat::Ndjson, format!("{{\"count\":2}}\n{pod}{end}"), "announced 2 pods and brought 1"),
            (ListFormat::Ndjson, format!("{{}}\n{pod}{{\"end\":true,\"count\":7}}\n"), "announced 7"),
            (ListFormat::Ndjson, format!("{{}}\n{pod}{{\"nam\n"), "line 3"),
            (ListFormat::Ndjson, format!("{{}}\n{end}{pod}"), "after its end"),
            (ListFormat::Ndjson, format!("{{}}\n{}", pod.repeat(4)), "limit of 3 pods"),
            (ListFormat::Ndjson, "x".repeat(100), "limit of 80 bytes"),
            (ListFormat::Json, "x".repeat(500), "limit of 400 bytes"),
            (ListFormat::Json, "{\"pods\":[".into(), "EOF"),
            (ListFormat::Json, "{\"nothing\":1}".into(), "pods"),
            (ListFormat::Json, String::new(), "EOF"),
            (ListFormat::Json, format!("[{}]", [pod.trim(); 4].join(",")), "limit of 3 pods"),
        ] {
            for chunk in [1, 9, 1000] {
                let error = decode(format, body.as_bytes(), chunk).unwrap_err();
                let error = crate::error::chain(&error).to_string();
                assert!(error.contains(why), "{body}: {error}");
            }
        }
    }

    #[test]
    fn pods_that_are_held_already_are_taken_again() {
        let text = |name: &str, more: &str| {
            format!("{{\"namespace\":\"a\",\"name\":\"{name}\",\"uid\":\"{more}\"}}")
        };
        let held: Vec<Pod> =
            ["same", "spaced", "changed"].map(|name| Pod::from_json(&text(name, "u")).unwrap()).into();
        let pods = [
            text("same", "u"),
            text("spaced", "u").replace(':', ": "),
            text("changed", "v"),
            text("new", "u"),
        ];
        let lines = format!("{{}}\n{}\n{{\"end\":true}}\n", pods.join("\n"));
        let odd = format!("{{\"pods\":[{}],\"asOf\":null}}", pods.join(","));
        for (format, body) in [
            (ListFormat::Ndjson, lines),
            (ListFormat::Json, format!("[{}]", pods.join(","))),
            (ListFormat::Json, odd),
        ] {
            let before = held.clone();
            let mut decoder = ListDecoder::new(format, ListLimits::default())
                .reuse(move |key| before.iter().find(|pod| pod.key() == key).cloned());
            decoder.feed(body.as_bytes()).unwrap();
            let list = decoder.finish().unwrap();
            let same = |at: usize| held.iter().any(|pod| pod.is_same(&list.pods[at]));
            assert_eq!([same(0), same(1), same(2), same(3)], [true, true, false, false], "{body}");
            assert_eq!((list.pods[2].uid(), list.pods[3].name()), (Some("v"), "new"));
        }
    }

    #[test]
    fn the_content_type_tells_the_format() {
        for (content_type, format) in [
            ("application/x-ndjson", ListFormat::Ndjson),
            ("Application/X-NDJSON; charset=utf-8", ListFormat::Ndjson),
            ("application/json", ListFormat::Json),
            ("", ListFormat::Json),
        ] {
            assert_eq!(ListFormat::from_content_type(content_type), format, "{content_type}");
        }
    }
}
