//! One scripted response: its bytes, their timing, and its end.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::gate::Gate;
use super::seed::Rng;

/// One answer of a script: a head, bytes in the given chunks, pauses between them, and an end.
///
/// Each `send` is one write to the socket, and the runtime runs once before the next one. So a reader on the same
/// runtime sees each chunk alone, if it keeps reading. A test that depends on this needs a [`Gate`] between the chunks.
///
/// After an answer with a known length, the connection stays open for the next request, as with real servers. An answer
/// without a length ends with a FIN after its last step.
#[derive(Debug, Clone)]
pub struct Reply {
    /// `None`: the script writes its own head, if any.
    status: Option<u16>,
    headers: Vec<(String, String)>,
    framing: Framing,
    steps: VecDeque<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Without a length: the end of the connection ends the body.
    UntilEnd,
    /// `Content-Length` of all that is sent.
    Length,
    /// `Content-Length` of this many bytes, whatever is sent.
    Declared(u64),
    /// `Transfer-Encoding: chunked`, one chunk per `send`.
    Chunked,
}

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Bytes),
    Delay(Duration),
    Hold(Gate),
    Fin,
    Reset,
    Silence,
}

/// What happens on the connection after a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next request may come.
    KeepAlive,
    Fin,
    Reset,
    Silence,
}

