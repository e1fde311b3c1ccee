//! Workers: child processes of the master, the same executable started again.
//!
//! A worker finds its link to the master at descriptor 3. Its first frame says what settings are in force; the end of its input means:
//! drain, send what is left, end (`inbox.rs`).
//!
//! The sensor worker: `sensor.rs` (the loop) → apps in `../apps` → `pipeline.rs` (resolve, judge) → `outbound.rs`. The others: `reporting.rs`,
//! a thread for each app → `outbound.rs`.

mod inbox;
mod link;
mod outbound;
mod pipeline;
mod procfs;
mod reporting;
mod rules;
mod sensor;
mod status;

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;

use anyhow::{Context, Result};
use watchfire_event::{StreamId, printable};

pub(crate) use link::{EXECUTABLE_DESCRIPTOR, inherit_link, inherit_link_and_executable, take_link};
pub(crate) use sensor::{sees_processes, try_sources};

use crate::catalog::Catalog;
use crate::workers::WorkerName;

/// What a worker is told at its start; its settings follow on the link.
pub(crate) struct WorkerOrders {
    pub(crate) name: WorkerName,
    /// Its own, for the ids of its alerts.
    pub(crate) stream: StreamId,
    pub(crate) catalog: Catalog,
}

/// Runs until the master closes its end of `link`.
pub(crate) fn run(orders: WorkerOrders, link: UnixStream) -> Result<()> {
    // Before the first thread, so that it binds all of them.
    let name = orders.name;
    std::panic::set_hook(Box::new(tell_panic));
    crate::confinement::report(name.as_str(), &crate::confinement::lock_down(name));
    let (inbox, first) = inbox::Inbox::open(&link).context("hear the settings from the master")?;
    match name {
        WorkerName::Sensor => sensor::run(orders, inbox, first, link),
        _ => reporting::run(orders, inbox, first, link),
    }
}

/// One line. To walk through the stack, as the environment may ask for, would read the executable's debugging data into memory: an app
/// that panics again and again must not bring its worker over its limit.
fn tell_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let said = printable(panic.payload_as_str().unwrap_or("no message").as_bytes());
    let line = format!("thread '{}' panicked at {place}: {said}\n", thread.name().unwrap_or("unnamed"));
    // There is nobody to tell that this went wrong.
    drop(std::io::stderr().write_all(line.as_bytes()));
}
