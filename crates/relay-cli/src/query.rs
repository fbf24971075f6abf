//! Commands that make a single request: lists, pods, history, sessions, health.

use std::io::IsTerminal as _;
use std::pin::pin;

use anyhow::Context as _;
use futures_util::TryStreamExt;
use relay_pods::{Client, Error, EventType, EventsQuery, Health, Order, PodKey, ProblemCode};

use crate::args::{EventsArgs, HealthArgs, OrderArg, PodArgs, PodsArgs, SessionArgs};
use crate::clock::now;
use crate::exit::{Exit, NoPodRelay, Usage, is_no_relay, signalled};
use crate::output::{Output, Progress, Tone, note, time_now, to_value};
use crate::pod_name::{Namespace, pod_key};
use crate::rows::{self, Changes, event_cells, event_json, group_cells, group_json, pod_cells, pod_name};

pub(crate) async fn pods(args: PodsArgs) -> anyhow::Result<Exit> {
    let (client, filter) = (args.connect.client().await?, args.which.filter()?);
    let mut bar = Progress::new("pods");
    let list = tokio::select! {
        list = client.pods_with_progress(&filter, |done, all| bar.show(done, all)) => list,
        exit = signalled() => return Ok(exit),
    };
    bar.clear();
    let mut pods = list?.pods;
    let all = pods.len();
    if args.not_ready {
        pods.retain(|pod| !pod.ready() && pod.phase() != Some("Succeeded"));
    }
    let mut out = Output::new(args.print);
    if let Some(by) = &args.group_by {
        let name = by.name();
        out.list(
            rows::GROUPS,
            &by.groups(&pods),
            |(group, _)| group.clone().unwrap_or_default(),
            |(group, tally)| group_json(name, group.as_deref(), tally, None),
            |(group, tally)| group_cells(time_now(), name, group.as_deref(), tally),
        )?;
    } else {
        let now = now();
        out.list(rows::PODS, &pods, pod_name, |pod| to_value(pod), |pod| pod_cells(pod, now))?;
    }
    if pods.is_empty() && !out.is_json() {
        match all {
            0 => note(&args.which.nothing()),
            1 => note("the only pod is ready, or has succeeded"),
            all => note(&format!("all {all} pods are ready, or have succeeded")),
        }
    }
    Ok(Exit::Done)
}

