//! Requests over one connection of hyper, without a pool, retries or any interpretation. This is the limit for a
//! client.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

pub(crate) struct Bare {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

impl Bare {
    pub(crate) async fn connect(url: &str) -> Result<Self> {
        let uri: Uri = url.parse()?;
        let authority = uri.authority().context("no host")?.to_string();
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, authority })
    }

    /// Posts a body, and reads the whole answer.
    pub(crate) async fn post(&mut self, url: &str, kind: &str, body: Bytes) -> Result<()> {
        self.post_numbered(url, kind, body, None).await
    }

    /// Posts as the first producer of the stream, with the number of its batch.
    pub(crate) async fn post_numbered(
        &mut self,
        url: &str,
        kind: &str,
        body: Bytes,
        number: Option<u64>,
    ) -> Result<()> {
        let uri: Uri = url.parse()?;
        let target = uri.path_and_query().context("no path")?.as_str();
        let mut request = Request::post(target).header("host", &self.authority).header("content-type", kind);
        if let Some(number) = number {
            request = request
                .header("producer-id", "bare")
                .header("producer-epoch", 0)
                .header("producer-seq", number);
        }
        let request = request.body(Full::new(body))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        ensure!(status.is_success(), "status {status}");
        Ok(())
    }

    /// Reads an answer to its end and discards it. Returns its length and its next offset.
    pub(crate) async fn get(&mut self, url: &str) -> Result<(u64, Option<String>)> {
        let uri: Uri = url.parse()?;
        let target = uri.path_and_query().context("no path")?.as_str();
        let request = Request::get(target).header("host", &self.authority).body(Full::new(Bytes::new()))?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        ensure!(answer.status().is_success(), "status {}", answer.status());
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let next = header("stream-next-offset").filter(|_| header("stream-up-to-date").is_none());
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, |data| data.len() as u64);
        }
        Ok((length, next))
    }
}
