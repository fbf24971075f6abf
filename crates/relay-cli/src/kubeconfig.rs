//! Kubeconfig files: where a cluster's API server is, whom to trust there, and who we are to it.

mod exec;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use relay_pods::Secret;
use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use exec::{ExecPlugin, ExecSession};

use crate::exit::Usage;

/// The files of one set-up, merged: of two entries with the same name the first counts.
#[derive(Default)]
pub(crate) struct Kubeconfig {
    current: Option<String>,
    contexts: Vec<Entry<Context>>,
    clusters: Vec<Entry<Cluster>>,
    users: Vec<Entry<User>>,
    /// For messages.
    files: Vec<PathBuf>,
}

/// How an API server is reached, and as whom.
pub(crate) struct Access {
    /// Name of the cluster, for messages.
    pub(crate) cluster: String,
    pub(crate) server: String,
    /// The only authorities to trust; `None`: those of the system.
    pub(crate) ca: Option<Pem>,
    pub(crate) tls_server_name: Option<String>,
    pub(crate) skip_verification: bool,
    /// May hold credentials.
    pub(crate) proxy: Option<String>,
    /// Certificate and key.
    pub(crate) identity: Option<(Pem, Pem)>,
    pub(crate) credential: Credential,
}

/// PEM, or where it is.
pub(crate) enum Pem {
    File(PathBuf),
    Held(Vec<u8>),
}

impl Pem {
    pub(crate) fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) => {
                std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
            }
            Self::Held(pem) => Ok(pem.clone()),
        }
    }
}

/// What is said in `Authorization`.
pub(crate) enum Credential {
    None,
    Token(Secret),
    /// Read again when it changes.
    TokenFile(PathBuf),
    /// The whole header.
    Basic(Secret),
    Exec(Box<ExecPlugin>),
}

/// An entry, with the directory of the file it is from: its paths are relative to that.
struct Entry<T> {
    name: String,
    value: T,
    dir: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    contexts: Option<Vec<NamedContext>>,
    clusters: Option<Vec<NamedCluster>>,
    users: Option<Vec<NamedUser>>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Option<Context>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Option<Cluster>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: Option<User>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: Option<String>,
    user: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: Option<String>,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: Option<bool>,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
    extensions: Option<Vec<Extension>>,
}

#[derive(Deserialize)]
struct Extension {
    name: String,
    extension: Value,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    exec: Option<exec::ExecConfig>,
    auth_provider: Option<Value>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<Value>,
    as_user_extra: Option<Value>,
}

/// Larger ones are something else.
const LARGEST: u64 = 16 << 20;

