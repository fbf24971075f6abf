//! What a directory keeps: over restarts, with a full disk, and how many open files it needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use relay_durable_server::Server;
use relay_log::sim::SimDisk;
use relay_log::{DiskOptions, DiskStore};

use crate::raw::{Running, config};

const TEXT: (&str, &str) = ("content-type", "text/plain");

fn producer(seq: &str) -> [(&str, &str); 4] {
    [("producer-id", "p"), ("producer-epoch", "0"), ("producer-seq", seq), TEXT]
}

#[tokio::test]
async fn a_new_start_finds_data_producers_sequences_forks_and_ends() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::dir(dir.path()).await;
    server.put("/s", &[TEXT]).await.expect(201);
    server.ask("POST /s", &producer("0"), b"a").await.expect(200);
    server.ask("POST /s", &[("stream-seq", "5"), TEXT], b"b").await.expect(204);
    let tail = server.ask("HEAD /s", &[], b"").await.offset();
    server.put("/fork", &[("stream-forked-from", "/s")]).await.expect(201);
    server.ask("PUT /born", &[TEXT, ("stream-closed", "true")], b"whole").await.expect(201);
    server.put("/gone", &[TEXT]).await.expect(201);
    server.ask("DELETE /gone", &[], b"").await.expect(204);
    server.ask("DELETE /s", &[], b"").await.expect(204);
    server.end().await;

    let server = Running::dir(dir.path()).await;
    server.get("/gone").await.expect(404);
    server.get("/s").await.expect(410);
    let fork = server.get("/fork").await.expect(200);
    assert_eq!((fork.text(), fork.offset()), ("ab", tail));
    let born = server.get("/born").await.expect(200);
    assert_eq!((born.text(), born.header("stream-closed")), ("whole", "true"));
    server.ask("POST /fork", &producer("0"), b"c").await.expect(200);
    server.ask("POST /fork", &producer("0"), b"c").await.expect(204);
    server.end().await;

    let server = Running::dir(dir.path()).await;
    server.ask("POST /fork", &producer("0"), b"c").await.expect(204);
    server.ask("POST /fork", &producer("1"), b"d").await.expect(200);
    assert_eq!(server.get("/fork").await.text(), "abcd");
    server.ask("DELETE /fork", &[], b"").await.expect(204);
    server.get("/s").await.expect(404);
    server.end().await;
}

/// After a restart, a stream may live longer than its time to live, here by up to a second, but the time does not start
/// again.
#[tokio::test]
async fn a_time_to_live_goes_on_over_a_new_start() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::dir(dir.path()).await;
    server.put("/short", &[TEXT, ("stream-ttl", "2")]).await.expect(201);
    server.put("/long", &[TEXT, ("stream-ttl", "600")]).await.expect(201);
    server.put("/read", &[TEXT, ("stream-ttl", "4")]).await.expect(201);
    let made = Instant::now();
    server.end().await;
    // The server is down for longer than the time to live.
    tokio::time::sleep(Duration::from_millis(3100).saturating_sub(made.elapsed())).await;
    let server = Running::dir(dir.path()).await;
    server.get("/short").await.expect(404);
    server.get("/long").await.expect(200);
    // A read resets the time, and this is written down.
    server.get("/read").await.expect(200);
    let used = Instant::now();
    let noted = async {
        while head_of(dir.path(), "read") == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), noted).await.expect("it is written down");
    server.end().await;
    tokio::time::sleep(Duration::from_millis(2500).saturating_sub(used.elapsed())).await;
    let server = Running::dir(dir.path()).await;
    // This is 5.6 s after the stream was created, but less than 4 s after it was read.
    let late = used.elapsed() > Duration::from_millis(3900);
    let head = server.ask("HEAD /read", &[], b"").await;
    assert!(head.status == 200 || late, "{head:?}");
    tokio::time::sleep(Duration::from_millis(5100).saturating_sub(used.elapsed())).await;
    server.get("/read").await.expect(404);
    server.end().await;
}

/// The number of bytes in records of a stream, read from its files.
fn head_of(dir: &Path, stream: &str) -> u64 {
    segments(dir, stream).iter().map(|file| file.metadata().unwrap().len().saturating_sub(128)).sum()
}

fn segments(dir: &Path, stream: &str) -> Vec<PathBuf> {
    let logs = std::fs::read_dir(dir.join("logs")).unwrap().flatten();
    let folder = logs.map(|folder| folder.path()).find(|path| path.display().to_string().ends_with(stream));
    let files = std::fs::read_dir(folder.expect("a folder of the stream")).unwrap().flatten();
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "segment"));
    files.sort();
    files
}

#[tokio::test]
async fn the_first_request_of_a_long_stream_does_not_read_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::dir(dir.path()).await;
    server.put("/s", &[TEXT]).await.expect(201);
    for seq in 0..14 {
        let body = vec![b'0' + seq as u8; 1 << 20];
        server.ask("POST /s", &producer(&seq.to_string()), &body).await.expect(200);
    }
    let tail = server.ask("HEAD /s", &[], b"").await.offset();
    server.end().await;
    // A read of the beginning finds the damage.
    let files = segments(dir.path(), "s");
    assert!(files.len() > 2, "{files:?}");
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();

    let server = Running::dir(dir.path()).await;
    assert_eq!(server.ask("HEAD /s", &[], b"").await.expect(200).offset(), tail);
    server.ask("POST /s", &producer("13"), b"again").await.expect(204);
    server.ask("POST /s", &producer("15"), b"gap").await.expect(409);
    server.ask("POST /s", &producer("14"), b"end").await.expect(200);
    assert_eq!(server.get(&format!("/s?offset={tail}")).await.expect(200).text(), "end");
    server.get("/s").await.expect(503);
    server.end().await;
}

