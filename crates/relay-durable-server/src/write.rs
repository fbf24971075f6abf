//! Requests that write: PUT and POST.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use relay_log::Error;
use relay_proto::durable::{ArraySplitter, MAX_NUMBER};
use relay_proto::time::Timestamp;
use relay_transport::server::Body;

use crate::answer::{plain, refuse, set, tail};
use crate::fold::{About, Fork, Position, Verdict};
use crate::handler::{Handler, Refused, broken, no};
use crate::record::Head;
use crate::streams::Stream;

impl Handler {
    pub(crate) async fn put(&self, head: &Parts, body: Bytes) -> Result<Response<Body>, Refused> {
        let path = head.uri.path();
        let headers = &head.headers;
        let (ttl, expires_at) = expiry(headers)?;
        let closed = is_true(text(headers, "stream-closed")?);
        let asked = text(headers, "content-type")?.filter(|kind| !kind.trim().is_empty());
        let _changing = self.stream_changing().await;
        let fork = match text(headers, "stream-forked-from")? {
            Some(from) => Some(self.fork_source(headers, from).await?),
            None if headers.contains_key("stream-fork-offset")
                || headers.contains_key("stream-fork-sub-offset") =>
            {
                return Err(no(400, "Stream-Fork-Offset needs Stream-Forked-From"));
            }
            None => None,
        };
        let inherited =
            fork.as_ref().and_then(|(source, ..)| source.as_ref()).map(|source| source.about.clone());
        let kind = match (asked, &inherited) {
            (Some(kind), _) => kind.to_owned(),
            (None, Some(source)) => source.content_type.clone(),
            (None, None) => "application/octet-stream".to_owned(),
        };
        let mut about = About {
            content_type: kind,
            ttl,
            expires_at,
            born_closed: closed,
            fork: fork.as_ref().map(|(_, fork)| fork.clone()),
            ..About::default()
        };
        if let Some(source) = inherited.filter(|_| about.ttl.is_none() && about.expires_at.is_none()) {
            (about.ttl, about.expires_at) = (source.ttl, source.expires_at);
        }
        if let Some(existing) = self.existing(path).await? {
            return self.compare(&existing, &about);
        }
        let (messages, data) = match (about.is_json(), body.is_empty()) {
            (_, true) => (0, Bytes::new()),
            (true, false) => json(&body, true)?,
            (false, false) => (0, body),
        };
        let first = (!data.is_empty()).then(|| (Head { messages, ..Head::default() }, data));
        let stream = match fork {
            Some((None, _)) => return Err(no(404, "there is no such stream to fork")),
            Some((Some(source), asked)) => self.forked(&source, path, about, &asked, first).await?,
            None => self.streams.create(path, about, first).await.map_err(refused)?,
        };
        stream.touch();
        let mut answer = plain(StatusCode::CREATED, "");
        tail(&mut answer, &stream.state());
        set(&mut answer, "content-type", &stream.about.content_type);
        let host = text(headers, "host")?.map_or_else(String::new, |host| format!("http://{host}"));
        set(&mut answer, "location", &format!("{host}{path}"));
        Ok(answer)
    }

    async fn stream_changing(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.streams.changing.lock().await
    }

    /// The existing stream.
    async fn existing(&self, path: &str) -> Result<Option<Arc<Stream>>, Refused> {
        let existing = self.streams.get_unlocked(path).await.map_err(refused)?;
        if existing.as_ref().is_some_and(|stream| stream.state().deleted) {
            return Err(no(409, "the stream is deleted, but for its forks"));
        }
        Ok(existing)
    }

