//! One life of a client: what is known, and what the client says about itself in between.

use std::collections::VecDeque;
use std::time::Duration;

use relay_proto::autoconfig::{Message, PutContent};

use super::event::Event;
use super::reducer::{Deadline, Environments, Now, Outcome};
use super::rules::{Rule, rule};
use super::status::{State, Status, StatusError};

/// What the driver does with the connection after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Read on. The event was understood: the connection was worth it.
    Read,
    /// End the connection, and tell [`Session::handle_ended`]. It is known why, and an error given then is not looked
    /// at.
    Restart,
}

/// [`Environments`], and the [`Status`] of their client told in its places:
///
/// ```text
///   status                                        first of all
///   added.. received_all, status                  a cache was read
///   status                                        connected
///   changes of an event, then status              if the event changed it, or is an error
///   status                                        the connection, or an attempt at one, has ended
///
///   Initializing --understood--> Valid --failure--> Interrupted
///        |                         ^                    |
///        |                         +-----understood-----+
///        +---------------- Off <-- from everywhere, for good
/// ```
///
/// After every call, take what [`poll`](Self::poll) gives until there is nothing left.
#[derive(Debug)]
pub struct Session {
    environments: Environments,
    status: Status,
    /// Why the connection is being ended, if that is for what was sent.
    ending: Option<Ending>,
    events: VecDeque<Event>,
    /// A configuration was complete, and the status does not say so yet.
    complete: bool,
    /// Something is known that was not when it was asked last.
    unsaved: bool,
}

#[derive(Debug)]
enum Ending {
    Error(StatusError),
    /// The service has asked for it.
    Asked,
}

impl Session {
    /// With nothing known, or what was set up.
    pub fn new(environments: Environments) -> Self {
        let status = Status::default();
        let events = VecDeque::from([Event::Status(status.clone())]);
        Self { environments, status, ending: None, events, complete: false, unsaved: false }
    }

    /// What is known.
    pub fn environments(&self) -> &Environments {
        &self.environments
    }

    /// How it fares.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// When to call [`handle_time`](Self::handle_time) without anything else.
    pub fn next_deadline(&self) -> Deadline {
        self.environments.next_deadline()
    }

    /// The next thing to tell.
    pub fn poll(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 64 {
            self.events = VecDeque::new();
        }
        event
    }

    /// Takes what was kept of an earlier time; to be called before anything else.
    pub fn restore(&mut self, content: PutContent<'_>, now: Now) {
        let events = self.environments.restore(content, now);
        self.tell(events);
        self.unsaved = false;
        self.change(None, |status| status.configured = true);
    }

    /// Whether what is known was changed, or confirmed by a put, since this was asked last: it is to be kept before the
    /// events about it are told.
    pub fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// The service answered with a stream.
    pub fn handle_opened(&mut self) {
        self.change(None, |status| {
            status.connected = true;
            status.retry = None;
        });
    }

    /// The stream brought an event.
    pub fn handle_event(&mut self, name: &str, data: &str, now: Now) -> Next {
        let message = match Message::decode(name, data) {
            Ok(message) => message,
            Err(error) => {
                let events = self.environments.handle_time(now);
                self.tell(events);
                return self.refuse(StatusError::data(error.to_string()));
            }
        };
        let applied = self.environments.apply(message, now);
        self.tell(applied.events);
        let error = match applied.outcome {
            Outcome::Refused(reason) => {
                return self.refuse(StatusError::data(format!("a {name} was refused: {reason}")));
            }
            Outcome::Reconnect => {
                self.ending = Some(Ending::Asked);
                return Next::Restart;
            }
            Outcome::Partly(refused) => {
                Some(StatusError::data(format!("{refused} of the environments of a put were refused")))
            }
            Outcome::Fine | Outcome::Ignored => None,
        };
        self.change(error, |status| {
            if rule(Rule::EventIsLife) {
                status.state = State::Valid;
            }
        });
        Next::Read
    }

    /// The stream brought an event that is over a limit.
    pub fn handle_oversized(&mut self, message: impl Into<String>) -> Next {
        self.refuse(StatusError::data(message))
    }

    fn refuse(&mut self, error: StatusError) -> Next {
        self.ending = Some(Ending::Error(error));
        Next::Restart
    }

    /// The connection, or the attempt at one, has ended; the next one is in so long.
    pub fn handle_ended(&mut self, error: StatusError, retry: Duration) {
        self.environments.handle_disconnect();
        let error = match self.ending.take() {
            Some(Ending::Asked) if rule(Rule::ReconnectIsNone) => None,
            Some(Ending::Asked) => Some(error),
            Some(Ending::Error(error)) => Some(error),
            None => Some(error),
        };
        let failed = error.is_some();
        self.change(error, |status| {
            status.connected = false;
            status.retry = Some(retry);
            if failed && status.state == State::Valid && rule(Rule::FailureInterrupts) {
                status.state = State::Interrupted;
            }
        });
    }

    /// It is over, and this is why, unless its owner has ended it.
    pub fn handle_stopped(&mut self, error: Option<StatusError>) {
        self.environments.handle_disconnect();
        self.change(error, |status| {
            status.connected = false;
            status.retry = None;
            status.state = State::Off;
        });
    }

    /// Time has passed.
    pub fn handle_time(&mut self, now: Now) {
        let events = self.environments.handle_time(now);
        self.tell(events);
        self.change(None, |_| {});
    }

    fn tell(&mut self, events: Vec<Event>) {
        self.complete |=
            rule(Rule::CompleteIsTold) && events.iter().any(|event| matches!(event, Event::ReceivedAll(_)));
        self.unsaved |= events.iter().any(|event| !matches!(event, Event::Refused(_) | Event::Held(_)));
        self.events.extend(events);
    }

    /// Tells a change that somebody could see, and every error.
    fn change(&mut self, error: Option<StatusError>, change: impl FnOnce(&mut Status)) {
        let seen = |status: &Status| (status.state, status.connected, status.configured);
        let before = seen(&self.status);
        change(&mut self.status);
        self.status.configured |= std::mem::take(&mut self.complete);
        let failed = error.is_some();
        self.status.error = error.or(self.status.error.take());
        if (failed && rule(Rule::ErrorsAreTold)) || seen(&self.status) != before {
            self.events.push_back(Event::Status(self.status.clone()));
        }
    }
}
