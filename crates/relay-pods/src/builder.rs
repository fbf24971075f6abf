//! Builders of clients.

use std::sync::Arc;
use std::time::Duration;

use relay_proto::error::chain;
use relay_proto::pods::{Endpoints, ListLimits};
use relay_transport::{BaseUrl, HttpClient, Secret, TokenSource};

use crate::calls::{Client, Settings};
use crate::error::Error;
use crate::request::{Outer, Requests};
use crate::session::SessionMode;

impl Client {
    /// Begins a client of the relay at `base_url`, which may carry a path prefix and is kept as given.
    pub fn builder(base_url: impl Into<String>) -> ClientBuilder {
        ClientBuilder::new(base_url)
    }
}

/// Options of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    base_url: String,
    http: Option<HttpClient>,
    endpoints: Endpoints,
    client_id: Option<String>,
    settings: Settings,
}

impl ClientBuilder {
    fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            http: None,
            endpoints: Endpoints::default(),
            client_id: None,
            settings: Settings {
                token: None,
                outer: Outer::None,
                sessions: SessionMode::Auto,
                request_timeout: Duration::from_secs(30),
                list_timeout: Duration::from_secs(300),
                list_idle_timeout: Duration::from_secs(30),
                list_limits: ListLimits::default(),
            },
        }
    }

    /// Sets the relay's token. Default: none.
    #[must_use]
    pub fn token(mut self, token: impl Into<Arc<str>>) -> Self {
        self.settings.token = Some(TokenSource::fixed(Secret::new(token)));
        self
    }

    /// Sets the source of the relay's token, such as a file that is read again when it changes.
    #[must_use]
    pub fn token_source(mut self, token: TokenSource) -> Self {
        self.settings.token = Some(token);
        self
    }

    /// Sets a file that holds the relay's token and is read again when it changes.
    #[must_use]
    pub fn token_file(self, path: impl Into<std::path::PathBuf>) -> Self {
        self.token_source(TokenSource::file(path))
    }

    /// Sets the credential of a proxy in front of the relay. `Authorization` is then for the proxy, and the relay's
    /// token is sent in `X-Relay-Token`. Default: none.
    #[must_use]
    pub fn outer_token_source(mut self, token: TokenSource) -> Self {
        self.settings.outer = Outer::Bearer(token);
        self
    }

    /// As [`outer_token_source`](Self::outer_token_source), for a proxy that takes no bearer token: the source
    /// gives the whole `Authorization`, such as `Basic dXNlcjpwYXNzd29yZA==`.
    #[must_use]
    pub fn outer_authorization_source(mut self, authorization: TokenSource) -> Self {
        self.settings.outer = Outer::Header(authorization);
        self
    }

    /// Reserves `Authorization` for a proxy in front of the relay, also without a credential for it (it may
    /// authenticate us by certificate): the relay's token is sent in `X-Relay-Token`. An outer credential implies
    /// it.
    #[must_use]
    pub fn behind_proxy(mut self) -> Self {
        if matches!(self.settings.outer, Outer::None) {
            self.settings.outer = Outer::Known;
        }
        self
    }

    /// Sets the name of this consumer in the relay's metrics, limits and logs: 1 to 128 visible ASCII characters.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// Sets the source of session tickets. Default: the relay, if there is a token.
    #[must_use]
    pub fn sessions(mut self, sessions: SessionMode) -> Self {
        self.settings.sessions = sessions;
        self
    }

    /// Sets paths and query names of a foreign relay.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// Shares connections and TLS set-up with other clients: see [`ClientFactory`].
    #[must_use]
    pub fn http(mut self, http: HttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// Sets the time limit of a request that is neither a list nor a stream. Default 30 s.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.settings.request_timeout = limit;
        self
    }

    /// Sets the time limit of a list, and of a pause in it. Default 5 min and 30 s.
    #[must_use]
    pub fn list_timeouts(mut self, whole: Duration, idle: Duration) -> Self {
        (self.settings.list_timeout, self.settings.list_idle_timeout) = (whole, idle);
        self
    }

    /// Sets the bounds of a list.
    #[must_use]
    pub fn list_limits(mut self, limits: ListLimits) -> Self {
        self.settings.list_limits = limits;
        self
    }

    /// Makes the client, without connecting.
    ///
    /// # Errors
    /// When the base URL or the client id is not valid, or the system's certificates cannot be read.
    pub fn build(self) -> Result<Client, Error> {
        let base = BaseUrl::parse(&self.base_url).map_err(|error| Error::usage(chain(&error).to_string()))?;
        if let Some(id) = &self.client_id
            && !((1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(Error::usage(format!("client id {id:?}: 1 to 128 visible ASCII characters")));
        }
        let http = match self.http {
            Some(http) => http,
            None => HttpClient::builder().build().map_err(|error| Error::usage(chain(&error).to_string()))?,
        };
        let requests = Requests { base, endpoints: self.endpoints, client_id: self.client_id };
        Ok(Client::new(http, requests, self.settings))
    }
}

/// Makes clients of many relays that share one pool of connections and one TLS set-up.
#[derive(Debug, Clone)]
pub struct ClientFactory {
    http: HttpClient,
}

impl ClientFactory {
    /// A factory on a connection pool.
    pub fn new(http: HttpClient) -> Self {
        Self { http }
    }

    /// A client of the relay at `base_url`.
    ///
    /// # Errors
    /// When the base URL is not valid.
    pub fn create(&self, base_url: &str, token: Option<&str>) -> Result<Client, Error> {
        let builder = self.builder(base_url);
        token.into_iter().fold(builder, |builder, token| builder.token(token)).build()
    }

    /// Begins a client with more options.
    pub fn builder(&self, base_url: &str) -> ClientBuilder {
        Client::builder(base_url).http(self.http.clone())
    }
}
