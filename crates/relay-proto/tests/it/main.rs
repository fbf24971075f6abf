//! Integration tests of `relay-proto`.

#[cfg(feature = "autoconfig")]
#[path = "../../../../xtask/fuzz/src/autoconfig.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate, which this file belongs to")]
mod autoconfig;
#[cfg(feature = "autoconfig")]
mod autoconfig_messages;
#[cfg(feature = "durable")]
mod durable_exchanges;
#[path = "../../../../xtask/fuzz/src/eventsource.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate, which this file belongs to")]
mod eventsource_life;
mod eventsource_lives;
mod sse_cases;
mod sse_limits;
#[path = "../../../../xtask/fuzz/src/sse.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate, which this file belongs to")]
mod sse_model;
mod sse_properties;
mod sse_vectors;
