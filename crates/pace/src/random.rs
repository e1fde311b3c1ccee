//! A small seeded generator for jitter. Not for secrets: who knows one number knows the next.

use std::time::Duration;

use crate::mix::{GOLDEN, finalise, scale};

/// SplitMix64: 64 bits of state, a period of 2^64. Our own ten lines instead of a library, because the numbers for a
/// seed must stay the same across versions (the tests of waits and breakers hold them).
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of this seed. Seed it from the system's randomness, or from a host's id to have it repeat.
    pub fn seeded(seed: u64) -> Self {
        Random { state: seed }
    }

    /// The next number, even over all 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        finalise(self.state)
    }

    /// An even choice in `0..bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.next_u64(), bound)
    }

    /// An even choice between nothing and `most`, both included, to the nanosecond. Beyond 584 years it is cut there.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.below(nanos.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_of_a_seed_is_that_of_the_published_generator() {
        // The first outputs of splitmix64.c for this state, as other implementations test them.
        let mut random = Random::seeded(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn a_wait_reaches_from_nothing_to_the_most() {
        let mut random = Random::seeded(1);
        let waits: Vec<u64> = (0..1000)
            .map(|_| u64::try_from(random.up_to(Duration::from_nanos(3)).as_nanos()).unwrap())
            .collect();
        for nanos in 0..=3 {
            let times = waits.iter().filter(|wait| **wait == nanos).count();
            assert!((180..=320).contains(&times), "{nanos} ns came {times} times of 1000");
        }
        assert_eq!(random.up_to(Duration::ZERO), Duration::ZERO);
        assert!(random.up_to(Duration::MAX) <= Duration::from_nanos(u64::MAX));
    }
}
