//! History pages that are read one after another: each must lead on.

use relay_proto::pods::{EventHash, EventPage};

use crate::error::AnswerError;
use crate::request::Order;

/// Notices pages that lead nowhere. A relay that ignores the cursor it is given would be asked for the same page for
/// ever, without a pause.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Sequence of the last event.
    last: Option<u64>,
    /// One of the cursors that were seen. It is replaced after 1, 2, 4, .. pages, so that a circle of any length is
    /// found without keeping all of them (Brent's algorithm).
    mark: Option<EventHash>,
    pages: u64,
    replaced_at: u64,
}

impl Progress {
    /// Checks the next page, which was asked for with the cursor `asked`, before its events are handed over.
    pub(crate) fn check(
        &mut self,
        asked: Option<&EventHash>,
        order: Order,
        page: &EventPage,
    ) -> Result<(), AnswerError> {
        for sequence in page.events.iter().filter_map(|event| event.sequence) {
            let (in_order, rule) = match order {
                Order::Oldest => (self.last.is_none_or(|last| sequence > last), "increase"),
                Order::Newest => (self.last.is_none_or(|last| sequence < last), "decrease"),
            };
            if !in_order {
                let last = self.last.unwrap_or_default();
                return Err(AnswerError::Stuck(format!(
                    "event {sequence} follows {last}, and sequences must {rule}"
                )));
            }
            self.last = Some(sequence);
        }
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
    use relay_proto::pods::{EventType, PodBuilder, PodEvent};

    use super::*;

    fn hash(at: u64) -> EventHash {
        EventHash::new(&format!("h{at}")).unwrap()
    }

    fn page(sequences: &[Option<u64>], next: Option<u64>) -> EventPage {
        let event = |sequence: &Option<u64>| {
            PodEvent::new(EventType::Added, hash(0), *sequence, PodBuilder::new("a", "b").build())
        };
        let mut page = EventPage::default();
        page.events = sequences.iter().map(event).collect();
        page.next_hash = next.map(hash);
        page
    }

    #[test]
    fn sequences_must_be_in_order_over_all_pages() {
        for (order, pages, fits) in [
            (Order::Oldest, [&[Some(1), Some(2)][..], &[Some(3)]], true),
            (Order::Oldest, [&[Some(1), None, Some(5)], &[None, Some(9)]], true),
            (Order::Oldest, [&[Some(1), Some(2)], &[Some(2)]], false),
            (Order::Oldest, [&[Some(1), Some(2)], &[Some(1)]], false),
            (Order::Oldest, [&[], &[Some(2), Some(1)]], false),
            (Order::Newest, [&[Some(9), Some(4)], &[Some(3)]], true),
            (Order::Newest, [&[Some(9), Some(4)], &[Some(4)]], false),
            (Order::Newest, [&[Some(4)], &[Some(9)]], false),
        ] {
            let mut progress = Progress::default();
            let first = progress.check(None, order, &page(pages[0], Some(1)));
            let second = progress.check(Some(&hash(1)), order, &page(pages[1], None));
            assert_eq!(first.and(second).is_ok(), fits, "{order:?} {pages:?}");
        }
    }

    #[test]
    fn a_circle_of_cursors_is_found_whatever_its_length_and_a_long_way_is_none() {
        for (before, length) in (0..20).flat_map(|before| (1..20).map(move |length| (before, length))) {
            let (mut progress, mut asked) = (Progress::default(), None);
            let found = (0..200_u64).find(|at| {
                let next = if *at < before { *at } else { before + (at - before) % length };
                let checked = progress.check(asked.as_ref(), Order::Oldest, &page(&[], Some(next)));
                asked = Some(hash(next));
                checked.is_err()
            });
            assert!(found.is_some_and(|at| at >= before + length), "{before} {length}: {found:?}");
        }
        let mut progress = Progress::default();
        for at in 1..1000 {
            progress.check(Some(&hash(at)), Order::Oldest, &page(&[Some(at)], Some(at + 1))).unwrap();
        }
        // The last page of a history may end where the former did.
        progress.check(Some(&hash(1000)), Order::Oldest, &page(&[], None)).unwrap();
    }
}
