//! `interop bus`: a bus whose messages are kept by a real NATS server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use self::nats::Nats;
use self::of_2018::{Chain, Kind};
use self::subscriber::{Sender, Subscriber, send};
use super::printing::Printing;
use super::relay::SOON;
use super::{Run, wait_for};

mod nats;
mod of_2018;
mod subscriber;

/// The number of kills of the bus under traffic, and the messages per second during that time.
const KILLS: usize = 20;
const RATE: u64 = 500;

/// Runs the suite.
pub(super) fn run(run: &mut Run) -> Result<()> {
    // NATS comes first, because it may be missing.
    let mut nats = Nats::start(run.directory())?;
    let relay = run.relay()?;
    in_one_chain(run, &relay)?;
    let world = World::new(relay, run.directory(), &nats)?;
    let mut bus = Some(world.serve()?);

    run.step("what is answered with 202 reaches every subscription, and is acknowledged", || {
        let (_, url) = bus.as_ref().context("no bus")?;
        for number in 0..50 {
            ensure!(send(url, "c.default", &format!("first-{number}"))? == 202);
        }
        for number in 0..50 {
            world.one.wait_for(&format!("first-{number}"))?;
            world.two.wait_for(&format!("first-{number}"))?;
        }
        ensure!(send(url, "absent.default", "x")? == 404);
        let stream = nats.ask("$JS.API.STREAM.INFO.relay_default_c", "")?;
        ensure!(stream["config"]["subjects"][0] == "relay.default.c", "{stream}");
        ensure!(
            stream["config"]["retention"] == "interest" && stream["config"]["storage"] == "file",
            "{stream}"
        );
        let consumer = nats.ask("$JS.API.CONSUMER.INFO.relay_default_c.relay_default_one", "")?;
        ensure!(consumer["config"]["ack_policy"] == "explicit", "{consumer}");
        wait_for("everything to be acknowledged", SOON, || {
            let stream = nats.ask("$JS.API.STREAM.INFO.relay_default_c", "")?;
            Ok((stream["state"]["messages"] == 0).then_some(()))
        })
    });
    run.step("a failed delivery is tried again and does not hold up later ones", || {
        let (bus, url) = bus.as_mut().context("no bus")?;
        let start = bus.seen.len();
        world.one.answers(500);
        ensure!(send(url, "c.default", "fails")? == 202);
        world.one.wait_for("fails")?;
        world.one.answers(202);
        ensure!(send(url, "c.default", "later")? == 202);
        world.one.wait_for("later")?;
        let failed = bus.until("the failed try", start, |line| line["event"] == "dispatch-failed")?;
        ensure!(failed["final"] == false && failed["tries"] == 1, "{failed}");
        wait_for("the second try", SOON, || {
            Ok((world.one.bodies().iter().filter(|body| *body == "fails").count() >= 2).then_some(()))
        })
    });
    run.step("what was in flight at a kill comes again within 15 s", || {
        world.one.answers(0);
        let (killed, url) = bus.take().context("no bus")?;
        for number in 0..10 {
            ensure!(send(&url, "c.default", &format!("flight-{number}"))? == 202);
        }
        (0..10).try_for_each(|number| world.one.wait_for(&format!("flight-{number}")))?;
        killed.kill()?;
        world.one.answers(202);
        let before = world.one.bodies().len();
        let begin = Instant::now();
        bus = Some(world.serve()?);
        wait_for("all of them", Duration::from_secs(15), || {
            let again: BTreeSet<_> = world.one.bodies().into_iter().skip(before).collect();
            let flights = again.iter().filter(|body| body.starts_with("flight-")).count();
            Ok((flights == 10).then_some(()))
        })?;
        ensure!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        Ok(())
    });
    run.step("while NATS is away messages are refused, and nothing is lost", || {
        let (_, url) = bus.as_ref().context("no bus")?;
        nats.kill()?;
        wait_for("503", SOON, || Ok((send(url, "c.default", "away")? == 503).then_some(())))?;
        ensure!(send(url, "absent.default", "away")? == 503, "nobody knows which channels there are");
        nats.run()?;
        wait_for("202", SOON, || Ok((send(url, "c.default", "back")? == 202).then_some(())))?;
        world.one.wait_for("back")?;
        world.two.wait_for("back")
    });
    run.step("a bus that starts without NATS takes messages soon after it came", || {
        let (stopped, _) = bus.take().context("no bus")?;
        stopped.stop(0)?;
        nats.kill()?;
        let (started, url) = world.serve()?;
        ensure!(send(&url, "c.default", "early")? == 503);
        // The delays of failing calls double from 5 ms: the next try by itself would be 20 s after the start.
        std::thread::sleep(Duration::from_millis(10_500));
        ensure!(send(&url, "c.default", "early")? == 503);
        nats.run()?;
        let begin = Instant::now();
        wait_for("202", SOON, || Ok((send(&url, "c.default", "soon")? == 202).then_some(())))?;
        ensure!(begin.elapsed() < Duration::from_secs(8), "not at once: {:?}", begin.elapsed());
        world.one.wait_for("soon")?;
        world.two.wait_for("soon")?;
        bus = Some((started, url));
        Ok(())
    });
    run.step("a stream whose position NATS lost in a kill loses no messages", || {
        for number in 0..3 {
            let body = format!("position-{number}");
            let (running, url) = bus.take().context("no bus")?;
            wait_for("everything to be acknowledged", SOON, || {
                let stream = nats.ask("$JS.API.STREAM.INFO.relay_default_c", "")?;
                Ok((stream["state"]["messages"] == 0).then_some(()))
            })?;
            nats.kill()?;
            nats.lose_position("relay_default_c")?;
            // The last time, the bus finds it at its start.
            let (running, url) = if number < 2 {
                nats.run()?;
                (running, url)
            } else {
                running.stop(0)?;
                nats.run()?;
                world.serve()?
            };
            wait_for("202", SOON, || Ok((send(&url, "c.default", &body)? == 202).then_some(())))?;
            [&world.one, &world.two, &world.three].into_iter().try_for_each(|one| one.wait_for(&body))?;
            bus = Some((running, url));
        }
        Ok(())
    });
    run.step("a consumer that somebody deleted is made again, and so is a stream", || {
        let (_, url) = bus.as_ref().context("no bus")?;
        // NATS 2.9 may write to the directory of the consumer while it removes it, and then reports that the removal
        // failed.
        wait_for("the deletion", SOON, || {
            let deleted = nats.ask("$JS.API.CONSUMER.DELETE.relay_default_c.relay_default_one", "")?;
            Ok((deleted["success"] == true || deleted["error"]["code"] == 404).then_some(()))
        })?;
        wait_for("the consumer", SOON, || {
            let consumer = nats.ask("$JS.API.CONSUMER.INFO.relay_default_c.relay_default_one", "")?;
            Ok(consumer["config"].is_object().then_some(()))
        })?;
        wait_for("202", SOON, || Ok((send(url, "c.default", "consumer")? == 202).then_some(())))?;
        world.one.wait_for("consumer")?;
        let begin = Instant::now();
        nats.ask("$JS.API.STREAM.DELETE.relay_default_c", "")?;
        wait_for("202", SOON, || Ok((send(url, "c.default", "stream")? == 202).then_some(())))?;
        ensure!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        world.one.wait_for("stream")?;
        world.two.wait_for("stream")
    });
    run.step(
        "a changed subscriber keeps the position; what goes takes its consumer and stream along",
        || {
            let (bus, url) = bus.as_mut().context("no bus")?;
            let start = bus.seen.len();
            world.one.answers(500);
            ensure!(send(url, "c.default", "moves")? == 202);
            world.one.wait_for("moves")?;
            let three = Subscriber::start()?;
            world.write(&[("one", three.url()), ("two", world.two.url())], true)?;
            three.wait_for("moves")?;
            world.one.answers(202);
            world.write(&[("two", world.two.url())], true)?;
            wait_for("the end of the consumer", SOON, || {
                let consumer = nats.ask("$JS.API.CONSUMER.INFO.relay_default_c.relay_default_one", "")?;
                Ok((consumer["error"]["code"] == 404).then_some(()))
            })?;
            world.write(&[], false)?;
            wait_for("the end of the stream", SOON, || {
                let stream = nats.ask("$JS.API.STREAM.INFO.relay_default_c", "")?;
                Ok((stream["error"]["code"] == 404).then_some(()))
            })?;
            world.write(&world.all(), true)?;
            bus.until("all of it again", start, |line| {
                line["event"] == "reloaded" && line["subscriptions"] == 3
            })?;
            Ok(())
        },
    );
    run.step(
        &format!("{KILLS} kills under {RATE} messages a second: nothing that was taken is lost"),
        || {
            let (bus, url) = bus.take().context("no bus")?;
            world.kills(bus, url)
        },
    );
    Ok(())
}

