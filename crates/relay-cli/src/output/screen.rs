//! Properties of standard output and standard error: terminal, width, colour.

use std::io;

use anstream::{AutoStream, ColorChoice};
use clap::ValueEnum;

/// When to use colour
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal that knows colour, unless NO_COLOR is set
    Auto,
    /// Always, also into pipes and files
    Always,
    /// Never
    Never,
}

impl Color {
    /// Makes it the choice for everything that this process prints.
    pub(crate) fn apply(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }
}

pub(crate) fn stdout_in_color() -> bool {
    AutoStream::choice(&io::stdout()) != ColorChoice::Never
}

pub(crate) fn stderr_in_color() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

/// Columns of the terminal that standard output is; `None` when it is none, or does not know how wide it is. Asked for
/// each line, as it may change.
pub(crate) fn stdout_columns() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stdout()))
}

/// Columns of the terminal that standard error is, as [`stdout_columns`].
pub(super) fn stderr_columns() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stderr()))
}

fn columns(size: Option<(terminal_size::Width, terminal_size::Height)>) -> Option<usize> {
    size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
}

/// Tells people something beside the output: a line on standard error.
pub(crate) fn note(text: &str) {
    // Nobody is left to be told when it fails.
    crate::log::say(&format!("relay: {}", super::text::escaped(text)));
}
