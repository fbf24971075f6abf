//! Decodes an event stream from a file, or standard input, with nothing but `std::io::Read`.
//!
//! ```sh
//! cargo run -p relay-proto --example sse_read -- events.txt
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example shows what it does")]

use std::fs::File;
use std::io::{self, Read};

use relay_proto::sse::{Decoder, Frame};

fn main() -> io::Result<()> {
    match std::env::args().nth(1) {
        Some(path) => decode(File::open(path)?, print),
        None => decode(io::stdin().lock(), print),
    }
}

fn print(frame: Frame) {
    match frame {
        Frame::Event(event) => println!("{} [{}] {}", event.kind(), event.last_event_id(), event.data()),
        Frame::Comment(comment) => println!("comment:{}", comment.text()),
        Frame::Retry(delay) => println!("reconnect after {delay:?}"),
        Frame::Oversized(over) => eprintln!("skipped {} bytes: over the {} limit", over.size(), over.limit()),
        _ => {}
    }
}

/// Reads to the end and hands over every frame.
fn decode(mut input: impl Read, mut on_frame: impl FnMut(Frame)) -> io::Result<()> {
    let mut decoder = Decoder::default();
    let mut buffer = [0; 16 << 10];
    loop {
        let length = match input.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        decoder.feed_slice(&buffer[..length]);
        while let Some(frame) = decoder.next_frame() {
            on_frame(frame);
        }
    }
}

#[test]
fn a_file_is_decoded() {
    use std::io::{Seek as _, Write as _};
    let mut file = tempfile::tempfile().unwrap();
    file.write_all("id: 1\ndata: a\n\n:b\ndata: cut off".as_bytes()).unwrap();
    file.rewind().unwrap();
    let mut seen = Vec::new();
    decode(file, |frame| seen.push(frame)).unwrap();
    let [Frame::Event(event), Frame::Comment(comment)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((event.data(), event.last_event_id(), comment.text()), ("a", "1", "b"));
}