async fn on(disk: &SimDisk) -> Running {
    let store = DiskStore::open_on(Arc::new(disk.clone()), Path::new("d"), DiskOptions::default()).unwrap();
    Running::of(Server::bind_on("127.0.0.1:0", config(), store).await.unwrap())
}

/// Wherever the process is killed, a stream exists with its first data or not at all, and everything that was
/// acknowledged is there.
#[tokio::test]
async fn a_kill_at_every_moment_leaves_whole_streams_and_all_that_was_answered() {
    let part =
        [("stream-forked-from", "/source"), ("stream-fork-offset", "-1"), ("stream-fork-sub-offset", "3")];
    let first = SimDisk::default();
    let server = on(&first).await;
    server.put("/source", &[TEXT]).await.expect(201);
    server.post("/source", "text/plain", "source").await.expect(204);
    server.end().await;
    let script = async |server: &Running| {
        let made = server.ask("PUT /first", &[TEXT], b"data").await.status;
        let fork = server.put("/part", &part).await.status;
        let append = server.ask("POST /source", &producer("0"), b"!").await.status;
        let delete = server.ask("DELETE /source", &[], b"").await.status;
        [made, fork, append, delete]
    };
    let mut answered = 0;
    for at in 0.. {
        let disk = first.after_kill();
        let server = on(&disk).await;
        let fault =
            relay_log::sim::Fault { at: disk.operations() + at, kind: relay_log::sim::FaultKind::PowerOff };
        disk.set_fault(Some(fault));
        let [made, fork, append, delete] = script(&server).await;
        let over = disk.operations() < fault.at;
        server.end().await;

        let server = on(&disk.after_kill()).await;
        let what = format!("ended at operation {at}, answered {made} {fork} {append} {delete}");
        for (path, status, whole) in [("/first", made, "data"), ("/part", fork, "sou")] {
            let found = server.get(path).await;
            match found.status {
                200 => assert_eq!(found.text(), whole, "{what}"),
                other => assert_eq!((other, status != 201), (404, true), "{path}, {what}"),
            }
        }
        let source = server.get("/source").await;
        match source.status {
            200 => {
                assert_ne!(delete, 204, "{what}");
                let kept = source.text() == "source!";
                assert!(kept || (source.text() == "source" && append != 200), "{what}: {}", source.text());
                let again = server.ask("POST /source", &producer("0"), b"!").await.status;
                assert_eq!(again, if kept { 204 } else { 200 }, "{what}");
            }
            other => assert!(matches!(other, 404 | 410), "{what}: {other}"),
        }
        // Whatever happened, repeating the request leads to the result.
        assert!(matches!(server.ask("PUT /first", &[TEXT], b"data").await.status, 200 | 201), "{what}");
        assert_eq!(server.get("/first").await.text(), "data", "{what}");
        server.end().await;
        answered += usize::from(made == 201);
        if over {
            break;
        }
    }
    assert!(answered > 10, "{answered}");
}

#[tokio::test]
async fn a_full_disk_refuses_what_it_cannot_keep_and_everything_else_goes_on() {
    let disk = SimDisk::default();
    let server = on(&disk).await;
    server.put("/s", &[TEXT]).await.expect(201);
    server.ask("POST /s", &producer("0"), b"before").await.expect(200);
    let tail = server.ask("HEAD /s", &[], b"").await.offset();
    disk.set_full(true);
    for _ in 0..2 {
        let refused = server.ask("POST /s", &producer("1"), b" after").await.expect(503);
        // The error must not tell clients about files of this machine.
        assert_eq!(refused.text(), "the store failed\n");
        server.ask("PUT /new", &[TEXT], b"data").await.expect(503);
    }
    let read = server.get("/s").await.expect(200);
    assert_eq!((read.text(), read.offset()), ("before", tail));
    server.get("/new").await.expect(404);
    server.get(&format!("/s?live=long-poll&offset={}", read.offset())).await.expect(204);
    disk.set_full(false);
    // Once there is room again, the requests succeed without a restart, as if they had not failed before.
    server.ask("POST /s", &producer("1"), b" after").await.expect(200);
    server.ask("PUT /new", &[TEXT], b"data").await.expect(201);
    assert_eq!((server.get("/s").await.text(), server.get("/new").await.text()), ("before after", "data"));
    server.end().await;
}

/// `RELAY_STREAMS` sets the number of streams (default 600).
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn quiet_streams_cost_no_descriptors() {
    let streams = std::env::var("RELAY_STREAMS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    // Uses a file system in memory if there is one, because so many files are created quickly there.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let below = |path: &Path| path.starts_with(dir.path());
    let open_files = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        files.filter(|file| std::fs::read_link(file.path()).is_ok_and(|path| below(&path))).count()
    };
    let server = Running::dir(dir.path()).await;
    for stream in 0..streams {
        server.ask(&format!("PUT /s{stream}"), &[TEXT], b"data").await.expect(201);
    }
    // The lock, the files of the last writes, and those of the last reads.
    assert!(open_files() <= 1 + 256 + 64, "{}", open_files());
    server.end().await;
    assert_eq!(open_files(), 0);
    let began = Instant::now();
    let server = Running::dir(dir.path()).await;
    println!("{streams} streams, started in {:?}", began.elapsed());
    assert!(open_files() <= 2, "{}", open_files());
    for stream in (0..streams).step_by(7) {
        assert_eq!(server.get(&format!("/s{stream}")).await.expect(200).text(), "data");
    }
    assert!(open_files() <= 1 + 64, "{}", open_files());
    server.end().await;
}
