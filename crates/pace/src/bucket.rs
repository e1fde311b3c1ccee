//! The token bucket: at most so many in a time, and a burst on top of a quiet spell.

use std::time::{Duration, Instant};

/// How fast tokens come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// This many tokens…
    pub tokens: u64,
    /// …in each of this time, spread evenly over it. Nothing counts as a nanosecond.
    pub per: Duration,
}

impl Rate {
    /// `tokens` a second.
    pub const fn per_second(tokens: u64) -> Self {
        Rate { tokens, per: Duration::from_secs(1) }
    }

    /// `tokens` a minute.
    pub const fn per_minute(tokens: u64) -> Self {
        Rate { tokens, per: Duration::from_secs(60) }
    }
}

/// A token bucket that is full at first.
///
/// Exact: the level is kept in the part of a token that one nanosecond brings (one token is `rate.per` such parts, each
/// nanosecond adds `rate.tokens` of them), so nothing is ever rounded and no number of small steps drifts from one large.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// Parts that a nanosecond brings.
    tokens: u64,
    /// Parts that a token costs.
    cost: u64,
    /// Parts at most.
    full: u128,
    level: u128,
    /// Up to here the level is reckoned.
    reckoned: Instant,
}

impl TokenBucket {
    /// A bucket that holds `burst` tokens now and at most, and refills at `rate`.
    pub fn new(rate: Rate, burst: u64, now: Instant) -> Self {
        let cost = nanos(rate.per).max(1);
        let full = u128::from(burst) * u128::from(cost);
        TokenBucket { tokens: rate.tokens, cost, full, level: full, reckoned: now }
    }

    /// Takes `n` tokens if there are as many, else none. More than the burst is never granted.
    ///
    /// A `now` before an earlier one brings no tokens and takes none away.
    pub fn take(&mut self, n: u64, now: Instant) -> bool {
        self.level = self.level_at(now);
        self.reckoned = self.reckoned.max(now);
        match self.level.checked_sub(u128::from(n) * u128::from(self.cost)) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }

    /// How many whole tokens there are.
    pub fn left(&self, now: Instant) -> u64 {
        let whole = self.level_at(now) / u128::from(self.cost);
        u64::try_from(whole).expect("the level is at most the burst, which is a u64 of tokens")
    }

    fn level_at(&self, now: Instant) -> u128 {
        let passed = nanos(now.saturating_duration_since(self.reckoned));
        let gained = u128::from(passed) * u128::from(self.tokens);
        self.level.saturating_add(gained).min(self.full)
    }
}

/// Cut at 584 years, so that products stay within 128 bits.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_minute(10), 20, start);
        assert_eq!((0..30).filter(|_| bucket.take(1, start)).count(), 20);
        let passed = (1..=3600).filter(|second| bucket.take(1, start + Duration::from_secs(*second))).count();
        assert_eq!(passed, 600);
    }

    #[test]
    fn a_rate_that_divides_badly_does_not_drift_in_a_day_of_small_steps() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Rate::per_second(7), 10, start);
        assert!(bucket.take(10, start));
        let passed =
            (1..=86_400_000).step_by(13).filter(|ms| bucket.take(1, start + Duration::from_millis(*ms)));
        let end = start + Duration::from_millis(86_400_000);
        assert_eq!(passed.count() as u64 + bucket.left(end), 86_400 * 7);
    }

    #[test]
    fn a_clock_that_goes_backwards_neither_brings_nor_takes() {
        let start = Instant::now();
        let late = start + Duration::from_secs(10);
        let mut bucket = TokenBucket::new(Rate::per_second(1), 5, late);
        assert!(bucket.take(5, late));
        assert!(!bucket.take(1, start));
        assert_eq!(bucket.left(start), 0);
        assert!(!bucket.take(1, late));
        assert!(bucket.take(1, late + Duration::from_secs(1)));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let start = Instant::now();
        let far = start.checked_add(Duration::from_secs(u64::from(u32::MAX))).unwrap();
        let greedy = Rate { tokens: u64::MAX, per: Duration::MAX };
        let mut bucket = TokenBucket::new(greedy, u64::MAX, start);
        assert!(bucket.take(u64::MAX, start));
        assert!(bucket.take(1, far));
        let mut instant = TokenBucket::new(Rate { tokens: u64::MAX, per: Duration::ZERO }, u64::MAX, start);
        assert!(instant.take(u64::MAX, start));
        assert_eq!(instant.left(far), u64::MAX);
        let mut dry = TokenBucket::new(Rate::per_second(0), 1, start);
        assert!(dry.take(1, start) && !dry.take(1, far) && dry.take(0, far));
    }

    proptest! {
        /// Whatever is asked when: in no stretch passes more than the burst and what the rate brings in it.
        #[test]
        fn never_more_than_burst_and_rate_in_any_stretch(
            tokens in 0u64..50,
            per_ms in 1u64..5000,
            burst in 0u64..20,
            asks in prop::collection::vec((0u64..3000, 0u64..6), 1..60),
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::new(Rate { tokens, per: Duration::from_millis(per_ms) }, burst, start);
            let mut at = 0;
            let mut taken = Vec::new();
            for (wait, n) in asks {
                at += wait;
                let now = start + Duration::from_millis(at);
                let left = bucket.left(now);
                prop_assert_eq!(bucket.take(n, now), n <= left);
                taken.push((at, if n <= left { n } else { 0 }));
            }
            for from in 0..taken.len() {
                let mut sum = 0;
                for (until, n) in &taken[from..] {
                    sum += n;
                    prop_assert!(sum * per_ms <= burst * per_ms + tokens * (until - taken[from].0));
                }
            }
        }
    }
}
