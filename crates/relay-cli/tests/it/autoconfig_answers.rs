//! `relay autoconfig watch` with responses of every kind; delays, keys, the cache, signals, secrets.

use std::path::Path;
use std::time::{Duration, Instant};

use relay_testkit::{Gate, Peer, Reply, Script};
use serde_json::json;

use super::autoconfig_watch::{
    KEY, OLD, PATH, SDK, end, env, event, expect, now_ms, patch, peer, plays, put, watch, with, word,
};
use super::process::{Running, relay, run, run_command};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_of_every_kind() {
    let body = format!("the key is {KEY}");
    for status in [201, 202, 205, 206, 300, 304, 400, 404, 405, 408, 410, 418, 425, 429, 451, 500, 502, 503] {
        let peer = peer([Reply::new(status, "text/plain", body.clone())]).await;
        let running = Running::start(watch(&peer.url(), &[]));
        let lines = expect(&running, &["initializing", &format!("initializing response={status}")]);
        let long = (400..500).contains(&status) && ![400, 408, 425, 429].contains(&status);
        // The report has the rest of the delay, which is shorter when a busy machine reports late.
        let delays = if long { 45_000..=100_000 } else { 4000..=10_000 };
        let delay = lines[1]["retry_ms"].as_u64().unwrap();
        assert!(delays.contains(&delay), "{status}: {delay}");
        assert_eq!(end(running).stdout, "");
        assert_eq!(peer.requests().len(), 1, "{status}");
    }
    for status in [401, 403] {
        let stops = peer([Reply::new(status, "text/plain", body.clone())]).await;
        let mut command = watch(&stops.url(), &[]);
        command.env("RELAY_LOG", "trace");
        let done = run_command(command).expect(4);
        let words: Vec<String> = done.json().iter().map(word).collect();
        assert_eq!(words, ["initializing", &format!("off response={status}")]);
        assert!(!(done.stdout + &done.stderr).contains("s3cret"));
        let retries = peer([Reply::empty(status)]).await;
        let running = Running::start(watch(&retries.url(), &["--unauthorized", "retry"]));
        let lines = expect(&running, &["initializing", &format!("initializing response={status}")]);
        assert!((45_000..=100_000).contains(&lines[1]["retry_ms"].as_u64().unwrap()));
        end(running);
    }
    // The same holds after the stream has worked.
    let later = peer([Reply::sse().send(put(json!({}), json!({}))).cut(), Reply::empty(401)]).await;
    let done = run_command(watch(&later.url(), &["--reconnect-base", "1ms"])).expect(4);
    let words: Vec<String> = done.json().iter().map(word).collect();
    assert_eq!(words[3..], ["valid+!", "interrupted! network", "off! response=401"]);
    let done = run_command(watch(&peer([Reply::empty(204)]).await.url(), &[])).expect(0);
    assert_eq!(done.json().iter().map(word).collect::<Vec<_>>(), ["initializing", "off response=204"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_that_are_no_stream_and_streams_that_fail() {
    let raw = |head: &str| Reply::raw().send(head.to_owned());
    let endless = "x".repeat(200_000);
    let bomb = {
        // A long run of one byte becomes small with any compression.
        let text = format!("event: put\ndata: {}", " ".repeat(8 << 20));
        gzip(text.as_bytes())
    };
    let zipped = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n\r\n";
    let cases: Vec<(&str, Reply, &[&str])> = vec![
        ("html", Reply::new(200, "text/html", "<p>"), &["initializing response=200"]),
        ("no type", raw("HTTP/1.1 200 OK\r\n\r\n").silence(), &["initializing response=200"]),
        ("another type", Reply::new(200, "text/event-streams", ""), &["initializing response=200"]),
        ("br", Reply::sse().header("content-encoding", "br").silence(), &["initializing response=200"]),
        ("no gzip", raw(zipped).send("this is none").silence(), &["initializing+", "initializing network"]),
        ("a bomb", raw(zipped).send(bomb).silence(), &["initializing+", "initializing data"]),
        (
            "an endless line",
            Reply::sse().send(format!("data: {endless}")).silence(),
            &["initializing+", "initializing data"],
        ),
        (
            "a large event",
            Reply::sse().send(event("put", &endless[..70_000])).silence(),
            &["initializing+", "initializing data"],
        ),
        (
            "an endless error",
            raw("HTTP/1.1 500 X\r\ncontent-type: text/plain\r\n\r\n").send(endless.clone()).silence(),
            &["initializing response=500"],
        ),
        ("no HTTP", raw("s3cret\r\n\r\n"), &["initializing network"]),
        ("half a head", raw("HTTP/1.1 200 OK\r\nx: s3cret").cut(), &["initializing network"]),
        ("no answer", raw("").silence(), &["initializing network"]),
        ("silence", Reply::sse().send(":\n").silence(), &["initializing+", "initializing network"]),
        ("a reset", Reply::sse().send(":\n").reset(), &["initializing+", "initializing network"]),
        ("no Location", Reply::empty(302), &["initializing response=302"]),
        ("no place", Reply::redirect(302, "ftp://s3cret/"), &["initializing response=302"]),
        ("half a host", Reply::redirect(302, "http://["), &["initializing response=302"]),
        ("no port", Reply::redirect(307, "http://h:s3cret/"), &["initializing response=307"]),
    ];
    for (what, reply, words) in cases {
        let peer = peer([reply]).await;
        let running =
            Running::start(watch(&peer.url(), &["--idle-timeout", "700ms", "--max-event", "64KiB"]));
        let all: Vec<&str> = ["initializing"].into_iter().chain(words.iter().copied()).collect();
        let lines = expect(&running, &all);
        assert!(lines[lines.len() - 1]["retry_ms"].as_u64().unwrap() >= 4000, "{what}");
        end(running);
    }
    for reply in [
        Reply::new(200, "text/html", put(json!({}), json!({}))),
        raw("HTTP/1.1 200 OK\r\n\r\n").send(put(json!({}), json!({}))),
    ] {
        let peer = peer([reply]).await;
        let running = Running::start(watch(&peer.url(), &["--lenient-mime"]));
        expect(&running, &["initializing", "initializing+", "all 0+0 stream", "valid+!"]);
    }
    let zip = raw(zipped).send_in(3, gzip(put(json!({"a": env("a", 1)}), json!({})).as_bytes())).silence();
    let peer = peer([zip]).await;
    let running = Running::start(watch(&peer.url(), &[]));
    expect(&running, &["initializing", "initializing+", "add a v1", "all 1+0 stream", "valid+!"]);
    end(running);
}

/// A gzip of one deflate stream with fixed codes: runs of a byte become matches.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let (mut bits, mut count) = (0_u64, 0_u32);
    let mut put = |value: u64, length: u32, out: &mut Vec<u8>| {
        bits |= value << count;
        count += length;
        while count >= 8 {
            out.push(bits as u8);
            bits >>= 8;
            count -= 8;
        }
    };
    let reversed = |value: u64, length: u32| value.reverse_bits() >> (64 - length);
    put(0b011, 3, &mut out);
    let mut at = 0;
    while at < data.len() {
        let byte = data[at];
        if byte < 144 {
            put(reversed(0x30 + u64::from(byte), 8), 8, &mut out);
        } else {
            put(reversed(0x190 + u64::from(byte) - 144, 9), 9, &mut out);
        }
        at += 1;
        // A run of 258 more equal bytes: length code 285, distance 1.
        while data.len() - at >= 258 && data[at..at + 258].iter().all(|other| *other == byte) {
            put(reversed(0xc0 + 285 - 280, 8), 8, &mut out);
            put(0, 5, &mut out);
            at += 258;
        }
    }
    put(0, 7, &mut out);
    put(0, 7, &mut out);
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    out.extend((!crc).to_le_bytes());
    out.extend((data.len() as u32).to_le_bytes());
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn redirects_are_followed_and_the_key_stays_with_its_origin() {
    let other = peer([]).await;
    other.on("/there", Reply::sse().send(put(json!({}), json!({}))).silence());
    let there = format!("{}/there?token=s3cret", other.url());
    let first = peer([Reply::redirect(307, &there), Reply::redirect(302, "../a/b?q=1")]).await;
    first.on("/a/b", Reply::sse().send(put(json!({}), json!({}))).cut());
    let mut command = watch(&first.url(), &[]);
    command.env("RELAY_LOG", "trace");
    let running = Running::start(command);
    expect(&running, &["initializing", "initializing+", "all 0+0 stream", "valid+!"]);
    end(running);
    assert_eq!(other.request(0).await.header("authorization"), None);
    let running = Running::start(watch(&first.url(), &[]));
    expect(&running, &["initializing", "initializing+", "all 0+0 stream", "valid+!", "interrupted! network"]);
    end(running);
    let requests = first.requests();
    assert_eq!((requests[2].target(), requests[2].header("authorization")), ("/a/b?q=1", Some(KEY)));
    let circle = Peer::start(Script::new().always(PATH, Reply::redirect(301, PATH))).await;
    let running = Running::start(watch(&circle.url(), &[]));
    expect(&running, &["initializing", "initializing response=301"]);
    end(running);
    assert_eq!(circle.requests().len(), 11, "ten redirects are followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn delays_follow_the_service_within_bounds() {
    for (status, wish, delays) in [
        (503, "20", 20_000..=25_000),
        (429, "40", 40_000..=50_000),
        (404, "1", 50_000..=100_000),
        (503, "99999999999", 3_600_000..=4_500_000),
        (503, "nonsense", 5000..=10_000),
    ] {
        let peer = peer([Reply::empty(status).header("retry-after", wish)]).await;
        let running = Running::start(watch(&peer.url(), &[]));
        let line = expect(&running, &["initializing", &format!("initializing response={status}")]).remove(1);
        let delay = line["retry_ms"].as_u64().unwrap();
        assert!(delays.contains(&delay), "{status} {wish}: {delay}");
        end(running);
    }
    // `retry:` sets the base of the short profile, up to its cap, and does not change the long profile.
    for (hint, short) in [("retry: 1\n\n", 0..=1000), ("retry: 3600000\n\n", 10_000..=30_000)] {
        let short_first = peer([Reply::sse().send(hint).cut(), Reply::empty(404)]).await;
        let running = Running::start(watch(&short_first.url(), &[]));
        let lines = expect(&running, &["initializing", "initializing+", "initializing network"]);
        assert!(short.contains(&lines[2]["retry_ms"].as_u64().unwrap()), "{hint}: {}", lines[2]);
        if hint.contains(" 1\n") {
            let line = expect(&running, &["initializing response=404"]).remove(0);
            assert!((50_000..=100_000).contains(&line["retry_ms"].as_u64().unwrap()), "{line}");
        }
        end(running);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_come_from_one_place_and_a_changed_file_is_tried_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, " s3cret-old-key \n\n").unwrap();
    let changed = file.clone();
    let script = Script::new().answer(PATH, move |request| match request.header("authorization") {
        Some("s3cret-new-key") => Reply::sse().send(put(json!({}), json!({}))).silence(),
        _ => {
            std::fs::write(&changed, "s3cret-new-key\n").unwrap();
            Reply::empty(401)
        }
    });
    let peer = Peer::start(script).await;
    let running = Running::start(watch(&peer.url(), &["--key-file", file.to_str().unwrap()]));
    expect(
        &running,
        &["initializing", "initializing response=401", "initializing+ response=401", "all 0+0 stream"],
    );
    running.signal("TERM");
    assert!(!running.wait().stderr.contains("s3cret"));
    // If the key is still the same, the stream ends for good.
    let refuses = Peer::start(Script::new().always(PATH, Reply::empty(403))).await;
    run_command(watch(&refuses.url(), &["--key-file", file.to_str().unwrap()])).expect(4);
    assert_eq!(refuses.requests().len(), 1);

    let url = refuses.url();
    let base = ["autoconfig", "watch", "--url", url.as_str(), "--for", "10s"];
    for (args, environment) in [
        (&[][..], &[][..]),
        (&["--key", "s3cret", "--key-file", "x"], &[]),
        (&["--key", ""], &[]),
        (&["--key", "s3cret\nx"], &[]),
        (&[], &[("RELAY_AUTOCONFIG_KEY", "s3cret"), ("RELAY_AUTOCONFIG_KEY_FILE", "x")]),
        (&["--key", "k", "--protocol-version", "0"], &[]),
        (&["--key", "k", "--hold-empty", "5"], &[]),
        (&["--key", "k", "--url", "http://u:s3cret@h/"], &[]),
        (&["--key", "k", "--url", "http://h/#s3cret"], &[]),
        (&["--key", "k", "--url", "ftp://h/"], &[]),
    ] {
        let mut all = base.to_vec();
        if args.contains(&"--url") {
            all.drain(2..4);
        }
        all.extend(args);
        let mut command = relay(&all);
        command.envs(environment.iter().copied());
        let done = run_command(command).expect(2);
        assert_eq!(done.stdout, "");
        assert!(!done.stderr.is_empty() && !done.stderr.contains("s3cret"), "{}", done.stderr);
    }
    assert_eq!(refuses.requests().len(), 1);
    // The key comes from the environment, and so does the URL.
    let mut command = relay(&["autoconfig", "watch", "--for", "10s"]);
    command.env("RELAY_AUTOCONFIG_URL", &url).env("RELAY_AUTOCONFIG_KEY_FILE", &file);
    run_command(command).expect(4);
    assert_eq!(refuses.request(1).await.header("authorization"), Some("s3cret-new-key"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn path_and_query_of_the_url_are_kept() {
    for (suffix, args, target) in [
        ("", &[][..], "/relay_auto_config?rpacProtocolVersion=2"),
        ("/a/b/?x=1&y=%20", &[], "/a/b/relay_auto_config?x=1&y=%20&rpacProtocolVersion=2"),
        ("/a", &["--protocol-version", "1"], "/a/relay_auto_config"),
        ("/?x", &["--protocol-version", "3"], "/relay_auto_config?x&rpacProtocolVersion=3"),
    ] {
        let peer = peer([]).await;
        peer.on(target.split('?').next().unwrap(), Reply::empty(204));
        run_command(watch(&format!("{}{suffix}", peer.url()), args)).expect(0);
        assert_eq!(peer.requests()[0].target(), target);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_empty_put_is_held_back_if_told_so() {
    let full = put(json!({"a": env("a", 1), "b": env("b", 1)}), json!({}));
    let start = ["initializing", "initializing+", "add a v1", "add b v1", "all 2+0 stream", "valid+!"];
    let empty = put(json!({}), json!({}));
    let run = async |text: String, hold: &str, cut: bool, words: &[&str]| {
        let reply = Reply::sse().send(text);
        let peer = peer([if cut { reply.cut() } else { reply.silence() }]).await;
        let running = Running::start(watch(&peer.url(), &["--hold-empty", hold]));
        expect(&running, &[&start[..], words].concat());
        assert_eq!(end(running).stdout, "");
    };
    let both = full.clone() + &empty;
    run(both.clone(), "0", false, &["delete a vnull", "delete b vnull", "all 0+0 stream"]).await;
    run(both.clone(), "300ms", false, &["held 2 300", "delete a vnull", "delete b vnull", "all 0+0 stream"])
        .await;
    run(both.clone(), "300ms", true, &["held 2 300", "interrupted! network"]).await;
    run(
        both.clone() + &put(json!({"a": env("a", 2)}), json!({})),
        "1h",
        false,
        &["held 2 3600000", "update a v2", "delete b vnull", "all 1+0 stream"],
    )
    .await;
    // An environment that was patched meanwhile is kept.
    let patched = both + &patch("b", &env("b", 2)) + &patch("c", &env("c", 1));
    run(
        patched,
        "700ms",
        false,
        &["held 2 700", "update b v2", "add c v1", "delete a vnull", "all 2+0 stream"],
    )
    .await;
    // If nothing is known yet, there is nothing to hold back.
    plays(empty, &["all 0+0 stream", "valid+!"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_cache_keeps_the_last_good_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cache");
    let cache = file.to_str().unwrap();
    let soon = now_ms() + 2500;
    let old =
        with(env("a", 3), json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon}}}));
    let full =
        put(json!({"a": old, "b": env("b", 1)}), json!({"f": {"projKey": "p", "key": "k", "version": 1}}));
    let gate = Gate::new();
    let peer = Peer::start(
        Script::new()
            .on(PATH, Reply::sse().send(full.clone()).silence())
            .on(PATH, Reply::empty(503))
            .on(
                PATH,
                Reply::sse()
                    .send(put(
                        json!({"a": with(env("a", 4), json!({"sdkKey": {}})), "b": env("b", 2)}),
                        json!({}),
                    ))
                    .hold(&gate)
                    .send(event("delete", r#"{"path":"/environments/b","version":5}"#))
                    .silence(),
            )
            .always(PATH, Reply::sse().send(full).silence()),
    )
    .await;
    let url = peer.url();
    let start = || Running::start(watch(&url, &["--cache-file", cache]));
    let running = start();
    expect(
        &running,
        &["initializing", "initializing+", "add a v3", "add b v1", "filter_add f v1", "all 2+1 stream"],
    );
    // The cache is written before the lines are printed.
    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains(SDK) && written.contains(OLD) && !written.contains(KEY));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    // Only one process may use the file at a time.
    let second = run_command(watch(&url, &["--cache-file", cache])).expect(1);
    assert!(second.stderr.contains(cache) && second.stderr.contains("in use"), "{}", second.stderr);
    end(running);

    let running = start();
    let words = [
        "initializing",
        "add a v3",
        "add b v1",
        "filter_add f v1",
        "all 2+1 cache",
        "initializing!",
        "initializing! response=503",
        "expired a ***old1",
    ];
    expect(&running, &words);
    end(running);
    assert!(!std::fs::read_to_string(&file).unwrap().contains(OLD), "its time is over");

    // A refused environment keeps its last good entry. New content is written before it is reported.
    let running = start();
    let words = [
        "initializing",
        "add a v3",
        "add b v1",
        "filter_add f v1",
        "all 2+1 cache",
        "initializing!",
        "initializing+!",
        "update b v2",
        "filter_delete f vnull",
        "refused a v4 no-sdk-key put",
        "all 2+0 stream",
        "valid+! data",
    ];
    expect(&running, &words);
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"a\""));
    gate.open();
    expect(&running, &["delete b v5"]);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("\"a\"") && !kept.contains("\"b\""));
    end(running);

    // A cache of another service: the error names both URLs, and no request is made.
    let other = run(&[
        "autoconfig",
        "watch",
        "--url",
        "http://127.0.0.1:1/?t=s3cret",
        "--key",
        "k",
        "--cache-file",
        cache,
    ])
    .expect(2);
    assert!(other.stderr.contains(&url) && other.stderr.contains("http://127.0.0.1:1/"), "{}", other.stderr);
    assert!(!other.stderr.contains("s3cret"));
    // A file that is not a cache is not changed.
    for bad in ["", "{}", "precious", &kept[..kept.len() / 2]] {
        std::fs::write(&file, bad).unwrap();
        let running = start();
        expect(&running, &["initializing", "initializing+", "add a v3", "add b v1"]);
        running.until_stderr(|text| text.contains(cache));
        end(running);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), bad);
    }
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let running = start();
    expect(&running, &["initializing", "initializing+", "add a v3"]);
    assert!(end(running).stderr.contains(cache) && Path::new(cache).is_dir());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_ends_it_in_every_state_and_nothing_is_asked_after_it() {
    let flood: String = (1..4000).map(|version| patch("a", &env("a", version))).collect();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        for (state, reply) in [
            ("waiting for an answer", Reply::raw().silence()),
            ("half a head", Reply::raw().send("HTTP/1.1 200 OK\r\nx:").silence()),
            ("in a body", Reply::sse().send("event: put\ndata: {").silence()),
            ("in a flood", Reply::sse().send(flood.clone()).silence()),
            ("in a short wait", Reply::empty(503)),
            ("in a long wait", Reply::empty(404)),
        ] {
            let peer = peer([reply]).await;
            let running = Running::start(watch(&peer.url(), &[]));
            expect(&running, &["initializing"]);
            peer.request(0).await;
            let start = Instant::now();
            running.signal(signal);
            running.wait().expect(code);
            assert!(start.elapsed() < Duration::from_secs(20), "{state}: {:?}", start.elapsed());
            assert_eq!(peer.requests().len(), 1, "{state}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn it_ends_after_so_many_lines_or_so_long_and_its_table_is_safe() {
    let id = "a\u{1b}[31m";
    let text = put(
        json!({id: with(env(id, 1), json!({"envName": "\u{1b}[2J\u{7}x\u{202e}\n"})), "b": env("x", 1)}),
        json!({}),
    );
    let script = || Script::new().always(PATH, Reply::sse().send(text.clone()).silence());
    let peer = Peer::start(script()).await;
    let done = run_command(watch(&peer.url(), &["--max", "3"])).expect(0);
    assert_eq!(done.json().len(), 3);
    run_command(watch(&peer.url(), &["--for", "300ms"])).expect(0);
    let args = ["autoconfig", "watch", "--url", &peer.url(), "--key", KEY, "-o", "table", "--max", "6"];
    let table = run(&args).expect(0).stdout;
    let timed = run(&[&args[..], &["--timestamps"]].concat()).expect(0).stdout;
    for line in timed.lines() {
        let (time, rest) = line.split_once("  ").unwrap();
        assert!(time.len() >= 20 && time.ends_with('Z') && time.contains('T'), "{line}");
        assert!(!rest.starts_with(' '), "{line}");
    }
    let names: Vec<&str> = table.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["status", "status", "add", "refused", "received_all", "status"]);
    assert!(table.lines().nth(2).unwrap().contains("a\\x1b[31m"), "{table}");
    assert!(!table.chars().any(|c| c.is_control() && c != '\n') && !table.contains("s3cret"), "{table:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_secret_is_told_at_the_most_talkative() {
    let soon = now_ms() + 400;
    let secrets = with(
        env("a", 1),
        json!({"sdkKey": {"value": SDK, "expiring": {"value": OLD, "timestamp": soon}}, "x": "s3cret-unknown"}),
    );
    let text = put(json!({"a": secrets}), json!({}))
        + &event("s3cret-event", "s3cret")
        + &patch("a", &with(env("a", 2), json!({"sdkKeys": [{"value": "s3cret-other-key"}]})));
    let replies = [
        Reply::new(500, "s3cret/s3cret", "s3cret").header("x-s3cret", "s3cret"),
        Reply::redirect(302, "http://s3cret:s3cret@[").header("set-cookie", "s3cret"),
        Reply::sse().send(text).silence(),
        Reply::sse().send(event("put", "{\"path\":\"s3cret")).silence(),
        Reply::new(401, "application/json", format!("{{\"detail\":\"{KEY}\"}}")),
    ];
    let peer = peer(replies).await;
    let mut command = watch(&format!("{}/?t=s3cret", peer.url()), &["--reconnect-base", "1ms"]);
    command.env("RELAY_LOG", "trace");
    let done = run_command(command).expect(4);
    // The name of an event of an unknown kind may be printed, because it is not a place for a key.
    let said = done.stderr.replace("s3cret-event", "") + &done.stdout;
    let leaks: Vec<&str> = said.lines().filter(|line| line.contains("s3cret")).collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
    assert_eq!(peer.requests().len(), 5);
}
