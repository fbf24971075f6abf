//! A persistent hash trie, shared by snapshots.

use std::array;
use std::hint::black_box;
use std::slice;
use std::sync::Arc;

/// An entry of a [`Trie`]. Each type has its own hash, so that tests can choose one.
pub(super) trait Entry: Clone {
    /// Distinguishes entries of one hash.
    type Key: PartialEq + ?Sized;

    /// Its key.
    fn key(&self) -> &Self::Key;

    /// The hash of its key, which the callers of a [`Trie`] give beside keys.
    fn hash(&self) -> u64;

    /// Prefetches the memory that a clone will write.
    fn touch(&self) {}

    /// Prefetches the memory that a comparison with its successor will read.
    fn warm(&self) {}
}

/// A set of entries by key. Cloning is O(1), and versions share equal parts: a change copies the nodes on the way
/// from the root to the entry that other versions have too, and changes unshared nodes in place.
///
/// Its shape depends only on its entries, not on the order in which they came (except for entries with the same whole
/// hash), so that [`Trie::diff`] can walk two versions side by side and skip what they share.
#[derive(Clone)]
pub(super) struct Trie<T> {
    root: Slot<T>,
}

/// A slot of a node. 16 bytes for small entries: the node's pointer is the tag.
#[derive(Clone)]
enum Slot<T> {
    /// The only entry whose hash begins with the digits of this path.
    Leaf(T),
    /// The entries whose hashes begin with the digits of this path: at least two, except at the root.
    Node(Arc<Node<[Slot<T>]>>),
}

/// A node for one digit of the hashes: the values that occur, and a slot for each. Below the last digit: a leaf,
/// and further entries of the same hash.
struct Node<S: ?Sized> {
    values: u32,
    slots: S,
}

/// Bits of a digit. Wider nodes make a trie less deep but a copy more expensive (it counts a reference to every
/// child, wherever that is in memory): with four bits a million pods cost the same, a hundred thousand with a
/// snapshot for every change a tenth more.
const BITS: u32 = 3;

/// The value of the digit of a hash at a depth (in bits, from the top), as a bit of [`Node::values`].
fn digit(hash: u64, depth: u32) -> u32 {
    1 << ((hash << depth) >> (u64::BITS - BITS))
}

/// How many of the values are below that of a digit: its place among the slots.
fn place(values: u32, digit: u32) -> usize {
    (values & (digit - 1)).count_ones() as usize
}

impl<T: Entry> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Slot::Node(node(0, 0, |_| unreachable!("a node without slots"))) }
    }
}

impl<T: Entry> Trie<T> {
    /// A set of one entry. Allocates nothing.
    pub(super) fn of(entry: T) -> Self {
        Self { root: Slot::Leaf(entry) }
    }

    pub(super) fn is_empty(&self) -> bool {
        matches!(&self.root, Slot::Node(node) if node.slots.is_empty())
    }

    /// The entry of a key.
    pub(super) fn get(&self, hash: u64, key: &T::Key) -> Option<&T> {
        self.near(hash).find(|entry| entry.key() == key)
    }

