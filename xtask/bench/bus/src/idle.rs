//! Memory of an idle channel with one subscription.

use anyhow::Result;
use relay_bench_report::{Bar, Figure, Options};

use crate::process::{Part, objects};

pub(crate) fn run(_: &Options) -> Result<Vec<Figure>> {
    let directory = tempfile::tempdir()?;
    let mut memory = Vec::new();
    for channels in [1_000, 11_000] {
        let file = objects(directory.path(), channels, &["http://127.0.0.1:1/".to_owned()])?;
        let mut bus = Part::own(&["child-bus", &file.to_string_lossy(), "1024", "67108864"])?;
        bus.address()?;
        memory.push(bus.memory()?);
    }
    let each = (memory[1] - memory[0]) / 10_000.0 / 1024.0;
    let name = "per idle channel with a subscription, 1,000 to 11,000 of them";
    Ok(vec![Figure::new("idle", name, "KiB", each).bar(Bar::AtMost(8.0))])
}
