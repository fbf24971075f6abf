//! Tickets from the relay itself.

use futures_util::future::BoxFuture;
use relay_transport::Secret;

use crate::calls::Client;
use crate::error::Error;
use crate::session::SessionSource;

/// Mints tickets at the relay itself: the refresher.
#[derive(Debug, Clone)]
pub struct RelaySessions(Client);

impl RelaySessions {
    /// Tickets of the relay that `client` talks to.
    pub fn new(client: Client) -> Self {
        Self(client)
    }
}

impl SessionSource for RelaySessions {
    fn session(&self) -> BoxFuture<'static, Result<Secret, Error>> {
        let client = self.0.clone();
        Box::pin(async move { Ok(Secret::new(client.create_session().await?.session_id)) })
    }
}
