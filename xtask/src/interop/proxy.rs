//! The second part of `interop kube`: relay behind the service proxy of the API server.
//!
//! The consumer knows the API server's address, its certificate and a token for it, and has a token for the relay. The
//! API server uses the `Authorization` header itself and passes the others on.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Run;
use super::address::Address;
use super::cluster::{Cluster, STRANGER, TOKEN};
use super::link::Link;
use super::relay::{Access, Follower, Server, facts, kubernetes_facts};

/// The relay's own token.
const RELAY_TOKEN: &str = "relay-reader";

/// The place of the service.
const NAMESPACE: &str = "relay-system";
const PROXY: &str = "/api/v1/namespaces/relay-system/services/http:relay:80/proxy";

/// Takes the steps.
pub(super) fn run(run: &mut Run, relay: &Path, cluster: &mut Cluster) -> Result<()> {
    let address = match Address::take() {
        Ok(address) => address,
        Err(error) => {
            run.skip("the service proxy", &error.context("no second address on the loopback device"));
            return Ok(());
        }
    };
    let directory = run.directory().to_owned();
    let log = |name: &str| directory.join(name);
    let tokens = log("relay-tokens");
    write_secret(&tokens, &format!("{RELAY_TOKEN} reader *\n"))?;
    let kubeconfig = cluster.kubeconfig(cluster.port())?.display().to_string();
    let tokens = tokens.display().to_string();
    let arguments = ["--source", "kube", "--kubeconfig", &kubeconfig, "--tokens-file", &tokens];
    let mut server =
        Server::listen(relay, &format!("{}:0", address.ip()), &arguments, &log("proxied-serve.log"))?;
    let at = server.address().to_owned();
    cluster.create_namespace(NAMESPACE)?;
    cluster.serve_at(NAMESPACE, "relay", 80, at.parse().context("where relay listens")?)?;

    let link = Link::new(cluster.port())?;
    let url = format!("https://127.0.0.1:{}{PROXY}", link.port());
    let ca = cluster.certificate().display().to_string();
    let via = |url: &str, outer: &str, inner: &str| {
        Access::new(relay, &["--url", url, "--ca-file", &ca, "--proxy-token", outer, "--token", inner])
    };
    let access = via(&url, TOKEN, RELAY_TOKEN);
    let straight = server.access().with(&["--token", RELAY_TOKEN]);
    // The API server is unavailable for seconds only, so there is no need for longer delays.
    let mut follower = access.follow(&["--reconnect-cap", "1s"], &log("proxied-replay.log"))?;

    run.step("list, history and one pod through the service proxy", || {
        let seeds = |f: &Follower| f.seen.iter().filter(|line| line["phase"] == "CurrentSeed").count();
        follower.until("the seed after the history", |f| Ok(seeds(f) == 2))?;
        settled(cluster, &access, &mut follower)?;
        ensure!(access.pods()? == straight.pods()?, "another list than the relay's own");
        let events = access.ask(&["events"])?;
        ensure!(!events.is_empty() && events == straight.ask(&["events"])?, "another history");
        let pod = access.ask(&["pod", &format!("{NAMESPACE}/relay-0")])?;
        ensure!(pod[0]["pod_ip"] == json!(address.ip().to_string()), "{pod:?}");
        let staging = access.with(&["--namespace", "staging"]).pods()?;
        ensure!(!staging.is_empty() && staging.iter().all(|pod| pod["namespace"] == "staging"));
        Ok(())
    });
    run.step("a session through the service proxy: a POST with and without a slash at the base", || {
        // The root of the proxy ends with a slash. A request without it is redirected, and a POST would become a GET.
        let root = cluster.head(PROXY)?;
        ensure!(root == (301, Some(format!("{PROXY}/"))), "{root:?}");
        for url in [url.clone(), format!("{url}/")] {
            let ticket = &via(&url, TOKEN, RELAY_TOKEN).ask(&["session"])?[0];
            ensure!(ticket["session_id"].as_str().is_some_and(|id| id.len() >= 22), "no ticket");
            ensure!(!via(&url, TOKEN, RELAY_TOKEN).pods()?.is_empty());
        }
        Ok(())
    });
    run.step("a kubeconfig names the API server, its certificate and the credential for it", || {
        let file = cluster.kubeconfig(link.port())?.display().to_string();
        let named = |context: &str, service: &str| {
            let server = ["--kubeconfig", &file, "--kube-context", context, "--kube-service", service];
            Access::new(relay, &[&server[..], &["--token", RELAY_TOKEN]].concat())
        };
        let access = named("interop", "relay-system/relay:80");
        ensure!(access.pods()? == straight.pods()?, "another list than the relay's own");
        ensure!(access.ask(&["session"])?.len() == 1, "no ticket");
        let count = format!("count={}", straight.pods()?.len());
        let met = access.ask(&["wait", "--for", &count])?;
        ensure!(met[0]["condition"] == json!(count), "{met:?}");
        let mut late = access.follow(&["--exit-after-phase", "CatchupComplete"], &log("kubeconfig.log"))?;
        late.read_to_end()?;
        ensure!(late.events_since(0).count() == straight.ask(&["events"])?.len(), "another history");
        let (code, words) = named("interop", "relay-system/nobody:80").refused(&["pods"])?;
        ensure!(code == 3 && words.contains("404 of the Kubernetes API server"), "{code}: {words}");
        let (code, words) = named("moon", "relay-system/relay:80").refused(&["pods"])?;
        ensure!(words.contains("moon"), "{code}: {words}");
        Ok(())
    });
    run.step("changes stream through the service proxy", || {
        let start = follower.seen.len();
        cluster.create_pod("prod", "proxied-0", &[("app", "proxied")])?;
        for number in 0..50 {
            let labels = json!({"metadata": {"labels": {"step": number.to_string()}}});
            cluster.patch_pod("prod", "proxied-0", &labels)?;
        }
        settled(cluster, &access, &mut follower)?;
        let count = follower.events_since(start).count();
        ensure!(count == 51, "51 changes make {count} events");
        follower.check_unbroken()
    });
    run.step("who the API server does not know is told so by the API server", || {
        let (code, words) = via(&url, "wrong", RELAY_TOKEN).refused(&["pods"])?;
        let said = "refused with 401 of the Kubernetes API server: Unauthorized (give a credential that the API server";
        ensure!(code == 4 && words.contains(said), "{code}: {words}");
        let (code, words) = via(&url, "wrong", RELAY_TOKEN).refused(&["replay"])?;
        ensure!(code == 4 && words.contains("401 of the Kubernetes API server"), "{code}: {words}");
        let (code, words) = via(&url, STRANGER, RELAY_TOKEN).refused(&["session"])?;
        ensure!(code == 4 && words.contains("403 of the Kubernetes API server: services"), "{code}: {words}");
        Ok(())
    });
    run.step("who the relay does not know is told so by the relay", || {
        for command in ["pods", "session", "replay"] {
            let (code, words) = via(&url, TOKEN, "wrong").refused(&[command])?;
            ensure!(
                code == 4 && words.contains("the relay refused with 401 unauthenticated"),
                "{code}: {words}"
            );
        }
        // Credentials for the API server do not reach the relay, so without a token of its own the client is refused.
        let open = Access::new(relay, &["--url", &url, "--ca-file", &ca, "--proxy-token", TOKEN]);
        let (code, words) = open.refused(&["pods"])?;
        ensure!(code == 4 && words.contains("the relay refused with 401"), "{code}: {words}");
        Ok(())
    });
    run.step("a cut connection to the API server is resumed without a loss", || {
        let start = follower.seen.len();
        link.cut();
        for name in ["cut-0", "cut-1", "cut-2"] {
            cluster.create_pod("prod", name, &[])?;
        }
        cluster.delete_pod("prod", "cut-1")?;
        link.mend();
        settled(cluster, &access, &mut follower)?;
        resumed(&mut follower, start)
    });
    run.step("a killed API server is resumed through the one that follows, without a loss", || {
        let start = follower.seen.len();
        cluster.kill()?;
        cluster.run()?;
        cluster.create_pod("prod", "killed-0", &[])?;
        cluster.delete_pod("prod", "cut-0")?;
        settled(cluster, &access, &mut follower)?;
        resumed(&mut follower, start)
    });
    let mut restarted = None;
    run.step("a relay that is killed is missed by the API server, and its successor read anew", || {
        let start = follower.seen.len();
        server.kill()?;
        let (code, words) = access.refused(&["pods"])?;
        ensure!(
            code == 1 && words.contains("503 of the Kubernetes API server") && words.contains("refused"),
            "{code}: {words}"
        );
        cluster.delete_pod("prod", "cut-2")?;
        server = Server::listen(relay, &at, &arguments, &log("proxied-serve.log"))?;
        cluster.create_pod("prod", "anew-0", &[])?;
        settled(cluster, &access, &mut follower)?;
        // The log was in memory: the new log has another epoch, and clients get a gap.
        let gaps = |f: &Follower| f.seen[start..].iter().filter(|line| !line["gap"].is_null()).count();
        follower.until("the gap", |f| Ok(gaps(f) == 1))?;
        settled(cluster, &access, &mut follower)?;
        restarted = Some(server);
        Ok(())
    });
    if let Some(server) = restarted {
        run.step("the proxied relay ends in order", || server.stop());
    }
    Ok(())
}

