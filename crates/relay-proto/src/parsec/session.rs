//! Connections to a `centrifuge` server over WebSockets, one after another, as a state machine without a socket.
//!
//! ```text
//!                       +------------------------- Wait <---------------------------------+
//!                       v (backoff)                        close, silence, bad line, hole |
//!   Idle --subscribe--> Connect --poll--> Opening --handle_open--> Greeting --reply--> Live
//!    ^                                       |                        |                |  |
//!    |                                       +---- refused for good --+----------------+--|--> Stopped
//!    +------------------------------------ last unsubscribe ------------------------------+
//! ```
//!
//! Time is an argument. Each channel has one subscription at the server, which is opened again at its position after
//! every drop. Lost publications are reported by one [`Item::Gap`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::centrifuge::{Command, CommandError, Message, Publication, Recover, Reply, Subscribed};
use super::{GapReason, Position};
use crate::retry::Backoff;

mod outcome;

pub use outcome::{Action, End, EndKind, From, Item, LossReason};

/// Settings of a [`Session`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The name of the client's software. Default `relay`.
    pub name: String,
    /// Ceiling of the first delay before a reconnect or another subscribe. Default 0.8 s.
    pub base: Duration,
    /// Ceiling of every delay. Default 30 s.
    pub cap: Duration,
    /// Time limit for the WebSocket handshake, again for the reply to `connect`, and from one reply to the next while a
    /// `subscribe` waits for its own. Default 5 s.
    pub handshake: Duration,
    /// How late a ping may be. Default 10 s.
    pub ping_slack: Duration,
    /// Number of attempts in a row for a subscribe that fails with error 100. Default 5.
    pub subscribe_tries: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "relay".into(),
            base: Duration::from_millis(800),
            cap: Duration::from_secs(30),
            handshake: Duration::from_secs(5),
            ping_slack: Duration::from_secs(10),
            subscribe_tries: 5,
        }
    }
}

/// The machine. See the [module](self).
#[derive(Debug)]
pub struct Session {
    config: Config,
    backoff: Backoff,
    phase: Phase,
    token: String,
    token_wanted: bool,
    next_id: u32,
    channels: BTreeMap<String, Channel>,
    /// When the last reply came.
    replied: Duration,
    outgoing: VecDeque<String>,
    items: VecDeque<Item>,
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Idle,
    Connect,
    Opening { until: Duration },
    Greeting { id: u32, until: Duration },
    Live { silence: Option<Duration>, pong: bool, until: Option<Duration> },
    Wait { until: Duration },
    Stopped(End),
}

