//! `relay durable demo`: a server, a producer and a reader, with faults between them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args as ClapArgs;
use futures_util::StreamExt as _;
use relay_durable::{
    Checkpoint, Client, CreateOptions, DurableStream, IdempotentProducer, Notice, Offset, ProducerConfig,
    ProducerOptions, ReadEvent, ReaderConfig, Retry,
};
use relay_durable_server::{Config, Server};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::args::{PrintLines, positive_duration};
use crate::exit::{Exit, signalled};
use crate::output::Output;

mod link;

use link::Link;

#[derive(Debug, ClapArgs)]
pub(super) struct DemoArgs {
    /// How long messages are produced
    #[arg(long = "for", default_value = "10s", value_name = "DURATION", value_parser = positive_duration)]
    time: Duration,
    #[command(flatten)]
    print: PrintLines,
}

/// Time between two messages.
const PACE: Duration = Duration::from_millis(10);

/// Prints what happens, with the time.
#[derive(Clone)]
struct Story(Arc<Mutex<Output>>, Instant);

impl Story {
    fn tell(&self, what: &str) {
        let millis = self.1.elapsed().as_millis();
        let mut out = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // If nobody reads the output, the exit code is still right.
        let _ = if out.is_table() {
            // A sentence is whole on every terminal.
            out.heading(format!("{:>7.3} s  {what}", millis as f64 / 1000.0))
        } else {
            let at = u64::try_from(millis).unwrap_or(u64::MAX);
            out.line(|| json!({"at_ms": at, "event": what}), String::new)
        };
    }
}

pub(super) async fn demo(args: DemoArgs) -> anyhow::Result<Exit> {
    let story = Story(Arc::new(Mutex::new(Output::new(args.print))), Instant::now());
    let server = Server::bind("127.0.0.1:0", Config::default()).await?;
    let address = server.local_addr();
    let stop = server.stop_token();
    let serving = tokio::spawn(server.run());
    story.tell(&format!("a server listens on http://{address}, in memory"));
    let done = tokio::select! {
        done = play(&args, &story, address) => done,
        exit = signalled() => return Ok(exit),
    };
    stop.cancel();
    serving.await?;
    let (produced, read) = done?;
    let mut seen = vec![0_u64; usize::try_from(produced)?];
    let mut strange = 0_u64;
    let mut in_order = true;
    for (at, number) in read.iter().enumerate() {
        match seen.get_mut(usize::try_from(*number)?) {
            Some(count) => *count += 1,
            None => strange += 1,
        }
        in_order &= at as u64 == *number;
    }
    let lost = seen.iter().filter(|count| **count == 0).count() as u64;
    let duplicated: u64 = seen.iter().map(|count| count.saturating_sub(1)).sum::<u64>() + strange;
    let mut out = story.0.lock().unwrap_or_else(PoisonError::into_inner);
    out.answer(
        || json!({"produced": produced, "read": read.len(), "lost": lost, "duplicated": duplicated}),
        || format!("produced {produced}, read {}, lost {lost}, duplicated {duplicated}", read.len()),
    )?;
    if lost + duplicated > 0 || !in_order {
        anyhow::bail!("what was read is not what was produced");
    }
    Ok(Exit::Done)
}

/// Produces and reads through a link that fails. Returns the number of produced messages, and the messages that were
/// read.
async fn play(
    args: &DemoArgs,
    story: &Story,
    server: std::net::SocketAddr,
) -> anyhow::Result<(u64, Vec<u64>)> {
    let link = Link::start(server).await?;
    let client = Client::builder(link.url()).retry_for(None).build()?;
    let stream =
        client.create("/demo", CreateOptions::new().content_type("application/json".to_owned())).await?;
    story.tell("a stream of JSON messages is made; a producer writes to it, a reader follows it");
    let reading = tokio::spawn(read(stream.clone(), story.clone()));
    let notices = story.clone();
    let options = ProducerOptions::new("demo")
        .config(ProducerConfig::default().linger(Duration::from_millis(1)))
        .on_notice(move |notice| match notice {
            Notice::Retry { cause, .. } => {
                notices.tell(&format!("producer: {cause}; the batch is sent again"))
            }
            Notice::Acknowledged(batch) if batch.duplicate => {
                notices.tell(&format!(
                    "producer: batch {} was there already, it is not written again",
                    batch.seq
                ));
            }
            _ => {}
        });
    let producer = IdempotentProducer::start(&stream, options).await?;
    let mut number = 0_u64;
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mischief = async {
        sleep(args.time / 4).await;
        story.tell("both connections are cut");
        link.cut();
        sleep(args.time / 4).await;
        story.tell("the next acknowledgement is lost");
        link.lose_an_answer();
        sleep(args.time / 4).await;
        story.tell("both connections are cut again");
        link.cut();
        sleep(args.time / 4).await;
    };
    tokio::pin!(mischief);
    loop {
        tokio::select! {
            () = &mut mischief => break,
            _ = pace.tick() => {
                producer.append_wait(json!({"n": number}).to_string()).await?;
                number += 1;
            }
        }
    }
    producer.flush().await?;
    story.tell(&format!("producer: all {number} messages are acknowledged; the stream is closed"));
    producer.close().await?;
    Ok((number, reading.await??))
}

/// Follows the stream to its end.
async fn read(stream: DurableStream, story: Story) -> anyhow::Result<Vec<u64>> {
    let mut reads = stream.read(ReaderConfig::default(), Checkpoint::at(Offset::START));
    let mut numbers = Vec::new();
    while let Some(event) = reads.next().await {
        match event? {
            ReadEvent::Piece(piece) => {
                if let relay_durable::Content::Messages(messages) = &piece.content {
                    for message in messages {
                        let value: Value = serde_json::from_slice(message)?;
                        numbers.push(value["n"].as_u64().unwrap_or(u64::MAX));
                    }
                }
            }
            ReadEvent::Retry(Retry { cause, .. }) => {
                let read = numbers.len();
                story.tell(&format!("reader: {cause}; it goes on behind the {read} messages it has"));
            }
            ReadEvent::End(_) => story.tell("reader: the stream is closed, and read to its end"),
            _ => {}
        }
    }
    Ok(numbers)
}
