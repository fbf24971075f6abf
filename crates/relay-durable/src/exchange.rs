//! One request and its response, with credentials and headers; and its retries.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Incoming};
use relay_proto::durable::{Answer, Refusal, Retry};
use relay_proto::error::chain;
use relay_proto::http::{resolve, same_origin};
use relay_proto::retry::Backoff;
use relay_transport::Secret;
use tokio::time::Instant;

use crate::client::{Shared, is_protocol_header};
use crate::error::one_line;
use crate::{Error, ErrorKind};

/// A request that may be sent several times.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Without a query.
    pub(crate) url: String,
    /// Encoded; empty for none.
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// A token of this request, instead of the client's.
    pub(crate) bearer: Option<Secret>,
    /// Time limit of the response head.
    pub(crate) wait: Duration,
}

/// A response whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) body: Incoming,
}

/// Why there is no response.
#[derive(Debug)]
pub(crate) enum Lost {
    /// No byte of the request left.
    Unsent(String),
    /// The server may have received it.
    Unknown(String),
    /// Another attempt would fail as well.
    Never(Error),
}

/// When a request may be sent again after an unknown outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resend {
    Always,
    /// Only when the server has certainly not taken it.
    Untaken,
}

/// Redirects followed in a row.
const MAX_REDIRECTS: usize = 5;
/// The last attempt has at least this time, although the time for attempts ends earlier.
const GRACE: Duration = Duration::from_millis(500);
/// Bytes read of a refusal's body.
const WORDS: usize = 4096;

impl Call {
    pub(crate) fn new(method: Method, url: &str, wait: Duration) -> Self {
        Self {
            method,
            url: url.to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            bearer: None,
            wait,
        }
    }

    pub(crate) fn header(&mut self, name: &'static str, value: &str) -> Result<(), Error> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| Error::usage(format!("{name}: {value:?} cannot stand in a header")))?;
        self.headers.insert(name, value);
        Ok(())
    }
}