    /// The entries whose hash may be this one: all that have it, and at most one other.
    pub(super) fn near(&self, hash: u64) -> Iter<'_, T> {
        let (mut slot, mut depth) = (&self.root, 0);
        while let Slot::Node(node) = slot
            && depth < u64::BITS
        {
            let digit = digit(hash, depth);
            if node.values & digit == 0 {
                return Iter::over(&[]);
            }
            slot = &node.slots[place(node.values, digit)];
            depth += BITS;
        }
        Iter::over(slice::from_ref(slot))
    }

    /// Prefetches the memory that a change of this hash's entry will need. With many entries it is spread over the
    /// memory, and these reads run in parallel, unlike the steps of the change.
    fn warm(&self, hash: u64) {
        let (mut slot, mut depth, mut shared) = (&self.root, 0, false);
        while let Slot::Node(node) = slot
            && depth < u64::BITS
        {
            shared |= Arc::strong_count(node) > 1;
            if shared {
                node.touch();
            }
            let digit = digit(hash, depth);
            if node.values & digit == 0 {
                return;
            }
            slot = &node.slots[place(node.values, digit)];
            depth += BITS;
        }
        if let Slot::Leaf(entry) = slot {
            entry.warm();
        }
    }

    /// The entry of a key, to be changed in place. Its key must stay.
    pub(super) fn get_mut(&mut self, hash: u64, key: &T::Key) -> Option<&mut T> {
        self.get(hash, key)?;
        let (mut slot, mut depth) = (&mut self.root, 0);
        loop {
            match slot {
                Slot::Leaf(entry) => return Some(entry),
                Slot::Node(node) => {
                    let at = node.way(depth, hash, key)?;
                    slot = &mut unshared(node)[at];
                    depth += BITS;
                }
            }
        }
    }

    /// Inserts an entry, and returns the former one of its key.
    pub(super) fn insert(&mut self, hash: u64, entry: T) -> Option<T> {
        if self.is_empty() {
            self.root = Slot::Leaf(entry);
            return None;
        }
        self.warm(hash);
        self.root.insert(0, hash, entry)
    }

    /// Removes an entry. Copies nothing when there is none.
    pub(super) fn remove(&mut self, hash: u64, key: &T::Key) -> Option<T> {
        self.warm(hash);
        let held = self.get(hash, key)?.clone();
        match self.root {
            Slot::Leaf(_) => *self = Self::default(),
            Slot::Node(_) => self.root.remove(0, hash, key),
        }
        Some(held)
    }

    /// The entries in the order of their hashes.
    pub(super) fn iter(&self) -> Iter<'_, T> {
        Iter::over(slice::from_ref(&self.root))
    }

    /// Calls back with (before, after) for every key whose entries differ, in no order. The cost depends on the
    /// number of differences only.
    pub(super) fn diff<'a>(&'a self, before: &'a Self, changed: &mut impl FnMut(Option<&'a T>, Option<&'a T>))
    where
        T: PartialEq,
    {
        diff(slice::from_ref(&before.root), slice::from_ref(&self.root), 0, changed);
    }
}

/// A node whose slots are made one by one. (Arrays of a known size put a node and its slots into one allocation.)
fn node<T>(values: u32, count: usize, slot: impl FnMut(usize) -> Slot<T>) -> Arc<Node<[Slot<T>]>> {
    macro_rules! sized {
        ($($size:literal)*) => {
            match count {
                $($size => Arc::new(Node { values, slots: array::from_fn::<_, $size, _>(slot) }),)*
                _ => unreachable!("a digit has eight values"),
            }
        };
    }
    sized!(0 1 2 3 4 5 6 7 8)
}

/// The slots of a node, which is copied first if it is shared.
fn unshared<T: Entry>(shared: &mut Arc<Node<[Slot<T>]>>) -> &mut [Slot<T>] {
    if Arc::get_mut(shared).is_none() {
        *shared = node(shared.values, shared.slots.len(), |at| shared.slots[at].clone());
    }
    &mut Arc::get_mut(shared).expect("a copy of our own").slots
}

impl<T: Entry> Node<[Slot<T>]> {
    /// The slot on the path to a key.
    fn way(&self, depth: u32, hash: u64, key: &T::Key) -> Option<usize> {
        if depth >= u64::BITS {
            return Some(usize::from(!self.slots[0].is(key)));
        }
        let digit = digit(hash, depth);
        (self.values & digit != 0).then(|| place(self.values, digit))
    }

    /// Prefetches the memory that a copy will write: the reference counts of the children.
    fn touch(&self) {
        for slot in &self.slots {
            match slot {
                Slot::Leaf(entry) => entry.touch(),
                Slot::Node(node) => {
                    black_box(Arc::strong_count(node));
                }
            }
        }
    }
}

impl<T: Entry> Slot<T> {
    fn is(&self, key: &T::Key) -> bool {
        matches!(self, Slot::Leaf(entry) if entry.key() == key)
    }

    fn insert(&mut self, depth: u32, hash: u64, entry: T) -> Option<T> {
        match self {
            Slot::Leaf(held) if held.key() == entry.key() => return Some(std::mem::replace(held, entry)),
            Slot::Leaf(held) => *self = Slot::pair(depth, (held.hash(), held.clone()), (hash, entry)),
            Slot::Node(shared) => match shared.way(depth, hash, entry.key()) {
                Some(at) => return unshared(shared)[at].insert(depth + BITS, hash, entry),
                None => {
                    let digit = digit(hash, depth);
                    let (new, mut leaf) = (place(shared.values, digit), Some(Slot::Leaf(entry)));
                    *shared = node(shared.values | digit, shared.slots.len() + 1, |at| {
                        let old = || shared.slots[at - usize::from(at > new)].clone();
                        leaf.take_if(|_| at == new).unwrap_or_else(old)
                    });
                }
            },
        }
        None
    }

