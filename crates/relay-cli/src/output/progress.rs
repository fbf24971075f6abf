//! Progress of long work, for people.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::screen::stderr_columns;

/// A line on standard error that says how far something is, how fast it goes, and how long it will take. It is shown
/// when that is a terminal and the work takes more than a second, is written over in place, and goes away with
/// [`clear`](Self::clear) or when it is dropped.
///
/// Whoever prints meanwhile clears it before: both may be the same terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    /// What is counted, such as `pods`.
    unit: &'static str,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// What takes less is over before a line could be read.
    const AFTER: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(100);
    /// Characters of a bar, where the terminal is wide enough.
    const BAR: usize = 40;

    /// Begins to count the time. `unit` is what is counted where it is not known how many there will be.
    pub(crate) fn new(unit: &'static str) -> Self {
        // A dumb terminal cannot write over a line.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { unit, began: Instant::now(), shown: None, terminal: !dumb && io::stderr().is_terminal() }
    }

    /// So many are done, and there are so many in all, if that is known. May be called as often as one likes.
    pub(crate) fn show(&mut self, done: u64, all: Option<u64>) {
        let now = Instant::now();
        let soon = self.shown.is_some_and(|shown| now - shown < Self::EVERY);
        if !self.terminal || soon || now - self.began < Self::AFTER {
            return;
        }
        self.shown = Some(now);
        let line = line(self.unit, done, all, now - self.began, stderr_columns().unwrap_or(80));
        // Nobody is left to be told when it fails. What the former line has more is wiped out.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The text, which leaves the last column free: some terminals break the line there.
fn line(unit: &str, done: u64, all: Option<u64>, since: Duration, columns: usize) -> String {
    let seconds = since.as_secs();
    let per_second = done as f64 / since.as_secs_f64().max(0.001);
    let rate = if per_second < 10.0 { format!("{per_second:.1}/s") } else { format!("{per_second:.0}/s") };
    let mut text = match all.filter(|all| *all > 0) {
        None => format!("{done} {unit} so far, {seconds} s, {rate}"),
        Some(all) => {
            let done = done.min(all);
            let percent = u128::from(done) * 100 / u128::from(all);
            // What comes behind it takes about as much.
            let width = Progress::BAR.min(columns.saturating_sub(36));
            let filled = (width as u128 * u128::from(done) / u128::from(all)) as usize;
            let bar = match width {
                0 => String::new(),
                _ => format!("[{}{}] ", "#".repeat(filled), ".".repeat(width - filled)),
            };
            let left = match done {
                0 => String::new(),
                _ => format!(", {:.0} s left", (all - done) as f64 / per_second),
            };
            format!("{bar}{percent:>3} %, {seconds} s, {rate}{left}")
        }
    };
    text.truncate(columns.saturating_sub(1));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_fits() {
        for (done, all, columns, expected) in [
            (0, Some(8), 40, "[....]   0 %, 4 s, 0.0/s"),
            (2, Some(8), 40, "[#...]  25 %, 4 s, 0.5/s, 12 s left"),
            (9, Some(8), 40, "[####] 100 %, 4 s, 2.2/s, 0 s left"),
            (1000, Some(3000), 36, " 33 %, 4 s, 250/s, 8 s left"),
            (1000, Some(3000), 20, " 33 %, 4 s, 250/s, "),
            (12, None, 80, "12 pods so far, 4 s, 3.0/s"),
            (12, Some(0), 80, "12 pods so far, 4 s, 3.0/s"),
            (12, None, 8, "12 pods"),
            (12, None, 0, ""),
        ] {
            assert_eq!(line("pods", done, all, Duration::from_secs(4), columns), expected);
        }
        // The largest numbers do not overflow.
        line("pods", u64::MAX, Some(u64::MAX), Duration::ZERO, 80);
        let wide = line("pods", 1, Some(2), Duration::ZERO, 200);
        assert!(wide.contains(&"#".repeat(20)) && wide.contains(&".".repeat(20)), "{wide}");
    }
}