impl Shared {
    /// Sends a request once; again only after a 401 with another token, and to where a redirect within the origin
    /// leads.
    pub(crate) async fn exchange(&self, call: &Call) -> Result<Reply, Lost> {
        let mut url = call.url.clone();
        let mut query = call.query.clone();
        let mut refused_token = None;
        let mut redirects = 0;
        loop {
            let token = match (&self.token, &refused_token) {
                (None, _) => None,
                (Some(source), None) => Some(source.token().await),
                (Some(source), Some(_)) => Some(source.fresh_token().await),
            };
            let token = token.transpose().map_err(|error| Lost::Never(local(&call.url, &error)))?;
            if refused_token.is_some() && token == refused_token {
                return Err(Lost::Never(
                    Error::new(ErrorKind::NotAuthorised, &call.url, "not authorised (401)").with_status(401),
                ));
            }
            let request = self.request(call, &url, &query, token.as_ref()).await?;
            let response = self.http.send_within(request, call.wait).await.map_err(|error| match error {
                relay_transport::Error::Connect { .. } => Lost::Unsent(error.line()),
                relay_transport::Error::Url { .. } => Lost::Never(Error::usage(error.line())),
                _ => Lost::Unknown(error.line()),
            })?;
            let status = response.status().as_u16();
            if status == 401 && self.token.is_some() && call.bearer.is_none() && refused_token.is_none() {
                refused_token = token;
                continue;
            }
            if matches!(status, 301 | 302 | 303 | 307 | 308)
                && let Some(location) =
                    response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok())
            {
                let keeps = matches!(call.method, Method::GET | Method::HEAD) || matches!(status, 307 | 308);
                let asked = if query.is_empty() { url.clone() } else { format!("{url}?{query}") };
                let target = resolve(&asked, location).filter(|target| same_origin(&asked, target));
                if let Some(target) = target.filter(|_| keeps && redirects < MAX_REDIRECTS) {
                    redirects += 1;
                    let target = target.split('#').next().unwrap_or_default();
                    let (path, asked) = target.split_once('?').unwrap_or((target, ""));
                    (url, query) = (path.to_owned(), asked.to_owned());
                    continue;
                }
                let what =
                    format!("redirect ({status}) not followed: to another origin, to nowhere, or too often");
                return Err(Lost::Never(Error::new(ErrorKind::Refused, &call.url, what).with_status(status)));
            }
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let headers = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            let answer = Answer::from_headers(status, headers, since_1970);
            return Ok(Reply { answer, body: response.into_body() });
        }
    }

    async fn request(
        &self,
        call: &Call,
        url: &str,
        query: &str,
        token: Option<&Secret>,
    ) -> Result<Request<Full<Bytes>>, Lost> {
        let mut query = query.to_owned();
        if let Some(params) = &self.dynamic_params {
            let mut all: Vec<String> =
                query.split('&').filter(|pair| !pair.is_empty()).map(ToOwned::to_owned).collect();
            for (name, value) in params().await.map_err(Lost::Never)? {
                let part = relay_transport::BaseUrl::segment;
                all.push(format!("{}={}", part(&name), part(&value)));
            }
            all.sort();
            query = all.join("&");
        }
        let url = if query.is_empty() { url.to_owned() } else { format!("{url}?{query}") };
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(url)
            .body(Full::new(call.body.clone()))
            .map_err(|_| {
                Lost::Never(Error::usage(format!("{}: not a URL that can be asked for", call.url)))
            })?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        if let Some(dynamic) = &self.dynamic_headers {
            for (name, value) in &dynamic().await.map_err(Lost::Never)? {
                if is_protocol_header(name.as_str()) {
                    let what = format!("dynamic header {name} is the protocol's own");
                    return Err(Lost::Never(Error::usage(what)));
                }
                headers.insert(name, value.clone());
            }
        }
        for (name, value) in &call.headers {
            headers.insert(name, value.clone());
        }
        let token = call.bearer.as_ref().or(token);
        let authorized = self.outer.authorize(token, headers).await;
        authorized.map_err(|error| Lost::Never(local(&call.url, &error)))?;
        Ok(request)
    }

    /// Sends a request until there is a response that does not ask to retry. The second value tells whether an
    /// earlier attempt may have been accepted.
    async fn persist(&self, call: &Call, resend: Resend, started: Instant) -> Result<(Reply, bool), Error> {
        let mut backoff = Backoff::new(self.retry_base, self.retry_cap, seed());
        let mut maybe_taken = false;
        let mut attempt = call.clone();
        loop {
            // A plain append is not cut: its outcome would be unknown.
            if resend == Resend::Always {
                attempt.wait = call.wait.min(self.left(started));
            }
            let (cause, floor) = match self.exchange(&attempt).await {
                Ok(reply) if reply.answer.refusal() == Some(Refusal::Busy) => {
                    let status = reply.answer.status();
                    if status != 429 {
                        if resend == Resend::Untaken {
                            let what = format!("outcome unknown: status {status} to an append");
                            return Err(
                                Error::new(ErrorKind::OutcomeUnknown, &call.url, what).with_status(status)
                            );
                        }
                        maybe_taken = true;
                    }
                    (format!("status {status}"), reply.answer.retry_after())
                }
                Ok(reply) => return Ok((reply, maybe_taken)),
                Err(Lost::Never(error)) => return Err(error),
                Err(Lost::Unsent(cause)) => (cause, None),
                Err(Lost::Unknown(cause)) => {
                    if resend == Resend::Untaken {
                        let what = format!("outcome unknown: {cause}");
                        return Err(Error::new(ErrorKind::OutcomeUnknown, &call.url, what));
                    }
                    maybe_taken = true;
                    (cause, None)
                }
            };
            self.pause(call, &mut backoff, started, &cause, floor).await?;
        }
    }

    /// The time that is left for an attempt.
    fn left(&self, started: Instant) -> Duration {
        let Some(limit) = self.retry_for else { return Duration::MAX };
        let left = limit.saturating_sub(started.elapsed()).max(GRACE);
        // Whole milliseconds, for messages.
        left.as_nanos().div_ceil(1_000_000).try_into().map_or(Duration::MAX, Duration::from_millis)
    }

    /// Waits before the next attempt, unless the time for them is over.
    async fn pause(
        &self,
        call: &Call,
        backoff: &mut Backoff,
        started: Instant,
        cause: &str,
        floor: Option<Duration>,
    ) -> Result<(), Error> {
        let mut delay = backoff.next_delay();
        if let Some(floor) = floor {
            delay = delay.max(backoff.spread(floor));
        }
        if let Some(limit) = self.retry_for {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() || floor.is_some_and(|floor| floor > left) {
                return Err(Error::out_of_time(&call.url, Some(limit), cause));
            }
            delay = delay.min(left.max(floor.unwrap_or_default()));
        }
        if let Some(told) = &self.on_retry {
            told(&Retry { cause: cause.to_owned(), delay });
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }

    /// Sends a request until its complete response has come. The last value tells whether an earlier attempt may
    /// have been accepted. Refusals are responses here.
    pub(crate) async fn fetch(&self, call: &Call, most: usize) -> Result<(Answer, Bytes, bool), Error> {
        let mut backoff = Backoff::new(self.retry_base, self.retry_cap, seed());
        let (started, mut again) = (Instant::now(), false);
        loop {
            let (reply, maybe_taken) = self.persist(call, Resend::Always, started).await?;
            let read = tokio::time::timeout(self.left(started), whole(reply.body, most, self.timeout)).await;
            let cause = match read.unwrap_or_else(|_| Err("nothing came in time".to_owned())) {
                Ok(Some(bytes)) => return Ok((reply.answer, bytes, maybe_taken || again)),
                Ok(None) => {
                    let what = format!("too large: the answer has more than {most} bytes");
                    return Err(Error::new(ErrorKind::TooLarge, &call.url, what));
                }
                Err(cause) => cause,
            };
            again = true;
            self.pause(call, &mut backoff, started, &cause, None).await?;
        }
    }

    /// Like [`persist`](Self::persist), for responses without a relevant body; refusals are errors.
    pub(crate) async fn ask(
        &self,
        call: &Call,
        resend: Resend,
    ) -> Result<(Answer, bool), (Error, Option<Answer>, bool)> {
        let (reply, maybe_taken) =
            self.persist(call, resend, Instant::now()).await.map_err(|error| (error, None, false))?;
        // A connection whose answer was read to its end can be used again.
        let said = words(reply.body, self.timeout).await;
        let Some(refusal) = reply.answer.refusal() else {
            let status = reply.answer.status();
            let fine = if call.method == Method::POST {
                reply.answer.is_taken()
            } else {
                reply.answer.is_success() && !reply.answer.is_page()
            };
            return match fine {
                true => Ok((reply.answer, maybe_taken)),
                false if reply.answer.is_page() => {
                    let (kind, words) = match resend {
                        Resend::Always => (ErrorKind::Malformed, "malformed answer"),
                        Resend::Untaken => (ErrorKind::OutcomeUnknown, "outcome unknown"),
                    };
                    let what = format!("{words}: an HTML page with status {status}");
                    Err((Error::new(kind, &call.url, what).with_status(status), None, maybe_taken))
                }
                false => {
                    let error = Error::refused(&call.url, Refusal::Other, &reply.answer, &said);
                    Err((error, None, maybe_taken))
                }
            };
        };
        Err((Error::refused(&call.url, refusal, &reply.answer, &said), Some(reply.answer), maybe_taken))
    }
}

