//! What /proc and the host's files say: processes, containers, users, identity.
//!
//! `reading.rs` (bounded reads) → `stat.rs`, `status.rs`, `sockets.rs`, `mounts.rs` (pure parsers) → `processes.rs`
//! ([`ProcReader`]) · `listening/` (what listens, and who holds it) · `container.rs` (cgroup path to container) → `cgroups.rs` (cgroup id to container) · `identity.rs` ·
//! `users.rs` · `resources.rs`, `sampler.rs` (what a process costs) · `pressure.rs`, `load.rs` (how the host does) ·
//! `own_cgroups.rs` (where this process stands).
//!
//! Every reader takes the root it reads below, so that a test can hand it a made-up tree, and reads no file further than
//! a limit. Nothing here follows or trusts a name: names are bytes an attacker chose.

#![forbid(unsafe_code)]

mod cgroups;
mod container;
mod identity;
mod listening;
mod load;
mod mounts;
mod own_cgroups;
mod pressure;
mod processes;
mod reading;
mod resources;
mod sampler;
mod sockets;
mod stat;
mod status;
mod users;

pub use cgroups::{CgroupId, Cgroups};
pub use container::container_of_path;
pub use identity::{Identity, IdentityError, boot_now, booted};
pub use listening::{Found, HolderWalk, Listener, ListenerKey, Listing, Transport, diag_datagram};
pub use load::{Load, load};
pub use mounts::{Mount, mounts};
pub use own_cgroups::{OwnCgroup, OwnCgroups};
pub use pressure::{Pressure, Stall, StallShare, pressure};
pub use processes::{ProcError, ProcReader};
pub use resources::{Usage, usage};
pub use sampler::{Capped, ProcessSampler, Sample, ThreadUse};
pub use users::Users;
