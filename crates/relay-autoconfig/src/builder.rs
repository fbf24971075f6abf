//! Settings of a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use relay_proto::autoconfig::{AutoConfigKey, PROTOCOL_VERSION, STREAM_PATH, VERSION_PARAMETER};
use relay_proto::eventsource::{Config, Verdict};
use relay_proto::retry::Jitter;
use relay_proto::sse::Limits;
use relay_state::environments::Environments;
use relay_transport::{BaseUrl, HttpClient, Secret, TokenSource};

use crate::cache::Cache;

/// Time limit from the start of an attempt to its response, unless the idle timeout is shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The reaction to a 401 or 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Unauthorized {
    /// Try again, after the long delays: the key may be corrected.
    #[default]
    Retry,
    /// The stream ends.
    Stop,
}

/// Settings of a [`StreamManager`](crate::StreamManager) or of [`Events`](crate::Events).
pub struct Builder {
    pub(crate) url: String,
    pub(crate) key: Option<TokenSource>,
    fixed_key: Option<Secret>,
    pub(crate) http: Option<HttpClient>,
    protocol_version: u32,
    reconnect: (Duration, Duration),
    long: (Duration, Duration),
    idle_timeout: Duration,
    lenient_mime: bool,
    max_event: usize,
    hold_empty: Duration,
    pub(crate) unauthorized: Arc<dyn Fn(u16) -> Unauthorized + Send + Sync>,
    pub(crate) cache: Option<Box<dyn Cache>>,
    pub(crate) wall_clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// The settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The URL.
    #[error("the URL of the service cannot be used")]
    Url {
        /// What is wrong with it.
        source: relay_transport::Error,
    },
    /// The URL has a fragment.
    #[error("the URL of the service has a fragment")]
    Fragment,
    /// There is no key.
    #[error("there is no key: give one, or a file that holds one")]
    NoKey,
    /// The key is not valid in a header.
    #[error("the key cannot be used")]
    Key {
        /// What is wrong with it.
        source: relay_transport::Error,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be set up")]
    Http {
        /// Why.
        source: relay_transport::Error,
    },
}

impl Builder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            key: None,
            fixed_key: None,
            http: None,
            protocol_version: PROTOCOL_VERSION,
            reconnect: (Duration::from_secs(1), Duration::from_secs(30)),
            long: (Duration::from_secs(300), Duration::from_secs(3600)),
            idle_timeout: Duration::from_secs(300),
            lenient_mime: false,
            max_event: 64 << 20,
            hold_empty: Duration::ZERO,
            unauthorized: Arc::new(|_| Unauthorized::default()),
            cache: None,
            wall_clock: Arc::new(|| {
                let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }),
        }
    }

    /// The key, sent unchanged as `Authorization`.
    #[must_use]
    pub fn key(mut self, key: impl Into<AutoConfigKey>) -> Self {
        let secret = Secret::new(key.into().reveal());
        self.key = Some(TokenSource::fixed(secret.clone()));
        self.fixed_key = Some(secret);
        self
    }

    /// A file with the key, read at each attempt; white space around it is ignored.
    #[must_use]
    pub fn key_file(self, path: impl Into<PathBuf>) -> Self {
        self.key_source(TokenSource::file(path))
    }

    /// The source of the key, called at each attempt. If it has a new key after one was refused with 401 or 403,
    /// the new key is tried at once.
    #[must_use]
    pub fn key_source(mut self, source: TokenSource) -> Self {
        self.key = Some(source);
        self.fixed_key = None;
        self
    }

    /// The HTTP client. Default: one that takes compressed streams.
    #[must_use]
    pub fn http(mut self, http: HttpClient) -> Self {
        self.http = Some(http);
        self
    }

    /// The requested version of the protocol; version 1 has no filters and is not sent. Default 2.
    #[must_use]
    pub fn protocol_version(mut self, version: u32) -> Self {
        self.protocol_version = version;
        self
    }

    /// Delays after temporary failures: the n-th is between half of and all of `base * 2^n`, at most `cap`. A usable
    /// event resets them. Default 1 s and 30 s.
    #[must_use]
    pub fn reconnect(mut self, base: Duration, cap: Duration) -> Self {
        self.reconnect = (base, cap);
        self
    }

    /// Delays after failures that are probably permanent: 4xx except 400, 408, 425 and 429. The same rule applies.
    /// Default 5 min and 1 h.
    #[must_use]
    pub fn long_reconnect(mut self, base: Duration, cap: Duration) -> Self {
        self.long = (base, cap);
        self
    }

    /// Longest time without bytes. Default 5 min; the service sends a comment every 3. It also limits the wait for
    /// a response, which is at most 30 s.
    #[must_use]
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.idle_timeout = idle;
        self
    }

    /// Accepts a 200 with any content type. Default false.
    #[must_use]
    pub fn lenient_mime(mut self, lenient: bool) -> Self {
        self.lenient_mime = lenient;
        self
    }

    /// Size limit of an event's data, unpacked. Default 64 MiB, which are in memory only while such an event arrives.
    #[must_use]
    pub fn max_event(mut self, bytes: usize) -> Self {
        self.max_event = bytes;
        self
    }

    /// Holds back a put that would remove all environments, for this time. Default 0: not at all.
    #[must_use]
    pub fn hold_empty(mut self, hold: Duration) -> Self {
        self.hold_empty = hold;
        self
    }

    /// The reaction to a 401 or 403, given the status. Default: [`Unauthorized::Retry`].
    #[must_use]
    pub fn unauthorized(mut self, policy: impl Fn(u16) -> Unauthorized + Send + Sync + 'static) -> Self {
        self.unauthorized = Arc::new(policy);
        self
    }

    /// A cache for the last good configuration. Default: none.
    #[must_use]
    pub fn cache(mut self, cache: impl Cache + 'static) -> Self {
        self.cache = Some(Box::new(cache));
        self
    }

    /// The clock for the expiry of keys, in milliseconds since 1970, for tests. Default: the system's.
    #[must_use]
    pub fn wall_clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.wall_clock = Arc::new(clock);
        self
    }

    /// The URL of the stream: the service's path and query are kept.
    pub(crate) fn stream_url(&self) -> Result<String, ConfigError> {
        if self.url.contains('#') {
            return Err(ConfigError::Fragment);
        }
        let (base, query) = match self.url.trim().split_once('?') {
            Some((base, query)) => (base, query),
            None => (self.url.as_str(), ""),
        };
        let base = BaseUrl::parse(base).map_err(|source| ConfigError::Url { source })?;
        let mut url = base.join(STREAM_PATH, &[]);
        let version =
            (self.protocol_version > 1).then(|| format!("{VERSION_PARAMETER}={}", self.protocol_version));
        let mut sign = '?';
        for part in
            [query, version.as_deref().unwrap_or_default()].into_iter().filter(|part| !part.is_empty())
        {
            url.push(sign);
            url.push_str(part);
            sign = '&';
        }
        url.parse::<http::Uri>().map(|_| url).map_err(|_| ConfigError::Url {
            source: relay_transport::Error::Url { reason: "its query does not parse" },
        })
    }

    /// The key source; a fixed key is checked.
    pub(crate) fn checked_key(&self) -> Result<TokenSource, ConfigError> {
        if let Some(key) = &self.fixed_key {
            if key.expose().is_empty() {
                return Err(ConfigError::NoKey);
            }
            key.header().map_err(|source| ConfigError::Key { source })?;
        }
        self.key.clone().ok_or(ConfigError::NoKey)
    }

    pub(crate) fn environments(&self) -> Environments {
        Environments::default().hold_empty(self.hold_empty)
    }

    pub(crate) fn config(&self) -> Config {
        let limits = Limits::default().data(self.max_event).line(self.max_event.saturating_add(16));
        Config::default()
            .base(self.reconnect.0)
            .cap(self.reconnect.1)
            .later_base(self.long.0)
            .later_cap(self.long.1)
            .jitter(Jitter::Half)
            .retry_max(self.reconnect.1)
            .idle(self.idle_timeout)
            .response_timeout(self.idle_timeout.min(ANSWER_TIMEOUT))
            .lenient_mime(self.lenient_mime)
            .max_problem_bytes(0_usize)
            .max_redirects(10_u32)
            .max_block_bytes(self.max_event as u64 + (64 << 10))
            .limits(limits)
            .policy(verdict as fn(u16) -> Option<Verdict>)
    }
}

