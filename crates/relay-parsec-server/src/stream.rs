//! The stream of one subscriber, from its position in a channel's log.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr2;
use relay_log::{Limit, Page};
use relay_proto::parsec::{
    ClosingReason, Connected, GapReason, Position, PresenceEntry, StreamFrame, StreamGap,
};
use relay_proto::time::Timestamp;
use relay_transport::server::Cut;
use tokio::time::{Instant, Sleep};

use crate::access::Principal;
use crate::channel::Channel;
use crate::hub::Hub;

/// Bytes of envelopes that are read from the log for one piece of the stream.
const PIECE: usize = 64 << 10;

/// A stream from its first byte to its last. Nothing is queued: the next piece is made when the connection can take it.
pub(crate) struct Subscriber {
    hub: Arc<Hub>,
    channel: Arc<Channel>,
    principal: Principal,
    /// Everything up to here is sent.
    offset: u64,
    /// `connected`, and the gap that may follow.
    opening: BytesMut,
    /// The first line of an envelope's block, and its id up to the offset.
    prefix: Vec<u8>,
    last_message: Instant,
    ends_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    ended: bool,
    _seat: Seat,
}

/// The start of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    Latest,
    Oldest,
    /// After a position, as it was written.
    After(String),
}

/// A registration among the listeners of a channel and the streams of the server.
pub(crate) struct Seat {
    hub: Arc<Hub>,
    channel: Option<Arc<Channel>>,
    id: u64,
}

impl Seat {
    /// Takes a place, if one is free.
    pub(crate) fn take(hub: &Arc<Hub>) -> Option<Self> {
        let most = hub.config.max_streams as u64;
        let room = |open| if open < most { Some(open + 1) } else { None };
        hub.streams.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        let id = hub.next_stream.fetch_add(1, Ordering::AcqRel);
        Some(Self { hub: hub.clone(), channel: None, id })
    }

    /// Registers with a channel, unless it was forgotten in between.
    pub(crate) fn listen(&mut self, channel: &Arc<Channel>, entry: PresenceEntry) -> bool {
        let listening = self.hub.listen(channel, self.id, entry);
        self.channel = listening.then(|| channel.clone());
        listening
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.streams.fetch_sub(1, Ordering::AcqRel);
        if let Some(channel) = &self.channel {
            channel.listeners().remove(&self.id);
            channel.touch();
        }
    }
}

impl Subscriber {
    pub(crate) fn new(
        hub: Arc<Hub>,
        channel: Arc<Channel>,
        principal: Principal,
        client_id: &str,
        start: Start,
        seat: Seat,
    ) -> Self {
        let bounds = channel.log.bounds();
        let mut gap = None;
        let offset = match &start {
            Start::Latest => bounds.head,
            Start::Oldest => bounds.base,
            Start::After(text) => {
                let mut beyond = |reason, missed| {
                    gap = Some((reason, missed, text.chars().take(300).collect::<String>()));
                    bounds.base
                };
                match Position::parse(text) {
                    Ok(after) if !after.same_epoch(&channel.at(0)) => beyond(GapReason::EpochChanged, None),
                    Ok(after) if after.offset() > bounds.head => beyond(GapReason::UnknownPosition, None),
                    Ok(after) if after.offset() < bounds.base => {
                        beyond(GapReason::Trimmed, Some(bounds.base - after.offset()))
                    }
                    Ok(after) => after.offset(),
                    Err(_) => beyond(GapReason::UnknownPosition, None),
                }
            }
        };
        let position = channel.at(offset);
        let mut opening = BytesMut::new();
        let beat = hub.config.heartbeat;
        let connected = Connected::new(&channel.name, bounds.head, position.clone(), client_id, beat);
        StreamFrame::write_connected(&mut opening, &connected);
        if let Some((reason, missed, requested)) = gap {
            let gap = StreamGap::new(reason, position.clone()).requested(Some(requested)).missed(missed);
            StreamFrame::write_gap(&mut opening, &gap);
        }
        let now = Instant::now();
        let prefix = format!("event: envelope\nid: {}.", position.epoch()).into_bytes();
        Self {
            ends_at: lifetime(hub.config.stream_lifetime).and_then(|lifetime| now.checked_add(lifetime)),
            timer: Box::pin(tokio::time::sleep_until(now + beat)),
            hub,
            channel,
            principal,
            offset,
            opening,
            prefix,
            last_message: now,
            ended: false,
            _seat: seat,
        }
    }

