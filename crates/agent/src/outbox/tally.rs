//! Amounts that are moved from one place of the books to another, and never made or lost on the way.

use std::collections::BTreeMap;

use watchfire_event::Kind;

/// What can be counted in a lane: events by kind, or alerts.
pub(super) trait Amount: Default + Clone {
    fn add(&mut self, other: &Self);
    /// Takes away what was added before.
    fn take(&mut self, other: &Self);
    fn is_nothing(&self) -> bool;
}

impl Amount for u64 {
    fn add(&mut self, other: &u64) {
        *self += other;
    }

    fn take(&mut self, other: &u64) {
        *self = self.saturating_sub(*other);
    }

    fn is_nothing(&self) -> bool {
        *self == 0
    }
}

/// Events by kind. A kind that is there has at least one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally(BTreeMap<Kind, u64>);

impl Tally {
    pub(super) fn get(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    pub(super) fn add_one(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What is here beyond `other`.
    pub(super) fn beyond(&self, other: &Tally) -> Tally {
        self.iter().map(|(kind, count)| (kind, count.saturating_sub(other.get(kind)))).collect()
    }

    /// The larger of both, kind by kind.
    pub(super) fn larger(&self, other: &Tally) -> Tally {
        let mut larger = self.clone();
        larger.add(&other.beyond(self));
        larger
    }
}

impl Amount for Tally {
    fn add(&mut self, other: &Tally) {
        other.iter().for_each(|(kind, count)| self.add_one(kind, count));
    }

    fn take(&mut self, other: &Tally) {
        *self = self.beyond(other);
    }

    fn is_nothing(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Kind, u64)> for Tally {
    fn from_iter<I: IntoIterator<Item = (Kind, u64)>>(counts: I) -> Self {
        let mut tally = Tally::default();
        counts.into_iter().for_each(|(kind, count)| tally.add_one(kind, count));
        tally
    }
}
