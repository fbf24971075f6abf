//! `relay bus send`: messages for a channel.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use relay_bus::ChannelReference;
use relay_transport::HttpClient;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};

use crate::args::BusSendArgs;
use crate::exit::{Exit, Usage, signalled};
use crate::output::{Output, counted};

pub(super) async fn run(args: BusSendArgs) -> anyhow::Result<Exit> {
    let signalled = signalled();
    tokio::select! {
        exit = send(args) => exit,
        exit = signalled => Ok(exit),
    }
}

/// The sender, and the result of the program after its last failure.
struct Sender {
    http: HttpClient,
    url: http::Uri,
    channel: ChannelReference,
    headers: HeaderMap,
    out: Output,
    failure: Option<Failure>,
}

#[derive(Debug, Clone)]
struct Failure {
    status: Option<u16>,
    error: String,
}

async fn send(args: BusSendArgs) -> anyhow::Result<Exit> {
    let url: http::Uri = args.url.parse().map_err(|_| Usage(format!("--url {:?} is no URL", args.url)))?;
    if url.host().is_none_or(str::is_empty) || !matches!(url.scheme_str(), Some("http" | "https")) {
        return Err(Usage("--url needs http:// or https:// and a host".into()).into());
    }
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        let name = HeaderName::try_from(name).map_err(|_| Usage(format!("{name:?} is no header name")))?;
        if [HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(&name) {
            return Err(Usage(format!("--header {name}: it follows from the channel and the payload")));
        }
        let value = HeaderValue::from_bytes(value.as_bytes())
            .map_err(|_| Usage(format!("the value of {name} cannot be sent")))?;
        headers.append(name, value);
        Ok::<(), Usage>(())
    };
    for (name, value) in &args.headers {
        add(name, value)?;
    }
    if let Some(media) = &args.content_type {
        add("content-type", media)?;
    }
    if let (Some(kind), Some(source)) = (&args.ce_type, &args.ce_source) {
        add("ce-specversion", "1.0")?;
        add("ce-type", kind)?;
        add("ce-source", source)?;
    }
    let host =
        format!("{}.{}.channels.{}", args.channel.name(), args.channel.namespace(), args.cluster_domain);
    headers.insert(
        HOST,
        HeaderValue::try_from(host).map_err(|_| Usage("--cluster-domain is no domain".into()))?,
    );
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/octet-stream"));
    if args.content_type.is_none() && !args.headers.iter().any(|(name, _)| name == "content-type") {
        headers.remove(CONTENT_TYPE);
    }
    let mut sender = Sender {
        http: args.transport.http().build()?,
        url,
        channel: args.channel,
        headers,
        out: Output::new(args.print),
        failure: None,
    };
    let id = |sender: &mut Sender| -> anyhow::Result<()> {
        if args.ce_type.is_none() {
            return Ok(());
        }
        let random = || format!("{:032x}", rand());
        let id = args.ce_id.clone().unwrap_or_else(random);
        let id =
            HeaderValue::from_bytes(id.as_bytes()).map_err(|_| Usage("--ce-id cannot be sent".into()))?;
        sender.headers.insert("ce-id", id);
        Ok(())
    };
    if args.lines {
        let mut lines = tokio::io::BufReader::new(tokio::io::stdin()).split(b'\n');
        while let Some(mut line) = lines.next_segment().await.context("stdin")? {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            id(&mut sender)?;
            sender.post(line.into()).await?;
        }
    } else {
        let payload = match (&args.data, &args.data_file) {
            (Some(text), _) => Bytes::from(text.clone()),
            (None, Some(file)) if file.as_os_str() != "-" => {
                std::fs::read(file).with_context(|| file.display().to_string())?.into()
            }
            // Nobody would know that it waits.
            (None, None) if std::io::stdin().is_terminal() => {
                let flags = "--data TEXT, --data-file FILE, --data-file - or --lines";
                let what = format!("no payload: give {flags}, or a pipe; --data '' sends an empty message");
                return Err(Usage(what).into());
            }
            (None, _) => {
                let mut read = Vec::new();
                tokio::io::stdin().read_to_end(&mut read).await.context("stdin")?;
                read.into()
            }
        };
        id(&mut sender)?;
        sender.post(payload).await?;
    }
    match sender.failure {
        None => Ok(Exit::Done),
        Some(Failure { status: Some(404), error }) => Ok(Exit::NotFound(error)),
        Some(Failure { status: Some(401 | 403), error }) => Ok(Exit::NotAuthorised(error)),
        Some(Failure { error, .. }) => Err(anyhow::anyhow!(error)),
    }
}

fn rand() -> u128 {
    let half = || u128::from(getrandom::u64().unwrap_or_default());
    half() << 64 | half()
}

impl Sender {
    async fn post(&mut self, payload: Bytes) -> anyhow::Result<()> {
        let bytes = payload.len();
        let mut request = Request::new(Full::new(payload));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = self.headers.clone();
        if bytes == 0 {
            // The HTTP client leaves it out then, but some servers answer 411 to a POST without it.
            request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let (status, error) = match self.http.send(request).await {
            Err(error) => (None, Some(relay_proto::error::chain(&error).to_string())),
            Ok(response) => {
                let status = response.status().as_u16();
                let body = http_body_util::Limited::new(response.into_body(), 64 << 10).collect().await;
                let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let said = || relay_proto::problem::Problem::from_body(status, &body).to_string();
                (Some(status), (status != 202).then(said))
            }
        };
        let channel = self.channel.to_string();
        let text = match &error {
            None => format!("{channel}: {} sent", counted(bytes as u64, "byte")),
            Some(error) => format!("{channel}: {error}"),
        };
        self.out.line(
            || json!({"channel": channel, "status": status, "bytes": bytes, "error": error}),
            || text,
        )?;
        if let Some(error) = error {
            self.failure = Some(Failure { status, error });
        }
        Ok(())
    }
}
