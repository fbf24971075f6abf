//! Reading requests: head, query, credential, body.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, Method, Version};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use relay_proto::problem::{Problem, ProblemCode};

use super::answer::Cut;
use super::connection::Activity;

/// Size limit of a request head, in bytes.
pub(super) const MAX_HEAD: usize = 64 << 10;
/// Limit of the fields of a request head. More than this within 64 KiB would be nearly empty fields; memory for all
/// is allocated while a head is read.
pub(super) const MAX_FIELDS: usize = 4096;
/// The message for a head over the limit.
pub(super) const HEAD_RULE: &str = "a request head is at most 65536 bytes and 4096 fields";
/// Time limit of a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Checks that hyper's parser does not make: its size (65,536 bytes at most), its target, its one `Host` (RFC 9112,
/// 3.2), which HTTP/1.0 may leave out and HTTP/2 has elsewhere, and that its body has no other transfer coding than
/// chunks, once (RFC 9112, 6.1).
///
/// # Errors
/// 431 `head-too-large`; 400 `bad-parameter` for the others.
pub fn check_head(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if head.version == Version::HTTP_11 => {
            return Err(refuse("host: a request of HTTP/1.1 has a Host header"));
        }
        (_, Some(_)) => return Err(refuse("host: a request has one Host header")),
        (Some(host), None) if !is_host(host.as_bytes()) => {
            return Err(refuse("host: it is a host and perhaps a port"));
        }
        _ => {}
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next()
        && (codings.next().is_some() || !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(refuse("transfer-encoding: it is chunked, once, and nothing else"));
    }
    if head.uri.path_and_query().is_none() && head.method != Method::CONNECT {
        return Err(refuse("request: its target begins with a slash"));
    }
    if head_size(head) > MAX_HEAD {
        return Err(Box::new(Problem::new(ProblemCode::HEAD_TOO_LARGE, HEAD_RULE)));
    }
    Ok(())
}

/// Whether the text is a valid `Host` header. It may be empty, where the target has no host.
fn is_host(host: &[u8]) -> bool {
    let user = host.contains(&b'@');
    host.is_empty() || (!user && Authority::try_from(host).is_ok())
}

/// Whether a method is in a list such as `GET, HEAD`, the format of an `Allow` header.
pub fn allows(methods: &str, method: &Method) -> bool {
    methods.split(", ").any(|allowed| allowed == method.as_str())
}

/// The token that a request carries in a header. `X-Relay-Token` takes precedence, because `Authorization` may
/// belong to a proxy in between; an empty header counts as absent.
pub fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let own = headers.get("x-relay-token").map(|value| value.as_bytes().trim_ascii());
    if let Some(own) = own.filter(|own| !own.is_empty()) {
        return Some(own);
    }
    let (scheme, token) = headers.get(AUTHORIZATION)?.as_bytes().trim_ascii().split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

/// Reads a body of at most `limit` bytes within 10 seconds.
///
/// # Errors
/// The refusal `body-too-large` (413), known before the body is read where its length is; 400 when its chunks are
/// malformed; or [`Cut`] when the client is gone or too slow.
pub async fn read_body(body: Incoming, limit: usize) -> Result<Bytes, Unread> {
    use http_body::Body as _;
    let too_large = || {
        let detail = format!("a request body is at most {limit} bytes");
        Unread::Refused(Box::new(Problem::new(ProblemCode::BODY_TOO_LARGE, detail)))
    };
    // Known before it is read, so that no client is told to go on sending.
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) if is_malformed(&*error) => {
            Err(Unread::Refused(refuse("request body: its chunks are not well-formed")))
        }
        Ok(Err(_)) | Err(_) => Err(Unread::Gone(Cut)),
    }
}