impl Kubeconfig {
    /// Reads this file, else those of `RELAY_KUBECONFIG` or `KUBECONFIG` (a list, of which some may be missing), else
    /// `~/.kube/config`.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let listed = || {
            let mut variables = ["RELAY_KUBECONFIG", "KUBECONFIG"].into_iter().filter_map(std::env::var_os);
            let list = variables.find(|list| !list.is_empty())?;
            Some(std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect::<Vec<_>>())
        };
        let files = match (file, listed()) {
            (Some(file), _) => vec![file.to_owned()],
            (None, Some(files)) if files.len() == 1 => files,
            (None, Some(files)) => files.into_iter().filter(|file| file.exists()).collect(),
            (None, None) => {
                let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
                let home =
                    home.context("no kubeconfig: neither --kubeconfig, nor KUBECONFIG, nor HOME is set")?;
                vec![Path::new(&home).join(".kube/config")]
            }
        };
        if files.is_empty() {
            bail!("no kubeconfig: none of the files in KUBECONFIG is there");
        }
        let mut merged = Self::default();
        for file in files {
            let unreadable = || format!("kubeconfig {} cannot be read", file.display());
            if std::fs::metadata(&file).with_context(unreadable)?.len() > LARGEST {
                bail!("kubeconfig {} is too large to be one", file.display());
            }
            let text = std::fs::read_to_string(&file).with_context(unreadable)?;
            merged.add(&file, &text)?;
        }
        Ok(merged)
    }

    fn add(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        let options = serde_saphyr::options! { with_snippet: false };
        let file: Option<File> = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            // Its words may quote what is in the file, and that may be a secret.
            let place = error
                .location()
                .map_or(String::new(), |at| format!(", line {}, column {}", at.line(), at.column()));
            anyhow!("{}{place}: not a kubeconfig", path.display())
        })?;
        let file = file.unwrap_or_default();
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        let named = |context: NamedContext| (context.name, context.context.unwrap_or_default());
        merge(&mut self.contexts, &dir, file.contexts.into_iter().flatten().map(named));
        let named = |cluster: NamedCluster| (cluster.name, cluster.cluster.unwrap_or_default());
        merge(&mut self.clusters, &dir, file.clusters.into_iter().flatten().map(named));
        let named = |user: NamedUser| (user.name, user.user.unwrap_or_default());
        merge(&mut self.users, &dir, file.users.into_iter().flatten().map(named));
        self.current = self.current.take().or(file.current_context).filter(|name| !name.is_empty());
        self.files.push(path.to_owned());
        Ok(())
    }

    /// What a context stands for; without a name the current one.
    pub(crate) fn access(&self, context: Option<&str>) -> anyhow::Result<Access> {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let place = files.join(", ");
        let Some(name) = context.or(self.current.as_deref()) else {
            return Err(Usage(format!("{place}: no current context; name one with --kube-context")).into());
        };
        let Some(context) = find(&self.contexts, name) else {
            let known: BTreeSet<_> = self.contexts.iter().map(|entry| entry.name.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Usage(format!("{place}: no context {name:?}; there are: {known}")).into());
        };
        let part = |what, name: &Option<String>| match name.as_deref() {
            None | Some("") => Err(anyhow!("{place}: context {:?} names no {what}", context.name)),
            Some(name) => Ok(name.to_owned()),
        };
        let missing =
            |what, name| anyhow!("{place}: no {what} {name:?}, which context {:?} names", context.name);
        let name = part("cluster", &context.value.cluster)?;
        let cluster = find(&self.clusters, &name).ok_or_else(|| missing("cluster", &name))?;
        let user = match &context.value.user {
            // Anybody.
            None => None,
            Some(name) if name.is_empty() => None,
            Some(name) => Some(find(&self.users, name).ok_or_else(|| missing("user", name))?),
        };
        cluster.access(user).with_context(|| place.clone())
    }
}

fn merge<T>(entries: &mut Vec<Entry<T>>, dir: &Path, more: impl Iterator<Item = (String, T)>) {
    for (name, value) in more {
        if find(entries, &name).is_none() {
            entries.push(Entry { name, value, dir: dir.to_owned() });
        }
    }
}

fn find<'a, T>(entries: &'a [Entry<T>], name: &str) -> Option<&'a Entry<T>> {
    entries.iter().find(|entry| entry.name == name)
}

