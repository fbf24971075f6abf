//! What goes to NATS for each message: the message to be stored, and the acknowledgement of its delivery.
//!
//! ```text
//!   callers ──> waiting ──(once every ready task has added its own)──> NATS' client, which writes them together
//!   NATS ──> our inbox, a number each ──> the caller that waits for this number
//! ```
//!
//! NATS' client writes as soon as it is given something. Under load this would be one write, and one read of the
//! server, for each message and for each acknowledgement.
//!
//! What waits here is bounded by its callers: each of them waits for its own message, or has been given a slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::client::PublishErrorKind;
use async_nats::jetstream;
use async_nats::{Client, HeaderMap, Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde_json::value::RawValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::connect::PATIENCE;
use crate::engine::lock;

/// How often it is looked whether a caller has waited for too long.
const LOOK: Duration = Duration::from_millis(250);

/// Why a message was not stored, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unstored {
    #[error("no stream takes the subject")]
    NoStream,
    /// Over the limit of the server, in bytes.
    #[error("the store takes messages of at most {0} bytes, headers included")]
    TooLarge(usize),
    #[error("NATS did not acknowledge the message in time")]
    Late,
    #[error("the connection to NATS is closed")]
    Closed,
    #[error("NATS refuses the message: {0}")]
    Refused(String),
}

type Outcome = Result<(), Unstored>;

/// Gives NATS' client many messages at a time.
pub(super) struct Outbox {
    shared: Arc<Shared>,
    _work: AbortOnDropHandle<()>,
}

struct Shared {
    client: Client,
    /// The subjects of acknowledgements are this and a number.
    inbox: String,
    numbers: AtomicU64,
    waiting: Mutex<Vec<Item>>,
    more: Notify,
    callers: Mutex<Callers>,
}

/// The callers that wait for an acknowledgement.
#[derive(Default)]
struct Callers {
    by_number: HashMap<u64, (Instant, oneshot::Sender<Outcome>)>,
    closed: bool,
}

enum Item {
    Store { number: u64, subject: Subject, headers: HeaderMap, payload: Bytes },
    Say { to: Subject, text: Bytes },
    Flush(oneshot::Sender<()>),
}

impl Outbox {
    /// Begins its tasks.
    pub(super) fn new(client: Client) -> Self {
        let shared = Arc::new(Shared {
            inbox: format!("{}.", client.new_inbox()),
            client,
            numbers: AtomicU64::new(0),
            waiting: Mutex::default(),
            more: Notify::new(),
            callers: Mutex::default(),
        });
        let work = tokio::spawn(work(shared.clone()));
        Self { shared, _work: AbortOnDropHandle::new(work) }
    }

    /// Stores a message in the stream of its subject. `Ok` is NATS' acknowledgement.
    pub(super) async fn store(&self, subject: Subject, headers: HeaderMap, payload: Bytes) -> Outcome {
        let number = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        {
            let mut callers = lock(&self.shared.callers);
            if callers.closed {
                return Err(Unstored::Closed);
            }
            callers.by_number.insert(number, (Instant::now(), tell));
        }
        self.shared.add(Item::Store { number, subject, headers, payload });
        told.await.unwrap_or(Err(Unstored::Closed))
    }

    /// Answers a delivered message, soon. If this is lost, the server sends the message again.
    pub(super) fn say(&self, to: Subject, text: Bytes) {
        self.shared.add(Item::Say { to, text });
    }

    /// Waits until everything that was said before is written to the connection.
    pub(super) async fn flush(&self) {
        let (tell, told) = oneshot::channel();
        self.shared.add(Item::Flush(tell));
        // An error means that the connection is closed: there is nothing to wait for.
        let _ = told.await;
    }
}

impl Shared {
    fn add(&self, item: Item) {
        let mut waiting = lock(&self.waiting);
        waiting.push(item);
        let first = waiting.len() == 1;
        drop(waiting);
        if first {
            self.more.notify_one();
        }
    }

    fn tell(&self, number: u64, outcome: Outcome) {
        let caller = lock(&self.callers).by_number.remove(&number);
        if let Some((_, tell)) = caller {
            // The sender of the message may be gone.
            let _ = tell.send(outcome);
        }
    }

    /// An acknowledgement, or what came in its place.
    fn take(&self, message: &Message) {
        let number = message.subject.strip_prefix(&self.inbox).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            self.tell(number, outcome(message.status, &message.payload));
        }
    }

    /// Nothing is sent or told any more.
    fn close(&self) {
        let mut callers = lock(&self.callers);
        callers.closed = true;
        // Their senders are dropped, which tells them.
        callers.by_number.clear();
    }

    /// Tells the callers that began to wait too long ago.
    fn look(&self) {
        let late = |(since, _): &(Instant, _)| since.elapsed() >= PATIENCE;
        let mut callers = lock(&self.callers);
        let late: Vec<_> = callers.by_number.extract_if(|_, caller| late(caller)).collect();
        drop(callers);
        for (_, (_, tell)) in late {
            let _ = tell.send(Err(Unstored::Late));
        }
    }
}

