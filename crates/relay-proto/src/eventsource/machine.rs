//! The state machine of an event stream.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::mem;
use core::time::Duration;

use bytes::{Bytes, BytesMut};

use super::config::{Config, ServerRetry, Verdict};
use super::outcome::{Action, Attempt, Cause, End, Ended, Item, Refused, Retry, Stop};
use crate::http::{Redirect, ResponseHead};
use crate::retry::Backoff;
use crate::sse::{Decoder, Frame, Numbered, Series};

/// One event stream over as many connections as it takes. See the [module](super) for the states and a driver.
///
/// Methods come in three groups. Inputs, `handle_*`, report what has happened; an input that does not fit the state
/// is late, from a connection that was already dropped, and is ignored. Commands are requests of the caller.
/// [`poll`](Self::poll) tells the driver what to do, and is the only method that changes the state because time has
/// passed.
///
/// Memory: what the decoder holds of one unfinished event (bounded by [`Config::limits`]), the chunk being decoded,
/// and at most [`Config::max_problem_bytes`] of an error body.
pub struct Machine {
    config: Config,
    backoff: Backoff,
    /// The long profile.
    later: Backoff,
    decoder: Decoder,
    phase: Phase,
    /// Not handed out yet.
    opened: bool,
    ended: Option<Ended>,
    /// The delay before the next reconnect, if [`Machine::delay_once`] has set it.
    delay_once: Option<Duration>,
    /// The last answer was 401, and whether it already had its immediate second attempt.
    unauthenticated: bool,
    refreshed: bool,
}

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// A poll, which starts an attempt.
    Connect,
    /// The response head of an attempt.
    Response,
    /// The body of an error response.
    Problem,
    /// The next bytes of an open stream.
    Bytes,
    /// The time of the next attempt.
    Wait,
    /// Nothing: it is over.
    Stopped,
}

enum Phase {
    Connect(RedirectChain),
    Response {
        trail: RedirectChain,
        until: Option<Duration>,
    },
    Problem {
        problem: Problem,
        until: Duration,
    },
    /// The idle time begins when the driver starts to wait for bytes, not when the last bytes came: a caller that
    /// is busy with frames does not wait.
    Bytes {
        opened_at: Duration,
        silent_since: Option<Duration>,
    },
    Wait {
        until: Duration,
    },
    Stopped(Stop),
}

/// The redirects that the attempt has followed.
#[derive(Default)]
struct RedirectChain {
    hops: u32,
    redirect: Option<Redirect>,
}

/// An error response whose body is read first.
struct Problem {
    status: u16,
    retry_after: Option<Duration>,
    body: BytesMut,
}