    fn compare(&self, existing: &Stream, about: &About) -> Result<Response<Body>, Refused> {
        let known = &existing.about;
        let same_fork = match (&known.fork, &about.fork) {
            (Some(known), Some(asked)) => {
                (&known.from, &known.offset, known.sub_offset)
                    == (&asked.from, &asked.offset, asked.sub_offset)
            }
            (known, asked) => known.is_none() && asked.is_none(),
        };
        let same = same_fork
            && media_type(&known.content_type) == media_type(&about.content_type)
            && known.ttl == about.ttl
            && known.expires_at == about.expires_at
            && existing.state().closed == about.born_closed;
        if !same {
            return Err(no(409, "the stream exists with another configuration"));
        }
        let mut answer = plain(StatusCode::OK, "");
        tail(&mut answer, &existing.state());
        set(&mut answer, "content-type", &known.content_type);
        Ok(answer)
    }

    /// The source of a fork, if it exists, and the requested position.
    async fn fork_source(
        &self,
        headers: &HeaderMap,
        from: &str,
    ) -> Result<(Option<Arc<Stream>>, Fork), Refused> {
        let offset = text(headers, "stream-fork-offset")?.map(ToOwned::to_owned);
        let sub_offset = match text(headers, "stream-fork-sub-offset")? {
            Some(sub) => number(sub)
                .map(|sub| Some(sub).filter(|sub| *sub > 0))
                .ok_or_else(|| no(400, "Stream-Fork-Sub-Offset is a count"))?,
            None => None,
        };
        let source = self.streams.get_unlocked(from).await.map_err(refused)?;
        Ok((source, Fork { from: from.to_owned(), offset, sub_offset, shared: 0 }))
    }

    async fn forked(
        &self,
        source: &Arc<Stream>,
        path: &str,
        mut about: About,
        asked: &Fork,
        first: Option<(Head, Bytes)>,
    ) -> Result<Arc<Stream>, Refused> {
        if source.state().deleted {
            return Err(no(409, "the source is deleted, but for its forks"));
        }
        if media_type(&about.content_type) != media_type(&source.about.content_type) {
            return Err(no(409, "a fork has the content type of its source"));
        }
        let end = source.state().tail;
        let at = match asked.offset.as_deref() {
            None | Some("now") => end,
            Some("-1") => Position::default(),
            Some(text) => {
                Position::parse(text).ok_or_else(|| no(400, "Stream-Fork-Offset is not an offset"))?
            }
        };
        if at > end {
            return Err(no(400, "Stream-Fork-Offset is behind the end of the source"));
        }
        let (shared, rest) = self.divided(source, at, asked.sub_offset.unwrap_or(0)).await?;
        if let Some(fork) = &mut about.fork {
            fork.shared = shared;
        }
        let own = rest.into_iter().chain(first).collect();
        self.streams.fork(source, path, about, own).await.map_err(refused)
    }

    /// The number of entries before a position plus a number of messages or bytes, and the rest of the next one.
    async fn divided(
        &self,
        source: &Stream,
        at: Position,
        sub: u64,
    ) -> Result<(u64, Option<(Head, Bytes)>), Refused> {
        let json_stream = source.about.is_json();
        let (mut position, mut left) = (at, sub);
        let beyond = || no(400, "Stream-Fork-Sub-Offset is behind the end of the source");
        while left > 0 {
            let part = source.read(position, 1).await.map_err(refused)?;
            let Some(data) = part.data.first() else { return Err(beyond()) };
            let units = if json_stream { split(data)? } else { Vec::new() };
            let count = if json_stream { units.len() as u64 } else { data.len() as u64 };
            if count > left {
                let kept = usize::try_from(left).unwrap_or(usize::MAX);
                let rest: Bytes =
                    if json_stream { units[..kept].join(&b","[..]).into() } else { data.slice(..kept) };
                let messages = if json_stream { left } else { 0 };
                return Ok((position.entry, Some((Head { messages, ..Head::default() }, rest))));
            }
            left -= count;
            // One record at a time: move to the position after the first remaining record.
            position = source.after(position).await.map_err(refused)?;
        }
        Ok((position.entry, None))
    }

