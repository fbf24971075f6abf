//! Time under a test's control, and a limit of real time, so that a broken test does not hang.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Tokio's clock, frozen: it moves when the test says so, and never by itself.
///
/// A paused tokio clock jumps to the next timer whenever no task can run. That is right for a test without I/O, and
/// wrong for one with sockets: the runtime does not know of bytes that are in transit through the kernel, so a deadline
/// of 45 s passes while a local connection is being made. This clock prevents the jump, so that sockets take no virtual
/// time.
///
/// Needs a current-thread runtime. Time runs again when the value is dropped.
///
/// ```
/// use std::time::Duration;
/// use relay_testkit::Clock;
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let clock = Clock::freeze();
/// let hour = tokio::spawn(tokio::time::sleep(Duration::from_secs(3600)));
/// clock.advance(Duration::from_secs(3601)).await;
/// hour.await.expect("an hour has passed");
/// # }
/// ```
pub struct Clock {
    /// Dropping it ends the thread that prevents the jump.
    _hold: mpsc::Sender<()>,
    start: tokio::time::Instant,
}

impl Clock {
    /// Stops the runtime's clock.
    ///
    /// # Panics
    /// Outside a current-thread runtime, or if the clock is paused already.
    pub fn freeze() -> Self {
        tokio::time::pause();
        let (hold, released) = mpsc::channel::<()>();
        // The runtime does not jump ahead while a blocking task runs.
        drop(tokio::task::spawn_blocking(move || released.recv().is_ok()));
        Self { _hold: hold, start: tokio::time::Instant::now() }
    }

    /// Lets every ready task run, moves time ahead in one step, and lets the tasks run that became ready. Timers in
    /// between fire late, all at the same moment; if their order matters, use [`run`](Self::run). Tokio rounds timers
    /// up to the next millisecond: move a little further than the deadline.
    pub async fn advance(&self, by: Duration) {
        settle().await;
        tokio::time::advance(by).await;
        settle().await;
    }

    /// Drives `future` to its end. Whenever about a millisecond of real time has passed without that, moves time by
    /// `step`.
    ///
    /// The outcome must not depend on the final time: the number of steps depends on the machine.
    ///
    /// # Panics
    /// When the future is not done after 60 s of real time.
    pub async fn run<T>(&self, step: Duration, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut steps = pin!(async {
            loop {
                // This is real time, because the runtime's own clock is frozen. Meanwhile, sockets deliver their data.
                tokio::task::spawn_blocking(|| std::thread::park_timeout(Duration::from_millis(1)))
                    .await
                    .expect("parking does not panic");
                tokio::time::advance(step).await;
            }
        });
        within("the run on frozen time", async {
            tokio::select! {
                biased;
                output = &mut future => output,
                () = &mut steps => unreachable!("the steps never end"),
            }
        })
        .await
    }

    /// How far time has moved since the freeze.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        tokio::time::resume();
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("elapsed", &self.elapsed()).finish()
    }
}

/// Lets tasks run, and then the tasks that these wake, and so on.
async fn settle() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

/// Awaits `future` for at most 60 s of real time, whatever the runtime's clock says.
///
/// # Panics
/// When the time is over; `what` names the thing that did not happen.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    const LIMIT: Duration = Duration::from_secs(60);
    let (done, finished) = mpsc::channel::<()>();
    let (expire, expired) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        if finished.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _ = expire.send(());
        }
    });
    let output = tokio::select! {
        biased;
        output = future => output,
        _ = expired => panic!("gave up after {} s waiting for {what}", LIMIT.as_secs()),
    };
    drop(done);
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn a_frozen_clock_stands_still_while_sockets_work() {
        let clock = Clock::freeze();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let echo = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut byte = [0];
            while socket.read_exact(&mut byte).await.is_ok() {
                socket.write_all(&byte).await.unwrap();
            }
        });
        let mut socket = TcpStream::connect(addr).await.unwrap();
        for _ in 0..50 {
            socket.write_all(b"x").await.unwrap();
            let mut byte = [0];
            let read = tokio::time::timeout(Duration::from_millis(1), socket.read_exact(&mut byte));
            read.await.expect("no virtual time passes").unwrap();
        }
        assert_eq!(clock.elapsed(), Duration::ZERO);
        drop(socket);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn time_moves_by_hand_and_by_steps() {
        let clock = Clock::freeze();
        let nap = tokio::spawn(tokio::time::sleep(Duration::from_secs(60)));
        clock.advance(Duration::from_secs(59)).await;
        assert!(!nap.is_finished());
        clock.advance(Duration::from_millis(1002)).await;
        assert!(nap.is_finished());

        let year = Duration::from_secs(365 * 86_400);
        clock.run(year / 4, tokio::time::sleep(year)).await;
        assert!(clock.elapsed() >= year);
    }

    #[tokio::test]
    async fn time_runs_again_afterwards() {
        drop(Clock::freeze());
        tokio::time::sleep(Duration::from_millis(1)).await;
        drop(Clock::freeze());
    }
}
