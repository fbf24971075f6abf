//! The event decoder as a `Stream` over any `http_body::Body`: a hyper response, a test body, a body of any framework.
//!
//! If you also want reconnects, redirects and deadlines, use this crate's own client. This example is for programs that
//! already have a response.
//!
//! ```sh
//! cargo run -p relay-transport --example sse_body_stream
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _};
use http_body::Body;
use http_body_util::Full;
use relay_proto::sse::{Decoder, Frame};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let body = Full::new(Bytes::from("event: greeting\ndata: hello\n\n: comment\ndata: bye\n\n"));
    let mut frames = pin!(Frames::new(body));
    while let Some(Ok(frame)) = frames.next().await {
        match frame {
            Frame::Event(event) => println!("{}: {}", event.kind(), event.data()),
            other => println!("{other:?}"),
        }
    }
}

/// The frames of a body. Ends with the body; an error of the body is the last item.
struct Frames<B> {
    /// `None` when it has ended.
    body: Option<Pin<Box<B>>>,
    decoder: Decoder,
}

impl<B: Body> Frames<B> {
    fn new(body: B) -> Self {
        Self { body: Some(Box::pin(body)), decoder: Decoder::default() }
    }
}

impl<B: Body> Stream for Frames<B> {
    type Item = Result<Frame, B::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.decoder.next_frame() {
                return Poll::Ready(Some(Ok(frame)));
            }
            // Nothing is read before the received events are processed: a slow consumer slows the sender.
            let Some(body) = &mut this.body else { return Poll::Ready(None) };
            match ready!(body.as_mut().poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(mut data) = frame.into_data() {
                        // If the body's data is `Bytes`, this copies nothing.
                        this.decoder.feed(data.copy_to_bytes(data.remaining()));
                    }
                }
                Some(Err(error)) => {
                    this.body = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    this.body = None;
                    this.decoder.finish();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http_body_util::StreamBody;

    use super::*;

    async fn frames<B: Body>(body: B) -> Vec<Result<String, B::Error>> {
        Frames::new(body)
            .map(|frame| {
                frame.map(|frame| match frame {
                    Frame::Event(event) => event.data().to_owned(),
                    other => format!("{other:?}"),
                })
            })
            .collect()
            .await
    }

    #[tokio::test]
    async fn a_whole_body_is_decoded() {
        let body = Full::new(Bytes::from("data: a\n\nretry: 5\n\ndata: cut off"));
        assert_eq!(frames(body).await, [Ok("a".to_owned()), Ok("Retry(5ms)".to_owned())]);
    }

    #[tokio::test]
    async fn a_body_that_fails_ends_with_its_error() {
        let chunks = ["data: a\n", "\ndata: b\n\n", "data: c"]
            .map(|chunk| Ok(http_body::Frame::data(Bytes::from(chunk))))
            .into_iter()
            .chain([Err(io::Error::from(io::ErrorKind::ConnectionReset))]);
        let body = StreamBody::new(futures_util::stream::iter(chunks));
        let frames = frames(body).await;
        let [Ok(a), Ok(b), Err(error)] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!((&**a, &**b, error.kind()), ("a", "b", io::ErrorKind::ConnectionReset));
    }
}
