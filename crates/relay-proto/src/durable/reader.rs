//! The state machine of a reader.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use bytes::Bytes;

use super::answer::{essence, is_json};
use super::array::{ArrayError, ArraySplitter};
use super::batch::Held;
use super::control::{Control, decode_base64};
use super::offset::encoded;
use super::{Answer, Checkpoint, Offset, Refusal};
use crate::sse::{Decoder, Frame, Limits};

mod config;
mod progress;
mod retries;

pub use config::{Ask, Content, End, Live, LiveMode, Piece, ReaderConfig, ReaderStop, ReaderWant, Retry};

use progress::Progress;

/// Reads a stream without a gap and without a duplicate, with as many requests as necessary.
///
/// ```text
///            HEAD (type, tail)            catch-up            up to date          live
///   Ask ──────────────────────────▶ Ask ───────────▶ Body ──────────────▶ Ask ──────────▶ Body | Events
///    ▲  only for SSE, or "now"       ▲                │ offset: piece      ▲                 │ offset or
///    │                               └────────────────┘                    └─────────────────┘ control: piece
///    └──────────── Pause ◀── busy, lost, silent, malformed once, nothing moved
///                  Done ◀── closed; up to date when not live; a final refusal; nothing moved five times; too long
///                           without progress; malformed twice from the same offset
/// ```
///
/// **After every call, call [`poll`](Self::poll) until it needs an input.** Data is returned with the offset that
/// covers it. After a cut, received data that was not returned is dropped and requested again, and data that was
/// returned is skipped.
#[derive(Debug)]
pub struct Reader {
    config: ReaderConfig,
    /// The exact position of everything returned.
    position: Checkpoint,
    /// The start of the reader; a start of "now" is replaced when it is known.
    began: Checkpoint,
    /// Whether the server gave the position, so that it cannot go back.
    anchored: bool,
    json: Option<bool>,
    phase: Phase,
    state: State,
    held: Held,
    out: VecDeque<ReaderWant>,
    progress: Progress,
    /// Bytes received of the body at this offset, in the attempt that received most.
    reached: u64,
    /// Whether the caller has a piece and did not yet ask for more.
    gave: bool,
    /// The offset of the last malformed response. Only another offset clears it.
    malformed_at: Option<Offset>,
    told_up_to_date: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Head,
    CatchUp,
    Live(Live),
}

#[derive(Debug)]
enum State {
    Ask,
    Answer {
        asked: Duration,
    },
    Body {
        asked: Duration,
        read: Duration,
        next: Next,
        splitter: Option<ArraySplitter>,
        discard: bool,
        received: u64,
    },
    Events {
        asked: Duration,
        read: Duration,
        decoder: Decoder,
        base64: bool,
        moved: bool,
    },
    Pause {
        until: Duration,
    },
    Done,
}

/// The position after a response.
#[derive(Debug, Clone)]
struct Next {
    offset: Offset,
    cursor: Option<String>,
    up_to_date: bool,
    /// Whether the reader is at the tail: up to date, or a long-poll that brought nothing.
    tail: bool,
    closed: bool,
}

/// A response within this time was not a long-poll.
const QUICK: Duration = Duration::from_millis(100);
/// Connections that end within this time without progress count as useless.
const SHORT: Duration = Duration::from_secs(1);
/// Responses without progress after which the reader ends.
const STUCK: u32 = 5;
/// Useless connections after which events are no longer used.
const SHORT_ONES: u32 = 3;

impl Reader {
    /// A reader that starts at `from`. The same `seed` gives the same delays.
    pub fn new(config: ReaderConfig, from: Checkpoint, seed: u64) -> Self {
        let phase = match config.mode {
            LiveMode::Off | LiveMode::Auto => Phase::CatchUp,
            // The "now" of two responses may differ, and events do not tell the stream's type, so a HEAD comes first.
            LiveMode::Sse => Phase::Head,
            LiveMode::LongPoll if from.offset.is_now() => Phase::Head,
            LiveMode::LongPoll => Phase::Live(Live::LongPoll),
        };
        Self {
            progress: Progress::new(&config, seed),
            held: Held::new(config.batch_bytes),
            anchored: false,
            json: None,
            phase,
            state: State::Ask,
            out: VecDeque::new(),
            reached: 0,
            gave: false,
            malformed_at: None,
            told_up_to_date: false,
            began: from.clone(),
            position: from,
            config,
        }
    }

