//! `relay bus receive`: a subscriber for people and tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use relay_bus::CancellationToken;
use relay_transport::server::{Body, Cut, HttpServer, Service, Settings, full};
use serde_json::{Map, json};

use super::lines::Lines;
use crate::args::BusReceiveArgs;
use crate::exit::{Exit, signalled};
use crate::output::Output;

/// The highest number of bytes of a message.
const LARGEST: usize = 64 << 20;

pub(super) async fn run(args: BusReceiveArgs) -> anyhow::Result<Exit> {
    let lines = Lines::new(Output::new(args.print), false);
    let server = HttpServer::bind(args.listen, Settings::default())
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    let signalled = signalled();
    lines.listening("receiving", server.local_addr())?;
    let stop = CancellationToken::new();
    let told = lines.clone();
    let until = args.until;
    let subscriber = Subscriber { args, lines, stop: stop.clone(), taken: AtomicU64::new(0) };
    let serving = tokio::spawn(server.run(Arc::new(subscriber), stop.clone().cancelled_owned()));
    let time = async {
        match until.time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let exit = tokio::select! {
        exit = signalled => exit,
        () = stop.cancelled() => Exit::Done,
        () = told.gone.cancelled() => Exit::Done,
        () = time => Exit::Done,
    };
    stop.cancel();
    let _ = serving.await;
    told.fault().map_or(Ok(exit), Err)
}

struct Subscriber {
    args: BusReceiveArgs,
    lines: Lines,
    stop: CancellationToken,
    taken: AtomicU64,
}

impl Service for Subscriber {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        // An incomplete body is not a message.
        let body = http_body_util::Limited::new(body, LARGEST).collect().await.map_err(|_| Cut)?.to_bytes();
        let host = match head.uri.authority() {
            Some(authority) => authority.to_string(),
            None => head.headers.get(HOST).map_or(String::new(), lossy),
        };
        let mut headers = Map::new();
        for (name, value) in &head.headers {
            headers.entry(name.as_str()).or_insert_with(|| lossy(value).into());
        }
        let text = std::str::from_utf8(&body).ok();
        let shown = match text {
            Some(text) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect(),
            None => format!("{} bytes", body.len()),
        };
        let number = self.taken.fetch_add(1, Ordering::AcqRel) + 1;
        if self.args.until.max.is_some_and(|max| number > max) {
            // This message came after the last wanted one, before the port was closed.
            return Err(Cut);
        }
        self.lines.print(
            || {
                json!({
                    "event": "message",
                    "host": host,
                    "headers": headers,
                    "bytes": body.len(),
                    "data": text,
                    "data_base64": text.is_none().then(|| STANDARD.encode(&body)),
                })
            },
            || format!("{host}: {shown}"),
        );
        let last = self.args.until.max == Some(number);
        if let Some(delay) = self.args.delay {
            tokio::time::sleep(delay).await;
        }
        if last {
            self.stop.cancel();
        }
        Ok(self.reply())
    }
}

impl Subscriber {
    fn reply(&self) -> Response<Body> {
        let body = self.args.reply.clone().unwrap_or_default();
        let usual = if body.is_empty() { 202 } else { 200 };
        let status = StatusCode::from_u16(self.args.status.unwrap_or(usual)).unwrap_or(StatusCode::OK);
        let mut response = full(status, "text/plain", Bytes::from(body));
        for (name, value) in &self.args.reply_headers {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes()))
            {
                response.headers_mut().insert(name, value);
            }
        }
        response
    }
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_utf_8_in_a_header_is_shown_as_it_is() {
        assert_eq!(lossy(&HeaderValue::from_bytes("ü".as_bytes()).unwrap()), "ü");
    }
}
