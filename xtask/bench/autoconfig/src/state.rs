//! Decoding and applying, compared with serde_json reading the same text into plain structs.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use relay_proto::autoconfig::Message;
use relay_state::environments::{Environments, Now};
use serde::Deserialize;

use crate::{Figure, figure, median};

const MANY: usize = 10_000;
const NOW: u64 = 1_700_000_000_000;

/// The structs of a program that knows no versions, refusals or expiries.
#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, and that is all")]
struct Put {
    path: String,
    data: Content,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, and that is all")]
struct Content {
    environments: HashMap<String, Environment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "it is read, and that is all")]
struct Environment {
    #[serde(rename = "envID")]
    env_id: String,
    env_key: String,
    env_name: String,
    mob_key: String,
    proj_key: String,
    proj_name: String,
    sdk_key: SdkKey,
    default_ttl: i64,
    secure_mode: bool,
    version: i64,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, and that is all")]
struct SdkKey {
    value: String,
    expiring: Expiring,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, and that is all")]
struct Expiring {
    value: String,
    timestamp: u64,
}

/// An environment of about 600 bytes, with a key that expires.
fn environment(number: usize, version: i64) -> String {
    let pad = "x".repeat(110);
    format!(
        r#"{{"envID":"62b3f0d1a9c84e5f7a{number:06}","envKey":"production-{number}-{pad}","envName":"Production {number}","mobKey":"mob-6f9619ff-8b86-d011-b42d-00cf4f{number:06}","projKey":"project-{number}","projName":"Project {number} {pad}","sdkKey":{{"value":"sdk-6f9619ff-8b86-d011-b42d-00cf4f{number:06}","expiring":{{"value":"sdk-0f8fad5b-d9cb-469f-a165-70867{number:06}","timestamp":{}}}}},"defaultTtl":5,"secureMode":false,"version":{version}}}"#,
        NOW + 1 + number as u64
    )
}

fn put(count: usize) -> String {
    let environments: Vec<String> =
        (0..count).map(|i| format!(r#""62b3f0d1a9c84e5f7a{i:06}":{}"#, environment(i, 1))).collect();
    format!(r#"{{"path":"/","data":{{"environments":{{{}}}}}}}"#, environments.join(","))
}

fn apply(environments: &mut Environments, event: &str, text: &str) -> Result<usize> {
    let message = Message::decode(event, text).context("the corpus decodes")?;
    Ok(environments.apply(message, Now::at(NOW)).events.len())
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let begin = Instant::now();
    let result = work();
    (begin.elapsed().as_secs_f64(), result)
}

pub(crate) fn run(quick: bool) -> Result<Vec<Figure>> {
    let rounds = if quick { 7 } else { 21 };
    let text = put(MANY);
    println!("a put of {MANY} environments of {} bytes", text.len() / MANY);
    let (mut plain, mut first, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        // The values are dropped outside the measured time.
        let (time, read) = timed(|| serde_json::from_str::<Put>(&text));
        ensure!(read?.data.environments.len() == MANY);
        plain.push(time);
        let mut environments = Environments::default();
        let (time, events) = timed(|| apply(&mut environments, "put", &text));
        ensure!(events? == MANY + 1, "all are added");
        first.push(time);
        let (time, events) = timed(|| apply(&mut environments, "put", &text));
        ensure!(events? == 1, "nothing is new");
        again.push(time);
    }
    let plain = median(plain);
    let mut figures = vec![
        figure("a put of 10,000, next to reading it into structs", median(first) / plain, "x", 2.0),
        figure("the same put again", median(again) / plain, "x", 1.3),
    ];
    let mut environments = Environments::default();
    let held = allocation_counter::measure(|| drop(apply(&mut environments, "put", &text)));
    let stays = allocation_counter::measure(|| drop(apply(&mut environments, "put", &text)));
    figures.push(figure("held per environment", held.bytes_current as f64 / MANY as f64, "bytes", 1536.0));
    figures.push(figure("what stays of the same put again", stays.bytes_current as f64, "bytes", 0.0));
    figures.push(patches(rounds)?);
    figures.push(deadlines(rounds)?);
    Ok(figures)
}

/// A patch of each of ten environments, among 10,000 and among ten.
fn patches(rounds: usize) -> Result<Figure> {
    const EACH: i64 = 400;
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (count, times) in [10, MANY].into_iter().zip(&mut times) {
            let mut environments = Environments::default();
            apply(&mut environments, "put", &put(count))?;
            let texts: Vec<String> = (0..EACH)
                .map(|i| {
                    let number = i as usize % 10;
                    let id = format!("62b3f0d1a9c84e5f7a{number:06}");
                    format!(r#"{{"path":"/environments/{id}","data":{}}}"#, environment(number, i + 2))
                })
                .collect();
            let (time, events) = timed(|| {
                texts.iter().map(|text| apply(&mut environments, "patch", text).unwrap_or(0)).sum::<usize>()
            });
            ensure!(events == EACH as usize, "each is an update");
            times.push(time);
        }
    }
    let [few, many] = times.map(median);
    println!(
        "a patch: {:.2} us among 10, {:.2} us among {MANY}",
        few / EACH as f64 * 1e6,
        many / EACH as f64 * 1e6
    );
    Ok(figure("a patch among 10,000, next to one among 10", many / few, "x", 1.3))
}

/// The time to find the next deadline.
fn deadlines(rounds: usize) -> Result<Figure> {
    const ASKED: u32 = 100_000;
    let mut times = [Vec::new(), Vec::new()];
    let sets = [10, 100_000].map(|count| {
        let mut environments = Environments::default();
        apply(&mut environments, "put", &put(count)).map(|_| environments)
    });
    let sets = [sets[0].as_ref(), sets[1].as_ref()];
    for _ in 0..rounds {
        for (set, times) in sets.into_iter().zip(&mut times) {
            let Ok(environments) = set else { anyhow::bail!("the corpus decodes") };
            let (time, ()) = timed(|| {
                for _ in 0..ASKED {
                    black_box(black_box(environments).next_deadline());
                }
            });
            times.push(time);
        }
    }
    let [few, many] = times.map(median);
    Ok(figure("the next deadline of 100,000 keys, next to 10", many / few, "x", 2.0))
}
