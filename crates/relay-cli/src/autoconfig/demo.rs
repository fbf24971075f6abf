//! `relay autoconfig demo`: a service over a temporary file, and the public client that follows it.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use relay_autoconfig::StreamManager;
use relay_autoconfig_server::{Handle, Server};

use super::watch::follow;
use crate::args::{Show, Until};
use crate::exit::Exit;
use crate::follow::Ending;
use crate::output::Output;

/// The time between two changes of the file.
const PAUSE: Duration = Duration::from_millis(700);
/// How long a replaced key is still accepted.
const GRACE: Duration = Duration::from_secs(1);

pub(super) async fn run(args: Show) -> anyhow::Result<Exit> {
    // Signals are caught before the first line.
    let ending = Ending::new(Until { max: None, time: args.time });
    let folder = Folder::new()?;
    let file = folder.0.join("environments.yaml");
    std::fs::write(&file, environments("Production", "sdk-production-1111", None, true))?;
    let server =
        Server::builder(&file).poll(Duration::from_millis(100)).bind(([127, 0, 0, 1], 0).into()).await?;
    let (handle, address) = (server.handle(), server.local_addr());
    let serving = tokio::spawn(server.run(std::future::pending()));
    let mut out = Output::in_format(args.output);
    for line in [
        format!("An auto-configuration service is at http://{address}"),
        format!("(in another terminal: relay autoconfig watch --key any --url http://{address})"),
        format!(
            "It serves {}, which changes: a name, a key, an environment. Once, the connection is cut.",
            file.display()
        ),
        String::new(),
    ] {
        out.heading(line)?;
    }
    let mut ended = Output::in_format(args.output);
    let story = tokio::spawn({
        let server = handle.clone();
        async move {
            tell(file, server).await;
            tokio::time::sleep(PAUSE).await;
            // If nobody reads the output, the next event ends the command.
            let _ = ended.heading("No more changes will come; Ctrl-C ends the demo.");
        }
    });
    let quick = Duration::from_millis(100);
    let events = StreamManager::builder(format!("http://{address}"))
        .key("demo")
        .reconnect(quick, Duration::from_secs(1))
        .events()?;
    let exit = follow(events, out, ending).await;
    story.abort();
    handle.shutdown();
    serving.await?;
    exit
}

/// Changes the file step by step, and cuts the connection once.
async fn tell(file: std::path::PathBuf, server: Handle) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let rotated = Some(("sdk-production-1111", (now + PAUSE * 2 + GRACE).as_millis()));
    let steps = [
        environments("Production (EU)", "sdk-production-1111", None, true),
        environments("Production (EU)", "sdk-production-2222", rotated, true),
    ];
    for text in steps {
        tokio::time::sleep(PAUSE).await;
        write(&file, &text);
    }
    tokio::time::sleep(PAUSE).await;
    server.cut_streams();
    tokio::time::sleep(PAUSE).await;
    write(&file, &environments("Production (EU)", "sdk-production-2222", rotated, false));
}

fn write(file: &Path, text: &str) {
    let new = file.with_extension("new");
    if let Err(error) = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file)) {
        tracing::warn!(%error, "{} could not be changed", file.display());
    }
}

fn environments(name: &str, key: &str, expiring: Option<(&str, u128)>, with_test: bool) -> String {
    let expiring = expiring
        .map_or(String::new(), |(key, until)| format!(", expiring: {{value: {key}, timestamp: {until}}}"));
    let mut text = format!(
        "environments:
  prod: {{envKey: production, envName: {name}, projKey: shop, projName: Shop, sdkKey: {{value: {key}{expiring}}}, mobKey: mob-production-0000}}
"
    );
    if with_test {
        text += "  test: {envKey: test, envName: Test, projKey: shop, projName: Shop, sdkKey: sdk-test-aaaabbbb}\n";
    }
    text + "filters:\n  shop.small: {projKey: shop, key: small}\n"
}

/// A folder that is removed when this is dropped.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder =
            std::env::temp_dir().join(format!("relay-autoconfig-demo-{}-{nanos}", std::process::id()));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
