//! What every source of sightings looks like to the worker's loop.

use std::os::fd::BorrowedFd;

use watchfire_event::{Books, Sighting};

/// Why a source ended. A bad record never ends one: it is counted and skipped.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The source's descriptor failed.
    #[error("{name}: {attempt}")]
    Lost {
        /// The source.
        name: &'static str,
        /// What was attempted.
        attempt: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A stream of sightings: eBPF rings, a fanotify group, a netlink socket, a log file.
///
/// The worker polls the descriptors of all its sources in one loop, and drains those that are ready. A source never blocks.
pub trait Source {
    /// One word or two: `ebpf process`, `fanotify`, `audit`, `proc connector`, `auth log`.
    fn name(&self) -> &'static str;

    /// Descriptors that become readable when there is something to drain; empty for a source that must be asked at every
    /// tick (100 ms).
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Hands on what is there, oldest first, `limit` sightings at most, and says how many it took.
    fn drain(&mut self, limit: usize, sink: &mut dyn FnMut(Sighting)) -> Result<usize, SourceError>;

    /// The kernel's side of the books since attach ([`watchfire_event::Stage::Kernel`] rows only), drops by reason included.
    /// `passed` is what `drain` took; what the kernel wrote and `drain` has not taken yet is `held`. The implementation
    /// measures `seen` on its own where the kernel counts, so that a record that vanished shows as a fault.
    fn books(&mut self) -> Books;
}
