//! Responses: headers of the protocol, and headers for browsers.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use relay_transport::server::{Body, full};

use crate::fold::Fold;

/// A response without headers of the protocol.
pub(crate) fn plain(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = full(status, "text/plain; charset=utf-8", body);
    if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        answer.headers_mut().remove(http::header::CONTENT_TYPE);
    }
    answer
}

/// A refusal with its reason.
pub(crate) fn refuse(status: u16, why: &str) -> Response<Body> {
    plain(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), why.to_owned() + "\n")
}

/// Sets a header of the protocol.
pub(crate) fn set(answer: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

/// Sets the headers for the end of a stream.
pub(crate) fn tail(answer: &mut Response<Body>, fold: &Fold) {
    set(answer, "stream-next-offset", &fold.tail.offset());
    if fold.closed {
        set(answer, "stream-closed", "true");
    }
}

/// Headers that allow pages of any origin, and keep browsers from guessing types.
pub(crate) fn for_browsers(answer: &mut Response<Body>) {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
        (
            "access-control-allow-headers",
            "content-type, authorization, if-none-match, stream-seq, stream-ttl, stream-expires-at, stream-closed, \
             stream-forked-from, stream-fork-offset, stream-fork-sub-offset, producer-id, producer-epoch, producer-seq",
        ),
        (
            "access-control-expose-headers",
            "stream-next-offset, stream-cursor, stream-up-to-date, stream-closed, stream-ttl, stream-expires-at, \
             stream-sse-data-encoding, producer-epoch, producer-seq, producer-expected-seq, producer-received-seq, etag, \
             content-type, content-encoding, location, retry-after, vary",
        ),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-resource-policy", "cross-origin"),
    ] {
        set(answer, name, value);
    }
}

/// The body of several records.
pub(crate) fn joined(json: bool, data: &[Bytes]) -> Bytes {
    if !json {
        return match data {
            [one] => one.clone(),
            many => many.concat().into(),
        };
    }
    let mut body = Vec::with_capacity(data.iter().map(|part| part.len() + 1).sum::<usize>() + 2);
    body.push(b'[');
    for (index, part) in data.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(part);
    }
    body.push(b']');
    body.into()
}
