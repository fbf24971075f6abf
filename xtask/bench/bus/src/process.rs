//! A bus and a bare proxy in separate processes, so that their memory and CPU time can be measured alone.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay_bus::{
    CancellationToken, Component, DispatcherOptions, Engine, EngineOptions, JetStreamEngine, MemoryEngine,
    MessageDispatcher, MessageReceiver, Metrics, Monitor, NatsOptions, ReceiverOptions, Report,
};
use relay_transport::server::{HttpServer, Settings};
use tokio::net::TcpListener;

/// A process that is killed when it is no longer needed.
pub(crate) struct Part {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Part {
    /// Starts the part of this program with that name.
    pub(crate) fn own(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("the pipe was asked for")?);
        Ok(Self { child, output })
    }

    pub(crate) fn address(&mut self) -> Result<SocketAddr> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().with_context(|| format!("a part of the benchmark says {line:?}"))
    }

    /// Its processor time.
    pub(crate) fn processor_time(&self) -> Result<Duration> {
        processor_time(&self.child.id().to_string())
    }

    /// The resident memory of the process, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no such figure")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The time that a process has used, or a thread, which is `PROCESS/task/THREAD`: to a hundredth of a second.
pub(crate) fn processor_time(of: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{of}/stat"))?;
    // The name before it may have spaces.
    let (_, rest) = stat.rsplit_once(") ").context("no such figures")?;
    let ticks = |at: usize| -> Result<u64> { Ok(rest.split(' ').nth(at).context("no such figure")?.parse()?) };
    Ok(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// Cancelled when the input ends for any reason.
fn at_end_of_input() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.cancel();
    });
    stop
}

/// `child-bus FILE QUEUE BYTES [ADDRESS NATS]`: serves the objects of a file. When it is ready, it prints its address
/// as its first line.
pub(crate) fn bus(arguments: &[String]) -> Result<()> {
    let [file, queue, bytes, rest @ ..] = arguments else { anyhow::bail!("child-bus FILE QUEUE BYTES") };
    let options =
        EngineOptions::default().queue(queue.parse::<usize>()?).queue_bytes(bytes.parse::<usize>()?);
    let dispatcher = || MessageDispatcher::new(DispatcherOptions::default());
    tokio::runtime::Runtime::new()?.block_on(async {
        let metrics = Arc::<Metrics>::default();
        match rest {
            [address, nats] => {
                let nats = NatsOptions::default().url(nats.as_str());
                let options = options.max_deliver(0_u32).retry_delay(Duration::from_millis(20));
                let engine = JetStreamEngine::connect(&nats, dispatcher()?, options, metrics, |_| ()).await?;
                serve(file, address, engine).await
            }
            _ => serve(file, "127.0.0.1:0", MemoryEngine::new(dispatcher()?, options, metrics, |_| ())).await,
        }
    })
}

async fn serve<E: Engine>(file: &str, address: &str, engine: E) -> Result<()> {
    let server = HttpServer::bind(address, Settings::default()).await?;
    let (listens, stop) = (server.local_addr(), at_end_of_input());
    let ready = engine.clone();
    let monitor = Monitor::builder(Component::Dispatcher)
        .file(Some(file.into()))
        .report(move |report| {
            if matches!(report, Report::Ready { .. }) {
                ready.set_ready();
                println!("{listens}");
            }
        })
        .handler(engine.clone());
    let receiver = MessageReceiver::new(engine.clone(), ReceiverOptions::default());
    tokio::spawn(receiver.run(server, stop.clone()));
    let attended = monitor.clone();
    tokio::spawn(async move { engine.attend(&attended).await });
    Ok(monitor.run(None, 4, stop).await?)
}

/// `child-proxy TO`: passes requests on unchanged. It prints its address as its first line.
pub(crate) fn proxy(arguments: &[String]) -> Result<()> {
    let to: SocketAddr = arguments.first().context("to whom?")?.parse()?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let stop = at_end_of_input();
        let client: Client<_, Incoming> = Client::builder(TokioExecutor::new()).build_http();
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted?.0,
                () = stop.cancelled() => return Ok(()),
            };
            stream.set_nodelay(true)?;
            let client = client.clone();
            let service = service_fn(move |mut request: Request<Incoming>| {
                let client = client.clone();
                async move {
                    *request.uri_mut() = format!("http://{to}/").parse().expect("an address is a host");
                    request.headers_mut().remove("host");
                    let answer: Response<Incoming> =
                        client.request(request).await.expect("the subscriber answers");
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    })
}

/// A file of objects: channels `c0`, `c1`, .., and for each of them subscriptions to these URLs.
pub(crate) fn objects(
    directory: &std::path::Path,
    channels: usize,
    subscribers: &[String],
) -> Result<std::path::PathBuf> {
    let mut text = String::new();
    for channel in 0..channels {
        text += &format!(
            "{{\"apiVersion\":\"channels.knative.dev/v1alpha1\",\"kind\":\"Channel\",\"metadata\":{{\"name\":\"c{channel}\",\"namespace\":\"ns\"}}}}\n"
        );
        for (number, to) in subscribers.iter().enumerate() {
            text += &format!(
                "{{\"apiVersion\":\"channels.knative.dev/v1alpha1\",\"kind\":\"Subscription\",\"metadata\":{{\"name\":\"s{channel}-{number}\",\"namespace\":\"ns\"}},\
                 \"spec\":{{\"channel\":\"c{channel}\",\"subscriber\":\"{to}\"}}}}\n"
            );
        }
    }
    let file = directory.join(format!("objects-{channels}-{}.json", subscribers.len()));
    std::fs::write(&file, text)?;
    Ok(file)
}
