//! Kubeconfig files: the address of a cluster's API server, the authorities to trust, and our credentials.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use relay_transport::{BaseUrl, Secret};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::access::{Access, Credential, Pem};
use crate::error::Error;
use crate::exec::ExecConfig;

/// The merged kubeconfig files: of two entries with the same name the first counts.
///
/// Files are YAML or JSON, in UTF-8 or UTF-16, with or without a byte order mark and document marks; of several
/// documents the first counts. Paths in a file are relative to it. Errors quote nothing of a file: it may be a
/// secret.
#[derive(Default)]
pub struct Kubeconfig {
    current: Option<String>,
    contexts: Vec<Entry<Context>>,
    clusters: Vec<Entry<Cluster>>,
    users: Vec<Entry<User>>,
    /// For messages.
    files: Vec<PathBuf>,
}

/// An entry, with the directory of its file, to which its paths are relative.
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
    exec: Option<ExecConfig>,
    auth_provider: Option<Value>,
    #[serde(rename = "as")]
    impersonate: Option<String>,
    as_uid: Option<String>,
    as_groups: Option<Vec<String>>,
    as_user_extra: Option<BTreeMap<String, Vec<String>>>,
}

/// Size limit of a kubeconfig file, in bytes.
const LARGEST: u64 = 16 << 20;

impl Kubeconfig {
    /// Reads this file, else those of `RELAY_KUBECONFIG` or `KUBECONFIG` (a list, of which some may be missing), else
    /// `~/.kube/config`.
    ///
    /// # Errors
    /// [`Error::Config`] with the name of the file that cannot be read or is no kubeconfig.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let files = match (file, listed()) {
            (Some(file), _) => vec![file.to_owned()],
            (None, Some(files)) if files.len() == 1 => files,
            (None, Some(files)) => files.into_iter().filter(|file| file.exists()).collect(),
            (None, None) => vec![usual().ok_or_else(|| {
                Error::config("no kubeconfig: neither --kubeconfig, nor KUBECONFIG, nor HOME is set")
            })?],
        };
        if files.is_empty() {
            return Err(Error::config("no kubeconfig: none of the files in KUBECONFIG is there"));
        }
        let mut merged = Self::default();
        for file in files {
            let unreadable =
                |error| Error::config_with(format!("kubeconfig {} cannot be read", file.display()), error);
            if std::fs::metadata(&file).map_err(unreadable)?.len() > LARGEST {
                return Err(Error::config(format!("kubeconfig {} is too large to be one", file.display())));
            }
            let bytes = std::fs::read(&file).map_err(unreadable)?;
            merged.add(&file, &bytes)?;
        }
        Ok(merged)
    }

    /// Whether the environment, or the home directory, has a kubeconfig for [`load`](Self::load). A file that the
    /// environment names counts even if it is missing; then `load` reports that.
    fn is_there() -> bool {
        if std::env::var_os("RELAY_KUBECONFIG").is_some_and(|list| !list.is_empty()) {
            return true;
        }
        match listed() {
            Some(files) => files.iter().any(|file| file.exists()),
            None => usual().is_some_and(|file| file.exists()),
        }
    }

    fn add(&mut self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let text = text_of(bytes).ok_or_else(|| {
            Error::config(format!("kubeconfig {} is neither UTF-8 nor UTF-16", path.display()))
        })?;
        let options = serde_saphyr::options! { with_snippet: false };
        let file: Option<File> = serde_saphyr::from_str_with_options(first_document(&text), options)
            .map_err(|error| {
                // The error's text may quote the file, which may be a secret.
                let place = error
                    .location()
                    .map_or(String::new(), |at| format!(", line {}, column {}", at.line(), at.column()));
                Error::config(format!("{}{place}: not a kubeconfig", path.display()))
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

    /// The access of a context; without a name, of the current context.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is no such context, [`Error::Config`] with the name of the cluster or user entry
    /// that cannot be used.
    pub fn access(&self, context: Option<&str>) -> Result<Access, Error> {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let place = files.join(", ");
        let Some(name) = context.or(self.current.as_deref()) else {
            let what = format!("{place}: no current context; name one with --kube-context");
            return Err(Error::Usage { what });
        };
        let Some(context) = find(&self.contexts, name) else {
            let known: BTreeSet<_> = self.contexts.iter().map(|entry| entry.name.as_str()).collect();
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::Usage { what: format!("{place}: no context {name:?}; there are: {known}") });
        };
        let missing = |what: &str, name: &str| {
            Error::config(format!("{place}: no {what} {name:?}, which context {:?} names", context.name))
        };
        let given = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
        let Some(name) = given(&context.value.cluster) else {
            return Err(Error::config(format!("{place}: context {:?} names no cluster", context.name)));
        };
        let cluster = find(&self.clusters, &name).ok_or_else(|| missing("cluster", &name))?;
        let user = match given(&context.value.user) {
            // An anonymous user.
            None => None,
            Some(name) => Some(find(&self.users, &name).ok_or_else(|| missing("user", &name))?),
        };
        cluster.access(user).map_err(|error| match error {
            Error::Config { what, source } => Error::Config { what: format!("{place}: {what}"), source },
            other => other,
        })
    }
}

impl Access {
    /// The current context of the kubeconfig that the environment or the home directory has, else the service account
    /// of the pod we run in.
    ///
    /// # Errors
    /// [`Error::Config`] when neither is there, or what is there cannot be used.
    pub fn infer() -> Result<Self, Error> {
        if Kubeconfig::is_there() {
            return Kubeconfig::load(None)?.access(None);
        }
        Self::in_cluster().map_err(|error| {
            Error::config_with("no cluster to connect to: there is no kubeconfig, and this is no pod", error)
        })
    }
}

impl std::fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubeconfig").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The files that the environment names.
fn listed() -> Option<Vec<PathBuf>> {
    let mut variables = ["RELAY_KUBECONFIG", "KUBECONFIG"].into_iter().filter_map(std::env::var_os);
    let list = variables.find(|list| !list.is_empty())?;
    Some(std::env::split_paths(&list).filter(|path| !path.as_os_str().is_empty()).collect())
}

fn usual() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty())?;
    Some(Path::new(&home).join(".kube/config"))
}

