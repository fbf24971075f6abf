//! The format of entries in a segment, and reading them in order.
//!
//! ```text
//!   segment   128 bytes  header: kind, version, uid, first position, epoch, checksum
//!             record, record, record ...
//!   record    4 bytes  length of the body        8 bytes  time, milliseconds since 1970
//!             4 bytes  CRC32C over everything    4 bytes  how much of the segment was synced when it was written
//!                      except this field         4 bytes  1 when the next record belongs to the same batch
//!             8 bytes  position                  n bytes  body
//! ```

use std::io;
use std::ops::Range;

use super::checksum::crc32c;
use super::files::{DiskFile, read_full};
use crate::Batch;

/// Bytes of a segment's header.
pub(super) const SEGMENT_HEAD: u64 = 128;
/// Bytes of a record before its body.
pub(super) const RECORD_HEAD: usize = 32;
/// Bytes that a walk reads at once.
const CHUNK: usize = 256 << 10;

const KIND: &[u8; 8] = b"relayseg";

/// The header of a segment.
pub(super) fn segment_head(uid: &[u8; 16], first: u64, epoch: &str) -> [u8; SEGMENT_HEAD as usize] {
    let mut head = [0; SEGMENT_HEAD as usize];
    head[..8].copy_from_slice(KIND);
    head[8..12].copy_from_slice(&super::framed::VERSION.to_le_bytes());
    head[12..28].copy_from_slice(uid);
    head[28..36].copy_from_slice(&first.to_le_bytes());
    head[36] = u8::try_from(epoch.len()).expect("an epoch has at most 64 characters");
    head[37..37 + epoch.len()].copy_from_slice(epoch.as_bytes());
    let sum = crc32c(&[&head[..124]]);
    head[124..].copy_from_slice(&sum.to_le_bytes());
    head
}

/// The difference of a segment's header from the expected one.
pub(super) fn head_problem(found: &[u8], expected: &[u8; SEGMENT_HEAD as usize]) -> Option<String> {
    let what = if found.len() < SEGMENT_HEAD as usize {
        "the file ends within its header"
    } else if found[..8] != KIND[..] {
        "the file is not a segment"
    } else if crc32c(&[&found[..124]]).to_le_bytes() != found[124..] {
        "the checksum of the header does not fit"
    } else if found[8..12] != expected[8..12] {
        let version = found[8..12].try_into().map_or(0, u32::from_le_bytes);
        return Some(format!("the file has format {version}, and this program reads format 1"));
    } else if found != expected {
        "the segment is of another log, or another time of this one"
    } else {
        return None;
    };
    Some(what.into())
}

/// Appends the records of a batch. Returns how many bytes they take.
pub(super) fn encode(batch: &Batch, first: u64, time: i64, synced: u64, out: &mut Vec<u8>) {
    let last = batch.entries().len() - 1;
    // A value that does not fit is old; a smaller one is safe.
    let synced = u32::try_from(synced).unwrap_or(u32::MAX).to_le_bytes();
    for (at, body) in batch.entries().iter().enumerate() {
        let mut head = [0; RECORD_HEAD];
        let len = u32::try_from(body.len()).expect("a batch is smaller than 4 GiB");
        head[..4].copy_from_slice(&len.to_le_bytes());
        head[8..16].copy_from_slice(&(first + at as u64).to_le_bytes());
        head[16..24].copy_from_slice(&time.to_le_bytes());
        head[24..28].copy_from_slice(&synced);
        head[28..32].copy_from_slice(&u32::from(at < last).to_le_bytes());
        let sum = checksum(&head, body);
        head[4..8].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(body);
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c(&[&head[..4], &head[8..RECORD_HEAD], body])
}

/// The head of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Head {
    pub(super) len: usize,
    sum: u32,
    pub(super) position: u64,
    pub(super) time: i64,
    pub(super) synced: u64,
    pub(super) continues: bool,
}

impl Head {
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..RECORD_HEAD)?;
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Some(Self {
            len: word(0) as usize,
            sum: word(4),
            position: long(8),
            time: long(16).cast_signed(),
            synced: word(24).into(),
            continues: word(28) != 0,
        })
    }

    /// Bytes of the whole record.
    pub(super) fn size(&self) -> usize {
        RECORD_HEAD + self.len
    }
}

/// The result of reading a record at the start of some bytes.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// A whole record.
    Record(Head),
    /// An incomplete record: it takes this many bytes.
    More(usize),
    /// No record; the text says why.
    Bad(&'static str),
}

/// Reads the record of a position at the start of some bytes.
pub(super) fn look(bytes: &[u8], position: u64, checked: bool) -> Found {
    let Some(head) = Head::of(bytes) else { return Found::More(RECORD_HEAD) };
    if head.position != position {
        return Found::Bad("another position than is due");
    }
    if head.len > Batch::MAX_BYTES {
        return Found::Bad("a length that no entry has");
    }
    let Some(record) = bytes.get(..head.size()) else { return Found::More(head.size()) };
    if checked && crc32c(&[&record[..4], &record[8..]]) != head.sum {
        return Found::Bad("the checksum does not fit");
    }
    Found::Record(head)
}

