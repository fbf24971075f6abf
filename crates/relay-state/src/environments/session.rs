//! The session of a client: environments, and the client's status between the changes.

use std::collections::VecDeque;
use std::time::Duration;

use relay_proto::autoconfig::{Message, PutContent};

use super::event::Event;
use super::reducer::{Deadline, Environments, Now, Outcome};
use super::rules::{Rule, rule};
use super::status::{State, Status, StatusError};

/// The driver's next step after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// Continue to read. The event was understood, so the connection made progress.
    Read,
    /// End the connection, and call [`Session::handle_ended`]. The reason is known, so the error of that call is
    /// ignored.
    Restart,
}

/// [`Environments`], with the [`Status`] of their client between the changes:
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
/// After every call, call [`poll`](Self::poll) until it returns `None`.
#[derive(Debug)]
pub struct Session {
    environments: Environments,
    status: Status,
    /// Why the connection is being ended, if the received data is the reason.
    ending: Option<Ending>,
    events: VecDeque<Event>,
    /// Whether a complete configuration has arrived that the status does not show yet.
    complete: bool,
    /// The state has changed since [`Session::take_unsaved`] was called last.
    unsaved: bool,
}

#[derive(Debug)]
enum Ending {
    Error(StatusError),
    /// The service has asked for a reconnect.
    Asked,
}

impl Session {
    /// A session with these environments, which are usually empty.
    pub fn new(environments: Environments) -> Self {
        let status = Status::default();
        let events = VecDeque::from([Event::Status(status.clone())]);
        Self { environments, status, ending: None, events, complete: false, unsaved: false }
    }

    /// The environments.
    pub fn environments(&self) -> &Environments {
        &self.environments
    }

    /// The status.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// When to call [`handle_time`](Self::handle_time) without another input.
    pub fn next_deadline(&self) -> Deadline {
        self.environments.next_deadline()
    }

    /// The next event.
    pub fn poll(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > 64 {
            self.events = VecDeque::new();
        }
        event
    }

    /// Restores a saved state; to be called before any other input.
    pub fn restore(&mut self, content: PutContent<'_>, now: Now) {
        let events = self.environments.restore(content, now);
        self.tell(events);
        self.unsaved = false;
        self.change(None, |status| status.configured = true);
    }

    /// Whether the state was changed, or confirmed by a put, since the last call: save it before handing out the
    /// events.
    pub fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// The response is a stream.
    pub fn handle_opened(&mut self) {
        self.change(None, |status| {
            status.connected = true;
            status.retry = None;
        });
    }

    /// The stream had an event.
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

    /// The stream had an event over a limit.
    pub fn handle_oversized(&mut self, message: impl Into<String>) -> Next {
        self.refuse(StatusError::data(message))
    }

    fn refuse(&mut self, error: StatusError) -> Next {
        self.ending = Some(Ending::Error(error));
        Next::Restart
    }

    /// The connection, or the attempt at one, has ended; `retry` is the delay until the next.
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

    /// The stream has ended for good, with this error unless the caller ended it.
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

    /// Changes the status, and emits it when it differs or has an error.
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
