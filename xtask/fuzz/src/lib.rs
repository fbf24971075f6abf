//! Properties that hold for any input, as functions of bytes, called by fuzz targets and tests.

pub mod autoconfig;
pub mod durable;
pub mod eventsource;
pub mod parsec;
pub mod sse;
