//! The Pod Event Relay server as a library.