pub(crate) async fn pod(args: PodArgs) -> anyhow::Result<Exit> {
    let keys = pod_keys(&args)?;
    let client = args.connect.client().await?;
    let (mut pods, mut missing) = (Vec::new(), Vec::new());
    let signalled = signalled();
    let ask = async {
        for key in keys {
            match client.require_pod(key.namespace(), key.name()).await {
                Ok(pod) => pods.push(pod),
                Err(error) if NoPodRelay::of(&error).is_some() => missing.push((key, error)),
                Err(error) => return Err(error.into()),
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        asked = ask => asked?,
        exit = signalled => return Ok(exit),
    }
    // A server that has one of the pods is a relay.
    if let Some((_, error)) = missing.first().filter(|_| pods.is_empty())
        && let Some(stranger) = stranger(&client, error).await
    {
        return Err(stranger.into());
    }
    let mut out = Output::new(args.print);
    let now = now();
    out.list(rows::PODS, &pods, pod_name, |pod| to_value(pod), |pod| pod_cells(pod, now))?;
    let Some((last, _)) = missing.pop() else { return Ok(Exit::Done) };
    let told =
        |key: &PodKey| format!("there is no pod {key} (what happened to it: relay events --pod {key})");
    missing.iter().for_each(|(key, _)| note(&told(key)));
    Ok(Exit::NotFound(told(&last)))
}

/// The server, if a 404 for a pod did not come from a relay. Other servers have no pods either, so the health document
/// decides.
async fn stranger(client: &Client, missing: &Error) -> Option<NoPodRelay> {
    let is_coded = |error: &Error| match error {
        Error::Refused { problem, .. } => problem.is(ProblemCode::NOT_FOUND),
        _ => false,
    };
    let is_stranger = match client.health().await {
        Ok((_, health)) => is_strange(&health),
        // A server that sends the code, but has no health document, is another of ours, or the path is wrong.
        Err(error) if NoPodRelay::of(&error).is_some() => is_coded(&error) || !is_coded(missing),
        Err(error) => !is_coded(missing) && is_no_relay(&error.into()),
    };
    NoPodRelay::of(missing).filter(|_| is_stranger)
}

/// The pods that were named in the arguments.
fn pod_keys(args: &PodArgs) -> Result<Vec<PodKey>, Usage> {
    let namespace = args.namespace.as_deref().map(Namespace::new);
    match args.pods.as_slice() {
        // NAMESPACE NAME, unless a flag gives the namespace of both.
        [first, second]
            if !first.contains('/')
                && !second.contains('/')
                && !namespace.is_some_and(Namespace::is_from_flag) =>
        {
            Ok(vec![pod_key(&format!("{first}/{second}"), None)?])
        }
        names => names.iter().map(|name| pod_key(name, namespace)).collect(),
    }
}

pub(crate) async fn events(args: EventsArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let types = args.types.iter().map(|name| match EventType::parse(name) {
        EventType::Other(_) => Err(Usage(format!("type {name:?}: ADDED, MODIFIED or DELETED"))),
        known => Ok(known),
    });
    let query = EventsQuery::new()
        .since(args.since_hash)
        .since_time(args.since.time())
        .before(args.before_hash)
        .order(if args.order == OrderArg::Newest { Order::Newest } else { Order::Oldest })
        .limit(args.limit)
        .types(types.collect::<Result<_, _>>()?)
        .filter(args.which.filter()?);
    let mut out = Output::new(args.print);
    out.table(rows::EVENTS);
    // If the events are read backwards, an event comes before the state that it changed.
    let mut changes = (out.is_table() && args.order == OrderArg::Oldest).then(Changes::default);
    let deadline = args.until.time.and_then(|time| tokio::time::Instant::now().checked_add(time));
    // If the events go to the terminal, they themselves show the progress.
    let mut bar = (!std::io::stdout().is_terminal()).then(|| Progress::new("events"));
    let work = async {
        let mut print = async |event: relay_pods::PodEvent| {
            let before = changes.as_mut().and_then(|changes| changes.before(&event));
            out.row(|| pod_name(&event.pod), || event_json(&event), || event_cells(&event, before.as_ref()))?;
            if let Some(bar) = &mut bar {
                bar.show(out.lines, args.until.max);
            }
            anyhow::Ok(args.until.max.is_some_and(|max| out.lines >= max))
        };
        if args.until.max == Some(0) {
            return Ok(());
        }
        if let Some(pod) = &args.pod {
            let key = pod_key(pod, args.which.only_namespace().map(Namespace::new))?;
            let mut events = pin!(client.all_pod_events(key.namespace(), key.name(), query));
            while let Some(event) = events.try_next().await? {
                if print(event).await? {
                    break;
                }
            }
        } else {
            let mut events = pin!(client.all_events(query));
            while let Some(event) = events.try_next().await? {
                if print(event).await? {
                    break;
                }
            }
        }
        if out.lines == 0 && out.is_table() {
            let pod = args.pod.iter().map(|pod| format!(" --pod {pod}"));
            let types = args.types.iter().map(|name| format!(" --type {name}"));
            let asked: String = pod.chain(types).chain([args.which.asked()]).collect();
            let what = if asked.is_empty() {
                "there are no such events".into()
            } else {
                format!("no events match{asked}")
            };
            let oldest = pin!(client.all_events(EventsQuery::new().limit(Some(1)))).try_next().await?;
            note(&match oldest.map(|event| event.timestamp) {
                None => format!("{what}; the log is empty"),
                Some(Some(time)) => format!("{what}; the log goes back to {}", time.as_str()),
                Some(None) => what,
            });
        }
        anyhow::Ok(())
    };
    tokio::select! {
        done = work => done.map(|()| Exit::Done),
        () = until(deadline) => Ok(Exit::Done),
        exit = signalled() => Ok(exit),
    }
}

pub(crate) async fn session(args: SessionArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let session = tokio::select! {
        session = client.create_session() => session?,
        exit = signalled() => return Ok(exit),
    };
    Output::new(args.print).answer(|| to_value(&session), || session.session_id.clone())?;
    Ok(Exit::Done)
}

pub(crate) async fn health(args: HealthArgs) -> anyhow::Result<Exit> {
    let client = args.connect.client().await?;
    let (healthy, health) = tokio::select! {
        health = client.health() => health.context("no health document")?,
        exit = signalled() => return Ok(exit),
    };
    if is_strange(&health) {
        let url = format!("{}/health", client.base_url().trim_end_matches('/'));
        return Err(NoPodRelay::new(&url, "another document").into());
    }
    let text = || {
        let head = health.head.as_ref().and_then(|head| head.sequence).map_or("-".into(), |s| s.to_string());
        let status = health.status.as_deref().unwrap_or(if healthy { "ok" } else { "degraded" });
        let tone = if healthy { Tone::Good } else { Tone::Bad };
        let source = &health.raw["source"];
        let kind = source["kind"].as_str().map_or(String::new(), |kind| format!(", source {kind}"));
        let streams = health.subscribers.unwrap_or(0);
        let text = tone.text(status).plain(format!("{kind}, log at {head}, {streams} streams"));
        if source["state"] != "stale" {
            return text;
        }
        let since = source["stale_since"].as_str().map_or(String::new(), |since| format!(" since {since}"));
        let why = source["reason"].as_str().map_or(String::new(), |reason| format!(": {reason}"));
        text.plain(format!("; the source is away{since}{why}"))
    };
    Output::new(args.print).answer(|| health.raw.clone(), text)?;
    if healthy { Ok(Exit::Done) } else { Ok(Exit::Failed(anyhow::anyhow!("the relay is not well"))) }
}

/// Whether a health document is not the one of a relay: it has none of a relay's members, or one that only another of
/// our servers has. A foreign relay may have a status only.
fn is_strange(health: &Health) -> bool {
    let has = |name: &str| health.raw.get(name).is_some();
    if has("source") || health.head.is_some() || health.epoch.is_some() {
        return false;
    }
    health.status.is_none() || ["channels", "synced"].into_iter().any(has)
}

/// Waits until the deadline; for ever without one.
pub(crate) async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
