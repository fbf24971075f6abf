//! Encrypted connections: which servers are trusted, how the client identifies itself, and changes of certificates.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::Request;
use http_body_util::Full;
use relay_testkit::Authority;
use relay_transport::{ClientIdentity, Error, HttpClientBuilder};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::*;

const FUTURE: i32 = Authority::FUTURE;

/// Answers every request with the size of the client's certificate, or with an event that has it, once per connection.
pub(crate) struct Server {
    pub(crate) port: u16,
    config: Arc<Mutex<Arc<ServerConfig>>>,
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(Mutex::new(Arc::new(config)));
        let shared = config.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let acceptor = TlsAcceptor::from(shared.lock().unwrap().clone());
                tokio::spawn(async move {
                    let mut tls = acceptor.accept(socket).await?;
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(tls.read_u8().await?);
                    }
                    let client = tls.get_ref().1.peer_certificates().map_or(0, |chain| chain[0].len());
                    let kind =
                        if head.starts_with(b"GET /events") { "text/event-stream" } else { "text/plain" };
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\ndata: {client}\n\n");
                    tls.write_all(answer.as_bytes()).await?;
                    tls.shutdown().await
                });
            }
        });
        Self { port, config }
    }

    fn set(&self, config: ServerConfig) {
        *self.config.lock().unwrap() = Arc::new(config);
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The body of an answer, or the error as one line.
    async fn ask(&self, http: &HttpClient) -> Result<String, String> {
        use http_body_util::BodyExt;
        let request = Request::get(self.url()).body(Full::default()).unwrap();
        let response = http.send(request).await.map_err(|error| error.line())?;
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Replaces a file as a rotation does: writes a new file, then renames it.
    fn put(&self, name: &str, content: &str) -> PathBuf {
        let (aside, path) = (self.0.path().join("aside"), self.0.path().join(name));
        fs::write(&aside, content).unwrap();
        fs::rename(aside, &path).unwrap();
        path
    }
}

fn client(change: impl FnOnce(HttpClientBuilder) -> HttpClientBuilder) -> HttpClient {
    change(HttpClient::builder().no_proxy().system_roots(false)).build().unwrap()
}

#[tokio::test]
async fn who_is_trusted() {
    let (files, ours, theirs) = (Files::new(), Authority::new(), Authority::new());
    let ca = files.put("ca.pem", &ours.pem);
    let trusting = client(|builder| builder.ca_file(&ca));
    for (config, expected) in [
        (ours.server("localhost", FUTURE, None), Ok("data: 0\n\n")),
        (ours.server("relay.test", FUTURE, None), Err("not valid for name")),
        (ours.server("localhost", 2020, None), Err("expired")),
        (theirs.server("localhost", FUTURE, None), Err("UnknownIssuer")),
    ] {
        let server = Server::start(config).await;
        let answer = server.ask(&trusting).await;
        match expected {
            Ok(body) => assert_eq!(answer.as_deref(), Ok(body)),
            Err(part) => {
                let line = answer.unwrap_err();
                assert!(line.starts_with(&format!("cannot connect to {}/: ", server.url())), "{line}");
                assert!(line.contains(part) && !line.contains('\n'), "{line}");
            }
        }
        // Without the authority no certificate is trusted; a client that accepts any certificate trusts all of them.
        let line = server.ask(&client(|builder| builder)).await.unwrap_err();
        assert!(line.contains("certificate"), "{line}");
        let reckless = client(HttpClientBuilder::dangerously_accept_any_certificate);
        assert_eq!(server.ask(&reckless).await.as_deref(), Ok("data: 0\n\n"));
    }
}

#[tokio::test]
async fn authorities_change_while_the_client_lives() {
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let ca = files.put("ca.pem", &old.pem);
    let http = client(|builder| builder.ca_file(&ca));
    let server = Server::start(old.server("localhost", FUTURE, None)).await;
    assert!(server.ask(&http).await.is_ok());
    // A new certificate from the same authority.
    server.set(old.server("localhost", FUTURE, None));
    assert!(server.ask(&http).await.is_ok());
    // A certificate from another authority is refused until the file has that authority.
    server.set(new.server("localhost", FUTURE, None));
    assert!(server.ask(&http).await.unwrap_err().contains("certificate"));
    files.put("ca.pem", &format!("{}{}", old.pem, new.pem));
    assert!(server.ask(&http).await.is_ok());
    // If the file is half-written, missing, or has other content, the last good version is used.
    for broken in ["", "-----BEGIN CERTIFICATE-----\nMIIB", "no certificate at all"] {
        files.put("ca.pem", broken);
        assert!(server.ask(&http).await.is_ok(), "{broken:?}");
    }
    fs::remove_file(&ca).unwrap();
    assert!(server.ask(&http).await.is_ok());
    // A good file is used again: the new authority is no longer trusted.
    files.put("ca.pem", &old.pem);
    assert!(server.ask(&http).await.is_err());
}

#[tokio::test]
async fn the_client_shows_who_it_is() {
    let (files, ours, clients) = (Files::new(), Authority::new(), Authority::new());
    let ca = files.put("ca.pem", &ours.pem);
    let identity = |(certificate, key): (String, String)| {
        (files.put("c.pem", &certificate), files.put("k.pem", &key), certificate)
    };
    let (certificate, key, pem) = identity(clients.sign("alice", FUTURE));
    let size =
        |pem: &str| format!("data: {}\n\n", CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().len());
    let server = Server::start(ours.server("localhost", FUTURE, Some(&clients))).await;

    let nobody = client(|builder| builder.ca_file(&ca));
    let line = server.ask(&nobody).await.unwrap_err();
    assert!(line.to_lowercase().contains("certificate"), "{line}");
    let http = client(|builder| builder.ca_file(&ca).client_certificate(&certificate, &key));
    assert_eq!(server.ask(&http).await, Ok(size(&pem)));
    // The certificate is replaced. A longer name makes a longer certificate.
    let (_, _, longer) = identity(clients.sign("alice-in-the-afternoon", FUTURE));
    assert_ne!(size(&longer), size(&pem));
    assert_eq!(server.ask(&http).await, Ok(size(&longer)));
    // Only the key is replaced, and it does not match, so the last matching pair is used.
    files.put("k.pem", &clients.sign("bob", FUTURE).1);
    assert_eq!(server.ask(&http).await, Ok(size(&longer)));
    files.put("k.pem", "");
    assert_eq!(server.ask(&http).await, Ok(size(&longer)));
}

/// On some systems, editors begin a text file with U+FEFF.
#[tokio::test]
async fn a_mark_is_no_part_of_certificates_and_keys() {
    let (files, ours, clients) = (Files::new(), Authority::new(), Authority::new());
    let marked = |text: &str| format!("\u{feff}{text}");
    let ca = files.put("ca.pem", &marked(&ours.pem));
    let (certificate, key) = clients.sign("alice", FUTURE);
    let (certificate, key) = (marked(&certificate), marked(&key));
    let server = Server::start(ours.server("localhost", FUTURE, Some(&clients))).await;

    let (certificate_file, key_file) = (files.put("c.pem", &certificate), files.put("k.pem", &key));
    let by_files = client(|builder| builder.ca_file(&ca).client_certificate(&certificate_file, &key_file));
    assert!(server.ask(&by_files).await.is_ok());
    let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let ca_pem = marked(&ours.pem);
    let held = client(|builder| builder.ca_pem(ca_pem.as_bytes()).unwrap().client_identity(identity));
    assert!(server.ask(&held).await.is_ok());
}

#[tokio::test]
async fn certificates_may_be_held_in_memory() {
    let (ours, clients) = (Authority::new(), Authority::new());
    let server = Server::start(ours.server("api.cluster.test", FUTURE, Some(&clients))).await;
    let (certificate, key) = clients.sign("alice", FUTURE);
    let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    assert!(!format!("{identity:?}").contains("48"), "no bytes of it: {identity:?}");
    let shown = identity.clone();
    let base = move |builder: HttpClientBuilder| {
        builder.ca_pem(ours.pem.as_bytes()).unwrap().client_identity(shown.clone())
    };
    // The certificate is for another name than that in the URL, so that name has to be given.
    let line = server.ask(&client(&base)).await.unwrap_err();
    assert!(line.contains("not valid for name"), "{line}");
    let http = client(|builder| base(builder).tls_server_name("api.cluster.test"));
    let size =
        |pem: &str| format!("data: {}\n\n", CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().len());
    assert_eq!(server.ask(&http).await, Ok(size(&certificate)));
    let wrong = client(|builder| base(builder).tls_server_name("another.test"));
    assert!(server.ask(&wrong).await.unwrap_err().contains("not valid for name"));

    let (longer, key) = clients.sign("alice-in-the-afternoon", FUTURE);
    identity.replace(longer.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(server.ask(&http).await, Ok(size(&longer)));
    // If a part cannot be read, or the parts do not match, the last matching pair is used.
    assert!(identity.replace(b"", key.as_bytes()).is_err());
    identity.replace(certificate.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(server.ask(&http).await, Ok(size(&longer)));

    let ca = HttpClient::builder().ca_pem(b"nothing").unwrap_err();
    let name = HttpClient::builder().tls_server_name("not a name").build().unwrap_err();
    let no_key = ClientIdentity::from_pem(certificate.as_bytes(), certificate.as_bytes()).unwrap_err();
    for error in [ca, name, no_key] {
        assert!(matches!(error, Error::Config { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_known_at_once() {
    let files = Files::new();
    let good = Authority::new();
    let (certificate, key) = good.sign("x", FUTURE);
    let (c, k, no) = (files.put("c", &certificate), files.put("k", &key), files.put("no", "nothing"));
    let gone = files.0.path().join("gone");
    for (builder, names) in [
        (HttpClient::builder().ca_file(&gone), &gone),
        (HttpClient::builder().ca_file(&no), &no),
        (HttpClient::builder().client_certificate(&no, &k), &no),
        (HttpClient::builder().client_certificate(&c, &gone), &gone),
        (HttpClient::builder().client_certificate(&c, &no), &no),
    ] {
        let error = builder.build().unwrap_err();
        assert!(matches!(error, Error::Config { .. }) && !error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains(names.to_str().unwrap()), "{error}");
        assert!(!format!("{error:?}").contains("PRIVATE"), "{error:?}");
    }
}

#[tokio::test]
async fn a_stream_gets_over_a_rotation() {
    let (files, old, new) = (Files::new(), Authority::new(), Authority::new());
    let ca = files.put("ca.pem", &old.pem);
    let http = client(|builder| builder.ca_file(&ca));
    let server = Server::start(old.server("localhost", FUTURE, None)).await;
    let mut stream = EventStream::get(http, quick(), &format!("{}/events", server.url())).unwrap();
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(0)"]);
    server.set(new.server("localhost", FUTURE, None));
    assert!(told(&mut stream).await.starts_with("ended"));
    let line = told(&mut stream).await;
    assert!(line.starts_with("failed(cannot connect") && line.contains("certificate"), "{line}");
    files.put("ca.pem", &new.pem);
    // Attempts that had begun before the file changed fail, and later ones succeed.
    let after = told_next(&mut stream, 20).await;
    assert!(after.windows(2).any(|pair| pair == ["opened", "event(0)"]), "{after:?}");
}

#[tokio::test]
async fn handshakes_that_fail() {
    for opening in [relay_testkit::Opening::Reset, relay_testkit::Opening::Close] {
        let peer = Peer::start(relay_testkit::Script::new().opening(opening)).await;
        let url = peer.url().replace("http:", "https:");
        let mut stream = EventStream::get(client(|b| b), quick(), &url).unwrap();
        assert!(told(&mut stream).await.starts_with(&format!("failed(cannot connect to {url}/: ")));
    }
    // A peer that does not use TLS, and a silent one that the connect timeout ends.
    let peer = Peer::start(relay_testkit::Script::new().opening(relay_testkit::Opening::Silence)).await;
    let url = peer.url().replace("http:", "https:");
    let clock = relay_testkit::Clock::freeze();
    let mut stream = EventStream::get(client(|b| b), quick(), &url).unwrap();
    let line = clock.run(Duration::from_secs(1), told(&mut stream)).await;
    assert!(line.contains("no connection within 10s"), "{line}");
}

/// A server that is killed sends no `close_notify`. The error says so, and does not refer to a library's manual.
#[tokio::test]
async fn a_connection_that_ends_without_an_end_of_tls_is_named() {
    const PLAINLY: &str = "the connection was closed without a TLS end";
    let (files, authority) = (Files::new(), Authority::new());
    let ca = files.put("ca.pem", &authority.pem);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(authority.server("localhost", FUTURE, None)));
    tokio::spawn(async move {
        for head in ["", "content-length: 9\r\n\r\nhalf", "content-type: text/event-stream\r\n\r\n"] {
            let mut tls = acceptor.accept(listener.accept().await?.0).await?;
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(tls.read_u8().await?);
            }
            tls.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await?;
            tls.flush().await?;
            // The socket is closed without `close_notify`.
        }
        std::io::Result::Ok(())
    });
    let http = client(|builder| builder.ca_file(&ca));
    let get = || Request::get(&url).body(Full::default()).unwrap();
    let mut lines = vec![http.send(get()).await.unwrap_err().line()];
    use http_body_util::BodyExt;
    let cut = http.send(get()).await.unwrap().into_body().collect().await.unwrap_err();
    lines.push(relay_proto::error::chain(&cut).to_string());
    let mut stream = EventStream::get(http, quick(), &url).unwrap();
    assert_eq!(told(&mut stream).await, "opened");
    lines.push(told(&mut stream).await);
    for line in lines {
        assert!(line.contains(PLAINLY) && !line.contains("docs.rs"), "{line}");
    }
}
