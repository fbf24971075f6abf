//! Commands that make one request and print one line.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use relay_durable::{AppendOptions, CreateOptions, DurableStream, ErrorKind, Expiry, ForkOptions, Offset};
use relay_proto::time::Timestamp;
use serde_json::{Value, json};

use super::notes::{Notes, note};
use super::reach::Reach;
use crate::args::{PrintLines, positive_duration, whole};
use crate::exit::{Exit, Usage, signalled};
use crate::output::Output;

/// When a stream ends to be
#[derive(Debug, Clone, ClapArgs)]
struct ExpiryFlags {
    /// Time without use after which the stream expires; whole seconds
    #[arg(long, value_name = "DURATION", value_parser = positive_duration, conflicts_with = "expires_at")]
    ttl: Option<Duration>,
    /// Time at which the stream expires, RFC 3339
    #[arg(long, value_name = "TIME", value_parser = rfc3339)]
    expires_at: Option<String>,
}

fn rfc3339(text: &str) -> Result<String, String> {
    match Timestamp::parse_rfc3339(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("not a time of RFC 3339, such as 2030-01-31T12:00:00Z".to_owned()),
    }
}

impl ExpiryFlags {
    fn expiry(self) -> Option<Expiry> {
        self.ttl.map(Expiry::Ttl).or(self.expires_at.map(Expiry::At))
    }
}

/// One message
#[derive(Debug, Clone, ClapArgs)]
struct Data {
    /// The message itself
    #[arg(long, value_name = "TEXT", conflicts_with = "file", allow_hyphen_values = true)]
    data: Option<String>,
    /// File with the message; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Data {
    async fn read(self, or_stdin: bool) -> anyhow::Result<Option<Vec<u8>>> {
        let file = match (self.data, self.file) {
            (Some(data), _) => return Ok(Some(data.into_bytes())),
            (None, Some(file)) => file,
            (None, None) if or_stdin => PathBuf::from("-"),
            (None, None) => return Ok(None),
        };
        tokio::task::spawn_blocking(move || content(&file)).await?.map(Some)
    }
}

fn content(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut data = Vec::new();
        std::io::stdin().read_to_end(&mut data).context("stdin cannot be read")?;
        return Ok(data);
    }
    std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

#[derive(Debug, ClapArgs)]
pub(super) struct CreateArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    /// Its content type, which cannot be changed later
    #[arg(long, default_value = "application/octet-stream", value_name = "TYPE")]
    content_type: String,
    #[command(flatten)]
    expiry: ExpiryFlags,
    /// Create it closed
    #[arg(long)]
    closed: bool,
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct AppendArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    #[command(flatten)]
    data: Data,
    /// The stream's type. Default: asked of the server
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The writer's sequence; must grow, compared byte by byte
    #[arg(long, value_name = "SEQUENCE", allow_hyphen_values = true)]
    seq: Option<String>,
    /// Close the stream with it
    #[arg(long)]
    close: bool,
    /// Send the bytes as they are, also to a JSON stream
    #[arg(long)]
    raw: bool,
    /// Retry also when it is unknown whether the server took it: it may then be there twice
    #[arg(long)]
    retry_unsafe: bool,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CloseArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    #[command(flatten)]
    data: Data,
    /// The stream's type. Default: asked of the server
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct HeadArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeleteArgs {
    /// The stream: a URL, or a path below --url
    stream: String,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ForkArgs {
    /// The stream to begin as
    source: String,
    /// The stream to make, on the same server
    target: String,
    /// Where the fork leaves its source. Default: its end
    #[arg(long, value_name = "OFFSET", allow_hyphen_values = true)]
    at: Option<Offset>,
    /// Messages (JSON) or bytes after --at
    #[arg(long, value_name = "N", value_parser = whole::<u64>(0..))]
    sub_offset: Option<u64>,
    #[command(flatten)]
    expiry: ExpiryFlags,
    #[command(flatten)]
    pub(super) reach: Reach,
    #[command(flatten)]
    print: PrintLines,
}

async fn stream(reach: &Reach, stream: &str) -> anyhow::Result<DurableStream> {
    reach.stream(stream, reach.patience(), &Notes::new(reach.patience())).await
}

/// Prints the result as one line, unless a signal comes first.
async fn print(print: PrintLines, work: impl Future<Output = anyhow::Result<Value>>) -> anyhow::Result<Exit> {
    let line = tokio::select! {
        line = work => line?,
        exit = signalled() => return Ok(exit),
    };
    let text = || {
        let Value::Object(fields) = &line else { return line.to_string() };
        let shown = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".into(),
            other => other.to_string(),
        };
        let parts: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{}: {}", name.replace('_', " "), shown(value)))
            .collect();
        parts.join("  ")
    };
    Output::new(print).answer(|| line.clone(), text)?;
    Ok(Exit::Done)
}