    /// Sets whether the stream has JSON messages, before the first poll. The reader then makes no request for that,
    /// unless it has to find out where "now" is.
    #[must_use]
    pub fn known(mut self, json: bool) -> Self {
        self.json = Some(json);
        if self.config.mode == LiveMode::Sse && !self.position.offset.is_now() {
            self.phase = Phase::Live(Live::Sse);
        }
        self
    }

    /// The position of the reader: everything before it was returned.
    pub fn position(&self) -> &Checkpoint {
        &self.position
    }

    /// The start of the reader; for [`Offset::NOW`] the offset from the server's first response.
    pub fn began(&self) -> &Checkpoint {
        &self.began
    }

    /// Whether the stream is one of JSON messages; `None` while that is unknown.
    pub fn is_json(&self) -> Option<bool> {
        self.json
    }

    /// The next action. Times are on a clock of the caller's choice, which must only go forward.
    pub fn poll(&mut self, now: Duration) -> ReaderWant {
        if let Some(out) = self.out.pop_front() {
            self.gave |= matches!(out, ReaderWant::Piece(_));
            return out;
        }
        if core::mem::take(&mut self.gave) {
            self.progress.resume(now);
            if let State::Body { read, .. } | State::Events { read, .. } = &mut self.state {
                *read = now;
            }
        }
        loop {
            match &self.state {
                State::Ask => {
                    self.progress.begin(now);
                    self.state = State::Answer { asked: now };
                    self.held.restart(self.position.skip);
                    return ReaderWant::Ask(self.ask());
                }
                State::Answer { .. } => return ReaderWant::Answer(self.deadline().0),
                State::Body { .. } | State::Events { .. } => return ReaderWant::Bytes(self.deadline().0),
                State::Pause { until } if *until > now => return ReaderWant::Wait(*until),
                State::Pause { .. } => self.state = State::Ask,
                State::Done => return ReaderWant::Stop(ReaderStop::Over),
            }
        }
    }

    fn ask(&self) -> Ask {
        let (head, live) = match self.phase {
            Phase::Head => {
                return Ask { head: true, query: String::new(), live: None, wait: self.config.timeout };
            }
            Phase::CatchUp => (false, None),
            Phase::Live(live) => (false, Some(live)),
        };
        let mut query = String::new();
        if let Some(live) = live {
            if let Some(cursor) = &self.position.cursor {
                query += &format!("cursor={}&", encoded(cursor));
            }
            query += match live {
                Live::LongPoll => "live=long-poll&",
                Live::Sse => "live=sse&",
            };
        }
        query += &format!("offset={}", self.position.offset.encoded());
        Ask { head, query, live, wait: self.patience() }
    }

    fn patience(&self) -> Duration {
        match self.phase {
            Phase::Live(Live::LongPoll) => self.config.timeout + self.config.poll_wait,
            _ => self.config.timeout,
        }
    }

    /// The head of a response.
    pub fn handle_answer(&mut self, answer: &Answer, now: Duration) {
        let State::Answer { asked } = self.state else { return };
        if let Some(refusal) = answer.refusal() {
            return self.refused(refusal, answer, now);
        }
        // In this mode the reader continues without events, and the next response shows whether it is a page, too.
        let may_do_without = self.phase == Phase::Live(Live::Sse) && self.config.mode == LiveMode::Auto;
        if answer.is_page() && !may_do_without {
            return self.malformed(format!("an HTML page with status {}", answer.status()), now);
        }
        if self.phase == Phase::Head {
            return self.described(answer, now);
        }
        if let Some(coding) = answer.content_encoding() {
            return self.malformed(format!("the body is coded ({coding})"), now);
        }
        if self.phase == Phase::Live(Live::Sse) {
            let kind = answer.content_type().unwrap_or_default();
            if answer.status() != 200 || !essence(kind).eq_ignore_ascii_case("text/event-stream") {
                if self.config.mode == LiveMode::Auto {
                    return self.give_up_events();
                }
                return self.malformed(
                    format!("{} with type {kind:?} where events were asked", answer.status()),
                    now,
                );
            }
            // One message may be an event of its own, and in base64.
            let most =
                self.config.max_message.saturating_add(self.config.max_message / 2).saturating_add(4096);
            let limits = Limits::default().line(most).data(most);
            self.state = State::Events {
                asked,
                read: now,
                decoder: Decoder::new(limits),
                base64: answer.is_base64(),
                moved: false,
            };
            return;
        }
        let Some(offset) = answer.next_offset().cloned() else {
            return self.malformed(format!("{} without Stream-Next-Offset", answer.status()), now);
        };
        if let (200, Some(kind)) = (answer.status(), answer.content_type()) {
            self.json = Some(is_json(kind));
        }
        let next = Next {
            cursor: answer.cursor().map(ToString::to_string),
            up_to_date: answer.up_to_date() || answer.closed(),
            tail: answer.up_to_date() || answer.closed() || answer.status() == 204,
            closed: answer.closed(),
            offset,
        };
        match answer.status() {
            200 => {
                let splitter = (self.json == Some(true)).then(|| ArraySplitter::new(self.config.max_message));
                let discard = next.offset == self.position.offset;
                self.state = State::Body { asked, read: now, next, splitter, discard, received: 0 };
            }
            // A catch-up read does not wait, so a response without a body could skip existing data.
            204 if self.phase == Phase::CatchUp => {
                self.malformed("204 to a read that does not wait".to_string(), now);
            }
            204 => self.commit(next, now, Some(asked)),
            status => self.malformed(format!("{status} to a read"), now),
        }
    }

