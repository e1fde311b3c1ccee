//! The coarse clock: one thread of the worker reads the time, everyone else reads a number.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the clock moves on.
pub const TICK: Duration = Duration::from_millis(100);

/// The time, at most [`TICK`] and a scheduling delay ago. Reading it costs one load, so it may be read for each event.
#[derive(Debug, Clone)]
pub struct Clock {
    origin: Instant,
    nanos: Arc<AtomicU64>,
}

impl Clock {
    /// A clock that stands at `now` until it is moved on.
    pub fn new(now: Instant) -> Self {
        Clock { origin: now, nanos: Arc::default() }
    }

    /// The time as it was last set.
    pub fn now(&self) -> Instant {
        self.origin + Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    /// Moves it on; never back.
    pub fn set(&self, now: Instant) {
        let nanos = u64::try_from(now.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_max(nanos, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_moves_on_and_never_back_for_everyone_who_holds_it() {
        let begun = Instant::now();
        let clock = Clock::new(begun);
        let other = clock.clone();
        clock.set(begun + Duration::from_secs(3));
        other.set(begun + Duration::from_secs(2));
        assert_eq!(clock.now(), begun + Duration::from_secs(3));
        assert_eq!(other.now(), clock.now());
    }
}
