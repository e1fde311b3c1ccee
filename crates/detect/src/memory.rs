//! A table that forgets: what is too old, and the longest untouched when it is full.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use watchfire_event::BootNanos;

/// Keys with values and the time they were last put in. Time is the events' own.
pub(crate) struct Expiring<K, V> {
    map: HashMap<K, Slot<V>>,
    /// Keys in the order they were touched; a key touched again leaves its old place behind as a dead one.
    order: VecDeque<(u64, K)>,
    stamp: u64,
    capacity: usize,
    span: Duration,
    forgotten: u64,
}

struct Slot<V> {
    stamp: u64,
    at: BootNanos,
    value: V,
}

impl<K: Clone + Eq + Hash, V> Expiring<K, V> {
    pub(crate) fn new(capacity: usize, span: Duration) -> Self {
        let capacity = capacity.max(1);
        Expiring { map: HashMap::new(), order: VecDeque::new(), stamp: 0, capacity, span, forgotten: 0 }
    }

    /// Puts a value in, in place of an earlier one; makes room by forgetting what was touched longest ago.
    pub(crate) fn insert(&mut self, key: K, value: V, now: BootNanos) {
        self.drop_expired(now);
        if !self.map.contains_key(&key) && self.map.len() >= self.capacity {
            self.forget_oldest();
        }
        self.stamp += 1;
        self.order.push_back((self.stamp, key.clone()));
        self.map.insert(key, Slot { stamp: self.stamp, at: now, value });
        if self.order.len() > 2 * self.capacity + 8 {
            let map = &self.map;
            self.order.retain(|(stamp, key)| map.get(key).is_some_and(|slot| slot.stamp == *stamp));
        }
    }

    /// The value, unless it is too old.
    pub(crate) fn get(&self, key: &K, now: BootNanos) -> Option<&V> {
        let slot = self.map.get(key)?;
        (now.since(slot.at) <= self.span).then_some(&slot.value)
    }

    /// The value to change in place; that does not make it younger.
    pub(crate) fn get_mut(&mut self, key: &K, now: BootNanos) -> Option<&mut V> {
        let span = self.span;
        let slot = self.map.get_mut(key)?;
        (now.since(slot.at) <= span).then_some(&mut slot.value)
    }

    /// Takes a value out, unless it is too old.
    pub(crate) fn take(&mut self, key: &K, now: BootNanos) -> Option<V> {
        let slot = self.map.remove(key)?;
        (now.since(slot.at) <= self.span).then_some(slot.value)
    }

    /// How many entries had to go because the table was full.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Only from the old end: an entry that came with a late time waits its turn, and `get` checks each by itself.
    fn drop_expired(&mut self, now: BootNanos) {
        while let Some((stamp, key)) = self.order.front() {
            match self.map.get(key) {
                Some(slot) if slot.stamp == *stamp => {
                    if now.since(slot.at) <= self.span {
                        return;
                    }
                    self.map.remove(key);
                }
                _ => {}
            }
            self.order.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        while let Some((stamp, key)) = self.order.pop_front() {
            if self.map.get(&key).is_some_and(|slot| slot.stamp == stamp) {
                self.map.remove(&key);
                self.forgotten += 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same promise kept the slow way: a list, oldest touch first.
    #[derive(Default)]
    struct Model(Vec<(u8, u64, u32)>);

    impl Model {
        fn insert(&mut self, key: u8, value: u32, now: u64, capacity: usize, span: u64) {
            self.0.retain(|(_, at, _)| now - at <= span);
            let known = self.0.iter().any(|(held, _, _)| *held == key);
            if !known && self.0.len() >= capacity {
                self.0.remove(0);
            }
            self.0.retain(|(held, _, _)| *held != key);
            self.0.push((key, now, value));
        }

        fn get(&self, key: u8, now: u64, span: u64) -> Option<u32> {
            self.0.iter().find(|(held, at, _)| *held == key && now - at <= span).map(|(_, _, value)| *value)
        }
    }

    proptest! {
        #[test]
        fn it_keeps_what_the_simple_model_keeps(steps in prop::collection::vec((0u8..12, 0u64..40, any::<u32>()), 1..300)) {
            let (capacity, span) = (5, 100);
            let mut table = Expiring::new(capacity, Duration::from_nanos(span));
            let mut model = Model::default();
            let mut now = 0;
            for (key, pause, value) in steps {
                now += pause;
                if value % 3 == 0 {
                    table.insert(key, value, BootNanos(now));
                    model.insert(key, value, now, capacity, span);
                }
                for key in 0..12 {
                    prop_assert_eq!(table.get(&key, BootNanos(now)).copied(), model.get(key, now, span));
                }
                prop_assert!(table.len() <= capacity && table.order.len() <= 2 * capacity + 8);
            }
        }
    }
}