/// A bus of this project and one of 2018 in one chain of channels.
fn in_one_chain(run: &mut Run, relay: &Path) -> Result<()> {
    let of_2018 = of_2018::build()?;
    let directory = run.directory().to_owned();
    let chain = Chain { relay, of_2018: &of_2018, directory: &directory };
    let (kinds, mut before) = ([Kind::Ours, Kind::Of2018], None);
    run.step("a chain of two buses of 2018 does what its senders and subscribers expect", || {
        before = Some(chain.run(Kind::Of2018, Kind::Of2018)?);
        Ok(())
    });
    for (first, second) in kinds.into_iter().flat_map(|first| kinds.map(|second| (first, second))).take(3) {
        run.step(&format!("a chain of {first:?} and {second:?} cannot be told from it"), || {
            let before = before.as_ref().context("nothing to compare it with")?;
            let now = chain.run(first, second)?;
            ensure!(now == *before, "now {now:#?}\nand in 2018 {before:#?}");
            Ok(())
        });
    }
    Ok(())
}

/// The bus, its objects, and three subscriptions.
struct World {
    relay: PathBuf,
    directory: PathBuf,
    nats: String,
    one: Subscriber,
    two: Subscriber,
    three: Subscriber,
}

impl World {
    fn new(relay: PathBuf, directory: &Path, nats: &Nats) -> Result<Self> {
        let start = Subscriber::start;
        let (one, two, three) = (start()?, start()?, start()?);
        let world = Self { relay, directory: directory.to_owned(), nats: nats.url(), one, two, three };
        world.write(&world.all(), true)?;
        Ok(world)
    }

