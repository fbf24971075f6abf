//! Subscribers behind encryption, seen through the whole `relay bus serve`.

use std::process::Command;

use relay_testkit::{Authority, Peer, Reply, Script};

use super::process::{Running, relay, run};

/// A bus with one subscriber. The bus trusts this authority, and no other.
fn serve(directory: &std::path::Path, subscriber: &str, trusted: &Authority) -> (Running, String) {
    let objects = directory.join("objects.yaml");
    std::fs::write(
        &objects,
        format!(
            "kind: Channel\napiVersion: channels.knative.dev/v1alpha1\nmetadata: {{name: c}}\n---\n\
             kind: Subscription\napiVersion: channels.knative.dev/v1alpha1\nmetadata: {{name: s}}\n\
             spec: {{channel: c, subscriber: \"{subscriber}\"}}\n"
        ),
    )
    .unwrap();
    let roots = directory.join("roots.pem");
    std::fs::write(&roots, &trusted.pem).unwrap();
    let mut command: Command = relay(&["bus", "serve", "--listen", "127.0.0.1:0", "-o", "json", "--file"]);
    command.arg(&objects).env("SSL_CERT_FILE", &roots).env_remove("SSL_CERT_DIR");
    let running = Running::start(command);
    let url = running.json()["address"].as_str().unwrap().to_owned();
    running.until(|line| line["event"] == "ready");
    (running, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_does_not_match_is_an_error_that_names_destination_and_rule() {
    let (ours, others) = (Authority::new(), Authority::new());
    let peer = Peer::start(Script::new().always("/p", Reply::empty(202))).await;
    for (signer, name, rule) in [
        (&ours, "another.example", "not valid for"),
        (&others, "localhost", "invalid peer certificate"),
        (&ours, "localhost", ""),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let front = signer.front(name, None, peer.addr()).await;
        let to = front.replace("https://", "https://user:hidden@") + "/p";
        let (bus, url) = serve(directory.path(), &to, &ours);
        run(&["bus", "send", "--url", &url, "--channel", "default/c", "--data", "x"]).expect(0);
        if rule.is_empty() {
            assert_eq!(peer.request_to("/p", 0).await.body().as_ref(), b"x");
            continue;
        }
        let line = bus.until(|line| line["event"] == "dispatch-failed").pop().unwrap();
        assert_eq!(line["destination"], format!("{front}/p"));
        assert_eq!(line["final"], true);
        let error = line["error"].as_str().unwrap();
        assert!(error.contains(rule) && error.contains(&front), "{rule}: {error}");
        assert!(!line.to_string().contains("hidden") && !bus.stderr().contains("hidden"));
    }
    assert_eq!(peer.requests().len(), 1, "nothing was sent to the others");
}
