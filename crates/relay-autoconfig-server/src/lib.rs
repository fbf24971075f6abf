//! Serves a file of environments as an auto-configuration stream: every change of the file becomes an event.
//!
//! - A subscriber first gets everything (`put`), and then changes (`patch`, `delete`). Each event is encoded once.
//!   A slow subscriber gets only the last event of each id, and so takes no memory.
//! - Versions are kept in a file of their own, which is synced before an event is sent, and never go back. That
//!   file holds no keys.
//! - When the file cannot be read, or breaks a rule, the last good version is still served.
//!
//! **What it does not do:** no TLS, no data of an environment, no more than one file. It does not depend on the
//! client crate.
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

pub use relay_proto::autoconfig::AutoConfigKey;
pub use relay_state::files::FileError as StateFileError;
