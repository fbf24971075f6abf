//! `relay bus serve`: a bus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use relay_bus::{
    CancellationToken, Component, DispatcherOptions, EngineOptions, MemoryEngine, MessageDispatcher,
    MessageReceiver, Metrics, ReceiverOptions, Report,
};
use relay_proto::problem::{Problem, ProblemCode};
use relay_transport::server::{Body, Cut, HttpServer, Settings, full, json, method_not_allowed, problem};

use super::lines::Lines;
use crate::args::{BusServeArgs, Until};
use crate::exit::Exit;
use crate::follow::Ending;

pub(super) async fn run(args: BusServeArgs) -> anyhow::Result<Exit> {
    let rules = args.rules()?;
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
    let engine = MemoryEngine::new(
        dispatcher,
        EngineOptions::default()
            .in_flight(args.in_flight)
            .queue(args.queue)
            .max_deliver(args.max_deliver.unwrap_or(1))
            .retry_delay(args.retry_delay)
            .dead_letter(args.dead_letter.clone())
            .require_cloudevents(args.require_cloudevents),
        metrics.clone(),
        move |event| told.event(event, false),
    );
    let receiver = MessageReceiver::with_metrics(
        engine.clone(),
        ReceiverOptions::default()
            .max_payload(max_payload)
            .rules(rules)
            .require_cloudevents(args.require_cloudevents),
        metrics.clone(),
    );
    let settings = Settings::default().drain(args.drain);
    let server = HttpServer::bind(args.listen, settings.clone())
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    let admin = match args.admin_listen {
        Some(address) => Some(
            HttpServer::bind(address, settings)
                .await
                .with_context(|| format!("cannot serve on {address}"))?,
        ),
        None => None,
    };
    // Whoever has read the line may end the server.
    let ending = Ending::new(Until { max: None, time: None });
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
    let drops = tokio::spawn({
        let engine = engine.clone();
        async move { engine.tell_drops().await }
    });
    if let Some(admin) = admin {
        tracing::warn!(address = %admin.local_addr(), "health and metrics");
        tokio::spawn(admin.run(Arc::new(Admin { metrics, state }), stop.clone().cancelled_owned()));
    }
    let exit = super::follow(&monitor, bus.as_ref(), args.which.concurrency, &stop, &lines, ending).await;
    stop.cancel();
    let _ = receiving.await;
    engine.drain(args.drain).await;
    drops.abort();
    exit
}

#[derive(Debug, Default)]
struct State {
    ready: AtomicBool,
    live: AtomicBool,
}

/// Health and metrics, on a port of their own.
struct Admin {
    metrics: Arc<Metrics>,
    state: Arc<State>,
}

impl relay_transport::server::Service for Admin {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
        let (ready, live) =
            (self.state.ready.load(Ordering::Acquire), self.state.live.load(Ordering::Acquire));
        if !matches!(request.method().as_str(), "GET" | "HEAD") {
            return Ok(method_not_allowed("GET, HEAD"));
        }
        Ok(match request.uri().path() {
            "/livez" => full(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" if ready && live => full(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => {
                let why = if ready { "the objects are not followed" } else { "not synced yet" };
                problem(&Problem::new(ProblemCode::NOT_READY, why))
            }
            "/health" => {
                let status = if ready && live { "ok" } else { "degraded" };
                let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                json(
                    code,
                    &serde_json::json!({"status": status, "synced": ready, "live": live, "engine": "memory"}),
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
