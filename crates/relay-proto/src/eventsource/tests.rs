//! The machine, driven by hand: every pair of state and input, scripted runs on virtual time, and random runs.

mod lives;
mod pairs;
mod random;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use super::*;
use crate::http::{Redirect, ResponseHead};
use crate::retry::{Backoff, Jitter};
use crate::sse::Frame;

pub(super) const URL: &str = "http://relay.test/events";

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn stream() -> ResponseHead<'static> {
    ResponseHead::new(200, URL).header("content-type", b"text/event-stream")
}

pub(super) fn status(status: u16) -> ResponseHead<'static> {
    ResponseHead::new(status, URL)
}

/// Polls until the machine waits for something. Returns the actions on the way, and the last one.
pub(super) fn drain(machine: &mut Machine, now: Duration) -> (Vec<Action>, Action) {
    let mut passed = Vec::new();
    for _ in 0..100_000 {
        match machine.poll(now) {
            want @ (Action::Connect(_) | Action::Item(_)) => passed.push(want),
            waits => return (passed, waits),
        }
    }
    panic!("busy at {now:?}: {machine:?}");
}

/// The same as a line of text.
pub(super) fn told(machine: &mut Machine, now: Duration) -> String {
    let (passed, waits) = drain(machine, now);
    passed.iter().chain([&waits]).map(word).collect::<Vec<_>>().join(" ")
}

fn word(want: &Action) -> String {
    let at = |time: &Option<Duration>| time.map_or(String::new(), |time| format!("@{}", time.as_secs_f64()));
    match want {
        Action::Connect(attempt) => {
            let mut word = format!("connect#{}", attempt.number());
            if attempt.fresh_credentials() {
                word += "+fresh";
            }
            if !attempt.last_event_id().is_empty() {
                word += &format!("+id={}", attempt.last_event_id());
            }
            if let Some(redirect) = attempt.redirect() {
                let secrets = if redirect.may_carry_secrets() { "" } else { "!" };
                word += &format!("->{}{secrets}", redirect.url());
            }
            word
        }
        Action::Response(until) => format!("response{}", at(until)),
        Action::Bytes(until) => format!("bytes{}", at(until)),
        Action::Wait(until) => format!("wait{}", at(&Some(*until))),
        Action::Item(Item::Opened) => "opened".into(),
        Action::Item(Item::Frame(Frame::Event(event))) => format!("event({})", event.data()),
        Action::Item(Item::Frame(Frame::Comment(comment))) => format!("comment({})", comment.text()),
        Action::Item(Item::Frame(Frame::Retry(retry))) => format!("retry({})", retry.as_millis()),
        Action::Item(Item::Frame(Frame::Oversized(over))) => format!("oversized({})", over.limit()),
        Action::Item(Item::Ended(ended)) => {
            let opened = if ended.opened { "ended" } else { "failed" };
            format!("{opened}({})", ended.cause)
        }
        Action::Stop(stop) => format!("stop({stop})"),
    }
}
