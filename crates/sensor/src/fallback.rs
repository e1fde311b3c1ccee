//! Which source of processes to use where eBPF is refused.

use crate::audit::AuditSource;
use crate::proc_connector::ProcConnector;

/// A source of processes that needs no eBPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessFallback {
    /// Audit netlink: every exec with all its arguments, no forks and ends.
    Audit,
    /// The process connector with /proc: forks, execs and ends, most short ones without their arguments.
    ProcConnector,
}

/// The better of the two that this host offers, or `None`; and why, in words. Probes both by asking the kernel, and leaves
/// nothing behind.
pub fn choose_process_fallback() -> (Option<ProcessFallback>, String) {
    let refusal = match AuditSource::probe() {
        Ok(()) => {
            return (Some(ProcessFallback::Audit), "audit is free: no audit daemon is registered".to_owned());
        }
        Err(error) => error,
    };
    match ProcConnector::probe() {
        Ok(()) => (Some(ProcessFallback::ProcConnector), refusal.to_string()),
        Err(error) => (None, format!("{refusal}; {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_chosen_with_its_reason() {
        let (choice, reason) = choose_process_fallback();
        assert!(!reason.is_empty());
        if rustix::process::geteuid().is_root() {
            assert!(choice.is_some(), "{reason}");
        } else {
            eprintln!("skipped: needs root: {reason}");
        }
    }
}
