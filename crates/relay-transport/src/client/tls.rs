//! TLS: trusted authorities and client certificates.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use relay_proto::mark::without_mark;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;
use crate::client::credentials::Stamp;
use crate::client::error::BoxError;
use relay_proto::error::chain;

/// The TLS set-up of a client. It is made with the first encrypted connection, and again when a file has changed;
/// open connections are not affected. Clones share it.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Shared>);

struct Shared {
    settings: TlsSettings,
    system: OnceLock<RootCertStore>,
    made: Mutex<Option<CachedConfig>>,
}

#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) system_roots: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca: Vec<CertificateDer<'static>>,
    pub(crate) identity: Option<Identity>,
    pub(crate) accept_anything: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Identity {
    Files { certificate: PathBuf, key: PathBuf },
    Held(ClientIdentity),
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { system_roots: true, ca_file: None, ca: Vec::new(), identity: None, accept_anything: false }
    }
}

struct CachedConfig {
    files: Vec<Option<Stamp>>,
    held: Option<u64>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files at once, so that errors are found early.
    pub(crate) fn new(settings: TlsSettings) -> Result<Self, Error> {
        let tls = Self(Arc::new(Shared { settings, system: OnceLock::new(), made: Mutex::new(None) }));
        if tls.0.settings.ca_file.is_some() || tls.0.settings.identity.is_some() {
            tls.config()?;
        }
        Ok(tls)
    }

    /// The current set-up. When a changed file cannot be used, the last good one is kept.
    pub(crate) fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        // Read before the content, so that a change during the read is seen next time.
        let files: Vec<_> = self.0.settings.files().map(|path| Stamp::of(path).ok()).collect();
        let held = self.0.settings.held().map(|identity| identity.with(|held| held.version));
        if let Some(made) = made.as_ref().filter(|made| made.files == files && made.held == held) {
            return Ok(made.config.clone());
        }
        match (self.0.make(), &*made) {
            (Ok(config), _) => {
                Ok(made.insert(CachedConfig { files, held, config: Arc::new(config) }).config.clone())
            }
            (Err(error), Some(last)) => {
                tracing::warn!(error = %chain(&error), "certificates kept");
                Ok(last.config.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

impl TlsSettings {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let identity = self.identity.iter().flat_map(|identity| match identity {
            Identity::Files { certificate, key } => vec![certificate, key],
            Identity::Held(_) => Vec::new(),
        });
        self.ca_file.iter().chain(identity)
    }

    fn held(&self) -> Option<&ClientIdentity> {
        match &self.identity {
            Some(Identity::Held(identity)) => Some(identity),
            _ => None,
        }
    }
}

impl Shared {
    fn make(&self) -> Result<ClientConfig, Error> {
        let settings = &self.settings;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        if settings.system_roots && !settings.accept_anything {
            roots.roots.extend_from_slice(&self.system.get_or_init(system_roots).roots);
        }
        if let Some(path) = &settings.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, "an authority", error))?;
            }
        }
        for certificate in &settings.ca {
            roots.add(certificate.clone()).map_err(|error| Error::Config {
                what: "a certificate that was given cannot be used as an authority".to_owned(),
                source: Some(error.into()),
            })?;
        }
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for every default version");
        let builder = if settings.accept_anything {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
        } else {
            builder.with_root_certificates(roots)
        };
        let mut config = match &settings.identity {
            None => builder.with_no_client_auth(),
            Some(Identity::Files { certificate, key }) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| unusable(certificate, "the client's certificate", error))?,
            Some(Identity::Held(identity)) => {
                let (chain, key) = identity.with(|held| (held.chain.clone(), held.key.clone_key()));
                builder.with_client_auth_cert(chain, key).map_err(|error| Error::Config {
                    what: "the client's certificate cannot be used with its key".to_owned(),
                    source: Some(error.into()),
                })?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A client certificate with its private key, held in memory. Clones share it: after [`replace`](Self::replace),
/// new connections use the new certificate; open ones are not affected.
#[derive(Clone)]
pub struct ClientIdentity(Arc<Mutex<CertifiedKeyPair>>);

struct CertifiedKeyPair {
    version: u64,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ClientIdentity {
    /// From PEM: the certificate, the chain after it, and the key.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no certificate or no key.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(CertifiedKeyPair::from_pem(certificate, key)?))))
    }

    /// Replaces the certificate and its key. When they cannot be used together, the former ones are kept.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no certificate or no key; the former ones are kept.
    pub fn replace(&self, certificate: &[u8], key: &[u8]) -> Result<(), Error> {
        let new = CertifiedKeyPair::from_pem(certificate, key)?;
        self.with(|held| *held = CertifiedKeyPair { version: held.version + 1, ..new });
        Ok(())
    }

    fn with<T>(&self, access: impl FnOnce(&mut CertifiedKeyPair) -> T) -> T {
        access(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(***)")
    }
}

impl CertifiedKeyPair {
    fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let key = PrivateKeyDer::from_pem_slice(without_mark(key)).map_err(|error| Error::Config {
            what: "no private key in what was given as one".to_owned(),
            source: Some(error.into()),
        })?;
        Ok(Self { version: 0, chain: certificates_in(certificate)?, key })
    }
}

/// The certificates of a PEM text; at least one.
pub(crate) fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let unusable = |source: Option<BoxError>| Error::Config {
        what: "no certificate in what was given as one".to_owned(),
        source,
    };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_mark(pem)).collect();
    let found = found.map_err(|error| unusable(Some(error.into())))?;
    if found.is_empty() { Err(unusable(None)) } else { Ok(found) }
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "system certificates");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = pem(path).map_err(|error| unusable(path, "certificates", error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(without_mark(&pem)).collect();
    match found.map_err(|error| unusable(path, "certificates", error))? {
        none if none.is_empty() => {
            Err(Error::Config { what: format!("{} holds no certificate", path.display()), source: None })
        }
        found => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = pem(path).map_err(|error| unusable(path, "a private key", error))?;
    PrivateKeyDer::from_pem_slice(without_mark(&pem)).map_err(|error| unusable(path, "a private key", error))
}

/// Size limit of a file of certificates or keys, in bytes: far above a bundle of all public authorities.
const LONGEST_PEM: u64 = 16 << 20;

fn pem(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut pem = Vec::new();
    std::fs::File::open(path)?.take(LONGEST_PEM + 1).read_to_end(&mut pem)?;
    if pem.len() as u64 > LONGEST_PEM {
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, "it is over 16 MiB"));
    }
    Ok(pem)
}

fn unusable(path: &Path, what: &str, source: impl Into<BoxError>) -> Error {
    Error::Config {
        what: format!("{} cannot be used as {what}", path.display()),
        source: Some(source.into()),
    }
}

/// Accepts every certificate: encryption without authentication.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.settings, f)
    }
}
