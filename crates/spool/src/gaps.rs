//! Numbers of a segment that no good record has.

use std::ops::Range;

/// Places remembered per segment. Damage comes in few places; more than these are only counted, so that a bad disk cannot
/// make the memory grow.
const MOST_PLACES: usize = 64;

/// The gaps of one segment.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    places: Vec<Range<u64>>,
    /// Missing numbers whose place is not remembered; they count as missing until the segment goes.
    unplaced: u64,
}

impl Gaps {
    /// Notes a gap on the first pass over a segment, where each shows once.
    pub(crate) fn found(&mut self, missing: Range<u64>) {
        if missing.is_empty() {
        } else if self.places.len() < MOST_PLACES {
            self.places.push(missing);
        } else {
            self.unplaced += missing.end - missing.start;
        }
    }

    /// Notes a gap met while reading, which may be known already. Says how many numbers are newly missing.
    pub(crate) fn met(&mut self, missing: Range<u64>) -> u64 {
        let covered = |known: &Range<u64>| known.start <= missing.start && missing.end <= known.end;
        // Once places are forgotten, known and new cannot be told apart; counting twice would be the worse lie.
        if missing.is_empty() || self.unplaced > 0 || self.places.iter().any(covered) {
            return 0;
        }
        let before: u64 = self.places.iter().map(|known| known.end - known.start).sum();
        let mut joined = missing;
        self.places.retain(|known| {
            let apart = known.end <= joined.start || joined.end <= known.start;
            if !apart {
                joined = joined.start.min(known.start)..joined.end.max(known.end);
            }
            apart
        });
        self.places.push(joined);
        let after: u64 = self.places.iter().map(|known| known.end - known.start).sum();
        after - before
    }

    /// How many of the numbers from `from` on are missing.
    pub(crate) fn from(&self, from: u64) -> u64 {
        let placed: u64 =
            self.places.iter().map(|known| known.end.saturating_sub(known.start.max(from))).sum();
        placed + self.unplaced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_met_again_or_grown_counts_what_is_new() {
        let mut gaps = Gaps::default();
        gaps.found(5..7);
        gaps.found(9..10);
        assert_eq!((gaps.met(5..7), gaps.met(9..10), gaps.met(20..20)), (0, 0, 0));
        assert_eq!(gaps.met(4..12), 5);
        assert_eq!(gaps.met(5..6), 0);
        assert_eq!((gaps.from(0), gaps.from(10), gaps.from(12)), (8, 2, 0));
    }

    #[test]
    fn more_gaps_than_places_are_counted_and_not_remembered() {
        let mut gaps = Gaps::default();
        (0..1000u64).for_each(|n| gaps.found(2 * n..2 * n + 1));
        assert_eq!((gaps.places.len(), gaps.from(0)), (MOST_PLACES, 1000));
        assert_eq!(gaps.met(5000..5001), 0);
    }
}
