//! The ledger: every event of the relays' logs, recorded at the moment when the store accepts it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use relay_log::{Batch, Entry as Kept, Intercept, MemoryStore, Store};
use relay_pods::{EventHash, EventType, Filter, Pod, PodEvent};
use relay_pods_server::{LogIdentity, Record};
use relay_proto::pods::Message;
use relay_proto::sse::{Decoder, Frame};
use relay_testkit::Oracle;

/// The number of events of one log, and of logs, that are kept. Followers are never further behind than relays retain.
const EVENTS: usize = 20_000;
const LOGS: usize = 4;

/// The logs of all relays of a run, one after the other. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

struct Book {
    /// The filter of the filtered streams.
    filter: Filter,
    logs: VecDeque<Log>,
    /// The number of logs so far.
    begun: u64,
    /// The place of each kept hash.
    places: HashMap<EventHash, Place>,
    events: u64,
    broken: Option<String>,
}

struct Log {
    number: u64,
    epoch: String,
    /// The sequence of the first kept event.
    first: u64,
    events: VecDeque<Entry>,
    pods: Oracle,
}

struct Entry {
    hash: EventHash,
    /// Whether a filtered stream gets the event.
    filtered: bool,
}

/// A position: the number of the log, and the sequence there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) log: u64,
    pub(crate) sequence: u64,
}

impl Ledger {
    pub(crate) fn new(filter: Filter) -> Self {
        let (logs, places) = (VecDeque::new(), HashMap::new());
        Self(Arc::new(Mutex::new(Book { filter, logs, begun: 0, places, events: 0, broken: None })))
    }

    fn with<T>(&self, access: impl FnOnce(&mut Book) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A store in memory for a new log, which is kept longer than the relays that use it.
    pub(crate) fn store(&self) -> Recorded {
        let ledger = self.clone();
        let identity = LogIdentity::random();
        // The relay of the previous log may still append to that log, so each store knows its own log.
        let log = self.begin(identity.epoch().as_str(), identity.genesis());
        // The ledger is first, because the store's event may already be on its way to a follower.
        let store = Intercept::new(Arc::new(MemoryStore::new()), move |group| {
            group.iter().for_each(|batch| ledger.take(log, batch));
            Box::pin(std::future::ready(Ok(())))
        });
        Recorded { store: Arc::new(store), identity }
    }

    fn take(&self, log: u64, batch: &Batch) {
        let first = batch.expected_head().map_or(0, |head| head + 1);
        for (position, body) in (first..).zip(batch.entries()) {
            let kept = Kept { position, time: batch.time(), body: body.clone() };
            let Ok(record) = Record::decode(&kept) else {
                self.with(|book| book.broken = Some(format!("what is appended at {position} is no event")));
                return;
            };
            let mut decoder = Decoder::default();
            decoder.feed(record.frame());
            while let Some(frame) = decoder.next_frame() {
                if let Frame::Event(event) = frame
                    && let Message::Pod(event) =
                        Message::decode(event.kind(), event.last_event_id(), event.data())
                {
                    self.record(log, &event);
                }
            }
        }
    }

    fn begin(&self, epoch: &str, genesis: EventHash) -> u64 {
        self.with(|book| {
            let number = book.begun;
            book.begun += 1;
            book.places.insert(genesis, Place { log: number, sequence: 0 });
            let pods = Oracle::default();
            book.logs.push_back(Log { number, epoch: epoch.into(), first: 1, events: VecDeque::new(), pods });
            if book.logs.len() > LOGS {
                book.logs.pop_front();
            }
            let oldest = book.logs.front().map_or(0, |log| log.number);
            book.places.retain(|_, place| place.log >= oldest);
            number
        })
    }

    fn record(&self, log: u64, event: &PodEvent) {
        self.with(|book| {
            let Some(log) = book.logs.iter_mut().find(|known| known.number == log) else { return };
            let sequence = log.first + log.events.len() as u64;
            if event.sequence != Some(sequence) {
                book.broken = Some(format!("the log has {:?} in the place of {sequence}", event.sequence));
                return;
            }
            let before = log.pods.pods().find(|pod| pod.key() == event.pod.key());
            let before = before.is_some_and(|pod| book.filter.matches(pod));
            let after = book.filter.matches(&event.pod);
            let filtered = match event.kind {
                EventType::Added => after,
                EventType::Modified => before || after,
                _ => before,
            };
            log.pods.apply(event);
            log.events.push_back(Entry { hash: event.hash.clone(), filtered });
            book.places.insert(event.hash.clone(), Place { log: log.number, sequence });
            if log.events.len() > EVENTS
                && let Some(oldest) = log.events.pop_front()
            {
                log.first += 1;
                book.places.remove(&oldest.hash);
            }
            book.events += 1;
        });
    }

    /// The number of events of all logs.
    pub(crate) fn events(&self) -> u64 {
        self.with(|book| book.events)
    }

    /// The first error in the logs themselves.
    pub(crate) fn broken(&self) -> Option<String> {
        self.with(|book| book.broken.clone())
    }

    pub(crate) fn place(&self, hash: &EventHash) -> Option<Place> {
        self.with(|book| book.places.get(hash).copied())
    }

    /// The number of the log with this epoch.
    pub(crate) fn log(&self, epoch: &str) -> Option<u64> {
        self.with(|book| book.logs.iter().find(|log| log.epoch == epoch).map(|log| log.number))
    }

    /// The first event after a place, up to a sequence, that such a stream must have got.
    pub(crate) fn first_between(&self, after: Place, up_to: u64, filtered: bool) -> Option<u64> {
        self.with(|book| {
            let log = book.logs.iter().find(|log| log.number == after.log)?;
            let skipped = usize::try_from((after.sequence + 1).saturating_sub(log.first)).ok()?;
            let events = log.events.iter().zip(log.first..).skip(skipped);
            let mut seen = events.take_while(|(_, sequence)| *sequence <= up_to);
            seen.find(|(event, _)| event.filtered || !filtered).map(|(_, sequence)| sequence)
        })
    }

    /// The end of the newest log.
    pub(crate) fn head(&self) -> Place {
        self.with(|book| {
            book.logs.back().map_or(Place { log: 0, sequence: 0 }, |log| Place {
                log: log.number,
                sequence: log.first + log.events.len() as u64 - 1,
            })
        })
    }

    /// The pods at the end of the newest log.
    pub(crate) fn pods(&self, filtered: bool) -> Vec<Pod> {
        self.with(|book| {
            let pods = book.logs.back().into_iter().flat_map(|log| log.pods.pods());
            pods.filter(|pod| !filtered || book.filter.matches(pod)).cloned().collect()
        })
    }
}

/// A store that records its events in the ledger.
#[derive(Clone)]
pub(crate) struct Recorded {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) identity: LogIdentity,
}

#[cfg(test)]
impl Ledger {
    /// A log of invented events: filtered streams get `+`, and do not get `-`. Their hashes are `EPOCH.N`.
    pub(crate) fn with_log(self, epoch: &str, events: &str) -> Self {
        let hash = |n: usize| EventHash::new(&format!("{epoch}.{n}")).expect("a hash");
        let log = self.begin(epoch, hash(0));
        for (n, kind) in (1..).zip(events.chars()) {
            let namespace = if kind == '+' { "prod" } else { "dev" };
            let pod = relay_proto::pods::PodBuilder::new(namespace, "web").build();
            let mut event = PodEvent::new(EventType::Modified, hash(n), None, pod);
            event.sequence = Some(n as u64);
            self.record(log, &event);
        }
        assert_eq!(self.broken(), None);
        self
    }
}
