//! A server: its settings, its start, and the checks of the file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use relay_proto::error::chain;
use relay_transport::server::{HttpServer, Settings};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, AccessError, Keys};
use crate::file::{self, Configuration, FileError, Format};
use crate::hub::Hub;
use crate::service::Subscriptions;
use crate::versions::{Versions, VersionsError};

/// Time limit for streams to end in an orderly way.
const DRAIN: Duration = Duration::from_secs(1);
/// A changing file is read again after this time, until it is stable.
const SETTLE: Duration = Duration::from_millis(50);

/// Settings of a [`Server`].
#[derive(Debug, Clone)]
pub struct Builder {
    file: PathBuf,
    state_file: PathBuf,
    keys: Keys,
    poll: Duration,
    heartbeat: Duration,
    settings: Settings,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The extension of the file is unknown.
    #[error("{}: its name must end with .json, .yaml or .yml", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// Any key would be accepted, and the address is not a loopback address.
    #[error("without a key only a loopback address may be listened on, and {address} is none")]
    Open {
        /// The address.
        address: SocketAddr,
    },
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The versions cannot be kept.
    #[error(transparent)]
    Versions(#[from] VersionsError),
    /// The keys cannot be read.
    #[error(transparent)]
    Keys(#[from] AccessError),
    /// The port cannot be opened.
    #[error("cannot listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl Builder {
    /// The file with the versions. Default: the name of the file with `.versions` appended.
    #[must_use]
    pub fn state_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_file = path.into();
        self
    }

    /// Which keys are accepted. Default: any or none, and then the address must be a loopback address.
    #[must_use]
    pub fn keys(mut self, keys: Keys) -> Self {
        self.keys = keys;
        self
    }

    /// How often the file is read and compared. Default 250 ms.
    #[must_use]
    pub fn poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Silence after which a comment is sent. Default 3 min.
    #[must_use]
    pub fn heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// A subscriber that takes no byte for this long while there is something to send is cut. Default 30 s.
    #[must_use]
    pub fn stall_timeout(mut self, stall_timeout: Duration) -> Self {
        self.settings = self.settings.stall_timeout(stall_timeout);
        self
    }

    /// Reads the file, puts the versions on disk and opens the port, in this order. Port 0 lets the system choose one.
    ///
    /// # Errors
    /// One of these cannot be done.
    pub async fn bind(self, address: SocketAddr) -> Result<Server, StartError> {
        let format = Format::of(&self.file).ok_or_else(|| StartError::Format { path: self.file.clone() })?;
        if matches!(self.keys, Keys::Anyone) && !address.ip().is_loopback() {
            return Err(StartError::Open { address });
        }
        let access = Access::new(self.keys)?;
        let bytes = file::read(&self.file)?;
        let mut configuration = file::parse(&bytes, format).map_err(|broken| broken.of(&self.file))?;
        let mut versions = Versions::open(self.state_file)?;
        versions.assign(&mut configuration, now_ms())?;
        let http = HttpServer::bind(address, self.settings)
            .await
            .map_err(|source| StartError::Bind { address, source })?;
        let shared = Arc::new(Subscriptions {
            hub: Arc::new(Hub::new(configuration)),
            access,
            heartbeat: self.heartbeat,
            cuts: watch::Sender::new(0),
            stop: CancellationToken::new(),
            open: 0.into(),
        });
        let check = FileCheck {
            file: self.file,
            format,
            seen: bytes,
            complained: None,
            versions,
            shared: shared.clone(),
        };
        let handle = Handle { shared, address: http.local_addr() };
        Ok(Server { http, check, poll: self.poll, handle })
    }
}

/// A listening service. It serves once [`run`](Self::run) is called.
#[derive(Debug)]
pub struct Server {
    http: HttpServer,
    check: FileCheck,
    poll: Duration,
    handle: Handle,
}

impl Server {
    /// Settings for serving this file: JSON (`.json`) or YAML (`.yaml`, `.yml`), by its name.
    pub fn builder(file: impl Into<PathBuf>) -> Builder {
        let file = file.into();
        let mut state_file = file.clone().into_os_string();
        state_file.push(".versions");
        Builder {
            file,
            state_file: state_file.into(),
            keys: Keys::default(),
            poll: Duration::from_millis(250),
            heartbeat: Duration::from_secs(180),
            settings: Settings::default().drain(DRAIN),
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.address
    }

    /// A handle for use while it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Serves until `shutdown` completes or [`Handle::shutdown`] is called; then ends all streams, within a second.
    /// Dropping the future cuts everything at once.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { http, check, poll, handle } = self;
        let Handle { shared, .. } = handle;
        let stop = shared.stop.clone();
        let looking = tokio::spawn(check_file(check, poll, stop.clone()));
        let told = async {
            tokio::select! {
                () = shutdown => {}
                () = stop.cancelled() => {}
            }
            stop.cancel();
        };
        http.run(shared, told).await;
        // The state file is free when this returns.
        let _ = looking.await;
    }
}

/// A handle of a running server. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Subscriptions>,
    address: SocketAddr,
}

