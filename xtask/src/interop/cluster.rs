//! A real Kubernetes API server with its etcd, built from Go sources in `xtask/interop/kube` and driven over REST.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::process::Process;
use super::{golang, wait_for};
use crate::workspace::check;

/// The longest time that the server may take to answer; a restart takes 2 to 4 s on two cores.
const READY: Duration = Duration::from_secs(90);

/// The token of a user with all rights. The tokens are only valid on this machine's loopback during this run.
pub(super) const TOKEN: &str = "interop";

/// The token of a user without rights.
pub(super) const STRANGER: &str = "interop-stranger";

/// The token of a user with the rights that a bus needs.
pub(super) const BUS: &str = "interop-bus";

/// A cluster that has only an API server: pods are objects, and nothing runs them.
pub(super) struct Cluster {
    binary: PathBuf,
    directory: PathBuf,
    port: u16,
    process: Option<Process>,
    agent: ureq::Agent,
}

impl Cluster {
    /// Starts the server with an empty store in `directory`.
    pub(super) fn start(binary: PathBuf, directory: &Path) -> Result<Self> {
        let directory = directory.join("cluster");
        std::fs::create_dir_all(&directory)?;
        std::fs::write(
            directory.join("tokens"),
            format!("{TOKEN},admin,1,\"system:masters\"\n{STRANGER},stranger,2\n{BUS},bus,3\n"),
        )?;
        // The server cannot choose a port, and keeps its port over restarts.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let agent = ureq::Agent::new_with_defaults();
        let mut cluster = Self { binary, directory, port, process: None, agent };
        cluster.run()?;
        Ok(cluster)
    }

