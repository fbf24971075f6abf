//! Responses: whole bodies, JSON, problem documents.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use relay_proto::problem::{Problem, ProblemCode};
use serde::Serialize;

/// The body is incomplete: the connection is cut, so that the client cannot take it for a whole one.
#[derive(Debug, thiserror::Error)]
#[error("the answer was given up")]
pub struct Cut;

/// The body of a response: whole, or streamed. Its error cuts the connection.
pub type Body = UnsyncBoxBody<Bytes, Cut>;

/// A whole body.
pub fn full(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync();
    with_body(status, content_type, body)
}

/// A response with any body.
pub fn with_body(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON document.
pub fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(document).expect("documents have text keys and finite numbers");
    full(status, "application/json", body)
}

/// A problem document with the headers that go with its status.
pub fn problem(problem: &Problem) -> Response<Body> {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(problem).expect("problems are plain text");
    let mut response = full(status, "application/problem+json", body);
    let headers = response.headers_mut();
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

/// 405 with the methods that the path takes.
pub fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let detail = format!("the path takes {allow}");
    let mut response = problem(&Problem::new(ProblemCode::METHOD_NOT_ALLOWED, detail));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Seconds as a JSON number, an integer if possible.
pub fn seconds(duration: Duration) -> serde_json::Number {
    if duration.subsec_nanos() == 0 {
        return duration.as_secs().into();
    }
    serde_json::Number::from_f64(duration.as_secs_f64()).expect("a duration is finite")
}
