//! Errors, by who can correct them.

use std::time::Duration;

use relay_proto::eventsource::Stop;
use relay_proto::pods::{InvalidPage, InvalidPod, InvalidSession, ListError, Undecodable};
use relay_proto::problem::Problem;

/// An error of a call or a stream. It names the URL without query and user info, which may be secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The relay, or a Kubernetes API server in front of it, refused: the response had a status other than success.
    #[error("{url}: {}refused with {problem}", if problem.from_kubernetes { "" } else { "the relay " })]
    Refused {
        /// The request.
        url: String,
        /// The problem, and who sent it.
        problem: Box<Problem>,
        /// How long the relay asks to wait.
        retry_after: Option<Duration>,
    },
    /// The relay's response cannot be used.
    #[error("{url}: the answer cannot be used")]
    Answer {
        /// The request.
        url: String,
        /// The cause.
        source: AnswerError,
    },
    /// The relay ended the stream for good, with status 204.
    #[error("{url}: the relay has nothing more to send (204)")]
    Finished {
        /// The request.
        url: String,
    },
    /// A message of the stream cannot be read. On raw streams only, and the stream goes on.
    #[error("{url}: {message}")]
    Message {
        /// The stream.
        url: String,
        /// The known parts of the message.
        message: Undecodable,
    },
    /// A mistake of the caller: a parameter, a URL, a credential that cannot be sent.
    #[error("{what}")]
    Usage {
        /// What is wrong.
        what: String,
    },
    /// A response took longer than the client allows.
    #[error("{url}: over the limit of {limit:?} without an answer")]
    TooLate {
        /// The request.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// A response is larger than the client allows.
    #[error("{url}: over the limit of {limit} bytes of an answer")]
    TooLarge {
        /// The request.
        url: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection could not be made or broke.
    #[error("{}", broken(url, source.as_ref()))]
    Transport {
        /// The request.
        url: String,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The application's own source of credentials or sessions failed.
    #[error("the request was not sent")]
    Credential {
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a response cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A list that ended early or is malformed.
    #[error(transparent)]
    List(#[from] ListError),
    /// A history page that is malformed.
    #[error(transparent)]
    Page(#[from] InvalidPage),
    /// A pod that is malformed.
    #[error(transparent)]
    Pod(#[from] InvalidPod),
    /// A session without an id.
    #[error(transparent)]
    Session(#[from] InvalidSession),
    /// A page of the history that does not lead on: its cursor was seen before.
    #[error("the pages of the history do not move on: {0}")]
    Stuck(String),
    /// Another kind of content, for example a page of a proxy.
    #[error("{0}")]
    Unexpected(String),
}

/// Who can correct an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blame {
    /// The relay, or a proxy in front of it.
    Relay,
    /// The caller.
    Caller,
    /// A limit of this client.
    Limit,
    /// The network.
    Transport,
}

/// Names the URL, unless the source does.
fn broken(url: &str, source: &(dyn std::error::Error + 'static)) -> String {
    let told = source.to_string().contains(url);
    format!("{}the connection failed", if told { String::new() } else { format!("{url}: ") })
}

impl Error {
    /// Who can correct it.
    pub fn blame(&self) -> Blame {
        match self {
            Self::Refused { problem, .. } if matches!(problem.status, 408 | 425 | 429) => Blame::Relay,
            Self::Refused { problem, .. } if matches!(problem.status, 400..=499) => Blame::Caller,
            Self::Refused { .. } | Self::Answer { .. } | Self::Finished { .. } | Self::Message { .. } => {
                Blame::Relay
            }
            Self::Usage { .. } | Self::Credential { .. } => Blame::Caller,
            Self::TooLate { .. } | Self::TooLarge { .. } => Blame::Limit,
            Self::Transport { .. } => Blame::Transport,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => matches!(problem.status, 408 | 425 | 429 | 500 | 502..=599),
            Self::Answer { .. } | Self::TooLate { .. } | Self::TooLarge { .. } | Self::Transport { .. } => {
                true
            }
            Self::Finished { .. } | Self::Message { .. } | Self::Usage { .. } | Self::Credential { .. } => {
                false
            }
        }
    }

    /// The HTTP status, when the relay refused with one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { problem, .. } => Some(problem.status),
            Self::Finished { .. } => Some(204),
            _ => None,
        }
    }

    /// How long the relay asked to wait before another attempt.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage { what: what.into() }
    }

    pub(crate) fn from_stop(url: &str, stop: Stop) -> Self {
        match stop {
            Stop::NoContent => Self::Finished { url: url.into() },
            Stop::Status { status, body } => {
                let problem = Box::new(Problem::from_body(status, &body));
                Self::Refused { url: url.into(), problem, retry_after: None }
            }
            other => Self::Transport { url: url.into(), source: Box::new(other) },
        }
    }
}
