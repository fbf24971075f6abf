//! Auto-configuration on a machine that is in trouble: disks that are full or read-only, a resolver that hangs.

use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};

use relay_testkit::{Gate, Peer, Reply, Script};
use serde_json::json;

use super::autoconfig_serve::{Service, replace, serve, version};
use super::autoconfig_watch::{KEY, PATH, end, env, expect, patch, put, watch};
use super::process::{DEADLINE, Running, relay};
use super::small_disk::SmallDisk;

const FULL: &str = "No space left on device";
const READ_ONLY: &str = "Read-only file system";

#[test]
fn a_version_that_a_full_or_read_only_disk_does_not_take_is_not_told() {
    let Some(disk) = SmallDisk::mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (file, state) = (folder.path().join("e.yaml"), disk.path("state"));
    let state_file = ["--state-file", state.to_str().unwrap()];
    let text = |key: &str| format!("environments: {{a: {{sdkKey: {key}}}}}");
    std::fs::write(&file, text("s3cret-0")).unwrap();
    let service = Service::start(&file, &state_file);
    let mut subscriber = service.subscribe("");
    let before = version(&subscriber.event().1, "a");
    let kept = std::fs::read(&state).unwrap();
    disk.fill();
    replace(&file, &text("s3cret-1"));
    let said = service.running.until_stderr(|text| text.contains(FULL));
    assert!(said.contains(state.to_str().unwrap()) && said.contains("is served on"), "{said}");
    assert_eq!(version(&service.put(), "a"), before);
    assert_eq!(std::fs::read(&state).unwrap(), kept);
    disk.free();
    let (told, after) = subscriber.told();
    assert_eq!(told, "patch /environments/a");
    assert!(after > before);
    assert!(!service.running.stderr().contains("s3cret"));
    service.running.signal("TERM");
    service.running.wait().expect(0);
    // The server does not start on such a disk either, and its file is not changed.
    let kept = std::fs::read(&state).unwrap();
    for why in [FULL, READ_ONLY] {
        if why == FULL {
            disk.fill()
        } else {
            disk.writable(false)
        }
        let done = serve(&file, &state_file).expect(1);
        assert!(
            done.stderr.contains(why) && done.stderr.contains(state.to_str().unwrap()),
            "{}",
            done.stderr
        );
        assert!(done.stdout.is_empty());
        assert_eq!(std::fs::read(&state).unwrap(), kept, "{why}");
        if why == FULL { disk.free() } else { disk.writable(true) }
    }
    let service = Service::start(&file, &state_file);
    assert_eq!(version(&service.put(), "a"), after);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cache_on_a_full_or_read_only_disk_is_read_and_not_lost() {
    let Some(disk) = SmallDisk::mount() else { return };
    let file = disk.path("cache");
    let cache = file.to_str().unwrap();
    let (full, room) = (Gate::new(), Gate::new());
    let reply = Reply::sse()
        .send(put(json!({"a": env("a", 1)}), json!({})))
        .hold(&full)
        .send(patch("a", &env("a", 2)))
        .hold(&room)
        .send(patch("a", &env("a", 3)))
        .silence();
    let away = Reply::empty(503);
    let peer = Peer::start(Script::new().on(PATH, reply).always(PATH, away)).await;
    let start = || Running::start(watch(&peer.url(), &["--cache-file", cache]));
    let running = start();
    expect(&running, &["initializing", "initializing+", "add a v1", "all 1+0 stream", "valid+!"]);
    let kept = std::fs::read_to_string(&file).unwrap();
    disk.fill();
    full.open();
    // The change is reported nevertheless.
    expect(&running, &["update a v2"]);
    let said = running.until_stderr(|text| text.contains(FULL));
    assert!(said.contains(cache) && said.contains("not up to date") && !said.contains("s3cret"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
    disk.free();
    room.open();
    expect(&running, &["update a v3"]);
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains("\"version\":3"), "{kept}");
    end(running);
    for why in [FULL, READ_ONLY] {
        if why == FULL {
            disk.fill()
        } else {
            disk.writable(false)
        }
        let running = start();
        expect(&running, &["initializing", "add a v3", "all 1+0 cache", "initializing!"]);
        let done = end(running);
        assert!(done.stderr.contains(why) && done.stderr.contains("not kept up to date"), "{}", done.stderr);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), kept, "{why}");
        if why == FULL { disk.free() } else { disk.writable(true) }
    }
}

/// The resolver of this process is a port that accepts queries and answers none.
#[test]
fn a_signal_ends_it_while_the_resolver_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    std::fs::write(&file, "nameserver 127.0.0.153\noptions timeout:30 attempts:1\n").unwrap();
    let mounted = |program: &Command| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\""])
            .arg(&file)
            .arg(program.get_program())
            .args(program.get_args());
        command
    };
    let (Ok(deaf), Ok(true)) = (
        UdpSocket::bind("127.0.0.153:53"),
        mounted(&Command::new("true")).output().map(|output| output.status.success()),
    ) else {
        eprintln!("SKIPPED: a resolver of one's own needs the right to mount and a port below 1024");
        return;
    };
    deaf.set_read_timeout(Some(DEADLINE)).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let host = format!("relay-test-{code}");
        let url = format!("http://{host}.test");
        let command = relay(&["autoconfig", "watch", "--url", &url, "--key", KEY, "-o", "json"]);
        let running = Running::start(mounted(&command));
        let mut question = [0; 512];
        while !String::from_utf8_lossy(&question).contains(&host) {
            deaf.recv(&mut question).unwrap();
        }
        let start = Instant::now();
        running.signal(signal);
        running.wait().expect(code);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    }
}
