//! Live counts: how many events of each kind came in, and how fast.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use watchfire_event::Kind;

/// One more than the largest kind number.
const SLOTS: usize = Kind::ALL.len() + 1;
/// One sample a second; a minute of them.
const SAMPLES: usize = 61;
/// Rates are over this many seconds.
const WINDOW: usize = 10;

/// Counts since the server's start.
#[derive(Debug)]
pub(crate) struct LiveCounts {
    totals: [AtomicU64; SLOTS],
    /// Totals at each of the last seconds, newest last.
    history: Mutex<VecDeque<[u64; SLOTS]>>,
}

/// One kind's count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LiveCount {
    pub(crate) kind: Kind,
    pub(crate) total: u64,
    /// Events per second over the last ten seconds.
    pub(crate) per_second: f64,
}

impl Default for LiveCounts {
    fn default() -> Self {
        LiveCounts { totals: std::array::from_fn(|_| AtomicU64::new(0)), history: Mutex::default() }
    }
}

impl LiveCounts {
    pub(crate) fn add(&self, kind: Kind, count: u64) {
        self.totals[kind as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// To be called once a second.
    pub(crate) fn sample(&self) {
        let mut history = self.history();
        if history.len() == SAMPLES {
            history.pop_front();
        }
        history.push_back(self.snapshot());
    }

    /// Every kind, those never seen included.
    pub(crate) fn counts(&self) -> Vec<LiveCount> {
        let history = self.history();
        let newest = history.back().copied().unwrap_or_default();
        let back = WINDOW.min(history.len().saturating_sub(1));
        let earlier = history.len().checked_sub(back + 1).map_or(newest, |index| history[index]);
        let now = self.snapshot();
        let rate = |slot: usize| (newest[slot] - earlier[slot]) as f64 / back.max(1) as f64;
        let of = |kind: &Kind| LiveCount {
            kind: *kind,
            total: now[*kind as usize],
            per_second: rate(*kind as usize),
        };
        Kind::ALL.iter().map(of).collect()
    }

    /// Events of all kinds in each of the last 60 seconds, oldest first.
    pub(crate) fn last_minute(&self) -> Vec<u64> {
        let history = self.history();
        let sums: Vec<u64> = history.iter().map(|totals| totals.iter().sum()).collect();
        sums.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    fn snapshot(&self) -> [u64; SLOTS] {
        std::array::from_fn(|slot| self.totals[slot].load(Ordering::Relaxed))
    }

    fn history(&self) -> std::sync::MutexGuard<'_, VecDeque<[u64; SLOTS]>> {
        self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_over_the_last_ten_samples_and_history_is_bounded() {
        let live = LiveCounts::default();
        for _ in 0..100 {
            live.add(Kind::Exec, 5);
            live.sample();
        }
        let exec = live.counts()[0];
        assert_eq!((exec.kind, exec.total, exec.per_second), (Kind::Exec, 500, 5.0));
        assert_eq!(live.last_minute(), vec![5; SAMPLES - 1]);
    }

    #[test]
    fn before_the_first_sample_there_is_no_rate() {
        let live = LiveCounts::default();
        live.add(*Kind::ALL.last().unwrap(), 1);
        assert!(live.counts().iter().all(|count| count.per_second == 0.0));
        assert_eq!(live.counts().last().unwrap().total, 1);
        assert!(live.last_minute().is_empty());
    }
}
