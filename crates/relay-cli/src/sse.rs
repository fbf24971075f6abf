//! `relay sse`: any event stream, over any number of connections.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use relay_proto::eventsource::{Cause, Config, Item, Stop};
use relay_proto::http::without_userinfo;
use relay_proto::problem::Problem;
use relay_proto::sse::{Event, Frame};
use relay_state::files::LockedFile;
use relay_transport::EventStream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::args::SseArgs;
use crate::exit::{Exit, NeverConnected, NoStream, Usage};
use crate::follow::Ending;
use crate::outage::in_time;
use crate::output::{Column, Output, Text, Tone, escaped, note};

const COLUMNS: &[Column] =
    &[Column::new("EVENT").least(12), Column::new("ID").least(8).dispensable(1), Column::sentence("DATA")];

pub(crate) async fn sse(args: SseArgs) -> anyhow::Result<Exit> {
    let request = request(&args)?;
    let url = shown(&args.url);
    let mut cursor = args.cursor_file.as_deref().map(|path| IdFile::open(path, &url)).transpose()?;
    let loaded = cursor.as_ref().map(|cursor| cursor.saved.clone()).unwrap_or_default();
    if args.last_event_id.is_some() && !loaded.is_empty() {
        note("--last-event-id is given: the id in the cursor file is not used");
    }
    let (base, cap) = args.reconnect.delays();
    let mut config = Config::default();
    (config.base, config.cap) = (base, cap);
    config.idle = Some(args.idle_timeout).filter(|idle| !idle.is_zero());
    config.last_event_id = args.last_event_id.clone().unwrap_or(loaded);
    let http = args.transport.http().build()?;
    let stream = EventStream::new(http, config, move |_| Box::pin(std::future::ready(Ok(request.clone()))));
    let mut out = Output::new(args.print);
    out.table(COLUMNS);
    let exit = follow(&args, &url, stream, &mut out, cursor.as_mut()).await;
    // Whatever ended the command, printed events must not come again.
    if let Some(cursor) = &mut cursor {
        cursor.write()?;
    }
    exit
}

async fn follow(
    args: &SseArgs,
    url: &str,
    mut stream: EventStream,
    out: &mut Output,
    mut cursor: Option<&mut IdFile>,
) -> anyhow::Result<Exit> {
    let mut ending = Ending::new(args.until);
    let (mut retry, mut connected, mut why) = (None, false, String::from("no answer yet"));
    while !ending.reached(out) {
        let due = cursor.as_ref().and_then(|cursor| cursor.due());
        let item = tokio::select! {
            item = stream.next() => item,
            exit = ending.wait() => {
                return match exit {
                    Exit::Done if !connected => Err(NeverConnected(format!("{url}: {why}")).into()),
                    exit => Ok(exit),
                };
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some(cursor) = &mut cursor {
                    cursor.write()?;
                }
                continue;
            }
        };
        match item {
            None | Some(Err(Stop::Closed)) => return Ok(Exit::Done),
            Some(Err(Stop::NoContent)) => {
                note(&format!("{url}: the server has nothing more to send (204)"));
                return Ok(Exit::Done);
            }
            Some(Err(Stop::Status { status, body })) => {
                let problem = Problem::from_body(status, &body);
                let detail = problem.code.is_some().then_some(problem.detail.or(problem.title)).flatten();
                return Err(NoStream { url: url.into(), status, detail }.into());
            }
            Some(Err(stop)) => return Err(anyhow::Error::new(stop).context(url.to_owned())),
            Some(Ok(Item::Opened)) => {
                connected = true;
                if args.verbose {
                    note(&format!("{url}: connected"));
                    // The log line must come before the first event, which does not go through the log.
                    crate::log::flush();
                }
            }
            Some(Ok(Item::Ended(ended))) => {
                // By the standard, an answer that is not an event stream is final.
                if let Cause::ContentType(_) = ended.cause {
                    let detail = Some(ended.cause.to_string());
                    return Err(NoStream { url: url.into(), status: 200, detail }.into());
                }
                let delay = ended.retry_at.saturating_sub(stream.now());
                why = ended.cause.to_string();
                note(&format!("{url}: {why}; next try {}", in_time(delay)));
            }
            Some(Ok(Item::Frame(Frame::Event(event)))) => {
                stream.progress();
                let wanted = args.events.is_empty() || args.events.iter().any(|name| name == event.kind());
                if wanted {
                    print(args, out, &event, retry.take())?;
                }
                if let Some(cursor) = &mut cursor {
                    cursor.waiting = event.last_event_id().to_owned();
                }
            }
            Some(Ok(Item::Frame(Frame::Comment(comment)))) if args.verbose => {
                note(&format!("comment: {}", comment.text().trim()));
            }
            Some(Ok(Item::Frame(Frame::Retry(time)))) => retry = Some(time),
            Some(Ok(Item::Frame(Frame::Oversized(event)))) => {
                note(&format!("{url}: an event of {} bytes is too large and was skipped", event.size()));
            }
            Some(Ok(_)) => {}
        }
    }
    Ok(Exit::Done)
}

