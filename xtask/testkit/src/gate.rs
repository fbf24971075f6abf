//! Barriers between scripts and tests.

use std::sync::Arc;

use tokio::sync::watch;

use super::clock::within;

/// A barrier between a script and its test: [`Reply::hold`](crate::Reply::hold) stops there until the test opens it.
/// Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<watch::Sender<(bool, usize)>>);

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets all scripts through, from now on.
    pub fn open(&self) {
        self.0.send_modify(|(open, _)| *open = true);
    }

    /// Waits until a script has stopped at the gate, or has passed it.
    ///
    /// # Panics
    /// When none comes within 60 s of real time.
    pub async fn reached(&self) {
        let mut state = self.0.subscribe();
        let _ = within("a script to reach the gate", state.wait_for(|(_, arrived)| *arrived > 0)).await;
    }

    pub(crate) async fn pass(&self) {
        self.0.send_modify(|(_, arrived)| *arrived += 1);
        let _ = self.0.subscribe().wait_for(|(open, _)| *open).await;
    }
}
