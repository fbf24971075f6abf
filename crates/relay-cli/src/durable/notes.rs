//! What is told on stderr while a command goes on.

use std::sync::{Arc, Mutex, PoisonError};

use relay_durable::Retry;

/// Tells of retries, each cause once until something went well.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<Option<String>>>);

impl Notes {
    pub(super) fn retry(&self, retry: &Retry) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.as_ref() != Some(&retry.cause) {
            note(&format!("{}; trying again", retry.cause));
            *told = Some(retry.cause.clone());
        }
    }

    /// Something went well.
    pub(super) fn well(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// One line on stderr, without anything that a terminal obeys.
pub(super) fn note(text: &str) {
    crate::log::say(&format!("relay: {}", crate::output::escaped(text)));
}
