//! `relay bus monitor` and `serve` in front of a fake API server: calls, conditions, events, finalizers, exit codes.

use std::process::Command;

use relay_testkit::{ApiServer, Ask, Reply};
use serde_json::{Value, json};

use super::process::{Running, relay, run_command};
use super::wire::eventually;

const BUSES: &str = "channels.knative.dev/v1alpha1/buses";
const CLUSTER_BUSES: &str = "channels.knative.dev/v1alpha1/clusterbuses";
const CHANNELS: &str = "channels.knative.dev/v1alpha1/channels";
const SUBSCRIPTIONS: &str = "channels.knative.dev/v1alpha1/subscriptions";

fn named(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name}, "spec": spec})
}

/// A bus `ns/b` with one required parameter of channels, a channel and a subscription.
async fn cluster() -> ApiServer {
    let cluster = ApiServer::start().await;
    let parameters = json!({"channel": [{"name": "size"}]});
    cluster.put(BUSES, named("b", json!({"parameters": parameters})));
    let size = json!([{"name": "size", "value": "3"}]);
    cluster.put(CHANNELS, named("c", json!({"bus": "b", "arguments": size})));
    cluster.put(SUBSCRIPTIONS, named("s", json!({"channel": "c", "subscriber": "x"})));
    cluster
}

fn command(cluster: &ApiServer, words: &[&str]) -> Command {
    relay(&[words, &["--master", &cluster.url(), "-o", "json"]].concat())
}

fn monitor(cluster: &ApiServer, words: &[&str]) -> Running {
    Running::start(command(cluster, &[&["bus", "monitor", "--bus", "ns/b"], words].concat()))
}

fn conditions(cluster: &ApiServer, kind: &str, name: &str) -> Vec<String> {
    let object = cluster.get(kind, "ns", name).unwrap();
    let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    list.iter()
        .map(|one| format!("{}={} {}", text(&one["type"]), text(&one["status"]), text(&one["reason"])))
        .collect()
}

