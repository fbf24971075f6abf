//! Flags of `relay sse`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;

use super::value::duration;
use super::{PrintLines, Reconnect, Transport, Until};

#[derive(Debug, ClapArgs)]
pub(crate) struct SseArgs {
    /// Address of the stream
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Header of every request, 'Name: value'; repeat for more
    #[arg(short = 'H', long = "header", value_name = "HEADER", help_heading = "Request")]
    pub(crate) headers: Vec<String>,
    /// Method. Default: GET, with --request-data POST
    #[arg(short = 'X', long = "request", value_name = "METHOD", help_heading = "Request")]
    pub(crate) method: Option<String>,
    /// Body of every request; JSON is sent as application/json, unless a header says otherwise
    #[arg(short = 'd', long = "request-data", value_name = "TEXT", help_heading = "Request")]
    pub(crate) body: Option<String>,
    /// Resume after this event id
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    pub(crate) last_event_id: Option<String>,
    /// Keep the last event id in this file and resume from it; belongs to one URL
    #[arg(long, env = "RELAY_CURSOR_FILE", value_name = "FILE")]
    pub(crate) cursor_file: Option<PathBuf>,
    /// Only events of this name; repeat for more
    #[arg(long = "event", value_name = "NAME", help_heading = "Output")]
    pub(crate) events: Vec<String>,
    /// Only the data of each event, and a line feed
    #[arg(long, conflicts_with_all = ["output", "parse"], help_heading = "Output")]
    pub(crate) data: bool,
    /// Print data that is JSON as JSON, not as a string
    #[arg(long, help_heading = "Output")]
    pub(crate) parse: bool,
    /// Tell of connections and comments, on stderr
    #[arg(short = 'v', long, help_heading = "Output")]
    pub(crate) verbose: bool,
    /// Longest silence of a connection before another is made; 0: for ever
    #[arg(long, default_value = "0", value_name = "DURATION", value_parser = duration, help_heading = "Reconnecting")]
    pub(crate) idle_timeout: Duration,
    #[command(flatten)]
    pub(crate) reconnect: Reconnect,
    #[command(flatten)]
    pub(crate) until: Until,
    #[command(flatten)]
    pub(crate) transport: Transport,
    #[command(flatten)]
    pub(crate) print: PrintLines,
}
