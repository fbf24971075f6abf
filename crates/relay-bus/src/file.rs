//! Objects in a file: the same manifests that `kubectl apply` takes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use relay_proto::bus::{Kind, Manifest, Object};
use serde_json::Value;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;
use tokio::io::AsyncReadExt as _;

use crate::kube::Input;

/// How often the file is checked.
const LOOK: Duration = Duration::from_millis(500);
/// Bytes of a file that are read.
const MAX_FILE: u64 = 256 << 20;

/// A file that is read again when it changes.
#[derive(Debug)]
pub(crate) struct FileSource {
    path: PathBuf,
    seen: Option<Stamp>,
    /// A hash of the last content: if only the modification time changes, nothing is reported.
    content: Option<u64>,
}

type Stamp = (u64, Option<SystemTime>, u64);

impl FileSource {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: None, content: None }
    }

    /// The objects as they are now.
    pub(crate) async fn read(&mut self) -> Result<Manifest, String> {
        let named = |what: String| format!("{}: {what}", self.path.display());
        let stamp = stamp(&self.path).await.map_err(|error| named(error.to_string()))?;
        self.seen = Some(stamp);
        if stamp.0 > MAX_FILE {
            return Err(named(format!("it is over {MAX_FILE} bytes")));
        }
        let content = read(&self.path).await.map_err(|error| named(error.to_string()))?;
        self.content = Some(hash(&content));
        if content.len() as u64 > MAX_FILE {
            return Err(named(format!("it is over {MAX_FILE} bytes")));
        }
        let documents = documents(&content).map_err(&named)?;
        drop(content);
        Manifest::from_documents(documents).map_err(|error| named(error.to_string()))
    }

    /// Whether the file existed at the last check.
    pub(crate) fn is_there(&self) -> bool {
        self.seen.is_some()
    }

    /// The objects after the next change, or why they cannot be used.
    pub(crate) async fn changed(&mut self) -> Result<Manifest, String> {
        loop {
            tokio::time::sleep(LOOK).await;
            let now = stamp(&self.path).await.ok();
            if now == self.seen {
                continue;
            }
            let before = self.content.take();
            let read = self.read().await;
            if now.is_none() {
                self.seen = None;
            }
            if self.content == before && read.is_ok() {
                continue;
            }
            return read;
        }
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Length, modification time and inode number. At least one of them changes with a write or a rename.
async fn stamp(path: &Path) -> std::io::Result<Stamp> {
    let metadata = tokio::fs::metadata(path).await?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&metadata);
    #[cfg(not(unix))]
    let number = 0;
    Ok((metadata.len(), metadata.modified().ok(), number))
}

/// Reads the whole file, or one byte more than the limit. It does not rely on the length, which is 0 for devices.
async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    tokio::fs::File::open(path).await?.take(MAX_FILE + 1).read_to_end(&mut content).await?;
    Ok(content)
}

fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())?;
    if text.trim_start().starts_with(['{', '[']) {
        let read: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
        if let Ok(documents) = read {
            return Ok(documents);
        }
    }
    // Only the limit of the file's size applies. The library's own limits are for small files, and some thousand
    // objects would exceed them.
    let most = MAX_FILE as usize;
    let budget = serde_saphyr::budget! {
        max_documents: most,
        max_nodes: most,
        max_events: most,
        max_total_scalar_bytes: most,
        max_reader_input_bytes: Some(most),
    };
    let options = serde_saphyr::options! { with_snippet: false, budget: budget };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place = error.location();
        let place =
            place.map_or(String::new(), |at| format!(" at line {}, column {}", at.line(), at.column()));
        let mut cause = &error;
        while let Error::AliasError { error, .. } | Error::WithSnippet { error, .. } = cause {
            cause = error;
        }
        match cause {
            Error::Budget { breach, .. } => format!("{}{place}", over(breach)),
            Error::AliasReplayLimitExceeded { max_total_replayed_events: most, .. } => {
                format!("its aliases stand for over {most} values{place}")
            }
            Error::AliasReplayStackDepthExceeded { max_depth, .. } => {
                format!("its aliases are nested over {max_depth} deep{place}")
            }
            _ => format!("its syntax is wrong{place}"),
        }
    })
}

