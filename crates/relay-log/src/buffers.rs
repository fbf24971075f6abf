//! Reused memory for reading pages: allocating and clearing it again costs as much as checking what is read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many unused buffers are kept, at most.
const KEPT: usize = 12;
/// Sizes of buffers that are worth keeping, in bytes.
const WORTH: std::ops::RangeInclusive<usize> = 64 << 10..=1 << 20;

/// Hands out buffers, and takes them back once no entry in them is in use. Holds at most 12 MiB.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of `len` bytes with arbitrary content. It takes at most twice as much memory.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let fits = |buffer: &Vec<u8>| (len..=2 * len).contains(&buffer.len());
        let found = WORTH.contains(&len).then(|| {
            let mut free = self.free();
            // The one that came back last is most likely still in the processor's cache.
            let at = free.iter().rposition(fits)?;
            Some(free.remove(at))
        });
        let bytes = found.flatten().unwrap_or_else(|| vec![0; len]);
        Buffer { bytes, len, home: self.clone() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that return to their pool when they are dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    home: Arc<Buffers>,
}

impl Buffer {
    /// Shortens it to its first bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if WORTH.contains(&self.bytes.len()) {
            let mut free = self.home.free();
            if free.len() >= KEPT {
                // The requested sizes may have changed, so the oldest buffer goes.
                free.remove(0);
            }
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(buffers: &Buffers) -> Vec<usize> {
        buffers.free().iter().map(Vec::len).collect()
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_holds_it() {
        let buffers = Arc::new(Buffers::default());
        let mut first = buffers.take(100 << 10);
        first.as_mut()[0] = 7;
        let shared = bytes::Bytes::from_owner(first);
        let part = shared.slice(..1);
        drop(shared);
        assert_eq!((waiting(&buffers), &part[..]), (vec![], &[7][..]));
        drop(part);
        assert_eq!(waiting(&buffers), [100 << 10]);
        let again = buffers.take(70 << 10);
        assert_eq!((again.as_ref().len(), again.as_ref()[0], waiting(&buffers)), (70 << 10, 7, vec![]));
        drop(again);
        assert_eq!(waiting(&buffers), [100 << 10], "it keeps its length");
    }

    #[test]
    fn small_and_huge_ones_and_too_many_are_not_kept() {
        let buffers = Arc::new(Buffers::default());
        for len in [0, 1, (64 << 10) - 1, (1 << 20) + 1] {
            assert_eq!(buffers.take(len).as_ref().len(), len);
        }
        assert!(waiting(&buffers).is_empty());
        drop((0..20).map(|_| buffers.take(64 << 10)).collect::<Vec<_>>());
        assert_eq!(waiting(&buffers), [64 << 10; KEPT]);
        // Buffers of the sizes in use now replace those of sizes that are no longer used.
        drop((0..20).map(|_| buffers.take(1 << 20)).collect::<Vec<_>>());
        assert_eq!(waiting(&buffers), [1 << 20; KEPT]);
        // A request does not take a buffer that is much larger than it needs.
        drop(buffers.take(500 << 10));
        assert_eq!(waiting(&buffers).len(), KEPT);
        assert!(waiting(&buffers).contains(&(500 << 10)));
    }
}
