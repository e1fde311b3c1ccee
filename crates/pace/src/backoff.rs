//! How long to wait after a failure: exponential, capped, with full jitter.
//!
//! Full jitter (an even choice between nothing and the exponential step) is what spreads a crowd of clients best for the
//! least work: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

use std::time::Duration;

use crate::Random;

/// The shape of the waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffSettings {
    /// The first wait is at most this; each later one at most double.
    pub first: Duration,
    /// No wait is longer, unless `floor` is.
    pub cap: Duration,
    /// No wait is shorter. Full jitter may say "at once"; who restarts a process must not, and sets this.
    pub floor: Duration,
}

impl Default for BackoffSettings {
    /// Half a second, doubling to a minute, no floor: a call to a server that a million others call too.
    fn default() -> Self {
        BackoffSettings {
            first: Duration::from_millis(500),
            cap: Duration::from_secs(60),
            floor: Duration::ZERO,
        }
    }
}

/// The waits of one thing that keeps failing.
#[derive(Debug, Clone)]
pub struct Backoff {
    settings: BackoffSettings,
    failures: u32,
}

impl Backoff {
    /// As if nothing had failed yet.
    pub fn new(settings: BackoffSettings) -> Self {
        Backoff { settings, failures: 0 }
    }

    /// It failed: how long to wait now. Even in `[floor, min(cap, first * 2^n)]`, where n is the number of failures
    /// before this one; the floor itself where that range is empty.
    pub fn next_wait(&mut self, random: &mut Random) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        let floor = self.settings.floor;
        floor.saturating_add(random.up_to(ceiling.saturating_sub(floor)))
    }

    /// How many waits were given since the last [`Backoff::reset`].
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: the next wait is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn ceiling(&self) -> Duration {
        let BackoffSettings { first, cap, .. } = self.settings;
        // A nanosecond reaches Duration::MAX in 94 doublings.
        let doublings = self.failures.min(94);
        (0..doublings).fold(first.min(cap), |step, _| step.saturating_mul(2).min(cap))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings(first: u64, cap: u64, floor: u64) -> BackoffSettings {
        BackoffSettings {
            first: Duration::from_millis(first),
            cap: Duration::from_millis(cap),
            floor: Duration::from_millis(floor),
        }
    }

    #[test]
    fn waits_spread_over_the_whole_step_and_the_step_doubles_to_the_cap() {
        let longest = |failures: u32| {
            let mut random = Random::seeded(7);
            let waits = (0..2000).map(|_| {
                let mut backoff = Backoff { settings: settings(100, 1000, 0), failures };
                backoff.next_wait(&mut random)
            });
            let waits: Vec<_> = waits.collect();
            let most = *waits.iter().max().unwrap();
            assert!(*waits.iter().min().unwrap() < most / 100, "full jitter begins at nothing");
            u64::try_from(most.as_millis()).unwrap()
        };
        for (failures, step) in [(0, 100), (1, 200), (2, 400), (3, 800), (4, 1000), (40, 1000)] {
            let longest = longest(failures);
            assert!(
                (step * 99 / 100..=step).contains(&longest),
                "{failures} failures: {longest} of {step} ms"
            );
        }
    }

    #[test]
    fn a_reset_begins_anew() {
        let mut backoff = Backoff::new(settings(10, 10_000, 0));
        let mut random = Random::seeded(3);
        for _ in 0..10 {
            backoff.next_wait(&mut random);
        }
        backoff.reset();
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.next_wait(&mut random) <= Duration::from_millis(10));
    }

    #[test]
    fn a_floor_above_the_cap_wins() {
        let mut backoff = Backoff::new(settings(10, 100, 2000));
        let mut random = Random::seeded(3);
        assert!((0..10).all(|_| backoff.next_wait(&mut random) == Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn every_wait_lies_between_floor_and_cap(
            first in 0u64..100_000, cap in 0u64..100_000, floor in 0u64..100_000,
            seed: u64, failures in 0u32..100,
        ) {
            let settings = settings(first, cap, floor);
            let mut backoff = Backoff { settings, failures };
            let wait = backoff.next_wait(&mut Random::seeded(seed));
            prop_assert!(wait >= settings.floor);
            prop_assert!(wait <= settings.cap.max(settings.floor));
        }
    }

    #[test]
    fn endless_failures_with_the_largest_settings_do_not_overflow() {
        let most = BackoffSettings { first: Duration::MAX, cap: Duration::MAX, floor: Duration::MAX };
        let mut backoff = Backoff { settings: most, failures: u32::MAX };
        assert_eq!(backoff.next_wait(&mut Random::seeded(1)), Duration::MAX);
        assert_eq!(backoff.failures(), u32::MAX);
    }
}