impl Handle {
    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Streams that are open right now.
    pub fn subscribers(&self) -> u64 {
        self.shared.open.load(Ordering::Acquire)
    }

    /// Events that were encoded so far: each once, for however many subscribers.
    pub fn encoded(&self) -> u64 {
        self.shared.hub.encoded()
    }

    /// Cuts the connection of every open stream: for demonstrations and tests.
    pub fn cut_streams(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Begins an orderly shutdown: see [`Server::run`].
    pub fn shutdown(&self) {
        self.shared.stop.cancel();
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("address", &self.address).finish_non_exhaustive()
    }
}

const SERVED_ON: &str = "what was last good is served on";

/// The task that checks the file.
struct FileCheck {
    file: PathBuf,
    format: Format,
    /// The last content that was accepted, or reported as invalid.
    seen: Vec<u8>,
    /// The last error of reading the file or storing versions, so that it is reported once.
    complained: Option<String>,
    versions: Versions,
    shared: Arc<Subscriptions>,
}

impl std::fmt::Debug for FileCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileCheck").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Ends between two checks, because a running check uses the state file.
async fn check_file(mut check: FileCheck, poll: Duration, stop: CancellationToken) {
    let mut tick = tokio::time::interval(poll.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut keys_complaint = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let refreshed = check.shared.access.refresh();
        let complaint = refreshed.err().map(|error| chain(&error).to_string());
        if let Some(complaint) = &complaint
            && keys_complaint.as_ref() != Some(complaint)
        {
            tracing::warn!("{complaint}; the keys that were read last stay in force");
        }
        keys_complaint = complaint;
        // Reading, parsing and syncing may take long.
        check = match tokio::task::spawn_blocking(move || {
            check.check();
            check
        })
        .await
        {
            Ok(check) => check,
            Err(error) => {
                tracing::error!(%error, "looking at the file broke off; what was read last is served on");
                return;
            }
        };
    }
}

impl FileCheck {
    fn check(&mut self) {
        let bytes = match file::read(&self.file) {
            Ok(bytes) if bytes == self.seen => {
                // It may have been missing.
                self.complained = None;
                return;
            }
            Ok(bytes) => settled(&self.file, bytes),
            Err(error) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return self.complain(chain(&error).to_string()),
        };
        match file::parse(&bytes, self.format) {
            Ok(configuration) => {
                if let Err(error) = self.publish(configuration) {
                    // Not marked as seen, so that it is tried again.
                    return self.complain(chain(&error).to_string());
                }
            }
            Err(broken) => tracing::warn!("{}; {SERVED_ON}", chain(&broken.of(&self.file))),
        }
        self.complained = None;
        self.seen = bytes;
    }

    fn publish(&mut self, mut configuration: Configuration) -> Result<(), VersionsError> {
        let changes = self.versions.assign(&mut configuration, now_ms())?;
        if !changes.is_empty() {
            tracing::info!(changes = changes.len(), "the file has changed");
        }
        self.shared.hub.publish(configuration, &changes);
        Ok(())
    }

    fn complain(&mut self, complaint: String) {
        if self.complained.as_ref() != Some(&complaint) {
            tracing::warn!("{complaint}; {SERVED_ON}");
            self.complained = Some(complaint);
        }
    }
}

/// The content of a file once it is stable, because it may be being written. A file that keeps changing is taken as
/// it is.
fn settled(path: &Path, mut bytes: Vec<u8>) -> Result<Vec<u8>, FileError> {
    for _ in 0..8 {
        std::thread::sleep(SETTLE);
        let again = file::read(path)?;
        if again == bytes {
            break;
        }
        bytes = again;
    }
    Ok(bytes)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
