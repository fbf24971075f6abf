//! Notes on stderr while a command runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use relay_durable::Retry;

/// Reports retries, each cause once until the next success.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    told: Arc<Mutex<Option<String>>>,
    /// The longest time without progress.
    patience: Option<Duration>,
}

impl Notes {
    pub(super) fn new(patience: Option<Duration>) -> Self {
        Self { told: Arc::default(), patience }
    }

    pub(super) fn retry(&self, retry: &Retry) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&retry.cause) {
            let end = if self.patience.is_none() { ", without end unless --retry-for is given" } else { "" };
            note(&format!("{}; trying again{end}", retry.cause));
            *told = Some(retry.cause.clone());
        }
    }

    /// Records a success.
    pub(super) fn well(&self) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Prints one line on stderr, without characters that a terminal interprets.
pub(super) fn note(text: &str) {
    crate::log::say(&format!("relay: {}", crate::output::escaped(text)));
}
