//! The highest sequence of each producer.

use std::collections::HashMap;
use std::sync::Arc;

/// The meaning of a sequence after those seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sighting {
    /// The first of its producer, whatever the number.
    First,
    /// The one after the last.
    Next,
    /// Numbers were jumped over.
    Gap {
        /// How many.
        missing: u64,
        /// The last one before them.
        after: i64,
    },
    /// Not above the highest one seen: a repetition, or late.
    Duplicate {
        /// The highest one seen.
        high_water: i64,
    },
}

/// The highest sequence per producer, for a bounded number of producers: the least recently seen one is forgotten
/// first, and its next sequence counts as a first.
///
/// A look-up and a few links per observation; about 100 bytes and the id per producer.
#[derive(Debug)]
pub struct ProducerMarks {
    most: usize,
    places: HashMap<Arc<str>, usize>,
    entries: Vec<Entry>,
    /// Where a producer was found last, by a few bytes of its id: a guess that is checked, and saves the hash of
    /// the whole id. Its length is 0 or a power of two.
    guesses: Vec<u32>,
    /// The most recently seen producer, and the least recently seen.
    newest: usize,
    oldest: usize,
}

#[derive(Debug)]
struct Entry {
    id: Arc<str>,
    ends: Ends,
    high_water: i64,
    newer: usize,
    older: usize,
}

/// No place.
const NONE: usize = usize::MAX;

/// With more producers than this, guesses become rarer.
const MOST_GUESSES: usize = 1024;

/// The first and the last bytes of an id, at most eight of each. Of an id of up to 16 bytes these are all of them, so
/// that two such ids of one length are the same when their ends are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ends(u64, u64);

impl Ends {
    /// The longest ids that they identify, together with the length.
    const ALL: usize = 16;

    #[inline]
    fn of(id: &str) -> Self {
        let bytes = id.as_bytes();
        if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
            return Self(u64::from_le_bytes(*first), u64::from_le_bytes(*last));
        }
        if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
            return Self(u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into());
        }
        if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
            return Self(u16::from_le_bytes(*first).into(), u16::from_le_bytes(*last).into());
        }
        Self(bytes.first().copied().unwrap_or_default().into(), 0)
    }

    /// A number from them. Ids that are made to have the same one are only slower.
    #[inline]
    fn mixed(self) -> usize {
        // The multiplier is 2^64 divided by the golden ratio.
        let mixed = (self.0.rotate_left(23) ^ self.1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 40) as usize
    }
}

impl Entry {
    #[inline]
    fn is(&self, id: &str, ends: Ends) -> bool {
        self.ends == ends && self.id.len() == id.len() && (id.len() <= Ends::ALL || *self.id == *id)
    }
}

impl ProducerMarks {
    /// Marks of at most `most` producers, at least one.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            places: HashMap::new(),
            entries: Vec::new(),
            guesses: Vec::new(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// Records a sequence and returns its meaning. A duplicate only makes its producer the most recently seen.
    #[inline]
    pub fn observe(&mut self, producer: &str, sequence: i64) -> Sighting {
        let Some(place) = self.find(producer) else {
            self.insert(producer, sequence);
            return Sighting::First;
        };
        self.touch(place);
        let mark = &mut self.entries[place].high_water;
        let high_water = *mark;
        if sequence <= high_water {
            return Sighting::Duplicate { high_water };
        }
        *mark = sequence;
        match sequence.abs_diff(high_water) - 1 {
            0 => Sighting::Next,
            missing => Sighting::Gap { missing, after: high_water },
        }
    }

    /// The highest sequence seen of a producer; 0 for none.
    pub fn high_water(&self, producer: &str) -> i64 {
        self.places.get(producer).map_or(0, |&place| self.entries[place].high_water)
    }

    /// Number of producers.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All marks, the least recently seen producer first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, i64)> {
        let mut place = self.oldest;
        std::iter::from_fn(move || {
            let entry = self.entries.get(place)?;
            place = entry.newer;
            Some((&*entry.id, entry.high_water))
        })
    }

    #[inline]
    fn find(&mut self, producer: &str) -> Option<usize> {
        let ends = Ends::of(producer);
        let slot = ends.mixed() & self.guesses.len().wrapping_sub(1);
        if let Some(&guess) = self.guesses.get(slot)
            && let Some(entry) = self.entries.get(guess as usize)
            && entry.is(producer, ends)
        {
            return Some(guess as usize);
        }
        let place = *self.places.get(producer)?;
        self.guess(slot, place);
        Some(place)
    }

    fn guess(&mut self, slot: usize, place: usize) {
        if let (Some(guess), Ok(place)) = (self.guesses.get_mut(slot), u32::try_from(place)) {
            *guess = place;
        }
    }

    #[cold]
    fn insert(&mut self, producer: &str, high_water: i64) {
        let (id, ends) = (Arc::<str>::from(producer), Ends::of(producer));
        let place = if self.entries.len() < self.most {
            self.entries.push(Entry { id: id.clone(), ends, high_water, newer: NONE, older: NONE });
            self.entries.len() - 1
        } else {
            let place = self.oldest;
            self.unlink(place);
            let entry = &mut self.entries[place];
            self.places.remove(&entry.id);
            (entry.id, entry.ends, entry.high_water) = (id.clone(), ends, high_water);
            place
        };
        self.places.insert(id, place);
        self.link(place);
        if self.guesses.len() < self.entries.len().min(MOST_GUESSES) {
            self.guesses = vec![u32::MAX; (4 * self.entries.len()).next_power_of_two()];
        }
    }