fn print(args: &SseArgs, out: &mut Output, event: &Event, retry: Option<Duration>) -> anyhow::Result<()> {
    if args.data {
        let mut stdout = std::io::stdout().lock();
        let data = if stdout.is_terminal() {
            event.data().split('\n').map(escaped).collect::<Vec<_>>().join("\n")
        } else {
            event.data().to_owned()
        };
        writeln!(stdout, "{data}").and_then(|()| stdout.flush())?;
        out.lines += 1;
        return Ok(());
    }
    let parsed = || serde_json::from_str::<Value>(event.data()).ok();
    out.row(
        String::new,
        || {
            let data = Some(()).filter(|()| args.parse).and_then(|()| parsed());
            json!({
                "event": event.kind(),
                "id": event.last_event_id(),
                "data": data.unwrap_or_else(|| event.data().into()),
                "retry": retry.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            })
        },
        || vec![Tone::Strong.text(event.kind()), event.last_event_id().into(), Text::from(event.data())],
    )
}

fn request(args: &SseArgs) -> Result<Request<Full<Bytes>>, Usage> {
    let usual = if args.body.is_some() { Method::POST } else { Method::GET };
    let method = match &args.method {
        Some(method) => Method::from_bytes(method.as_bytes())
            .map_err(|_| Usage(format!("--request {method:?} is not a method")))?,
        None => usual,
    };
    let wrong = || {
        Usage(format!("{}: not an address; write http://HOST/PATH or https://HOST/PATH", shown(&args.url)))
    };
    let body = args.body.clone().unwrap_or_default();
    let mut request = Request::builder()
        .method(method)
        .uri(&args.url)
        .body(Full::new(Bytes::from(body.clone())))
        .map_err(|_| wrong())?;
    if !matches!(request.uri().scheme_str(), Some("http" | "https")) || request.uri().host().is_none() {
        return Err(wrong());
    }
    if request.uri().authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Usage(format!(
            "{}: it has a user name; give credentials as a header: -H 'Authorization: Basic BASE64' or \
             'Authorization: Bearer TOKEN'",
            shown(&args.url)
        )));
    }
    if let Some(id) = args.last_event_id.as_deref().filter(|id| HeaderValue::from_str(id).is_err()) {
        return Err(Usage(format!("--last-event-id {id:?}: an id without control characters")));
    }
    if args.body.as_ref().is_some_and(|body| body.starts_with('@')) {
        note("the body is sent as it stands, as @ is not special; for a file: -d \"$(cat FILE)\"");
    }
    let mut headers = HeaderMap::new();
    for header in &args.headers {
        let rule = || Usage("--header: 'Name: value', with a colon and without control characters".into());
        let (name, value) = header.split_once(':').ok_or_else(rule)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| rule())?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| rule())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    if args.body.is_some() && !headers.contains_key(CONTENT_TYPE) {
        let json = serde_json::from_str::<serde::de::IgnoredAny>(&body).is_ok();
        let kind = if json { "application/json" } else { "text/plain; charset=utf-8" };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    *request.headers_mut() = headers;
    Ok(request)
}

/// The URL without the parts that may be secret.
fn shown(url: &str) -> String {
    without_userinfo(url.split(['?', '#']).next().unwrap_or_default())
}

/// The last event id, which is saved at most every 100 ms, and at the end.
struct IdFile {
    file: LockedFile,
    url: String,
    saved: String,
    waiting: String,
    written: Instant,
}

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    url: String,
    last_event_id: String,
}

impl IdFile {
    const COALESCE: Duration = Duration::from_millis(100);

    fn open(path: &Path, url: &str) -> anyhow::Result<Self> {
        let file = LockedFile::open("cursor file", path)?;
        let mut saved = String::new();
        if let Some(bytes) = file.read()? {
            let content: Content = serde_json::from_slice(&bytes)
                .map_err(|error| file.corrupt(format!("it is damaged ({error})")))?;
            if content.version != 1 {
                return Err(file.corrupt(format!("its version is {}, not 1", content.version)).into());
            }
            if content.url != url {
                let path = path.display();
                return Err(Usage(format!("cursor file {path} is of {}, not of {url}", content.url)).into());
            }
            saved = content.last_event_id;
        }
        Ok(Self { file, url: url.into(), waiting: saved.clone(), saved, written: Instant::now() })
    }

    /// The time at which the waiting id must be written.
    fn due(&self) -> Option<Instant> {
        (self.waiting != self.saved).then(|| self.written + Self::COALESCE)
    }

    fn write(&mut self) -> anyhow::Result<()> {
        if self.waiting != self.saved {
            let content = Content { version: 1, url: self.url.clone(), last_event_id: self.waiting.clone() };
            self.file.replace(&serde_json::to_vec(&content)?)?;
            self.saved.clone_from(&self.waiting);
            self.written = Instant::now();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn an_address_is_shown_without_secrets() {
        for (url, text) in [
            ("http://host/path?token=x", "http://host/path"),
            ("https://user:secret@host:8080/a@b#c", "https://host:8080/a@b"),
            ("http://user:secret@host", "http://host"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(shown(url), text);
        }
    }
}
