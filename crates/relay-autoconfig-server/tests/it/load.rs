//! Many subscribers, many changes, and one subscriber that never reads.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::{Server, Subscriber, builder, start, within, write};

fn environments(count: usize, name: &str) -> String {
    (0..count).fold("environments:\n".to_owned(), |mut text, i| {
        let _ = writeln!(
            text,
            "  e{i:04}: {{sdkKey: sdk-{i}, mobKey: mob-{i}, envName: {name}, projName: Project}}"
        );
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_encoded_once_for_everybody_and_who_never_reads_changes_nothing() {
    const SUBSCRIBERS: usize = 200;
    const ENVIRONMENTS: usize = 1500;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.yaml");
    write(&file, &environments(ENVIRONMENTS, "One"));
    let (server, _run) = start(builder(&file)).await;
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        let mut subscriber = Subscriber::open(&server, "").await;
        let (name, put) = subscriber.event().await;
        assert_eq!(
            (name.as_str(), put["data"]["environments"].as_object().unwrap().len()),
            ("put", ENVIRONMENTS)
        );
        subscribers.push(subscriber);
    }
    let deaf = Subscriber::open(&server, "").await;
    assert_eq!(server.encoded(), 1);
    let begin = Instant::now();
    write(&file, &environments(ENVIRONMENTS, "Two"));
    let reading = subscribers.into_iter().map(|mut subscriber| {
        tokio::spawn(async move {
            for i in 0..ENVIRONMENTS {
                let line = subscriber.data().await;
                let patch = format!("data: {{\"path\":\"/environments/e{i:04}\",\"data\":{{");
                assert!(line.starts_with(&patch) && line.contains("\"Two\""), "{line}");
            }
            subscriber
        })
    });
    let mut subscribers = Vec::new();
    for reading in reading.collect::<Vec<_>>() {
        subscribers.push(within("all patches", reading).await.unwrap());
    }
    println!("{SUBSCRIBERS} x {ENVIRONMENTS} patches in {:?}", begin.elapsed());
    assert_eq!(server.encoded(), 1 + ENVIRONMENTS as u64);
    assert_eq!(server.subscribers(), SUBSCRIBERS as u64 + 1);
    drop((deaf, subscribers));
}

/// If a subscriber does not read, only the last change of each id is kept for it.
#[tokio::test(flavor = "multi_thread")]
async fn who_lags_is_told_the_last_of_each_id() {
    const ENVIRONMENTS: usize = 400;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.yaml");
    let name = |round: usize| format!("{}{round}", "n".repeat(3000));
    write(&file, &environments(ENVIRONMENTS, &name(0)));
    let (server, _run) = start(builder(&file)).await;
    let (mut prompt, mut late) = (Subscriber::open(&server, "").await, Subscriber::open(&server, "").await);
    prompt.event().await;
    for round in 1..=12 {
        write(&file, &environments(ENVIRONMENTS, &name(round)));
        for _ in 0..ENVIRONMENTS {
            let (_, patch) = prompt.event().await;
            assert_eq!(patch["data"]["envName"], name(round));
        }
    }
    // Some of the changes are in the buffers of the connection; of the rest, only the last of each id is sent.
    let (mut events, mut complete) = (0, 0);
    assert_eq!(late.event().await.0, "put");
    while complete < ENVIRONMENTS {
        let (_, patch) = late.event().await;
        events += 1;
        complete += usize::from(patch["data"]["envName"] == name(12));
    }
    assert!(events < 12 * ENVIRONMENTS, "{events} events: it was told everything");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_for_so_long_is_cut_and_nobody_else_notices() {
    use tokio::io::AsyncReadExt as _;
    const LARGE: usize = 16 << 20;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.json");
    let text = |key: &str| {
        format!(r#"{{"environments":{{"a":{{"sdkKey":"{key}","envName":"{}"}}}}}}"#, "n".repeat(LARGE))
    };
    write(&file, &text("one"));
    let (server, _run) = start(Server::builder(&file).stall_timeout(Duration::from_millis(500))).await;
    let mut deaf = Subscriber::open(&server, "").await;
    let mut other = Subscriber::open(&server, "").await;
    assert_eq!(other.event().await.0, "put");
    within("the cut", async {
        while server.subscribers() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    // The server owes it 16 MiB. It gets what was in the buffers, and then the end.
    let mut rest = Vec::new();
    let _ = within("the end", deaf.0.read_to_end(&mut rest)).await;
    assert!(rest.len() < LARGE, "{} bytes", rest.len());
    write(&file, &text("two"));
    assert_eq!(other.told().await.0, "patch /environments/a");
}

/// The kernel says that a connection has room again once a third of its buffer is free: a megabyte, for which a slow
/// subscriber takes longer than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_a_little_all_the_time_is_not_cut() {
    use tokio::io::AsyncReadExt as _;
    const LARGE: usize = 20 << 20;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("e.json");
    let name = "n".repeat(LARGE);
    write(&file, &format!(r#"{{"environments":{{"a":{{"sdkKey":"one","envName":"{name}"}}}}}}"#));
    let (server, _run) = start(Server::builder(&file).stall_timeout(Duration::from_millis(1500))).await;
    let mut slow = Subscriber::open(&server, "").await;
    // 400 kB a second.
    let mut steps = tokio::time::interval(Duration::from_millis(20));
    let (begin, mut part) = (Instant::now(), vec![0; 8 << 10]);
    while begin.elapsed() < Duration::from_secs(4) {
        steps.tick().await;
        slow.0.read_exact(&mut part).await.unwrap();
        assert_eq!(server.subscribers(), 1, "cut after {:?}", begin.elapsed());
    }
}
