//! The rate of lines: a burst is counted instead of printed.

use std::collections::VecDeque;
use std::time::Duration;

/// The highest number of lines in any second.
pub(super) const LINES_A_SECOND: usize = 4;
const SECOND: Duration = Duration::from_secs(1);

/// Decides which lines are printed, so that there are never more than [`LINES_A_SECOND`] within a second.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last lines were printed, oldest first; [`LINES_A_SECOND`] at most.
    printed: VecDeque<Duration>,
    skipped: u64,
}

impl Pace {
    /// Whether a line may be printed at this time since the start. If not, it counts as skipped.
    pub(super) fn admits(&mut self, now: Duration) -> bool {
        while self.printed.front().is_some_and(|at| now.saturating_sub(*at) >= SECOND) {
            self.printed.pop_front();
        }
        let admits = self.printed.len() < LINES_A_SECOND;
        if admits {
            self.printed.push_back(now);
        } else {
            self.skipped += 1;
        }
        admits
    }

    /// The number of skipped lines since the last call.
    pub(super) fn take_skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_four_lines_and_the_rest_is_counted() {
        for (what, times, printed) in [
            ("a burst", vec![0; 24], vec![0, 0, 0, 0]),
            ("four a second", vec![0, 250, 500, 750, 1000, 1250], vec![0, 250, 500, 750, 1000, 1250]),
            ("eight a second", vec![0, 125, 250, 375, 500, 875, 999, 1000], vec![0, 125, 250, 375, 1000]),
            // The window slides: two halves of a burst around a full second count as one burst.
            (
                "around a second",
                vec![800, 850, 900, 950, 1000, 1050, 1799, 1800],
                vec![800, 850, 900, 950, 1800],
            ),
            (
                "bursts",
                vec![0, 0, 0, 0, 0, 1000, 1000, 1000, 1000, 1000],
                vec![0, 0, 0, 0, 1000, 1000, 1000, 1000],
            ),
            ("nothing", vec![], vec![]),
        ] {
            let mut pace = Pace::default();
            let admitted: Vec<u64> =
                times.iter().copied().filter(|at| pace.admits(Duration::from_millis(*at))).collect();
            assert_eq!(admitted, printed, "{what}");
            assert_eq!(pace.take_skipped(), (times.len() - printed.len()) as u64, "{what}");
            assert_eq!(pace.take_skipped(), 0, "{what}: told once");
        }
    }
}
