//! Streams compared with a slow and simple model, without a socket.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use proptest::prelude::*;
use relay_proto::pods::{EventType, Message, Pod, PodBuilder, PodEvent, PodKey};
use relay_proto::sse::{Decoder, Frame};

use super::*;
use crate::auth::Sessions;
use crate::clock::Clock;
use crate::config::Config;
use crate::log::{Log, at_once};
use crate::metrics::Metrics;
use crate::source::{Publisher, Scope};
use crate::store::{DEFAULT_RETENTION, Resolved, resolve};
use relay_log::Retention;

fn relay(retention: Retention) -> (Arc<Relay>, Publisher) {
    let clock = Clock::manual(0);
    let config = Config::default();
    let log = Log::in_memory(retention, clock.clone());
    let publisher = Publisher::new(log.clone(), []);
    let relay = Relay {
        source_kind: "test",
        sessions: Sessions::new(clock, config.session_ttl),
        tokens: None,
        log,
        metrics: Metrics::default(),
        connections: relay_transport::server::Connections::default(),
        subscribers: std::sync::atomic::AtomicU64::new(0),
        control: watch::Sender::default(),
        config,
    };
    (Arc::new(relay), publisher)
}

fn subscribe(relay: &Arc<Relay>, filter: Filter, start: Start) -> Subscriber {
    let slot = Slot::take(relay, None).unwrap();
    let order = Order {
        principal: Principal::anyone(crate::auth::Namespaces::all()),
        client_id: None,
        filter,
        start,
        slot,
    };
    at_once(Subscriber::new(relay.clone(), order)).unwrap()
}

/// The messages of the next piece, if it is ready without waiting.
fn piece(subscriber: &mut Subscriber) -> Vec<Message> {
    let Some(piece) = subscriber.next().now_or_never() else { return Vec::new() };
    let mut decoder = Decoder::default();
    decoder.feed(piece.expect("it goes on").unwrap());
    let mut messages = Vec::new();
    while let Some(frame) = decoder.next_frame() {
        let Frame::Event(event) = frame else { continue };
        messages.push(Message::decode(event.kind(), event.last_event_id(), event.data()));
    }
    messages
}

fn clear(relay: &Relay) {
    let log = relay.log.events.log();
    at_once(log.trim(log.bounds().head)).unwrap();
}

fn upsert(publisher: &Publisher, name: &str, version: u64, app: &str) {
    let pod = PodBuilder::new("prod", name).resource_version(Some(&version.to_string())).label("app", app);
    at_once(publisher.upsert(pod.build())).unwrap();
}

#[tokio::test]
async fn catching_up_comes_to_an_end_under_any_load() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    for at in 0..500 {
        upsert(&publisher, "a", at, "web");
    }
    let mut subscriber = subscribe(&relay, Filter::new(), Start::Oldest);
    // Each round appends more than it reads.
    let mut messages = Vec::new();
    for round in 0_u64.. {
        (0..400).for_each(|at| upsert(&publisher, "a", 1000 + 400 * round + at, "web"));
        messages.extend(piece(&mut subscriber));
        if messages.iter().any(|message| matches!(message, Message::CatchupComplete(_))) {
            break;
        }
        assert!(round < 1000, "it never comes");
    }
    let place = messages.iter().position(|m| matches!(m, Message::CatchupComplete(_))).unwrap();
    let Message::CatchupComplete(complete) = &messages[place] else { unreachable!() };
    let (reached, replayed) = (complete.sequence.unwrap(), complete.replayed.unwrap());
    // The head at the connect was 500. When the stream got there, the head was a multiple of 400 above it.
    assert!(reached > 500 && (reached - 500) % 400 == 0, "{reached}");
    assert_eq!((reached, place as u64), (replayed, replayed + 1), "right after the event it names");
    assert_eq!(messages.iter().filter(|m| matches!(m, Message::CatchupComplete(_))).count(), 1);
}

