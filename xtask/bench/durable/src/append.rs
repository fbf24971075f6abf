//! The time of single appends, one after another.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use relay_bench_report::{Bar, Options, median, quantile};
use relay_durable::{AppendOptions, CreateOptions};

use crate::bare::Bare;
use crate::server::Running;
use crate::{Figures, peer, read};

const KIND: &str = "text/plain";

pub(crate) fn run(options: &Options, server: &Running, figures: &mut Figures) -> Result<()> {
    let (rounds, appends) = (options.pick(5, 15), options.pick(200, 400));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let message = Bytes::from(vec![b'x'; 100]);
    let (mut ours, mut bare, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut medians, mut bare_medians) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        runtime.block_on(async {
            let client = server.client()?;
            let stream = client
                .create(&server.fresh("append"), CreateOptions::new().content_type(KIND.to_owned()))
                .await?;
            let times = &mut Vec::new();
            for at in 0..appends {
                let began = Instant::now();
                stream.append(message.clone(), AppendOptions::new()).await?;
                // The first append opens the connection, so it is not counted.
                if at > 0 {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
            read::expect_bytes(server, &stream, 100 * appends).await?;
            medians.push(median(times));
            ours.append(times);

            let stream = client
                .create(&server.fresh("bare"), CreateOptions::new().content_type(KIND.to_owned()))
                .await?;
            let mut connection = Bare::connect(stream.url()).await?;
            for at in 0..appends {
                let began = Instant::now();
                connection.post(stream.url(), KIND, message.clone()).await?;
                if at > 0 {
                    times.push(began.elapsed().as_secs_f64() * 1e3);
                }
            }
            read::expect_bytes(server, &stream, 100 * appends).await?;
            bare_medians.push(median(times));
            bare.append(times);
            anyhow::Ok(())
        })?;
    }
    if let Some(times) = peer::run("append", &server.url, &server.fresh("theirs"), appends)? {
        theirs = times;
    }
    for (name, times) in [("relay-durable", &ours), ("hyper, bare POST", &bare), (peer::NAME, &theirs)] {
        if !times.is_empty() {
            figures.add(format!("{name}, p50"), "ms", median(times));
            figures.add(format!("{name}, p99"), "ms", quantile(times, 0.99));
        }
    }
    let ratios: Vec<f64> = medians.iter().zip(&bare_medians).map(|(ours, bare)| ours / bare).collect();
    figures.held("p50 of relay-durable / bare POST", "", median(&ratios), Some(Bar::AtMost(1.2)));
    Ok(())
}
