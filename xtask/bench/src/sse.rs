//! Decoders of event streams.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use cpu_time::ThreadTime;

use crate::corpora::{self, Corpus};
use crate::measure::{self, Contender, Options, Result};

mod decoders;

use decoders::{ALL, Decoder, Sink};

const SIZE: usize = 2 << 20;

/// `bench sse`: throughput of every decoder on every corpus, then instructions per event.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let options = Options::parse(arguments)?;
    let wanted = |work: &str| options.only.as_deref().is_none_or(|only| work.contains(only));
    let corpora = corpora::all(SIZE);
    let mut rates = Vec::new();
    for corpus in &corpora {
        for &size in corpus.chunks {
            let work = format!("{}/{size}", corpus.name);
            if !wanted(&work) {
                continue;
            }
            let chunks = corpora::cut(&corpus.stream, size);
            eprintln!("{work}: {} events, {} bytes", corpus.events, corpus.stream.len());
            let contenders = contenders(corpus, &chunks)?;
            rates.extend(measure::throughput("sse", &work, corpus.stream.len(), &contenders, &options));
        }
    }
    let counts = instructions(&corpora, &options)?;
    println!("MB (10^6 bytes) per CPU second, medians of up to {} interleaved rounds:\n", options.rounds().0);
    println!("{}", measure::table(&rates));
    if !counts.is_empty() {
        println!("Instructions per event, chunks of 16 KiB (callgrind; less is better):\n");
        println!("{}", measure::table(&counts));
    }
    if let Some(path) = &options.json {
        rates.extend(counts);
        std::fs::write(path, measure::json(&rates)).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// All decoders, after a check that they find the same events.
fn contenders<'a>(corpus: &Corpus, chunks: &'a [Bytes]) -> anyhow::Result<Vec<Contender<'a>>> {
    let mut contenders = Vec::new();
    let mut agreed = None;
    for Decoder { name, decode } in ALL {
        let mut sink = Sink::checking();
        let start = ThreadTime::now();
        decode(chunks, &mut sink);
        let mut estimate = start.elapsed();
        ensure!(
            sink.events == corpus.events,
            "{name} sees {} events of {} in {}",
            sink.events,
            corpus.events,
            corpus.name
        );
        let digest = *agreed.get_or_insert(sink.digest());
        ensure!(sink.digest() == digest, "{name} sees other events than {} in {}", ALL[0].name, corpus.name);
        let pass = move || decode(chunks, &mut Sink::default());
        if estimate.as_millis() < 500 {
            let start = ThreadTime::now();
            pass();
            estimate = start.elapsed();
        }
        contenders.push(Contender { name: measure::labelled(name)?, pass: Box::new(pass), estimate });
    }
    let pass = || decoders::line_ends(chunks);
    let start = ThreadTime::now();
    pass();
    let estimate = start.elapsed();
    contenders.push(Contender { name: "limit:memchr2".into(), pass: Box::new(pass), estimate });
    Ok(contenders)
}

/// Runs this program under callgrind with one pass and with three: the difference is the cost of two passes, which is
/// divided by their events.
fn instructions(corpora: &[Corpus], options: &Options) -> anyhow::Result<Vec<Result>> {
    let mut results = Vec::new();
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        eprintln!("valgrind is not installed: instructions are not counted");
        return Ok(results);
    }
    // The other decoders are so much slower that their count is not interesting.
    let counted = if options.quick { &ALL[..2] } else { &ALL[..5] };
    for corpus in corpora {
        if corpus.name == "long-lines"
            || options.only.as_deref().is_some_and(|only| !corpus.name.contains(only))
        {
            continue;
        }
        for Decoder { name, .. } in counted {
            eprintln!("{}: counting instructions of {name}", corpus.name);
            let (once, events) = count(name, corpus.name, 1)?;
            let (thrice, _) = count(name, corpus.name, 3)?;
            results.push(Result {
                bench: "sse",
                work: corpus.name.to_owned(),
                name: measure::labelled(name)?,
                unit: "instructions/event",
                value: (thrice - once) as f64 / 2.0 / events as f64,
                runs: 1,
            });
        }
    }
    Ok(results)
}

fn count(decoder: &str, corpus: &str, passes: u32) -> anyhow::Result<(u64, u64)> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["sse-once", decoder, corpus, &passes.to_string(), "16384"])
        .output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "callgrind failed: {log}");
    let collected = log.lines().find_map(|line| line.split_once("Collected : "));
    let (_, instructions) = collected.context("callgrind did not say what it collected")?;
    Ok((instructions.trim().parse()?, String::from_utf8_lossy(&output.stdout).trim().parse()?))
}

/// `bench sse-once DECODER CORPUS PASSES CHUNK`: the run for callgrind or a profiler. Prints the number of events of a
/// pass.
pub fn once(arguments: &[String]) -> anyhow::Result<()> {
    let [decoder, corpus, passes, chunk] = arguments else {
        bail!("usage: sse-once DECODER CORPUS PASSES CHUNK");
    };
    let decoder = ALL.iter().find(|candidate| candidate.name == decoder).context("no such decoder")?;
    let corpora = corpora::all(256 << 10);
    let corpus = corpora.iter().find(|candidate| candidate.name == corpus).context("no such corpus")?;
    let chunks = corpora::cut(&corpus.stream, chunk.parse()?);
    for _ in 0..passes.parse::<u32>()? {
        (decoder.decode)(&chunks, &mut Sink::default());
    }
    println!("{}", corpus.events);
    Ok(())
}
