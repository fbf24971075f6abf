//! A conversation against the pure machines: no socket, no clock, every line in the order of the file.

use std::collections::VecDeque;
use std::time::Duration;

use relay_proto::eventsource::{Action, Config, End, Item, Machine, ServerRetry};
use relay_proto::http::ResponseHead;
use relay_proto::pods::{EventHash, InvalidHash, ListDecoder, ListFormat, ListLimits, Message, Undecodable};
use relay_proto::retry::Jitter;
use relay_proto::sse::{Frame, Limits};
use relay_state::pods::{Replay, ReplayMode, ReplayOptions, SeedVerdict, Step as Ask};
use serde_json::json;

use crate::conversation::{Connect, Conversation, Line, List, Mode, Step};
use crate::trace::{Runner, StreamStatus, Trace};

/// Plays a conversation against [`Machine`] and [`Replay`] alone.
///
/// # Errors
/// The difference between the conversation and the requests and snapshots.
pub fn play_pure(conversation: &Conversation) -> Result<(), String> {
    let options = &conversation.header.options;
    let since = options.since.as_deref().map(EventHash::new).transpose();
    let since = since.map_err(|error: InvalidHash| format!("since: {error}\n"))?;
    let mut run = Run::new(conversation, since);
    for line in &conversation.lines {
        if let Err(surprise) = run.line(line) {
            run.trace.surprise(&surprise);
            return run.trace.verdict(Runner::Pure);
        }
    }
    run.goes_away();
    run.trace.verdict(Runner::Pure)
}

struct Run<'c> {
    fold: Replay,
    machine: Machine,
    now: Duration,
    /// Whether the client thinks that a connection is open.
    open: bool,
    /// Items that were read from the connection and are not folded yet, because a list is awaited.
    ahead: VecDeque<Incoming>,
    closing: bool,
    start: Option<&'static str>,
    trace: Trace<'c>,
}

enum Incoming {
    Message(Box<Message>),
    End(String),
}

/// The request or input that the fold waits for.
enum Awaits {
    List(Option<EventHash>),
    Stream,
}

impl<'c> Run<'c> {
    fn new(conversation: &'c Conversation, since: Option<EventHash>) -> Self {
        let options = &conversation.header.options;
        let narrowed =
            !options.namespaces.is_empty() || !options.labels.is_empty() || options.token.is_some();
        let mode = match conversation.header.mode {
            Mode::Replay => ReplayMode::Phases,
            Mode::State => ReplayMode::State,
        };
        let fold = ReplayOptions::default()
            .mode(mode)
            .since(since)
            .narrowed(narrowed)
            .apply_backfill(options.apply_backfill)
            .yield_bookmarks(options.yield_bookmarks);
        let data = options.max_event_bytes.unwrap_or(1 << 20);
        let config = Config::default()
            .jitter(Jitter::None)
            .server_retry(ServerRetry::Ignore)
            .healthy_after(None)
            .use_last_event_id(false)
            .limits(Limits::default().data(data).line(data.saturating_add(64)));
        Self {
            fold: Replay::new(fold),
            machine: Machine::new(config, 0),
            now: Duration::ZERO,
            open: false,
            ahead: VecDeque::new(),
            closing: false,
            start: options.start_latest.then_some("latest"),
            trace: Trace::new(conversation),
        }
    }

    /// Plays one line. An error means that the conversation cannot continue.
    fn line(&mut self, line: &Line) -> Result<(), String> {
        match &line.step {
            Step::Expect(_) => return Ok(()),
            Step::List(list) => self.list(list)?,
            Step::Connect(connect) => self.connect(connect)?,
            Step::Bytes(bytes) => {
                self.trace.reads(line.number);
                if self.open {
                    self.machine.handle_bytes(bytes.clone(), self.now);
                    self.pump()?;
                }
            }
            Step::Time(time) => {
                self.trace.reads(line.number);
                self.pass(*time)?;
            }
            Step::Cut => {
                self.trace.reads(line.number);
                self.cut()?;
            }
            Step::ClientEnds => {
                if self.open {
                    return Err("the client keeps the connection".into());
                }
                self.trace.reads(line.number);
            }
        }
        self.settle();
        Ok(())
    }

