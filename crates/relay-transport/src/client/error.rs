//! What went wrong, by who can do something about it.

use std::error::Error as StdError;
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
    /// A setting cannot be used: a file with certificates, say.
    #[error("{what}")]
    Config {
        /// Which setting, and what is wrong with it.
        what: String,
        /// The cause, if there is one beyond the words.
        source: Option<BoxError>,
    },
    /// A token could not be had.
    #[error("no credentials: {what}")]
    Credentials {
        /// Where they should have come from.
        what: String,
        /// What that place said.
        source: Option<BoxError>,
    },
    /// The peer could not be reached: name look-up, TCP, proxy or TLS.
    #[error("cannot connect to {url}")]
    Connect {
        /// Who.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// No response head came in time.
    #[error("no response from {url} within {after:?}")]
    Timeout {
        /// From whom.
        url: String,
        /// The time it was given.
        after: Duration,
    },
    /// The connection broke, or the peer does not speak HTTP.
    #[error("exchange with {url} failed")]
    Exchange {
        /// With whom.
        url: String,
        /// How.
        source: BoxError,
    },
    /// The peer redirected to nowhere, too often, or to where this request must not go.
    #[error("redirect by {url} not followed: {reason}")]
    Redirect {
        /// The URL that redirected.
        url: String,
        /// Why that was not followed.
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

/// A URL as it may be shown: the query and user information may hold secrets.
pub(crate) fn shown(uri: &http::Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{}://{host}{}", uri.scheme_str().unwrap_or("?"), uri.path())
}