/// Reads a body of at most `limit` bytes within `patience`. A client that closed its sending side before the end of
/// the body is detected at once and still gets a response.
///
/// # Errors
/// [`BodyError`].
pub async fn collect_body(
    head: &Parts,
    mut body: Incoming,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, BodyError> {
    use http_body::Body as _;
    // Known before it is read, so that no client is told to go on sending.
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge);
    }
    let input = head.extensions.get::<Input>();
    let collect = async {
        let mut whole = Pieces::default();
        loop {
            let before = input.map_or(0, |Input(activity)| activity.dry());
            let dried = async {
                match input {
                    Some(Input(activity)) => activity.dried(before).await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                biased;
                frame = body.frame() => frame,
                () = dried => return Err(BodyError::Broken),
            };
            let Some(frame) = frame else { return Ok(whole.into_bytes()) };
            if let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() {
                if whole.length() + data.len() > limit {
                    return Err(BodyError::TooLarge);
                }
                whole.push(data);
            }
        }
    };
    tokio::time::timeout(patience, collect).await.unwrap_or(Err(BodyError::Late))
}

/// Pieces of a body, joined only if there are several.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    whole: BytesMut,
}

impl Pieces {
    fn length(&self) -> usize {
        self.first.len() + self.whole.len()
    }

    fn push(&mut self, piece: Bytes) {
        if self.length() == 0 {
            self.first = piece;
            return;
        }
        if self.whole.is_empty() {
            self.whole.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.whole.extend_from_slice(&piece);
    }

    fn into_bytes(self) -> Bytes {
        if self.whole.is_empty() { self.first } else { self.whole.freeze() }
    }
}

/// The connection's activity, in the request's extensions, so that the reader of the body sees the end of input.
#[derive(Debug, Clone)]
pub(super) struct Input(pub(super) Arc<Activity>);

/// Why a body was not collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is over the limit.
    #[error("the body is too large")]
    TooLarge,
    /// It broke off, or its chunks are wrong.
    #[error("the body broke off or its chunks are wrong")]
    Broken,
    /// It took too long.
    #[error("the body took too long")]
    Late,
}

/// Whether the body is malformed, rather than the client gone.
fn is_malformed(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut causes = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    causes.any(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
}

/// Why a body was not read.
#[derive(Debug)]
pub enum Unread {
    /// It is over the limit: the response.
    Refused(Refusal),
    /// The client is gone, or too slow for a response.
    Gone(Cut),
}

/// A decoded query.
#[derive(Debug)]
pub struct Query(Vec<(String, String)>);

/// A refusal: the problem document of the response.
pub type Refusal = Box<Problem>;

impl Query {
    /// Parses a query; names and values are percent-decoded, `+` is a space.
    pub fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// Every value of a name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    ///
    /// # Errors
    /// 400 when it occurs twice.
    pub fn single(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            // The value may be a secret.
            Some(_) => Err(refuse(&format!("{name}: stands once at most"))),
            None => Ok(first),
        }
    }

    /// Like [`Self::single`], for a name whose empty value means that it is absent.
    ///
    /// # Errors
    /// 400 when it occurs twice.
    pub fn optional(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        Ok(self.single(name)?.filter(|value| !value.is_empty()))
    }
}

/// Percent-decodes. Invalid escapes are kept and invalid UTF-8 becomes U+FFFD: neither passes the checks of values.
pub fn percent_decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            (other, ..) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// 400 `bad-parameter`.
pub fn refuse(detail: &str) -> Refusal {
    Box::new(Problem::new(ProblemCode::BAD_PARAMETER, detail))
}

/// The usual size of the head on the wire, in bytes.
fn head_size(head: &Parts) -> usize {
    let line = head.method.as_str().len() + target_len(head) + " HTTP/1.1\r\n".len() + 1;
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    line + fields.sum::<usize>() + 2
}

