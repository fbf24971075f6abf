//! Sans-IO wire formats of event relays: SSE codec, connection machine, pod messages.

#[cfg(feature = "pods")]
pub mod pods;