pub(super) async fn create(args: CreateArgs) -> anyhow::Result<Exit> {
    let stream = stream(&args.reach, &args.stream).await?;
    print(args.print, async move {
        let data = args.data.read(false).await?.unwrap_or_default();
        let options = CreateOptions::new()
            .content_type(args.content_type)
            .expiry(args.expiry.expiry())
            .closed(args.closed)
            .data(data);
        let created = match stream.create(options).await {
            Ok(created) => created,
            Err(error) => {
                if error.kind() == ErrorKind::Exists {
                    tell_what_is_there(&stream).await;
                }
                return Err(error.into());
            }
        };
        Ok(json!({
            "stream": stream.url(), "status": created.status, "created": created.status == 201,
            "offset": created.offset, "content_type": created.content_type,
            "closed": created.closed || args.closed,
        }))
    })
    .await
}

/// Says what the stream is that is in the way of another one.
async fn tell_what_is_there(stream: &DurableStream) {
    let Ok(head) = stream.head().await else { return };
    let mut parts = vec![head.content_type.unwrap_or_else(|| "of no type".into())];
    parts.extend(head.closed.then(|| "closed".into()));
    parts.extend(head.ttl_seconds.map(|ttl| format!("--ttl {ttl}s")));
    parts.extend(head.expires_at.map(|time| format!("--expires-at {time}")));
    note(&format!("what is there is {}", parts.join(", ")));
}

pub(super) async fn append(args: AppendArgs) -> anyhow::Result<Exit> {
    let stream = stream(&args.reach, &args.stream).await?;
    print(args.print, async move {
        let data = args.data.read(true).await?.unwrap_or_default();
        if data.is_empty() && !args.close {
            return Err(Usage("the message is empty".into()).into());
        }
        let options = AppendOptions::new()
            .content_type(args.content_type)
            .seq(args.seq)
            .close(args.close)
            .raw(args.raw)
            .resend(args.retry_unsafe);
        let done = stream.append(data, options).await?;
        Ok(json!({"stream": stream.url(), "status": done.status, "offset": done.offset, "closed": done.closed}))
    })
    .await
}

pub(super) async fn close(args: CloseArgs) -> anyhow::Result<Exit> {
    let stream = stream(&args.reach, &args.stream).await?;
    print(args.print, async move {
        let data = args.data.read(false).await?.unwrap_or_default();
        let options = AppendOptions::new().content_type(args.content_type).close(true);
        let done = stream.append(data, options).await?;
        Ok(json!({"stream": stream.url(), "status": done.status, "offset": done.offset, "closed": true}))
    })
    .await
}

pub(super) async fn head(args: HeadArgs) -> anyhow::Result<Exit> {
    let stream = stream(&args.reach, &args.stream).await?;
    print(args.print, async move {
        let head = stream.head().await?;
        Ok(json!({
            "stream": stream.url(), "status": head.status, "content_type": head.content_type,
            "offset": head.offset, "closed": head.closed, "ttl_seconds": head.ttl_seconds,
            "expires_at": head.expires_at,
        }))
    })
    .await
}

pub(super) async fn delete(args: DeleteArgs) -> anyhow::Result<Exit> {
    let stream = stream(&args.reach, &args.stream).await?;
    print(args.print, async move {
        let status = stream.delete().await?;
        Ok(json!({"stream": stream.url(), "status": status, "deleted": true}))
    })
    .await
}

pub(super) async fn fork(args: ForkArgs) -> anyhow::Result<Exit> {
    let patience = args.reach.patience();
    let client = args.reach.client(patience, &Notes::new(patience)).await?;
    let (source, target) = (client.stream(&args.source)?, client.stream(&args.target)?);
    print(args.print, async move {
        let options = ForkOptions::new().at(args.at).sub_offset(args.sub_offset).expiry(args.expiry.expiry());
        let created = source.fork(&target, options).await?;
        Ok(json!({
            "stream": target.url(), "status": created.status, "created": created.status == 201,
            "offset": created.offset, "forked_from": source.url(),
        }))
    })
    .await
}
