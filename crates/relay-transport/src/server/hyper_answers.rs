//! Responses that hyper gives by itself to malformed heads: they have no body and get a problem document.
//!
//! Their form is not part of hyper's interface: the tests below check the assumptions.

use relay_proto::problem::{Problem, ProblemCode};

use super::request::HEAD_RULE;

/// The response that replaces `bytes`, if `bytes` are a response of hyper's own.
pub(super) fn substitute_for(bytes: &[u8]) -> Option<Vec<u8>> {
    let rest = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?;
    let problem = match rest.get(..4)? {
        b"400 " => Problem::new(ProblemCode::BAD_PARAMETER, "request: it is not well-formed HTTP/1.1"),
        b"414 " | b"431 " => Problem::new(ProblemCode::HEAD_TOO_LARGE, HEAD_RULE),
        _ => return None,
    };
    let head = std::str::from_utf8(bytes).ok()?.to_ascii_lowercase();
    if !head.ends_with("\r\n\r\n") || !head.contains("\r\ncontent-length: 0\r\n") {
        return None;
    }
    let reason = if problem.status == 400 { "Bad Request" } else { "Request Header Fields Too Large" };
    let body = serde_json::to_string(&problem).expect("problems are plain text");
    let (status, length) = (problem.status, body.len());
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n"
    );
    Some((head + &body).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The response of hyper 1.12 to a malformed head. A new version of hyper must still write the same.
    #[tokio::test]
    async fn hyper_answers_as_it_did() {
        type Nothing = http_body_util::Empty<bytes::Bytes>;
        let long = "y".repeat(70_000);
        for (request, status) in [
            ("nonsense\r\n\r\n".to_owned(), "400 Bad Request"),
            (format!("GET / HTTP/1.1\r\nx: {long}{long}"), "431 Request Header Fields Too Large"),
            (format!("GET /{long} HTTP/1.1\r\nhost: r\r\n\r\n"), "414 URI Too Long"),
        ] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(Nothing::new()))
            });
            client.write_all(request.as_bytes()).await.unwrap();
            let mut http = hyper::server::conn::http1::Builder::new();
            http.max_buf_size(100_000);
            let _ = http.serve_connection(hyper_util::rt::TokioIo::new(server), service).await;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer);
            assert!(text.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{text}");
            assert!(substitute_for(&answer).is_some(), "{text}");
        }
    }

    #[test]
    fn only_bare_error_heads_are_replaced() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(substitute_for(bare.as_bytes()).unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("urn:relay:problem:head-too-large"), "{body}");
        let long_target = bare.replace("431 Request Header Fields Too Large", "414 URI Too Long");
        assert!(substitute_for(long_target.as_bytes()).unwrap().starts_with(b"HTTP/1.1 431 "));
        assert!(substitute_for(bare.replace("431", "400").as_bytes()).unwrap().starts_with(b"HTTP/1.1 400 "));
        for other in [
            bare.replace("431", "200"),
            bare.replace("length: 0", "length: 5"),
            format!("{bare}body"),
            format!("x{bare}"),
            bare[..20].into(),
        ] {
            assert_eq!(substitute_for(other.as_bytes()), None, "{other}");
        }
    }
}
