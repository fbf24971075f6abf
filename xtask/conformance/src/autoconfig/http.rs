//! A conversation through real HTTP: a scripted peer on a loopback port, and the public client. Each step waits for
//! a gate, so that the service sends nothing before the client has printed all earlier lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relay_autoconfig::{Events, StreamManager};
use relay_testkit::{Gate, Peer, Reply, within};
use serde_json::{Value, json};

use super::has;
use super::pure::BEGIN;
use super::script::{Script, Step};

const PATH: &str = "/relay_auto_config";
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// Plays a conversation to the public client over a loopback socket, with the wall clock of the conversation.
///
/// # Errors
/// The first line that differs, and how.
pub(super) fn play_http(script: &Script) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    // If the testkit waits in vain, it panics: this is a failure of this conversation only.
    let played = std::panic::AssertUnwindSafe(|| runtime.block_on(play(script)));
    std::panic::catch_unwind(played).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned())
    })
}

async fn play(script: &Script) -> Result<(), String> {
    let (replies, gates, open) = replies(script);
    let peer = Peer::start(replies).await;
    let clock = Arc::new(AtomicU64::new(BEGIN));
    let mut events = client(script, &peer.url(), clock.clone())?;
    let mut gates = gates.into_iter();
    for (line, step) in &script.steps {
        match step {
            Step::Line(expected) => match next(&mut events).await {
                Some(shown) if has(&shown, expected) => {}
                shown => return Err(format!("line {line}: expected {expected}, shown {shown:?}")),
            },
            Step::Time(time) => {
                let now = clock.load(Ordering::SeqCst).saturating_add_signed(*time);
                clock.store(now, Ordering::SeqCst);
            }
            Step::Left => {}
            Step::Answer(_) | Step::Bytes(_) | Step::Cut => gates.next().iter().for_each(Gate::open),
        }
    }
    // The service is gone for good: an open connection is cut, and the next request is answered with 204.
    gates.for_each(|gate| gate.open());
    if open {
        last(&mut events, &json!({"event": "status", "connected": false, "error": {"kind": "network"}}))
            .await?;
    }
    if !script.steps.iter().any(|(_, step)| matches!(step, Step::Answer(204))) {
        last(&mut events, &json!({"event": "status", "state": "off", "error": {"status": 204}})).await?;
    }
    next(&mut events)
        .await
        .map_or(Ok(()), |extra| Err(format!("at the end: shown and not expected: {extra}")))
}

async fn next(events: &mut Events) -> Option<Value> {
    within("a line", events.next()).await.map(|event| event.to_json())
}

async fn last(events: &mut Events, expected: &Value) -> Result<(), String> {
    match next(events).await {
        Some(shown) if has(&shown, expected) => Ok(()),
        shown => Err(format!("at the end: expected {expected}, shown {shown:?}")),
    }
}

/// The answers, a gate for each step of the service, and whether the last connection is still open at the end.
fn replies(script: &Script) -> (relay_testkit::Script, Vec<Gate>, bool) {
    let mut replies = relay_testkit::Script::new();
    let mut gates = Vec::new();
    let mut gate = || {
        gates.push(Gate::new());
        gates[gates.len() - 1].clone()
    };
    let mut stream: Option<Reply> = None;
    for (_, step) in &script.steps {
        match step {
            Step::Answer(200) => stream = Some(Reply::raw().hold(&gate()).send(HEAD)),
            Step::Answer(status) => {
                let head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: 0\r\n\r\n");
                replies = replies.on(PATH, Reply::raw().hold(&gate()).send(head));
            }
            Step::Bytes(bytes) => {
                let gate = gate();
                stream = stream.map(|reply| reply.hold(&gate).send(bytes.clone()));
            }
            Step::Cut => {
                let gate = gate();
                replies = stream
                    .take()
                    .into_iter()
                    .fold(replies, |replies, reply| replies.on(PATH, reply.hold(&gate).cut()));
            }
            Step::Left => {
                replies = stream
                    .take()
                    .into_iter()
                    .fold(replies, |replies, reply| replies.on(PATH, reply.silence()));
            }
            Step::Time(_) | Step::Line(_) => {}
        }
    }
    let open = stream.is_some();
    let end = gate();
    replies = stream.into_iter().fold(replies, |replies, reply| replies.on(PATH, reply.hold(&end).cut()));
    (replies.always(PATH, Reply::empty(204)), gates, open)
}

fn client(script: &Script, url: &str, clock: Arc<AtomicU64>) -> Result<Events, String> {
    let (base, cap) = (Duration::from_millis(1), Duration::from_millis(2));
    StreamManager::builder(url)
        .key("any-key-will-do")
        .reconnect(base, cap)
        .long_reconnect(base, cap)
        .hold_empty(Duration::from_millis(script.hold_ms()))
        .wall_clock(move || clock.load(Ordering::SeqCst))
        .events()
        .map_err(|error| error.to_string())
}