    fn all(&self) -> [(&'static str, String); 3] {
        [("one", self.one.url()), ("two", self.two.url()), ("three", self.three.url())]
    }

    /// Writes a channel, if it is wanted, and subscriptions by name and subscriber.
    fn write(&self, subscriptions: &[(&str, String)], channel: bool) -> Result<()> {
        let version = "apiVersion: channels.knative.dev/v1alpha1";
        let mut text = String::new();
        if channel {
            text += &format!("---\n{version}\nkind: Channel\nmetadata: {{name: c}}\n");
        }
        for (name, to) in subscriptions {
            text += &format!(
                "---\n{version}\nkind: Subscription\nmetadata: {{name: {name}}}\nspec: {{channel: c, subscriber: \"{to}\"}}\n"
            );
        }
        let new = self.directory.join("objects.new");
        std::fs::write(&new, text)?;
        std::fs::rename(new, self.directory.join("objects.yaml"))?;
        Ok(())
    }

    /// Starts a bus. Returns its URL once it is ready.
    fn serve(&self) -> Result<(Printing, String)> {
        let file = self.directory.join("objects.yaml").display().to_string();
        let words = ["bus", "serve", "--listen", "127.0.0.1:0", "--file", &file, "--engine", "jetstream"];
        let more = ["--nats", &self.nats, "--retry-delay", "500ms"];
        let log = self.directory.join("bus.log");
        let mut bus = Printing::start(&self.relay, &[&words[..], &more].concat(), &log)?;
        let listening = bus.until("the first line", 0, |line| line["event"] == "listening")?;
        bus.until("ready", 0, |line| line["event"] == "ready")?;
        let url = listening["address"].as_str().context("it says no address")?.to_owned();
        Ok((bus, url))
    }

    fn kills(&self, bus: Printing, url: String) -> Result<()> {
        let place = Mutex::new(url);
        let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let taken = Mutex::new(Vec::new());
        let mut bus = std::thread::scope(|scope| -> Result<Printing> {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut sender = None;
                    while !over.load(Ordering::Acquire) {
                        let number = next.fetch_add(1, Ordering::AcqRel);
                        let body = format!("ledger-{number}");
                        let url = place.lock().expect("nobody panics with it").clone();
                        let connected = match sender.take() {
                            Some(connected) => Ok(connected),
                            None => Sender::connect(&url, "c.default"),
                        };
                        if let Ok(mut connected) = connected
                            && let Ok(status) = connected.send(&body)
                        {
                            if status == 202 {
                                taken.lock().expect("nobody panics with it").push(body);
                            }
                            sender = Some(connected);
                        }
                        std::thread::sleep(Duration::from_micros(8_000_000 / RATE));
                    }
                });
            }
            let work = || -> Result<Printing> {
                let mut bus = bus;
                for _ in 0..KILLS {
                    std::thread::sleep(Duration::from_millis(700));
                    bus.kill()?;
                    let (started, url) = self.serve()?;
                    *place.lock().expect("nobody panics with it") = url;
                    bus = started;
                }
                Ok(bus)
            };
            let last = work();
            over.store(true, Ordering::Release);
            last
        })?;
        let taken: BTreeSet<String> =
            taken.into_inner().expect("nobody panics with it").into_iter().collect();
        ensure!(taken.len() as u64 > RATE, "only {} messages were taken", taken.len());
        for (name, subscriber) in [("one", &self.one), ("two", &self.two), ("three", &self.three)] {
            let missing = || -> Vec<String> {
                let there: BTreeSet<_> = subscriber.bodies().into_iter().collect();
                taken.difference(&there).cloned().collect()
            };
            wait_for("every message", SOON, || Ok(missing().is_empty().then_some(())))
                .with_context(|| format!("{} of {} miss {name}", missing().len(), taken.len()))?;
        }
        bus.catch_up()?;
        let final_failures = bus.seen.iter().filter(|line: &&Value| line["final"] == true).count();
        ensure!(final_failures == 0, "{final_failures} were given up");
        println!("   {} messages answered with 202, each at three subscribers", taken.len());
        bus.stop(0)
    }
}
