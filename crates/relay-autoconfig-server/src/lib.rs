//! Serves a file of environments as an auto-configuration stream: the file says what the environments should be, every
//! change of it becomes an event.
//!
//! - A subscriber is sent everything there is at once (`put`), and then what changes (`patch`, `delete`). Each event is
//!   encoded once. One that lags is sent the last of each id, whatever it has missed, and so costs no memory.
//! - Versions are kept in a file of their own, on disk before anyone is told, and never go back. That file holds no
//!   keys.
//! - A file that cannot be read, or breaks a rule, changes nothing: what was last good is served on.
//!
//! **What it does not do:** no TLS, no data of an environment, no more than one file. It knows nothing of the
//! client's end.
//!
//! ```no_run
//! use relay_autoconfig_server::Server;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder("environments.yaml").bind("127.0.0.1:0".parse()?).await?;
//! println!("listening on http://{}", server.local_addr());
//! server.run(std::future::pending()).await;
//! # Ok(())
//! # }
//! ```

mod access;
mod file;
mod hub;
mod node;
mod server;
mod service;
mod versions;

pub use access::{AccessError, Keys};
pub use file::FileError;
pub use server::{Builder, Handle, Server, StartError};
pub use versions::VersionsError;