impl Entry<Cluster> {
    fn access(&self, user: Option<&Entry<User>>) -> anyhow::Result<Access> {
        let (name, cluster) = (&self.name, &self.value);
        let what = || format!("cluster {name:?}");
        let server = cluster.server.clone().filter(|server| !server.is_empty());
        let server = server.with_context(|| format!("{}: no server", what()))?;
        let ca = self.pem(
            &format!("{}: certificate-authority", what()),
            &cluster.certificate_authority,
            &cluster.certificate_authority_data,
        )?;
        let proxy = cluster.proxy_url.clone().filter(|url| !url.is_empty());
        if let Some(url) = &proxy
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            bail!("{}: proxy-url: only http and https proxies are supported", what());
        }
        let mut access = Access {
            cluster: name.clone(),
            server,
            ca,
            tls_server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            skip_verification: cluster.insecure_skip_tls_verify == Some(true),
            proxy,
            identity: None,
            credential: Credential::None,
        };
        if let Some(user) = user {
            access.identity = user.identity()?;
            let for_plugins = || self.told_to_plugins(&access);
            access.credential = user.credential(for_plugins)?;
        }
        Ok(access)
    }

    /// The cluster as `KUBERNETES_EXEC_INFO` has it.
    fn told_to_plugins(&self, access: &Access) -> anyhow::Result<Value> {
        let extensions = self.value.extensions.iter().flatten();
        let config = extensions
            .filter(|extension| extension.name == "client.authentication.k8s.io/exec")
            .map(|extension| &extension.extension)
            .next();
        let mut told = json!({ "server": access.server, "config": config });
        if let Some(ca) = &access.ca {
            told["certificate-authority-data"] = STANDARD.encode(ca.read()?).into();
        }
        let named = [("tls-server-name", &access.tls_server_name), ("proxy-url", &access.proxy)];
        for (name, value) in named {
            if let Some(value) = value {
                told[name] = value.as_str().into();
            }
        }
        if access.skip_verification {
            told["insecure-skip-tls-verify"] = true.into();
        }
        Ok(told)
    }
}

impl Entry<User> {
    fn identity(&self) -> anyhow::Result<Option<(Pem, Pem)>> {
        let (name, user) = (&self.name, &self.value);
        let what = |field| format!("user {name:?}: {field}");
        let certificate =
            self.pem(&what("client-certificate"), &user.client_certificate, &user.client_certificate_data)?;
        let key = self.pem(&what("client-key"), &user.client_key, &user.client_key_data)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            _ => bail!("user {name:?}: client-certificate and client-key go together"),
        }
    }

    fn credential(&self, cluster: impl Fn() -> anyhow::Result<Value>) -> anyhow::Result<Credential> {
        let (name, user) = (&self.name, &self.value);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        // To be somebody else than one asked to be would be worse than an error.
        for (field, is_there) in [
            ("auth-provider", user.auth_provider.is_some()),
            ("as", user.impersonate.is_some()),
            ("as-uid", user.as_uid.is_some()),
            ("as-groups", user.as_groups.is_some()),
            ("as-user-extra", user.as_user_extra.is_some()),
        ] {
            if is_there {
                bail!("user {name:?}: {field} is not supported");
            }
        }
        let token_file = user.token_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        let basic = given(&user.username).or(given(&user.password)).is_some();
        if basic && (token_file.is_some() || given(&user.token).is_some()) {
            bail!("user {name:?}: has a token and a password; only one can be said");
        }
        if let Some(path) = token_file {
            return Ok(Credential::TokenFile(self.dir.join(path)));
        }
        if let Some(token) = given(&user.token) {
            return Ok(Credential::Token(Secret::new(token)));
        }
        if basic {
            let (username, password) = (given(&user.username), given(&user.password));
            let pair = format!("{}:{}", username.unwrap_or_default(), password.unwrap_or_default());
            return Ok(Credential::Basic(Secret::new(format!("Basic {}", STANDARD.encode(pair)))));
        }
        match &user.exec {
            None => Ok(Credential::None),
            Some(config) => {
                let plugin = config.plugin(&self.dir, cluster);
                Ok(Credential::Exec(Box::new(plugin.with_context(|| format!("user {name:?}: exec"))?)))
            }
        }
    }
}

impl<T> Entry<T> {
    /// Data beats a file, as everywhere.
    fn pem(&self, what: &str, file: &Option<PathBuf>, data: &Option<String>) -> anyhow::Result<Option<Pem>> {
        if let Some(data) = data.as_ref().filter(|data| !data.is_empty()) {
            let packed: String = data.split_ascii_whitespace().collect();
            // The error would quote it.
            let pem = STANDARD.decode(packed).map_err(|_| anyhow!("{what}-data: not base64"))?;
            return Ok(Some(Pem::Held(pem)));
        }
        let file = file.as_ref().filter(|file| !file.as_os_str().is_empty());
        Ok(file.map(|file| Pem::File(self.dir.join(file))))
    }
}
