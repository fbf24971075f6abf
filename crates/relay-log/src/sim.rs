//! A simulated disk in memory that loses unsynced data, and fails on demand.
//!
//! It keeps two versions of everything: what processes see, and what is on the platter. A write, a new length or a new
//! name changes only the first, until [`DiskFile::sync`] or [`Disk::sync_dir`] puts it into the second. When the power
//! is lost, any part of the unsynced changes may have reached the platter, in any order: the caller of
//! [`SimDisk::after_power_loss`] decides for each of them.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, DiskFile};

/// The disk. Clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Node>,
    boot: u64,
    /// Operations so far that may change something or fail.
    operations: u64,
    fault: Option<Fault>,
    /// Whether everything fails, because there is no power.
    off: bool,
    /// Whether writes fail because there is no room.
    full: bool,
    locked: Option<Arc<()>>,
}

#[derive(Clone)]
enum Node {
    File { now: Vec<u8>, platter: Vec<u8>, pending: Vec<Write> },
    Dir { now: BTreeMap<String, usize>, platter: BTreeMap<String, usize>, pending: Vec<Naming> },
}

#[derive(Clone)]
enum Write {
    Bytes { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone)]
enum Naming {
    Is(String, usize),
    Gone(String),
    Renamed(String, String),
}

/// A fault, which happens once, at the operation with this number. Operations are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The number of the operation.
    pub at: u64,
    /// The kind of fault.
    pub kind: FaultKind,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// The power is lost: this operation does nothing, and neither does any later one.
    PowerOff,
    /// The operation fails; a write has written half of it.
    Error,
    /// There is no room; a write has written half of it.
    NoRoom,
    /// A write writes half and says so; nothing else fails.
    Short,
    /// A signal interrupts the operation, and nothing was done.
    Interrupted,
}

impl Default for SimDisk {
    fn default() -> Self {
        let root = Node::Dir { now: BTreeMap::new(), platter: BTreeMap::new(), pending: Vec::new() };
        Self::of(State {
            nodes: vec![root],
            boot: 1,
            operations: 0,
            fault: None,
            off: false,
            full: false,
            locked: None,
        })
    }
}

impl SimDisk {
    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the fault of a later operation.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Makes the disk full, or makes room again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// How many operations there were that a fault could have hit.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many writes and names have not been synced.
    pub fn pending(&self) -> usize {
        let state = self.state();
        let pending = |node: &Node| match node {
            Node::File { pending, .. } => pending.len(),
            Node::Dir { pending, .. } => pending.len(),
        };
        state.nodes.iter().map(pending).sum()
    }

