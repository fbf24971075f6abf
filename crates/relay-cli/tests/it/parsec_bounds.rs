//! `relay parsec subscribe` when nobody reads its output: limits of its memory, and its report afterwards.
#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use relay_testkit::CentrifugeServer;
use serde_json::Value;

use super::parsec_rows::{CHANNEL, Server, at, publish};
use super::process::DEADLINE;

fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// 120 MB that nobody reads take at most 100 MiB of memory in the process, and every envelope is counted.
const FLOOD: i64 = 2000;

fn flood(sequence: i64) -> String {
    format!(
        r#"{{"channel":"{CHANNEL}","sequence":{sequence},"producer":{{"id":"p","kind":"service"}},"aspect":"a","payload":"{}","produced_at":"2026-05-27T14:22:09.331Z"}}"#,
        "x".repeat(60_000)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_costs_a_bounded_number_of_bytes_over_a_websocket() {
    let server = CentrifugeServer::start().await;
    server.open(CHANNEL);
    let mut command = at(&server.url(), "subscribe", &[CHANNEL, "--transport", "websocket"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("subscribed"), "{line}");
    let begun = Instant::now();
    for sequence in 1..=FLOOD {
        server.publish(CHANNEL, flood(sequence)).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(120), "the server is not delayed");
    let most = peak(child.id());
    assert!(most < 100 << 20, "{most} bytes");
    // The output is read again: dropped envelopes were counted.
    let counted = tokio::task::spawn_blocking(move || {
        let (mut seen, mut lag) = (0, 0);
        for line in stdout.lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            match line["event"].as_str().unwrap() {
                "envelope" => seen += 1,
                "lag" => lag += line["dropped"].as_i64().unwrap(),
                _ => {}
            }
            if seen + lag == FLOOD {
                return (seen, lag);
            }
        }
        panic!("{seen} came and {lag} were said to be dropped");
    });
    let counted = tokio::time::timeout(2 * DEADLINE, counted).await;
    // This also ends the reading task, which would otherwise delay the end of the test.
    child.kill().unwrap();
    child.wait().unwrap();
    let counted = counted.expect("all are accounted for in time").unwrap();
    assert!(counted.1 > 0, "{counted:?}");
}

#[test]
fn a_reader_that_stops_stalls_its_socket_over_sse_and_is_told() {
    let server = Server::start(&["--retain-events", "100"]);
    let mut command = at(&server.url, "subscribe", &[CHANNEL]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("subscribed"), "{line}");
    let payload = format!("\"{}\"\n", "x".repeat(60_000));
    let sent = publish(&server, "p", &payload.repeat(FLOOD as usize), &["--aspect", "a"]).expect(0);
    assert_eq!(sent.stdout.lines().count() as i64, FLOOD);
    let most = peak(child.id());
    assert!(most < 100 << 20, "{most} bytes");
    let served = peak(server.child.id());
    assert!(served < 100 << 20, "{served} bytes at the server, which keeps 6 MB");
    let (mut next, mut gaps) = (1, 0);
    while next <= FLOOD {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0);
        let line: Value = serde_json::from_str(&line).unwrap();
        match (line["event"].as_str().unwrap(), line["cause"].as_str()) {
            ("envelope", _) => {
                assert_eq!(line["envelope"]["sequence"], next);
                next += 1;
            }
            ("gap", Some("slow-consumer")) => {
                next += line["missing"].as_i64().unwrap();
                gaps += 1;
            }
            // The producer's numbers also show the gap.
            ("gap", Some("sequence")) => {}
            _ => panic!("{line}"),
        }
    }
    assert!(gaps > 0);
    child.kill().unwrap();
    let mut rest = Vec::new();
    let _ = stdout.read_to_end(&mut rest);
    child.wait().unwrap();
}