/// The limit that a document breaks, in our words. Limits that a file of the allowed size cannot reach keep the
/// parser's text.
fn over(breach: &BudgetBreach) -> String {
    let limits = serde_saphyr::Budget::default();
    match breach {
        BudgetBreach::Depth { .. } => format!("its values are nested over {} deep", limits.max_depth),
        BudgetBreach::Anchors { .. } => format!("it has over {} anchors", limits.max_anchors),
        BudgetBreach::Aliases { .. } => format!("it has over {} aliases", limits.max_aliases),
        BudgetBreach::AliasAnchorRatio { .. } => {
            let (least, times) = (limits.alias_anchor_min_aliases, limits.alias_anchor_ratio_multiplier);
            format!("it has over {least} aliases, and over {times} for each anchor")
        }
        BudgetBreach::MergeKeys { .. } => format!("it has over {} merge keys", limits.max_merge_keys),
        BudgetBreach::RecordedAnchorEvents { .. } => {
            format!("its anchors name over {} values", limits.max_recorded_anchor_events)
        }
        BudgetBreach::RecordedAnchorBytes { .. } => {
            format!("its anchors name over {} bytes", limits.max_recorded_anchor_bytes)
        }
        other => format!("it is over a limit: {other:?}"),
    }
}

/// The lists of a file's objects.
pub(crate) fn lists(manifest: Manifest) -> Vec<Input> {
    let (buses, channels) = (manifest.buses, manifest.channels);
    let list = |kind, objects| Input::List { kind, objects, kept: Vec::new() };
    vec![
        list(Kind::Bus, buses.into_iter().map(Object::Bus).collect()),
        list(Kind::Channel, channels.into_iter().map(Object::Channel).collect()),
        list(Kind::Subscription, manifest.subscriptions.into_iter().map(Object::Subscription).collect()),
        Input::Changed,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_and_json_in_all_their_forms() {
        for (text, count) in [
            ("a: 1\n---\nb: 2\n", 2),
            ("# only a comment\na: 1\n", 1),
            ("{\"a\": 1}", 1),
            ("[{\"a\": 1}, {\"b\": 2}]", 1),
            ("{a: 1, b: [x]}", 1),
        ] {
            assert_eq!(documents(text.as_bytes()).unwrap().len(), count, "{text}");
        }
        assert!(documents(b"a: [1").unwrap_err().contains("syntax"));
        assert!(documents(b"\xff").unwrap_err().contains("UTF-8"));
    }

    #[tokio::test]
    async fn a_change_is_seen_also_by_rename_and_a_touch_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("objects.yaml");
        let object = |name: &str| {
            format!("apiVersion: channels.knative.dev/v1alpha1\nkind: Channel\nmetadata: {{name: {name}}}\n")
        };
        std::fs::write(&path, object("one")).unwrap();
        let mut file = FileSource::new(&path);
        assert_eq!(file.read().await.unwrap().channels[0].metadata.name, "one");
        let other = directory.path().join("other");
        std::fs::write(&other, object("two")).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(file.changed().await.unwrap().channels[0].metadata.name, "two");
        std::fs::write(&path, "kind: Pod\n").unwrap();
        assert!(file.changed().await.unwrap_err().contains("kind is not known"));
    }

    #[test]
    fn a_limit_of_the_parser_is_named() {
        let deep = |open: &str, close: &str| format!("a: {}{}", open.repeat(70), close.repeat(70));
        let laughs: String = (1..9).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
            let name = format!("*a{}", n - 1);
            text + &format!("a{n}: &a{n} [{}]\n", [name.as_str(); 40].join(", "))
        });
        let many = |count: usize| -> String { format!("a: &a 1\nb: [{}]\n", vec!["*a"; count].join(", ")) };
        let merges = format!("a: &a {{k: 1}}\nb:\n{}", "- <<: *a\n".repeat(200));
        for (text, limit) in [
            (deep("[", "]"), "nested over 64 deep"),
            (deep("{a: ", "}"), "nested over 64 deep"),
            (laughs, "its anchors name over 1000000 values"),
            (many(200), "over 100 aliases, and over 10 for each anchor"),
            (merges, "over 100 aliases, and over 10 for each anchor"),
            ((0..50_002).fold(String::new(), |text, n| text + &format!("- &a{n} x\n")), "over 50000 anchors"),
        ] {
            let error = documents(text.as_bytes()).unwrap_err();
            assert!(error.contains(limit), "{text:.80}: {error}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_directory_is_no_file_of_objects() {
        let directory = tempfile::tempdir().unwrap();
        let error = FileSource::new(directory.path()).read().await.unwrap_err();
        assert!(error.starts_with(&directory.path().display().to_string()), "{error}");
    }

    #[test]
    fn thousands_of_objects_are_read() {
        let text: String =
            (0..3000).map(|n| format!("---\nkind: Channel\nmetadata: {{name: c{n}}}\n")).collect();
        assert_eq!(documents(text.as_bytes()).unwrap().len(), 3000);
    }
}
