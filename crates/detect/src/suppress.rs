//! The same thing told once a minute, with a count, instead of a thousand times.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use watchfire_event::{BootNanos, ProcessKey};

use crate::memory::Expiring;

/// How many (rule, process, object) are remembered. When that is not enough more is told, never less.
const REMEMBERED: usize = 8192;
/// How long a count waits to be told with the next alert.
const COUNT_KEPT: Duration = Duration::from_secs(600);

/// Remembers what was told.
pub(crate) struct Suppressor {
    quiet: Duration,
    told: Expiring<u64, Told>,
    /// Keyed at random in each run: a sender of events cannot make two different things look the same.
    hasher: RandomState,
}

struct Told {
    at: BootNanos,
    repeated: u64,
}

/// Whether to speak.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Speak {
    /// Yes; so often it was held back since it was told last.
    Yes {
        /// How often.
        repeated: u64,
    },
    /// No, it was told a moment ago.
    No,
}

impl Suppressor {
    pub(crate) fn new(quiet: Duration) -> Self {
        Suppressor {
            quiet,
            told: Expiring::new(REMEMBERED, COUNT_KEPT.max(quiet)),
            hasher: RandomState::new(),
        }
    }

    /// Asks for one rule, one process, and what sets this case apart from its other cases.
    pub(crate) fn ask(&mut self, rule: &str, process: ProcessKey, object: impl Hash, at: BootNanos) -> Speak {
        let key = self.hasher.hash_one((rule, process, self.hasher.hash_one(object)));
        let mut repeated = 0;
        if let Some(told) = self.told.get_mut(&key, at) {
            if at.since(told.at) < self.quiet {
                told.repeated += 1;
                return Speak::No;
            }
            repeated = told.repeated;
        }
        self.told.insert(key, Told { at, repeated: 0 }, at);
        Speak::Yes { repeated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tgid: u32) -> ProcessKey {
        ProcessKey { tgid, started: BootNanos(1) }
    }

    fn second(second: u64) -> BootNanos {
        BootNanos(second * 1_000_000_000)
    }

    #[test]
    fn the_first_is_told_repeats_wait_and_come_back_as_a_count() {
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        assert_eq!(suppressor.ask("r", key(1), "/etc/shadow", second(0)), Speak::Yes { repeated: 0 });
        assert_eq!(suppressor.ask("r", key(1), "/etc/shadow", second(1)), Speak::No);
        assert_eq!(suppressor.ask("r", key(1), "/etc/shadow", second(59)), Speak::No);
        assert_eq!(suppressor.ask("r", key(1), "/etc/gshadow", second(59)), Speak::Yes { repeated: 0 });
        assert_eq!(suppressor.ask("r", key(2), "/etc/shadow", second(59)), Speak::Yes { repeated: 0 });
        assert_eq!(suppressor.ask("other", key(1), "/etc/shadow", second(59)), Speak::Yes { repeated: 0 });
        assert_eq!(suppressor.ask("r", key(1), "/etc/shadow", second(60)), Speak::Yes { repeated: 2 });
        assert_eq!(suppressor.ask("r", key(1), "/etc/shadow", second(61)), Speak::No);
    }

    #[test]
    fn a_full_table_tells_more_and_never_less() {
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        let flood = u32::try_from(REMEMBERED).unwrap() * 2;
        for tgid in 0..flood {
            assert_eq!(suppressor.ask("r", key(tgid), 0, second(1)), Speak::Yes { repeated: 0 });
        }
        assert_eq!(suppressor.ask("r", key(0), 0, second(2)), Speak::Yes { repeated: 0 });
        assert!(suppressor.told.len() <= REMEMBERED);
    }
}
