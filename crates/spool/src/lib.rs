//! A bounded queue of records on disk: what could not be delivered waits here and survives kills, restarts and a torn last write.
//!
//! `append` → the newest segment (`DIR/%016x.spool`) → `next` reads on, oldest first → `release` deletes what is delivered.
//!
//! A record is 1 to [`MAX_RECORD`] bytes and has a number that only grows, across restarts too. Nothing here knows what the
//! bytes mean. One owner, no threads; every call may block on the disk.
//!
//! What survives what: SIGKILL loses nothing that `append` has acknowledged, since it is in the kernel's hands by then. A power
//! cut may lose what was appended, and repeat what was released, since the last [`Spool::sync`]; numbers that were lost so may be
//! given again. After a kill at most [`RELEASES_AT_RISK`] released records are read again; none is ever lost to that.
//!
//! Files: `directory.rs` (lock, names) · `record.rs`, `segment.rs`, `cursor.rs` (what is in them) · `window.rs` (bounded reading,
//! search behind damage) · `recover.rs` (opening) · `spool.rs` (state, append, eviction) · `delivery.rs` (reading, release).

#![forbid(unsafe_code)]

mod cursor;
mod delivery;
mod directory;
mod error;
mod gaps;
mod record;
mod recover;
mod segment;
mod settings;
mod spool;
mod window;

pub use delivery::RELEASES_AT_RISK;
pub use error::SpoolError;
pub use record::MAX_RECORD;
pub use recover::Recovery;
pub use settings::{SpoolSettings, WhenFull};
pub use spool::{Appended, Counters, Held, Spool};
