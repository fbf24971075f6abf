//! The log: lines on stderr, best effort.
//!
//! The reader of stderr may be gone or slow, or its disk full, and this must not affect anything else. So lines are
//! queued and written by a thread: no task waits for it, errors are ignored, and lines without room in the queue
//! are counted; the count is logged once there is room again.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// The highest number of bytes that wait to be written.
const ROOM: usize = 1 << 20;

/// How long the end of the program waits until stderr has accepted all lines.
const LAST_WORDS: Duration = Duration::from_secs(1);

static LOG: Log = Log { queue: Mutex::new(Queue::new()), changed: Condvar::new() };

struct Log {
    queue: Mutex<Queue>,
    changed: Condvar,
}

struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The number of lines without room since the last line that was written.
    lost: u64,
    /// Whether lines were taken from the queue and are not written yet.
    writing: bool,
    /// Whether there is a thread that writes.
    started: bool,
}

/// Starts writing. Before that, and if no thread can be started, lines only wait.
pub(crate) fn start() {
    let writer = std::thread::Builder::new().name("log".into()).spawn(|| LOG.write_for_ever());
    LOG.queue().started = writer.is_ok();
}

/// Queues one line.
pub(crate) fn say(line: &str) {
    LOG.push(format!("{line}\n").as_bytes());
}

/// Waits until everything is written, or for a second.
pub(crate) fn flush() {
    let start = Instant::now();
    let mut queue = LOG.queue();
    while queue.started && (queue.writing || !queue.lines.is_empty()) {
        let Some(left) = LAST_WORDS.checked_sub(start.elapsed()) else { return };
        queue = LOG.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

impl Log {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        self.queue().push(line);
        self.changed.notify_all();
    }

    fn write_for_ever(&self) {
        let mut queue = self.queue();
        loop {
            while queue.lines.is_empty() {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let lines = queue.take();
            drop(queue);
            // Writes one line at a time, because two programs may write to one terminal.
            for line in lines {
                let _ = io::stderr().write_all(&line);
            }
            queue = self.queue();
            queue.writing = false;
            self.changed.notify_all();
        }
    }
}

impl Queue {
    const fn new() -> Self {
        Self { lines: VecDeque::new(), bytes: 0, lost: 0, writing: false, started: false }
    }

    fn push(&mut self, line: &[u8]) {
        if self.bytes + line.len() > ROOM {
            self.lost += 1;
            return;
        }
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
    }

    /// The lines to be written next.
    fn take(&mut self) -> VecDeque<Vec<u8>> {
        self.writing = true;
        self.bytes = 0;
        let mut lines = std::mem::take(&mut self.lines);
        if self.lost > 0 {
            lines.push_back(format!("{} lines of the log found no room and are lost\n", self.lost).into());
            self.lost = 0;
        }
        lines
    }
}

/// The writer for `tracing`, which writes each event in one call.
pub(crate) struct Lines;

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_room_are_counted_and_told_behind_those_before_them() {
        let mut queue = Queue::new();
        let line = vec![b'x'; ROOM / 4];
        for _ in 0..7 {
            queue.push(&line);
        }
        let taken = queue.take();
        assert!(queue.writing);
        assert_eq!(taken.len(), 5);
        assert_eq!(taken[4], b"3 lines of the log found no room and are lost\n");
        queue.push(b"next\n");
        assert_eq!(queue.take(), [b"next\n"]);
    }
}
