//! Integration tests of `relay-proto`.

mod sse_cases;
mod sse_limits;
#[path = "../../../../fuzz/src/sse.rs"]
#[allow(unreachable_pub, reason = "public in the fuzz crate, which this file belongs to")]
mod sse_model;
mod sse_properties;
mod sse_vectors;
