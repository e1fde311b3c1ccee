//! Where the engine learns of a process' ancestors.

use std::sync::Arc;

use watchfire_event::Process;

/// The ancestors of a process, as the process table knows them.
pub trait Lineage {
    /// Parent, its parent, and so on up to init, as far as known; the process itself is not among them.
    fn parents(&self, process: &Process) -> Vec<Arc<Process>>;
}

impl<F: Fn(&Process) -> Vec<Arc<Process>>> Lineage for F {
    fn parents(&self, process: &Process) -> Vec<Arc<Process>> {
        self(process)
    }
}
