//! Credential plugins: commands that print credentials and their expiry.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use relay_proto::error::chain;
use relay_proto::time::Timestamp;
use relay_transport::{ClientIdentity, Secret};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::Error;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A plugin, ready to be run.
pub(crate) struct ExecPlugin {
    /// Name of the user entry, for messages.
    user: String,
    command: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    api_version: String,
    install_hint: Option<String>,
    /// `KUBERNETES_EXEC_INFO`.
    info: String,
}

/// Credentials from a plugin.
struct Credentials {
    token: Option<Secret>,
    identity: Option<(String, String)>,
    expires: Option<SystemTime>,
}

/// A plugin with its last credentials. It is run again when they have expired or were refused.
pub(crate) struct ExecSession {
    plugin: ExecPlugin,
    /// Its last credentials, and when it gave them.
    given: Mutex<(Credentials, Instant)>,
    /// The certificate, if the first run gave one.
    pub(crate) identity: Option<ClientIdentity>,
    pub(crate) has_token: bool,
}

/// Time limit for a plugin: a person may have to log in.
const PATIENCE: Duration = Duration::from_secs(120);
/// Size limit of its output, in bytes.
const LARGEST: u64 = 1 << 20;
/// Credentials this close to their expiry count as expired: the request takes time.
const MARGIN: Duration = Duration::from_secs(10);
/// Shortest time between two runs of a plugin whose certificate expires.
const PAUSE: Duration = Duration::from_secs(5);

/// The `exec` part of a user entry.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecConfig {
    api_version: Option<String>,
    command: Option<String>,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    install_hint: Option<String>,
    interactive_mode: Option<String>,
    provide_cluster_info: Option<bool>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: Option<String>,
}

impl ExecConfig {
    pub(crate) fn plugin(
        &self,
        user: &str,
        dir: &Path,
        cluster: impl Fn() -> Result<Value, Error>,
    ) -> Result<ExecPlugin, Error> {
        let wrong = |what: &str| Error::config(format!("user {user:?}: exec: {what}"));
        let api_version = self.api_version.clone().unwrap_or_default();
        if !["client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"]
            .contains(&api_version.as_str())
        {
            let known = "client.authentication.k8s.io/v1 or v1beta1";
            return Err(wrong(&format!("apiVersion {api_version:?} is not supported: {known}")));
        }
        if self.interactive_mode.as_deref() == Some("Always") {
            return Err(wrong("interactiveMode Always is not supported: a plugin gets no terminal"));
        }
        let command = self.command.clone().filter(|command| !command.is_empty());
        let command = command.ok_or_else(|| wrong("no command"))?;
        // A command with a slash is a path; without one it is looked up in `PATH`.
        let command = if command.contains('/') { dir.join(command) } else { command.into() };
        let mut spec = json!({"interactive": false});
        if self.provide_cluster_info == Some(true) {
            spec["cluster"] = cluster()?;
        }
        let info = json!({"apiVersion": api_version, "kind": "ExecCredential", "spec": spec}).to_string();
        let env = self.env.iter().flatten();
        Ok(ExecPlugin {
            user: user.to_owned(),
            command,
            args: self.args.clone().unwrap_or_default(),
            env: env
                .map(|variable| (variable.name.clone(), variable.value.clone().unwrap_or_default()))
                .collect(),
            api_version,
            install_hint: self.install_hint.clone(),
            info,
        })
    }
}

impl ExecPlugin {
    async fn run(&self) -> Result<Credentials, Error> {
        let output = match tokio::time::timeout(PATIENCE, self.output()).await {
            Ok(output) => output,
            Err(_) => Err("it did not end in time".into()),
        };
        output.and_then(|output| Ok(Credentials::read(&output, &self.api_version)?)).map_err(|error| {
            let hint = self.install_hint.as_ref().map_or(String::new(), |hint| format!(" ({})", hint.trim()));
            let what = format!("user {:?}: credential plugin {}{hint}", self.user, self.command.display());
            Error::config_with(what, error)
        })
    }

    async fn output(&self) -> Result<Vec<u8>, BoxError> {
        let mut child = tokio::process::Command::new(&self.command)
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("KUBERNETES_EXEC_INFO", &self.info)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // Its stderr is for the user, for example a request to log in.
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            // Closing the pipe at the limit ends a program that writes more.
            stdout.take(LARGEST).read_to_end(&mut output).await?;
        }
        let status = child.wait().await?;
        if !status.success() {
            return Err(status.to_string().into());
        }
        Ok(output)
    }
}

