//! Subscriptions: workers are woken when streams have new data, and claim the work.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use relay_proto::durable::{Answer, Offset};
use relay_transport::{BaseUrl, Secret};
use serde::{Deserialize, Serialize};

use crate::error::one_line;
use crate::exchange::Call;
use crate::{Client, Error, ErrorKind};

/// A handle to a subscription. Cheap to clone; making one does no I/O.
///
/// The server writes an event to the subscription's wake stream when one of its streams has new data. A worker that
/// reads it [claims](Self::claim) the work, and holds a [`Lease`] until it is done.
#[derive(Clone)]
pub struct Subscription {
    client: Client,
    url: String,
}

/// Options of a subscription.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct SubscriptionOptions {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Streams by their path below the root: `*` is one segment, `**` any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Streams by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<String>,
    /// The stream that workers read to be woken: one of JSON messages, which must be there.
    pub wake_stream: String,
    /// How long a claim lasts without a heartbeat, in whole milliseconds: 1 s to 10 min. Default 30 s.
    #[serde(rename = "lease_ttl_ms", serialize_with = "millis")]
    pub lease: Duration,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

fn millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl SubscriptionOptions {
    /// Workers are woken by this stream.
    pub fn new(wake_stream: impl Into<String>) -> Self {
        Self {
            kind: "pull-wake",
            wake_stream: wake_stream.into(),
            lease: Duration::from_secs(30),
            ..Self::default()
        }
    }

    /// Sets `pattern`.
    #[must_use]
    pub fn pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    /// Adds a stream by name.
    #[must_use]
    pub fn stream(mut self, path: impl Into<String>) -> Self {
        self.streams.push(path.into());
        self
    }

    /// Sets `lease`.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// Sets `description`.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        self.description = Some(text.into());
        self
    }
}

/// The server's description of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// `pull-wake`, or `webhook` for one that is not for workers of this kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Streams by pattern.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Its streams, with their acknowledged offsets.
    #[serde(default)]
    pub streams: Vec<SubscribedStream>,
    /// The stream that wakes workers.
    #[serde(default)]
    pub wake_stream: Option<String>,
    /// How long a claim holds, in milliseconds.
    #[serde(default)]
    pub lease_ttl_ms: Option<u64>,
    /// Such as `active`.
    #[serde(default)]
    pub status: Option<String>,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
}

/// A stream of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SubscribedStream {
    /// Its path below the root.
    pub path: String,
    /// `explicit` or `glob`.
    #[serde(default)]
    pub link_type: Option<String>,
    /// The acknowledged offset.
    pub acked_offset: Offset,
}

/// A stream of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct PendingStream {
    /// Its path below the root.
    pub path: String,
    /// The acknowledged offset, from which to read.
    pub acked_offset: Offset,
    /// Its end at the time of the claim.
    pub tail_offset: Offset,
    /// Whether there is data between the two.
    #[serde(default)]
    pub has_pending: bool,
}

/// An acknowledgement of a stream up to an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ack {
    /// The stream's path below the root.
    pub stream: String,
    /// The offset up to which the work is done.
    pub offset: Offset,
}

impl Ack {
    /// All data before that offset is done.
    pub fn new(stream: impl Into<String>, offset: Offset) -> Self {
        Self { stream: stream.into(), offset }
    }
}

/// Longest answer taken, in bytes.
const LONGEST: usize = 16 << 20;

/// An answer with its body, and whether the server may have accepted an earlier attempt.
type Told = (Answer, Bytes, bool);

#[derive(Deserialize)]
struct Claimed {
    wake_id: String,
    generation: u64,
    token: String,
    #[serde(default)]
    streams: Vec<PendingStream>,
    lease_ttl_ms: u64,
}

#[derive(Deserialize)]
struct Acknowledged {
    #[serde(default)]
    next_wake: bool,
}

#[derive(Deserialize, Default)]
struct Refused {
    #[serde(default)]
    error: Reason,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reason {
    code: String,
    message: String,
    current_holder: Option<String>,
}

impl Client {
    /// A handle to a subscription of the server at the base URL, without any I/O.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when the id is empty.
    pub fn subscription(&self, id: &str) -> Result<Subscription, Error> {
        Subscription::new(self.clone(), id)
    }
}

impl Subscription {
    fn new(client: Client, id: &str) -> Result<Self, Error> {
        if id.is_empty() {
            return Err(Error::usage("the id of a subscription is empty"));
        }
        let url = client.shared.base.join(&format!("__ds/subscriptions/{}", BaseUrl::segment(id)), &[]);
        Ok(Self { client, url })
    }