/// No status is final by itself.
fn verdict(status: u16) -> Option<Verdict> {
    Some(match status {
        400 | 408 | 425 | 429 => Verdict::Retry,
        400..=499 => Verdict::RetryLater,
        _ => Verdict::Retry,
    })
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The query may hold a secret.
        f.debug_struct("Builder").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_of_the_service_are_kept() {
        for (url, version, expected) in [
            ("http://h:1", 2, "http://h:1/relay_auto_config?rpacProtocolVersion=2"),
            ("http://h:1/", 1, "http://h:1/relay_auto_config"),
            ("https://h/a/b/", 2, "https://h/a/b/relay_auto_config?rpacProtocolVersion=2"),
            ("https://h/a?x=1&y=%20", 2, "https://h/a/relay_auto_config?x=1&y=%20&rpacProtocolVersion=2"),
            ("https://h?x=1", 1, "https://h/relay_auto_config?x=1"),
            ("https://h?", 3, "https://h/relay_auto_config?rpacProtocolVersion=3"),
        ] {
            let builder = Builder::new(url.to_owned()).protocol_version(version);
            assert_eq!(builder.stream_url().unwrap(), expected, "{url}");
        }
        for bad in ["", "h", "ftp://h", "http://", "http://h/#f", "http://u:secret@h/", "http://h?a b"] {
            let error = Builder::new(bad.to_owned()).stream_url().unwrap_err();
            assert!(!error.to_string().contains("secret"));
        }
    }

    #[test]
    fn statuses() {
        for (status, later) in [
            (400, false),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
            (201, false),
            (304, false),
            (401, true),
            (403, true),
            (404, true),
            (405, true),
            (410, true),
            (418, true),
            (451, true),
        ] {
            assert_eq!(verdict(status) == Some(Verdict::RetryLater), later, "{status}");
        }
    }
}