/// A body of at most `most` bytes; or why it could not be read.
async fn whole(mut body: Incoming, most: usize, patience: Duration) -> Result<Option<Bytes>, String> {
    let mut bytes = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(patience, body.frame()).await;
        match frame.map_err(|_| "nothing came in time".to_owned())? {
            None => return Ok(Some(bytes.freeze())),
            Some(Err(error)) => return Err(chain(&error).to_string()),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if data.len() > most - bytes.len() {
                        return Ok(None);
                    }
                    bytes.extend_from_slice(&data);
                }
            }
        }
    }
}

/// The beginning of a body, for an error message. A short body is read to its end, so that its connection can be
/// used again.
pub(crate) async fn words(mut body: Incoming, patience: Duration) -> String {
    if body.is_end_stream() {
        return String::new();
    }
    let mut bytes = Vec::new();
    let read = async {
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                bytes.extend_from_slice(&data);
            }
            if bytes.len() > WORDS {
                break;
            }
        }
    };
    // The bytes so far are used.
    let _ = tokio::time::timeout(patience.min(Duration::from_secs(2)), read).await;
    one_line(&bytes[..bytes.len().min(WORDS)])
}

fn local(url: &str, error: &relay_transport::Error) -> Error {
    Error::new(ErrorKind::Local, url, error.line())
}

pub(crate) fn seed() -> u64 {
    RandomState::new().hash_one(Instant::now())
}
