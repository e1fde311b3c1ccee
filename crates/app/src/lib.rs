//! What an app is, and the sandbox it lives in.
//!
//! An app does one piece of the agent's business in a worker: a sensor source, a scan, a probe. It implements [`App`], and knows
//! nothing of process ids, of the server, or of the worker around it. `docs/writing-an-app.md` shows one in fifty lines.
//!
//! `app.rs` (the trait) · `document.rs` (its settings, from partial JSON) · `sandbox.rs` (what it is given) · `catalog.rs` (the apps a
//! worker can run, their types forgotten) → `resident.rs` (one app's life: started, given turns, caught when it panics, restarted
//! after a wait) → `lane.rs` (apps that share a thread) · `clock.rs` (the coarse clock) · `watchdog.rs` (turns that do not end).
//!
//! Lanes: an app has its thread to itself, or shares it with apps that trust one another. A turn must not block; one that does holds
//! up its own lane and no other.

#![forbid(unsafe_code)]

mod app;
mod catalog;
mod clock;
mod document;
mod lane;
mod resident;
mod sandbox;
mod watchdog;

pub use app::{App, AppError, Next, Part, PartState, Taken};
pub use catalog::{AppKind, Limit};
pub use clock::{Clock, TICK};
pub use document::{Document, DocumentError, NoSettings, OutOfRange, Settings, within};
pub use lane::{Intake, Lane, LaneSettings, Ready, Round};
pub use resident::{AppChange, AppStatus, Life};
pub use sandbox::{Host, Sandbox, Turn};
pub use watchdog::{Overrun, Pulse, Watchdog};
