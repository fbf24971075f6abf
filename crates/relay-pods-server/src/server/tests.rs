//! Connections on virtual time: hours pass in a moment.

use super::*;
use crate::http::Relay;
use crate::log::at_once;
use crate::source::Scope;
use relay_proto::pods::PodBuilder;
use relay_transport::server::{self, serve_connection};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

/// A connection to a relay, without a network.
struct Line {
    client: DuplexStream,
    opened: Instant,
}

fn relay(config: Config) -> Arc<Relay> {
    let log = Log::in_memory(DEFAULT_RETENTION, Clock::system());
    let relay = Relay {
        source_kind: "test",
        sessions: Sessions::new(Clock::system(), config.session_ttl),
        tokens: None,
        log,
        metrics: Metrics::default(),
        connections: server::Connections::default(),
        subscribers: AtomicU64::new(0),
        control: watch::Sender::default(),
        config,
    };
    at_once(Publisher::new(relay.log.clone(), []).relist(Scope::All, vec![])).unwrap();
    Arc::new(relay)
}

fn connect(relay: &Arc<Relay>) -> Line {
    connect_until(relay, CancellationToken::new())
}

fn connect_until(relay: &Arc<Relay>, stop: CancellationToken) -> Line {
    let (client, server) = tokio::io::duplex(4096);
    let (relay, settings) = (relay.clone(), settings(&relay.config));
    tokio::spawn(async move { serve_connection(relay, server, &settings, stop).await });
    Line { client, opened: Instant::now() }
}

impl Line {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until the text ends with this mark.
    async fn read_to(&mut self, mark: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(mark.as_bytes()) {
            text.push(self.client.read_u8().await.expect("more"));
        }
        String::from_utf8(text).unwrap()
    }

