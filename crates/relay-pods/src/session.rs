//! Single-use tickets: one is needed before each connect when authentication is on.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use relay_transport::Secret;

use crate::error::Error;

/// Gives a fresh ticket before each connect.
///
/// The default is [`RelaySessions`](crate::RelaySessions); an application with another source of tickets (for
/// example a login service) implements its own.
pub trait SessionSource: Send + Sync + 'static {
    /// A ticket that was not used before.
    ///
    /// # Errors
    /// After an error whose [`Error::is_retryable`] is true the connect is retried later; any other ends the
    /// stream.
    fn session(&self) -> BoxFuture<'static, Result<Secret, Error>>;
}

/// The source of tickets.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum SessionMode {
    /// From the relay, if the client has a token. The default.
    #[default]
    Auto,
    /// From the relay, with or without a token.
    Always,
    /// No tickets: the token, if there is one, goes into the stream's request as a header.
    Off,
    /// From the application.
    Source(Arc<dyn SessionSource>),
}

impl fmt::Debug for SessionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "Auto",
            Self::Always => "Always",
            Self::Off => "Off",
            Self::Source(_) => "Source",
        })
    }
}