impl Machine {
    /// A machine that connects on the first poll. The same `seed` and the same inputs give the same outputs.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            backoff: config.backoff(seed),
            later: config.later(!seed),
            decoder: Decoder::new(config.limits).with_last_event_id(config.last_event_id.as_str()),
            config,
            phase: Phase::Connect(RedirectChain::default()),
            opened: false,
            ended: None,
            delay_once: None,
            unauthenticated: false,
            refreshed: false,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Connect(_) => State::Connect,
            Phase::Response { .. } => State::Response,
            Phase::Problem { .. } => State::Problem,
            Phase::Bytes { .. } => State::Bytes,
            Phase::Wait { .. } => State::Wait,
            Phase::Stopped(_) => State::Stopped,
        }
    }

    /// The last event id that was committed, on this connection or an earlier one; empty when there is none.
    pub fn last_event_id(&self) -> &str {
        self.decoder.last_event_id()
    }

    /// The settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes held of an unfinished event or of an error body.
    pub fn buffered(&self) -> usize {
        match &self.phase {
            Phase::Problem { problem, .. } => problem.body.len(),
            _ => self.decoder.buffered(),
        }
    }

    /// The response head of the attempt has come.
    pub fn handle_response(&mut self, head: ResponseHead<'_>, now: Duration) {
        let Phase::Response { trail, .. } = &mut self.phase else { return };
        let trail = mem::take(trail);
        if head.status != 401 {
            self.unauthenticated = false;
        }
        match head.status {
            200 if (head.is_event_stream() || self.config.lenient_mime) && head.coding().is_none() => {
                self.phase = Phase::Bytes { opened_at: now, silent_since: None };
                self.opened = true;
                self.refreshed = false;
            }
            200 => {
                let short = |text| String::from_utf8_lossy(text).chars().take(100).collect();
                let cause = match head.coding() {
                    Some(coding) if head.is_event_stream() => Cause::ContentEncoding(short(coding)),
                    _ => Cause::ContentType(short(head.content_type())),
                };
                self.end_after(head.retry_after(), cause, Bytes::new(), now);
            }
            204 => self.stop(Stop::NoContent),
            301 | 302 | 303 | 307 | 308 => self.follow(trail, &head, now),
            status => {
                let problem = Problem { status, retry_after: head.retry_after(), body: BytesMut::new() };
                let until = now.saturating_add(self.config.problem_timeout);
                self.phase = Phase::Problem { problem, until };
                if self.config.max_problem_bytes == 0 {
                    self.judge(now);
                }
            }
        }
    }

    /// Bytes of the body have come.
    pub fn handle_bytes(&mut self, bytes: impl Into<Bytes>, now: Duration) {
        let bytes = bytes.into();
        match &mut self.phase {
            Phase::Bytes { silent_since, .. } => {
                *silent_since = None;
                self.decoder.feed(bytes);
            }
            Phase::Problem { problem, .. } => {
                let room = self.config.max_problem_bytes - problem.body.len();
                problem.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                if bytes.len() >= room {
                    self.judge(now);
                }
            }
            _ => {}
        }
    }

    /// The connection has ended, before the head or after it.
    pub fn handle_end(&mut self, end: End, now: Duration) {
        match self.phase {
            // An error response with a part of its body is handled as a whole one.
            Phase::Problem { .. } => self.judge(now),
            Phase::Response { .. } | Phase::Bytes { .. } => {
                self.end(
                    match end {
                        End::Eof => Cause::Eof,
                        End::Io(text) => Cause::Io(text),
                        End::ConnectTimeout => Cause::ConnectTimeout,
                    },
                    now,
                );
            }
            _ => {}
        }
    }

    /// The request of the attempt could not be prepared.
    pub fn handle_refused(&mut self, refused: Refused, now: Duration) {
        if !matches!(self.phase, Phase::Response { .. }) {
            return;
        }
        match refused.retry {
            Retry::Never => self.stop(Stop::Refused(refused)),
            Retry::Backoff => self.end(Cause::Refused(refused), now),
            Retry::After(delay) => self.end_after(Some(delay), Cause::Refused(refused), Bytes::new(), now),
        }
    }

    /// The time that [`poll`](Self::poll) returned has come without another input. Before that time this does
    /// nothing.
    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.phase {
            Phase::Response { until: Some(until), .. } if now >= *until => {
                self.end(Cause::ResponseTimeout, now)
            }
            Phase::Problem { until, .. } if now >= *until => self.judge(now),
            Phase::Bytes { silent_since, .. } => {
                let (Some(idle), Some(since)) = (self.config.idle, *silent_since) else { return };
                let deadline = since.saturating_add(idle);
                if now > deadline.saturating_add(idle / 2) {
                    // A timer is not that late: the driver was not waiting, and bytes may have been available all
                    // the time.
                    *silent_since = Some(now);
                } else if now >= deadline {
                    self.end(Cause::Idle(idle), now);
                }
            }
            _ => {}
        }
    }

    /// The connection did useful work: the next delay is a first delay again.
    pub fn progress(&mut self) {
        self.backoff.reset();
        self.later.reset();
    }

    /// Attempts since the last progress.
    fn failures(&self) -> u32 {
        self.backoff.failures().saturating_add(self.later.failures())
    }

    /// Ends the current wait, if there is one, because something that the next attempt needs has become available.
    /// The caller must see to it that this does not make a busy loop.
    pub fn retry_now(&mut self) {
        if let Phase::Wait { until } = &mut self.phase {
            *until = Duration::ZERO;
        }
    }

    /// Drops the connection or the attempt, and starts another after the backoff. Does nothing while there is none.
    ///
    /// Frames that were received but not handed out are dropped: the next connection resumes before them.
    pub fn restart(&mut self, reason: impl Into<String>, now: Duration) {
        if matches!(self.phase, Phase::Response { .. } | Phase::Problem { .. } | Phase::Bytes { .. }) {
            self.decoder =
                Decoder::new(self.config.limits).with_last_event_id(self.decoder.last_event_id().to_owned());
            self.end(Cause::Restarted(reason.into()), now);
        }
    }

    /// The next reconnect comes after exactly this delay (at least [`Config::floor`], at most [`Config::retry_max`]); a
    /// `Retry-After` can only make it longer. Later ones are as before.
    pub fn delay_once(&mut self, delay: Duration) {
        self.delay_once = Some(delay.min(self.config.retry_max));
    }

    /// The base of the backoff from now on: for callers that read [`ServerRetry::Ignore`]d `retry` frames themselves.
    pub fn set_base(&mut self, base: Duration) {
        self.backoff.set_base(base);
    }

    /// The longest silence from now on: see [`Config::idle`].
    pub fn set_idle(&mut self, idle: Option<Duration>) {
        self.config.idle = idle;
    }

    /// Ends the stream for good. Items that were not handed out are dropped.
    pub fn close(&mut self) {
        if !matches!(self.phase, Phase::Stopped(_)) {
            self.opened = false;
            self.ended = None;
            self.stop(Stop::Closed);
        }
    }

    /// What to do next. Call it after every input and command, and when the time that it returned has come.
    pub fn poll(&mut self, now: Duration) -> Action {
        if mem::take(&mut self.opened) {
            return Action::Item(Item::Opened);
        }
        if let Some(frame) = self.next_frame() {
            return Action::Item(Item::Frame(frame));
        }
        if let Some(ended) = self.ended.take() {
            return Action::Item(Item::Ended(ended));
        }
        if matches!(self.phase, Phase::Bytes { .. })
            && self.decoder.block_bytes() > self.config.max_block_bytes
        {
            self.end(Cause::EndlessEvent(self.decoder.block_bytes()), now);
            return self.poll(now);
        }
        match &mut self.phase {
            Phase::Connect(trail) => {
                let trail = mem::take(trail);
                let attempt = self.attempt(&trail);
                let until = self.config.response_timeout.map(|timeout| now.saturating_add(timeout));
                self.phase = Phase::Response { trail, until };
                Action::Connect(attempt)
            }
            Phase::Response { until, .. } => Action::Response(*until),
            Phase::Problem { until, .. } => Action::Bytes(Some(*until)),
            Phase::Bytes { silent_since, .. } => {
                let since = *silent_since.get_or_insert(now);
                Action::Bytes(self.config.idle.map(|idle| since.saturating_add(idle)))
            }
            Phase::Wait { until } if now < *until => Action::Wait(*until),
            Phase::Wait { .. } => {
                self.phase = Phase::Connect(RedirectChain::default());
                self.poll(now)
            }
            Phase::Stopped(stop) => Action::Stop(stop.clone()),
        }
    }

    /// The item that [`poll`](Self::poll) would return now, if that is a frame: without reading the clock, for
    /// drivers that take many frames in a row. After `None`, call `poll`.
    #[inline(always)]
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.opened {
            return None;
        }
        let frame = self.decoder.next_frame();
        if let Some(Frame::Retry(retry)) = &frame {
            self.handle_retry(*retry);
        }
        frame
    }

    /// The same for an event of a series: see [`Decoder::next_in_series`](crate::sse::Decoder::next_in_series).
    #[inline(always)]
    pub fn next_in_series(&mut self, series: &Series) -> Option<Numbered<'_>> {
        if self.opened { None } else { self.decoder.next_in_series(series) }
    }

    /// Frees memory that is kept for reuse: for drivers with many connections, when there is nothing to read.
    pub fn release_memory(&mut self) {
        self.decoder.release_memory();
    }

    fn attempt(&self, trail: &RedirectChain) -> Attempt {
        let id = if self.config.use_last_event_id { self.decoder.last_event_id() } else { "" };
        Attempt {
            number: self.failures().saturating_add(1),
            fresh_credentials: self.unauthenticated,
            redirect: trail.redirect.clone(),
            last_event_id: id.to_owned(),
        }
    }

    fn follow(&mut self, trail: RedirectChain, head: &ResponseHead<'_>, now: Duration) {
        let Some(location) = head.location() else {
            return self.end(Cause::RedirectWithoutLocation(head.status), now);
        };
        if trail.hops >= self.config.max_redirects {
            return self.end(Cause::TooManyRedirects(head.status), now);
        }
        let redirect = match &trail.redirect {
            Some(redirect) => redirect.then(head.status, location),
            None => Redirect::new(head.url, head.status, location),
        };
        match redirect {
            Some(redirect) => {
                self.phase = Phase::Connect(RedirectChain { hops: trail.hops + 1, redirect: Some(redirect) });
            }
            None => self.end(Cause::RedirectNowhere(head.status), now),
        }
    }

    /// Acts on an error response once its body has come, or enough of it.
    fn judge(&mut self, now: Duration) {
        let Phase::Problem { problem, .. } = &mut self.phase else { return };
        let Problem { status, retry_after, .. } = *problem;
        let body = mem::take(&mut problem.body).freeze();
        let cause = Cause::Status(status);
        if status == 401 && self.config.credentials_can_refresh {
            self.unauthenticated = true;
            if !mem::replace(&mut self.refreshed, true) {
                // Only once, and without a delay: an expired credential should not interrupt the stream.
                self.ended = Some(self.ended_now(cause, now, body));
                self.phase = Phase::Connect(RedirectChain::default());
                return;
            }
            return self.end_after(retry_after, cause, body, now);
        }
        match self.config.policy.and_then(|policy| policy(status)).unwrap_or(Verdict::of_status(status)) {
            Verdict::Stop => self.stop(Stop::Status { status, body }),
            Verdict::RetryLater => {
                let attempt = self.ended_now(cause, now, body);
                let least = retry_after.map_or(Duration::ZERO, |least| self.spread(least));
                let retry_at = now.saturating_add(self.later.next_delay().max(least));
                self.wait(Ended { retry_at, ..attempt });
            }
            Verdict::Retry => self.end_after(retry_after, cause, body, now),
        }
    }

    fn end(&mut self, cause: Cause, now: Duration) {
        self.end_after(None, cause, Bytes::new(), now);
    }

    /// Schedules the next attempt: not before `least` if that is given, else after the backoff.
    fn end_after(&mut self, least: Option<Duration>, cause: Cause, body: Bytes, now: Duration) {
        if let (Phase::Bytes { opened_at, .. }, Some(healthy)) = (&self.phase, self.config.healthy_after)
            && now.saturating_sub(*opened_at) >= healthy
        {
            self.backoff.reset();
        }
        let ended = self.ended_now(cause, now, body);
        let chosen = self.backoff.next_delay();
        let delay = match (self.delay_once.take().map(|once| once.max(self.config.floor)), least) {
            (Some(once), None) => once,
            (once, Some(least)) => self.spread(least).max(once.unwrap_or_default()),
            (None, None) => chosen,
        };
        self.wait(Ended { retry_at: now.saturating_add(delay), ..ended });
    }

    /// The time that the server asks for, within the limit, with some more so that not all clients come at once.
    fn spread(&mut self, least: Duration) -> Duration {
        self.backoff.spread(least.min(self.config.retry_after_max))
    }

    fn ended_now(&self, cause: Cause, now: Duration, body: Bytes) -> Ended {
        Ended {
            opened: matches!(self.phase, Phase::Bytes { .. }),
            cause,
            retry_at: now,
            attempt: self.failures().saturating_add(1),
            body,
        }
    }

    fn wait(&mut self, ended: Ended) {
        self.decoder.finish();
        self.phase = Phase::Wait { until: ended.retry_at };
        self.ended = Some(ended);
    }

    fn stop(&mut self, stop: Stop) {
        // Also drops frames that were received and not handed out.
        self.decoder =
            Decoder::new(self.config.limits).with_last_event_id(self.decoder.last_event_id().to_owned());
        self.phase = Phase::Stopped(stop);
    }

    fn handle_retry(&mut self, retry: Duration) {
        let retry = self.config.clamp_retry(retry);
        match self.config.server_retry {
            ServerRetry::Base => self.backoff.set_base(retry),
            ServerRetry::Once => self.delay_once = Some(retry),
            ServerRetry::Ignore => {}
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("state", &self.state())
            .field("last_event_id", &self.last_event_id())
            .field("failures", &self.failures())
            .finish_non_exhaustive()
    }
}
