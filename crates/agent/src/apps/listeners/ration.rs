//! CPU time in portions: after each there is a pause so long that their share of one core stays below a limit.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// What the thread that uses it may take of the CPU.
#[derive(Debug)]
pub(super) struct Ration {
    /// What the thread had used at the end of the last turn. All it does since then counts, the lane's own work too.
    settled: Duration,
}

impl Ration {
    pub(super) fn begin() -> Self {
        Ration { settled: used_by_thread() }
    }

    /// The CPU time of the thread since it was started.
    pub(super) fn used(&self) -> Duration {
        used_by_thread()
    }

    /// What was used so far is not paused for.
    pub(super) fn forget(&mut self) {
        self.settled = used_by_thread();
    }

    /// Used since the last pause.
    pub(super) fn spent(&self) -> Duration {
        used_by_thread().saturating_sub(self.settled)
    }

    /// How long after its beginning the next turn may begin.
    pub(super) fn pause(&mut self, percent: u32) -> Duration {
        let used = used_by_thread();
        let spent = used.saturating_sub(self.settled);
        self.settled = used;
        pause(spent, percent)
    }
}

fn pause(spent: Duration, percent: u32) -> Duration {
    spent.saturating_mul(100) / percent.max(1)
}

fn used_by_thread() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_paused_for_by_its_share() {
        assert_eq!(pause(Duration::from_millis(2), 2), Duration::from_millis(100));
        assert_eq!(pause(Duration::from_millis(2), 100), Duration::from_millis(2));
        assert_eq!(pause(Duration::from_millis(3), 1), Duration::from_millis(300));
        assert_eq!(pause(Duration::ZERO, 50), Duration::ZERO);
    }

    #[test]
    fn work_is_seen_and_counted_once() {
        let mut ration = Ration::begin();
        while ration.spent() < Duration::from_millis(3) {}
        let first = ration.pause(10);
        assert!(first >= Duration::from_millis(30), "{first:?}");
        while ration.spent() < Duration::from_millis(1) {}
        ration.forget();
        assert!(ration.pause(100) < ration.used());
    }
}
