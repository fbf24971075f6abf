//! Exit codes, and signals that end the program.

use std::fmt;
use std::process::ExitCode;

use crate::log;
use relay_durable::ErrorKind;
use relay_pods::{AnswerError, Error};
use relay_proto::error::chain;
use relay_state::pods::CursorError;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::escaped;

/// The result of a command, which is its exit code.
#[derive(Debug)]
pub(crate) enum Exit {
    /// 0: done.
    Done,
    /// 130: interrupted by Ctrl-C.
    Interrupted,
    /// 143: a client was stopped by SIGTERM.
    Terminated,
    /// 3: the requested object does not exist.
    NotFound(String),
    /// 4: a credential is missing or not accepted.
    NotAuthorised(String),
    /// 5: the awaited condition was not met in time.
    TimedOut(String),
    /// 1 to 7: an error, whose kind decides the code.
    Failed(anyhow::Error),
}

/// A wrong use of the command line: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The time was over before there was any connection: exit code 1.
#[derive(Debug)]
pub(crate) struct NeverConnected(pub(crate) String);

impl fmt::Display for NeverConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "never connected in this time: {}", self.0)
    }
}

impl std::error::Error for NeverConnected {}

/// What answers is no Pod Event Relay: exit code 1. Where a relay is asked for a list or a stream and the answer is
/// 404, the code is that of the status.
#[derive(Debug)]
pub(crate) struct NoPodRelay {
    /// What was asked.
    url: String,
    /// What came instead of a relay's answer.
    got: String,
}

impl NoPodRelay {
    pub(crate) fn new(url: &str, got: &str) -> Self {
        Self { url: url.to_owned(), got: got.to_owned() }
    }

    /// Of a 404 that is not an API server's. A relay answers every request of a client with something else, but for a
    /// pod that is not there.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Refused { url, problem, .. } if problem.status == 404 && !problem.from_kubernetes => {
                Some(Self::new(url, "404"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for NoPodRelay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.url.find("://").map_or(0, |scheme| scheme + 3);
        let path = self.url[host..].find('/').map_or(self.url.len(), |path| host + path);
        let (origin, path) = self.url.split_at(path);
        let got = &self.got;
        write!(
            f,
            "{origin} answers, but is no Pod Event Relay ({got} for {path}): check host, port and path of --url"
        )
    }
}

impl std::error::Error for NoPodRelay {}

/// A server, of any kind, refused an event stream, or answered with something else: exit code 1, 3 or 4.
#[derive(Debug)]
pub(crate) struct NoStream {
    pub(crate) url: String,
    pub(crate) status: u16,
    /// The server's error text, or a description of its answer.
    pub(crate) detail: Option<String>,
}

impl NoStream {
    fn advice(&self) -> Option<&'static str> {
        match self.status {
            401 => Some("give a credential: -H 'Authorization: Bearer TOKEN'"),
            403 => Some("the credential does not cover this address"),
            200 | 404 => Some("is this the address of an event stream?"),
            405 => Some("try another method, with -X"),
            _ => None,
        }
    }
}

impl fmt::Display for NoStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.url)?;
        let reason =
            http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        match (&self.detail, self.status) {
            (Some(detail), 200) => f.write_str(detail),
            (Some(detail), status) => write!(f, "refused with {status}: {detail}"),
            (None, status) => write!(f, "refused with {status} {}", reason.unwrap_or_default()),
        }
    }
}

impl std::error::Error for NoStream {}

/// It is unknown whether an append was accepted: exit code 7.
#[derive(Debug)]
pub(crate) struct OutcomeUnknown(pub(crate) String);

impl fmt::Display for OutcomeUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OutcomeUnknown {}

impl From<anyhow::Error> for Exit {
    fn from(error: anyhow::Error) -> Self {
        // The reader of the output is gone. This is not an error, and there is nobody to report it to.
        match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == std::io::ErrorKind::BrokenPipe => Self::Done,
            _ => Self::Failed(error),
        }
    }
}

