//! `interop kube`: relay follows a real Kubernetes API server.
//!
//! One consumer follows from the beginning to the end. After every step the pods it folded, the list `relay pods`
//! prints and the list of the API server must be the same.

use std::fmt::Debug;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cluster::{self, Cluster};
use super::link::Link;
use super::relay::{Follower, SOON, Server, facts, kubernetes_facts};
use super::{Run, kube_bus, proxy, wait_for};

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    // Go comes first, because it may be missing.
    let api_server = cluster::build()?;
    let relay = run.relay()?;
    let mut cluster = Cluster::start(api_server, run.directory())?;
    let link = Link::new(cluster.port())?;
    let kubeconfig = cluster.kubeconfig(link.port())?.display().to_string();
    let directory = run.directory().to_owned();
    let log = |name: &str| directory.join(name);
    for namespace in ["prod", "staging"] {
        cluster.create_namespace(namespace)?;
    }
    for name in ["web-0", "web-1", "db-0"] {
        cluster.create_pod("prod", name, &[("app", &name[..name.len() - 2]), ("run", "a")])?;
    }
    cluster.run_pod("prod", "web-0", "10.1.0.1")?;
    cluster.create_pod("staging", "web-0", &[("app", "web")])?;
    let source = ["--source", "kube", "--kubeconfig", &kubeconfig];
    let server = Server::start(&relay, &source, &log("serve.log"))?;
    let mut follower = server.access().follow(&[], &log("replay.log"))?;

    run.step("pods that were there before relay are synthetic additions", || {
        same_everywhere(&cluster, &server, &mut follower)?;
        let seeds = |f: &Follower| f.seen.iter().filter(|line| line["phase"] == "CurrentSeed").count();
        follower.until("the seed after the history", |f| Ok(seeds(f) == 2))?;
        ensure!(follower.events_since(0).count() == 4, "four pods make four events");
        ensure!(changes(&follower, 0, true)?.iter().all(|change| change.starts_with("ADDED ")));
        Ok(())
    });
    run.step("annotations stay inside unless they are allowed out", || {
        let pods = server.access().pods()?;
        ensure!(pods.len() == 4 && pods.iter().all(|pod| pod["annotations"] == json!({})), "{pods:?}");
        Ok(())
    });
    run.step("a pod is created, scheduled, run and deleted", || {
        let start = follower.seen.len();
        cluster.create_pod("prod", "job-1", &[("app", "job")])?;
        same_everywhere(&cluster, &server, &mut follower)?;
        cluster.bind_pod("prod", "job-1", "node-1")?;
        same_everywhere(&cluster, &server, &mut follower)?;
        cluster.run_pod("prod", "job-1", "10.1.0.2")?;
        same_everywhere(&cluster, &server, &mut follower)?;
        cluster.delete_pod("prod", "job-1")?;
        same_everywhere(&cluster, &server, &mut follower)?;
        // The third change is the request to delete: the pod gets a deletion time before it is removed.
        let kinds = ["ADDED", "MODIFIED", "MODIFIED", "MODIFIED", "DELETED"];
        expect(&changes(&follower, start, false)?, &kinds.map(|kind| format!("{kind} prod/job-1")))
    });
    run.step("labels of a running pod change and go", || {
        let start = follower.seen.len();
        cluster.patch_pod("prod", "web-0", &json!({"metadata": {"labels": {"run": "b", "app": null}}}))?;
        same_everywhere(&cluster, &server, &mut follower)?;
        let event = follower.events_since(start).last().context("no event")?;
        ensure!(event["pod"]["labels"] == json!({"run": "b"}), "{event}");
        expect(&changes(&follower, start, false)?, &["MODIFIED prod/web-0"])
    });
    run.step("a pod that comes back under its name is another pod", || {
        let start = follower.seen.len();
        cluster.delete_pod("prod", "web-1")?;
        let uid = cluster.create_pod("prod", "web-1", &[("app", "web")])?;
        same_everywhere(&cluster, &server, &mut follower)?;
        let event = follower.events_since(start).last().context("no event")?;
        ensure!(event["pod"]["uid"] == uid.as_str(), "{event}");
        expect(
            &changes(&follower, start, false)?,
            &["MODIFIED prod/web-1", "DELETED prod/web-1", "ADDED prod/web-1"],
        )
    });
    run.step("a hundred changes arrive one by one", || {
        let start = follower.seen.len();
        for number in 0..100 {
            cluster.patch_pod(
                "prod",
                "db-0",
                &json!({"metadata": {"labels": {"step": number.to_string()}}}),
            )?;
        }
        same_everywhere(&cluster, &server, &mut follower)?;
        ensure!(follower.events_since(start).count() == 100, "every change is an event");
        Ok(())
    });
    run.step("a cut connection is stale, then resumes where the watch ended", || {
        let start = follower.seen.len();
        link.cut();
        wait_for("a stale source", SOON, || Ok((server.source_state()? == "stale").then_some(())))?;
        cluster.patch_pod("prod", "db-0", &json!({"metadata": {"labels": {"step": "first"}}}))?;
        cluster.patch_pod("prod", "db-0", &json!({"metadata": {"labels": {"step": "second"}}}))?;
        link.mend();
        same_everywhere(&cluster, &server, &mut follower)?;
        wait_for("a live source", SOON, || Ok((server.source_state()? == "live").then_some(())))?;
        expect(&changes(&follower, start, false)?, &["MODIFIED prod/db-0", "MODIFIED prod/db-0"])
    });
    run.step("a killed API server comes back with versions expired: differences, no gap", || {
        let start = follower.seen.len();
        link.cut();
        wait_for("a stale source", SOON, || Ok((server.source_state()? == "stale").then_some(())))?;
        // The new server knows no version from before its start, so a watch can never deliver these two changes.
        cluster.delete_pod("prod", "web-1")?;
        cluster.delete_pod("staging", "web-0")?;
        cluster.kill()?;
        cluster.run()?;
        cluster.create_pod("prod", "web-1", &[("app", "web"), ("run", "c")])?;
        cluster.create_pod("staging", "web-9", &[("app", "web")])?;
        cluster.patch_pod("prod", "web-0", &json!({"metadata": {"labels": {"run": "c"}}}))?;
        link.mend();
        same_everywhere(&cluster, &server, &mut follower)?;
        wait_for("a live source", SOON, || Ok((server.source_state()? == "live").then_some(())))?;
        let mut changes = changes(&follower, start, true)?;
        let web: Vec<&String> = changes.iter().filter(|change| change.ends_with(" prod/web-1")).collect();
        ensure!(web == ["DELETED prod/web-1", "ADDED prod/web-1"], "a new UID is a new pod: {web:?}");
        changes.sort();
        let all = [
            "ADDED prod/web-1",
            "ADDED staging/web-9",
            "DELETED prod/web-1",
            "DELETED staging/web-0",
            "MODIFIED prod/web-0",
        ];
        expect(&changes, &all)
    });
    run.step("a restart under relay's eyes is followed too", || {
        let start = follower.seen.len();
        cluster.kill()?;
        cluster.run()?;
        cluster.create_pod("staging", "web-2", &[("app", "web")])?;
        cluster.run_pod("staging", "web-2", "10.1.0.3")?;
        same_everywhere(&cluster, &server, &mut follower)?;
        let changes: Vec<String> = follower.events_since(start).map(change).collect();
        ensure!(
            changes.first().is_some_and(|change| change == "ADDED staging/web-2") && changes.len() <= 2,
            "{changes:?}"
        );
        Ok(())
    });
    run.step("the consumer saw no gap, no drop and every sequence", || follower.check_unbroken());
    run.step("a consumer that comes late folds the same from the whole history", || {
        let mut late = server.access().follow(&["--exit-after-phase", "Live"], &log("late.log"))?;
        late.read_to_end()?;
        ensure!(facts(&late.pods) == kubernetes_facts(&cluster.pods()?), "other pods than the API server's");
        late.check_unbroken()?;
        let hashes = |f: &Follower| f.events_since(0).map(|event| event["hash"].clone()).collect::<Vec<_>>();
        ensure!(hashes(&late) == hashes(&follower), "other events than the first consumer's");
        Ok(())
    });
    run.step("a server for one namespace sees that one alone", || {
        let arguments = [&source[..], &["--watch-namespace", "staging"]].concat();
        let narrow = Server::start(&relay, &arguments, &log("narrow.log"))?;
        let mut consumer = narrow.access().follow(&[], &log("narrow-replay.log"))?;
        let here = |cluster: &Cluster| -> Result<Vec<Value>> {
            Ok(cluster.pods()?.into_iter().filter(|pod| pod["metadata"]["namespace"] == "staging").collect())
        };
        cluster.create_pod("prod", "unseen", &[])?;
        cluster.create_pod("staging", "seen", &[])?;
        consumer.until("the pods of one namespace", |f| {
            Ok(facts(&f.pods) == kubernetes_facts(&here(&cluster)?))
        })?;
        ensure!(facts(&narrow.access().pods()?) == kubernetes_facts(&here(&cluster)?), "relay pods differs");
        narrow.stop()
    });
    run.step("the server ends in order", || server.stop());
    kube_bus::run(run, &relay, &mut cluster)?;
    proxy::run(run, &relay, &mut cluster)
}

