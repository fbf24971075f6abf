//! A conversation through real HTTP: a scripted peer on a loopback port, and the public client.

use std::time::Duration;

use futures_util::StreamExt;
use relay_pods::{Client, EventHash, Filter, Freshness, SessionMode, StreamOptions};
use relay_testkit::{Clock, Gate, Peer, Reply, Script};
use serde_json::Value;

use crate::conversation::{Conversation, Mode, Step};
use crate::trace::{Runner, StreamStatus, Trace};

const LIST: &str = "/pods";
const STREAM: &str = "/events/stream";
/// The step by which the frozen clock moves. The real work between two steps must take far less than any time limit.
const TICK: Duration = Duration::from_millis(20);

/// Plays a conversation to the client's stream over a loopback socket, on frozen time that moves by itself.
///
/// # Errors
/// The difference between the conversation and the requests and snapshots, or why it could not be played.
pub fn play_http(conversation: &Conversation) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}\n"))?;
    // If the testkit waits in vain, it panics: this is a failure of this conversation only.
    let played = std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async {
            let clock = Clock::freeze();
            clock.run(TICK, play(conversation)).await
        })
    });
    std::panic::catch_unwind(played).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        Err(format!("  !! {text}\n"))
    })
}

async fn play(conversation: &Conversation) -> Result<(), String> {
    let Scripted { script, ends, lists, connects } = script(conversation);
    let peer = Peer::start(script).await;
    // If a list comes after the end of a connection in the file, it is answered after that end.
    let opening = async {
        for (request, gate) in ends {
            peer.played(request).await;
            gate.open();
        }
        std::future::pending::<()>().await
    };
    let mut trace = Trace::new(conversation);
    let following = follow(conversation, &peer, &mut trace, [lists, connects]);
    tokio::select! {
        biased;
        played = following => played?,
        () = opening => {}
    }
    trace.verdict(Runner::Http)
}

struct Scripted {
    script: Script,
    /// Requests whose reply has to be played to its end before a gate opens.
    ends: Vec<(usize, Gate)>,
    lists: usize,
    connects: usize,
}

/// The answers in the order of the file. After them the relay is gone for good: it answers 404, and nothing is retried.
fn script(conversation: &Conversation) -> Scripted {
    let mut script = Script::new();
    let (mut ends, mut lists, mut connects) = (Vec::new(), 0, 0);
    let mut stream: Option<Reply> = None;
    let mut ended: Option<usize> = None;
    let mut connected_at = 0;
    for line in &conversation.lines {
        match &line.step {
            Step::List(list) => {
                let mut reply = Reply::new(list.status, &list.content_type, "");
                if let Some(request) = ended.take() {
                    let gate = Gate::new();
                    reply = reply.hold(&gate);
                    ends.push((request, gate));
                }
                script = script.on(LIST, reply.send(list.body.clone()));
                lists += 1;
            }
            Step::Connect(connect) => {
                ended = None;
                connected_at = lists + connects;
                connects += 1;
                match connect.status {
                    200 => stream = Some(Reply::sse()),
                    status => script = script.on(STREAM, Reply::empty(status)),
                }
            }
            Step::Bytes(bytes) => stream = stream.map(|reply| reply.send(bytes.clone())),
            Step::Time(time) => stream = stream.map(|reply| reply.delay(*time)),
            Step::Cut => {
                script = stream.take().into_iter().fold(script, |s, reply| s.on(STREAM, reply.cut()));
                ended = Some(connected_at);
            }
            Step::ClientEnds => {
                script = stream.take().into_iter().fold(script, |s, reply| s.on(STREAM, reply.silence()));
            }
            Step::Expect(_) => {}
        }
    }
    script = stream.into_iter().fold(script, |s, reply| s.on(STREAM, reply.cut()));
    for path in [LIST, STREAM] {
        script = script.always(path, Reply::empty(404));
    }
    Scripted { script, ends, lists, connects }
}

/// Consumes the client's stream up to its final error.
async fn follow(
    conversation: &Conversation,
    peer: &Peer,
    trace: &mut Trace<'_>,
    scripted: [usize; 2],
) -> Result<(), String> {
    let (client, options) = client(conversation, &peer.url())?;
    let mut snapshots = match conversation.header.mode {
        Mode::Replay => client.stream_pod_state_with_replay(options),
        Mode::State => client.stream_pod_state(options),
    };
    let handle = snapshots.handle();
    let mut requests = Requests { seen: 0, left: scripted };
    while let Some(snapshot) = snapshots.next().await {
        requests.tell(peer, trace);
        match snapshot {
            Ok(snapshot) => {
                let beside = StreamStatus {
                    acknowledged: handle.acknowledgement(),
                    freshness: Some(match handle.freshness() {
                        Freshness::Cold => "cold",
                        Freshness::Replaying => "replaying",
                        Freshness::Live => "live",
                        _ => "stale",
                    }),
                };
                trace.shows(&snapshot, &beside);
            }
            Err(error) if error.status() == Some(404) => {}
            Err(error) => trace.surprise(&error.to_string()),
        }
    }
    requests.tell(peer, trace);
    let counts = serde_json::to_value(handle.statistics()).unwrap_or(Value::Null);
    trace.ends(handle.acknowledgement().as_ref(), &counts);
    Ok(())
}

fn client(conversation: &Conversation, url: &str) -> Result<(Client, StreamOptions), String> {
    let options = &conversation.header.options;
    let wrong = |error: &dyn std::fmt::Display| format!("options: {error}\n");
    let mut filter = Filter::new();
    for namespace in &options.namespaces {
        filter = filter.namespace(namespace).map_err(|error| wrong(&error))?;
    }
    for label in &options.labels {
        filter = filter.label(label).map_err(|error| wrong(&error))?;
    }
    let since = options.since.as_deref().map(EventHash::new).transpose().map_err(|error| wrong(&error))?;
    let mut stream = StreamOptions::new()
        .filter(filter)
        .since(since)
        .start_latest(options.start_latest)
        .apply_backfill_to_current_state_cache(options.apply_backfill)
        .yield_bookmarks(options.yield_bookmarks)
        .reconnect_base(Duration::from_millis(1))
        .reconnect_cap(Duration::from_millis(2));
    if let Some(bytes) = options.max_event_bytes {
        stream = stream.max_event_bytes(bytes);
    }
    let mut builder = Client::builder(url).sessions(SessionMode::Off);
    if let Some(token) = &options.token {
        builder = builder.token(token.as_str());
    }
    Ok((builder.build().map_err(|error| wrong(&error))?, stream))
}

/// The requests that the peer got, up to the end of the script.
struct Requests {
    seen: usize,
    /// The lists and connections that are left in the script.
    left: [usize; 2],
}

impl Requests {
    fn tell(&mut self, peer: &Peer, trace: &mut Trace<'_>) {
        for request in peer.requests().split_off(self.seen) {
            self.seen += 1;
            let [lists, connects] = &mut self.left;
            match request.path() {
                LIST if *lists > 0 => {
                    *lists -= 1;
                    trace.asks_list(request.query("at_least").as_deref());
                }
                STREAM if *connects > 0 => {
                    *connects -= 1;
                    let (since, start) = (request.query("since_hash"), request.query("start"));
                    trace.connects(since.as_deref(), start.as_deref());
                    if let Some(id) = request.header("last-event-id") {
                        trace.surprise(&format!("Last-Event-ID: {id}"));
                    }
                }
                // The script has ended: the answer to this request ends the client.
                LIST | STREAM => {}
                other => trace.surprise(&format!("{} {other}", request.method())),
            }
        }
    }
}