impl Exit {
    /// Prints the message on stderr, and returns the code.
    pub(crate) fn report(self) -> ExitCode {
        let code = match &self {
            Self::Done => 0,
            Self::Interrupted => 130,
            Self::Terminated => 143,
            Self::NotFound(what) => {
                log::say(&format!("relay: {}", escaped(what)));
                3
            }
            Self::NotAuthorised(what) => {
                log::say(&format!("relay: {}", escaped(what)));
                4
            }
            Self::TimedOut(what) => {
                log::say(&format!("relay: {}", escaped(what)));
                5
            }
            Self::Failed(error) => {
                let text = match error.downcast_ref().and_then(NoPodRelay::of) {
                    Some(stranger) => stranger.to_string(),
                    None => {
                        let next = advice(error).map_or(String::new(), |next| format!(" ({next})"));
                        format!("{}{next}", chain(error.as_ref()))
                    }
                };
                log::say(&format!("relay: {}", escaped(&text)));
                code_of(error)
            }
        };
        log::flush();
        ExitCode::from(code)
    }
}

/// The exit code for an HTTP status that ended the command.
fn code_of_status(status: u16) -> u8 {
    match status {
        401 | 403 => 4,
        404 => 3,
        _ => 1,
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() {
        return 2;
    }
    if let Some(refused) = error.downcast_ref::<NoStream>() {
        return code_of_status(refused.status);
    }
    if let Some(CursorError::OtherFilter { .. }) = error.downcast_ref() {
        return 2;
    }
    if let Some(relay_kube::Error::Usage { .. }) = error.downcast_ref() {
        return 2;
    }
    if let Some(relay_autoconfig::End::Unauthorized(_)) = error.downcast_ref() {
        return 4;
    }
    if error.downcast_ref::<OutcomeUnknown>().is_some() {
        return 7;
    }
    if let Some(error) = durable_error(error) {
        return match error.kind() {
            ErrorKind::Usage => 2,
            ErrorKind::NotFound | ErrorKind::Gone => 3,
            ErrorKind::NotAuthorised => 4,
            ErrorKind::TimedOut => 5,
            ErrorKind::Exists
            | ErrorKind::Closed
            | ErrorKind::SequenceConflict
            | ErrorKind::ContentType
            | ErrorKind::Gap
            | ErrorKind::Fenced
            | ErrorKind::UsedBefore => 6,
            ErrorKind::Refused if error.status() == Some(409) => 6,
            ErrorKind::OutcomeUnknown => 7,
            _ => 1,
        };
    }
    if let Some(error) = error.downcast_ref::<relay_parsec::Error>() {
        return match error.kind() {
            relay_parsec::ErrorKind::Finished => 0,
            relay_parsec::ErrorKind::NotFound => 3,
            relay_parsec::ErrorKind::Denied => 4,
            _ => 1,
        };
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Usage { .. }) => 2,
        // The relay said that there will be no more events: this is a normal end, and it was reported.
        Some(Error::Finished { .. }) => 0,
        Some(error) => error.status().map_or(1, code_of_status),
        None => 1,
    }
}

const NOBODY: &str = "does the server run, and is this its address?";
pub(crate) const NOT_ONE: &str = "what answers there is no relay: check host, port and path of --url";
const NO_SERVICE: &str = "check namespace, name and port of --kube-service";
const NO_STREAMS: &str = "what answers there is no server of durable streams: check host, port and path of --url, or of the stream";
const NO_HTTP: &str =
    "what answers there speaks no HTTP, or hangs up: check http or https, host and port of --url";
const IN_FRONT: &str = "that is the word of what stands in front of the relay: does the relay behind it run?";