    /// Kills the server and its etcd without a warning (SIGKILL).
    pub(super) fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill(),
            None => bail!("the API server does not run"),
        }
    }

    /// Starts the server with the data of its last run, and waits until it is ready.
    pub(super) fn run(&mut self) -> Result<()> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let mut command = Command::new(&self.binary);
        command
            .arg(&self.directory)
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .args([
                format!("--secure-port={}", self.port),
                format!("--cert-dir={}", at("certificates")),
                format!("--token-auth-file={}", at("tokens")),
            ]);
        command.args(["--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"]);
        command.arg("--disable-admission-plugins=ServiceAccount");
        let mut process = Process::start(&mut command, &self.directory.join("log"))?;
        let certificate = self.certificate();
        wait_for("the API server's certificate", READY, || {
            process.check_running()?;
            Ok(std::fs::read(&certificate)
                .is_ok_and(|pem| pem.ends_with(b"-----END CERTIFICATE-----\n"))
                .then_some(()))
        })?;
        self.agent = agent(&std::fs::read(&certificate)?)?;
        wait_for("the API server to be ready", READY, || {
            process.check_running()?;
            self.call("GET", "/readyz", None).map(Some)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Copies the stored data. The server must not run.
    pub(super) fn save(&self) -> Result<()> {
        let (data, copy) = (self.directory.join("etcd"), self.directory.join("etcd.saved"));
        check(Command::new("cp").arg("-a").args([data, copy]))
    }

    /// Replaces the stored data by the copy, so that versions go back. The server must not run.
    pub(super) fn restore(&self) -> Result<()> {
        std::fs::remove_dir_all(self.directory.join("etcd"))?;
        std::fs::rename(self.directory.join("etcd.saved"), self.directory.join("etcd"))?;
        Ok(())
    }

    /// Creates the objects of a YAML document under this path.
    pub(super) fn create_from_yaml(&self, path: &str, document: &str) -> Result<()> {
        self.ask("POST", path, "application/yaml", Some(document.to_owned())).map(drop)
    }

    /// The port the server listens on.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Writes a kubeconfig for the server at `port`, and returns its path.
    pub(super) fn kubeconfig(&self, port: u16) -> Result<PathBuf> {
        self.kubeconfig_of(port, TOKEN)
    }

    /// The same for the user with this token.
    pub(super) fn kubeconfig_of(&self, port: u16, token: &str) -> Result<PathBuf> {
        // A kubeconfig as JSON, which is also YAML.
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "interop",
            "clusters": [{"name": "interop", "cluster":
                {"server": format!("https://127.0.0.1:{port}"), "certificate-authority": self.certificate()}}],
            "users": [{"name": "admin", "user": {"token": token}}],
            "contexts": [{"name": "interop", "context": {"cluster": "interop", "user": "admin"}}],
        });
        let path = self.directory.join(format!("kubeconfig-{port}-{token}"));
        std::fs::write(&path, text.to_string())?;
        Ok(path)
    }

    /// Creates a namespace.
    pub(super) fn create_namespace(&self, name: &str) -> Result<()> {
        self.call("POST", "/api/v1/namespaces", Some(&json!({"metadata": {"name": name}})))?;
        Ok(())
    }

    /// Creates a pod that nothing will schedule, and returns its UID.
    pub(super) fn create_pod(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> Result<String> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let pod = json!({
            "metadata": {"name": name, "labels": labels, "annotations": {"secret/manifest": "do not publish"}},
            "spec": {"schedulerName": "none", "containers": [{"name": "app", "image": "example/app:1"}]},
        });
        let created = self.call("POST", &format!("/api/v1/namespaces/{namespace}/pods"), Some(&pod))?;
        Ok(created["metadata"]["uid"].as_str().context("the created pod has no UID")?.to_owned())
    }

    /// Does what a scheduler would do; the node need not exist.
    pub(super) fn bind_pod(&self, namespace: &str, name: &str, node: &str) -> Result<()> {
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": node}});
        self.call("POST", &format!("{}/binding", pod_path(namespace, name)), Some(&binding))?;
        Ok(())
    }

    /// Merges a change into a pod; a null removes a field.
    pub(super) fn patch_pod(&self, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.call("PATCH", &pod_path(namespace, name), Some(patch))?;
        Ok(())
    }

    /// Writes the status that a kubelet would report once the pod's only container runs.
    pub(super) fn run_pod(&self, namespace: &str, name: &str, ip: &str) -> Result<()> {
        let now = "2026-01-02T03:04:05Z";
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "10.0.0.1", "startTime": now,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
            "containerStatuses": [{"name": "app", "image": "example/app:1", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": now}}}],
        }});
        self.call("PATCH", &format!("{}/status", pod_path(namespace, name)), Some(&status))?;
        Ok(())
    }

    /// Deletes a pod at once.
    pub(super) fn delete_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.call("DELETE", &format!("{}?gracePeriodSeconds=0", pod_path(namespace, name)), None)?;
        Ok(())
    }

    /// Makes a service with this port whose only endpoint is this address, which appears as the address of the running
    /// pod `name`. The pod is created, too.
    pub(super) fn serve_at(&self, namespace: &str, name: &str, port: u16, at: SocketAddr) -> Result<()> {
        let (pod, ip) = (format!("{name}-0"), at.ip().to_string());
        self.create_pod(namespace, &pod, &[])?;
        self.run_pod(namespace, &pod, &ip)?;
        let base = format!("/api/v1/namespaces/{namespace}");
        let ports = json!([{"name": "http", "port": port, "targetPort": at.port()}]);
        let service = json!({"metadata": {"name": name}, "spec": {"ports": ports}});
        self.call("POST", &format!("{base}/services"), Some(&service))?;
        let target = json!({"kind": "Pod", "namespace": namespace, "name": pod});
        let subset = json!({
            "addresses": [{"ip": ip, "targetRef": target}],
            "ports": [{"name": "http", "port": at.port()}],
        });
        let endpoints = json!({"metadata": {"name": name}, "subsets": [subset]});
        self.call("POST", &format!("{base}/endpoints"), Some(&endpoints))?;
        Ok(())
    }

    /// The status and the `Location` of the server's answer to a GET; redirects are not followed.
    pub(super) fn head(&self, path: &str) -> Result<(u16, Option<String>)> {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let request = ureq::http::Request::get(url).header("authorization", format!("Bearer {TOKEN}"));
        let request = self.agent.configure_request(request.body(())?).max_redirects(0);
        let answer = self.agent.run(request.max_redirects_will_error(false).build())?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        Ok((answer.status().as_u16(), location.map(str::to_owned)))
    }

    /// The pods of all namespaces as the server lists them.
    pub(super) fn pods(&self) -> Result<Vec<Value>> {
        match self.call("GET", "/api/v1/pods", None)?["items"].take() {
            Value::Array(items) => Ok(items),
            _ => bail!("the API server's list has no items"),
        }
    }

    /// The certificate of the server, which is its own authority.
    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.join("certificates/apiserver.crt")
    }

    /// Makes one request as the user with all rights.
    pub(super) fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        self.ask(method, path, kind, body.map(Value::to_string))
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: Option<String>) -> Result<Value> {
        let url = format!("https://127.0.0.1:{}{path}", self.port);
        let request = ureq::http::Request::builder().method(method).uri(url);
        let request = request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", kind);
        // A POST with YAML would be answered with YAML.
        let request = request.header("accept", "application/json");
        let answer = match body {
            Some(body) => self.agent.run(request.body(body)?),
            None => self.agent.run(request.body(())?),
        };
        let (head, mut body) = answer.with_context(|| format!("{method} {path}"))?.into_parts();
        let text = body.with_config().limit(256 << 20).read_to_string()?;
        if !head.status.is_success() {
            bail!("{method} {path}: {}: {}", head.status, text.trim());
        }
        // Probes are answered with text.
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }
}

fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A client that trusts the server's self-signed certificate and nothing else.
fn agent(certificates: &[u8]) -> Result<ureq::Agent> {
    let mut roots = Vec::new();
    for item in ureq::tls::parse_pem(certificates) {
        if let ureq::tls::PemItem::Certificate(certificate) = item? {
            roots.push(certificate);
        }
    }
    let tls =
        ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&roots)).build();
    let config = ureq::Agent::config_builder().tls_config(tls).proxy(None).http_status_as_error(false);
    Ok(config.timeout_global(Some(Duration::from_secs(30))).build().into())
}

/// Builds the server.
pub(super) fn build() -> Result<PathBuf> {
    let needs = "this suite needs Go 1.26 or later on the PATH, and for the first build a way to the Go modules of \
                 Kubernetes (750 MB of modules, 4 GB of build cache)";
    golang::build("kube", "kube-apiserver", needs)
}
