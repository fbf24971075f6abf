//! Test peers: scripted HTTP and SSE servers, a seeded fault link.
