//! Access to a Kubernetes API server: kubeconfigs and credentials, a small client, and a list-and-watch without
//! holes.
//!
//! * [`Kubeconfig`] reads the files of `kubectl`, and [`Access`] is the address and credentials of one of its
//!   contexts, or of the service account of the pod we run in. Servers and the command line share this reader.
//! * [`KubeClient`] sends single requests: pages of lists, objects, creates, merge patches.
//! * [`Watcher`] follows all objects of a [`Resource`] by list and watch, as [`Event`]s. It never ends; an
//!   interruption is an event, too.
//!
//! It is no general client: no typed API objects, no caches, no controllers, no server-side apply, no exec or
//! port-forward. We do not use kube-rs because its watchers do not report two things that a relay needs: that a
//! watch was accepted again after a failure (a quiet cluster is live, not stale), and that the versions of a
//! cluster went back.
//!
//! Tokens are in types that do not print, and no response body is logged or quoted in an error.
//!
//! ```no_run
//! use relay_kube::{Access, Event, KubeClient, Resource, Watcher};
//!
//! # async fn run() -> Result<(), relay_kube::Error> {
//! let client = KubeClient::connect(Access::infer()?).await?;
//! let config_maps = Resource::new("", "v1", "configmaps");
//! let mut watcher: Watcher<serde_json::Value> = Watcher::new(client, config_maps).namespace("prod");
//! loop {
//!     match watcher.next().await {
//!         Event::Listed { objects, .. } => println!("{} objects, and no others", objects.len()),
//!         Event::Applied(object) => println!("{} is new or changed", object.meta.name),
//!         Event::Deleted(object) => println!("{} is gone", object.meta.name),
//!         Event::Live => println!("up to date"),
//!         Event::Interrupted(interruption) => println!("what is known may be old: {}", interruption.reason),
//!         _ => {}
//!     }
//! }
//! # }
//! ```

mod access;
mod client;
mod error;
mod exec;
mod kubeconfig;
mod resource;
mod watcher;

pub use access::{Access, Authorization, CallerSettings};
pub use client::{KubeClient, ListQuery, Object, Page, WatchBody};
pub use error::{Error, Status};
pub use kubeconfig::Kubeconfig;
pub use resource::{ObjectMeta, Resource};
pub use watcher::{Event, Interruption, Watcher};
