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
    /// Applies the choice to everything that this process prints.
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

/// The width of the terminal on standard output in columns; `None` if it is not a terminal, or does not know its width.
/// It is read for each line, because it may change.
pub(crate) fn stdout_columns() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stdout()))
}

/// The width of the terminal on standard error, like [`stdout_columns`].
pub(super) fn stderr_columns() -> Option<usize> {
    columns(terminal_size::terminal_size_of(io::stderr()))
}

fn columns(size: Option<(terminal_size::Width, terminal_size::Height)>) -> Option<usize> {
    size.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0)
}

/// Prints a line for people on standard error, in addition to the output.
pub(crate) fn note(text: &str) {
    // A failure here cannot be reported to anybody.
    crate::log::say(&format!("relay: {}", super::text::escaped(text)));
}