/// Advice about a failed connection, chosen by the text of its error.
pub(crate) fn advice_on(text: &str) -> Option<&'static str> {
    let says = |any: &[&str]| any.iter().any(|part| text.contains(part));
    let is_gateways = |status: &str| {
        // Of 503, a server itself may be the author.
        says(&[&format!("with status {status}")])
            || status != "503" && says(&[&format!(": status {status}")])
            || says(&[&format!("with {status}: ")]) && says(&["are no problem document"])
    };
    if says(&[
        "an HTML page",
        "text/html",
        "not text/event-stream",
        "line 1 of the list: ",
        "names no status",
        ", and no JSON",
    ]) {
        Some(NOT_ONE)
    } else if says(&["invalid HTTP version parsed", "connection closed before message completed"]) {
        Some(NO_HTTP)
    } else if ["502", "503", "504"].into_iter().any(is_gateways) {
        Some(IN_FRONT)
    } else if says(&["cannot connect to"]) && !says(&["certificate", "speak TLS"]) {
        Some(NOBODY)
    } else {
        None
    }
}

/// Whether the server that answered is not a relay.
pub(crate) fn is_no_relay(error: &anyhow::Error) -> bool {
    advice(error) == Some(NOT_ONE)
}

/// Advice about an error, if the error itself does not say what to do.
fn advice(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(relay_parsec::Error::SequenceConflict { .. }) = error.downcast_ref() {
        return Some("--sequence-file FILE keeps the number from one run to the next");
    }
    if let Some(refused) = error.downcast_ref::<NoStream>() {
        return refused.advice();
    }
    let in_use = |io: &std::io::Error| io.kind() == std::io::ErrorKind::AddrInUse;
    if error.chain().any(|cause| cause.downcast_ref().is_some_and(in_use)) {
        return Some("another server listens there: give another address with --listen HOST:PORT");
    }
    // A list that ends early comes from a relay; an answer that is not a list comes from another server.
    let is_strange = |error: &Error| match error {
        Error::Answer { source, .. } => !matches!(source, AnswerError::List(_)),
        _ => false,
    };
    // Errors of retried connections are only texts at this point.
    let text = chain(error.as_ref()).to_string();
    match advice_on(&text) {
        Some(NOT_ONE) if durable_error(error).is_some() => return Some(NO_STREAMS),
        Some(advice) => return Some(advice),
        None => {}
    }
    if error.downcast_ref::<NeverConnected>().is_some() {
        return Some(NOBODY);
    }
    if durable_error(error).is_some_and(|error| error.kind() == ErrorKind::NotFound) {
        return Some("is this its path? relay durable create makes a stream");
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Refused { problem, .. }) => match problem.status {
            // The request did not reach the relay, so the relay's own token would not help.
            401 if problem.from_kubernetes => Some("give a credential that the API server knows"),
            403 if problem.from_kubernetes => {
                Some("the API server's account may not reach services/proxy there")
            }
            410 if problem.detail.as_deref().is_some_and(|detail| detail.contains("since_time")) => {
                Some("give a shorter --since, or none for all that is kept")
            }
            401 => Some("give a token that the relay knows, with --token-file or --token"),
            403 => Some("the token does not cover this: ask for less with -n, or take another token"),
            404 if problem.from_kubernetes => Some(NO_SERVICE),
            _ => None,
        },
        Some(error) if is_strange(error) => Some(NOT_ONE),
        _ => None,
    }
}

fn durable_error(error: &anyhow::Error) -> Option<&relay_durable::Error> {
    error
        .downcast_ref()
        .or_else(|| error.downcast_ref::<std::sync::Arc<relay_durable::Error>>().map(AsRef::as_ref))
}

/// Waits for Ctrl-C or SIGTERM, and returns which one came. They are caught from the call on, before the first poll.
pub(crate) fn signalled() -> impl Future<Output = Exit> + Send + use<> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async move {
        let (mut interrupt, mut terminate) = match signals {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                return Exit::Failed(anyhow::Error::new(error).context("signals"));
            }
        };
        tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        }
    }
}