    /// Notes the stream's type and tail.
    fn described(&mut self, answer: &Answer, now: Duration) {
        self.json = answer.content_type().map(is_json);
        if self.position.offset.is_now()
            && let Some(tail) = answer.next_offset()
        {
            self.position = Checkpoint::at(tail.clone());
            self.began = self.position.clone();
            self.anchored = true;
        }
        let at_end = answer.closed() && answer.next_offset() == Some(&self.position.offset);
        self.live();
        self.progress.made(now);
        if at_end {
            self.piece(None, true, true);
            self.stop(ReaderStop::End(End::Closed));
        } else {
            self.state = State::Ask;
        }
    }

    fn live(&mut self) {
        let events = match self.config.mode {
            LiveMode::Sse => true,
            LiveMode::Auto => self.json == Some(true) && self.progress.short < SHORT_ONES,
            LiveMode::Off | LiveMode::LongPoll => false,
        };
        self.phase = Phase::Live(if events { Live::Sse } else { Live::LongPoll });
    }

    /// Uses long-polls from now on, permanently.
    fn give_up_events(&mut self) {
        self.progress.short = SHORT_ONES;
        self.phase = Phase::Live(Live::LongPoll);
        self.state = State::Ask;
    }

    /// Bytes of a response's body.
    pub fn handle_bytes(&mut self, bytes: Bytes, now: Duration) {
        match &mut self.state {
            State::Body { read, splitter, discard, received, .. } => {
                let since = core::mem::replace(read, now);
                if *discard {
                    return;
                }
                *received += bytes.len() as u64;
                if *received > self.reached {
                    self.reached = *received;
                    self.progress.made(now);
                } else {
                    // What an earlier attempt received comes again: no progress, but no standstill either.
                    self.progress.waited(now.saturating_sub(since), now);
                }
                match splitter {
                    Some(splitter) => {
                        splitter.feed(bytes);
                        loop {
                            match splitter.next_message() {
                                Ok(Some(message)) => {
                                    if let Some(piece) = self.held.push_message(message) {
                                        given(&mut self.out, &mut self.position, piece);
                                    }
                                }
                                Ok(None) => return,
                                Err(error) => return self.bad_array(&error, now),
                            }
                        }
                    }
                    None => {
                        self.held.push_bytes(&bytes);
                        self.overflow(now);
                    }
                }
            }
            State::Events { read, decoder, .. } => {
                *read = now;
                decoder.feed(bytes);
                self.events(now);
            }
            _ => {}
        }
    }

    fn overflow(&mut self, now: Duration) {
        while let Some(piece) = self.held.overflow() {
            given(&mut self.out, &mut self.position, piece);
            self.progress.made(now);
        }
    }

