//! Certificates for tests, and TLS in front of a peer.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::listening::accept;

/// Signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, in PEM.
    pub pem: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// A year in the future: certificates that end then are valid in every test.
    pub const FUTURE: i32 = 2200;

    /// A new authority with its own key and name.
    #[allow(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        // Two authorities never have the same name, just as they never have the same key.
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {:x?}", &key.public_key_raw()[1..9]));
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate and its key in PEM, valid from 2019 until this year begins.
    pub fn sign(&self, name: &str, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// The settings of a server with such a certificate. With an authority for `clients` it requires client
    /// certificates that this authority signed.
    pub fn server(&self, name: &str, year: i32, clients: Option<&Self>) -> ServerConfig {
        let (certificate, key) = self.sign(name, year);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the usual versions");
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(certificate_of(&authority.pem)).expect("its certificate");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().expect("one root"))
            }
        };
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        builder.with_single_cert(vec![certificate_of(&certificate)], key).expect("they belong together")
    }

    /// Puts TLS in front of a peer, with the settings of [`server`](Self::server). Returns a URL with the host
    /// `localhost`.
    pub async fn front(&self, name: &str, clients: Option<&Self>, to: SocketAddr) -> String {
        let acceptor = TlsAcceptor::from(Arc::new(self.server(name, Self::FUTURE, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it listens").port();
        tokio::spawn(accept(listener, move |socket| {
            let acceptor = acceptor.clone();
            async move {
                // A client that refuses the certificate closes the connection.
                let Ok(mut tls) = acceptor.accept(socket).await else { return };
                let Ok(mut plain) = TcpStream::connect(to).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut tls, &mut plain).await;
            }
        }));
        format!("https://localhost:{port}")
    }
}

fn certificate_of(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}
