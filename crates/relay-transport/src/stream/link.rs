//! One connection, from the request to the last byte of the answer.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use relay_proto::eventsource::{Attempt, End, Refused, ResponseHead};
use tracing::{Instrument, Span, field};

use super::complete;
use crate::error::{line, shown};
use crate::{Error, HttpClient};

/// What the driver holds of a connection, and the span that its log lines stand in.
pub(super) struct Link {
    state: State,
    span: Span,
}

enum State {
    None,
    Opening(BoxFuture<'static, Result<Head, Input>>),
    Open(Incoming),
}

/// What may come of it.
pub(super) enum Input {
    Head(Head),
    Bytes(Bytes),
    End(End),
    Refused(Refused),
}

/// The head of an answer and the URL that was asked. The body is here only until the link takes it.
pub(super) struct Head {
    url: String,
    response: Response<Option<Incoming>>,
}

impl Link {
    pub(super) fn none() -> Self {
        Self { state: State::None, span: Span::none() }
    }

    pub(super) fn open(
        http: HttpClient,
        request: BoxFuture<'static, Result<Request<Full<Bytes>>, Refused>>,
        attempt: Attempt,
    ) -> Self {
        let span = tracing::debug_span!("connection", url = field::Empty, attempt = attempt.number());
        let opening = async move {
            let mut request = request.await.map_err(Input::Refused)?;
            complete(&mut request, &attempt).map_err(Input::Refused)?;
            let url = request.uri().to_string();
            Span::current().record("url", shown(request.uri()));
            match http.exchange(request).await {
                Ok(response) => Ok(Head { url, response: response.map(Some) }),
                Err(error @ Error::Url { .. }) => Err(Input::Refused(Refused::permanent(error.line()))),
                Err(error) => Err(Input::End(End::Io(error.line()))),
            }
        };
        Self { state: State::Opening(Box::pin(opening.instrument(span.clone()))), span }
    }

    /// Ends the connection, if there is one.
    pub(super) fn close(&mut self) {
        self.state = State::None;
    }

    pub(super) fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<Input> {
        match &mut self.state {
            State::None => Poll::Pending,
            State::Opening(opening) => opening.as_mut().poll(cx).map(|result| match result {
                Ok(mut head) => {
                    tracing::debug!(parent: &self.span, status = head.response.status().as_u16(), "answered");
                    self.state = head.response.body_mut().take().map_or(State::None, State::Open);
                    Input::Head(head)
                }
                Err(input) => {
                    self.close();
                    input
                }
            }),
            State::Open(body) => loop {
                match std::task::ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        // Trailers say nothing about events.
                        if let Ok(bytes) = frame.into_data() {
                            return Poll::Ready(Input::Bytes(bytes));
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Input::End(End::Io(line(&error)))),
                    None => return Poll::Ready(Input::End(End::Eof)),
                }
            },
        }
    }

    /// The connection, or the attempt at one, is over, and why.
    pub(super) fn end(&mut self, why: &dyn fmt::Display) {
        tracing::debug!(parent: &self.span, %why, "ended");
        self.close();
    }
}

impl Head {
    pub(super) fn for_machine(&self) -> ResponseHead<'_> {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut head = ResponseHead::new(self.response.status().as_u16(), &self.url).unix_time(since_1970);
        for (name, value) in self.response.headers() {
            head = head.header(name.as_str(), value.as_bytes());
        }
        head
    }
}
