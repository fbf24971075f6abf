//! Progress of long work, for people.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::screen::stderr_columns;

/// A line on standard error that shows how far a piece of work is, how fast it is, and how long it will take. It is
/// shown if standard error is a terminal and the work takes more than a second. It is overwritten in place, and removed
/// with [`clear`](Self::clear) or when it is dropped.
///
/// Other output must clear it first, because both may be on the same terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The name of the counted things, such as `pods`.
    unit: &'static str,
    began: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Shorter work ends before a line could be read.
    const AFTER: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_millis(100);
    /// The length of a bar, if the terminal is wide enough.
    const BAR: usize = 40;

    /// Starts to measure the time. `unit` names the counted things, for work whose total is not known.
    pub(crate) fn new(unit: &'static str) -> Self {
        // A dumb terminal cannot overwrite a line.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { unit, began: Instant::now(), shown: None, terminal: !dumb && io::stderr().is_terminal() }
    }

    /// This many things are done, of this total, if that is known. May be called any number of times.
    pub(crate) fn show(&mut self, done: u64, all: Option<u64>) {
        let now = Instant::now();
        let soon = self.shown.is_some_and(|shown| now - shown < Self::EVERY);
        if !self.terminal || soon || now - self.began < Self::AFTER {
            return;
        }
        self.shown = Some(now);
        let line = line(self.unit, done, all, now - self.began, stderr_columns().unwrap_or(80));
        // A failure here cannot be reported to anybody. The rest of the last line is erased.
        let _ = write!(io::stderr(), "\r{line}\x1b[K");
    }

    /// Removes the line.
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

/// The text. It leaves the last column free, because some terminals wrap the line there.
fn line(unit: &str, done: u64, all: Option<u64>, since: Duration, columns: usize) -> String {
    let seconds = since.as_secs();
    let per_second = done as f64 / since.as_secs_f64().max(0.001);
    let rate = if per_second < 10.0 { format!("{per_second:.1}/s") } else { format!("{per_second:.0}/s") };
    let mut text = match all.filter(|all| *all > 0) {
        None => format!("{done} {unit} so far, {seconds} s, {rate}"),
        Some(all) => {
            let done = done.min(all);
            let percent = u128::from(done) * 100 / u128::from(all);
            // The text after the bar needs about as much room.
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
