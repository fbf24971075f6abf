//! All channels of a server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_log::{DiskOptions, DiskStore, Limit, LogName, LogOptions, Logs, MemoryStore, Page, Retention};
use relay_proto::parsec::{ChannelInfo, Registry, Validator, problems};
use relay_proto::problem::Problem;
use relay_transport::server::Refusal;
use tokio_util::sync::CancellationToken;

use crate::access::TokenWatch;
use crate::channel::{Channel, unavailable};
use crate::config::ServerConfig;

/// How long an empty channel is kept for its former subscribers.
const GRACE: Duration = Duration::from_secs(10);

/// State shared by all requests.
pub(crate) struct Hub {
    pub(crate) config: ServerConfig,
    logs: Logs,
    channels: Mutex<HashMap<String, Arc<Channel>>>,
    /// Serialises openings, so that a channel is opened once.
    opening: tokio::sync::Mutex<()>,
    pub(crate) registry: Option<Arc<Registry>>,
    pub(crate) validator: Validator,
    pub(crate) tokens: Option<Arc<TokenWatch>>,
    pub(crate) streams: AtomicU64,
    pub(crate) next_stream: AtomicU64,
    retained: AtomicI64,
    pub(crate) stopping: CancellationToken,
}

impl Hub {
    pub(crate) async fn new(
        config: ServerConfig,
        tokens: Option<Arc<TokenWatch>>,
    ) -> Result<Arc<Self>, relay_log::Error> {
        let logs = match &config.data_dir {
            Some(directory) => {
                std::fs::create_dir_all(directory).map_err(|error| relay_log::Error::Closed {
                    why: format!("{} cannot be made: {error}", directory.display()),
                })?;
                Logs::new(DiskStore::open(directory, DiskOptions::default())?)
            }
            None => Logs::new(MemoryStore::new()),
        };
        let registry = config.registry.clone().map(Arc::new);
        let validator = match &registry {
            Some(registry) => Validator::new(registry.clone(), config.validate),
            None => Validator::default(),
        };
        let hub = Arc::new(Self {
            logs,
            channels: Mutex::new(HashMap::new()),
            opening: tokio::sync::Mutex::new(()),
            registry,
            validator,
            tokens,
            streams: AtomicU64::new(0),
            next_stream: AtomicU64::new(1),
            retained: AtomicI64::new(0),
            stopping: CancellationToken::new(),
            config,
        });
        for name in hub.logs.names().await? {
            hub.open(name.as_str()).await?;
        }
        Ok(hub)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Channel>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A channel that exists.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Channel>> {
        self.lock().get(name).cloned()
    }

    /// A channel, which exists from now on.
    ///
    /// # Errors
    /// 429 when there are too many, 503 when its log cannot be made.
    pub(crate) async fn get_or_create(&self, name: &str) -> Result<Arc<Channel>, Refusal> {
        if let Some(channel) = self.get(name) {
            return Ok(channel);
        }
        let _opening = self.opening.lock().await;
        if let Some(channel) = self.get(name) {
            return Ok(channel);
        }
        if self.lock().len() >= self.config.max_channels {
            let detail = format!("there are {} channels, as many as there may be", self.config.max_channels);
            return Err(Box::new(Problem::new(problems::TOO_MANY_CHANNELS, detail)));
        }
        self.open(name).await.map_err(|error| unavailable(&error))
    }

    async fn open(&self, name: &str) -> Result<Arc<Channel>, relay_log::Error> {
        let retention = Retention::default().entries(self.config.retain_events).age(self.config.retain_age);
        let options = LogOptions::default().retention(retention);
        let log = self.logs.open_or_create(&LogName::new(name)?, options).await?;
        let durable = self.config.data_dir.is_some();
        let channel = Arc::new(Channel::open(name, log, self.config.max_producers, durable).await?);
        self.count(&channel);
        self.lock().insert(name.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Counts the bytes of a channel, and drops the oldest envelopes over the limit of all channels.
    pub(crate) async fn account(&self, channel: &Channel) {
        self.count(channel);
        if self.retained_bytes() > self.config.retain_bytes {
            self.shrink().await;
        }
    }

    fn count(&self, channel: &Channel) {
        self.retained.fetch_add(channel.growth(), Ordering::AcqRel);
    }

    /// Bytes of the retained envelopes of all channels.
    pub(crate) fn retained_bytes(&self) -> u64 {
        u64::try_from(self.retained.load(Ordering::Acquire)).unwrap_or(0)
    }

    /// Drops entries of the channel with the oldest envelope. Drops a little more than needed, so that this is not
    /// necessary with each publish.
    async fn shrink(&self) {
        let goal = self.config.retain_bytes - self.config.retain_bytes / 64;
        let channels: Vec<_> = self.lock().values().cloned().collect();
        let mut oldest = std::collections::BinaryHeap::new();
        for (at, channel) in channels.iter().enumerate() {
            if let Some((time, position)) = oldest_of(channel).await {
                oldest.push(std::cmp::Reverse((time, at, position)));
            }
        }
        while self.retained_bytes() > goal {
            let Some(std::cmp::Reverse((_, at, position))) = oldest.pop() else { return };
            let channel = &channels[at];
            if let Err(error) = channel.log.trim(position).await {
                tracing::error!(channel = channel.name, %error, "old envelopes cannot be dropped");
                return;
            }
            self.count(channel);
            if let Some((time, position)) = oldest_of(channel).await {
                oldest.push(std::cmp::Reverse((time, at, position)));
            }
        }
    }

    /// Drops old envelopes, and forgets empty channels without subscribers.
    pub(crate) async fn clean(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        let channels: Vec<_> = self.lock().values().cloned().collect();
        for channel in channels {
            if let Err(error) = channel.log.expire(now).await {
                tracing::error!(channel = channel.name, %error, "old envelopes cannot be dropped");
            }
            self.count(&channel);
            if self.is_over(&channel) {
                self.forget(&channel).await;
            }
        }
    }

    /// Whether the channel is empty and without subscribers, and its former subscribers have had time to reconnect. A
    /// new epoch would show them a gap although nothing is missing.
    fn is_over(&self, channel: &Channel) -> bool {
        channel.log.bounds().entries() == 0
            && channel.listeners().is_empty()
            && channel.quiet() >= self.config.retain_age.min(GRACE)
    }

    async fn forget(&self, channel: &Arc<Channel>) {
        let _opening = self.opening.lock().await;
        let mut writer = channel.writer().await;
        {
            let mut channels = self.lock();
            // A stream or a publish may have started meanwhile. Both hold the map or the writer while they register.
            if !self.is_over(channel) {
                return;
            }
            writer.gone = true;
            channels.remove(&channel.name);
        }
        drop(writer);
        if let Ok(name) = LogName::new(&channel.name)
            && let Err(error) = self.logs.delete(&name).await
        {
            tracing::error!(channel = channel.name, %error, "a channel cannot be forgotten");
        }
    }

    /// Registers a subscriber, unless the channel was forgotten in between.
    pub(crate) fn listen(
        &self,
        channel: &Arc<Channel>,
        id: u64,
        entry: relay_proto::parsec::PresenceEntry,
    ) -> bool {
        let channels = self.lock();
        let current = channels.get(&channel.name).is_some_and(|known| Arc::ptr_eq(known, channel));
        if current {
            channel.listeners().insert(id, Box::new(entry));
        }
        current
    }

    /// Information about the channels that `pass` accepts.
    pub(crate) fn infos(&self, pass: impl Fn(&str) -> bool) -> Vec<ChannelInfo> {
        let channels = self.lock();
        let info = |channel: &Arc<Channel>| {
            let bounds = channel.log.bounds();
            ChannelInfo {
                channel: channel.name.clone(),
                epoch: channel.at(0).epoch().to_owned(),
                head: bounds.head,
                retained: bounds.entries(),
                subscribers: channel.listeners().len() as u64,
            }
        };
        channels.values().filter(|channel| pass(&channel.name)).map(info).collect()
    }

    pub(crate) fn channel_count(&self) -> u64 {
        self.lock().len() as u64
    }

    pub(crate) async fn close(&self) {
        if let Err(error) = self.logs.close().await {
            tracing::error!(%error, "the logs cannot be closed in order");
        }
    }
}

async fn oldest_of(channel: &Channel) -> Option<(i64, u64)> {
    match channel.log.read(channel.log.bounds().base, Limit::entries(1)).await {
        Ok(Page::Entries(entries)) => entries.first().map(|entry| (entry.time, entry.position)),
        _ => None,
    }
}
