//! `relay completions` and `relay man`: what a shell and a reader of manuals want.

use std::io::Write;

use anyhow::Context as _;
use clap::CommandFactory;

use crate::args::{Args, CompletionsArgs, ManArgs};
use crate::exit::Exit;

pub(crate) fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "relay", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script).and_then(|()| out.flush())?;
    Ok(Exit::Done)
}

pub(crate) fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    clap_mangen::generate_to(Args::command(), folder).with_context(|| format!("{}", folder.display()))?;
    Ok(Exit::Done)
}
