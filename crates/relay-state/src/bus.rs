//! The monitor of a channel bus: when to call provision, unprovision, subscribe and unsubscribe, in an order that
//! stays correct through any order of changes, failures, lists and restarts.
//!
//! [`Monitor`] is fed with lists and changes of the four kinds of objects, with the results of calls and writes,
//! and with the time. It returns the calls to make, the conditions and finalizers to write, the events to send, and
//! the time of the next poll. It reads no clock, opens no socket and knows no Kubernetes client: `relay-bus` drives
//! it with a cluster or with a file.
//!
//! ```
//! use relay_proto::bus::{BusReference, Kind, Object};
//! use relay_state::bus::{Action, Monitor, Now, Settings};
//! use serde_json::json;
//!
//! let now = Now::default();
//! let mut monitor = Monitor::new(Settings::new(Some(BusReference::cluster("stub"))));
//! let bus = json!({"metadata": {"name": "stub"}, "spec": {}});
//! let channel = json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": {"clusterBus": "stub"}});
//! monitor.handle_list(Kind::ClusterBus, vec![Object::from_value(Kind::ClusterBus, &bus)?], &[], now);
//! monitor.handle_list(Kind::Channel, vec![Object::from_value(Kind::Channel, &channel)?], &[], now);
//! monitor.handle_list(Kind::Subscription, vec![], &[], now);
//!
//! let mut calls = Vec::new();
//! while let Some(action) = monitor.poll(now) {
//!     if let Action::Call(job) = action {
//!         calls.push(job.call.name());
//!         monitor.handle_called(&job.key, Ok(()), now);
//!     }
//! }
//! assert_eq!(calls, ["bus", "provision"]);
//! # Ok::<(), relay_proto::bus::InvalidObject>(())
//! ```

mod action;
mod limits;
mod lookup;
mod monitor;
mod need;
mod record;
mod settle;
mod tell;
#[cfg(test)]
mod tests;
mod write;

pub use action::{Action, Call, Handlers, Job, Key, Note, Now, Patch, Settings, Write, Written};
pub use monitor::Monitor;
