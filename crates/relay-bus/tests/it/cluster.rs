use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay_bus::{
    BusReference, CancellationToken, ChannelReference, ChannelSpec, Component, HandlerError, Monitor,
    MonitorHandler, Report, ResolvedParameters,
};
use relay_testkit::ApiServer;
use serde_json::json;
use tokio::sync::mpsc;

/// A handler that fails this many times before it provisions.
struct Provisioner(Mutex<u32>);

impl MonitorHandler for Provisioner {
    async fn provision(
        &self,
        _: &ChannelReference,
        _: &ChannelSpec,
        _: &ResolvedParameters,
    ) -> Result<(), HandlerError> {
        let mut left = self.0.lock().unwrap();
        if *left > 0 {
            *left -= 1;
            return Err(HandlerError::failed("not yet"));
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_cluster_is_followed_and_conditions_are_written() {
    const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";
    let cluster = ApiServer::start().await;
    let meta = |name: &str| json!({"namespace": "ns", "name": name});
    cluster.put("channels.knative.dev/v1alpha1/buses", json!({"metadata": meta("b"), "spec": {}}));
    cluster.put(CHANNELS, json!({"metadata": meta("c"), "spec": {"bus": "b"}}));
    let (tell, mut reports) = mpsc::unbounded_channel();
    let monitor = Monitor::builder(Component::Provisioner)
        .master_url(Some(cluster.url()))
        .writes(true)
        .report(move |report| drop(tell.send(report.clone())))
        .handler(Provisioner(Mutex::new(1)));
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (monitor, stop) = (monitor.clone(), stop.clone());
        async move { monitor.run(&BusReference::new("b", "ns"), 4, stop).await }
    });
    let mut errors = Vec::new();
    while errors.last() != Some(&None) {
        let report = tokio::time::timeout(Duration::from_secs(60), reports.recv()).await.unwrap().unwrap();
        if let Report::Called { error, .. } = report {
            errors.push(error);
        }
    }
    assert_eq!(errors, [Some("not yet".to_owned()), None]);
    assert!(monitor.channel("c", "ns").is_some());
    assert_eq!(monitor.subscriptions("c", "ns").map(|list| list.len()), Some(0));
    assert!(monitor.subscriptions("d", "ns").is_none());
    let status = || cluster.get(CHANNELS, "ns", "c").unwrap()["status"]["conditions"].clone();
    let written = async {
        while !(status().to_string().contains("\"Ready\"") && status()[0]["status"] == "True") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("the condition");
    assert_eq!(status()[0]["message"], "Channel provisioned successfully");
    stop.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_the_bus_it_ends_and_says_so() {
    let cluster = Arc::new(ApiServer::start().await);
    let monitor = Monitor::builder(Component::Dispatcher)
        .master_url(Some(cluster.url()))
        .handler(Provisioner(Mutex::new(0)));
    let bus = BusReference::cluster("absent");
    let run = monitor.run(&bus, 4, CancellationToken::new());
    let error = tokio::time::timeout(Duration::from_secs(60), run).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "there is no bus absent");
}
