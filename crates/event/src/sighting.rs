//! A sighting: what a source reports before the process behind it is known. The process table turns it into an event.

use crate::clock::BootNanos;
use crate::event::{Body, Kind};
use crate::ids::ProcessKey;
use crate::process::Process;

/// What a source saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// When the kernel saw it.
    pub at: BootNanos,
    /// Who did it.
    pub actor: Actor,
    /// What was done.
    pub what: What,
}

/// The process that acted, as far as its source can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actor {
    /// Thread group id in the initial pid namespace; 0 when no process is behind it.
    pub tgid: u32,
    /// Start of the thread group leader, where the source knows it; tells a reused tgid from its earlier owner.
    pub started: Option<BootNanos>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A new image, with all that is known of it (boxed: it is far larger than the rest).
    Exec(Box<Process>),
    /// A child came to be; `actor` is the parent.
    Fork {
        /// The child's key.
        child: ProcessKey,
        /// Its id in its own pid namespace.
        child_ns_tgid: u32,
    },
    /// The process ended.
    Exit {
        /// Argument of exit(2).
        code: u8,
        /// Signal that ended it, or 0.
        signal: u8,
    },
    /// Anything else: the body is final, but for a ptrace target, which the process table fills in.
    Done(Body),
}

impl Sighting {
    /// The kind of event this will become.
    pub fn kind(&self) -> Kind {
        match &self.what {
            What::Exec(_) => Kind::Exec,
            What::Fork { .. } => Kind::Fork,
            What::Exit { .. } => Kind::Exit,
            What::Done(body) => body.kind(),
        }
    }
}