/// The complete entries of a chunk, up to `last` and within the limit (at least one). `each` is called with the place
/// of each body, until it takes no more. Returns the end of those that were taken; or an error and its place.
pub(super) fn page(
    chunk: &[u8],
    after: u64,
    last: u64,
    limit: crate::Limit,
    mut each: impl FnMut(&Head, Range<usize>) -> bool,
) -> Result<usize, (usize, &'static str)> {
    let (mut entries, mut at, mut room) = (0, 0, limit.bytes);
    for position in after + 1..=last {
        if entries >= limit.entries.max(1) {
            break;
        }
        let head = match look(&chunk[at..], position, true) {
            Found::Record(head) => head,
            Found::More(_) => break,
            // What is good before it is the page; the next read fails, and names the last good position.
            Found::Bad(_) if entries > 0 => break,
            Found::Bad(problem) => return Err((at, problem)),
        };
        if (head.len > room && entries > 0) || !each(&head, at + RECORD_HEAD..at + head.size()) {
            break;
        }
        room = room.saturating_sub(head.len);
        entries += 1;
        at += head.size();
    }
    Ok(at)
}

/// Reads the records of a segment in order, with bounded memory.
pub(super) struct Walk<'a> {
    file: &'a dyn DiskFile,
    /// Where the segment ends.
    end: u64,
    /// Where the next record begins.
    pub(super) offset: u64,
    /// The position it should have.
    pub(super) position: u64,
    checked: bool,
    buffer: Vec<u8>,
    /// Where in the segment the buffer begins.
    buffer_at: u64,
    chunk: usize,
}

/// One step of a walk.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A record; the walk is after it.
    Record(Head),
    /// The end, exactly after a record.
    End,
    /// The segment ends within a record.
    Cut,
    /// Something else.
    Bad(&'static str),
}

impl<'a> Walk<'a> {
    /// Begins at the record of `position`, which is at `offset`. `checked` walks compare checksums.
    pub(super) fn new(file: &'a dyn DiskFile, offset: u64, position: u64, end: u64, checked: bool) -> Self {
        Self { file, end, offset, position, checked, buffer: Vec::new(), buffer_at: offset, chunk: CHUNK }
    }

    /// Reads only this much at once.
    pub(super) fn chunk(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        self
    }

    pub(super) fn next(&mut self) -> io::Result<Step> {
        let left = self.end.saturating_sub(self.offset);
        if left == 0 {
            return Ok(Step::End);
        }
        loop {
            let skip = usize::try_from(self.offset - self.buffer_at).unwrap_or(usize::MAX);
            let bytes = self.buffer.get(skip..).unwrap_or_default();
            // Without checksums the bodies need not be read.
            let found = match look(bytes, self.position, self.checked) {
                Found::More(_) if !self.checked => {
                    Head::of(bytes).map_or(Found::More(RECORD_HEAD), Found::Record)
                }
                found => found,
            };
            match found {
                Found::Record(head) if head.size() as u64 > left => return Ok(Step::Cut),
                Found::Record(head) => {
                    self.offset += head.size() as u64;
                    self.position += 1;
                    return Ok(Step::Record(head));
                }
                Found::More(size) if size as u64 > left => return Ok(Step::Cut),
                Found::More(size) => self.fill(size, left)?,
                Found::Bad(problem) => return Ok(Step::Bad(problem)),
            }
        }
    }

    /// The body of the record that a checked walk is right after.
    pub(super) fn body(&self, head: &Head) -> &[u8] {
        let end = usize::try_from(self.offset - self.buffer_at).unwrap_or(usize::MAX);
        self.buffer.get(end.saturating_sub(head.len)..end).unwrap_or_default()
    }

    fn fill(&mut self, size: usize, left: u64) -> io::Result<()> {
        let want = (self.chunk.max(size) as u64).min(left);
        let want = usize::try_from(want).unwrap_or(usize::MAX);
        self.buffer.resize(want, 0);
        let read = read_full(self.file, &mut self.buffer, self.offset)?;
        self.buffer.truncate(read);
        self.buffer_at = self.offset;
        if read < size { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// A complete record after a bad one, if there is one: its position, and its note of how much was synced. Only
/// positions from `position` on count.
pub(super) fn record_behind(
    file: &dyn DiskFile,
    offset: u64,
    position: u64,
    end: u64,
) -> io::Result<Option<(u64, u64)>> {
    let mut best: Option<(u64, u64)> = None;
    let mut at = offset + 1;
    let mut head = Vec::new();
    while at + RECORD_HEAD as u64 <= end {
        let want = usize::try_from((CHUNK as u64).min(end - at)).unwrap_or(CHUNK);
        head.resize(want, 0);
        let read = read_full(file, &mut head, at)?;
        let usable = read.saturating_sub(RECORD_HEAD - 1);
        if usable == 0 {
            break;
        }
        for skip in 0..usable {
            let Some(found) = Head::of(&head[skip..]) else { break };
            let spot = at + skip as u64;
            // Each record takes at least its head: positions cannot be further on than that.
            let most = position + (spot - offset) / RECORD_HEAD as u64 + 1;
            let plausible = (position..=most).contains(&found.position)
                && found.len <= Batch::MAX_BYTES
                && spot + found.size() as u64 <= end;
            if !plausible || best.is_some_and(|(_, synced)| synced >= found.synced) {
                continue;
            }
            let mut record = vec![0; found.size()];
            let whole = read_full(file, &mut record, spot)? == record.len();
            if whole && look(&record, found.position, true) == Found::Record(found) {
                best = Some((found.position, found.synced));
            }
        }
        at += usable as u64;
    }
    Ok(best)
}