    /// The seconds from the connect to the end of the connection, rounded down.
    async fn end(&mut self) -> u64 {
        let mut rest = Vec::new();
        let _ = self.client.read_to_end(&mut rest).await;
        self.opened.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_has_ten_seconds() {
    let relay = relay(Config::default());
    assert_eq!(connect(&relay).end().await, 10, "nothing at all");
    let mut line = connect(&relay);
    line.send("GET /livez HT").await;
    assert_eq!(line.end().await, 10, "half a head");
    let mut line = connect(&relay);
    line.send("GET /livez HTTP/1.1\r\n").await;
    for _ in 0..9 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        line.send("x: y\r\n").await;
    }
    assert_eq!(line.end().await, 10, "a trickle");
    let mut line = connect(&relay);
    tokio::time::sleep(Duration::from_millis(9_900)).await;
    line.send("GET /livez HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(line.read_to("ok\n").await.starts_with("HTTP/1.1 200"), "just in time");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_75_seconds_and_a_later_head_has_ten() {
    let relay = relay(Config::default());
    let request = "GET /livez HTTP/1.1\r\nhost: r\r\n\r\n";
    let mut line = connect(&relay);
    line.send(request).await;
    line.read_to("ok\n").await;
    tokio::time::sleep(Duration::from_secs(74)).await;
    line.send(request).await;
    line.read_to("ok\n").await;
    assert_eq!(line.end().await, 74 + 75);
    let mut line = connect(&relay);
    line.send(request).await;
    line.read_to("ok\n").await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    line.send("GET ").await;
    assert_eq!(line.end().await, 80);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_ten_seconds_and_what_is_too_much_is_drained_for_one() {
    let relay = relay(Config::default());
    let mut line = connect(&relay);
    line.send("POST /auth/session HTTP/1.1\r\nhost: r\r\ncontent-length: 10\r\n\r\n{").await;
    assert_eq!(line.end().await, 10);
    let mut line = connect(&relay);
    line.send("POST /auth/session HTTP/1.1\r\nhost: r\r\ncontent-length: 70000\r\n\r\n").await;
    let answer = line.read_to("}").await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let answered = Instant::now();
    let mut taken = 0;
    // Sends bytes for as long as the server accepts them.
    while line.client.write_all(&[b'x'; 1000]).await.is_ok() {
        taken += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((9..=12).contains(&taken), "{taken}");
    assert!(answered.elapsed() < Duration::from_millis(1300));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_has_a_heartbeat_every_15_seconds_until_its_lifetime() {
    let relay = relay(Config::default());
    let mut line = connect(&relay);
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    line.read_to("catchup_complete").await;
    for beat in 1..=3 {
        line.read_to("event: heartbeat").await;
        assert_eq!(line.opened.elapsed().as_secs(), 15 * beat);
    }
    // Any other message delays the next heartbeat.
    tokio::time::sleep(Duration::from_secs(10)).await;
    Publisher::new(relay.log.clone(), []).upsert(PodBuilder::new("prod", "a").build()).await.unwrap();
    line.read_to("event: heartbeat").await;
    assert_eq!(line.opened.elapsed().as_secs(), 45 + 10 + 15);
    let rest = line.read_to("{\"reason\":\"lifetime\"}").await;
    let age = line.opened.elapsed().as_secs();
    assert!((3600..=3960).contains(&age), "{age}");
    assert!(rest.matches("event: heartbeat").count() as u64 >= (3600 - 70) / 15);
    assert_eq!(relay.subscribers.load(Ordering::Acquire), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stream_can_live_for_ever() {
    let relay = relay(Config::default().stream_lifetime(Duration::ZERO).heartbeat(Duration::from_secs(3600)));
    let mut line = connect(&relay);
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    for _ in 0..1000 {
        line.read_to("event: heartbeat").await;
    }
    assert_eq!(line.opened.elapsed().as_secs(), 3_600_000);
}

#[tokio::test(start_paused = true)]
async fn a_refused_head_is_a_problem_on_any_transport_and_drained() {
    let relay = relay(Config::default());
    for (request, status) in
        [("nonsense\r\n\r\n".to_owned(), 400), (format!("GET /{}", "y".repeat(90_000)), 431)]
    {
        let mut line = connect(&relay);
        line.send(&request).await;
        let answer = line.read_to("}").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert_eq!(line.end().await, 0, "the answer ends at once");
        line.send("what was still to come is taken").await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(line.client.write_all(b"for a moment").await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn extreme_durations_are_taken() {
    let config = Config::default()
        .stream_lifetime(Duration::MAX)
        .heartbeat(Duration::MAX)
        .stall_timeout(Duration::MAX)
        .session_ttl(Duration::MAX)
        .reconnect_spread(Duration::MAX)
        .wait(Duration::MAX);
    let relay = relay(config);
    let mut line = connect(&relay);
    line.send("POST /auth/session HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(line.read_to("}").await.contains("9999-12-30T"), "as far as times go");
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(line.read_to("catchup_complete").await.contains("\"heartbeat_seconds\":86400}"));
    line.read_to("event: heartbeat").await;
    relay.control.send_modify(|control| control.rebalances += 1);
    line.read_to("\"rebalance\"}").await;
    let relay = self::relay(Config::default().heartbeat(Duration::ZERO));
    let mut line = connect(&relay);
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(line.read_to("event: heartbeat").await.contains("\"heartbeat_seconds\":0.01}"));
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_30_seconds_is_cut_and_who_takes_little_is_not() {
    let relay = relay(Config::default());
    let publisher = Publisher::new(relay.log.clone(), []);
    let pods = (0..3000).map(|at| PodBuilder::new("prod", &format!("pod-{at}")).build()).collect();
    publisher.relist(Scope::All, pods).await.unwrap();
    let mut line = connect(&relay);
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_secs(29)).await;
        // This is more than the buffers between both ends hold, so the server can write at least one byte.
        let mut some = [0; 6000];
        line.client.read_exact(&mut some).await.unwrap();
    }
    assert_eq!(relay.subscribers.load(Ordering::Acquire), 1);
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(relay.subscribers.load(Ordering::Acquire), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_is_written_within_five_minutes_however_little_is_taken_at_a_time() {
    let relay = relay(Config::default());
    let publisher = Publisher::new(relay.log.clone(), []);
    let pods = (0..2000).map(|at| PodBuilder::new("prod", &format!("pod-{at}")).build()).collect();
    publisher.relist(Scope::All, pods).await.unwrap();
    let mut line = connect(&relay);
    line.send("GET /pods HTTP/1.1\r\nhost: r\r\n\r\n").await;
    let mut some = [0; 4500];
    while line.client.read_exact(&mut some).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    assert!((300..=340).contains(&line.opened.elapsed().as_secs()), "{:?}", line.opened.elapsed());
    // A list that is read at a normal speed does not affect the time limit of the next answer on the connection.
    let mut line = connect(&relay);
    for _ in 0..6 {
        line.send("GET /pods HTTP/1.1\r\nhost: r\r\n\r\n").await;
        line.read_to("\r\n0\r\n\r\n").await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_head_holds_no_server_back() {
    let relay = relay(Config::default());
    let stop = CancellationToken::new();
    let (mut half, mut rest) = (connect_until(&relay, stop.clone()), connect_until(&relay, stop.clone()));
    half.send("GET /livez HTTP/1.1\r\n").await;
    rest.send("GET /livez HTTP/1.1\r\n").await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rest.send("host: r\r\n\r\n").await;
    assert!(rest.read_to("ok\n").await.starts_with("HTTP/1.1 200"), "just in time");
    assert_eq!((half.end().await, rest.end().await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_head_is_measured_in_bytes() {
    let relay = relay(Config::default());
    for fields in [101, 1000, 4000] {
        let mut line = connect(&relay);
        let fields: String = (0..fields).map(|at| format!("x-{at}: y\r\n")).collect();
        line.send(&format!("GET /livez HTTP/1.1\r\nhost: r\r\n{fields}\r\n")).await;
        assert!(line.read_to("ok\n").await.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_its_connection() {
    let relay = relay(Config::default());
    let mut line = connect(&relay);
    line.send("GET /events/stream HTTP/1.1\r\nhost: r\r\n\r\n").await;
    assert!(line.read_to("\r\n\r\n").await.contains("\r\nconnection: close\r\n"));
    line.read_to("catchup_complete").await;
    relay.control.send_modify(|control| control.rebalances += 1);
    line.read_to("\r\n0\r\n\r\n").await;
    assert_eq!(line.end().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_position_to_come_and_a_first_sync_are_waited_for_5_seconds() {
    let relay = relay(Config::default());
    let ahead = relay.log.events.identity().mint("", 5, b"x");
    for target in ["/pods?at_least=", "/events/stream?since_hash=", "/events?since_hash="] {
        let mut line = connect(&relay);
        line.send(&format!("GET {target}{ahead} HTTP/1.1\r\nhost: r\r\n\r\n")).await;
        let answer = line.read_to("}").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
        assert_eq!(line.opened.elapsed().as_secs(), 5, "{target}");
    }
    assert_eq!(relay.subscribers.load(Ordering::Acquire), 0);
}