impl Credentials {
    /// Errors quote nothing of the output.
    fn read(output: &[u8], api_version: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Credential {
            api_version: String,
            kind: String,
            status: Option<Status>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct Status {
            token: Option<String>,
            client_certificate_data: Option<String>,
            client_key_data: Option<String>,
            expiration_timestamp: Option<String>,
        }
        let read: Credential = serde_json::from_slice(output)
            .map_err(|error| format!("line {} of its output: no ExecCredential", error.line()))?;
        if read.kind != "ExecCredential" || read.api_version != api_version {
            return Err(format!("its output is no ExecCredential of {api_version}"));
        }
        let status = read.status.ok_or("its output has no status")?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let token = given(status.token).map(Secret::new);
        let identity = match (given(status.client_certificate_data), given(status.client_key_data)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("clientCertificateData and clientKeyData go together".to_owned()),
        };
        if token.is_none() && identity.is_none() {
            return Err("its output has neither a token nor a certificate".to_owned());
        }
        let expires = given(status.expiration_timestamp).map(|text| {
            let millis = Timestamp::new(&text).unix_millis().ok_or("expirationTimestamp is not a time")?;
            let since_1970 = Duration::from_millis(millis.try_into().unwrap_or(0));
            // A time too far away for the clock counts as never.
            Ok::<_, &str>(SystemTime::UNIX_EPOCH.checked_add(since_1970))
        });
        Ok(Self { token, identity, expires: expires.transpose()?.flatten() })
    }

    /// Time until it counts as expired.
    fn lasts(&self) -> Duration {
        match self.expires {
            None => Duration::MAX,
            Some(at) => at.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(MARGIN),
        }
    }
}

impl ExecSession {
    /// Runs the plugin for the first time.
    pub(crate) async fn begin(plugin: ExecPlugin) -> Result<Arc<Self>, Error> {
        let given = plugin.run().await?;
        let identity = given
            .identity
            .as_ref()
            .map(|(certificate, key)| ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes()))
            .transpose()
            .map_err(|error| plugin.wrong("the certificate that its credential plugin gave", error))?;
        if let Some(token) = &given.token {
            token
                .bearer()
                .map_err(|error| plugin.wrong("the token that its credential plugin gave", error))?;
        }
        let has_token = given.token.is_some();
        Ok(Arc::new(Self { plugin, given: Mutex::new((given, Instant::now())), identity, has_token }))
    }

    /// The current token; a new one when the last was refused.
    ///
    /// Runs do not overlap: callers during a run share its result.
    pub(crate) async fn token(&self, refused: bool) -> Result<Secret, Error> {
        let asked = Instant::now();
        let mut held = self.given.lock().await;
        let (given, at) = &*held;
        if given.lasts().is_zero() || (refused && *at <= asked) {
            *held = (self.renewed().await?, Instant::now());
        }
        let none =
            || self.plugin.wrong("its credential plugin gave no token any more", "a certificate alone");
        held.0.token.clone().ok_or_else(none)
    }

    /// Renews a certificate before it expires. Tokens need no such task: they are fetched before each request.
    pub(crate) async fn keep_certificate(self: Arc<Self>) {
        loop {
            let lasts = self.given.lock().await.0.lasts();
            if lasts == Duration::MAX {
                return;
            }
            tokio::time::sleep(lasts.max(PAUSE)).await;
            match self.renewed().await {
                Ok(given) => *self.given.lock().await = (given, Instant::now()),
                Err(error) => tracing::warn!(error = %chain(&error), "the certificate is kept"),
            }
        }
    }

    async fn renewed(&self) -> Result<Credentials, Error> {
        let given = self.plugin.run().await?;
        if let (Some((certificate, key)), Some(identity)) = (&given.identity, &self.identity) {
            let replaced = identity.replace(certificate.as_bytes(), key.as_bytes());
            replaced.map_err(|error| {
                self.plugin.wrong("the certificate that its credential plugin gave", error)
            })?;
        }
        Ok(given)
    }
}

impl ExecPlugin {
    fn wrong(&self, what: &str, source: impl Into<BoxError>) -> Error {
        Error::config_with(format!("user {:?}: {what}", self.user), source)
    }
}