async fn work(shared: Arc<Shared>) {
    // Before a message is sent, as its acknowledgement comes here.
    let Ok(answers) = shared.client.subscribe(format!("{}*", shared.inbox)).await else {
        return shared.close();
    };
    let _settling = AbortOnDropHandle::new(tokio::spawn(settle(shared.clone(), answers)));
    send(&shared).await;
}

/// Gives the client what waits.
async fn send(shared: &Shared) {
    let mut items = Vec::new();
    loop {
        shared.more.notified().await;
        // Tasks that are ready now add what they have first.
        tokio::task::yield_now().await;
        std::mem::swap(&mut items, &mut *lock(&shared.waiting));
        for item in items.drain(..) {
            match item {
                Item::Store { number, subject, headers, payload } => {
                    let reply = format!("{}{number}", shared.inbox);
                    let client = &shared.client;
                    let given = client.publish_with_reply_and_headers(subject, reply, headers, payload);
                    if let Err(error) = given.await {
                        let why = match error.kind() {
                            PublishErrorKind::MaxPayloadExceeded => Unstored::TooLarge(client.max_payload()),
                            PublishErrorKind::Send => Unstored::Closed,
                            _ => Unstored::Refused(relay_proto::error::chain(&error).to_string()),
                        };
                        shared.tell(number, Err(why));
                    }
                }
                Item::Say { to, text } => {
                    // If this is lost, the server sends the message again.
                    let _ = shared.client.publish(to, text).await;
                }
                Item::Flush(tell) => {
                    let _ = shared.client.flush().await;
                    let _ = tell.send(());
                }
            }
        }
    }
}

/// Tells callers what NATS answered, or that it did not answer in time.
async fn settle(shared: Arc<Shared>, mut answers: Subscriber) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => shared.look(),
            answer = answers.next() => match answer {
                Some(answer) => take_ready(&shared, &mut answers, &answer),
                // The connection is closed for good.
                None => return shared.close(),
            },
        }
    }
}

/// Takes this answer, and those that have come with it.
fn take_ready(shared: &Shared, answers: &mut Subscriber, first: &Message) {
    shared.take(first);
    while let Some(Some(answer)) = answers.next().now_or_never() {
        shared.take(&answer);
    }
}

