//! The rules of versions: one instance for environments, one for filters.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use super::rules::{Rule, rule};

/// Items and versions by id.
#[derive(Debug)]
pub(super) struct Records<I, T> {
    records: HashMap<I, Record<T>>,
    live: usize,
    /// Number of the put that is being applied, or was last.
    put: u64,
}

#[derive(Debug)]
struct Record<T> {
    /// `None`: it was deleted, and only its version is kept.
    item: Option<T>,
    version: i64,
    /// Number of the last put that contained it.
    named: u64,
    /// The time of its last change, on the caller's counter.
    touched: u64,
}

/// The result of an upsert.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Upsert<T> {
    /// It is new, or was deleted before.
    Insert,
    /// It replaces this.
    Update(T),
    /// Its version is not above the last known one.
    Stale,
}

impl<I, T> Default for Records<I, T> {
    fn default() -> Self {
        Self { records: HashMap::new(), live: 0, put: 0 }
    }
}

impl<I: Hash + Eq + Ord + Clone + Borrow<str> + for<'a> From<&'a str>, T> Records<I, T> {
    /// Number of items, without deleted ones.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn get(&self, id: &str) -> Option<&T> {
        self.records.get(id)?.item.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut T> {
        self.records.get_mut(id)?.item.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&I, &T)> {
        self.records.iter().filter_map(|(id, record)| Some((id, record.item.as_ref()?)))
    }

    /// Inserts or replaces an item, if its version is newer; only then `make` is called.
    pub(super) fn upsert(
        &mut self,
        id: &str,
        version: i64,
        touch: u64,
        make: impl FnOnce(I) -> T,
    ) -> Upsert<T> {
        let put = self.put;
        match self.records.get_mut(id) {
            Some(record) => {
                if version > record.version || rule(Rule::StaleIsNamed) {
                    record.named = put;
                }
                if version <= record.version && rule(Rule::NewerOnly) {
                    return Upsert::Stale;
                }
                record.version = version;
                record.touched = touch;
                match record.item.replace(make(id.into())) {
                    Some(was) => Upsert::Update(was),
                    None => {
                        self.live += 1;
                        Upsert::Insert
                    }
                }
            }
            None => {
                let id = I::from(id);
                let item = Some(make(id.clone()));
                self.records.insert(id, Record { item, version, named: put, touched: touch });
                self.live += 1;
                Upsert::Insert
            }
        }
    }

    /// Deletes an item; returns the former one.
    pub(super) fn delete(&mut self, id: &str, version: i64, touch: u64) -> Option<T> {
        let Some(record) = self.records.get_mut(id) else {
            if rule(Rule::UnseenIsKept) {
                let tombstone = Record { item: None, version, named: self.put, touched: touch };
                self.records.insert(id.into(), tombstone);
            }
            return None;
        };
        if version <= record.version && rule(Rule::NewerDeletes) {
            return None;
        }
        record.version = if rule(Rule::DeletedIsKept) { version } else { i64::MIN };
        record.touched = touch;
        let was = record.item.take();
        self.live -= usize::from(was.is_some());
        was
    }

    /// Begins a put.
    pub(super) fn begin_put(&mut self) {
        self.put += 1;
    }

    /// Marks an id as contained in the put.
    pub(super) fn name(&mut self, id: &str) {
        if let Some(record) = self.records.get_mut(id) {
            record.named = self.put;
        }
    }

    /// Ends a put: removes all ids that it did not contain, except those changed after `touched`. Returns the
    /// removed items in the order of their ids. `named` is the number of known ids in the put.
    pub(super) fn forget_unnamed(&mut self, named: usize, touched: u64) -> Vec<(I, T)> {
        // Nearly every put contains everything, and then there is nothing to remove.
        if named == self.records.len() {
            return Vec::new();
        }
        let put = self.put;
        let mut gone = Vec::new();
        self.records.retain(|id, record| {
            let spared = record.touched > touched && rule(Rule::HeldSparesPatched);
            let forgets = match record.item {
                Some(_) => rule(Rule::PutForgets),
                None => rule(Rule::PutForgets) && rule(Rule::PutForgetsDeleted),
            };
            let keep = record.named == put || spared || !forgets;
            if !keep && let Some(item) = record.item.take() {
                gone.push((id.clone(), item));
            }
            keep
        });
        self.live -= gone.len();
        gone.sort_by(|(a, _), (b, _)| a.cmp(b));
        gone
    }

    /// Number of items that have not changed after `touched`.
    pub(super) fn untouched(&self, touched: u64) -> usize {
        self.records.values().filter(|record| record.item.is_some() && record.touched <= touched).count()
    }

    pub(super) fn knows(&self, id: &str) -> bool {
        self.records.contains_key(id)
    }
}
