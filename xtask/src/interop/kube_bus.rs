//! `relay bus monitor` on the real API server, as a user who has the rights of `relay bus crds --rbac` and no others.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::{BUS, Cluster};
use super::printing::Printing;
use super::relay::SOON;
use super::{Run, wait_for};
use crate::workspace::output;

/// The number of channels, and of threads that create them.
const CHANNELS: usize = 2000;
const MAKERS: usize = 8;
const GROUP: &str = "/apis/channels.knative.dev/v1alpha1";

/// Takes the steps.
pub(super) fn run(run: &mut Run, relay: &Path, cluster: &mut Cluster) -> Result<()> {
    let directory = run.directory().to_owned();
    let kubeconfig = cluster.kubeconfig_of(cluster.port(), BUS)?.display().to_string();
    let monitor = |more: &[&str]| {
        let words = ["bus", "monitor", "--cluster-bus", "b", "--kubeconfig", &kubeconfig];
        Printing::start(relay, &[&words[..], more].concat(), &directory.join("bus.log"))
    };
    cluster.create_namespace("bus")?;
    run.step("the definitions and the role of relay bus crds are taken", || definitions(relay, cluster));
    let mut following: Option<Printing> = None;
    run.step(&format!("{CHANNELS} channels are provisioned within 5 s of the list"), || {
        cluster.call(
            "POST",
            &format!("{GROUP}/clusterbuses"),
            Some(&object("ClusterBus", "b", json!({}))),
        )?;
        std::thread::scope(|scope| -> Result<()> {
            let makers: Vec<_> = (0..MAKERS)
                .map(|maker| {
                    let cluster = &*cluster;
                    scope.spawn(move || {
                        (maker..CHANNELS)
                            .step_by(MAKERS)
                            .try_for_each(|at| create(cluster, &format!("c{at}")))
                    })
                })
                .collect();
            makers.into_iter().try_for_each(|maker| maker.join().expect("no panic"))
        })?;
        let mut started = monitor(&[])?;
        let synced = started.until("the lists", 0, |line| line["event"] == "synced")?;
        ensure!(synced["channels"] == CHANNELS, "{synced}");
        let begin = Instant::now();
        until_calls(&mut started, 0, "provision", CHANNELS)?;
        ensure!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        println!("   {CHANNELS} calls in {:?}", begin.elapsed());
        following = Some(started);
        Ok(())
    });
    run.step("a killed API server comes back: one change, one call", || {
        let following = following.as_mut().context("nothing follows")?;
        following.catch_up()?;
        let start = following.seen.len();
        cluster.kill()?;
        cluster.run()?;
        create(cluster, "after-kill")?;
        following.until("the call", start, |line| line["channel"] == "bus/after-kill")?;
        ensure!(following.seen.len() == start + 1, "{:?}", &following.seen[start..]);
        Ok(())
    });
    run.step("versions that go back are noticed, and only differences are called", || {
        let following = following.as_mut().context("nothing follows")?;
        cluster.kill()?;
        cluster.save()?;
        cluster.run()?;
        create(cluster, "undone")?;
        // The API server was killed twice within seconds, so the next attempt may come after 30 s.
        let start = following.seen.len();
        following.until("the call", start, |line| line["channel"] == "bus/undone")?;
        let start = following.seen.len();
        cluster.kill()?;
        cluster.restore()?;
        cluster.run()?;
        following.until("the end of what was undone", start, |line| {
            line["event"] == "unprovision" && line["channel"] == "bus/undone"
        })?;
        create(cluster, "anew")?;
        following.until("what was made after that", start, |line| line["channel"] == "bus/anew")?;
        ensure!(following.seen.len() == start + 2, "{:?}", &following.seen[start..]);
        Ok(())
    });
    run.step("conditions are written beside another writer's, and a conflict calls nothing again", || {
        following.take().context("nothing follows")?.stop(143)?;
        let names: Vec<String> = (0..50).map(|at| format!("conflict-{at}")).collect();
        names.iter().try_for_each(|name| create(cluster, name))?;
        let mut writing = monitor(&["--exec", "true", "--handlers", "provision", "--concurrency", "8"])?;
        for round in 0..4 {
            for name in &names {
                let condition = json!({"type": "Serviceable", "status": "True", "reason": round.to_string()});
                add_condition(cluster, name, &condition)?;
            }
        }
        let start = writing.seen.len();
        until_calls(&mut writing, start, "provision", CHANNELS + 50)?;
        for name in &names {
            wait_for("both conditions", SOON, || {
                let channel = cluster.call("GET", &path(name), None)?;
                let list = channel["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let has = |kind: &str| list.iter().any(|one| one["type"] == kind && one["status"] == "True");
                Ok((has("Serviceable") && has("Provisioned") && has("Ready")).then_some(()))
            })?;
        }
        writing.catch_up()?;
        let calls = |name: &str| {
            let channel = format!("bus/{name}");
            writing.seen.iter().filter(|line| line["channel"] == channel.as_str()).count()
        };
        ensure!(names.iter().all(|name| calls(name) == 1), "a write called a handler again");
        writing.stop(143)
    });
    run.step("with a finalizer a deletion waits for a monitor that was down", || {
        create(cluster, "held")?;
        let words = ["--exec", "true", "--finalizer", "--handlers", "provision,unprovision"];
        let mut first = monitor(&words)?;
        first.until("the call", 0, |line| line["channel"] == "bus/held")?;
        first.kill()?;
        cluster.call("DELETE", &path("held"), None)?;
        let held = cluster.call("GET", &path("held"), None)?;
        ensure!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
        let mut second = monitor(&words)?;
        second.until("the opposite call", 0, |line| {
            line["event"] == "unprovision" && line["channel"] == "bus/held"
        })?;
        wait_for("the end of the object", SOON, || {
            Ok(cluster.call("GET", &path("held"), None).is_err().then_some(()))
        })?;
        second.stop(143)
    });
    Ok(())
}

/// Creates the four kinds and the role, binds the role, and waits until the kinds are served.
fn definitions(relay: &Path, cluster: &Cluster) -> Result<()> {
    let mut crds = super::relay::command(relay);
    let text = output(crds.args(["bus", "crds", "--rbac"]))?;
    for document in text.split("---\n").filter(|document| !document.is_empty()) {
        let path = match document.contains("kind: ClusterRole\n") {
            true => "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            false => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
        };
        cluster.create_from_yaml(path, document)?;
    }
    let binding = json!({
        "metadata": {"name": "bus"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "relay-bus"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bus"}],
    });
    cluster.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", Some(&binding))?;
    for kind in ["buses", "clusterbuses", "channels", "subscriptions"] {
        wait_for(kind, SOON, || cluster.call("GET", &format!("{GROUP}/{kind}"), None).map(Some))?;
    }
    Ok(())
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "channels.knative.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    })
}

fn path(channel: &str) -> String {
    format!("{GROUP}/namespaces/bus/channels/{channel}")
}

fn create(cluster: &Cluster, channel: &str) -> Result<()> {
    let object = object("Channel", channel, json!({"clusterBus": "b"}));
    cluster.call("POST", &format!("{GROUP}/namespaces/bus/channels"), Some(&object)).map(drop)
}

/// Sets one condition as another writer would: with the version, and again if somebody was faster.
fn add_condition(cluster: &Cluster, channel: &str, condition: &Value) -> Result<()> {
    wait_for("a write", SOON, || {
        let object = cluster.call("GET", &path(channel), None)?;
        let mut list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        list.retain(|one| one["type"] != condition["type"]);
        list.push(condition.clone());
        let version = &object["metadata"]["resourceVersion"];
        let patch = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": list}});
        cluster.call("PATCH", &format!("{}/status", path(channel)), Some(&patch)).map(Some)
    })?;
    Ok(())
}

/// Waits until this many calls of a kind were printed, beginning with the line `start`.
fn until_calls(printing: &mut Printing, start: usize, call: &str, count: usize) -> Result<()> {
    let mut at = start;
    for _ in 0..count {
        printing.until(call, at, |line| line["event"] == call)?;
        while printing.seen[at]["event"] != call {
            at += 1;
        }
        at += 1;
    }
    Ok(())
}
