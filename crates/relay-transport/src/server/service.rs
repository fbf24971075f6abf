//! The service behind a server.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;

use super::answer::{Body, Cut};

/// A handler of requests, such as a function `async fn(Request<Incoming>) -> Result<Response<Body>, Cut>`.
///
/// A response whose content type is `text/event-stream` is a stream: it has no deadline for the whole of it, and
/// ends when the client closes its sending side.
pub trait Service: Send + Sync + 'static {
    /// Handles one request. [`Cut`] ends the connection without a response.
    fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Cut>> + Send;
}

impl<F, A> Service for F
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response<Body>, Cut>> + Send,
{
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        self(request).await
    }
}

/// A [`Service`] behind a trait object, so that hyper's connection is compiled once and not in every server.
pub(super) trait Answers: Send + Sync {
    fn boxed_answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, Cut>>;
}

impl<S: Service> Answers for S {
    fn boxed_answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, Cut>> {
        self.answer(request).boxed()
    }
}
