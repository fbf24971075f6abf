//! Decodes inside a runtime that the crate does not know: here one of thirty lines, which polls a task when it is
//! woken, and parks its thread otherwise. Any code that feeds bytes and takes frames is a driver; no adapter is needed.
//!
//! ```sh
//! cargo run -p relay-proto --example sse_other_runtime
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use relay_proto::sse::{Decoder, Event, Frame};

fn main() {
    let pipe = Pipe::default();
    let writer = pipe.clone();
    let sender = thread::spawn(move || {
        for chunk in ["event: greeting\nda", "ta: hello\n\n", "data: and good", "bye\n\n"] {
            writer.send(Some(chunk.as_bytes()));
        }
        writer.send(None);
    });
    for event in block_on(decode(pipe)) {
        println!("{}: {}", event.kind(), event.data());
    }
    sender.join().expect("the sender does not panic");
}

/// The driver: it receives a chunk, feeds it, and takes all frames.
async fn decode(source: Pipe) -> Vec<Event> {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    while let Some(chunk) = source.receive().await {
        decoder.feed(chunk);
        while let Some(frame) = decoder.next_frame() {
            if let Frame::Event(event) = frame {
                events.push(event);
            }
        }
    }
    events
}

/// A pipe of chunks between a thread and a task; `None` is its end.
#[derive(Clone, Default)]
struct Pipe(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    chunks: VecDeque<Option<Vec<u8>>>,
    /// The waker of the task that waits for the next one.
    waker: Option<Waker>,
}

impl Pipe {
    fn send(&self, chunk: Option<&[u8]>) {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.chunks.push_back(chunk.map(<[u8]>::to_vec));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }

    async fn receive(&self) -> Option<Vec<u8>> {
        poll_fn(|context| {
            let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(chunk) = queue.chunks.pop_front() {
                return Poll::Ready(chunk);
            }
            queue.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// The runtime.
fn block_on<F: Future>(task: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut task = pin!(task);
    loop {
        match task.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_task_decodes_what_a_thread_sends() {
    let pipe = Pipe::default();
    let writer = pipe.clone();
    let sender = thread::spawn(move || {
        for byte in "event: e\ndata: one byte at a time\n\ndata: cut".as_bytes() {
            writer.send(Some(&[*byte]));
        }
        writer.send(None);
    });
    let events = block_on(decode(pipe));
    sender.join().unwrap();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.kind(), event.data()), ("e", "one byte at a time"));
}