    fn list(&mut self, list: &List) -> Result<(), String> {
        let Awaits::List(at_least) = self.settle() else {
            return Err("no list is asked for".into());
        };
        self.trace.asks_list(at_least.as_ref().map(EventHash::as_str));
        if list.status != 200 {
            return Ok(());
        }
        let format = ListFormat::from_content_type(&list.content_type);
        let mut decoder = ListDecoder::new(format, ListLimits::default());
        // An unreadable list is requested again.
        let Ok(read) = decoder.feed(&list.body).and_then(|()| decoder.finish()) else { return Ok(()) };
        match self.fold.handle_seed(read) {
            Ok(SeedVerdict::Taken | SeedVerdict::TooOld) => Ok(()),
            Ok(other) => Err(format!("the list was answered with {other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn connect(&mut self, connect: &Connect) -> Result<(), String> {
        if !matches!(self.settle(), Awaits::Stream) || self.open {
            return Err("no connection is asked for".into());
        }
        let since = self.fold.resume().cloned();
        let start = if since.is_none() { self.start } else { None };
        self.trace.connects(since.as_ref().map(EventHash::as_str), start);
        loop {
            match self.machine.poll(self.now) {
                Action::Wait(until) => self.now = until,
                Action::Connect(_) => break,
                Action::Item(_) => {}
                other => return Err(format!("instead of an attempt the machine wants {other:?}")),
            }
        }
        let head = ResponseHead::new(connect.status, "http://relay.example/events/stream");
        self.machine.handle_response(head.header("content-type", b"text/event-stream"), self.now);
        if connect.status == 200 {
            self.open = true;
        } else {
            self.machine.handle_end(End::Eof, self.now);
        }
        self.pump()
    }

    /// The relay ends the connection. Whatever the fold waits for, it learns of the end at once, after the items that
    /// were read before.
    fn cut(&mut self) -> Result<(), String> {
        if self.open {
            self.machine.handle_end(End::Eof, self.now);
            self.pump()?;
        }
        if let [Incoming::End(cause)] = self.ahead.make_contiguous() {
            let cause = cause.clone();
            self.ahead.clear();
            self.fold.handle_dropped(&cause);
        }
        Ok(())
    }

    /// Lets time pass, from deadline to deadline, like the timer of a driver.
    fn pass(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now + time;
        while self.open
            && let Action::Bytes(Some(deadline)) = self.machine.poll(self.now)
            && deadline <= end
        {
            self.now = deadline;
            self.machine.handle_timeout(deadline);
            self.pump()?;
        }
        self.now = self.now.max(end);
        Ok(())
    }

    /// Takes what the machine has decoded.
    fn pump(&mut self) -> Result<(), String> {
        loop {
            match self.machine.poll(self.now) {
                Action::Item(Item::Opened) => {}
                Action::Item(Item::Ended(ended)) => {
                    self.open = false;
                    let closing = std::mem::take(&mut self.closing);
                    let cause = if closing { "the relay is closing".into() } else { ended.cause.to_string() };
                    self.ahead.push_back(Incoming::End(cause));
                }
                Action::Item(Item::Frame(Frame::Event(event))) => {
                    let message = Message::decode(event.kind(), event.last_event_id(), event.data());
                    self.read(message);
                }
                Action::Item(Item::Frame(Frame::Oversized(block))) => {
                    let (kind, id) = (block.kind(), block.last_event_id());
                    let message = Undecodable::oversized(kind, id, block.size(), "an event");
                    self.read(Message::Undecodable(message));
                }
                Action::Item(_) => {}
                Action::Stop(stop) => return Err(format!("the machine stops: {stop:?}")),
                _ => return Ok(()),
            }
        }
    }

    fn read(&mut self, message: Message) {
        self.closing = matches!(message, Message::Closing(_));
        if let Message::Connected(connected) = &message
            && let Some(seconds) = connected.heartbeat_seconds
        {
            self.machine.set_idle(Duration::try_from_secs_f64(3.0 * seconds).ok());
        }
        self.ahead.push_back(Incoming::Message(Box::new(message)));
    }

    /// Shows all pending snapshots and folds the items that were read, up to the next request.
    fn settle(&mut self) -> Awaits {
        loop {
            match self.fold.poll() {
                Ask::Snapshot(snapshot) => {
                    let acknowledged = self.fold.acknowledged().cloned();
                    self.trace.shows(&snapshot, &StreamStatus { acknowledged, freshness: None });
                }
                Ask::Reconnect(cause) => {
                    self.machine.restart(cause, self.now);
                    self.open = false;
                    self.closing = false;
                    self.ahead.clear();
                }
                Ask::Seed { at_least } => return Awaits::List(at_least),
                _ => match self.ahead.pop_front() {
                    Some(Incoming::Message(message)) => {
                        if let Err(error) = self.fold.handle_message(*message) {
                            self.trace.surprise(&error.to_string());
                        }
                    }
                    Some(Incoming::End(cause)) => self.fold.handle_dropped(&cause),
                    None => return Awaits::Stream,
                },
            }
        }
    }

    fn goes_away(&mut self) {
        if let Err(surprise) = self.cut() {
            self.trace.surprise(&surprise);
        }
        self.settle();
        let (continuity, cache) = (self.fold.continuity().counts(), self.fold.cache().counts());
        let counts = json!({
            "duplicates": continuity.duplicates, "holes": continuity.holes, "gaps": continuity.gaps,
            "undecodable": continuity.undecodable, "unknown": continuity.unknown,
            "superseded": cache.superseded, "unknown_types": cache.unknown_types,
            "stale_versions": cache.stale_versions, "late": cache.late, "replaced": cache.replaced,
            "odd": cache.odd,
        });
        let acknowledged = self.fold.acknowledged().cloned();
        self.trace.ends(acknowledged.as_ref(), &counts);
    }
}