    /// The absolute URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Creates the subscription; succeeds if it exists with the same configuration. Returns its description, and
    /// whether it is new.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a lease outside of 1 s to 10 min, [`ErrorKind::Exists`] when it is there with another
    /// configuration, and others by kind.
    pub async fn create(&self, options: &SubscriptionOptions) -> Result<(SubscriptionInfo, bool), Error> {
        if !(1_000..=600_000).contains(&options.lease.as_millis()) {
            return Err(Error::usage(format!("lease: 1 s to 10 min, not {:?}", options.lease)));
        }
        let (answer, body, _) = self.ask(Method::PUT, "", Some(options), None).await?;
        Ok((self.read(&body)?, answer.status() == 201))
    }

    /// What the server knows of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and others by kind.
    pub async fn get(&self) -> Result<SubscriptionInfo, Error> {
        let (_, body, _) = self.ask::<()>(Method::GET, "", None, None).await?;
        self.read(&body)
    }

    /// Deletes it. A missing one counts as deleted.
    ///
    /// # Errors
    /// By kind.
    pub async fn delete(&self) -> Result<(), Error> {
        match self.ask::<()>(Method::DELETE, "", None, None).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Adds streams by name. Their present data counts as acknowledged.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and others by kind.
    pub async fn add_streams(&self, paths: &[&str]) -> Result<(), Error> {
        let body = serde_json::json!({"streams": paths});
        self.ask(Method::POST, "/streams", Some(&body), None).await.map(|_| ())
    }

    /// Removes a stream that was added by name. A pattern may still include it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the subscription is not there, and others by kind.
    pub async fn remove_stream(&self, path: &str) -> Result<(), Error> {
        let path =
            path.trim_start_matches('/').split('/').map(BaseUrl::segment).collect::<Vec<_>>().join("/");
        self.ask::<()>(Method::DELETE, &format!("/streams/{path}"), None, None).await.map(|_| ())
    }

    /// Claims the work for a worker of that name, for the duration of the lease.
    ///
    /// When a response is lost, the claim may be in force although its token is unknown: a new claim is then
    /// refused as [`ErrorKind::Claimed`] until its lease is over.
    ///
    /// # Errors
    /// [`ErrorKind::Claimed`] when another worker has it, [`ErrorKind::NoWork`] when there is none, and others by kind.
    pub async fn claim(&self, worker: &str) -> Result<Lease, Error> {
        let body = serde_json::json!({"worker": worker});
        let (_, body, _) = self.ask(Method::POST, "/claim", Some(&body), None).await?;
        let claimed: Claimed = self.read(&body)?;
        Ok(Lease {
            subscription: self.clone(),
            wake: Wake { wake_id: claimed.wake_id, generation: claimed.generation },
            token: Secret::new(claimed.token),
            streams: claimed.streams,
            time: Duration::from_millis(claimed.lease_ttl_ms),
        })
    }

    async fn ask<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        bearer: Option<&Secret>,
    ) -> Result<Told, Error> {
        self.tell(method, path, body, bearer).await.map_err(|(error, _)| error)
    }

    /// Like [`ask`](Self::ask); an error also says whether the server may have accepted an earlier attempt.
    async fn tell<B: Serialize>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
        bearer: Option<&Secret>,
    ) -> Result<Told, (Error, bool)> {
        let first = |error| (error, false);
        let shared = &self.client.shared;
        let mut call = Call::new(method, &format!("{}{path}", self.url), shared.timeout);
        call.bearer = bearer.cloned();
        if let Some(body) = body {
            let body = serde_json::to_vec(body).map_err(|error| first(Error::usage(error.to_string())))?;
            call.header("content-type", "application/json").map_err(first)?;
            call.body = body.into();
        }
        let (answer, body, again) = shared.fetch(&call, LONGEST).await.map_err(first)?;
        if answer.is_success() && !answer.is_page() {
            return Ok((answer, body, again));
        }
        Err((self.refused(&answer, &body), again))
    }

    fn refused(&self, answer: &Answer, body: &[u8]) -> Error {
        let reason = serde_json::from_slice::<Refused>(body).unwrap_or_default().error;
        let (kind, what) = match (answer.status(), reason.code.as_str()) {
            (409, "ALREADY_CLAIMED") => {
                let holder = reason.current_holder.unwrap_or_else(|| "another worker".to_owned());
                (ErrorKind::Claimed, format!("claimed: {holder} has the work"))
            }
            (409, "NO_PENDING_WORK") => (ErrorKind::NoWork, "no work".to_owned()),
            (409, "FENCED") => (ErrorKind::Fenced, "fenced: the lease is over".to_owned()),
            (409, "SUBSCRIPTION_ALREADY_EXISTS") => {
                (ErrorKind::Exists, "exists with another configuration".to_owned())
            }
            (409, _) => {
                (ErrorKind::Refused, format!("conflict (409): {}", one_line(reason.message.as_bytes())))
            }
            (200..=299, _) => (ErrorKind::Malformed, "malformed answer: an HTML page".to_owned()),
            (status, _) => {
                return match answer.refusal() {
                    Some(refusal) => Error::refused(&self.url, refusal, answer, &one_line(body)),
                    None => Error::new(ErrorKind::Refused, &self.url, format!("status {status}")),
                };
            }
        };
        Error::new(kind, &self.url, what).with_status(answer.status())
    }