impl Reply {
    /// An answer with a body of known length.
    pub fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::with_framing(Some(status), Framing::Length).header("content-type", content_type).send(body)
    }

    /// A JSON answer.
    pub fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    /// An answer without a body, such as 204.
    pub fn empty(status: u16) -> Self {
        Self::with_framing(Some(status), Framing::Length)
    }

    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::empty(status).header("location", location)
    }

    /// A 200 event stream. The bytes that are sent are the body, and the end of the connection ends it.
    pub fn sse() -> Self {
        Self::with_framing(Some(200), Framing::UntilEnd)
            .header("content-type", "text/event-stream")
            .header("cache-control", "no-store")
    }

    /// Exact bytes from the first one on: the script writes the status line and the head itself.
    pub fn raw() -> Self {
        Self::with_framing(None, Framing::UntilEnd)
    }

    fn with_framing(status: Option<u16>, framing: Framing) -> Self {
        Self { status, headers: Vec::new(), framing, steps: VecDeque::new() }
    }

    /// Adds a header line; names and values are written as given.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Announces a body of `length` bytes, whatever is sent. If it is higher than the number of sent bytes, the body is
    /// cut short.
    #[must_use]
    pub fn declare_length(mut self, length: u64) -> Self {
        self.framing = Framing::Declared(length);
        self
    }

    /// Uses chunked transfer encoding: one chunk per `send`, and a last chunk when the script ends. After a cut there
    /// is no last chunk, which is how a client distinguishes the two.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends bytes in one write. An empty chunk has no effect.
    #[must_use]
    pub fn send(self, bytes: impl Into<Bytes>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    /// Sends bytes in writes of `size` bytes.
    ///
    /// # Panics
    /// When `size` is 0.
    #[must_use]
    pub fn send_in(mut self, size: usize, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        for chunk in bytes.chunks(size) {
            self = self.send(bytes.slice_ref(chunk));
        }
        self
    }

    /// Sends bytes in writes of 1 to `most` bytes, chosen by the seed.
    #[must_use]
    pub fn send_split(mut self, seed: u64, most: usize, bytes: impl Into<Bytes>) -> Self {
        let (mut rng, mut bytes) = (Rng::new(seed), bytes.into());
        while !bytes.is_empty() {
            let size = 1 + rng.below(most as u64) as usize;
            self = self.send(bytes.split_to(size.min(bytes.len())));
        }
        self
    }

    /// Waits on tokio's time.
    #[must_use]
    pub fn delay(self, time: Duration) -> Self {
        self.step(Step::Delay(time))
    }

    /// Waits until the gate is open.
    #[must_use]
    pub fn hold(self, gate: &Gate) -> Self {
        self.step(Step::Hold(gate.clone()))
    }

    /// Ends the connection with a FIN at this point.
    #[must_use]
    pub fn cut(self) -> Self {
        self.step(Step::Fin)
    }

    /// Ends the connection with an RST. Bytes that the reader has not read by then may be lost.
    #[must_use]
    pub fn reset(self) -> Self {
        self.step(Step::Reset)
    }

    /// Sends nothing more and never ends, like a peer that has disappeared without a FIN.
    #[must_use]
    pub fn silence(self) -> Self {
        self.step(Step::Silence)
    }

    /// Takes over the steps of a body that was made elsewhere.
    pub(crate) fn step(mut self, step: Step) -> Self {
        self.steps.push_back(step);
        self
    }

    /// The whole script of the connection, including the head, and what happens after it.
    fn compile(mut self) -> (VecDeque<Step>, Next) {
        let cut = self.steps.iter().position(|step| matches!(step, Step::Fin | Step::Reset | Step::Silence));
        let next = match (cut.map(|at| &self.steps[at]), self.framing) {
            (Some(Step::Reset), _) => Next::Reset,
            (Some(Step::Silence), _) => Next::Silence,
            (Some(_), _) | (None, Framing::UntilEnd) => Next::Fin,
            (None, _) => Next::KeepAlive,
        };
        let total: usize =
            self.steps.iter().map(|step| if let Step::Send(b) = step { b.len() } else { 0 }).sum();
        self.steps.truncate(cut.unwrap_or(usize::MAX));
        if self.framing == Framing::Chunked {
            for step in &mut self.steps {
                if let Step::Send(bytes) = step {
                    let mut chunk = BytesMut::from(format!("{:x}\r\n", bytes.len()).as_bytes());
                    chunk.extend_from_slice(bytes);
                    chunk.extend_from_slice(b"\r\n");
                    *bytes = if bytes.is_empty() { Bytes::new() } else { chunk.freeze() };
                }
            }
            if cut.is_none() {
                self.steps.push_back(Step::Send(Bytes::from_static(b"0\r\n\r\n")));
            }
        }
        let framing = match self.framing {
            Framing::UntilEnd => String::new(),
            Framing::Length => format!("content-length: {total}\r\n"),
            Framing::Declared(length) => format!("content-length: {length}\r\n"),
            Framing::Chunked => "transfer-encoding: chunked\r\n".into(),
        };
        if let Some(status) = self.status {
            let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
            for (name, value) in &self.headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str(&framing);
            head.push_str("\r\n");
            self.steps.push_front(Step::Send(head.into()));
        }
        (self.steps, next)
    }

    /// Plays the script; `Err` if the client is gone.
    pub(crate) async fn play(self, socket: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<Next> {
        let (steps, next) = self.compile();
        for step in steps {
            match step {
                Step::Send(bytes) if bytes.is_empty() => {}
                Step::Send(bytes) => {
                    socket.write_all(&bytes).await?;
                    socket.flush().await?;
                    tokio::task::yield_now().await;
                }
                Step::Delay(time) => tokio::time::sleep(time).await,
                Step::Hold(gate) => gate.pass().await,
                Step::Fin | Step::Reset | Step::Silence => break,
            }
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(reply: Reply) -> (String, Next) {
        let mut out = Vec::new();
        let next = reply.play(&mut out).await.unwrap();
        (String::from_utf8(out).unwrap(), next)
    }

    #[tokio::test]
    async fn heads_and_framings() {
        for (reply, expected, next) in [
            (
                Reply::new(200, "text/plain", "hello"),
                "HTTP/1.1 200 Scripted\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello",
                Next::KeepAlive,
            ),
            (
                Reply::new(200, "a/b", "hello").declare_length(9).cut(),
                "HTTP/1.1 200 Scripted\r\ncontent-type: a/b\r\ncontent-length: 9\r\n\r\nhello",
                Next::Fin,
            ),
            (
                Reply::redirect(302, "/x"),
                "HTTP/1.1 302 Scripted\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
                Next::KeepAlive,
            ),
            (
                Reply::sse().chunked().send("ab").send("").send("c"),
                "HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                 transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                Next::KeepAlive,
            ),
            (
                Reply::sse().chunked().send("ab").reset().send("never"),
                "HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\n\
                 transfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
                Next::Reset,
            ),
            (Reply::raw().send("anything").silence(), "anything", Next::Silence),
            (Reply::raw().send("anything"), "anything", Next::Fin),
        ] {
            assert_eq!(written(reply).await, (expected.to_owned(), next));
        }
    }

    #[test]
    fn bodies_are_split_as_asked() {
        let chunks = |reply: Reply| -> Vec<usize> {
            let (steps, _) = reply.compile();
            steps.iter().map(|step| if let Step::Send(bytes) = step { bytes.len() } else { 0 }).collect()
        };
        assert_eq!(chunks(Reply::raw().send_in(2, "abcde")), [2, 2, 1]);
        let split = chunks(Reply::raw().send_split(1, 3, "x".repeat(50)));
        assert_eq!(split.iter().sum::<usize>(), 50);
        assert!((1..=3).all(|size| split.contains(&size)), "{split:?}");
        assert_eq!(split, chunks(Reply::raw().send_split(1, 3, "x".repeat(50))));
        assert_ne!(split, chunks(Reply::raw().send_split(2, 3, "x".repeat(50))));
    }
}