/// What an answer of JetStream to a stored message says.
fn outcome(status: Option<StatusCode>, payload: &[u8]) -> Outcome {
    if status == Some(StatusCode::NO_RESPONDERS) {
        return Err(Unstored::NoStream);
    }
    let unreadable = || Unstored::Refused("its answer is no acknowledgement".to_owned());
    let answer: BTreeMap<&str, &RawValue> = serde_json::from_slice(payload).map_err(|_| unreadable())?;
    if let Some(error) = answer.get("error") {
        let error: jetstream::Error = serde_json::from_str(error.get()).map_err(|_| unreadable())?;
        return Err(Unstored::Refused(error.to_string()));
    }
    match answer.get("seq").map(|number| number.get().parse::<u64>()) {
        Some(Ok(1..)) => Ok(()),
        _ => Err(unreadable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
    };
    use tokio::net::TcpListener;
    use tokio_util::io::InspectReader;

    /// What a scripted server has seen.
    #[derive(Default)]
    struct Seen {
        /// How often the server has read.
        reads: AtomicUsize,
        stored: AtomicUsize,
        said: Mutex<BTreeSet<String>>,
    }

    /// A client of a server in another thread that answers by the subject of a message.
    async fn client(seen: Arc<Seen>) -> Client {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime.block_on(async {
                let (stream, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
                let count = |_: &[u8]| {
                    seen.reads.fetch_add(1, Ordering::Relaxed);
                };
                let stream = InspectReader::new(stream, count);
                serve(&mut BufReader::with_capacity(1 << 18, stream), &seen).await;
            });
        });
        async_nats::connect(format!("nats://{address}")).await.unwrap()
    }

    async fn serve(stream: &mut BufReader<impl AsyncRead + AsyncWrite + Unpin>, seen: &Seen) {
        let info = r#"{"server_id":"s","server_name":"s","host":"h","port":1,"version":"2.9.0","auth_required":false,"tls_required":false,"max_payload":1000,"proto":1,"client_id":1,"go":"go","nonce":"","connect_urls":[],"client_ip":"127.0.0.1","headers":true,"lame_duck_mode":false}"#;
        stream.write_all(format!("INFO {info}\r\n").as_bytes()).await.unwrap();
        let (mut sid, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                ["PING"] => "PONG\r\n".to_owned(),
                ["SUB", _, of] => {
                    sid = of.to_owned();
                    continue;
                }
                ["PUB", subject, length] => {
                    stream.read_exact(&mut vec![0; length.parse::<usize>().unwrap() + 2]).await.unwrap();
                    lock(&seen.said).insert(subject.to_owned());
                    continue;
                }
                ["HPUB" | "PUB", subject, reply, .., length] => {
                    stream.read_exact(&mut vec![0; length.parse::<usize>().unwrap() + 2]).await.unwrap();
                    seen.stored.fetch_add(1, Ordering::Relaxed);
                    let text = match subject {
                        "nobody" => {
                            let answer = format!("HMSG {reply} {sid} 16 16\r\nNATS/1.0 503\r\n\r\n\r\n");
                            stream.write_all(answer.as_bytes()).await.unwrap();
                            continue;
                        }
                        "silent" => continue,
                        "full" => r#"{"error":{"code":503,"err_code":10077,"description":"full"},"seq":0}"#,
                        _ => r#"{"stream":"s","seq":1}"#,
                    };
                    format!("MSG {reply} {sid} {}\r\n{text}\r\n", text.len())
                }
                _ => continue,
            };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    fn store(outbox: &Outbox, subject: &'static str, length: usize) -> impl Future<Output = Outcome> {
        let mut headers = HeaderMap::new();
        headers.insert("ce-id", "1");
        outbox.store(subject.into(), headers, Bytes::from(vec![b'x'; length]))
    }

    #[tokio::test]
    async fn each_caller_is_told_what_became_of_its_message() {
        let seen = Arc::<Seen>::default();
        let outbox = Outbox::new(client(seen.clone()).await);
        let (taken, nobody, full, large) = tokio::join!(
            store(&outbox, "taken", 500),
            store(&outbox, "nobody", 500),
            store(&outbox, "full", 500),
            store(&outbox, "large", 1000),
        );
        assert_eq!(taken, Ok(()));
        assert_eq!(nobody, Err(Unstored::NoStream));
        assert!(matches!(full, Err(Unstored::Refused(why)) if why.contains("full")));
        assert_eq!(large, Err(Unstored::TooLarge(1000)));
        assert_eq!(seen.stored.load(Ordering::Relaxed), 3);

        // Nobody waits for the answer any more.
        assert!(store(&outbox, "taken", 1).now_or_never().is_none());
        outbox.say("ack.1".into(), Bytes::from_static(b"+ACK"));
        outbox.flush().await;
        // The server reads what comes after it.
        assert_eq!(store(&outbox, "taken", 1).await, Ok(()));
        assert!(lock(&seen.said).contains("ack.1"));

        tokio::time::pause();
        let begin = Instant::now();
        assert_eq!(store(&outbox, "silent", 1).await, Err(Unstored::Late));
        assert!((PATIENCE..PATIENCE + 2 * LOOK).contains(&begin.elapsed()), "{:?}", begin.elapsed());
        assert!(lock(&outbox.shared.callers).by_number.is_empty());
    }

    /// With one worker, a task that is woken runs before those that are ready already.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_ready_tasks_have_is_written_together() {
        const TASKS: usize = 200;
        let seen = Arc::<Seen>::default();
        let outbox = Arc::new(Outbox::new(client(seen.clone()).await));
        assert_eq!(store(&outbox, "taken", 1).await, Ok(()));
        let before = seen.reads.load(Ordering::Relaxed);
        let of_worker = outbox.clone();
        let tasks = tokio::spawn(async move {
            let begin = |_| {
                let outbox = of_worker.clone();
                tokio::spawn(async move { store(&outbox, "taken", 1).await })
            };
            (0..TASKS).map(begin).collect::<Vec<_>>()
        });
        for task in tasks.await.unwrap() {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert_eq!(seen.stored.load(Ordering::Relaxed), 1 + TASKS);
        let reads = seen.reads.load(Ordering::Relaxed) - before;
        assert!(reads <= TASKS / 20, "{TASKS} messages in {reads} reads");
    }

    #[test]
    fn only_an_acknowledgement_is_one() {
        let taken = |text: &str| outcome(None, text.as_bytes());
        assert_eq!(taken(r#"{"stream":"relay_ns_c", "seq":7}"#), Ok(()));
        assert_eq!(
            taken(r#"{"stream":"s","domain":"d","seq":18446744073709551615,"duplicate":true}"#),
            Ok(())
        );
        let full = r#"{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"s","seq":0}"#;
        let Err(Unstored::Refused(why)) = taken(full) else { panic!("{:?}", taken(full)) };
        assert!(why.contains("maximum messages exceeded") && why.contains("10077"), "{why}");
        for text in
            ["", "+OK", "[]", "{}", r#"{"seq":0}"#, r#"{"seq":-1}"#, r#"{"seq":"1"}"#, r#"{"error":1}"#]
        {
            assert!(matches!(taken(text), Err(Unstored::Refused(_))), "{text}");
        }
        let nobody = outcome(Some(StatusCode::NO_RESPONDERS), b"");
        assert_eq!(nobody, Err(Unstored::NoStream));
    }
}
