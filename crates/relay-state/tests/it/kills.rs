//! A process that saves cursors is killed at any moment: the file is complete, and not older than the last report.
//!
//! The victim is this test binary, run again with [`FILE`] set. It saves one cursor after another, and reports each
//! saved one on its standard error. The parent reads a few reports, waits for a part of a save, and kills.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relay_proto::pods::{EventHash, Filter};
use relay_state::files::FileError;
use relay_state::pods::{CursorError, CursorStore, FileCursorStore};

const KILLS: usize = 500;
/// The variable that names the cursor file. A process that has it is the victim.
const FILE: &str = "RELAY_TEST_SAVES_TO";
const TEST: &str = "kills::a_kill_at_any_moment_leaves_a_whole_cursor";

fn filter() -> Filter {
    Filter::new().namespace("prod").unwrap().label("app=web").unwrap()
}

/// A hash of the greatest length, so that a part of a file would be noticed.
fn cursor(number: u64) -> EventHash {
    EventHash::new(&format!("{number:0>256}")).unwrap()
}

fn number(cursor: Option<EventHash>) -> u64 {
    cursor.map_or(0, |hash| hash.as_str().parse().unwrap())
}

/// Saves consecutive numbers for ever, and reports each one after it is saved.
fn save_until_killed(path: &Path) {
    let mut store = FileCursorStore::open(path, &filter()).unwrap();
    let mut last = number(store.load().unwrap());
    let mut report = std::io::stderr();
    loop {
        last += 1;
        store.save(&cursor(last)).unwrap();
        // This write fails if the parent is gone, which ends this process.
        report.write_all(&last.to_le_bytes()).unwrap();
    }
}

struct Victim(Child);

impl Victim {
    fn start(path: &Path) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST, "--nocapture"])
            .env(FILE, path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// The next saved number, and how long it took.
    fn report(&mut self) -> (u64, Duration) {
        let since = Instant::now();
        let mut bytes = [0; 8];
        self.0.stderr.as_mut().unwrap().read_exact(&mut bytes).expect("the victim saves until it is killed");
        (u64::from_le_bytes(bytes), since.elapsed())
    }

    /// Kills the victim, and reads its last reports.
    fn kill(mut self) -> Option<u64> {
        self.0.kill().unwrap();
        let mut rest = Vec::new();
        self.0.stderr.take().unwrap().read_to_end(&mut rest).unwrap();
        assert_eq!(self.0.wait().unwrap().code(), None, "killed, not ended: {rest:?}");
        assert_eq!(rest.len() % 8, 0, "reports are whole: {}", String::from_utf8_lossy(&rest));
        rest.chunks_exact(8).next_back().map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

/// splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How many kills came at which moment.
#[derive(Debug, Default)]
struct Moments {
    before_the_first_report: usize,
    /// The temporary file was left behind.
    before_the_rename: usize,
    /// The saved number was not reported yet.
    between_rename_and_report: usize,
    between_saves: usize,
}

#[test]
fn a_kill_at_any_moment_leaves_a_whole_cursor() {
    if let Some(path) = std::env::var_os(FILE) {
        return save_until_killed(Path::new(&path));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cursor.json");
    let mut moments = Moments::default();
    let (mut seed, mut kept, mut start_takes) = (1, 0, Duration::ZERO);
    for kill in 0..KILLS {
        let mut victim = Victim::start(&path);
        let (mut reported, mut takes) = (kept, start_takes);
        let reports = random(&mut seed) % 3;
        for n in 0..reports {
            let number;
            (number, takes) = victim.report();
            assert_eq!(number, reported + 1, "kill {kill}: a victim goes on where the last one was killed");
            reported = number;
            if n == 0 {
                start_takes = takes;
            }
        }
        if kill % 50 == 0 && reports > 0 {
            let second = FileCursorStore::open(&path, &filter()).unwrap_err();
            assert!(
                matches!(second, CursorError::File(FileError::InUse { .. })),
                "while the victim lives: {second}"
            );
        }
        // The wait is at most a little longer than a save, so that every part of a save is hit.
        let wait = takes.mul_f64((random(&mut seed) % 1200) as f64 / 1000.0);
        let since = Instant::now();
        while since.elapsed() < wait {
            std::hint::spin_loop();
        }
        let last = victim.kill();
        reported = last.unwrap_or(reported);

        let mut unfinished = false;
        for file in fs::read_dir(dir.path()).unwrap() {
            let name = file.unwrap().file_name();
            unfinished |= name == "cursor.json.tmp";
            // There is at most one temporary file, and the next save replaces it.
            assert!(
                ["cursor.json", "cursor.json.lock", "cursor.json.tmp"].iter().any(|known| name == *known),
                "kill {kill}: {name:?}"
            );
        }
        // The file is accepted: the lock is free, the content is complete, and the filter is the same.
        let mut store = FileCursorStore::open(&path, &filter())
            .unwrap_or_else(|error| panic!("kill {kill}, after {reported} was reported: {error}"));
        kept = number(store.load().unwrap());
        assert!(
            kept == reported || kept == reported + 1,
            "kill {kill}: {reported} was reported, {kept} is kept"
        );
        *match () {
            () if reports == 0 && last.is_none() => &mut moments.before_the_first_report,
            () if unfinished => &mut moments.before_the_rename,
            () if kept > reported => &mut moments.between_rename_and_report,
            () => &mut moments.between_saves,
        } += 1;
    }
    println!("{KILLS} kills, {kept} saves: {moments:?}");
    assert!(moments.before_the_first_report > 0, "{moments:?}");
    assert!(moments.before_the_rename > 0, "{moments:?}");
    assert!(moments.between_rename_and_report > 0, "{moments:?}");
}