/// Decodes a file by its byte order mark, or without one by its first bytes: YAML begins with an ASCII character,
/// so in UTF-16 every other byte of its start is zero.
fn text_of(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        if !bytes.len().is_multiple_of(2) {
            return None;
        }
        let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
        char::decode_utf16(units).collect::<Result<String, _>>().ok()
    };
    match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [first, 0, ..] if *first != 0 => utf16(bytes, u16::from_le_bytes),
        [0, second, ..] if *second != 0 => utf16(bytes, u16::from_be_bytes),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

/// The first document that is not empty. A document mark at the start of a line ends a document everywhere, even within
/// a block of text.
fn first_document(text: &str) -> &str {
    let (mut at, mut content) = (0, false);
    for line in text.split_inclusive('\n') {
        let marked = |mark| {
            line.strip_prefix(mark)
                .is_some_and(|rest: &str| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        };
        if content && (marked("---") || marked("...")) {
            return &text[..at];
        }
        let words = if marked("---") { &line[3..] } else { line }.trim_start();
        content |= !words.is_empty() && !words.starts_with(['#', '%']);
        at += line.len();
    }
    text
}

/// Adds a scheme to a server without one, as `kubectl` does: https when the file has settings for TLS.
fn with_scheme(server: String, tls: bool) -> String {
    if server.contains("://") {
        return server;
    }
    format!("{}://{server}", if tls { "https" } else { "http" })
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
    fn access(&self, user: Option<&Entry<User>>) -> Result<Access, Error> {
        let (name, cluster) = (&self.name, &self.value);
        let what = || format!("cluster {name:?}");
        let server = cluster.server.clone().filter(|server| !server.is_empty());
        let server = server.ok_or_else(|| Error::config(format!("{}: no server", what())))?;
        let ca = self.pem(
            &format!("{}: certificate-authority", what()),
            &cluster.certificate_authority,
            &cluster.certificate_authority_data,
        )?;
        let proxy = cluster.proxy_url.clone().filter(|url| !url.is_empty());
        if let Some(url) = &proxy
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return Err(Error::config(format!(
                "{}: proxy-url: only http and https proxies are supported",
                what()
            )));
        }
        let mut access = Access {
            cluster: name.clone(),
            user: user.map(|user| user.name.clone()).unwrap_or_default(),
            server,
            ca,
            tls_server_name: cluster.tls_server_name.clone().filter(|name| !name.is_empty()),
            skip_verification: cluster.insecure_skip_tls_verify == Some(true),
            proxy,
            identity: None,
            credential: Credential::None,
            impersonate: Default::default(),
        };
        let identity = user.map(Entry::identity).transpose()?.flatten();
        let tls = access.ca.is_some() || access.skip_verification || identity.is_some();
        access.server = with_scheme(access.server, tls);
        access.identity = identity;
        if let Some(user) = user {
            access.impersonate = user.impersonate()?;
            let for_plugins = || self.told_to_plugins(&access);
            access.credential = user.credential(for_plugins)?;
        }
        Ok(access)
    }

    /// The cluster in the format of `KUBERNETES_EXEC_INFO`.
    fn told_to_plugins(&self, access: &Access) -> Result<Value, Error> {
        let extensions = self.value.extensions.iter().flatten();
        let config = extensions
            .filter(|extension| extension.name == "client.authentication.k8s.io/exec")
            .map(|extension| &extension.extension)
            .next();
        let mut told = json!({ "server": access.server, "config": config });
        if let Some(ca) = &access.ca {
            told["certificate-authority-data"] =
                STANDARD.encode(ca.read(&format!("cluster {:?}: certificate-authority", self.name))?).into();
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
    fn identity(&self) -> Result<Option<(Pem, Pem)>, Error> {
        let (name, user) = (&self.name, &self.value);
        let what = |field| format!("user {name:?}: {field}");
        let certificate =
            self.pem(&what("client-certificate"), &user.client_certificate, &user.client_certificate_data)?;
        let key = self.pem(&what("client-key"), &user.client_key, &user.client_key_data)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Ok(Some((certificate, key))),
            (None, None) => Ok(None),
            _ => Err(Error::config(format!("user {name:?}: client-certificate and client-key go together"))),
        }
    }

    /// The headers for impersonation.
    fn impersonate(&self) -> Result<HeaderMap, Error> {
        let (name, user) = (&self.name, &self.value);
        let mut headers = HeaderMap::new();
        let mut add = |header: &str, field: &str, value: &str| {
            let wrong = |_| Error::config(format!("user {name:?}: {field}: no header can hold it"));
            let value = HeaderValue::from_str(value).map_err(|_| wrong(()))?;
            let header = HeaderName::from_bytes(header.as_bytes()).map_err(|_| wrong(()))?;
            headers.append(header, value);
            Ok::<_, Error>(())
        };
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let whom = given(&user.impersonate);
        if let Some(whom) = &whom {
            add("impersonate-user", "as", whom)?;
        }
        if let Some(uid) = given(&user.as_uid) {
            add("impersonate-uid", "as-uid", &uid)?;
        }
        for group in user.as_groups.iter().flatten() {
            add("impersonate-group", "as-groups", group)?;
        }
        for (key, values) in user.as_user_extra.iter().flatten() {
            // A header name has no case, and allows fewer characters than such a key.
            let key = BaseUrl::segment(&key.to_lowercase());
            for value in values {
                add(&format!("impersonate-extra-{key}"), "as-user-extra", value)?;
            }
        }
        if whom.is_none() && !headers.is_empty() {
            let what = format!("user {name:?}: as-uid, as-groups and as-user-extra need as");
            return Err(Error::config(what));
        }
        Ok(headers)
    }

    fn credential(&self, cluster: impl Fn() -> Result<Value, Error>) -> Result<Credential, Error> {
        let (name, user) = (&self.name, &self.value);
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        // Acting as another user than the configured one would be worse than an error.
        if user.auth_provider.is_some() {
            return Err(Error::config(format!("user {name:?}: auth-provider is not supported")));
        }
        let token_file = user.token_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        let basic = given(&user.username).or(given(&user.password)).is_some();
        if basic && (token_file.is_some() || given(&user.token).is_some()) {
            return Err(Error::config(format!(
                "user {name:?}: has a token and a password; only one can be said"
            )));
        }
        if let Some(path) = token_file {
            let otherwise = given(&user.token).map(|token| Secret::new(token.trim()));
            return Ok(Credential::TokenFile { path: self.dir.join(path), otherwise });
        }
        if let Some(token) = given(&user.token) {
            return Ok(Credential::Token(Secret::new(token.trim())));
        }
        if basic {
            let (username, password) = (given(&user.username), given(&user.password));
            let pair = format!("{}:{}", username.unwrap_or_default(), password.unwrap_or_default());
            return Ok(Credential::Basic(Secret::new(format!("Basic {}", STANDARD.encode(pair)))));
        }
        match &user.exec {
            None => Ok(Credential::None),
            Some(config) => Ok(Credential::Exec(Box::new(config.plugin(name, &self.dir, cluster)?))),
        }
    }
}

impl<T> Entry<T> {
    /// Inline data takes precedence over a file, as in `kubectl`.
    fn pem(&self, what: &str, file: &Option<PathBuf>, data: &Option<String>) -> Result<Option<Pem>, Error> {
        if let Some(data) = data.as_ref().filter(|data| !data.is_empty()) {
            let packed: String = data.split_ascii_whitespace().collect();
            // The library's error would quote the data.
            let pem =
                STANDARD.decode(packed).map_err(|_| Error::config(format!("{what}-data: not base64")))?;
            return Ok(Some(Pem::Held(pem)));
        }
        let file = file.as_ref().filter(|file| !file.as_os_str().is_empty());
        Ok(file.map(|file| Pem::File(self.dir.join(file))))
    }
}