    fn read<'b, T: Deserialize<'b>>(&self, body: &'b [u8]) -> Result<T, Error> {
        serde_json::from_slice(body).map_err(|error| {
            Error::new(ErrorKind::Malformed, &self.url, format!("malformed answer: {error}"))
        })
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.url).finish()
    }
}

#[derive(Debug, Clone, Serialize)]
struct Wake {
    wake_id: String,
    generation: u64,
}

#[derive(Serialize)]
struct Progress<'p> {
    #[serde(flatten)]
    wake: &'p Wake,
    #[serde(skip_serializing_if = "<[Ack]>::is_empty")]
    acks: &'p [Ack],
    done: bool,
}

/// The work of a subscription, held by one worker until the lease is over. Dropping the lease does nothing: the work
/// becomes free when its time has run out.
pub struct Lease {
    subscription: Subscription,
    wake: Wake,
    token: Secret,
    streams: Vec<PendingStream>,
    time: Duration,
}

impl Lease {
    /// The streams of the subscription, as they were when it was claimed.
    pub fn streams(&self) -> &[PendingStream] {
        &self.streams
    }

    /// How long it lasts after the last heartbeat.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// The number of the claim.
    pub fn generation(&self) -> u64 {
        self.wake.generation
    }

    /// Sends a heartbeat, which renews the lease.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] when it was over, and others by kind.
    pub async fn heartbeat(&self) -> Result<(), Error> {
        self.progress(&[], false).await.map(|_| ())
    }

    /// Acknowledges work, which is also a heartbeat. It may be repeated.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] when the lease was over, [`ErrorKind::Refused`] for an offset that is not between what is
    /// acknowledged and the stream's end.
    pub async fn ack(&self, acks: &[Ack]) -> Result<(), Error> {
        self.progress(acks, false).await.map(|_| ())
    }

    /// Acknowledges work and releases the claim. Returns whether there is more work already.
    ///
    /// # Errors
    /// Those of [`ack`](Self::ack). [`ErrorKind::OutcomeUnknown`] when an answer was lost and the lease is over
    /// now: it was released, or has expired, and unacknowledged work comes again.
    pub async fn done(self, acks: &[Ack]) -> Result<bool, Error> {
        self.progress(acks, true).await
    }

    /// Releases the claim; unacknowledged work comes again.
    ///
    /// # Errors
    /// By kind. Releasing a lease that is already over is no error.
    pub async fn release(self) -> Result<(), Error> {
        let released =
            self.subscription.ask(Method::POST, "/release", Some(&self.wake), Some(&self.token)).await;
        match released {
            Err(error) if error.kind() != ErrorKind::Fenced => Err(error),
            _ => Ok(()),
        }
    }

    /// Runs `work`, and sends three heartbeats per lease time.
    ///
    /// # Errors
    /// When a heartbeat fails, the work is dropped, because another worker may have it now.
    pub async fn keep<T>(&self, work: impl Future<Output = T>) -> Result<T, Error> {
        tokio::pin!(work);
        loop {
            let beat = async {
                tokio::time::sleep(self.time / 3).await;
                self.heartbeat().await
            };
            tokio::select! {
                done = &mut work => return Ok(done),
                alive = beat => alive?,
            }
        }
    }

    async fn progress(&self, acks: &[Ack], done: bool) -> Result<bool, Error> {
        let progress = Progress { wake: &self.wake, acks, done };
        let told = self.subscription.tell(Method::POST, "/ack", Some(&progress), Some(&self.token)).await;
        let (_, body, _) = told.map_err(|(error, again)| {
            if !(done && again && error.kind() == ErrorKind::Fenced) {
                return error;
            }
            let what = "outcome unknown: an answer was lost, and the lease is over now";
            Error::new(ErrorKind::OutcomeUnknown, &self.subscription.url, what).with_status(409)
        })?;
        Ok(self.subscription.read::<Acknowledged>(&body)?.next_wake)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("subscription", &self.subscription)
            .field("generation", &self.wake.generation)
            .field("streams", &self.streams)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}
