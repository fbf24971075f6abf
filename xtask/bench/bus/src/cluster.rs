//! Thousands of channels and subscriptions on an API server: the time from the lists to the last call, and of one
//! change among many failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use relay_bench_report::{Bar, Figure, Options};
use relay_bus::{
    BusReference, Call, CancellationToken, Component, HandlerError, Job, Monitor, MonitorHandler, Report,
};
use relay_testkit::ApiServer;
use serde_json::{Value, json};
use tokio::sync::mpsc;

const OBJECTS: usize = 5000;
const FAILING: usize = 1000;
const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";

/// A handler that does nothing, and fails for some channels on command.
struct Handler(Arc<AtomicBool>);

impl MonitorHandler for Handler {
    async fn call(&self, job: &Job) -> Result<(), HandlerError> {
        match &job.call {
            Call::Provision { parameters, .. }
                if self.0.load(Ordering::Acquire)
                    && parameters.get("mode").is_some_and(|mode| mode == "fails") =>
            {
                Err(HandlerError::failed("it was told to"))
            }
            _ => Ok(()),
        }
    }
}

enum Seen {
    Synced,
    Ready,
    Provisioned(String, bool),
}

fn channel(number: usize, mode: &str) -> Value {
    let arguments = json!([{"name": "mode", "value": mode}]);
    json!({
        "metadata": {"namespace": "ns", "name": format!("c{number}")},
        "spec": {"bus": "b", "arguments": arguments},
    })
}

pub(crate) fn run(options: &Options) -> Result<Vec<Figure>> {
    let changes = if options.quick { 10 } else { 50 };
    tokio::runtime::Runtime::new()?.block_on(async {
        let cluster = ApiServer::start().await;
        cluster.put(
            "channels.knative.dev/v1alpha1/buses",
            json!({"metadata": {"namespace": "ns", "name": "b"}, "spec": {"parameters": {"channel": [{"name": "mode"}]}}}),
        );
        for number in 0..OBJECTS {
            cluster.put(CHANNELS, channel(number, "works"));
            cluster.put(
                "channels.knative.dev/v1alpha1/subscriptions",
                json!({
                    "metadata": {"namespace": "ns", "name": format!("s{number}")},
                    "spec": {"channel": format!("c{number}"), "subscriber": "x"},
                }),
            );
        }
        let failing = Arc::new(AtomicBool::new(false));
        let (tell, mut seen) = mpsc::unbounded_channel();
        let monitor = Monitor::builder(Component::Dispatcher)
            .master_url(Some(cluster.url()))
            .writes(true)
            .report(move |report| {
                let event = match report {
                    Report::Synced { .. } => Seen::Synced,
                    Report::Ready { .. } => Seen::Ready,
                    Report::Called { job, error } => match &job.call {
                        Call::Provision { channel, .. } => Seen::Provisioned(channel.to_string(), error.is_none()),
                        _ => return,
                    },
                    _ => return,
                };
                let _ = tell.send((Instant::now(), event));
            })
            .handler(Handler(failing.clone()));
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { monitor.run(&BusReference::new("b", "ns"), 4, stop).await }
        });
        let mut next = async |what: &str, fits: &mut dyn FnMut(&Seen) -> bool| -> Result<Instant> {
            let found = async {
                loop {
                    let (at, event) = seen.recv().await.context("the monitor ended")?;
                    if fits(&event) {
                        return Ok(at);
                    }
                }
            };
            tokio::time::timeout(Duration::from_secs(600), found).await.with_context(|| what.to_owned())?
        };
        let synced = next("synced", &mut |event| matches!(event, Seen::Synced)).await?;
        let ready = next("ready", &mut |event| matches!(event, Seen::Ready)).await?;
        let all = (ready - synced).as_secs_f64();

        failing.store(true, Ordering::Release);
        for number in 0..FAILING {
            cluster.put(CHANNELS, channel(number, "fails"));
        }
        let mut left = FAILING;
        next("all of them failing", &mut |event| {
            left -= usize::from(matches!(event, Seen::Provisioned(_, false)) && left > 0);
            left == 0
        })
        .await?;
        let mut longest = Duration::ZERO;
        for round in 0..changes {
            let number = OBJECTS - 1 - round;
            let name = format!("ns/c{number}");
            let begin = Instant::now();
            cluster.put(CHANNELS, channel(number, "changed"));
            let called = next(&name, &mut |event| matches!(event, Seen::Provisioned(of, true) if *of == name)).await?;
            longest = longest.max(called - begin);
        }
        stop.cancel();
        running.await??;
        ensure!(!longest.is_zero(), "nothing was changed");
        Ok(vec![
            Figure::new("cluster", "5,000 channels and 5,000 subscriptions, lists to last call", "s", all)
                .bar(Bar::AtMost(5.0)),
            Figure::new(
                "cluster",
                format!("a changed channel, 1,000 others failing, longest of {changes}"),
                "ms",
                longest.as_secs_f64() * 1e3,
            )
            .bar(Bar::AtMost(100.0)),
        ])
    })
}
