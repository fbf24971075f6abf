//! A simulated cluster: deployments, nodes and pods that change by a seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use relay_proto::error::chain;
use relay_proto::pods::Pod;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Publisher, Relisted, Scope, Source, SourceError};
use crate::store::StoreError;

mod cluster;
mod plan;

use cluster::{ChangeKind, Cluster};

/// A simulated cluster: deployments that scale, roll and crash-loop, nodes that drain, in the namespaces `prod`,
/// `staging`, `batch` and `default`. The default of `relay demo`.
///
/// The same seed and number of pods give the same pods, events and times in the same order, on an empty log; only the
/// pace comes from the clock. At least one event in 50 changes labels of a pod. Every pod has the labels `app`, `run`
/// (its deployment, such as `d-17`), `tier` and `pod-template-hash`, and nearly all have `track` and `traffic`.
///
/// If the log already has pods, the cluster continues from them: it appends nothing at the start, and numbers, names
/// and times continue. The number of pods stays near the requested one, and moves there when the log has another.
///
/// It imitates the pods of a cluster, not Kubernetes: there is no scheduler, and there are no other objects.
///
/// ```
/// use relay_pods_server::SimSource;
/// let quiet = SimSource::default().seed(7).pods(200).rate(0.0);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct SimSource {
    seed: u64,
    pods: usize,
    rate: f64,
    events: u64,
    real_time: bool,
}

impl Default for SimSource {
    fn default() -> Self {
        Self { seed: 1, pods: 60, rate: 5.0, events: u64::MAX, real_time: false }
    }
}

impl SimSource {
    /// Sets the seed. Default 1.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Sets the number of pods at the start on an empty log. Default 60, at most 1 million; each takes about 3 KiB.
    #[must_use]
    pub fn pods(mut self, pods: usize) -> Self {
        self.pods = pods.min(1_000_000);
        self
    }

    /// Sets the events per second after the start. Default 5; 0, negative or NaN: no events. On a slow machine
    /// events are skipped: at most one second of them is made up for.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = if rate.is_finite() { rate.max(0.0) } else { 0.0 };
        self
    }

    /// Sets how many events are made after the start of a run; then it is quiet. Default no limit.
    #[must_use]
    pub fn events(mut self, events: u64) -> Self {
        self.events = events;
        self
    }

    /// Sets whether times are those of the machine's clock, so that ages are what people expect. Default false: they
    /// come from the seed, as everything else. The order of events and all that is not a time is the same.
    #[must_use]
    pub fn real_time(mut self, real_time: bool) -> Self {
        self.real_time = real_time;
        self
    }

    /// Milliseconds since 1970, if times are those of the machine's clock.
    fn clock(&self) -> Option<i64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.real_time.then(|| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Starts the cluster from the pods of the log, and publishes it.
    async fn start(&self, publisher: &Publisher) -> Result<Cluster, StoreError> {
        let (held, head) = (publisher.current(), publisher.head());
        let mut cluster = if held.is_empty() {
            Cluster::new(self.seed, self.pods, head, self.clock())
        } else {
            Cluster::adopt(self.seed, self.pods, held, head)
        };
        cluster.tell_time(self.clock());
        let pods: Vec<Pod> = cluster.pods().cloned().collect();
        let count = pods.len();
        let Relisted { added, modified, deleted } =
            publisher.relist_at(Scope::All, pods, &cluster.now()).await?;
        tracing::info!(
            seed = self.seed,
            pods = count,
            added,
            modified,
            deleted,
            "the simulated cluster is up"
        );
        Ok(cluster)
    }

    /// Makes events at the rate, until stopped.
    async fn follow(&self, publisher: &Publisher, stop: &CancellationToken) -> Result<(), StoreError> {
        let mut cluster = self.start(publisher).await?;
        let mut left = self.events;
        if self.rate == 0.0 {
            left = 0;
        }
        // At a rate of 0 the period is infinite, which is clamped too.
        let mut tick = tokio::time::interval(Duration::from_secs_f64((1.0 / self.rate).clamp(0.01, 1.0)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut owed) = (Instant::now(), 0.0);
        while left > 0 && stop.run_until_cancelled(tick.tick()).await.is_some() {
            let now = Instant::now();
            owed += self.rate * (now - last).as_secs_f64();
            owed = f64::min(owed, self.rate.max(1.0));
            last = now;
            for done in 1_u32.. {
                if owed < 1.0 || left == 0 {
                    break;
                }
                cluster.tell_time(self.clock());
                let Some(change) = cluster.step() else {
                    owed = 0.0;
                    break;
                };
                match change.kind {
                    ChangeKind::Upsert => publisher.upsert_at(change.pod, &change.at).await?,
                    ChangeKind::Delete => publisher.delete_at(change.pod, &change.at).await?,
                }
                owed -= 1.0;
                left -= 1;
                if done.is_multiple_of(64) {
                    // Lets the streams read the events that were just written.
                    tokio::task::yield_now().await;
                    if stop.is_cancelled() {
                        return Ok(());
                    }
                }
            }
        }
        stop.cancelled().await;
        Ok(())
    }
}

impl Source for SimSource {
    fn kind(&self) -> &'static str {
        "sim"
    }

    fn run(
        self: Box<Self>,
        publisher: Publisher,
        stop: CancellationToken,
    ) -> BoxFuture<'static, Result<(), SourceError>> {
        const PAUSE: Duration = Duration::from_secs(1);
        let publisher = publisher.ahead();
        Box::pin(async move {
            // A failed store may work later; the cluster then continues from the pods of the log.
            while let Err(error) = self.follow(&publisher, &stop).await {
                publisher.stale(&chain(&error).to_string());
                if stop.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                    break;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
