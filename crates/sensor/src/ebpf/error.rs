//! Why an object is not in use.

use std::error::Error as StdError;
use std::io;

use super::object::Object;

/// Why an object did not load. The other objects are not touched by it.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The kernel tells nothing of its own types, so that no object can be fitted to it.
    #[error("the kernel has no BTF (/sys/kernel/btf/vmlinux)")]
    NoBtf {
        /// What reading it gave.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The kernel does not permit it: no CAP_BPF/CAP_SYS_ADMIN, lockdown, or a policy.
    #[error("{object}: not permitted: {attempt}")]
    Refused {
        /// The object.
        object: Object,
        /// What was attempted.
        attempt: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The object could not be read, fitted to the kernel's types, or its maps could not be made.
    #[error("{object}: {attempt}")]
    Unfit {
        /// The object.
        object: Object,
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The verifier refused a program.
    #[error("{object}: the verifier refused {program}: {tail}")]
    Verifier {
        /// The object.
        object: Object,
        /// The program.
        program: &'static str,
        /// The last lines of what the verifier said.
        tail: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel has no such hook.
    #[error("{object}: the kernel has no {hook}")]
    MissingHook {
        /// The object.
        object: Object,
        /// The hook: `raw tracepoint sched_process_exec`, `tracepoint syscalls/sys_enter_ptrace`, `cgroup2 hierarchy`.
        hook: String,
    },
    /// A program could not be attached.
    #[error("{object}: attach to {hook}")]
    Attach {
        /// The object.
        object: Object,
        /// The hook.
        hook: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// There is nothing for it to see on this host.
    #[error("{object}: nothing to see: {reason}")]
    NothingToSee {
        /// The object.
        object: Object,
        /// Why.
        reason: &'static str,
    },
}

/// The first I/O error in a chain of causes.
pub(super) fn errno<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// `Refused` when the cause is a lack of permission, `otherwise` for any other.
pub(super) fn refused_or(
    object: Object,
    attempt: impl Into<String>,
    source: impl StdError + Send + Sync + 'static,
    otherwise: impl FnOnce(Box<dyn StdError + Send + Sync>) -> EbpfError,
) -> EbpfError {
    match errno(&source).map(io::Error::kind) {
        Some(io::ErrorKind::PermissionDenied) => {
            EbpfError::Refused { object, attempt: attempt.into(), source: Box::new(source) }
        }
        _ => otherwise(Box::new(source)),
    }
}
