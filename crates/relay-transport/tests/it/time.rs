//! Deadlines and delays, on a clock that the test moves.

use http_body_util::Full;
use relay_proto::eventsource::Item;
use relay_testkit::{Clock, Opening, Peer, Reply, Script};

use crate::*;

const STEP: Duration = Duration::from_secs(1);

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Drives the stream on frozen time to its next end. Returns the cause, and the wait from then to the next attempt.
async fn ended(clock: &Clock, stream: &mut EventStream) -> (String, Duration) {
    loop {
        match clock.run(STEP, stream.next()).await {
            Some(Ok(Item::Ended(ended))) => {
                let wait = ended.retry_at.saturating_sub(stream.now());
                return (ended.cause.to_string(), wait);
            }
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_peer_that_is_gone_without_a_fin_is_found_by_its_silence() {
    let script = Script::new().always("/events", Reply::sse().send("data: x\n\n").silence());
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    let (cause, _) = ended(&clock, &mut stream).await;
    assert_eq!(cause, "nothing received for 45s");
    assert!((seconds(45)..seconds(60)).contains(&clock.elapsed()), "{:?}", clock.elapsed());
    peer.closed(0).await;
    clock
        .run(STEP, async {
            assert_eq!(stream.next().await.map(|item| word(&item)).as_deref(), Some("opened"))
        })
        .await;
}

#[tokio::test]
async fn a_trickle_under_the_limit_keeps_a_connection_and_one_over_it_does_not() {
    let trickle = |gap| {
        let mut reply = Reply::sse();
        for byte in b"data: slow\n\n" {
            reply = reply.delay(gap).send(vec![*byte]);
        }
        Script::new().on("/events", reply.silence()).on("/events", Reply::sse().silence())
    };
    let peer = Peer::start(trickle(seconds(30))).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    let lines = clock.run(STEP, async { [told(&mut stream).await, told(&mut stream).await] }).await;
    assert_eq!(lines, ["opened", "event(slow)"]);
    assert!(clock.elapsed() >= seconds(12 * 30), "{:?}", clock.elapsed());
    drop(clock);

    let peer = Peer::start(trickle(seconds(100))).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    assert_eq!(ended(&clock, &mut stream).await.0, "nothing received for 45s");
}

#[tokio::test]
async fn nobody_answers_or_nobody_finishes_a_head() {
    let script = Script::new()
        .opening(Opening::Silence)
        .on("/events", Reply::raw().send("HTTP/1.1 200 OK\r\ncontent-ty").silence())
        .on("/events", Reply::sse());
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    for connection in 1..=2 {
        assert_eq!(ended(&clock, &mut stream).await.0, "no response in time");
        assert_eq!(peer.connections(), connection);
    }
    assert!((seconds(60)..seconds(80)).contains(&clock.elapsed()), "{:?}", clock.elapsed());
    clock.run(STEP, async { assert_eq!(told(&mut stream).await, "opened") }).await;
}

#[tokio::test]
async fn an_error_body_that_never_ends_is_not_waited_for() {
    let script = Script::new()
        .on("/events", Reply::raw().send("HTTP/1.1 503 Busy\r\ncontent-length: 100\r\n\r\nbusy").silence());
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    let Some(Ok(Item::Ended(ended))) = clock.run(STEP, stream.next()).await else { panic!() };
    assert_eq!((ended.status(), &ended.body[..]), (Some(503), &b"busy"[..]));
    assert!(clock.elapsed() < seconds(20), "{:?}", clock.elapsed());
}

#[tokio::test]
async fn retry_after_in_both_forms() {
    let date = |seconds: u64| {
        let then = std::time::SystemTime::now() + Duration::from_secs(seconds);
        httpdate(then.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs())
    };
    let script = Script::new()
        .on("/events", Reply::empty(503).header("retry-after", "100"))
        .on("/events", Reply::empty(429).header("retry-after", "200"))
        // The date is relative to the server's clock, which is a year behind, or to ours if the server sends no date.
        .on(
            "/events",
            Reply::empty(503)
                .header("date", "Fri, 21 Nov 2025 13:00:00 GMT")
                .header("retry-after", "Fri, 21 Nov 2025 13:05:00 GMT"),
        )
        .on("/events", Reply::empty(503).header("retry-after", &date(400)))
        .on("/events", Reply::empty(204));
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let mut stream = follow(&peer, Config::default());
    for least in [100, 200, 300, 399] {
        let before = clock.elapsed();
        let (cause, wait) = ended(&clock, &mut stream).await;
        assert!(cause.starts_with("answered with status"), "{cause}");
        // The clock advances in steps while an answer is in transit, so a part of the wait may have passed.
        assert!(wait <= seconds(least + 2 + least / 4), "{wait:?} for {least}");
        assert!(wait + (clock.elapsed() - before) >= seconds(least), "{wait:?} for {least}");
    }
    assert!(clock.run(STEP, told(&mut stream)).await.starts_with("stop"));
    assert!(clock.elapsed() >= seconds(999), "{:?}", clock.elapsed());
}

/// The date in the form that HTTP prefers.
fn httpdate(unix: u64) -> String {
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let (mut year, mut day) = (1970, days);
    let leap = |year: u64| {
        u64::from(year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while day >= 365 + leap(year) {
        day -= 365 + leap(year);
        year += 1;
    }
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let lengths = [31, 28 + leap(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", day + 1, months[month])
}

#[tokio::test]
async fn backoff_grows_and_progress_resets_it() {
    let script = Script::new().always("/events", Reply::empty(500));
    let peer = Peer::start(script).await;
    let clock = Clock::freeze();
    let config = Config::default().jitter(relay_proto::retry::Jitter::None);
    let mut stream = follow(&peer, config);
    let mut waits = Vec::new();
    for round in 0..8 {
        if round == 6 {
            stream.progress();
        }
        if round == 7 {
            stream.delay_once(seconds(5));
        }
        waits.push(ended(&clock, &mut stream).await.1.as_millis());
    }
    let expected = [800, 1600, 3200, 6400, 12_800, 25_600, 800, 5000];
    for (wait, expected) in waits.iter().zip(expected) {
        assert!((expected - 1..=expected).contains(wait), "{waits:?}");
    }
}

#[tokio::test]
async fn preparation_that_hangs_is_given_up() {
    let clock = Clock::freeze();
    let mut stream = EventStream::new(http(), Config::default(), |_| Box::pin(std::future::pending()));
    assert_eq!(ended(&clock, &mut stream).await.0, "no response in time");
}

#[tokio::test]
async fn single_requests_have_their_limit_too() {
    let peer = Peer::start(Script::new().opening(Opening::Silence)).await;
    let http = http();
    let clock = Clock::freeze();
    let request =
        http::Request::get(format!("{}/x?token=hunter2", peer.url())).body(Full::default()).unwrap();
    let error = clock.run(STEP, http.send(request)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("no response from {}/x within 30s", peer.url()));
    assert!(error.is_retryable());
}
