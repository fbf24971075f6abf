//! Real relays and real clients under random faults, for a given time.
//!
//! A [`Soak`] runs in rounds. In each a simulated cluster changes while links cut, reset, hang, delay, trickle and
//! refuse connections, relays restart with the same log and with a new one, logs are trimmed, and followers are
//! slow, killed and started again from their saved positions. Then the faults end, and all followers must catch up:
//! eight followers, one for each combination of replay or plain state, filtered or not, conflated or not, must have
//! the pods of the ledger, which records each event where the store takes it. During the run every event and every
//! acknowledgement is checked: no event comes twice, none is lost without a gap, none is acknowledged before it was
//! seen.
//!
//! In addition, [`disks`] runs logs on simulated disks from a seed. There a run can be repeated exactly, except for
//! syncs at an interval, which have a thread of their own.
//!
//! **What it does not do:** it cannot repeat a run exactly. The seed decides the faults and their order; sockets and
//! the scheduler decide where in the stream they occur. It does not reorder bytes either, as TCP keeps their order;
//! `relay-state` tests messages out of order with the fold alone. It is not part of the product.
//!
//! ```no_run
//! use std::time::Duration;
//! use relay_soak::Soak;
//!
//! # async fn run() -> Result<(), String> {
//! let mut soak = Soak::default();
//! soak.time = Duration::from_secs(600);
//! println!("{}", soak.run(|minute| println!("{minute}")).await?);
//! # Ok(())
//! # }
//! ```

mod audit;
mod autoconfig;
mod bus;
mod disk;
mod follower;
mod ledger;
mod meter;
mod process;
mod soak;

pub use autoconfig::{AutoconfigReport, autoconfig};
pub use bus::{BusReport, bus};
pub use disk::{DiskReport, disks};
pub use meter::Sample;
pub use soak::{Report, Soak};
