//! History pages that are read one after another: each must lead on.

use relay_proto::pods::{EventHash, EventPage};

use crate::error::AnswerError;

/// Notices pages that lead nowhere. A relay that ignores the cursor it is given would be asked for the same page for
/// ever, without a pause.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// One of the cursors that were seen. It is replaced after 1, 2, 4, .. pages, so that a circle of any length is
    /// found without keeping all of them (Brent's algorithm).
    mark: Option<EventHash>,
    pages: u64,
    replaced_at: u64,
}

impl Progress {
    /// Checks the next page, which was asked for with the cursor `asked`, before its events are handed over.
    pub(crate) fn check(&mut self, asked: Option<&EventHash>, page: &EventPage) -> Result<(), AnswerError> {
        let Some(next) = &page.next_hash else { return Ok(()) };
        if asked == Some(next) {
            return Err(AnswerError::Stuck(format!(
                "next_hash is {:?}, the cursor of the request",
                next.as_str()
            )));
        }
        if self.mark.as_ref() == Some(next) {
            return Err(AnswerError::Stuck(format!("next_hash is {:?} again", next.as_str())));
        }
        self.pages += 1;
        if self.pages > 2 * self.replaced_at {
            self.replaced_at = self.pages;
            self.mark = Some(next.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(at: u64) -> EventHash {
        EventHash::new(&format!("h{at}")).unwrap()
    }

    fn page(next: Option<u64>) -> EventPage {
        let mut page = EventPage::default();
        page.next_hash = next.map(hash);
        page
    }

    #[test]
    fn a_circle_of_cursors_is_found_whatever_its_length_and_a_long_way_is_none() {
        for (before, length) in (0..20).flat_map(|before| (1..20).map(move |length| (before, length))) {
            let (mut progress, mut asked) = (Progress::default(), None);
            let found = (0..200_u64).find(|at| {
                let next = if *at < before { *at } else { before + (at - before) % length };
                let checked = progress.check(asked.as_ref(), &page(Some(next)));
                asked = Some(hash(next));
                checked.is_err()
            });
            assert!(found.is_some_and(|at| at >= before + length), "{before} {length}: {found:?}");
        }
        let mut progress = Progress::default();
        for at in 1..1000 {
            progress.check(Some(&hash(at)), &page(Some(at + 1))).unwrap();
        }
        // The last page of a history may end where the former did.
        progress.check(Some(&hash(1000)), &page(None)).unwrap();
    }
}