#[tokio::test]
async fn who_starts_at_the_head_has_caught_up_whatever_comes_meanwhile() {
    for by_cursor in [false, true] {
        let (relay, publisher) = relay(DEFAULT_RETENTION);
        upsert(&publisher, "a", 1, "web");
        let head = relay.log.view().hash.clone();
        let start = if by_cursor { Start::After(head, 1) } else { Start::Latest };
        let mut subscriber = subscribe(&relay, Filter::new(), start);
        upsert(&publisher, "a", 2, "web");
        let messages = piece(&mut subscriber);
        let [Message::Connected(_), Message::CatchupComplete(complete), Message::Pod(_)] = &messages[..]
        else {
            panic!("{messages:?}")
        };
        assert_eq!((complete.sequence, complete.replayed), (Some(1), Some(0)));
    }
}

#[tokio::test]
async fn connected_comes_first_even_when_the_end_has_come_already() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    upsert(&publisher, "a", 1, "web");
    let unknown =
        Start::Gap { reason: GapReason::CursorUnknown, requested: Some("x".into()), sequence: None };
    let mut subscriber = subscribe(&relay, Filter::new(), unknown);
    relay.control.send_modify(|control| control.rebalances += 1);
    let messages = piece(&mut subscriber);
    assert!(
        matches!(&messages[..], [Message::Connected(_), Message::Gap(_), Message::Closing(_)]),
        "{messages:?}"
    );
    assert!(subscriber.next().await.is_none());
}

#[tokio::test]
async fn what_is_trimmed_after_the_look_up_is_told_as_it_is() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    upsert(&publisher, "a", 1, "web");
    let cursor = relay.log.view().hash.clone();
    (2..=4).for_each(|at| upsert(&publisher, "a", at, "web"));
    // The log is trimmed between the look-up of the cursor and the stream.
    clear(&relay);
    upsert(&publisher, "a", 5, "web");
    let mut subscriber = subscribe(&relay, Filter::new(), Start::After(cursor.clone(), 1));
    let messages = piece(&mut subscriber);
    let [Message::Connected(connected), Message::Gap(gap), Message::Pod(pod), Message::CatchupComplete(_)] =
        &messages[..]
    else {
        panic!("{messages:?}")
    };
    assert_eq!((&gap.reason, gap.missed), (&GapReason::CursorExpired, Some(3)));
    assert_eq!(gap.requested_hash.as_deref(), Some(cursor.as_str()));
    assert_eq!(connected.resumes_after.as_ref().and_then(|at| at.sequence), Some(4));
    assert_eq!(pod.sequence, Some(5));
    // The log is trimmed between `connected` and the first read of the log.
    let mut subscriber = subscribe(&relay, Filter::new(), Start::Oldest);
    clear(&relay);
    let messages = piece(&mut subscriber);
    assert!(
        matches!(&messages[..], [Message::Connected(_), Message::Pod(_), Message::CatchupComplete(_)]),
        "{messages:?}"
    );
}

