//! An event stream as an iterator, so that everything iterators can do can be done with events.
//!
//! ```sh
//! printf 'data: 1\n\ndata: 2\n\n' | cargo run -p relay-proto --example sse_iterator
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::{self, Read};

use relay_proto::sse::{Decoder, Event, Frame};

fn main() -> io::Result<()> {
    for event in Events::new(io::stdin().lock()) {
        println!("{}", event?.data());
    }
    Ok(())
}

/// The events of a stream; other frames are passed over.
struct Events<R> {
    input: R,
    decoder: Decoder,
}

impl<R: Read> Events<R> {
    fn new(input: R) -> Self {
        Self { input, decoder: Decoder::default() }
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = io::Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut buffer = [0; 4096];
        loop {
            while let Some(frame) = self.decoder.next_frame() {
                if let Frame::Event(event) = frame {
                    return Some(Ok(event));
                }
            }
            match self.input.read(&mut buffer) {
                Ok(0) => return None,
                Ok(length) => self.decoder.feed_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

#[test]
fn events_are_iterated() {
    let stream = "data: 1\n\n: comment\n\ndata: 2\n\ndata: 3\n\n";
    let sum: u32 =
        Events::new(stream.as_bytes()).map(|event| event.unwrap().data().parse::<u32>().unwrap()).sum();
    assert_eq!(sum, 6);
    let kept: Vec<Event> = Events::new(stream.as_bytes()).map(Result::unwrap).skip(1).collect();
    assert_eq!(kept.iter().map(Event::data).collect::<Vec<_>>(), ["2", "3"]);
}
