//! Limits of the number of connections to one host, and of their age.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Extensions, Uri};
use hyper_util::client::legacy::connect::CaptureConnection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Limits of the connections of one pool. Clones share the counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) age: Option<Duration>,
    pub(crate) per_host: Option<usize>,
    hosts: Arc<Mutex<HashMap<String, Arc<Semaphore>>>>,
}

/// A place among the connections to a host, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    aging: Option<Aging>,
}

/// Retires a connection at its maximum age.
#[derive(Clone, Debug)]
pub(crate) struct Aging {
    at: Instant,
    timer: Arc<Mutex<Option<AbortHandle>>>,
}

impl Limits {
    /// Waits for a place among the connections to the host of this URL.
    pub(crate) async fn enter(&self, uri: &Uri) -> Place {
        let permit = match self.per_host {
            None => None,
            Some(most) => {
                let host = {
                    let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
                    let host = format!("{:?}://{:?}", uri.scheme_str(), uri.authority());
                    hosts.entry(host).or_insert_with(|| Arc::new(Semaphore::new(most.max(1)))).clone()
                };
                // It is never closed.
                host.acquire_owned().await.ok()
            }
        };
        let old = self.age.and_then(|age| Instant::now().checked_add(age));
        Place { _permit: permit, aging: old.map(|at| Aging { at, timer: Arc::default() }) }
    }
}

impl Place {
    /// The timer of a connection, for requests that use it.
    pub(crate) fn aging(&self) -> Option<Aging> {
        self.aging.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(aging) = &self.aging
            && let Some(timer) = aging.lock().take()
        {
            timer.abort();
        }
    }
}

impl Aging {
    fn lock(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the timer of the connection that a request used, unless it runs. When it ends, the pool no longer
    /// uses the connection.
    pub(crate) fn watch(used: CaptureConnection) {
        let mut extras = Extensions::new();
        if let Some(connected) = &*used.connection_metadata() {
            connected.get_extras(&mut extras);
        }
        let Some(aging) = extras.remove::<Self>() else { return };
        let mut timer = aging.lock();
        if timer.is_none() {
            let at = aging.at;
            let task = tokio::spawn(async move {
                tokio::time::sleep_until(at).await;
                if let Some(connected) = &*used.connection_metadata() {
                    connected.poison();
                }
            });
            *timer = Some(task.abort_handle());
        }
    }
}