    pub(crate) async fn post(&self, head: &Parts, body: Bytes) -> Result<Response<Body>, Refused> {
        let stream = self.stream(head).await?;
        let headers = &head.headers;
        let close = is_true(text(headers, "stream-closed")?);
        let producer = producer(headers)?;
        if body.is_empty() && !close {
            return Err(no(400, "the body is empty"));
        }
        let kind = text(headers, "content-type")?.filter(|kind| !kind.trim().is_empty());
        if !body.is_empty() && kind.is_none() {
            return Err(no(400, "Content-Type is missing"));
        }
        let _writing = stream.writing.lock().await;
        stream.touch();
        let (is_deleted, is_closed, known_seq) = {
            let state = stream.state();
            (state.deleted, state.closed, state.seq.clone())
        };
        if is_deleted {
            return Err(no(410, "the stream is deleted"));
        }
        if is_closed {
            return closed(&stream, producer.as_ref(), body.is_empty());
        }
        if let Some(kind) = kind.filter(|_| !body.is_empty())
            && media_type(kind) != media_type(&stream.about.content_type)
        {
            return Err(no(409, "the stream has another content type"));
        }
        if let Some(producer) = &producer
            && let Some(answer) = judged(&stream, producer)
        {
            return answer;
        }
        let seq = text(headers, "stream-seq")?;
        if let (Some(seq), Some(known)) = (seq, &known_seq)
            && seq.as_bytes() <= known.as_bytes()
        {
            return Err(no(409, "sequence conflict: Stream-Seq does not grow"));
        }
        let (messages, data) = match (stream.about.is_json(), body.is_empty()) {
            (_, true) => (0, Bytes::new()),
            (true, false) => json(&body, false)?,
            (false, false) => (0, body),
        };
        let record = Head {
            messages,
            producer: producer.clone(),
            seq: seq.map(ToOwned::to_owned),
            close,
            deleted: false,
        };
        let has_data = !data.is_empty();
        stream.append(record, data).await.map_err(refused)?;
        let status = if producer.is_some() && has_data { StatusCode::OK } else { StatusCode::NO_CONTENT };
        let mut answer = plain(status, "");
        tail(&mut answer, &stream.state());
        if let Some((_, epoch, seq)) = &producer {
            numbers(&mut answer, *epoch, *seq);
        }
        Ok(answer)
    }
}

fn numbers(answer: &mut Response<Body>, epoch: u64, seq: u64) {
    set(answer, "producer-epoch", &epoch.to_string());
    set(answer, "producer-seq", &seq.to_string());
}

/// The response to a write on a closed stream.
fn closed(
    stream: &Stream,
    producer: Option<&(String, u64, u64)>,
    only_closes: bool,
) -> Result<Response<Body>, Refused> {
    let state = stream.state();
    let again = producer.is_some_and(|(id, epoch, seq)| state.was_closed_by(id, *epoch, *seq));
    let mut answer = if again || (only_closes && producer.is_none()) {
        plain(StatusCode::NO_CONTENT, "")
    } else {
        refuse(409, "the stream is closed")
    };
    tail(&mut answer, &state);
    if let Some((_, epoch, seq)) = producer.filter(|_| again) {
        numbers(&mut answer, *epoch, *seq);
    }
    Ok(answer)
}

/// The response to a producer whose append is refused.
fn judged(stream: &Stream, (id, epoch, seq): &(String, u64, u64)) -> Option<Result<Response<Body>, Refused>> {
    let state = stream.state();
    Some(match state.judge(id, *epoch, *seq) {
        Verdict::Accept => return None,
        Verdict::Duplicate { last } => {
            let mut answer = plain(StatusCode::NO_CONTENT, "");
            tail(&mut answer, &state);
            numbers(&mut answer, *epoch, last);
            Ok(answer)
        }
        Verdict::Stale { epoch } => {
            let mut answer = refuse(403, "a newer epoch of the producer is known");
            set(&mut answer, "producer-epoch", &epoch.to_string());
            Ok(answer)
        }
        Verdict::NotZero => Err(no(400, "a new epoch begins with sequence 0")),
        Verdict::Gap { expected } => {
            let mut answer = refuse(409, "sequence gap");
            set(&mut answer, "producer-expected-seq", &expected.to_string());
            set(&mut answer, "producer-received-seq", &seq.to_string());
            Ok(answer)
        }
    })
}

