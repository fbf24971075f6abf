//! Single requests to an API server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use relay_transport::{BaseUrl, HttpClient, retry_after};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::access::{Access, Authorization, CallerSettings};
use crate::error::{Error, Status, WireStatus};
use crate::resource::{ObjectMeta, Resource};

/// Time limit for the head of a response, and for each part of its body.
pub(crate) const ANSWER: Duration = Duration::from_secs(60);

/// Time limit for a whole response.
const WHOLE: Duration = Duration::from_secs(600);

/// Size limit of a response: a list of half a million pods without pages. A page has a few MiB.
const LARGEST: usize = 2 << 30;

/// Size limit of an error response that is read.
const LARGEST_STATUS: usize = 64 << 10;

/// Size limit of an event of a watch. An object in etcd has 1.5 MiB at most by default.
const LARGEST_EVENT: usize = 32 << 20;

/// A client of an API server. Cheap to clone: clones share connections and credentials.
///
/// After a 401, a request with credentials of a plugin is sent once more with new ones. No other request is retried
/// here.
#[derive(Clone)]
pub struct KubeClient(Arc<Inner>);

struct Inner {
    http: HttpClient,
    server: BaseUrl,
    authorization: Option<Authorization>,
}

impl KubeClient {
    /// Sets a client up. It sends no request yet, but runs a credential plugin.
    ///
    /// # Errors
    /// [`Error::Config`] when a file or setting of the access cannot be used.
    pub async fn connect(access: Access) -> Result<Self, Error> {
        let server = access.server()?;
        if access.skips_verification() {
            let cluster = access.cluster();
            tracing::warn!(
                cluster,
                "insecure-skip-tls-verify: anybody on the way can read and change everything"
            );
        }
        let builder = HttpClient::builder().request_timeout(ANSWER);
        let (http, authorization) = access.apply(builder, CallerSettings::default()).await?;
        let http = http.build().map_err(|error| Error::config_with("the API server's client", error))?;
        Ok(Self(Arc::new(Inner { http, server, authorization })))
    }

    /// The API server's URL.
    pub fn server(&self) -> &BaseUrl {
        &self.0.server
    }