    /// The disk as the next process finds it after a kill, in the same boot: every change is there.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let mut state = self.state().clone();
        (state.fault, state.off, state.locked) = (None, false, None);
        Self::of(state)
    }

    /// The disk as the next boot finds it. `survives` is called for each write and name that was not synced, in the
    /// order in which they were made within each file and directory. It returns how many eighths of the change reached
    /// the platter, 0 to 8; a name is there with 8 only.
    #[must_use]
    pub fn after_power_loss(&self, mut survives: impl FnMut() -> u8) -> Self {
        let mut state = self.state().clone();
        for node in &mut state.nodes {
            match node {
                Node::File { now, platter, pending } => {
                    for write in pending.drain(..) {
                        write.apply(platter, survives());
                    }
                    now.clone_from(platter);
                }
                Node::Dir { now, platter, pending } => {
                    for naming in pending.drain(..) {
                        if survives() >= 8 {
                            naming.apply(platter);
                        }
                    }
                    now.clone_from(platter);
                }
            }
        }
        state.boot += 1;
        (state.fault, state.off, state.locked) = (None, false, None);
        Self::of(state)
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

impl Write {
    /// Applies so many eighths of the change to a file; a gap before it is filled with zeros.
    fn apply(&self, into: &mut Vec<u8>, eighths: u8) {
        match self {
            Self::Length(len) if eighths > 0 => into.resize(*len, 0),
            Self::Length(_) => {}
            Self::Bytes { at, bytes } => {
                let some = &bytes[..bytes.len() * usize::from(eighths.min(8)) / 8];
                // The new length may be there without the new bytes.
                let end = if eighths == 0 { 0 } else { at + bytes.len() };
                if into.len() < end {
                    into.resize(end, 0);
                }
                if !some.is_empty() {
                    into[*at..at + some.len()].copy_from_slice(some);
                }
            }
        }
    }
}

impl Naming {
    fn apply(&self, into: &mut BTreeMap<String, usize>) {
        match self {
            Self::Is(name, node) => drop(into.insert(name.clone(), *node)),
            Self::Gone(name) => drop(into.remove(name)),
            Self::Renamed(from, to) => {
                if let Some(node) = into.remove(from) {
                    into.insert(to.clone(), node);
                }
            }
        }
    }
}

/// How much of an operation is done.
enum Turn {
    All,
    Half(Option<io::Error>),
}

impl State {
    /// Counts an operation, and applies the fault that is due.
    fn turn(&mut self, takes_room: bool) -> io::Result<Turn> {
        let at = self.operations;
        self.operations += 1;
        if self.off {
            return Err(io::Error::other("the power is off"));
        }
        let due = self.fault.filter(|fault| fault.at == at);
        match due.map(|fault| fault.kind) {
            Some(FaultKind::PowerOff) => {
                self.off = true;
                Err(io::Error::other("the power is off"))
            }
            Some(FaultKind::Error) => Ok(Turn::Half(Some(io::Error::other("a fault of the disk")))),
            Some(FaultKind::NoRoom) if takes_room => Ok(Turn::Half(Some(io::ErrorKind::StorageFull.into()))),
            Some(FaultKind::Interrupted) if takes_room => Err(io::ErrorKind::Interrupted.into()),
            Some(FaultKind::Short) => Ok(Turn::Half(None)),
            _ if self.full && takes_room => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(Turn::All),
        }
    }

    /// Counts an operation that is done completely or not at all.
    fn whole(&mut self, takes_room: bool) -> io::Result<()> {
        match self.turn(takes_room)? {
            Turn::All | Turn::Half(None) => Ok(()),
            Turn::Half(Some(error)) => Err(error),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        let mut at = 0;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let Node::Dir { now, .. } = &self.nodes[at] else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            at = *now.get(&*name.to_string_lossy()).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory that a path is in, and its name there.
    fn place(&self, path: &Path) -> io::Result<(usize, String)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    fn name(&mut self, dir: usize, naming: Naming) {
        if let Node::Dir { now, pending, .. } = &mut self.nodes[dir] {
            naming.apply(now);
            pending.push(naming);
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<usize> {
        let (dir, name) = self.place(path)?;
        self.nodes.push(node);
        let id = self.nodes.len() - 1;
        self.name(dir, Naming::Is(name, id));
        Ok(id)
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole(true)?;
        let mut at = PathBuf::new();
        for component in path.components() {
            at.push(component);
            if state.find(&at).is_err() {
                let empty = Node::Dir { now: BTreeMap::new(), platter: BTreeMap::new(), pending: Vec::new() };
                state.add(&at, empty)?;
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        match &state.nodes[state.find(path)?] {
            Node::Dir { now, .. } => Ok(now.keys().cloned().collect()),
            Node::File { .. } => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let node = self.state().find(path)?;
        Ok(Arc::new(SimFile { disk: self.clone(), node }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.whole(true)?;
        let node = match state.find(path) {
            Ok(node) => {
                if let Node::File { now, pending, .. } = &mut state.nodes[node] {
                    now.clear();
                    pending.push(Write::Length(0));
                }
                node
            }
            Err(_) => {
                let empty = Node::File { now: Vec::new(), platter: Vec::new(), pending: Vec::new() };
                state.add(path, empty)?
            }
        };
        drop(state);
        Ok(Arc::new(SimFile { disk: self.clone(), node }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole(true)?;
        state.find(from)?;
        let ((dir, from), (target, to)) = (state.place(from)?, state.place(to)?);
        if dir != target {
            return Err(io::Error::other("names are changed within a directory only"));
        }
        state.name(dir, Naming::Renamed(from, to));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole(false)?;
        state.find(path)?;
        let (dir, name) = state.place(path)?;
        state.name(dir, Naming::Gone(name));
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole(false)?;
        let dir = state.find(path)?;
        if let Node::Dir { now, platter, pending } = &mut state.nodes[dir] {
            platter.clone_from(now);
            pending.clear();
        }
        Ok(())
    }

    fn lock(&self, path: &Path, create: bool) -> io::Result<Box<dyn fmt::Debug + Send + Sync>> {
        if self.state().locked.as_ref().is_some_and(|held| Arc::strong_count(held) > 1) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if self.state().find(path).is_err() {
            if !create {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.create(path)?;
        }
        let held = Arc::new(());
        self.state().locked = Some(held.clone());
        Ok(Box::new(held))
    }

    fn boot(&self) -> Option<String> {
        Some(self.state().boot.to_string())
    }
}

struct SimFile {
    disk: SimDisk,
    node: usize,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("node", &self.node).finish_non_exhaustive()
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.state();
        let Node::File { now, .. } = &state.nodes[self.node] else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(now.len());
        let len = into.len().min(now.len() - from);
        into[..len].copy_from_slice(&now[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, from: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        let (some, error) = match state.turn(true)? {
            Turn::All => (from.len(), None),
            Turn::Half(error) => (from.len().div_ceil(2), error),
        };
        if let Node::File { now, pending, .. } = &mut state.nodes[self.node] {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            let write = Write::Bytes { at, bytes: from[..some].to_vec() };
            write.apply(now, 8);
            pending.push(write);
        }
        error.map_or(Ok(some), Err)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        // After a failed sync the state of the platter is unknown: here it is as without the sync.
        state.whole(false)?;
        if let Node::File { now, platter, pending } = &mut state.nodes[self.node] {
            platter.clone_from(now);
            pending.clear();
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        match &self.disk.state().nodes[self.node] {
            Node::File { now, .. } => Ok(now.len() as u64),
            Node::Dir { .. } => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.whole(false)?;
        if let Node::File { now, pending, .. } = &mut state.nodes[self.node] {
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            now.resize(len, 0);
            pending.push(Write::Length(len));
        }
        Ok(())
    }
}
