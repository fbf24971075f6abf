//! The manifest of a log: its identity, and its files.

use std::path::Path;

use bytes::Bytes;

use super::files::Disk;
use super::framed::{self, NotReplaced, Reader, Writer};
use crate::{Error, Identity, Key, LogName};

pub(super) const FILE: &str = "manifest";
const KIND: &[u8; 8] = b"relaylog";

/// The content of the file `manifest`: replaced as a whole whenever it changes, and always synced.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    /// Identifies the log's segments.
    pub(super) uid: [u8; 16],
    pub(super) name: LogName,
    pub(super) about: Bytes,
    pub(super) identity: Identity,
    /// The position after which entries belong to this epoch.
    pub(super) epoch_base: u64,
    /// The position before the oldest readable entry, when the manifest was last saved.
    pub(super) base: u64,
    /// The head while there are no segments.
    pub(super) origin: u64,
    /// Whether there is a file `checkpoint`.
    pub(super) checkpoint: bool,
    pub(super) state: State,
    /// Oldest first; all but the last are full.
    pub(super) segments: Vec<Segment>,
}

/// The known state of the newest segment.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Not being written: it is synced, its last entry is `head`, and it has this length.
    Rest { head: u64, len: u64 },
    /// Being written, or its writer was killed.
    Written {
        /// The run of the operating system; empty when it is not known.
        boot: String,
        /// Whether entries are synced before they are announced.
        synced: bool,
    },
    /// A sync has failed, so entries may be lost whatever the files look like.
    Suspect,
}

/// A segment as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Extent {
    pub(super) first: u64,
    pub(super) end: u64,
}

/// A file of entries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Segment {
    /// Position of its first entry, which is also its name.
    pub(super) first: u64,
    /// The epoch in which it was written.
    pub(super) epoch: Box<str>,
    /// Its length in bytes, once it is full.
    pub(super) len: u64,
}

impl Segment {
    pub(super) fn file_name(first: u64) -> String {
        format!("{first:020}.segment")
    }

    /// The position in a file's name, if it is a segment.
    pub(super) fn first_of(file_name: &str) -> Option<u64> {
        let digits = file_name.strip_suffix(".segment").filter(|digits| digits.len() == 20)?;
        digits.parse().ok()
    }
}

impl Manifest {
    pub(super) fn new(name: &LogName, about: Bytes, identity: Identity, origin: u64) -> Self {
        let mut uid = [0; 16];
        getrandom::fill(&mut uid).expect("the operating system gives random bytes");
        Self {
            uid,
            name: name.clone(),
            about,
            identity,
            epoch_base: origin,
            base: origin,
            origin,
            checkpoint: false,
            state: State::Rest { head: origin, len: 0 },
            segments: Vec::new(),
        }
    }

    /// The position before the oldest entry that is there.
    pub(super) fn held_base(&self) -> u64 {
        self.segments.first().map_or(self.origin, |segment| segment.first - 1)
    }

    /// The last position of a full segment.
    pub(super) fn last_of(&self, at: usize) -> Option<u64> {
        self.segments.get(at + 1).map(|next| next.first - 1)
    }

    pub(super) fn save(&self, disk: &dyn Disk, dir: &Path) -> Result<(), NotReplaced> {
        framed::replace(disk, &dir.join(FILE), KIND, &self.encode())
    }

    /// Saves it for a new log.
    pub(super) fn save_new(&self, disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
        framed::write_new(disk, &dir.join(FILE), KIND, &self.encode())
    }

    pub(super) fn load(disk: &dyn Disk, dir: &Path) -> Result<Self, Error> {
        let path = dir.join(FILE);
        let payload = framed::read(disk, &path, KIND)?;
        Self::decode(&payload).ok_or_else(|| Error::Damaged {
            file: path,
            offset: 0,
            last_good: None,
            problem: "the content makes no sense".into(),
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.bytes(&self.uid);
        out.bytes(self.name.as_str().as_bytes());
        out.bytes(&self.about);
        out.bytes(self.identity.epoch().as_bytes());
        out.bytes(self.identity.key().expose());
        out.number(self.epoch_base);
        out.number(self.base);
        out.number(self.origin);
        out.number(self.checkpoint.into());
        match &self.state {
            State::Rest { head, len } => {
                out.number(0);
                out.number(*head);
                out.number(*len);
            }
            State::Written { boot, synced } => {
                out.number(1);
                out.bytes(boot.as_bytes());
                out.number((*synced).into());
            }
            State::Suspect => out.number(2),
        }
        out.number(self.segments.len() as u64);
        for segment in &self.segments {
            out.number(segment.first);
            out.bytes(segment.epoch.as_bytes());
            out.number(segment.len);
        }
        out.0
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut from = Reader(payload);
        let uid = from.bytes()?.try_into().ok()?;
        let name = LogName::new(from.text()?).ok()?;
        let about = Bytes::copy_from_slice(from.bytes()?);
        let epoch = from.text()?;
        let identity = Identity::new(epoch, Key::new(from.bytes()?.try_into().ok()?))?;
        let (epoch_base, base, origin) = (from.number()?, from.number()?, from.number()?);
        let checkpoint = from.number()? != 0;
        let state = match from.number()? {
            0 => State::Rest { head: from.number()?, len: from.number()? },
            1 => State::Written { boot: from.text()?.to_owned(), synced: from.number()? != 0 },
            2 => State::Suspect,
            _ => return None,
        };
        let mut segments = Vec::new();
        for _ in 0..from.number()? {
            let (first, epoch, len) = (from.number()?, from.text()?.into(), from.number()?);
            let after = segments.last().map_or(0, |former: &Segment| former.first);
            if first <= after {
                return None;
            }
            segments.push(Segment { first, epoch, len });
        }
        let whole = from.0.is_empty();
        whole.then_some(Self {
            uid,
            name,
            about,
            identity,
            epoch_base,
            base,
            origin,
            checkpoint,
            state,
            segments,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let name = LogName::new("a/log").unwrap();
        let mut manifest = Manifest::new(&name, Bytes::from_static(b"about"), Identity::random(), 3);
        let segment = |first| Segment { first, epoch: "e".into(), len: first * 100 };
        manifest.segments = vec![segment(4), segment(9)];
        manifest.checkpoint = true;
        for state in [
            State::Rest { head: 12, len: 345 },
            State::Written { boot: "b".into(), synced: true },
            State::Written { boot: String::new(), synced: false },
            State::Suspect,
        ] {
            manifest.state = state;
            let payload = manifest.encode();
            assert_eq!(Manifest::decode(&payload).as_ref(), Some(&manifest));
            for len in 0..payload.len() {
                assert_eq!(Manifest::decode(&payload[..len]), None, "cut at {len}");
            }
        }
        assert_eq!((manifest.held_base(), manifest.last_of(0), manifest.last_of(1)), (3, Some(8), None));
        manifest.segments.swap(0, 1);
        assert_eq!(Manifest::decode(&manifest.encode()), None, "segments in another order");
    }

    #[test]
    fn a_segment_is_named_by_its_first_position() {
        assert_eq!(Segment::file_name(42), "00000000000000000042.segment");
        assert_eq!(Segment::first_of(&Segment::file_name(u64::MAX)), Some(u64::MAX));
        for other in ["42.segment", "manifest", "0000000000000000004x.segment", "00000000000000000042.new"] {
            assert_eq!(Segment::first_of(other), None, "{other}");
        }
    }
}
