//! Access to an API server: its address, the authorities to trust, and our credentials.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderValue};
use relay_transport::{BaseUrl, ClientIdentity, HttpClient, HttpClientBuilder, Secret, TokenSource};

use crate::error::Error;
use crate::exec::{ExecPlugin, ExecSession};

/// The address of an API server and credentials for it: from a kubeconfig, or from the service account of the pod
/// we run in.
pub struct Access {
    /// Name of the cluster, for messages.
    pub(crate) cluster: String,
    /// Name of the user, for messages; empty when there is none.
    pub(crate) user: String,
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
    /// Headers for impersonation; empty without.
    pub(crate) impersonate: HeaderMap,
}

/// PEM text, or the path of a PEM file.
#[derive(Clone)]
pub(crate) enum Pem {
    File(PathBuf),
    Held(Vec<u8>),
}

impl Pem {
    /// Reads the text; `what` names its entry for errors.
    pub(crate) fn read(&self, what: &str) -> Result<Vec<u8>, Error> {
        match self {
            Self::File(path) => std::fs::read(path).map_err(|error| {
                Error::config_with(format!("{what}: {} cannot be read", path.display()), error)
            }),
            Self::Held(pem) => Ok(pem.clone()),
        }
    }
}

/// The content of the `Authorization` header.
pub(crate) enum Credential {
    None,
    Token(Secret),
    /// Read again when it changes; while it cannot be read, `token` is used, if there is one.
    TokenFile {
        path: PathBuf,
        otherwise: Option<Secret>,
    },
    /// The whole header.
    Basic(Secret),
    Exec(Box<ExecPlugin>),
}

/// The path of the service account in a pod.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

