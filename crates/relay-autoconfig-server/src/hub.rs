//! The configuration in force, and the changes since each position.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use relay_proto::autoconfig::{Path, write_delete, write_environment, write_filter, write_patch, write_put};
use relay_proto::sse::Encoder;
use tokio::sync::watch;

use crate::file::Configuration;
use crate::versions::{Change, Kind};

/// A position: the number of changes so far.
pub(crate) type Position = u64;

/// Size limit of changes that are joined into one write.
const BATCH: usize = 32 << 10;

/// Keeps only the last event of each id: a slow subscriber gets the last event of each id that it missed, in the
/// order of the changes, and takes no memory.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    head: watch::Sender<Position>,
    encoded: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    configuration: Configuration,
    changes: BTreeMap<Position, (Kind, Bytes)>,
    places: HashMap<(Kind, String), Position>,
    head: Position,
    /// The put of everything, without and with filters, encoded on first use.
    puts: [Option<Bytes>; 2],
}

impl Hub {
    pub(crate) fn new(configuration: Configuration) -> Self {
        let state = State { configuration, ..State::default() };
        Self { state: Mutex::new(state), head: watch::Sender::new(0), encoded: AtomicU64::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The position of the last change, and every later one.
    pub(crate) fn watch(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// Events that were encoded, puts included.
    pub(crate) fn encoded(&self) -> u64 {
        self.encoded.load(Ordering::Relaxed)
    }

    /// Publishes a new configuration with its changes.
    pub(crate) fn publish(&self, configuration: Configuration, changes: &[Change]) {
        let mut state = self.state();
        let state = &mut *state;
        let mut text = String::new();
        for change in changes {
            text.clear();
            let id = change.id.as_str();
            let path = match change.kind {
                Kind::Environment => Path::Environment(id.into()),
                Kind::Filter => Path::Filter(id.into()),
            };
            let environment = configuration.environments.get(id).filter(|_| change.kind == Kind::Environment);
            let filter = configuration.filters.get(id).filter(|_| change.kind == Kind::Filter);
            let event = match (environment, filter) {
                (Some(environment), _) => {
                    write_patch(&mut text, &path, |out| write_environment(out, environment));
                    "patch"
                }
                (_, Some(filter)) => {
                    write_patch(&mut text, &path, |out| write_filter(out, filter));
                    "patch"
                }
                _ => {
                    write_delete(&mut text, &path, change.version);
                    "delete"
                }
            };
            state.head += 1;
            state.changes.insert(state.head, (change.kind, self.frame(event, &text)));
            if let Some(before) = state.places.insert((change.kind, change.id.clone()), state.head) {
                state.changes.remove(&before);
            }
        }
        state.configuration = configuration;
        state.puts = [None, None];
        self.head.send_replace(state.head);
    }

    /// The put of everything, and its position.
    pub(crate) fn put(&self, filters: bool) -> (Position, Bytes) {
        let mut state = self.state();
        let state = &mut *state;
        let put = state.puts[usize::from(filters)].get_or_insert_with(|| {
            let mut text = String::new();
            let environments = state.configuration.environments.iter().map(|(id, rep)| (id.as_str(), rep));
            let mut known = state.configuration.filters.iter().map(|(id, rep)| (id.as_str(), rep));
            write_put(&mut text, environments, filters.then_some(&mut known));
            self.frame("put", &text)
        });
        (state.head, put.clone())
    }

    /// The next changes after a position, and the position of the last of them. A single event is shared; several
    /// are joined into one write.
    pub(crate) fn next(&self, after: Position, filters: bool) -> Option<(Position, Bytes)> {
        let state = self.state();
        let later = state.changes.range(after + 1..);
        let mut later = later.filter(|(_, (kind, _))| filters || *kind == Kind::Environment).peekable();
        let (mut position, (_, first)) = later.next()?;
        let fits = |together: usize, frame: &Bytes| together + frame.len() <= BATCH;
        if later.peek().is_none_or(|(_, (_, second))| !fits(first.len(), second)) {
            return Some((*position, first.clone()));
        }
        let mut together = BytesMut::with_capacity(BATCH);
        together.extend_from_slice(first);
        while let Some((at, (_, frame))) = later.next_if(|(_, (_, frame))| fits(together.len(), frame)) {
            together.extend_from_slice(frame);
            position = at;
        }
        Some((*position, together.freeze()))
    }

    fn frame(&self, event: &str, data: &str) -> Bytes {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let mut out = BytesMut::with_capacity(data.len() + 32);
        Encoder::new(&mut out).event(Some(event), None, data).expect("the names of events are plain");
        out.freeze()
    }
}

/// The events of one subscriber, up to the newest change.
#[derive(Debug)]
pub(crate) struct Cursor {
    hub: Arc<Hub>,
    filters: bool,
    at: Option<Position>,
}

impl Cursor {
    pub(crate) fn new(hub: Arc<Hub>, filters: bool) -> Self {
        Self { hub, filters, at: None }
    }

    /// The next event, if there is one: first the put, then changes.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let (position, frame) = match self.at {
            None => self.hub.put(self.filters),
            Some(at) => self.hub.next(at, self.filters)?,
        };
        self.at = Some(position);
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use relay_proto::autoconfig::{EnvironmentRep, FilterRep};

    use super::*;

    fn configuration(environments: &[(&str, i64)], filters: &[(&str, i64)]) -> Configuration {
        let mut configuration = Configuration::default();
        for (id, version) in environments {
            let mut environment = EnvironmentRep::default();
            environment.version = *version;
            configuration.environments.insert((*id).to_owned(), environment);
        }
        for (id, version) in filters {
            let mut filter = FilterRep::default();
            filter.version = *version;
            configuration.filters.insert((*id).to_owned(), filter);
        }
        configuration
    }

    fn change(kind: Kind, id: &str, version: i64, gone: bool) -> Change {
        Change { kind, id: id.to_owned(), version, gone }
    }

    fn told(cursor: &mut Cursor) -> Vec<String> {
        let pieces: Vec<_> = std::iter::from_fn(|| cursor.next()).flatten().collect();
        let text = String::from_utf8(pieces).unwrap();
        text.split_terminator("\n\n")
            .map(|text| {
                let event = text.lines().next().unwrap().trim_start_matches("event: ").to_owned();
                let path = text.split("\"path\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
                format!("{event} {path}")
            })
            .collect()
    }

    #[test]
    fn who_lags_gets_the_last_of_each_id_and_each_event_is_encoded_once() {
        let hub = Arc::new(Hub::new(configuration(&[("a", 1), ("b", 1)], &[("f", 1)])));
        let (mut prompt, mut late, mut old) =
            (Cursor::new(hub.clone(), true), Cursor::new(hub.clone(), true), Cursor::new(hub.clone(), false));
        assert_eq!(told(&mut prompt), ["put /"]);
        assert_eq!(told(&mut late), ["put /"]);
        let put = hub.put(false).1;
        assert!(!String::from_utf8(put.to_vec()).unwrap().contains("filters"));
        assert_eq!(told(&mut old), ["put /"]);
        assert_eq!(hub.encoded(), 2);

        hub.publish(
            configuration(&[("a", 2), ("b", 1)], &[("f", 2)]),
            &[change(Kind::Environment, "a", 2, false), change(Kind::Filter, "f", 2, false)],
        );
        assert_eq!(told(&mut prompt), ["patch /environments/a", "patch /filters/f"]);
        hub.publish(
            configuration(&[("b", 2)], &[("f", 2)]),
            &[change(Kind::Environment, "b", 2, false), change(Kind::Environment, "a", 3, true)],
        );
        assert_eq!(told(&mut prompt), ["patch /environments/b", "delete /environments/a"]);
        assert_eq!(told(&mut late), ["patch /filters/f", "patch /environments/b", "delete /environments/a"]);
        assert_eq!(told(&mut old), ["patch /environments/b", "delete /environments/a"]);
        assert_eq!(hub.encoded(), 6, "two puts and four changes, for three subscribers");
        assert_eq!(hub.state().changes.len(), 3, "of each id the last alone is kept");
    }

    #[test]
    fn changes_are_put_together_up_to_a_size() {
        let names: Vec<String> = (0..1000).map(|i| format!("e{i:04}")).collect();
        let all = |version| {
            let ids: Vec<_> = names.iter().map(|name| (name.as_str(), version)).collect();
            configuration(&ids, &[])
        };
        let hub = Arc::new(Hub::new(all(1)));
        let mut cursor = Cursor::new(hub.clone(), true);
        cursor.next();
        let changes: Vec<_> = names.iter().map(|name| change(Kind::Environment, name, 2, false)).collect();
        hub.publish(all(2), &changes);
        let pieces: Vec<_> = std::iter::from_fn(|| cursor.next()).collect();
        assert!(pieces.len() > 1 && pieces.iter().all(|piece| piece.len() <= BATCH), "{}", pieces.len());
        let text = String::from_utf8(pieces.concat()).unwrap();
        let told: Vec<_> =
            text.split_terminator("\n\n").map(|event| event.contains("event: patch")).collect();
        assert!(told.len() == 1000 && told.iter().all(|patch| *patch));
        let order = names.iter().map(|name| text.find(&format!("/environments/{name}\"")).unwrap());
        assert!(order.is_sorted());
    }
}
