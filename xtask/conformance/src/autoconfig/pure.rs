//! A conversation through the pure session: no socket, no clock.

use std::time::Duration;

use relay_proto::sse::{Decoder, Frame};
use relay_state::environments::{Environments, Next, Now, Session, StatusError};
use serde_json::Value;

use super::has;
use super::script::{Script, Step};

/// The wall clock at the beginning of every conversation, in milliseconds since 1970.
pub(super) const BEGIN: u64 = 1_000_000;
const RETRY: Duration = Duration::from_secs(1);

/// Plays a conversation to the pure session.
///
/// # Errors
/// The first line that differs, and how.
pub(super) fn play_pure(script: &Script) -> Result<(), String> {
    let hold = Duration::from_millis(script.hold_ms());
    let mut player = Player {
        session: Session::new(Environments::default().hold_empty(hold)),
        decoder: Decoder::default(),
        open: false,
        unix_ms: BEGIN,
        steady: Duration::ZERO,
    };
    for (line, step) in &script.steps {
        if let Step::Line(expected) = step {
            match player.next() {
                Some(shown) if has(&shown, expected) => {}
                shown => return Err(format!("line {line}: expected {expected}, shown {shown:?}")),
            }
            continue;
        }
        if let Some(extra) = player.next() {
            return Err(format!("before line {line}: shown and not expected: {extra}"));
        }
        player.step(step).map_err(|why| format!("line {line}: {why}"))?;
    }
    player.next().map_or(Ok(()), |extra| Err(format!("at the end: shown and not expected: {extra}")))
}

struct Player {
    session: Session,
    decoder: Decoder,
    open: bool,
    unix_ms: u64,
    steady: Duration,
}

impl Player {
    fn next(&mut self) -> Option<Value> {
        self.session.poll().map(|event| event.to_json())
    }

    fn now(&self) -> Now {
        Now::new(self.unix_ms, self.steady)
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Answer(_) if self.open => return Err("the client is connected and asks for nothing".into()),
            Step::Answer(200) => {
                (self.decoder, self.open) = (Decoder::default(), true);
                self.session.handle_opened();
            }
            Step::Answer(204) => self.session.handle_stopped(Some(StatusError::response(204, "no content"))),
            Step::Answer(status) => {
                self.session.handle_ended(StatusError::response(*status, "no stream"), RETRY);
            }
            Step::Bytes(_) | Step::Cut if !self.open => return Err("there is no connection".into()),
            Step::Bytes(bytes) => {
                self.decoder.feed_slice(bytes.as_bytes());
                while let Some(frame) = self.decoder.next_frame() {
                    let Frame::Event(event) = frame else { continue };
                    if self.session.handle_event(event.kind(), event.data(), self.now()) == Next::Restart {
                        self.open = false;
                        self.session.handle_ended(StatusError::network("it is known why"), RETRY);
                        break;
                    }
                }
            }
            Step::Time(time) => {
                self.unix_ms = self.unix_ms.saturating_add_signed(*time);
                self.steady += Duration::from_millis(u64::try_from(*time).unwrap_or_default());
                self.session.handle_time(self.now());
            }
            Step::Cut => {
                self.open = false;
                self.session.handle_ended(StatusError::network("cut"), RETRY);
            }
            Step::Left if self.open => return Err("the client is still connected".into()),
            Step::Left | Step::Line(_) => {}
        }
        Ok(())
    }
}
