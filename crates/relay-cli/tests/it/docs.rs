//! Runs the commands of `docs/tutorial.md` one after the other.

use super::process::{Server, relay, run_command};

#[test]
fn the_tutorial_does_what_it_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tutorial.md");
    let page = std::fs::read_to_string(page).unwrap();
    let lines = page.lines().filter_map(|line| line.strip_prefix("target/release/relay "));
    let commands: Vec<Vec<&str>> =
        lines.map(|line| line.split('#').next().unwrap().split_whitespace().collect()).collect();
    let (serve, others) = commands.split_first().unwrap();
    assert_eq!(serve[0], "serve");
    assert!(others.len() >= 5, "{others:?}");
    let server = Server::start(&serve[1..]);
    let folder = tempfile::tempdir().unwrap();
    for args in others {
        let mut command = relay(args);
        command.args(["--url", &server.url()]).current_dir(folder.path());
        let done = run_command(command).expect(0);
        assert!(!done.stdout.is_empty(), "{args:?}");
    }
    assert!(folder.path().join("pods.cursor").exists());
}
