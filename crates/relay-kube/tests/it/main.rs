//! The crate from outside, against a fake API server on a real socket.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod configs;
mod requests;
mod secrets;
mod watching;

use relay_kube::{KubeClient, Kubeconfig, Resource};
use relay_testkit::ApiServer;
use serde_json::{Value, json};

fn pods() -> Resource {
    Resource::new("", "v1", "pods")
}

const PODS: &str = "v1/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"namespace": "prod", "name": name}, "spec": {"nodeName": "n1"}})
}

/// A client for this server, made from a kubeconfig with this user.
async fn client_as(server: &ApiServer, user: &Value) -> KubeClient {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config");
    std::fs::write(&file, server.kubeconfig(user)).unwrap();
    let access = Kubeconfig::load(Some(&file)).unwrap().access(None).unwrap();
    KubeClient::connect(access).await.unwrap()
}

async fn client(server: &ApiServer) -> KubeClient {
    client_as(server, &json!({})).await
}
