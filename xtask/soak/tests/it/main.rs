//! A short run, in which every fault happens.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use relay_soak::Soak;
use relay_testkit::within;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_rounds_with_every_fault_lose_nothing() {
    let mut soak = Soak::default();
    // The seed; the number of rounds, in which every fault occurs at least once; and the length of the faults.
    (soak.seed, soak.rounds, soak.faults_for) = (7, 4, Duration::from_millis(1200));
    let seed = soak.seed;
    let report = within("the rounds", soak.run(|_| {})).await;
    let report = report
        .unwrap_or_else(|why| panic!("seed {seed}: {why}\nlonger: cargo xtask soak --for 1m --seed {seed}"));
    assert!(report.events > 300 && report.conflated > 0, "{report}");
    println!("{report}");
}