    fn events(&mut self, now: Duration) {
        while let State::Events { decoder, base64, .. } = &mut self.state {
            let base64 = *base64;
            let event = match decoder.next_frame() {
                None => return,
                Some(Frame::Event(event)) => event,
                Some(Frame::Oversized(_)) => return self.too_large(),
                Some(_) => continue,
            };
            match event.kind() {
                "control" => match Control::parse(event.data()) {
                    Ok(control) => self.controlled(control, now),
                    Err(error) => return self.malformed(error.to_string(), now),
                },
                "data" if base64 => match decode_base64(event.data()) {
                    Ok(data) => {
                        self.held.push_bytes(&data);
                        self.overflow(now);
                    }
                    Err(error) => return self.malformed(error.to_string(), now),
                },
                "data" if self.json == Some(true) => {
                    let mut splitter = ArraySplitter::new(self.config.max_message);
                    splitter.feed(event.data_bytes());
                    loop {
                        match splitter.next_message() {
                            Ok(Some(message)) => {
                                if let Some(piece) = self.held.push_message(message) {
                                    given(&mut self.out, &mut self.position, piece);
                                    self.progress.made(now);
                                }
                            }
                            Ok(None) => break,
                            Err(error) => return self.bad_array(&error, now),
                        }
                    }
                    if let Err(error) = splitter.finish() {
                        return self.bad_array(&error, now);
                    }
                }
                "data" => {
                    self.held.push_bytes(event.data().as_bytes());
                    self.overflow(now);
                }
                _ => {}
            }
        }
    }

    /// A control event: its offset covers the held data.
    fn controlled(&mut self, control: Control, now: Duration) {
        let next = Next {
            offset: control.stream_next_offset,
            cursor: control.stream_cursor,
            up_to_date: control.up_to_date || control.stream_closed,
            tail: control.up_to_date || control.stream_closed,
            closed: control.stream_closed,
        };
        let offset_moved = next.offset != self.position.offset;
        if let State::Events { moved, .. } = &mut self.state {
            *moved |= offset_moved;
        }
        self.commit(next, now, None);
    }

    /// Completes a response or a control event: returns the data that it covers. `asked` is the time of the request,
    /// for responses; then the next request follows.
    fn commit(&mut self, next: Next, now: Duration, asked: Option<Duration>) {
        let before = &self.position;
        let offset_moved = next.offset != before.offset;
        let cursor_moved = next.cursor.is_some() && next.cursor != before.cursor;
        if self.anchored && before.offset.is_minted() && went_back(&before.offset, &next.offset) {
            let what = format!("the offset went back to {}", next.offset);
            return self.malformed(what, now);
        }
        let content = if offset_moved { self.held.take() } else { None };
        if !offset_moved {
            // Data without a new offset comes again, or is a repetition.
            self.held.restart(before.skip);
        }
        self.position = Checkpoint {
            offset: next.offset,
            cursor: next.cursor.or_else(|| before.cursor.clone()),
            skip: self.held.left_to_skip(),
        };
        if self.began.offset.is_now() && content.is_none() {
            self.began = self.position.clone();
        }
        self.anchored = true;
        if offset_moved {
            self.malformed_at = None;
            self.reached = 0;
            self.progress.made(now);
        }
        if cursor_moved {
            self.progress.stuck = 0;
        }
        if next.tail {
            self.progress.at_tail();
        }
        self.piece(content, next.up_to_date, next.closed);
        if next.closed {
            return self.stop(ReaderStop::End(End::Closed));
        }
        let Some(asked) = asked else { return };
        self.state = State::Ask;
        let quick = now.saturating_sub(asked) < QUICK;
        match self.phase {
            Phase::CatchUp | Phase::Head if next.up_to_date => {
                if self.config.mode == LiveMode::Off {
                    return self.stop(ReaderStop::End(End::UpToDate));
                }
                self.progress.made(now);
                self.progress.at_tail();
                self.live();
            }
            _ if offset_moved => {}
            // The server waited, or a moved cursor says that time has passed: this is no failure, but no reason to
            // hurry either.
            _ if next.tail && !quick => {
                self.progress.rested();
                self.rest(now);
            }
            _ if next.tail && cursor_moved => self.rest(now),
            _ if quick && !cursor_moved => self.nothing_moved(now),
            _ => {
                self.progress.stuck = 0;
                self.failed("the answer did not move the offset", None, now);
            }
        }
    }

    /// Returns data that a new offset covers; a piece without data only when it says something new.
    fn piece(&mut self, content: Option<Content>, up_to_date: bool, closed: bool) {
        let news = closed || (up_to_date && !self.told_up_to_date);
        if content.is_none() && !news {
            return;
        }
        self.told_up_to_date |= up_to_date;
        let content = content.unwrap_or_else(|| {
            if self.json == Some(true) { Content::Messages(Vec::new()) } else { Content::Bytes(Bytes::new()) }
        });
        let checkpoint = self.position.clone();
        self.out.push_back(ReaderWant::Piece(Piece { content, checkpoint, whole: true, up_to_date, closed }));
    }