    /// One page of a list, or a whole one when the query sets no limit.
    ///
    /// # Errors
    /// See [`Error`]. An object that cannot be decoded as `T` is no error, but an [`Object`] without a value.
    pub async fn list<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &ListQuery,
    ) -> Result<Page<T>, Error> {
        let (limit, token) = (query.limit.map(|limit| limit.to_string()), query.token.as_deref());
        let mut pairs = query.selectors();
        pairs.extend(limit.as_deref().map(|limit| ("limit", limit)));
        pairs.extend(token.map(|token| ("continue", token)));
        let url = self.0.server.join(&resource.collection(namespace), &pairs);
        self.json("list", Method::GET, &url, None).await
    }

    /// Follows the changes after a version, for at most `seconds`, with bookmarks.
    ///
    /// # Errors
    /// See [`Error`]. A version that has expired may be an error event of the body instead.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        version: &str,
        seconds: u32,
        query: &ListQuery,
    ) -> Result<WatchBody, Error> {
        let seconds = seconds.to_string();
        let mut pairs = query.selectors();
        pairs.extend([
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", &seconds),
        ]);
        let url = self.0.server.join(&resource.collection(namespace), &pairs);
        let response = self.send("watch", Method::GET, &url, None).await?;
        Ok(WatchBody { body: response.into_body(), held: BytesMut::new(), searched: 0 })
    }

    /// One object.
    ///
    /// # Errors
    /// See [`Error`]; a missing object is [`Error::Refused`] with code 404.
    pub async fn get<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
    ) -> Result<T, Error> {
        let url = self.0.server.join(&resource.object(namespace, name), &[]);
        self.json("get", Method::GET, &url, None).await
    }

    /// Creates an object, or requests a review.
    ///
    /// # Errors
    /// See [`Error`]; an existing object is [`Error::Refused`] with code 409.
    pub async fn create<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        object: &Value,
    ) -> Result<T, Error> {
        let url = self.0.server.join(&resource.collection(namespace), &[]);
        self.json("create", Method::POST, &url, Some(("application/json", object))).await
    }

    /// Changes the fields of an object that the patch names (RFC 7396). With `metadata.resourceVersion` in it, only
    /// when the object has that version.
    ///
    /// # Errors
    /// See [`Error`]; another version of the object is [`Error::Refused`] with code 409.
    pub async fn merge_patch<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<T, Error> {
        let url = self.0.server.join(&resource.object(namespace, name), &[]);
        self.json("patch", Method::PATCH, &url, Some(("application/merge-patch+json", patch))).await
    }

    /// [`merge_patch`](Self::merge_patch) of the status subresource.
    ///
    /// # Errors
    /// As for `merge_patch`; code 404 also when the type has no status subresource.
    pub async fn merge_patch_status<T: DeserializeOwned>(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        name: &str,
        patch: &Value,
    ) -> Result<T, Error> {
        let path = format!("{}/status", resource.object(namespace, name));
        let url = self.0.server.join(&path, &[]);
        self.json("patch of the status", Method::PATCH, &url, Some(("application/merge-patch+json", patch)))
            .await
    }

    /// Checks whether the cluster still knows a version: a list request for this version or a newer one is refused
    /// when it does not.
    pub(crate) async fn check(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        version: &str,
    ) -> Result<(), Error> {
        let pairs = [("limit", "1"), ("resourceVersion", version), ("resourceVersionMatch", "NotOlderThan")];
        let url = self.0.server.join(&resource.collection(namespace), &pairs);
        let response = self.send("check", Method::GET, &url, None).await?;
        // Read to its end, so that the connection can be used again; the content does not matter.
        read("check", response, LARGEST).await.map(drop)
    }

    async fn json<T: DeserializeOwned>(
        &self,
        doing: &'static str,
        method: Method,
        url: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<T, Error> {
        let response = self.send(doing, method, url, body).await?;
        let kind = media_type(&response);
        let body = read(doing, response, LARGEST).await?;
        serde_json::from_slice(&body).map_err(|error| {
            // Without the text of the error, which may quote the body.
            let what = if error.is_data() { "not what was asked for" } else { "no JSON" };
            let place = format!("line {}, column {}", error.line(), error.column());
            Error::Answer { doing, what: format!("{} bytes of {kind} are {what}, at {place}", body.len()) }
        })
    }

    /// Sends a request and checks the status of the response.
    async fn send(
        &self,
        doing: &'static str,
        method: Method,
        url: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Incoming>, Error> {
        let request = |authorization: Option<HeaderValue>| {
            let mut builder = Request::builder()
                .method(method.clone())
                .uri(url)
                .header(ACCEPT, "application/json")
                .header(ACCEPT_ENCODING, "identity")
                .header(USER_AGENT, concat!("relay/", env!("CARGO_PKG_VERSION")));
            if let Some(authorization) = authorization {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let body = match body {
                Some((kind, body)) => {
                    builder = builder.header(CONTENT_TYPE, kind);
                    Bytes::from(body.to_string())
                }
                None => Bytes::new(),
            };
            builder
                .body(Full::new(body))
                .map_err(|_| Error::Answer { doing, what: "no usable URL".to_owned() })
        };
        let transport = |source| Error::Transport { doing, source: Box::new(source) };
        let mut refused = false;
        loop {
            let authorization = match &self.0.authorization {
                None => None,
                Some(authorization) => Some(authorization.header(refused).await.map_err(transport)?),
            };
            let response = self.0.http.send(request(authorization)?).await.map_err(transport)?;
            let again = response.status() == StatusCode::UNAUTHORIZED && !refused;
            if again && self.0.authorization.as_ref().is_some_and(|held| held.source().can_refresh()) {
                refused = true;
                continue;
            }
            if !response.status().is_success() {
                return Err(refusal(doing, response).await);
            }
            if let Some(coding) = response.headers().get(CONTENT_ENCODING)
                && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
            {
                let what = "the answer is compressed, although nobody asked for that".to_owned();
                return Err(Error::Answer { doing, what });
            }
            return Ok(response);
        }
    }
}

impl fmt::Debug for KubeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeClient").field("server", &self.0.server).finish_non_exhaustive()
    }
}

async fn refusal(doing: &'static str, response: Response<Incoming>) -> Error {
    let code = response.status().as_u16();
    let by_header = retry_after(response.headers());
    let reason = response.status().canonical_reason().unwrap_or_default().replace(' ', "");
    let body = read(doing, response, LARGEST_STATUS).await.unwrap_or_default();
    let (status, by_body) = match WireStatus::read(&body) {
        Some(status) => status.told(code),
        // The body is not from an API server, but from a proxy in between.
        None => (Status::new(code, &reason, ""), None),
    };
    Error::Refused { doing, status: Box::new(status), retry_after: by_header.max(by_body) }
}

/// Type and subtype of the response's media type, for messages.
fn media_type(response: &Response<Incoming>) -> String {
    let value =
        response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let usual = |c: char| c.is_ascii_alphanumeric() || "/+-.".contains(c);
    if essence.is_empty() || essence.len() > 60 || !essence.chars().all(usual) {
        return "no known type".to_owned();
    }
    essence.to_owned()
}

