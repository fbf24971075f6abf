//! The service for a contract-test harness of SSE clients: it follows streams on request and reports what it
//! receives.
//!
//! `sse-contract-service --listen 127.0.0.1:8000` prints where it listens and serves until it is told to exit. It
//! does not know the expectations of the tests. Unpublished.
//!
//! | request | effect |
//! | --- | --- |
//! | `GET /` | name and capabilities |
//! | `POST /` | follows a stream; the answer's `Location` names it |
//! | `POST /streams/N` | a command for it: `restart`, `listen` |
//! | `DELETE /streams/N` | gives it up |
//! | `DELETE /` | exits |

mod service;
mod subject;

use std::io::Write;
use std::process::ExitCode;

use tokio::net::TcpListener;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some("--listen"), Some(addr), None) =
        (arguments.next().as_deref(), arguments.next(), arguments.next())
    else {
        let _ = writeln!(std::io::stderr(), "usage: sse-contract-service --listen ADDR");
        return ExitCode::from(2);
    };
    match serve(&addr).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{addr}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(addr: &str) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(addr).await?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{}", listener.local_addr()?)?;
    out.flush()?;
    service::serve(listener).await?;
    Ok(())
}
