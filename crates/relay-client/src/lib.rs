//! Client of the Pod Event Relay.