/// Waits until the consumer, and the list through the proxy, have the pods of the API server.
fn settled(cluster: &Cluster, access: &Access, follower: &mut Follower) -> Result<()> {
    let expected = kubernetes_facts(&cluster.pods()?);
    let end = follower.until("the API server's pods at the consumer", |f| Ok(facts(&f.pods) == expected));
    end.with_context(|| format!("expected {expected:?}, have {:?}", facts(&follower.pods)))?;
    ensure!(facts(&access.pods()?) == expected, "relay pods differs from the API server");
    Ok(())
}

/// Waits until a stream that ended has caught up again, and checks that it continued where it was: there is no gap, and
/// every sequence came once.
fn resumed(follower: &mut Follower, start: usize) -> Result<()> {
    let phase = |f: &Follower, phase: &str| f.seen[start..].iter().any(|line| line["phase"] == phase);
    follower.until("the end of the catch-up", |f| Ok(phase(f, "CatchupComplete")))?;
    ensure!(phase(follower, "ReconnectReseed"), "the stream did not end");
    let gap = follower.seen[start..].iter().find(|line| !line["gap"].is_null());
    ensure!(gap.is_none(), "a gap was reported: {}", gap.unwrap_or(&Value::Null));
    let sequences = follower.events_since(0).map(|event| event["sequence"].as_u64());
    let sequences: Option<Vec<u64>> = sequences.collect();
    let sequences = sequences.context("an event without a sequence")?;
    ensure!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "the sequences were {sequences:?}");
    Ok(())
}

/// Writes a file that nobody else may read.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(text.as_bytes())?)
}