    /// The node of two entries whose hashes are the same up to a depth.
    fn pair(depth: u32, one: (u64, T), two: (u64, T)) -> Self {
        let (a, b) = if depth < u64::BITS { (digit(one.0, depth), digit(two.0, depth)) } else { (1, 2) };
        if a == b {
            return Slot::Node(Arc::new(Node { values: a, slots: [Slot::pair(depth + BITS, one, two)] }));
        }
        let (low, high) = if a < b { (one.1, two.1) } else { (two.1, one.1) };
        Slot::Node(Arc::new(Node { values: a | b, slots: [Slot::Leaf(low), Slot::Leaf(high)] }))
    }

    /// Removes an entry that exists. A node that is left with one leaf becomes that leaf.
    fn remove(&mut self, depth: u32, hash: u64, key: &T::Key) {
        let Slot::Node(shared) = self else { return };
        let Some(at) = shared.way(depth, hash, key) else { return };
        if !shared.slots[at].is(key) {
            unshared(shared)[at].remove(depth + BITS, hash, key);
            if let [only @ Slot::Leaf(_)] = &shared.slots {
                *self = only.clone();
            }
            return;
        }
        if let [one, two] = &shared.slots {
            let other = if at == 0 { two } else { one };
            if depth >= u64::BITS || matches!(other, Slot::Leaf(_)) {
                *self = other.clone();
                return;
            }
        }
        let rest = shared.values & !digit(hash, depth);
        *shared =
            node(rest, shared.slots.len() - 1, |left| shared.slots[left + usize::from(left >= at)].clone());
    }
}

/// Walks two versions of one slot; an empty slice means no slot.
fn diff<'a, T: Entry + PartialEq>(
    before: &'a [Slot<T>],
    after: &'a [Slot<T>],
    depth: u32,
    changed: &mut impl FnMut(Option<&'a T>, Option<&'a T>),
) {
    match (before, after) {
        ([Slot::Node(one)], [Slot::Node(two)]) if Arc::ptr_eq(one, two) => {}
        ([Slot::Leaf(one)], [Slot::Leaf(two)]) if one.key() == two.key() => {
            if one != two {
                changed(Some(one), Some(two));
            }
        }
        ([Slot::Node(_)], _) | (_, [Slot::Node(_)]) if depth < u64::BITS => {
            for digit in (0..1 << BITS).map(|value| 1 << value) {
                diff(below(before, depth, digit), below(after, depth, digit), depth + BITS, changed);
            }
        }
        _ => {
            let find = |slots, key| Iter::over(slots).find(move |entry: &&T| entry.key() == key);
            for entry in Iter::over(before) {
                match find(after, entry.key()) {
                    Some(same) if same == entry => {}
                    other => changed(Some(entry), other),
                }
            }
            let new = Iter::over(after).filter(|entry| find(before, entry.key()).is_none());
            new.for_each(|entry| changed(None, Some(entry)));
        }
    }
}

/// The part of a slot with one value of the digit at a depth. A leaf counts as a node of its own.
fn below<T: Entry>(place_: &[Slot<T>], depth: u32, digit_: u32) -> &[Slot<T>] {
    match place_ {
        [Slot::Node(node)] if node.values & digit_ != 0 => {
            slice::from_ref(&node.slots[place(node.values, digit_)])
        }
        [Slot::Leaf(entry)] if digit(entry.hash(), depth) == digit_ => place_,
        _ => &[],
    }
}

/// Entries of a [`Trie`].
#[derive(Clone)]
pub(super) struct Iter<'a, T> {
    slots: slice::Iter<'a, Slot<T>>,
    above: Vec<slice::Iter<'a, Slot<T>>>,
}

impl<'a, T> Iter<'a, T> {
    fn over(slots: &'a [Slot<T>]) -> Self {
        Self { slots: slots.iter(), above: Vec::new() }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    fn next(&mut self) -> Option<&'a T> {
        loop {
            match self.slots.next() {
                Some(Slot::Leaf(entry)) => return Some(entry),
                Some(Slot::Node(node)) => {
                    self.above.push(std::mem::replace(&mut self.slots, node.slots.iter()));
                }
                None => self.slots = self.above.pop()?,
            }
        }
    }
}

#[cfg(test)]
mod tests;