    /// The next bytes; `None` once the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Cut>> {
        if self.ended {
            return None;
        }
        if !self.opening.is_empty() {
            // Sent as a whole: a split buffer would keep its memory for the life of the stream.
            return Some(Ok(std::mem::take(&mut self.opening).freeze()));
        }
        loop {
            self.renew();
            if let Some(reason) = self.closing_reason() {
                self.ended = true;
                let mut out = BytesMut::new();
                StreamFrame::write_closing(&mut out, &reason, retry());
                return Some(Ok(out.freeze()));
            }
            // A separate future, so that a waiting subscriber does not hold its memory.
            match Box::pin(self.look()).await {
                Ok(Some(bytes)) => {
                    self.last_message = Instant::now();
                    return Some(Ok(bytes));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(channel = self.channel.name, %error, "a stream cannot be read");
                    self.ended = true;
                    return Some(Err(Cut));
                }
            }
            let beat = self.last_message + self.hub.config.heartbeat;
            let until = self.ends_at.map_or(beat, |end| end.min(beat));
            self.timer.as_mut().reset(until);
            tokio::select! {
                head = self.channel.log.wait(self.offset) => if head.is_err() {
                    // The log ended; the subscriber reconnects and learns the reason.
                    self.ended = true;
                    return Some(Err(Cut));
                },
                () = self.hub.stopping.cancelled() => {}
                () = self.principal.revoked.cancelled() => {}
                () = self.timer.as_mut() => {
                    if Instant::now() >= beat {
                        self.last_message = Instant::now();
                        let mut out = BytesMut::new();
                        StreamFrame::write_heartbeat(&mut out, &self.channel.at(self.offset), &now());
                        return Some(Ok(out.freeze()));
                    }
                }
            }
        }
    }

    /// What follows in the log, up to a piece; `None` at the head.
    async fn look(&mut self) -> Result<Option<Bytes>, relay_log::Error> {
        if self.channel.log.bounds().head <= self.offset {
            return Ok(None);
        }
        let mut out = BytesMut::with_capacity(4 << 10);
        match self.channel.log.read(self.offset, Limit::default().bytes(PIECE)).await? {
            Page::Entries(entries) => {
                for entry in &entries {
                    self.write_envelope(&mut out, entry.position, &entry.body);
                    self.offset = entry.position;
                }
            }
            _ => {
                let base = self.channel.log.bounds().base;
                let gap = StreamGap::new(GapReason::SlowConsumer, self.channel.at(base))
                    .missed(base.checked_sub(self.offset));
                self.offset = base;
                StreamFrame::write_gap(&mut out, &gap);
            }
        }
        Ok(if out.is_empty() { None } else { Some(out.freeze()) })
    }

    fn write_envelope(&self, out: &mut BytesMut, offset: u64, text: &[u8]) {
        if memchr2(b'\n', b'\r', text).is_some() {
            let text = std::str::from_utf8(text).unwrap_or_default();
            return StreamFrame::write_envelope(out, &self.channel.at(offset), text);
        }
        out.reserve(self.prefix.len() + text.len() + 32);
        out.put_slice(&self.prefix);
        write_number(out, offset);
        out.put_slice(b"\ndata: ");
        out.put_slice(text);
        out.put_slice(b"\n\n");
    }

    /// Continues with a credential whose rights changed, if it may still read the channel.
    fn renew(&mut self) {
        if !self.principal.revoked.is_cancelled() {
            return;
        }
        let again = self.hub.tokens.as_ref().and_then(|tokens| tokens.current().again(&self.principal));
        if let Some(again) = again.filter(|again| again.rights.may_read(&self.channel.name)) {
            self.principal = again;
        }
    }

    fn closing_reason(&self) -> Option<ClosingReason> {
        if self.principal.revoked.is_cancelled() {
            Some(ClosingReason::Revoked)
        } else if self.hub.stopping.is_cancelled() {
            Some(ClosingReason::Shutdown)
        } else {
            let aged = self.ends_at.is_some_and(|end| Instant::now() >= end);
            aged.then_some(ClosingReason::Lifetime)
        }
    }
}

fn write_number(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

/// Up to a tenth longer, so that streams that began together do not end together.
fn lifetime(lifetime: Duration) -> Option<Duration> {
    if lifetime.is_zero() {
        return None;
    }
    Some(lifetime + lifetime.mul_f64(0.1 * random_fraction()))
}

/// A delay of 0.1 to 2.1 s, so that clients do not reconnect all at once.
fn retry() -> Duration {
    Duration::from_millis(100) + Duration::from_secs(2).mul_f64(random_fraction())
}

fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_unix_millis(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}