fn writes(cluster: &ApiServer) -> usize {
    [Ask::Patch, Ask::PatchStatus, Ask::Create].iter().map(|ask| cluster.count(*ask)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_lines_and_nothing_is_written_without_exec() {
    let cluster = cluster().await;
    cluster.put(CHANNELS, named("lacks", json!({"bus": "b"})));
    cluster.put(CHANNELS, named("foreign", json!({"clusterBus": "b"})));
    let running = monitor(&cluster, &["--max", "5"]);
    let mut lines: Vec<_> = (0..5).map(|_| running.json()).collect();
    assert_eq!(lines[0], json!({"event": "synced", "channels": 3, "subscriptions": 1}));
    assert_eq!((&lines[1]["event"], &lines[1]["bus"]), (&json!("bus"), &json!("ns/b")));
    lines.drain(..2);
    lines.sort_by_key(|line| line["event"].to_string());
    assert_eq!(lines[0], json!({"event": "missing-arguments", "channel": "ns/lacks", "missing": ["size"]}));
    assert_eq!(
        lines[1],
        json!({
            "event": "provision", "channel": "ns/c", "bus": "ns/b", "parameters": {"size": "3"},
            "arguments": [{"name": "size", "value": "3"}], "attempt": 1, "error": null,
        })
    );
    assert_eq!(
        lines[2],
        json!({
            "event": "subscribe", "subscription": "ns/s", "channel": "ns/c", "subscriber": "x", "reply_to": null,
            "parameters": {}, "attempt": 1, "error": null,
        })
    );
    running.wait().expect(0);
    assert_eq!(writes(&cluster), 0);
    for (_, request) in cluster.requests() {
        assert!(request.path().contains("/namespaces/ns/"), "rule 18: {}", request.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_exec_the_call_is_the_command_and_its_outcome_is_written() {
    let cluster = cluster().await;
    cluster.put(CHANNELS, named("lacks", json!({"bus": "b"})));
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let failed = directory.path().join("failed");
    // The first subscribe fails with a message. The script writes all calls to a file.
    let script = format!(
        "line=$(cat); echo \"$line\" >> {told}; case $line in *'\"subscribe\"'*) test -e {failed} || \
         {{ touch {failed}; echo 'not yet' >&2; echo more >&2; exit 7; }};; esac",
        told = told.display(),
        failed = failed.display(),
    );
    let running = monitor(&cluster, &["--exec", &script, "--component", "provisioner"]);
    let lines = running.until(|line| line["event"] == "subscribe" && line["error"].is_null());
    let subscribes: Vec<_> = lines.iter().filter(|line| line["event"] == "subscribe").collect();
    assert_eq!((&subscribes[0]["error"], &subscribes[0]["attempt"]), (&json!("not yet"), &json!(1)));
    assert_eq!(subscribes[1]["attempt"], 2);
    let of = |kind, name| conditions(&cluster, kind, name);
    eventually("the conditions", || {
        let fits = of(SUBSCRIPTIONS, "s") == ["Dispatching=True Synced"]
            && of(CHANNELS, "c") == ["Provisioned=True Synced", "Ready=True Ready"]
            && of(CHANNELS, "lacks").first().is_some_and(|one| one == "Provisioned=False MissingArguments");
        fits.then_some(())
    });
    let given = std::fs::read_to_string(&told).unwrap();
    let first: Value = serde_json::from_str(given.lines().next().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["error"]), (&json!("bus"), &Value::Null));
    assert!(first.get("error").is_none(), "the line without its outcome: {first}");
    for message in [
        "Bus synched successfully",
        "Channel provisioned successfully",
        "Error subscribing: not yet",
        "Subscribed successfully",
        "missing required arguments: [size]",
    ] {
        // An event is created after the conditions are written.
        let event = eventually(message, || {
            let created = cluster.requests().into_iter().filter(|(ask, _)| *ask == Ask::Create);
            let mut events =
                created.map(|(_, request)| serde_json::from_slice::<Value>(request.body()).unwrap());
            events.find(|event| event["message"] == message)
        });
        assert_eq!(event["source"]["component"], "b-provisioner");
    }
    cluster.delete(CHANNELS, "ns", "c");
    let lines = running.until(|line| line["event"] == "unprovision");
    assert_eq!(
        lines[lines.len() - 2],
        json!({
            "event": "unsubscribe", "subscription": "ns/s", "channel": "ns/c", "attempt": 1, "error": null,
        })
    );
    running.signal("TERM");
    assert_eq!(running.wait().code, Some(143));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_among_the_handlers_is_neither_told_nor_written() {
    let cluster = cluster().await;
    cluster.put(CHANNELS, named("lacks", json!({"bus": "b"})));
    let words = ["--handlers", "subscribe,unsubscribe", "--exec", "true", "--finalizer", "--max", "2"];
    let running = monitor(&cluster, &words);
    assert_eq!(running.json()["event"], "synced");
    assert_eq!(running.json()["event"], "subscribe", "the channel counts as provisioned");
    running.wait().expect(0);
    let channel = cluster.get(CHANNELS, "ns", "c").unwrap();
    assert_eq!((&channel["status"], &channel["metadata"]["finalizers"]), (&Value::Null, &Value::Null));
    assert!(conditions(&cluster, CHANNELS, "lacks").is_empty());
    let quiet = monitor(&cluster, &["--exec", "true", "--no-status", "--max", "4"]);
    let before = writes(&cluster);
    quiet.wait().expect(0);
    assert_eq!(writes(&cluster), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_17_a_finalizer_is_put_before_the_call_and_taken_after_the_last() {
    const OURS: &str = "channels.knative.dev/relay-dispatcher";
    let cluster = cluster().await;
    let mut channel = cluster.get(CHANNELS, "ns", "c").unwrap();
    channel["metadata"]["finalizers"] = json!(["others/one"]);
    cluster.put(CHANNELS, channel);
    let running = monitor(&cluster, &["--exec", "true", "--finalizer"]);
    running.until(|line| line["event"] == "subscribe");
    let finalizers =
        |kind, name| cluster.get(kind, "ns", name).map(|object| object["metadata"]["finalizers"].clone());
    assert_eq!(finalizers(CHANNELS, "c"), Some(json!(["others/one", OURS])));
    assert_eq!(finalizers(SUBSCRIPTIONS, "s"), Some(json!([OURS])));
    drop(running);
    // The objects are deleted while no bus runs.
    for (kind, name) in [(CHANNELS, "c"), (SUBSCRIPTIONS, "s")] {
        let mut object = cluster.get(kind, "ns", name).unwrap();
        object["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        cluster.put(kind, object);
    }
    let running = monitor(&cluster, &["--exec", "true", "--finalizer"]);
    let lines = running.until(|line| line["event"] == "unprovision");
    assert!(lines.iter().any(|line| line["event"] == "unsubscribe"), "{lines:?}");
    assert!(!lines.iter().any(|line| line["event"] == "provision"), "{lines:?}");
    eventually("others' finalizers stay", || {
        let gone = finalizers(SUBSCRIPTIONS, "s").is_none_or(|list| list == json!([]) || list.is_null());
        (finalizers(CHANNELS, "c") == Some(json!(["others/one"])) && gone).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_not_there_is_exit_3_and_an_api_server_that_refuses_is_waited_for() {
    let cluster = cluster().await;
    for words in [
        &["bus", "monitor", "--bus", "ns/absent"][..],
        &["bus", "monitor", "--cluster-bus", "b"],
        &["bus", "serve", "--listen", "127.0.0.1:0", "--bus", "other/b"],
    ] {
        run_command(command(&cluster, words)).expect(3);
    }
    cluster.always(Ask::List, Reply::empty(500));
    let running = monitor(&cluster, &["--max", "1"]);
    running.until_stderr(|text| text.contains("500"));
    cluster.restore(Ask::List);
    assert_eq!(running.json()["event"], "synced");
    running.wait().expect(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_2018_names_the_bus() {
    let cluster = cluster().await;
    cluster.put(CLUSTER_BUSES, json!({"metadata": {"name": "all"}, "spec": {}}));
    for (namespace, bus) in [("ns", "ns/b"), ("", "all")] {
        let mut monitor = command(&cluster, &["bus", "monitor", "--max", "2"]);
        monitor
            .env("BUS_NAME", if namespace.is_empty() { "all" } else { "b" })
            .env("BUS_NAMESPACE", namespace);
        assert_eq!(run_command(monitor).expect(0).json()[1]["bus"], bus);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rule_15_others_conditions_survive_a_conflict_and_a_type_without_a_status_subresource() {
    let cluster = cluster().await;
    cluster.without_status(CHANNELS);
    let mut channel = cluster.get(CHANNELS, "ns", "c").unwrap();
    channel["status"] =
        json!({"conditions": [{"type": "Serviceable", "status": "False", "by": "another"}], "field": 1});
    cluster.put(CHANNELS, channel);
    cluster
        .reply(Ask::Patch, Reply::json(409, &json!({"kind": "Status", "code": 409, "reason": "Conflict"})));
    let running = monitor(&cluster, &["--exec", "true"]);
    let lines = running.until(|line| line["event"] == "subscribe");
    assert_eq!(lines.iter().filter(|line| line["event"] == "provision").count(), 1, "no call for its sake");
    eventually("the condition", || {
        let said = conditions(&cluster, CHANNELS, "c");
        (said.len() == 3).then_some(said)
    });
    let status = cluster.get(CHANNELS, "ns", "c").unwrap()["status"].clone();
    assert_eq!((&status["field"], &status["conditions"][0]["by"]), (&json!(1), &json!("another")));
    let said = conditions(&cluster, CHANNELS, "c");
    assert_eq!(said[1..], ["Provisioned=True Synced", "Ready=False NotServiceable"]);
}