fn refused(error: Error) -> Refused {
    match error {
        Error::NotFound { .. } => no(404, "the stream was deleted"),
        Error::BadName(bad) => no(400, bad.rule),
        Error::BadBatch { what, rule } => no(413, &format!("{what}: {rule}")),
        error => broken(error),
    }
}

/// A header that may be given once.
fn text<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Refused> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    value.to_str().map(Some).map_err(|_| no(400, &format!("{name} is not text")))
}

fn is_true(value: Option<&str>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

fn media_type(kind: &str) -> String {
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A number without sign, point, exponent or leading zero.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain && !text.is_empty())
}

fn expiry(headers: &HeaderMap) -> Result<(Option<u64>, Option<String>), Refused> {
    let ttl = text(headers, "stream-ttl")?;
    let at = text(headers, "stream-expires-at")?;
    match (ttl, at) {
        (Some(_), Some(_)) => Err(no(400, "Stream-TTL and Stream-Expires-At exclude each other")),
        (Some(ttl), None) => number(ttl)
            .map(|ttl| (Some(ttl), None))
            .ok_or_else(|| no(400, "Stream-TTL is a whole number of seconds")),
        (None, Some(at)) => match Timestamp::new(at).unix_millis() {
            Some(_) => Ok((None, Some(at.to_owned()))),
            None => Err(no(400, "Stream-Expires-At is a time as in RFC 3339")),
        },
        (None, None) => Ok((None, None)),
    }
}

fn producer(headers: &HeaderMap) -> Result<Option<(String, u64, u64)>, Refused> {
    let (id, epoch, seq) =
        (text(headers, "producer-id")?, text(headers, "producer-epoch")?, text(headers, "producer-seq")?);
    match (id, epoch, seq) {
        (None, None, None) => Ok(None),
        (Some(id), Some(epoch), Some(seq)) if !id.is_empty() => {
            let number = |text| number(text).filter(|number| *number <= MAX_NUMBER);
            match (number(epoch), number(seq)) {
                (Some(epoch), Some(seq)) => Ok(Some((id.to_owned(), epoch, seq))),
                _ => Err(no(400, "Producer-Epoch and Producer-Seq are numbers from 0 to 2^53-1")),
            }
        }
        _ => Err(no(
            400,
            "Producer-Id, Producer-Epoch and Producer-Seq belong together, and the id is not empty",
        )),
    }
}

/// The messages of a body for storing: an array is flattened by one level.
fn json(body: &Bytes, may_be_empty: bool) -> Result<(u64, Bytes), Refused> {
    let bad = |why: &str| no(400, &format!("the body is not JSON: {why}"));
    let text = std::str::from_utf8(body).map_err(|_| bad("it is not UTF-8"))?;
    if !text.trim_start().starts_with('[') {
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|error| bad(&error.to_string()))?;
        return Ok((1, body.slice_ref(body.trim_ascii())));
    }
    let messages = messages(body.clone()).map_err(|error| bad(&error.to_string()))?;
    if messages.is_empty() && !may_be_empty {
        return Err(no(400, "the array is empty"));
    }
    Ok((messages.len() as u64, messages.join(&b","[..]).into()))
}

/// The messages of a record.
fn split(data: &Bytes) -> Result<Vec<Bytes>, Refused> {
    let array = [&b"["[..], data, b"]"].concat();
    messages(array.into()).map_err(|error| no(503, &format!("a record is damaged: {error}")))
}

fn messages(array: Bytes) -> Result<Vec<Bytes>, relay_proto::durable::ArrayError> {
    let mut splitter = ArraySplitter::new(usize::MAX);
    splitter.feed(array);
    let mut messages = Vec::new();
    while let Some(message) = splitter.next_message()? {
        messages.push(message);
    }
    splitter.finish()?;
    Ok(messages)
}