impl Access {
    /// The service account of the pod we run in.
    ///
    /// # Errors
    /// [`Error::Config`] when we run in no pod, or in one without a service account.
    pub fn in_cluster() -> Result<Self, Error> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").unwrap_or_default();
        let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_default();
        Self::service_account(&host, &port, Path::new(SERVICE_ACCOUNT))
    }

    fn service_account(host: &str, port: &str, directory: &Path) -> Result<Self, Error> {
        if host.is_empty() || port.is_empty() {
            return Err(Error::config("KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set"));
        }
        let (token, ca) = (directory.join("token"), directory.join("ca.crt"));
        if !token.exists() {
            return Err(Error::config(format!("{} is not there", token.display())));
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(Self {
            cluster: "of this pod".to_owned(),
            user: "service account of this pod".to_owned(),
            server: format!("https://{host}:{port}"),
            // Without a CA file the system's authorities are trusted: a cluster may have a public certificate.
            ca: ca.exists().then_some(Pem::File(ca)),
            tls_server_name: None,
            skip_verification: false,
            proxy: None,
            identity: None,
            credential: Credential::TokenFile { path: token, otherwise: None },
            impersonate: HeaderMap::new(),
        })
    }

    /// An API server by its URL, without credentials; with TLS, the system's authorities are trusted.
    pub fn anonymous(server: impl Into<String>) -> Self {
        Self {
            cluster: "given by its URL".to_owned(),
            user: String::new(),
            server: server.into(),
            ca: None,
            tls_server_name: None,
            skip_verification: false,
            proxy: None,
            identity: None,
            credential: Credential::None,
            impersonate: HeaderMap::new(),
        }
    }

    /// The same, at another URL.
    #[must_use]
    pub fn at(mut self, server: impl Into<String>) -> Self {
        self.server = server.into();
        self
    }

    /// The API server's URL.
    ///
    /// # Errors
    /// [`Error::Config`] with the name of the cluster entry when the address is not a URL.
    pub fn server(&self) -> Result<BaseUrl, Error> {
        let what = || format!("cluster {:?}: server", self.cluster);
        BaseUrl::parse(&self.server).map_err(|error| Error::config_with(what(), error))
    }

    /// Name of the cluster entry.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Whether the cluster entry says `insecure-skip-tls-verify`: any server could then pass for the API server and
    /// receive the credentials. [`apply`](Self::apply) follows the setting; callers should refuse it or warn.
    pub fn skips_verification(&self) -> bool {
        self.skip_verification
    }

    /// Sets up a client with the authorities and credentials of the kubeconfig, except for settings of the caller's
    /// own that are named in `given`. The second value of the result is for callers that write the `Authorization`
    /// header themselves.
    ///
    /// A credential plugin is run here for the first time.
    ///
    /// # Errors
    /// [`Error::Config`] with the name of the cluster or user entry that cannot be used.
    pub async fn apply(
        self,
        mut http: HttpClientBuilder,
        given: CallerSettings,
    ) -> Result<(HttpClientBuilder, Option<Authorization>), Error> {
        if !self.impersonate.is_empty() {
            http = http.headers_to(self.server()?, self.impersonate.clone());
        }
        if self.skip_verification {
            http = http.dangerously_accept_any_certificate();
        }
        if let Some(ca) = self.ca {
            let what = format!("cluster {:?}: certificate-authority", self.cluster);
            // A file is read here, too, because only here an error can name its entry.
            let pem = ca.read(&what)?;
            let wrong = |error| Error::config_with(what.clone(), error);
            http = match ca {
                Pem::File(path) if !given.ca_file => {
                    http.clone().ca_pem(&pem).map_err(wrong)?;
                    http.system_roots(false).ca_file(path)
                }
                _ => http.system_roots(false).ca_pem(&pem).map_err(wrong)?,
            };
        }
        // Clients with this one setting only, so that an error is about this setting.
        let alone = |field: &str, http: HttpClientBuilder| {
            let what = format!("cluster {:?}: {field}", self.cluster);
            http.build().map_err(|error| Error::config_with(what, error))
        };
        if let Some(name) = self.tls_server_name {
            alone("tls-server-name", HttpClient::builder().no_proxy().tls_server_name(&name))?;
            http = http.tls_server_name(name);
        }
        if let Some(url) = self.proxy {
            alone("proxy-url", HttpClient::builder().proxy(&url, ""))?;
            http = http.proxy(url, "");
        }
        let user = |field: &str| format!("user {:?}: {field}", self.user);
        if let Some((certificate, key)) = self.identity.filter(|_| !given.identity) {
            let pem = (certificate.read(&user("client-certificate"))?, key.read(&user("client-key"))?);
            let identity = ClientIdentity::from_pem(&pem.0, &pem.1)
                .map_err(|error| Error::config_with(user("client-certificate and client-key"), error))?;
            http = match (certificate, key) {
                (Pem::File(certificate), Pem::File(key)) => http.client_certificate(certificate, key),
                _ => http.client_identity(identity),
            };
        }
        if given.credential {
            return Ok((http, None));
        }
        let authorization = match self.credential {
            Credential::None => None,
            Credential::Token(token) => {
                token.bearer().map_err(|error| Error::config_with(user("token"), error))?;
                Some(Authorization::bearer(TokenSource::fixed(token)))
            }
            Credential::TokenFile { path, otherwise: None } => {
                let source = TokenSource::file(path);
                let token = source.token().await.and_then(|token| token.bearer());
                token.map_err(|error| Error::config_with(user("tokenFile"), error))?;
                Some(Authorization::bearer(source))
            }
            Credential::TokenFile { path, otherwise: Some(token) } => {
                token.bearer().map_err(|error| Error::config_with(user("token"), error))?;
                let file = TokenSource::file(path);
                Some(Authorization::bearer(TokenSource::refreshing(move |refused| {
                    let (file, token) = (file.clone(), token.clone());
                    async move {
                        let read = if refused { file.fresh_token().await } else { file.token().await };
                        Ok::<_, Infallible>(read.unwrap_or(token))
                    }
                })))
            }
            Credential::Basic(header) => {
                Some(Authorization { source: TokenSource::fixed(header), bearer: false })
            }
            Credential::Exec(plugin) => {
                let session = ExecSession::begin(*plugin).await?;
                if let Some(identity) = session.identity.as_ref().filter(|_| !given.identity) {
                    http = http.client_identity(identity.clone());
                }
                if session.has_token {
                    Some(Authorization::bearer(TokenSource::refreshing(move |refused| {
                        let session = session.clone();
                        async move { session.token(refused).await }
                    })))
                } else {
                    tokio::spawn(session.keep_certificate());
                    None
                }
            }
        };
        Ok((http, authorization))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("cluster", &self.cluster)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Settings that the caller of [`Access::apply`] has made itself and that are not taken from the kubeconfig.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallerSettings {
    /// A file with authorities: those of the kubeconfig are trusted as well.
    pub ca_file: bool,
    /// A client certificate.
    pub identity: bool,
    /// The content of the `Authorization` header.
    pub credential: bool,
}

/// The content of the `Authorization` header. Clones share the cached value.
#[derive(Debug, Clone)]
pub struct Authorization {
    source: TokenSource,
    bearer: bool,
}

impl Authorization {
    fn bearer(source: TokenSource) -> Self {
        Self { source, bearer: true }
    }

    /// The source of its text.
    pub fn source(&self) -> &TokenSource {
        &self.source
    }

    /// Whether the text is a bearer token; otherwise it is the whole header.
    pub fn is_bearer(&self) -> bool {
        self.bearer
    }

    /// The current header; with `refused`, another than the last one if the source has one.
    pub(crate) async fn header(&self, refused: bool) -> Result<HeaderValue, relay_transport::Error> {
        let text = if refused { self.source.fresh_token().await? } else { self.source.token().await? };
        if self.bearer { text.bearer() } else { text.header() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use relay_proto::error::chain;
    use relay_testkit::{ApiServer, Ask};
    use serde_json::Value;

    use super::*;
    use crate::{KubeClient, Resource};

    /// A directory as a kubelet mounts it: names are links through `..data`, which points to the current version.
    struct Mount(tempfile::TempDir);

    impl Mount {
        fn new(token: &str) -> Self {
            let mount = Self(tempfile::tempdir().unwrap());
            mount.swap("..1", token);
            symlink("..data/token", mount.0.path().join("token")).unwrap();
            mount
        }

        /// All files change at once.
        fn swap(&self, directory: &str, token: &str) {
            let here = self.0.path();
            std::fs::create_dir(here.join(directory)).unwrap();
            std::fs::write(here.join(directory).join("token"), format!("{token}\n")).unwrap();
            symlink(directory, here.join("..new")).unwrap();
            std::fs::rename(here.join("..new"), here.join("..data")).unwrap();
        }
    }

    #[test]
    fn a_pod_finds_its_api_server_by_the_environment_and_its_files() {
        let mount = Mount::new("one");
        for (host, server) in [
            ("10.96.0.1", "https://10.96.0.1:443"),
            ("fd00::1", "https://[fd00::1]:443"),
            ("kubernetes.default.svc", "https://kubernetes.default.svc:443"),
        ] {
            let access = Access::service_account(host, "443", mount.0.path()).unwrap();
            assert_eq!(access.server().unwrap().to_string(), server);
            assert!(access.ca.is_none() && !access.skip_verification, "without a file, those of the system");
        }
        let ca = mount.0.path().join("ca.crt");
        std::fs::write(&ca, "none").unwrap();
        let access = Access::service_account("10.96.0.1", "443", mount.0.path()).unwrap();
        assert!(matches!(&access.ca, Some(Pem::File(path)) if *path == ca));
        let empty = tempfile::tempdir().unwrap();
        for (host, port, directory, why) in [
            ("", "443", mount.0.path(), "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set"),
            (
                "10.96.0.1",
                "",
                mount.0.path(),
                "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is not set",
            ),
            ("10.96.0.1", "443", empty.path(), "token is not there"),
        ] {
            let error = Access::service_account(host, port, directory).unwrap_err();
            assert!(chain(&error).to_string().ends_with(why), "{}", chain(&error));
        }
    }

    #[tokio::test]
    async fn an_authority_of_the_pod_that_is_none_is_named() {
        let mount = Mount::new("one");
        std::fs::write(mount.0.path().join("ca.crt"), "none").unwrap();
        let access = Access::service_account("127.0.0.1", "1", mount.0.path()).unwrap();
        let error = chain(&KubeClient::connect(access).await.unwrap_err()).to_string();
        assert!(error.starts_with("cluster \"of this pod\": certificate-authority: "), "{error}");
    }

    #[tokio::test]
    async fn the_token_of_a_pod_is_said_and_followed_through_a_kubelets_swap() {
        let (server, mount) = (ApiServer::start().await, Mount::new("one"));
        server.require_token(Some("one"));
        let access = Access::service_account("127.0.0.1", "1", mount.0.path()).unwrap().at(server.url());
        let client = KubeClient::connect(access).await.unwrap();
        let pods = Resource::new("", "v1", "pods");
        let list = async || client.list::<Value>(&pods, None, &Default::default()).await;
        list().await.unwrap();
        let request = server.request(Ask::List, 0).await;
        assert_eq!(request.header("authorization"), Some("Bearer one"));
        mount.swap("..2", "two");
        server.require_token(Some("two"));
        list().await.unwrap();
    }
}
