//! The versions of all entries, deleted ones included, in a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use relay_proto::autoconfig::{write_environment, write_filter};
use relay_state::files::{FileError, LockedFile};
use serde::{Deserialize, Serialize};

use crate::file::Configuration;

/// The format and its version.
const FORMAT: &str = "relay auto-configuration versions 2";

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VersionsError {
    /// It cannot be read or written, is damaged, or another process has it.
    #[error("the state file cannot be used")]
    File {
        /// What is wrong with it.
        #[from]
        source: FileError,
    },
    /// The system has no random numbers.
    #[error("no random bytes for a salt")]
    Random,
    /// An entry has changed, but its version is already the highest possible one, so clients would ignore the change.
    #[error(
        "{place} has version {}, the highest there is, so that no change of it can be told: undo it, or use another id",
        i64::MAX
    )]
    Exhausted {
        /// What has changed, such as `environments.e1`.
        place: String,
    },
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Environment,
    Filter,
}

impl Kind {
    fn exhausted(self, id: &str) -> VersionsError {
        let list = match self {
            Self::Environment => "environments",
            Self::Filter => "filters",
        };
        VersionsError::Exhausted { place: format!("{list}.{}", id.escape_debug()) }
    }
}

/// An entry with a new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) version: i64,
    /// Whether it was deleted.
    pub(crate) gone: bool,
}

/// The versions on disk.
#[derive(Debug)]
pub(crate) struct Versions {
    file: LockedFile,
    state: State,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    format: String,
    /// The salt of the digests, in hexadecimal, against tables of keys.
    salt: String,
    environments: BTreeMap<String, Entry>,
    filters: BTreeMap<String, Entry>,
    /// The digest of all of the above, against damage: a version must never go back.
    sum: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: i64,
    /// The digest of its content; `None` when it was deleted.
    digest: Option<String>,
}

impl State {
    /// What `sum` must be.
    fn checked(&self) -> String {
        let Self { format, salt, environments, filters, sum: _ } = self;
        let all = serde_json::to_string(&(format, salt, environments, filters));
        blake3::hash(all.expect("it has text keys and whole numbers").as_bytes()).to_hex().to_string()
    }

    fn of(&mut self, kind: Kind) -> &mut BTreeMap<String, Entry> {
        match kind {
            Kind::Environment => &mut self.environments,
            Kind::Filter => &mut self.filters,
        }
    }
}

impl Versions {
    /// Opens the file, which need not exist yet.
    pub(crate) fn open(path: impl Into<PathBuf>) -> Result<Self, VersionsError> {
        let file = LockedFile::open("state file", path)?.private();
        let state = match file.read()? {
            Some(bytes) => {
                let state: State = serde_json::from_slice(&bytes)
                    .map_err(|error| file.corrupt(format!("it is damaged at line {}", error.line())))?;
                if state.format != FORMAT {
                    return Err(file.corrupt("it is of another format").into());
                }
                if state.sum != state.checked() {
                    return Err(file.corrupt("its content is damaged").into());
                }
                state
            }
            None => {
                let mut salt = [0; 32];
                getrandom::fill(&mut salt).map_err(|_| VersionsError::Random)?;
                let salt = salt.iter().fold(String::new(), |mut text, byte| {
                    let _ = write!(text, "{byte:02x}");
                    text
                });
                State {
                    format: FORMAT.to_owned(),
                    salt,
                    environments: BTreeMap::new(),
                    filters: BTreeMap::new(),
                    sum: String::new(),
                }
            }
        };
        Ok(Self { file, state })
    }

    /// Gives each entry of the configuration its version, and returns the changed ones. When this returns, they are
    /// on disk; when it fails, nothing has changed.
    pub(crate) fn assign(
        &mut self,
        configuration: &mut Configuration,
        now_ms: i64,
    ) -> Result<Vec<Change>, VersionsError> {
        let mut state = self.state.clone();
        let salt = salt_of(&state.salt).unwrap_or_default();
        let mut changes = Vec::new();
        let mut text = String::new();
        for (id, environment) in &mut configuration.environments {
            let floor = std::mem::take(&mut environment.version);
            text.clear();
            write_environment(&mut text, environment);
            let digest = digest(&salt, &text);
            environment.version =
                state.give(Kind::Environment, id, Some(digest), floor, now_ms, &mut changes)?;
        }
        for (id, filter) in &mut configuration.filters {
            let floor = std::mem::take(&mut filter.version);
            text.clear();
            write_filter(&mut text, filter);
            let digest = digest(&salt, &text);
            filter.version = state.give(Kind::Filter, id, Some(digest), floor, now_ms, &mut changes)?;
        }
        for kind in [Kind::Environment, Kind::Filter] {
            let there = |id: &String| match kind {
                Kind::Environment => configuration.environments.contains_key(id),
                Kind::Filter => configuration.filters.contains_key(id),
            };
            let gone = state.of(kind).iter().filter(|(id, entry)| entry.digest.is_some() && !there(id));
            for id in gone.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                state.give(kind, &id, None, i64::MIN, now_ms, &mut changes)?;
            }
        }
        if state != self.state || self.file.read()?.is_none() {
            state.sum = state.checked();
            let mut bytes = serde_json::to_vec(&state).expect("it has text keys and whole numbers");
            bytes.push(b'\n');
            self.file.replace(&bytes)?;
            self.state = state;
        }
        Ok(changes)
    }
}

