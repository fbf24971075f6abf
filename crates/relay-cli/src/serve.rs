//! `relay serve`: the server, with the source chosen by flags.

use std::net::SocketAddr;

use anyhow::Context as _;
use relay_log::{DiskOptions, DiskStore, Fsync};
use relay_pods_server::{Config, DEFAULT_RETENTION, KubeSource, Server, SimSource, Source, SourceError};

use crate::args::{ClockArg, Format, FsyncArg, ServeArgs, SourceArg, StoreArg};
use crate::exit::{Exit, signalled};
use crate::output::Output;

pub(crate) async fn run(args: ServeArgs) -> Exit {
    match serve(args).await {
        // SIGTERM is the normal way to end a server, so the result is success.
        Ok(Exit::Terminated) => Exit::Done,
        Ok(exit) => exit,
        Err(error) => error.into(),
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<Exit> {
    let retention =
        DEFAULT_RETENTION.entries(args.retain_events).bytes(args.retain_bytes).age(args.retain_age);
    let config = Config::default()
        .tokens_file(args.tokens_file.clone())
        .session_ttl(args.session_ttl)
        .heartbeat(args.heartbeat)
        .max_streams(args.max_streams)
        .annotations(args.publish_annotations.iter().cloned().collect())
        .stream_lifetime(args.stream_lifetime);
    let mut builder = Server::builder(config).retention(retention);
    if let Some(store) = store(&args)? {
        builder = builder.store(store);
    }
    let server = builder
        .boxed_source(source(&args).await.context("the source failed")?)
        .bind(args.listen)
        .await
        .with_context(|| format!("cannot serve on {}", args.listen))?;
    if args.tokens_file.is_none() {
        let address = server.local_addr();
        if address.ip().is_loopback() {
            tracing::info!("without --tokens-file everybody on this machine can read {address}");
        }
        warn_of_open(address, "without --tokens-file", "read");
    }
    if args.source == SourceArg::Sim && !args.watch_namespaces.is_empty() {
        tracing::warn!("RELAY_WATCH_NAMESPACE is not used: it needs --source kube");
    }
    // A program that has read the line may stop the server at once.
    let signalled = signalled();
    let line = format!("relay listening on http://{}", server.local_addr());
    let told = Output::in_format(Format::Table).answer(|| serde_json::Value::Null, || line.clone());
    if let Err(error) = told {
        // The reader of the line is gone, but the relay's clients are not.
        tracing::warn!(%error, "{line}, which cannot be told on stdout");
    }
    let (ended, signal) = tokio::sync::oneshot::channel();
    server
        .run(async {
            let _ = ended.send(signalled.await);
        })
        .await?;
    // Without a signal, the server has ended by itself.
    Ok(signal.await.unwrap_or(Exit::Done))
}

/// Warns of a server that other machines can reach and that has no access control: why it has none, and what
/// everybody can do.
pub(crate) fn warn_of_open(address: SocketAddr, why: &str, can: &str) {
    if !address.ip().is_loopback() {
        tracing::warn!("{why} everybody who can connect can {can} {address}");
    }
}

/// The store on disk, if there is one. The bytes of the newest events are kept in memory, for streams at the head.
fn store(args: &ServeArgs) -> anyhow::Result<Option<DiskStore>> {
    const CACHE: u64 = 16 << 20;
    let dir = match (args.store, &args.data_dir) {
        (None | Some(StoreArg::Disk), Some(dir)) => dir,
        (Some(StoreArg::Memory), Some(dir)) => {
            tracing::warn!("events are kept in memory only: --store memory does not use {}", dir.display());
            return Ok(None);
        }
        // A disk store without a directory was refused when the flags were checked.
        (_, None) => {
            tracing::info!("events are kept in memory only; with --data-dir DIR they survive a restart");
            return Ok(None);
        }
    };
    let fsync = match args.fsync {
        FsyncArg::Always => Fsync::Always,
        FsyncArg::Interval => Fsync::Interval(args.fsync_interval),
        FsyncArg::Never => Fsync::Never,
    };
    let options = DiskOptions::default().fsync(fsync).cache_bytes(CACHE);
    let store = DiskStore::open(dir, options)
        .with_context(|| format!("cannot use the data directory {}", dir.display()))?;
    tracing::info!("events are kept in {}", dir.display());
    Ok(Some(store))
}

/// The source, after its checks. A server that would end at once must not say that it listens.
async fn source(args: &ServeArgs) -> Result<Box<dyn Source>, SourceError> {
    match args.source {
        SourceArg::Sim => {
            // A seed means that the times come from it, too.
            let real = args.sim_clock.map_or(args.sim_seed.is_none(), |clock| clock == ClockArg::Real);
            let cluster = SimSource::default().seed(args.sim_seed.unwrap_or(1)).real_time(real);
            Ok(Box::new(cluster.pods(args.sim_pods).rate(args.sim_rate)))
        }
        SourceArg::Kube => {
            let source = KubeSource::new().namespaces(&args.watch_namespaces);
            let source = args.kubeconfig.iter().fold(source, |source, file| source.kubeconfig(file));
            source.check().await?;
            Ok(Box::new(source))
        }
    }
}
