//! Reading a stream as values, texts or bytes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use relay_proto::durable::{Checkpoint, Content, End, Piece, ReaderConfig};
use serde::de::DeserializeOwned;

use crate::{DurableStream, Error, ErrorKind, ReadEvent, Reads};

/// An item of a read: data with its checkpoint, or the end.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Delivery<C> {
    /// Data.
    Batch(Batch<C>),
    /// The end, which is the last item. A closed stream has no more; one that is only up to date may.
    End(End),
}

/// Data of a stream, and where it ends.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Batch<C> {
    /// The data; empty in a batch that only reports that the reader is up to date.
    pub items: C,
    /// The checkpoint after it.
    pub checkpoint: Checkpoint,
    /// Whether the checkpoint's offset covers all of it; otherwise the checkpoint counts the data after its offset.
    pub whole: bool,
    /// Everything that existed at the time was given out.
    pub up_to_date: bool,
    /// The stream ends here: an [`End::Closed`] follows.
    pub closed: bool,
}

impl<C> Delivery<C> {
    /// The data, if it is that.
    pub fn batch(self) -> Option<Batch<C>> {
        match self {
            Self::Batch(batch) => Some(batch),
            Self::End(_) => None,
        }
    }
}

type Convert<C> = fn(&DurableStream, Content, &Checkpoint) -> Result<C, Error>;

/// Like [`Reads`], for one kind of data: values of a type, texts of messages, or bytes. Ends after
/// [`Delivery::End`] or one error; retries are not reported.
pub struct Batches<C> {
    reads: Reads,
    convert: Convert<C>,
}

impl DurableStream {
    /// Reads a JSON stream from a checkpoint on, as values of a type.
    pub fn read_json<T: DeserializeOwned>(&self, config: ReaderConfig, from: Checkpoint) -> Batches<Vec<T>> {
        Batches::json(self.read(config, from))
    }

    /// Reads a JSON stream from a checkpoint on, as the text of each message.
    pub fn read_raw(&self, config: ReaderConfig, from: Checkpoint) -> Batches<Vec<Bytes>> {
        Batches::raw(self.read(config, from))
    }

    /// Reads any other stream from a checkpoint on, as bytes. They may be cut within a character.
    pub fn read_bytes(&self, config: ReaderConfig, from: Checkpoint) -> Batches<Bytes> {
        Batches::bytes(self.read(config, from))
    }
}

impl<C> Batches<C> {
    fn new(reads: Reads, convert: Convert<C>) -> Self {
        Self { reads, convert }
    }

    /// The checkpoint after everything given out so far.
    pub fn position(&self) -> &Checkpoint {
        self.reads.position()
    }

    fn batch(&self, piece: Piece) -> Result<Batch<C>, Error> {
        Ok(Batch {
            items: (self.convert)(&self.reads.stream, piece.content, &piece.checkpoint)?,
            checkpoint: piece.checkpoint,
            whole: piece.whole,
            up_to_date: piece.up_to_date,
            closed: piece.closed,
        })
    }
}

impl<T: DeserializeOwned> Batches<Vec<T>> {
    pub(crate) fn json(reads: Reads) -> Self {
        Self::new(reads, |stream, content, checkpoint| {
            let wrong = |error: serde_json::Error| {
                let what = format!("malformed before offset {}: {error}", checkpoint.offset);
                Error::new(ErrorKind::Malformed, stream.url(), what)
            };
            let messages = messages(stream, content)?;
            messages.iter().map(|message| serde_json::from_slice(message).map_err(wrong)).collect()
        })
    }
}

impl Batches<Vec<Bytes>> {
    pub(crate) fn raw(reads: Reads) -> Self {
        Self::new(reads, |stream, content, _| messages(stream, content))
    }
}

impl Batches<Bytes> {
    pub(crate) fn bytes(reads: Reads) -> Self {
        Self::new(reads, |stream, content, _| match content {
            Content::Bytes(bytes) => Ok(bytes),
            Content::Messages(messages) if messages.is_empty() => Ok(Bytes::new()),
            Content::Messages(_) => {
                let what = "it is a stream of JSON messages: read_json and read_raw read those";
                Err(Error::new(ErrorKind::ContentType, stream.url(), what))
            }
        })
    }
}

fn messages(stream: &DurableStream, content: Content) -> Result<Vec<Bytes>, Error> {
    match content {
        Content::Messages(messages) => Ok(messages),
        Content::Bytes(bytes) if bytes.is_empty() => Ok(Vec::new()),
        Content::Bytes(_) => {
            let what = "it is not a stream of JSON messages: read_bytes reads it";
            Err(Error::new(ErrorKind::ContentType, stream.url(), what))
        }
    }
}

impl<C> Stream for Batches<C> {
    type Item = Result<Delivery<C>, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            return Poll::Ready(match std::task::ready!(Pin::new(&mut this.reads).poll_next(cx)) {
                Some(Ok(ReadEvent::Piece(piece))) => {
                    let batch = this.batch(piece);
                    this.reads.done |= batch.is_err();
                    Some(batch.map(Delivery::Batch))
                }
                Some(Ok(ReadEvent::Retry(_))) => continue,
                Some(Ok(ReadEvent::End(end))) => Some(Ok(Delivery::End(end))),
                Some(Err(error)) => Some(Err(error)),
                None => None,
            });
        }
    }
}

impl<C> fmt::Debug for Batches<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Batches").field(&self.reads).finish()
    }
}
