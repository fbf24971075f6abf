//! What the tested code logs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::Dispatch;
use tracing::subscriber::{DefaultGuard, NoSubscriber};

/// Everything that this thread logs while this exists, at the most detailed level, without colours.
pub struct Logged {
    written: Written,
    _here: DefaultGuard,
    _another: Dispatch,
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Logged {
    /// Begins to listen.
    pub fn listen() -> Self {
        // While a process has one subscriber only, tracing asks the default subscriber of the thread that comes first
        // to a line of code whether anybody wants it. That may be the thread of another test, which has none, and then
        // the line is off for this thread, too. With a second subscriber it asks all of them.
        let another = Dispatch::new(NoSubscriber::new());
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        Self { written, _here: tracing::subscriber::set_default(subscriber), _another: another }
    }

    /// What was logged so far, a line each.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl std::fmt::Debug for Logged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logged(..)")
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say() {
        tracing::trace!("it is said");
    }

    #[test]
    fn a_line_that_another_thread_came_to_first_is_heard() {
        let log = Logged::listen();
        std::thread::spawn(say).join().unwrap();
        assert_eq!(log.text(), "", "that is another thread");
        say();
        assert!(log.text().contains("it is said"), "{}", log.text());
    }
}
