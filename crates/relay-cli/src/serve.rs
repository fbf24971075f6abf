//! `relay serve`: the server, with the source chosen by flags.

use anyhow::Context as _;
use relay_log::{DiskOptions, DiskStore, Fsync};
use relay_pods_server::{Config, DEFAULT_RETENTION, KubeSource, Server, SimSource, Source, SourceError};

use crate::args::{ClockArg, Format, FsyncArg, ServeArgs, SourceArg, StoreArg};
use crate::exit::{Exit, signalled};
use crate::output::Output;

pub(crate) async fn run(args: ServeArgs) -> Exit {
    match serve(args).await {
        // SIGTERM is how a server is asked to end: it is done.
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
        } else {
            tracing::warn!("without --tokens-file everybody who can connect can read {address}");
        }
    }
    // Whoever has read the line may end the server.
    let signalled = signalled();
    let line = format!("relay listening on http://{}", server.local_addr());
    let told = Output::in_format(Format::Table).answer(|| serde_json::Value::Null, || line.clone());
    if let Err(error) = told {
        // Whoever wanted to know is gone; the relay's clients are not.
        tracing::warn!(%error, "{line}, which cannot be told on stdout");
    }
    let (ended, signal) = tokio::sync::oneshot::channel();
    server
        .run(async {
            let _ = ended.send(signalled.await);
        })
        .await?;
    // Without a signal the server was ended from within.
    Ok(signal.await.unwrap_or(Exit::Done))
}

/// The store on disk, if there is to be one. Bytes of the newest events are kept in memory, for streams at the head.
fn store(args: &ServeArgs) -> anyhow::Result<Option<DiskStore>> {
    const CACHE: u64 = 16 << 20;
    let dir = match (args.store, &args.data_dir) {
        (None | Some(StoreArg::Disk), Some(dir)) => dir,
        (Some(StoreArg::Memory), Some(dir)) => {
            tracing::warn!("events are kept in memory only: --store memory does not use {}", dir.display());
            return Ok(None);
        }
        // Disk without a directory is refused with the flags.
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

/// The source, fit to begin: nobody is to be told of a server that ends at once.
async fn source(args: &ServeArgs) -> Result<Box<dyn Source>, SourceError> {
    match args.source {
        SourceArg::Sim => {
            // Who asks for a seed wants everything from it.
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