impl State {
    /// The version of an entry with this content.
    fn give(
        &mut self,
        kind: Kind,
        id: &str,
        digest: Option<String>,
        floor: i64,
        now_ms: i64,
        changes: &mut Vec<Change>,
    ) -> Result<i64, VersionsError> {
        let known = self.of(kind).get(id);
        if let Some(known) = known
            && known.digest == digest
            && known.version >= floor
        {
            return Ok(known.version);
        }
        let next = match known {
            None => i64::MIN,
            Some(known) => known.version.checked_add(1).ok_or_else(|| kind.exhausted(id))?,
        };
        let version = next.max(now_ms).max(floor);
        let gone = digest.is_none();
        self.of(kind).insert(id.to_owned(), Entry { version, digest });
        changes.push(Change { kind, id: id.to_owned(), version, gone });
        Ok(version)
    }
}

fn salt_of(text: &str) -> Option<[u8; 32]> {
    let mut salt = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in salt.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(salt)
}

fn digest(salt: &[u8; 32], text: &str) -> String {
    blake3::keyed_hash(salt, text.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use relay_proto::autoconfig::{EnvironmentRep, FilterRep, KeyText};

    use super::*;

    fn configuration(environments: &[(&str, &str, i64)], filters: &[&str]) -> Configuration {
        let mut configuration = Configuration::default();
        for (id, key, floor) in environments {
            let mut environment = EnvironmentRep::default();
            environment.env_id = (*id).to_owned().into();
            environment.sdk_key.value = KeyText::new((*key).to_owned());
            environment.version = *floor;
            configuration.environments.insert((*id).to_owned(), environment);
        }
        for id in filters {
            configuration.filters.insert((*id).to_owned(), FilterRep::default());
        }
        configuration
    }

    fn told(versions: &mut Versions, mut configuration: Configuration, now: i64) -> Vec<String> {
        let changes = versions.assign(&mut configuration, now).unwrap();
        changes.iter().map(|c| format!("{}{}@{}", if c.gone { "-" } else { "+" }, c.id, c.version)).collect()
    }

    #[test]
    fn versions_never_go_back_whatever_the_clock_and_the_process_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut versions = Versions::open(&path).unwrap();
        assert_eq!(
            told(&mut versions, configuration(&[("a", "k", 0), ("b", "k", 0)], &["a"]), 100),
            ["+a@100", "+b@100", "+a@100"]
        );
        assert_eq!(told(&mut versions, configuration(&[("a", "k", 0), ("b", "k", 0)], &["a"]), 200), [""; 0]);
        // The clock is set back; `version` is the lowest version that an entry gets; deleted entries get a version too.
        assert_eq!(
            told(&mut versions, configuration(&[("a", "l", 0), ("b", "k", 7)], &["a"]), 5),
            ["+a@101"]
        );
        assert_eq!(
            told(&mut versions, configuration(&[("a", "l", 500), ("b", "k", 0)], &[]), 300),
            ["+a@500", "-a@300"]
        );
        drop(versions);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("\"k\"") && !text.contains("\"l\""), "{text}");
        let mut versions = Versions::open(&path).unwrap();
        assert_eq!(told(&mut versions, configuration(&[("a", "l", 0)], &[]), 5), ["-b@101"]);
        assert_eq!(
            told(&mut versions, configuration(&[("a", "l", 0), ("b", "k", 0)], &["a"]), 5),
            ["+b@102", "+a@301"]
        );
    }

    #[test]
    fn a_change_that_no_version_is_left_for_is_an_error_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut versions = Versions::open(&path).unwrap();
        let highest = configuration(&[("a", "k", i64::MAX), ("b", "k", i64::MAX - 1)], &[]);
        told(&mut versions, highest, 100);
        let kept = std::fs::read(&path).unwrap();
        for changed in [&[("a", "l", 0), ("b", "k", 0)][..], &[("b", "l", 0)]] {
            let error = versions.assign(&mut configuration(changed, &["f"]), 200).unwrap_err();
            assert!(
                error.to_string().starts_with("environments.a has version 9223372036854775807"),
                "{error}"
            );
            assert_eq!(std::fs::read(&path).unwrap(), kept);
        }
        // Unchanged entries are still served, and the last version but one leaves one version for a change.
        let last = configuration(&[("a", "k", 0), ("b", "l", 0)], &[]);
        assert_eq!(told(&mut versions, last, 200), [format!("+b@{}", i64::MAX)]);
    }

    #[test]
    fn a_damaged_or_taken_state_file_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        let mut versions = Versions::open(&path).unwrap();
        told(&mut versions, configuration(&[("a", "k", 0)], &[]), 100);
        let taken = Versions::open(&path).unwrap_err();
        assert!(relay_proto::error::chain(&taken).to_string().contains(path.to_str().unwrap()));
        drop(versions);
        let good = std::fs::read(&path).unwrap();
        let text = String::from_utf8(good.clone()).unwrap();
        let changed = ["100", "\"a\"", "digest\":\"", "salt\":\"", "filters"].map(|part| {
            assert!(text.contains(part), "{part}: {text}");
            let mut damaged = text.clone().into_bytes();
            let last = text.find(part).unwrap() + part.len();
            damaged[last - 1] ^= 1;
            damaged
        });
        for bad in [&b""[..], b"{}", b"garbage", &good[..good.len() / 2]]
            .into_iter()
            .chain(changed.iter().map(Vec::as_slice))
        {
            std::fs::write(&path, bad).unwrap();
            let damaged = Versions::open(&path).unwrap_err();
            assert!(relay_proto::error::chain(&damaged).to_string().contains(path.to_str().unwrap()));
        }
        std::fs::write(&path, &good).unwrap();
        assert!(Versions::open(&path).is_ok());
    }
}