/// Reads a body to its end.
async fn read(doing: &'static str, response: Response<Incoming>, limit: usize) -> Result<Bytes, Error> {
    let mut body = response.into_body();
    let mut held = BytesMut::new();
    let reading = async {
        while let Some(chunk) = next_chunk(doing, &mut body, ANSWER).await? {
            if chunk.len() > limit - held.len() {
                return Err(Error::TooLarge { doing, what: "an answer", limit });
            }
            held.extend_from_slice(&chunk);
        }
        Ok(())
    };
    tokio::time::timeout(WHOLE, reading).await.map_err(|_| Error::Late { doing, after: WHOLE })??;
    Ok(held.freeze())
}

async fn next_chunk(
    doing: &'static str,
    body: &mut Incoming,
    limit: Duration,
) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = tokio::time::timeout(limit, body.frame()).await;
        let frame = frame.map_err(|_| Error::Late { doing, after: limit })?;
        match frame.transpose().map_err(|error| Error::Cut { doing, source: error.into() })? {
            // Trailers are ignored.
            Some(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            None => return Ok(None),
        }
    }
}

/// Parameters of a list request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListQuery {
    limit: Option<u32>,
    token: Option<String>,
    labels: Option<String>,
    fields: Option<String>,
}

impl ListQuery {
    /// The whole list at once, of the newest version.
    pub fn new() -> Self {
        Self::default()
    }

    /// At most so many objects; the page then has a token for the next one. Default: no limit.
    #[must_use]
    pub fn limit(mut self, limit: u32) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Continues after the page that gave this token. Default: from the start.
    #[must_use]
    pub fn after(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Only objects that this label selector selects. Default: all.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Only objects that this field selector selects, such as `metadata.name=a`. Default: all.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }

    fn selectors(&self) -> Vec<(&str, &str)> {
        let labels = self.labels.iter().map(|labels| ("labelSelector", labels.as_str()));
        labels.chain(self.fields.iter().map(|fields| ("fieldSelector", fields.as_str()))).collect()
    }
}

/// One page of a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Page<T> {
    /// Its objects, in the API server's order. A list that is null is an empty one.
    pub objects: Vec<Object<T>>,
    /// The version of the cluster at the time of the list; empty when the response had none. Further pages have
    /// that of the first.
    pub resource_version: String,
    /// The token for [`after`](ListQuery::after) to get the next page; `None` on the last page.
    pub next: Option<String>,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Page<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(bound = "T: DeserializeOwned")]
        struct List<T> {
            metadata: Option<Metadata>,
            // Required: a response without `items` is no list.
            #[serde(deserialize_with = "Option::deserialize")]
            items: Option<Vec<Object<T>>>,
        }
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase")]
        struct Metadata {
            resource_version: Option<String>,
            #[serde(rename = "continue")]
            next: Option<String>,
        }
        let list = List::deserialize(deserializer)?;
        let metadata = list.metadata.unwrap_or_default();
        Ok(Self {
            objects: list.items.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            next: metadata.next.filter(|token| !token.is_empty()),
        })
    }
}

/// One object of a cluster.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Object<T> {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// The object; `None` when it could not be decoded.
    pub value: Option<T>,
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        let meta = ObjectMeta::of(raw);
        let value = serde_json::from_str(raw.get())
            .inspect_err(|error| {
                // Without the text of the error, which may quote the object.
                let ObjectMeta { namespace, name, .. } = &meta;
                let (line, column) = (error.line(), error.column());
                tracing::warn!(namespace, name, line, column, "an object of the API server cannot be read");
            })
            .ok();
        Ok(Self { meta, value })
    }
}

/// The body of a watch, line by line.
pub struct WatchBody {
    body: Incoming,
    held: BytesMut,
    /// Bytes at the start of the buffer that are known to have no line feed.
    searched: usize,
}

impl WatchBody {
    /// The next line without its end, `None` at the end of the body. Waits without a limit. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Cut`] when the connection ends before the body does, [`Error::TooLarge`].
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, Error> {
        const DOING: &str = "watch";
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.held[self.searched..]) {
                let line = self.held.split_to(self.searched + at + 1).freeze();
                self.searched = 0;
                let line = line.slice(..line.len() - 1);
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.held.len();
            if self.held.len() > LARGEST_EVENT {
                return Err(Error::TooLarge { doing: DOING, what: "an event", limit: LARGEST_EVENT });
            }
            match next_chunk(DOING, &mut self.body, Duration::MAX).await? {
                Some(chunk) => self.held.extend_from_slice(&chunk),
                None if self.held.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                // The last line may have no line feed.
                None => {
                    self.searched = 0;
                    return Ok(Some(self.held.split().freeze()));
                }
            }
        }
    }
}

impl fmt::Debug for WatchBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchBody").field("held", &self.held.len()).finish_non_exhaustive()
    }
}