    /// The end of the body or of the event stream: regular, or cut off. Before a head, it is the end of a connection
    /// that received the request.
    pub fn handle_end(&mut self, cut: Option<&str>, now: Duration) {
        self.count(now);
        match core::mem::replace(&mut self.state, State::Ask) {
            State::Body { asked, next, splitter, discard, .. } => match (cut, splitter) {
                (Some(cause), _) => self.failed(cause, None, now),
                (None, Some(splitter)) if !discard => match splitter.finish() {
                    Ok(()) => self.commit(next, now, Some(asked)),
                    Err(error) => self.bad_array(&error, now),
                },
                (None, _) => self.commit(next, now, Some(asked)),
            },
            State::Events { asked, moved, .. } => {
                let age = now.saturating_sub(asked);
                if moved || age >= SHORT {
                    self.progress.short = 0;
                    self.progress.rested();
                } else if self.short_one(now) {
                    return;
                }
                match cut {
                    Some(cause) => self.failed(cause, None, now),
                    None if moved || self.progress.is_at_tail() && age >= QUICK => self.rest(now),
                    None if age < QUICK => self.nothing_moved(now),
                    None => {
                        self.progress.stuck = 0;
                        self.failed("the events ended and moved nothing", None, now);
                    }
                }
            }
            State::Answer { asked } => {
                let short = self.phase == Phase::Live(Live::Sse) && now.saturating_sub(asked) < SHORT;
                if !(short && self.short_one(now)) {
                    self.failed(cut.unwrap_or("the connection ended"), None, now);
                }
            }
            // The end belongs to a connection that was already dropped.
            other => self.state = other,
        }
    }

    /// The request could not be sent.
    pub fn handle_failure(&mut self, cause: &str, now: Duration) {
        if matches!(self.state, State::Answer { .. } | State::Body { .. } | State::Events { .. }) {
            self.count(now);
            self.failed(cause, None, now);
        }
    }

    fn refused(&mut self, refusal: Refusal, answer: &Answer, now: Duration) {
        let status = answer.status();
        if refusal == Refusal::Busy {
            return self.failed(&format!("status {status}"), answer.retry_after(), now);
        }
        match self.phase {
            Phase::Live(Live::Sse)
                if self.config.mode == LiveMode::Auto && matches!(status, 400 | 405 | 501) =>
            {
                self.give_up_events();
            }
            // A server that cannot describe the stream may still serve it.
            Phase::Head if matches!(status, 405 | 501) => {
                self.live();
                self.state = State::Ask;
            }
            _ => self.stop(ReaderStop::Refused { refusal, status, offset: self.position.offset.clone() }),
        }
    }

    fn bad_array(&mut self, error: &ArrayError, now: Duration) {
        match error {
            ArrayError::TooLarge { .. } => self.too_large(),
            ArrayError::Malformed { .. } => self.malformed(error.to_string(), now),
        }
    }

    fn too_large(&mut self) {
        let limit = self.config.max_message;
        self.stop(ReaderStop::TooLarge { offset: self.position.offset.clone(), limit });
    }

    fn malformed(&mut self, what: String, now: Duration) {
        let offset = self.position.offset.clone();
        if self.malformed_at.replace(offset.clone()) == Some(offset.clone()) {
            return self.stop(ReaderStop::Malformed { offset, what });
        }
        self.failed(&format!("malformed: {what}"), None, now);
    }

    fn stop(&mut self, stop: ReaderStop) {
        self.state = State::Done;
        self.out.push_back(ReaderWant::Stop(stop));
    }
}

/// Whether an offset is before another. Offsets sort bytewise. A server that counts without padding, with 10 after 9,
/// breaks that rule; it still does not count as going back.
fn went_back(before: &Offset, next: &Offset) -> bool {
    next < before && next.as_str().len() <= before.as_str().len()
}

/// Returns a piece that no offset covers yet.
fn given(out: &mut VecDeque<ReaderWant>, position: &mut Checkpoint, content: Content) {
    position.skip += content.units();
    let checkpoint = position.clone();
    out.push_back(ReaderWant::Piece(Piece {
        content,
        checkpoint,
        whole: false,
        up_to_date: false,
        closed: false,
    }));
}

#[cfg(test)]
mod tests;
