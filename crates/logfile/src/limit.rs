//! The same message over and over is one message and a number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use watchfire_pace::{Rate, TokenBucket};

use crate::LineLimit;

/// A token bucket for each message that was seen, up to a number of them.
#[derive(Debug)]
pub(crate) struct Limiter<K> {
    limit: LineLimit,
    most: usize,
    table: Mutex<Table<K>>,
}

#[derive(Debug)]
struct Table<K> {
    known: HashMap<K, Message>,
    /// All that find no room in the table, together.
    others: Message,
}

#[derive(Debug)]
struct Message {
    bucket: TokenBucket,
    /// Since the last that passed.
    suppressed: u64,
}

impl<K: Eq + Hash> Limiter<K> {
    /// Tells `most` messages apart; those beyond share one bucket.
    pub(crate) fn new(limit: LineLimit, most: usize, now: Instant) -> Self {
        let table = Table { known: HashMap::new(), others: Message::new(limit, now) };
        Limiter { limit, most, table: Mutex::new(table) }
    }

    /// Whether this message may pass now, and if so, how many like it did not since the last that passed.
    pub(crate) fn admit(&self, key: K, now: Instant) -> Option<u64> {
        // Sound at every step, whoever panicked.
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.known.len() >= self.most && !table.known.contains_key(&key) {
            // A full bucket that owes no number is what a new one would be.
            let burst = u64::from(self.limit.burst);
            table.known.retain(|_, message| message.suppressed > 0 || message.bucket.left(now) < burst);
        }
        let message = if table.known.len() >= self.most && !table.known.contains_key(&key) {
            &mut table.others
        } else {
            table.known.entry(key).or_insert_with(|| Message::new(self.limit, now))
        };
        message.admit(now)
    }
}

impl Message {
    fn new(limit: LineLimit, now: Instant) -> Self {
        let rate = Rate::per_minute(u64::from(limit.per_minute));
        Message { bucket: TokenBucket::new(rate, u64::from(limit.burst), now), suppressed: 0 }
    }

    fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.bucket.take(1, now) {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMIT: LineLimit = LineLimit { burst: 3, per_minute: 10 };

    fn later(now: Instant, seconds: u64) -> Instant {
        now + Duration::from_secs(seconds)
    }

    #[test]
    fn after_a_burst_the_rate_holds_and_each_that_passes_says_what_did_not() {
        let now = Instant::now();
        let limiter = Limiter::new(LIMIT, 10, now);
        let passed: Vec<_> = (0..10).map(|_| limiter.admit("a", now)).collect();
        assert_eq!(passed[..4], [Some(0), Some(0), Some(0), None]);
        assert_eq!(limiter.admit("b", now), Some(0), "another message has its own");
        assert_eq!(limiter.admit("a", later(now, 6)), Some(7));
        assert_eq!(limiter.admit("a", later(now, 6)), None);
        assert_eq!(limiter.admit("a", later(now, 600)), Some(1));
        assert_eq!(limiter.admit("a", later(now, 600)), Some(0));
    }

    #[test]
    fn the_table_is_bounded_and_those_without_room_share_one_bucket() {
        let now = Instant::now();
        let limiter = Limiter::new(LIMIT, 10, now);
        let passed = (0..1000).filter(|key| limiter.admit(*key, now).is_some()).count();
        assert_eq!(passed, 10 + 3);
        assert_eq!(limiter.table.lock().unwrap().known.len(), 10);
    }

    #[test]
    fn messages_that_went_quiet_make_room_and_those_that_owe_a_number_do_not() {
        let now = Instant::now();
        let limiter = Limiter::new(LIMIT, 2, now);
        assert_eq!((0..4).filter(|_| limiter.admit("owes", now).is_some()).count(), 3);
        limiter.admit("quiet", now);
        assert_eq!(limiter.admit("new", later(now, 3600)), Some(0));
        assert_eq!(limiter.admit("owes", later(now, 3600)), Some(1));
        assert!(!limiter.table.lock().unwrap().known.contains_key("quiet"));
    }
}
