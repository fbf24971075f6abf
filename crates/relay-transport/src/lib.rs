//! Connections: drives the connection machine over hyper, TLS and tokio.