    fn touch(&mut self, place: usize) {
        if place != self.newest {
            self.unlink(place);
            self.link(place);
        }
    }

    fn unlink(&mut self, place: usize) {
        let (newer, older) = (self.entries[place].newer, self.entries[place].older);
        match self.entries.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        match self.entries.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, place: usize) {
        let newest = self.newest;
        (self.entries[place].newer, self.entries[place].older) = (NONE, newest);
        match self.entries.get_mut(newest) {
            Some(entry) => entry.newer = place,
            None => self.oldest = place,
        }
        self.newest = place;
    }
}

/// The highest sequences that a subscriber has seen, per channel and producer: [`ProducerMarks`] for each channel.
#[derive(Debug)]
pub struct GapDetector {
    most: usize,
    channels: HashMap<String, ProducerMarks>,
}

impl Default for GapDetector {
    /// 100,000 producers per channel.
    fn default() -> Self {
        Self::new(100_000)
    }
}

impl GapDetector {
    /// A detector for at most `most` producers per channel.
    pub fn new(most: usize) -> Self {
        Self { most, channels: HashMap::new() }
    }

    /// Records a sequence and returns its meaning.
    pub fn observe(&mut self, channel: &str, producer: &str, sequence: i64) -> Sighting {
        if let Some(marks) = self.channels.get_mut(channel) {
            return marks.observe(producer, sequence);
        }
        let marks = self.channels.entry(channel.to_owned()).or_insert_with(|| ProducerMarks::new(self.most));
        marks.observe(producer, sequence)
    }

    /// The highest sequence seen; 0 for none.
    pub fn high_water(&self, channel: &str, producer: &str) -> i64 {
        self.channels.get(channel).map_or(0, |marks| marks.high_water(producer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Guesses are for speed alone: more producers than there are guesses, and each is found.
    #[test]
    fn every_producer_is_found_among_many() {
        let mut marks = ProducerMarks::new(10_000);
        for round in 1..=3 {
            for producer in 0..5000 {
                let sighting = if round == 1 { Sighting::First } else { Sighting::Next };
                assert_eq!(marks.observe(&format!("{producer}-agent-{producer}"), round), sighting);
            }
        }
        assert_eq!((marks.len(), marks.high_water("17-agent-17")), (5000, 3));
    }

    /// Behaviour 13.
    #[test]
    fn behaviour_13_sightings() {
        let mut detector = GapDetector::default();
        for (channel, producer, sequence, sighting) in [
            ("c", "p", 5, Sighting::First),
            ("c", "p", 6, Sighting::Next),
            ("c", "p", 9, Sighting::Gap { missing: 2, after: 6 }),
            ("c", "p", 9, Sighting::Duplicate { high_water: 9 }),
            ("c", "p", 7, Sighting::Duplicate { high_water: 9 }),
            ("c", "other", 1, Sighting::First),
            ("d", "p", 1, Sighting::First),
            ("c", "p", i64::MAX, Sighting::Gap { missing: i64::MAX as u64 - 10, after: 9 }),
        ] {
            assert_eq!(detector.observe(channel, producer, sequence), sighting);
        }
        assert_eq!(detector.high_water("d", "p"), 1);
        assert_eq!((detector.high_water("x", "p"), detector.high_water("c", "x")), (0, 0));
    }

    proptest! {
        /// Compares with a list that is searched from the front.
        #[test]
        fn as_the_slow_model(most in 1_usize..5, seen in prop::collection::vec((0_usize..16, 1_i64..6), 0..60)) {
            let mut marks = ProducerMarks::new(most);
            let mut model: Vec<(String, i64)> = Vec::new();
            for (producer, sequence) in seen {
                // Two ids of each length, which differ in the middle only.
                let around = "abcdefghijkl".split_at([0, 1, 2, 3, 7, 8, 9, 12][producer / 2]);
                let producer = [around.0, ["x", "y"][producer % 2], around.0].concat();
                let expected = match model.iter().position(|(id, _)| *id == producer) {
                    None => {
                        if model.len() == most {
                            model.remove(0);
                        }
                        model.push((producer.clone(), sequence));
                        Sighting::First
                    }
                    Some(at) => {
                        let (id, high) = model.remove(at);
                        model.push((id, high.max(sequence)));
                        if sequence <= high {
                            Sighting::Duplicate { high_water: high }
                        } else if sequence == high + 1 {
                            Sighting::Next
                        } else {
                            Sighting::Gap { missing: (sequence - high - 1) as u64, after: high }
                        }
                    }
                };
                prop_assert_eq!(marks.observe(&producer, sequence), expected);
                let all: Vec<_> = marks.iter().map(|(id, high)| (id.to_owned(), high)).collect();
                prop_assert_eq!(&all, &model);
                prop_assert_eq!(marks.len(), model.len());
            }
        }
    }
}
