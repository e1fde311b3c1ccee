//! The same thing told once a minute, with a count, instead of a thousand times.
//!
//! Two tiers: one process and one object speak once in the quiet time; and a crowd of processes that are alike (one
//! program, one parent program, one user: a build that runs a helper from /tmp ten thousand times) speaks
//! [`CROWD_SPEAKS`] times in it. The first is always told, and what was held back is told as a count later.

use std::hash::{BuildHasher, Hash, RandomState};
use std::time::Duration;

use watchfire_event::{BootNanos, ProcessKey};

use crate::memory::Expiring;

/// How many (rule, process, object) are remembered. When that is not enough more is told, never less.
const REMEMBERED: usize = 8192;
/// How often a crowd may speak by one rule in the quiet time.
const CROWD_SPEAKS: u32 = 20;
/// How long a count waits to be told with the next alert.
const COUNT_KEPT: Duration = Duration::from_secs(600);

/// Remembers what was told.
pub(crate) struct Suppressor {
    quiet: Duration,
    told: Expiring<u64, Told>,
    crowds: Expiring<u64, Crowd>,
    /// Keyed at random in each run: a sender of events cannot make two different things look the same.
    hasher: RandomState,
}

struct Told {
    at: BootNanos,
    repeated: u64,
}

/// One rule and many processes alike.
struct Crowd {
    since: BootNanos,
    spoken: u32,
    held_back: u64,
}

/// Who speaks, beside its key: what makes processes alike.
#[derive(Debug, Clone, Copy, Hash)]
pub(crate) struct Likeness<'p> {
    pub(crate) exe: &'p [u8],
    pub(crate) parent_exe: &'p [u8],
    pub(crate) uid: u32,
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
            crowds: Expiring::new(REMEMBERED, COUNT_KEPT.max(quiet)),
            hasher: RandomState::new(),
        }
    }

    /// Asks for one rule, one process, what makes it like others (only where many processes doing the same are one case),
    /// and what sets this case apart from its other cases.
    pub(crate) fn ask(
        &mut self,
        rule: &str,
        process: ProcessKey,
        likeness: Option<Likeness<'_>>,
        object: impl Hash,
        at: BootNanos,
    ) -> Speak {
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
        let Some(likeness) = likeness else { return Speak::Yes { repeated } };
        match self.ask_crowd(rule, likeness, at) {
            Some(held_back) => Speak::Yes { repeated: repeated + held_back },
            None => Speak::No,
        }
    }

    /// How many of the crowd were held back since it spoke last; `None` when it has spoken enough for now.
    fn ask_crowd(&mut self, rule: &str, likeness: Likeness<'_>, at: BootNanos) -> Option<u64> {
        let key = self.hasher.hash_one((rule, likeness));
        let mut held_back = 0;
        if let Some(crowd) = self.crowds.get_mut(&key, at) {
            if at.since(crowd.since) < self.quiet {
                if crowd.spoken >= CROWD_SPEAKS {
                    crowd.held_back += 1;
                    return None;
                }
                crowd.spoken += 1;
                return Some(0);
            }
            held_back = crowd.held_back;
        }
        self.crowds.insert(key, Crowd { since: at, spoken: 1, held_back: 0 }, at);
        Some(held_back)
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

    /// Unlike any other process.
    fn alone(uid: u32) -> Option<Likeness<'static>> {
        Some(Likeness { exe: b"/bin/x", parent_exe: b"/bin/y", uid })
    }

    #[test]
    fn the_first_is_told_repeats_wait_and_come_back_as_a_count() {
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        assert_eq!(
            suppressor.ask("r", key(1), alone(1), "/etc/shadow", second(0)),
            Speak::Yes { repeated: 0 }
        );
        assert_eq!(suppressor.ask("r", key(1), alone(1), "/etc/shadow", second(1)), Speak::No);
        assert_eq!(suppressor.ask("r", key(1), alone(1), "/etc/shadow", second(59)), Speak::No);
        assert_eq!(
            suppressor.ask("r", key(1), alone(1), "/etc/gshadow", second(59)),
            Speak::Yes { repeated: 0 }
        );
        assert_eq!(
            suppressor.ask("r", key(2), alone(2), "/etc/shadow", second(59)),
            Speak::Yes { repeated: 0 }
        );
        assert_eq!(
            suppressor.ask("other", key(1), alone(1), "/etc/shadow", second(59)),
            Speak::Yes { repeated: 0 }
        );
        assert_eq!(
            suppressor.ask("r", key(1), alone(1), "/etc/shadow", second(60)),
            Speak::Yes { repeated: 2 }
        );
        assert_eq!(suppressor.ask("r", key(1), alone(1), "/etc/shadow", second(61)), Speak::No);
    }

    #[test]
    fn a_full_table_tells_more_and_never_less() {
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        let flood = u32::try_from(REMEMBERED).unwrap() * 2;
        for tgid in 0..flood {
            assert_eq!(suppressor.ask("r", key(tgid), alone(tgid), 0, second(1)), Speak::Yes { repeated: 0 });
        }
        assert_eq!(suppressor.ask("r", key(0), alone(0), 0, second(2)), Speak::Yes { repeated: 0 });
        assert!(suppressor.told.len() <= REMEMBERED);
    }

    #[test]
    fn a_crowd_speaks_a_few_times_and_its_silence_is_counted() {
        let mut suppressor = Suppressor::new(Duration::from_secs(60));
        let spoken = (0..10_000u32)
            .filter(|tgid| suppressor.ask("r", key(*tgid), alone(0), 0, second(1)) != Speak::No)
            .count();
        assert_eq!(spoken, CROWD_SPEAKS as usize);
        let later = suppressor.ask("r", key(10_000), alone(0), 0, second(62));
        assert_eq!(later, Speak::Yes { repeated: 10_000 - u64::from(CROWD_SPEAKS) });
    }
}
