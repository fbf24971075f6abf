//! `relay bus serve`: a bus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use relay_bus::{
    BusReference, CancellationToken, Component, DispatcherOptions, Engine, EngineOptions, JetStreamEngine,
    JetStreamError, MemoryEngine, MessageDispatcher, MessageReceiver, Metrics, NatsOptions, ReceiverOptions,
    Report,
};
use relay_proto::bus::Destination;
use relay_proto::problem::{Problem, ProblemCode};
use relay_transport::server::{Body, Cut, HttpServer, Settings, full, json, method_not_allowed, problem};
use tokio::time::Instant;

use super::lines::Lines;
use crate::args::{BusServeArgs, EngineArg, Until};
use crate::exit::{Exit, Usage};
use crate::follow::Ending;
use crate::serve::warn_of_open;

pub(super) async fn run(args: BusServeArgs) -> anyhow::Result<Exit> {
    let rules = args.rules()?;
    if let Some(to) = &args.dead_letter {
        // A name is expanded with the namespace of each subscription, which is never empty. The check is not the
        // parser's, whose message would show the credentials of a URL.
        Destination::resolve(to, "default", &args.cluster_domain)
            .map_err(|error| Usage(format!("--dead-letter: {error}")))?;
    }
    let bus = super::choose(&args.which).await?;
    let max_payload = usize::try_from(args.max_payload).unwrap_or(usize::MAX);
    let dispatcher = MessageDispatcher::new(
        DispatcherOptions::default()
            .timeout(args.dispatch_timeout)
            .max_payload(max_payload)
            .rules(rules.clone())
            .cluster_domain(args.cluster_domain.as_str()),
    )?;
    let lines = Lines::in_format(args.output, true);
    let metrics = Arc::new(Metrics::default());
    let told = lines.clone();
    let tell = move |event: &_| told.event(event, false);
    let options = |max_deliver: u32| {
        EngineOptions::default()
            .in_flight(args.in_flight)
            .queue(args.queue)
            .max_deliver(args.max_deliver.unwrap_or(max_deliver))
            .retry_delay(args.retry_delay)
            .dead_letter(args.dead_letter.clone())
            .require_cloudevents(args.require_cloudevents)
    };
    let receiver = ReceiverOptions::default()
        .max_payload(max_payload)
        .rules(rules)
        .require_cloudevents(args.require_cloudevents);
    match args.engine {
        EngineArg::Memory => {
            let engine = MemoryEngine::new(dispatcher, options(1), metrics.clone(), tell);
            serve(args, bus, engine, receiver, metrics, lines).await
        }
        EngineArg::Jetstream => {
            let nats = NatsOptions::default().url(args.nats.as_str()).credentials(args.nats_creds.clone());
            let engine = JetStreamEngine::connect(&nats, dispatcher, options(0), metrics.clone(), tell);
            let engine = engine.await.map_err(|error| match error {
                JetStreamError::Url => anyhow::Error::from(Usage(format!("--nats: {error}"))),
                error => error.into(),
            })?;
            serve(args, bus, engine, receiver, metrics, lines).await
        }
    }
}

/// Runs a bus with this engine, from opening the port to the end.
async fn serve<E: Engine>(
    args: BusServeArgs,
    bus: Option<BusReference>,
    engine: E,
    receiver: ReceiverOptions,
    metrics: Arc<Metrics>,
    lines: Lines,
) -> anyhow::Result<Exit> {
    let receiver = MessageReceiver::with_metrics(engine.clone(), receiver, metrics.clone());
    let settings = Settings::default().drain(args.drain).h2c(true);
    let server = bind(args.listen, &settings).await?;
    let admin = match args.admin_listen {
        Some(address) => Some(bind(address, &settings).await?),
        None => None,
    };
    // A program that has read the line may stop the server at once.
    let ending = Ending::new(Until { max: None, time: None });
    warn_of_open(server.local_addr(), "there is no access control:", "send to every channel at");
    lines.listening("listening", server.local_addr())?;

    let state = Arc::new(State::default());
    let monitor = super::builder(&args.which, Component::Dispatcher)
        .writes(true)
        .report({
            let (lines, engine, state) = (lines.clone(), engine.clone(), state.clone());
            move |report| {
                match report {
                    Report::Ready { .. } => {
                        engine.set_ready();
                        state.ready.store(true, Ordering::Release);
                    }
                    Report::Following { live } => state.live.store(*live, Ordering::Release),
                    _ => {}
                }
                lines.report(report);
            }
        })
        .handler(engine.clone());
    let stop = CancellationToken::new();
    let receiving = tokio::spawn(receiver.run(server, stop.clone()));
    let attending = tokio::spawn({
        let (engine, monitor) = (engine.clone(), monitor.clone());
        async move { engine.attend(&monitor).await }
    });
    if let Some(listening) = admin {
        tracing::warn!(address = %listening.local_addr(), "health and metrics");
        let admin = Arc::new(Admin { metrics, state, engine: engine.clone(), kind: args.engine });
        tokio::spawn(listening.run(admin, stop.clone().cancelled_owned()));
    }
    let (drain, concurrency) = (args.drain, args.which.concurrency);
    let (exit, asked) =
        super::follow(&monitor, bus.as_ref(), concurrency, Some(drain), &stop, &lines, ending).await;
    stop.cancel();
    // Waiting messages are still sent meanwhile.
    let _ = receiving.await;
    engine.drain((asked + drain).saturating_duration_since(Instant::now())).await;
    attending.abort();
    exit
}

async fn bind(address: SocketAddr, settings: &Settings) -> anyhow::Result<HttpServer> {
    let bound = HttpServer::bind(address, settings.clone()).await;
    bound.with_context(|| format!("cannot serve on {address}"))
}

#[derive(Debug, Default)]
struct State {
    ready: AtomicBool,
    live: AtomicBool,
}

/// Health and metrics, on a separate port.
struct Admin<E> {
    metrics: Arc<Metrics>,
    state: Arc<State>,
    engine: E,
    kind: EngineArg,
}

impl<E: Engine> relay_transport::server::Service for Admin<E> {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (ready, live) =
            (self.state.ready.load(Ordering::Acquire), self.state.live.load(Ordering::Acquire));
        let there = self.engine.is_available();
        let kind = match self.kind {
            EngineArg::Memory => "memory",
            EngineArg::Jetstream => "jetstream",
        };
        if !matches!(request.method().as_str(), "GET" | "HEAD") {
            return Ok(method_not_allowed("GET, HEAD"));
        }
        Ok(match request.uri().path() {
            "/livez" => full(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" if ready && live && there => full(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => {
                let why = match (ready, live) {
                    (false, _) => "not synced yet",
                    (true, false) => "the objects are not followed",
                    (true, true) => "the store is not reached",
                };
                problem(&Problem::new(ProblemCode::NOT_READY, why))
            }
            "/health" => {
                let status = if ready && live && there { "ok" } else { "degraded" };
                let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(
                    code,
                    &serde_json::json!({
                        "status": status,
                        "synced": ready,
                        "live": live,
                        "engine": kind,
                        "store": there,
                    }),
                )
            }
            "/metrics" => full(StatusCode::OK, "text/plain; version=0.0.4", self.metrics.render()),
            _ => problem(&Problem::new(
                ProblemCode::NOT_FOUND,
                "there is /health, /livez, /readyz and /metrics",
            )),
        })
    }
}