/// Waits until the consumer, the relay's list and the API server agree on the pods.
fn same_everywhere(cluster: &Cluster, server: &Server, follower: &mut Follower) -> Result<()> {
    let expected = kubernetes_facts(&cluster.pods()?);
    let end = follower.until("the API server's pods at the consumer", |f| Ok(facts(&f.pods) == expected));
    end.with_context(|| format!("expected {expected:?}, have {:?}", facts(&follower.pods)))?;
    let listed = facts(&server.access().pods()?);
    ensure!(listed == expected, "relay pods prints {listed:?}, the API server has {expected:?}");
    Ok(())
}

/// The types of the events after the first `start` lines. Checks for each of them whether a relist made it.
fn changes(follower: &Follower, start: usize, synthetic: bool) -> Result<Vec<String>> {
    let mut changes = Vec::new();
    for event in follower.events_since(start) {
        ensure!(
            event["synthetic"].as_bool().unwrap_or(false) == synthetic,
            "synthetic must be {synthetic} in {event}"
        );
        changes.push(change(event));
    }
    Ok(changes)
}

fn change(event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}/{}", text(&event["type"]), text(&event["pod"]["namespace"]), text(&event["pod"]["name"]))
}

fn expect<T: AsRef<str> + Debug>(changes: &[String], expected: &[T]) -> Result<()> {
    ensure!(
        changes.iter().eq(expected.iter().map(AsRef::as_ref)),
        "the events were {changes:?}, expected {expected:?}"
    );
    Ok(())
}
