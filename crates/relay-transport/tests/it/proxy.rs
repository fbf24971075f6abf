//! Connections through a proxy.

use std::sync::{Arc, Mutex};

use http::Request;
use http_body_util::{BodyExt, Full};
use relay_testkit::{Reply, ReservedPort, Script};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::*;

/// A proxy that opens tunnels on request, or gives a fixed answer. It records the heads that it reads.
struct Proxy {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = heads.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(socket.read_u8().await?);
                    }
                    let head = String::from_utf8(head).unwrap();
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    let connect = head.starts_with("CONNECT ");
                    seen.lock().unwrap().push(head);
                    socket.write_all(answer.as_bytes()).await?;
                    if connect && answer.contains(" 200 ") {
                        // All names lead to this machine.
                        let port = target.rsplit(':').next().unwrap().parse().unwrap();
                        let mut upstream = TcpStream::connect(("127.0.0.1", port)).await?;
                        copy_bidirectional(&mut socket, &mut upstream).await?;
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { port, heads }
    }

    fn url(&self) -> String {
        format!("http://aladdin:open%20sesame@127.0.0.1:{}", self.port)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// aladdin:open sesame
const BASIC: &str = "Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ==";

fn through(proxy: &Proxy, except: &str) -> HttpClient {
    HttpClient::builder().proxy(proxy.url(), except).dangerously_accept_any_certificate().build().unwrap()
}

async fn ask(http: &HttpClient, url: &str) -> Result<String, String> {
    let request = Request::get(url).header("authorization", "Bearer hunter2").body(Full::default()).unwrap();
    let response = http.send(request).await.map_err(|error| error.line())?;
    Ok(String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn encrypted_connections_go_through_a_tunnel() {
    let server =
        crate::tls::Server::start(relay_testkit::Authority::new().server("relay.test", 2200, None)).await;
    let proxy = Proxy::start(TUNNEL).await;
    let url = format!("https://relay.test:{}/events", server.port);
    let mut stream = EventStream::get(through(&proxy, ""), quick(), &url).unwrap();
    assert_eq!(told_next(&mut stream, 2).await, ["opened", "event(0)"]);
    let heads = proxy.heads();
    assert!(heads[0].starts_with(&format!("CONNECT relay.test:{} HTTP/1.1\r\n", server.port)), "{heads:?}");
    assert!(
        heads[0].to_lowercase().contains(&format!("proxy-authorization: {}", BASIC.to_lowercase())),
        "{heads:?}"
    );
    assert!(!heads[0].contains("hunter2"));
}

#[tokio::test]
async fn plain_requests_are_handed_to_the_proxy() {
    let proxy = Proxy::start("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nproxy").await;
    let http = through(&proxy, "direct.test, 127.0.0.0/8");
    assert_eq!(ask(&http, "http://relay.test/pods?x=1").await.unwrap(), "proxy");
    let heads = proxy.heads();
    assert!(heads[0].starts_with("GET http://relay.test/pods?x=1 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains(&format!("proxy-authorization: {BASIC}\r\n")), "{heads:?}");

    // Requests to excepted hosts do not go through the proxy, and do not carry its password.
    let peer = Peer::start(Script::new().always("/", Reply::new(200, "text/plain", "direct"))).await;
    assert_eq!(ask(&http, &peer.url()).await.unwrap(), "direct");
    assert_eq!(peer.request(0).await.header("proxy-authorization"), None);
    assert_eq!(proxy.heads().len(), 1);
}

#[tokio::test]
async fn proxies_that_refuse_die_or_ramble() {
    for (answer, reason) in [
        ("HTTP/1.1 407 Who are you\r\nproxy-authenticate: Basic\r\n\r\n", "proxy authorization required"),
        ("HTTP/1.1 403 No\r\n\r\n", "unsuccessful"),
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\n\r\n<html>", "unsuccessful"),
        ("", "unexpected end of file"),
        ("HTTP/1.1 200 Connection est", "unexpected end of file"),
        ("SSH-2.0\r\n\r\n", "unsuccessful"),
        (TUNNEL, ""),
    ] {
        let proxy = Proxy::start(answer).await;
        // The port at the end of the tunnel refuses connections, so the TLS handshake fails.
        let closed = ReservedPort::reserve();
        let url = closed.url().replace("http://127.0.0.1", "https://relay.test");
        let mut stream = EventStream::get(through(&proxy, ""), quick(), &url).unwrap();
        for _ in 0..2 {
            let line = told(&mut stream).await;
            assert!(line.starts_with(&format!("failed(cannot connect to {url}/: ")), "{line}");
            assert!(line.contains(reason), "{line}");
            assert!(!line.contains("sesame"), "{line}");
            if answer != TUNNEL {
                assert!(line.contains(&format!("proxy http://127.0.0.1:{}", proxy.port)), "{line}");
            }
        }
    }
    let endless: &'static str = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(100_000)).leak();
    let proxy = Proxy::start(endless).await;
    let line = ask(&through(&proxy, ""), "https://relay.test").await.unwrap_err();
    assert!(line.contains("tunnel error"), "{line}");
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let http = HttpClient::builder().proxy(url, "").build().unwrap();
    let clock = relay_testkit::Clock::freeze();
    let line = clock.run(Duration::from_secs(1), ask(&http, "https://relay.test")).await.unwrap_err();
    assert!(line.contains("no connection within 10s"), "{line}");
}

#[test]
fn proxies_that_are_none() {
    for url in ["", "http://", "socks5://h:1", "http://us er:hunter2@h"] {
        let error = HttpClient::builder().proxy(url, "").build().unwrap_err();
        assert!(!format!("{error} {error:?} {}", error.line()).contains("hunter2"), "{error:?}");
    }
    let builder = HttpClient::builder().proxy("http://u:hunter2@h:1", "");
    assert!(!format!("{builder:?} {:?}", builder.clone().build().unwrap()).contains("hunter2"));
}

/// Makes requests with the settings of its environment. The test below runs it in a separate process, in which
/// variables can be set.
#[tokio::test]
#[ignore = "run by the_environment_names_the_proxy"]
async fn in_this_environment() {
    let http = HttpClient::builder().build().unwrap();
    for host in ["relay.test", "direct.test", "localhost:1", "127.0.0.1:1", "[::1]:1"] {
        println!("{host}: {:?}", ask(&http, &format!("http://{host}/")).await);
    }
}

#[tokio::test]
async fn the_environment_names_the_proxy() {
    let proxy = Proxy::start("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nproxy").await;
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["proxy::in_this_environment", "--exact", "--ignored", "--nocapture"])
        .env_clear()
        .env("HTTP_PROXY", proxy.url())
        .env("NO_PROXY", "direct.test")
        .output();
    let output = within("the child", child).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("relay.test: Ok(\"proxy\")"), "{text}");
    for direct in ["direct.test", "localhost:1", "127.0.0.1:1", "[::1]:1"] {
        assert!(text.contains(&format!("{direct}: Err(")), "{text}");
    }
    assert_eq!(proxy.heads().len(), 1);
}