fn target_len(head: &Parts) -> usize {
    head.uri.path_and_query().map_or(1, |target| target.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_once() {
        for (text, plain) in [
            ("a%3Db", "a=b"),
            ("a%253D", "a%3D"),
            ("a+b", "a b"),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz", "%zz"),
            ("%c3%BC", "ü"),
            ("%ff", "\u{fffd}"),
            ("%0d%0A", "\r\n"),
        ] {
            assert_eq!(percent_decode(text, true), plain, "{text}");
        }
        assert_eq!(percent_decode("a+b", false), "a+b");
    }

    #[test]
    fn a_request_has_one_host_that_is_one() {
        let check = |version, target: &str, hosts: &[&str]| {
            let mut request = http::Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            check_head(&request.body(()).unwrap().into_parts().0).map_err(|problem| {
                assert_eq!(problem.status, 400);
                problem.detail.unwrap()
            })
        };
        for (version, target, hosts) in [
            (Version::HTTP_11, "/pods", &["relay"][..]),
            (Version::HTTP_11, "/pods", &["relay:8080"]),
            (Version::HTTP_11, "/pods", &["[::1]:8080"]),
            (Version::HTTP_11, "/pods", &[""]),
            (Version::HTTP_11, "http://relay/pods", &["relay"]),
            (Version::HTTP_11, "*", &["relay"]),
            (Version::HTTP_10, "/pods", &[]),
            (Version::HTTP_2, "http://relay/pods", &[]),
        ] {
            assert_eq!(check(version, target, hosts), Ok(()), "{target} {hosts:?}");
        }
        for (version, target, hosts, why) in [
            (Version::HTTP_11, "/pods", &[][..], "has a Host"),
            (Version::HTTP_11, "http://relay/pods", &[], "has a Host"),
            (Version::HTTP_11, "/pods", &["a", "b"], "one Host"),
            (Version::HTTP_11, "/pods", &["a", "a"], "one Host"),
            (Version::HTTP_10, "/pods", &["a", "a"], "one Host"),
            (Version::HTTP_11, "/pods", &["a b"], "a host and"),
            (Version::HTTP_11, "/pods", &["user@a"], "a host and"),
            (Version::HTTP_11, "/pods", &["a/b"], "a host and"),
            (Version::HTTP_11, "pods:80", &["a"], "begins with a slash"),
        ] {
            let told = check(version, target, hosts).unwrap_err();
            assert!(told.contains(why), "{target} {hosts:?}: {told}");
        }
    }

    #[test]
    fn a_body_comes_in_chunks_or_as_it_is() {
        let check = |codings: &[&str]| {
            let mut request = http::Request::builder().uri("/").header(HOST, "r");
            for coding in codings {
                request = request.header(TRANSFER_ENCODING, *coding);
            }
            check_head(&request.body(()).unwrap().into_parts().0).map_err(|problem| problem.status)
        };
        for codings in [&[][..], &["chunked"], &["Chunked "]] {
            assert_eq!(check(codings), Ok(()), "{codings:?}");
        }
        for codings in
            [&["chunked, chunked"][..], &["chunked", "chunked"], &["gzip, chunked"], &["chunked,"], &[""]]
        {
            assert_eq!(check(codings), Err(400), "{codings:?}");
        }
    }

    #[test]
    fn the_relays_own_header_goes_before_authorization() {
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>);
        let cases: &[Case<'_>] = &[
            (&[], None),
            (&[("x-relay-token", "a")], Some("a")),
            (&[("authorization", "Bearer b")], Some("b")),
            (&[("authorization", "bearer  b ")], Some("b")),
            (&[("authorization", "Basic b")], None),
            (&[("authorization", "Bearer")], None),
            (&[("authorization", "Bearer ")], None),
            (&[("x-relay-token", "a"), ("authorization", "Bearer b")], Some("a")),
            (&[("x-relay-token", " "), ("authorization", "Bearer b")], Some("b")),
        ];
        for (fields, expected) in cases {
            let headers = fields
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>();
            assert_eq!(credential(&headers), expected.map(str::as_bytes), "{fields:?}");
        }
    }
}
