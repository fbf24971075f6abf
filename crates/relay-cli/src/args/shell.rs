//! Flags of `relay completions` and `relay man`.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use clap_complete::Shell;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Examples:
  relay completions bash > ~/.local/share/bash-completion/completions/relay
  relay completions zsh > \"${fpath[1]}/_relay\"
  relay completions fish > ~/.config/fish/completions/relay.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ManArgs {
    /// Folder for the pages, one per command; made when it is not there
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}
