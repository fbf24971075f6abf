//! Errors of requests, by who can correct them.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use relay_proto::error::chain;

pub(crate) type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a request, or the preparation of one, failed.
///
/// URLs in messages have neither user information nor a query. The source is kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's URL cannot be used.
    #[error("not a usable URL: {reason}")]
    Url {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting cannot be used, for example a file of certificates.
    #[error("{what}")]
    Config {
        /// Which setting, and what is wrong with it.
        what: String,
        /// The cause, if there is one.
        source: Option<BoxError>,
    },
    /// A token was not available.
    #[error("no credentials: {what}")]
    Credentials {
        /// Its source.
        what: String,
        /// The error of the source.
        source: Option<BoxError>,
    },
    /// The peer could not be reached: name look-up, TCP, proxy or TLS.
    #[error("cannot connect to {url}")]
    Connect {
        /// URL of the peer.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// No response head came in time.
    #[error("no response from {url} within {after:?}")]
    Timeout {
        /// URL of the peer.
        url: String,
        /// The time limit.
        after: Duration,
    },
    /// The connection broke, or the peer does not speak HTTP.
    #[error("exchange with {url} failed")]
    Exchange {
        /// URL of the peer.
        url: String,
        /// How.
        source: BoxError,
    },
    /// The peer redirected to nowhere, too often, or to where this request must not go.
    #[error("redirect by {url} not followed: {reason}")]
    Redirect {
        /// The URL that redirected.
        url: String,
        /// Why the redirect was not followed.
        reason: String,
    },
}

impl Error {
    /// Whether the same request may succeed later without the caller changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Url { .. } | Self::Config { .. } => false,
            Self::Credentials { .. }
            | Self::Connect { .. }
            | Self::Timeout { .. }
            | Self::Exchange { .. }
            | Self::Redirect { .. } => true,
        }
    }

    /// The error and its sources on one line: see [`chain`].
    pub fn line(&self) -> String {
        chain(self).to_string()
    }
}

/// An error of the connection pool without the pool's own text (`client error (Connect)`), which only names an internal
/// step. The wrapped error says what happened.
#[derive(Debug)]
pub(crate) struct Pooled(pub(crate) hyper_util::client::legacy::Error);

impl Pooled {
    /// The error that says what happened.
    fn happened(&self) -> &(dyn StdError + 'static) {
        self.0.source().unwrap_or(&self.0)
    }
}

impl fmt::Display for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.happened(), f)
    }
}

impl StdError for Pooled {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.happened().source()
    }
}

/// A URL as it may be shown: the query and user information may hold secrets.
pub(crate) fn shown(uri: &http::Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("?"), uri.path())
}