#[tokio::test]
async fn pieces_are_bounded() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    let pods = (0..20_000).map(|at| PodBuilder::new("prod", &at.to_string()).build()).collect();
    publisher.relist(Scope::All, pods).await.unwrap();
    let mut subscriber = subscribe(&relay, Filter::new(), Start::Oldest);
    let mut total = 0;
    // The end of the log is the end of the catch-up.
    while subscriber.phase != Phase::Live {
        let piece = subscriber.next().await.unwrap().unwrap();
        assert!(piece.len() < PIECE + 1024, "{}", piece.len());
        total += piece.len();
    }
    assert!(total > 20_000 * 300);
    // A filter that matches nothing lets other tasks run in between.
    let mut subscriber = subscribe(&relay, Filter::new().namespace("none").unwrap(), Start::Oldest);
    assert_eq!(piece(&mut subscriber).len(), 1, "connected comes before the whole log was looked at");
    assert!(subscriber.sequence < 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_long_search_is_no_silence() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    let pods = (0..10_000).map(|at| PodBuilder::new("prod", &at.to_string()).build()).collect();
    publisher.relist(Scope::All, pods).await.unwrap();
    let mut subscriber = subscribe(&relay, Filter::new().namespace("none").unwrap(), Start::Oldest);
    assert!(matches!(piece(&mut subscriber)[..], [Message::Connected(_)]));
    tokio::time::advance(relay.config.heartbeat).await;
    let [Message::Heartbeat(beat)] = &piece(&mut subscriber)[..] else { panic!() };
    assert!(beat.catching_up && beat.sequence > Some(0) && beat.sequence < Some(10_000));
    assert_eq!(beat.hash.as_ref(), Some(&subscriber.hash));
    loop {
        match &piece(&mut subscriber)[..] {
            [] => {}
            [Message::CatchupComplete(complete)] => {
                assert_eq!((complete.sequence, complete.replayed), (Some(10_000), Some(0)));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    tokio::time::advance(relay.config.heartbeat).await;
    let beat = subscriber.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&beat).contains("\"catching_up\":false"));
}

/// One step of a run.
#[derive(Debug, Clone)]
enum Step {
    Upsert { namespace: u8, name: u8, app: u8 },
    Delete { namespace: u8, name: u8, app: u8 },
    Read,
    Trim,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = (0..2_u8, 0..4_u8, 0..3_u8);
    prop_oneof![
        6 => pod.clone().prop_map(|(namespace, name, app)| Step::Upsert { namespace, name, app }),
        2 => pod.prop_map(|(namespace, name, app)| Step::Delete { namespace, name, app }),
        3 => Just(Step::Read),
        1 => Just(Step::Trim),
        1 => Just(Step::Reconnect),
    ]
}

/// A consumer that believes every message: its pods and its position.
#[derive(Default)]
struct Consumer {
    pods: BTreeMap<PodKey, String>,
    sequence: u64,
    hash: Option<EventHash>,
    sent: u64,
    complete: bool,
}

impl Consumer {
    fn take(&mut self, message: Message, filter: &Filter, history: &History) {
        match message {
            Message::Connected(connected) => {
                let after = connected.resumes_after.unwrap();
                match &self.hash {
                    // The first connection: retained events follow, and earlier ones are in the list that the client
                    // reads.
                    None => self.pods = fold_until(history, after.sequence.unwrap(), filter),
                    Some(hash) => assert!(*hash == after.hash || after.sequence > Some(self.sequence)),
                }
                (self.sequence, self.hash) = (after.sequence.unwrap(), Some(after.hash));
                (self.sent, self.complete) = (0, false);
                assert_eq!(connected.filtered, Some(!filter.is_empty()));
            }
            Message::Gap(gap) => {
                self.sent += 1;
                assert_eq!(gap.sent, (!filter.is_empty()).then_some(self.sent));
                assert!(gap.sequence.unwrap() >= self.sequence);
                (self.sequence, self.hash) = (gap.sequence.unwrap(), gap.hash);
                // After a gap the client reads the list, which has the pods at the gap's position.
                self.pods = fold_until(history, self.sequence, filter);
            }
            Message::Pod(event) => self.pod(event, filter),
            Message::CatchupComplete(complete) => {
                assert!(!std::mem::replace(&mut self.complete, true), "once per connection");
                assert!(complete.sequence.unwrap() >= self.sequence);
                (self.sequence, self.hash) = (complete.sequence.unwrap(), complete.hash);
                assert_eq!(complete.sent, (!filter.is_empty()).then_some(self.sent));
            }
            other => panic!("{other:?}"),
        }
    }

    fn pod(&mut self, event: PodEvent, filter: &Filter) {
        self.sent += 1;
        if filter.is_empty() {
            assert_eq!(event.sequence, Some(self.sequence + 1), "no hole");
            assert_eq!(event.previous_hash, self.hash);
        } else {
            assert_eq!((event.sent, event.previous_hash), (Some(self.sent), None));
            assert!(event.sequence > Some(self.sequence));
        }
        (self.sequence, self.hash) = (event.sequence.unwrap(), Some(event.hash));
        let (key, version) = (event.pod.key().clone(), event.pod.resource_version().unwrap().to_owned());
        let known = self.pods.contains_key(&key);
        match event.kind {
            EventType::Added => assert!(!known, "{key} is added twice"),
            EventType::Modified | EventType::Deleted => assert!(known, "{key} is not known"),
            other => panic!("{other:?}"),
        }
        assert!(!event.left_filter || event.kind == EventType::Deleted);
        assert!(!event.entered_filter || event.kind == EventType::Added);
        if event.kind == EventType::Deleted {
            self.pods.remove(&key);
        } else {
            assert!(filter.matches(&event.pod));
            self.pods.insert(key, version);
        }
    }
}

/// Every event: the pod after it, or none.
type History = Vec<(PodKey, Option<Pod>)>;

/// The pods that pass the filter after this many events, calculated from the start.
fn fold_until(history: &History, sequence: u64, filter: &Filter) -> BTreeMap<PodKey, String> {
    let mut pods = BTreeMap::new();
    for (key, pod) in &history[..sequence as usize] {
        match pod {
            Some(pod) => pods.insert(key, pod),
            None => pods.remove(key),
        };
    }
    pods.retain(|_, pod| filter.matches(pod));
    let version = |pod: &Pod| pod.resource_version().unwrap().to_owned();
    pods.into_iter().map(|(key, pod)| (key.clone(), version(pod))).collect()
}

fn run(steps: &[Step], filter: &Filter, retain: u64) {
    let (relay, publisher) = relay(DEFAULT_RETENTION.entries(retain));
    let mut history = History::new();
    let mut consumer = Consumer::default();
    let mut subscriber = subscribe(&relay, filter.clone(), Start::Oldest);
    for step in steps {
        match step {
            Step::Upsert { namespace, name, app } | Step::Delete { namespace, name, app } => {
                let pod = PodBuilder::new(&format!("n{namespace}"), &format!("p{name}"))
                    .resource_version(Some(&(history.len() + 1).to_string()))
                    .label("app", &format!("a{app}"))
                    .build();
                let (key, head) = (pod.key().clone(), publisher.head());
                let after = matches!(step, Step::Upsert { .. }).then(|| pod.clone());
                if after.is_some() {
                    at_once(publisher.upsert(pod)).unwrap()
                } else {
                    at_once(publisher.delete(pod)).unwrap()
                }
                if publisher.head() > head {
                    history.push((key, after));
                }
            }
            Step::Read => {
                for message in piece(&mut subscriber) {
                    consumer.take(message, filter, &history);
                }
            }
            Step::Trim => clear(&relay),
            Step::Reconnect => {
                let start = match &consumer.hash {
                    None => Start::Oldest,
                    Some(hash) => match at_once(resolve(&relay.log.events, hash.as_str())).unwrap() {
                        Resolved::At(sequence) => Start::After(hash.clone(), sequence),
                        Resolved::Expired(sequence) => Start::Gap {
                            reason: GapReason::CursorExpired,
                            requested: Some(hash.as_str().into()),
                            sequence: Some(sequence),
                        },
                        other => panic!("{other:?}"),
                    },
                };
                subscriber = subscribe(&relay, filter.clone(), start);
                consumer.complete = false;
            }
        }
    }
    while !consumer.complete || subscriber.sequence < publisher.head() {
        for message in piece(&mut subscriber) {
            consumer.take(message, filter, &history);
        }
    }
    assert_eq!(consumer.pods, fold_until(&history, publisher.head(), filter));
    assert_eq!(relay.log.view().pods.len(), fold_until(&history, publisher.head(), &Filter::new()).len());
}

proptest! {
    #[test]
    fn who_follows_the_messages_has_the_pods(
        steps in prop::collection::vec(step(), 1..120),
        by_namespace: bool,
        by_label: bool,
        retain in 1..20_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let mut filter = Filter::new();
        if by_namespace {
            filter = filter.namespace("n0").unwrap();
        }
        if by_label {
            filter = filter.label("app=a1").unwrap();
        }
        run(&steps, &filter, retain);
    }
}

#[tokio::test]
async fn an_event_of_a_hold_is_not_sent_when_it_was_read_before_the_trim() {
    let (relay, publisher) = relay(DEFAULT_RETENTION);
    upsert(&publisher, "a", 1, "web");
    let mut subscriber = subscribe(&relay, Filter::new(), Start::Latest);
    relay.control.send_modify(|control| control.paused = true);
    upsert(&publisher, "a", 2, "web");
    // The first piece is on its way already, and a page is read behind it.
    assert!(!piece(&mut subscriber).iter().any(|message| matches!(message, Message::Pod(_))));
    clear(&relay);
    relay.control.send_modify(|control| control.paused = false);
    let messages = piece(&mut subscriber);
    assert!(matches!(messages[..], [Message::Gap(_), ..]), "{messages:?}");
}