#[derive(Debug)]
struct Channel {
    state: ChannelState,
    from: From,
    backoff: Backoff,
    tries: u32,
    /// A position after which a hole was seen before.
    hole_at: Option<Position>,
    /// The position that the server cannot recover, by its reply.
    unrecoverable: Option<Position>,
    token_renewed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ChannelState {
    Wanted,
    Asked { id: u32, at: Duration },
    Open,
    Later { until: Duration },
    Token,
}

impl Session {
    /// A machine without a channel. The same `seed` and the same inputs give the same outputs.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            backoff: Backoff::new(config.base, config.cap, seed),
            config,
            phase: Phase::Idle,
            token: String::new(),
            token_wanted: false,
            next_id: 1,
            channels: BTreeMap::new(),
            replied: Duration::ZERO,
            outgoing: VecDeque::new(),
            items: VecDeque::new(),
        }
    }

    /// The position of a channel's subscription after the last item that was returned.
    pub fn position(&self, channel: &str) -> Option<&Position> {
        match &self.channels.get(channel)?.from {
            From::After(position) => Some(position),
            From::Latest | From::Oldest => None,
        }
    }

    /// Whether a channel's subscription is open.
    pub fn is_open(&self, channel: &str) -> bool {
        self.channels.get(channel).is_some_and(|channel| channel.state == ChannelState::Open)
    }

    /// Opens a channel's subscription, or opens it again with another start.
    pub fn subscribe(&mut self, channel: &str, from: From) {
        if matches!(self.phase, Phase::Stopped(_)) {
            return;
        }
        if self.phase == Phase::Idle {
            self.phase = Phase::Connect;
        }
        self.leave(channel);
        let seed = u64::from(self.next_id)
            ^ channel.bytes().fold(7, |sum: u64, b| sum.wrapping_mul(31) + u64::from(b));
        let fresh = Channel {
            state: ChannelState::Wanted,
            from,
            backoff: Backoff::new(self.config.base, self.config.cap, seed),
            tries: 0,
            hole_at: None,
            unrecoverable: None,
            token_renewed: false,
        };
        self.channels.insert(channel.to_owned(), fresh);
    }

    /// Unsubscribes from a channel. Without a channel there is no connection.
    pub fn unsubscribe(&mut self, channel: &str) {
        self.leave(channel);
        self.channels.remove(channel);
        if self.channels.is_empty() && !matches!(self.phase, Phase::Stopped(_)) {
            self.phase = Phase::Idle;
            self.outgoing.clear();
        }
    }

    fn leave(&mut self, channel: &str) {
        let state = self.channels.get(channel).map(|known| known.state);
        if matches!(state, Some(ChannelState::Open | ChannelState::Asked { .. }))
            && matches!(self.phase, Phase::Live { .. })
        {
            let command = Command::Unsubscribe { channel: channel.to_owned() };
            self.send(&command);
        }
    }

    /// Drops the connection; a reconnect follows after the backoff.
    pub fn restart(&mut self, reason: impl Into<String>, now: Duration) {
        if !matches!(self.phase, Phase::Idle | Phase::Wait { .. } | Phase::Stopped(_)) {
            self.lose(reason.into(), None, now);
        }
    }

    /// Ends the session for good.
    pub fn close(&mut self) {
        self.channels.clear();
        self.items.clear();
        self.phase = Phase::Stopped(End::new(EndKind::Failed, None, "closed by the caller"));
    }

    /// The WebSocket is open. `token` is the credential for private channels, empty for none.
    pub fn handle_open(&mut self, token: impl Into<String>, now: Duration) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        self.token = token.into();
        self.next_id = 1;
        self.outgoing.clear();
        let name = self.config.name.clone();
        let id = self.send(&Command::Connect { token: String::new(), name });
        self.phase = Phase::Greeting { id, until: now.saturating_add(self.config.handshake) };
    }

    /// The token that [`Action::Token`] requested.
    pub fn handle_token(&mut self, token: impl Into<String>) {
        self.token = token.into();
        self.token_wanted = false;
        for channel in self.channels.values_mut() {
            if channel.state == ChannelState::Token {
                channel.state = ChannelState::Wanted;
            }
        }
    }

    /// The handshake was answered with this status instead of 101.
    pub fn handle_refused(&mut self, status: u16, retry_after: Option<Duration>, now: Duration) {
        if !matches!(self.phase, Phase::Opening { .. }) {
            return;
        }
        let reason = format!("the WebSocket was refused with status {status}");
        let kind = match status {
            401 | 403 => EndKind::Denied,
            404 => EndKind::NotFound,
            408 | 425 | 429 | 500.. => return self.lose(reason, retry_after, now),
            400..500 => EndKind::Failed,
            _ => return self.lose(reason, retry_after, now),
        };
        self.stop(End::new(kind, None, reason));
    }

    /// The connection could not be made, or broke without a close frame.
    pub fn handle_lost(&mut self, reason: impl Into<String>, now: Duration) {
        self.restart(reason, now);
    }

    /// A close frame came; `None` for one without a code.
    pub fn handle_close(&mut self, code: Option<u16>, reason: &str, now: Duration) {
        self.disconnected(code.map(u32::from), reason, now);
    }

    /// A frame that is not text was received, which violates the protocol.
    pub fn handle_binary(&mut self, now: Duration) {
        self.restart("a binary frame came", now);
    }

    /// A text frame has come.
    pub fn handle_text(&mut self, text: &str, now: Duration) {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if !matches!(self.phase, Phase::Greeting { .. } | Phase::Live { .. }) {
                return;
            }
            match Message::from_line(line) {
                Ok(message) => self.handle_message(message, now),
                Err(error) => return self.restart(error.to_string(), now),
            }
        }
    }

    /// The requested time has come. Before that time this does nothing.
    pub fn handle_timeout(&mut self, now: Duration) {
        match self.phase {
            Phase::Opening { until } if now >= until => self.lose("no WebSocket in time".into(), None, now),
            Phase::Greeting { until, .. } if now >= until => {
                self.lose("no answer to connect in time".into(), None, now);
            }
            Phase::Live { until: Some(until), .. } if now >= until => {
                self.lose("no ping in time".into(), None, now);
            }
            Phase::Live { .. } if self.reply_until().is_some_and(|until| now >= until) => {
                self.lose("no answer to subscribe in time".into(), None, now);
            }
            _ => {}
        }
    }

    /// What to do next. Call it after every input and command, and when the time that it returned has come.
    pub fn poll(&mut self, now: Duration) -> Action {
        if let Some(item) = self.items.pop_front() {
            return Action::Item(item);
        }
        match &self.phase {
            Phase::Idle => return Action::Idle,
            Phase::Connect => {
                self.phase = Phase::Opening { until: now.saturating_add(self.config.handshake) };
                return Action::Connect;
            }
            Phase::Opening { until } => return Action::Receive(Some(*until)),
            Phase::Wait { until } if now < *until => return Action::Wait(*until),
            Phase::Wait { .. } => {
                self.phase = Phase::Connect;
                return self.poll(now);
            }
            Phase::Stopped(end) => return Action::Stop(end.clone()),
            Phase::Greeting { .. } | Phase::Live { .. } => {}
        }
        if let Phase::Live { until, .. } = self.phase {
            self.ask(now);
            if self.token_wanted {
                return Action::Token;
            }
            if let Some(line) = self.outgoing.pop_front() {
                return Action::Send(line);
            }
            let later = self.channels.values().filter_map(|channel| match channel.state {
                ChannelState::Later { until } => Some(until),
                _ => None,
            });
            return Action::Receive(later.chain(until).chain(self.reply_until()).min());
        }
        match (self.outgoing.pop_front(), &self.phase) {
            (Some(line), _) => Action::Send(line),
            (None, Phase::Greeting { until, .. }) => Action::Receive(Some(*until)),
            (None, _) => Action::Receive(None),
        }
    }

    /// Until when a reply to a `subscribe` must have come, if one is waited for.
    fn reply_until(&self) -> Option<Duration> {
        let asked = self.channels.values().filter_map(|channel| match channel.state {
            ChannelState::Asked { at, .. } => Some(at),
            _ => None,
        });
        asked.min().map(|at| at.max(self.replied).saturating_add(self.config.handshake))
    }

    /// Sends `subscribe` for the channels that are due.
    fn ask(&mut self, now: Duration) {
        let due = |channel: &Channel| match channel.state {
            ChannelState::Wanted => true,
            ChannelState::Later { until } => now >= until,
            _ => false,
        };
        let names: Vec<_> =
            self.channels.iter().filter(|(_, channel)| due(channel)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(channel) = self.channels.get(&name) else { continue };
            let recover = match &channel.from {
                _ if channel.unrecoverable.is_some() => None,
                From::Latest => None,
                From::Oldest => Some(Recover::default()),
                From::After(at) => Some(Recover { epoch: at.epoch().to_owned(), offset: at.offset() }),
            };
            let token = if name.starts_with("private:") { self.token.clone() } else { String::new() };
            let id = self.send(&Command::Subscribe { channel: name.clone(), token, recover });
            if let Some(channel) = self.channels.get_mut(&name) {
                channel.state = ChannelState::Asked { id, at: now };
            }
        }
    }

    fn send(&mut self, command: &Command) -> u32 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1).max(1);
        self.outgoing.push_back(command.to_line(id));
        id
    }

    fn handle_message(&mut self, message: Message, now: Duration) {
        match message {
            Message::Ping => {
                if let Phase::Live { silence, pong, until } = &mut self.phase {
                    *until = silence.map(|silence| now.saturating_add(silence));
                    if *pong {
                        self.outgoing.push_back(Command::Pong.to_line(0));
                    }
                }
            }
            Message::Reply { id, result } => self.handle_reply(id, result, now),
            Message::Publication { channel, publication } => {
                if self.is_open(&channel) {
                    self.publication(&channel, publication, now);
                }
            }
            Message::Unsubscribe { .. } if !matches!(self.phase, Phase::Live { .. }) => {}
            Message::Unsubscribe { channel, code, reason } => {
                let Some(known) = self.channels.get_mut(&channel) else { return };
                let words = format!("unsubscribed by the server with code {code}: {}", one_line(&reason));
                if code < 2500 {
                    self.end(&channel, End::new(EndKind::Failed, code, words));
                } else {
                    let until = now.saturating_add(known.backoff.next_delay());
                    known.state = ChannelState::Later { until };
                    self.items.push_back(Item::Refused { channel, reason: words, retry_at: until });
                }
            }
            // A push leaves out a code of 0, which is none.
            Message::Disconnect { code, reason } => {
                self.disconnected(Some(code).filter(|code| *code > 0), &reason, now);
            }
            Message::Other => {}
        }
    }

    fn handle_reply(&mut self, id: u32, result: Result<Reply, CommandError>, now: Duration) {
        if let Phase::Greeting { id: asked, .. } = self.phase {
            if id != asked {
                return;
            }
            match result {
                Ok(Reply::Connect(connected)) => {
                    let silence = (connected.ping > 0)
                        .then(|| Duration::from_secs(connected.ping).saturating_add(self.config.ping_slack));
                    let until = silence.map(|silence| now.saturating_add(silence));
                    self.phase = Phase::Live { silence, pong: connected.pong, until };
                    for channel in self.channels.values_mut() {
                        channel.state = ChannelState::Wanted;
                    }
                }
                Ok(_) => self.restart("the answer to connect is none", now),
                Err(error) => match error.code {
                    101 | 103 | 109 => {
                        self.stop(End::new(EndKind::Denied, error.code, words("connect", &error)))
                    }
                    _ if error.temporary || error.code == 100 => self.restart(words("connect", &error), now),
                    _ => self.stop(End::new(EndKind::Failed, error.code, words("connect", &error))),
                },
            }
            return;
        }
        self.replied = now;
        let asked =
            |channel: &Channel| matches!(channel.state, ChannelState::Asked { id: own, .. } if own == id);
        let Some(name) = self.channels.iter().find(|(_, channel)| asked(channel)).map(|(n, _)| n.clone())
        else {
            return;
        };
        match result {
            Ok(Reply::Subscribe(answer)) => self.subscribed(&name, answer, now),
            // An empty reply may have lost its empty result, too.
            Ok(_) => self.subscribed(&name, Subscribed::default(), now),
            Err(error) => self.not_subscribed(name, &error, now),
        }
    }

    fn subscribed(&mut self, name: &str, answer: Subscribed, now: Duration) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        channel.state = ChannelState::Open;
        channel.tries = 0;
        channel.token_renewed = false;
        let asked = match (channel.unrecoverable.take(), &channel.from) {
            (Some(lost), _) => From::After(lost),
            (None, from) => from.clone(),
        };
        let newest = answer.newest();
        let positioned = !answer.epoch.is_empty();
        let before = answer.publications.first().map_or(newest, |first| first.offset.saturating_sub(1));
        let before = positioned.then(|| Position::new(answer.epoch.as_str(), before));
        let mut gap = None;
        let resumes_after = match (&asked, before) {
            (_, None) => None,
            (From::Latest, before) => before,
            (From::Oldest, Some(before)) => {
                if !answer.recovered && newest > 0 {
                    gap = Some((GapReason::Trimmed, Some(newest), before.at(newest)));
                }
                Some(before)
            }
            (From::After(at), Some(_)) if answer.recovered && *at.epoch() == *answer.epoch => {
                Some(at.clone())
            }
            (From::After(at), Some(before)) => {
                let after = before.at(newest);
                let (reason, missed) = if *at.epoch() != *answer.epoch {
                    (GapReason::EpochChanged, None)
                } else if newest < at.offset() {
                    (GapReason::UnknownPosition, None)
                } else {
                    (GapReason::Trimmed, Some(newest - at.offset()))
                };
                gap = Some((reason, missed, after.clone()));
                Some(after)
            }
        };
        channel.from = resumes_after.clone().map_or(From::Latest, From::After);
        // An opened subscription is not yet progress, but its publications are.
        self.items.push_back(Item::Subscribed { channel: name.to_owned(), resumes_after });
        if let Some((reason, missed, resumes_after)) = gap {
            channel.from = From::After(resumes_after.clone());
            channel.hole_at = None;
            let (channel, reason) = (name.to_owned(), LossReason::Server(reason));
            self.items.push_back(Item::Gap { channel, reason, missed, resumes_after });
        }
        if matches!(asked, From::Latest) || answer.recovered {
            self.backoff.reset();
        }
        for publication in answer.publications {
            if self.is_open(name) && matches!(self.phase, Phase::Live { .. }) {
                self.publication(name, publication, now);
            }
        }
    }

    fn publication(&mut self, name: &str, publication: Publication, now: Duration) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let Publication { data, offset } = publication;
        let position = match &channel.from {
            From::After(last) if offset > 0 => {
                if offset <= last.offset() {
                    return;
                }
                if offset > last.offset() + 1 {
                    if channel.hole_at.as_ref() != Some(last) {
                        channel.hole_at = Some(last.clone());
                        let reason = format!("offset {offset} came after {}", last.offset());
                        return self.lose(reason, None, now);
                    }
                    let (missed, resumes_after) = (Some(offset - last.offset() - 1), last.at(offset - 1));
                    let (channel, reason) = (name.to_owned(), LossReason::Hole);
                    self.items.push_back(Item::Gap { channel, reason, missed, resumes_after });
                }
                Some(last.at(offset))
            }
            _ => None,
        };
        if let Some(position) = &position {
            channel.from = From::After(position.clone());
            channel.backoff.reset();
        }
        self.backoff.reset();
        self.items.push_back(Item::Publication { channel: name.to_owned(), position, data });
    }

    fn not_subscribed(&mut self, name: String, error: &CommandError, now: Duration) {
        let Some(channel) = self.channels.get_mut(&name) else { return };
        let said = words("subscribe", error);
        match error.code {
            109 if !channel.token_renewed => {
                channel.token_renewed = true;
                channel.state = ChannelState::Token;
                self.token_wanted = true;
            }
            101 | 103 | 109 => self.end(&name, End::new(EndKind::Denied, error.code, said)),
            102 => self.end(&name, End::new(EndKind::NotFound, error.code, said)),
            112 => {
                if let From::After(position) = &channel.from {
                    channel.unrecoverable = Some(position.clone());
                } else {
                    channel.from = From::Latest;
                }
                let retry_at = now.saturating_add(channel.backoff.next_delay());
                channel.state = ChannelState::Later { until: retry_at };
                self.items.push_back(Item::Refused { channel: name, reason: said, retry_at });
            }
            100 if channel.tries + 1 >= self.config.subscribe_tries => {
                let tries = channel.tries + 1;
                let meaning =
                    "the channel is not open, the token does not reach it, or the server is overloaded";
                let said = format!("{said}, {tries} times in a row: {meaning}");
                self.end(&name, End::new(EndKind::Failed, error.code, said));
            }
            code if code == 100 || error.temporary => {
                channel.tries += u32::from(code == 100);
                let retry_at = now.saturating_add(channel.backoff.next_delay());
                channel.state = ChannelState::Later { until: retry_at };
                self.items.push_back(Item::Refused { channel: name, reason: said, retry_at });
            }
            _ => self.end(&name, End::new(EndKind::Failed, error.code, said)),
        }
    }

    fn disconnected(&mut self, code: Option<u32>, reason: &str, now: Duration) {
        if !matches!(self.phase, Phase::Opening { .. } | Phase::Greeting { .. } | Phase::Live { .. }) {
            return;
        }
        let reason = one_line(reason);
        let words = match code {
            None => "the server closed the connection without a code".to_owned(),
            Some(code) if reason.is_empty() => format!("the server closed the connection with code {code}"),
            Some(code) => format!("the server closed the connection with code {code}: {reason}"),
        };
        match code {
            None | Some(1000..=1008 | 1010..=3499 | 4000..=4499) => self.lose(words, None, now),
            Some(code @ (3500 | 3507)) => self.stop(End::new(EndKind::Denied, code, words)),
            Some(code) => self.stop(End::new(EndKind::Failed, code, words)),
        }
    }

    fn lose(&mut self, reason: String, at_least: Option<Duration>, now: Duration) {
        let delay = self.backoff.next_delay();
        let delay = at_least.map_or(delay, |least| delay.max(self.backoff.spread(least)));
        let retry_at = now.saturating_add(delay);
        for channel in self.channels.values_mut() {
            channel.state = ChannelState::Wanted;
        }
        self.outgoing.clear();
        self.token_wanted = false;
        self.phase = Phase::Wait { until: retry_at };
        self.items.push_back(Item::Lost { reason, retry_at });
    }

    fn end(&mut self, name: &str, end: End) {
        self.channels.remove(name);
        self.items.push_back(Item::Ended { channel: name.to_owned(), end });
        if self.channels.is_empty() {
            self.phase = Phase::Idle;
            self.outgoing.clear();
        }
    }

    fn stop(&mut self, end: End) {
        for channel in std::mem::take(&mut self.channels).into_keys() {
            self.items.push_back(Item::Ended { channel, end: end.clone() });
        }
        self.outgoing.clear();
        self.phase = Phase::Stopped(end);
    }
}

fn words(what: &str, error: &CommandError) -> String {
    format!("{what} was answered with error {}: {}", error.code, one_line(&error.message))
}

/// Foreign text on one line, cut.
fn one_line(text: &str) -> String {
    text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests;
