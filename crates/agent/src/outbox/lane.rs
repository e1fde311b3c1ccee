//! One sequence of frames on its way, in order: a head in memory, then what waits on the disk alone, then a tail in memory.
//!
//! ```text
//! next ◄── head (sent │ unsent) ◄── span (disk) ◄── tail ◄── push
//! ```
//! While the disk holds nothing alone, frames are pushed to the head. A frame in memory may have a copy on the disk; once it has, it can
//! be demoted: its memory is freed, and the copy is read again when its turn comes. A frame that was sent once stays in memory until it is
//! acknowledged, since a copy may hold less than what the server already has.

use std::collections::VecDeque;
use std::sync::Arc;

use watchfire_event::DropReason;

use super::tally::Amount;

/// One frame.
#[derive(Debug, Clone)]
pub(super) struct Entry<A> {
    /// Its sequence numbers.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) frame: Arc<[u8]>,
    pub(super) holds: A,
    pub(super) copy: Copy<A>,
    /// It was sent once, or was brought back to be.
    stays: bool,
}

/// What of a frame lies on the disk too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Copy<A> {
    /// Nothing yet.
    None,
    /// A record with this number, which holds `kept`.
    Stored { number: u64, kept: A },
    /// `kept` was to be there, and is not for this reason.
    Refused { kept: A, reason: DropReason },
}

/// What waits on the disk alone.
#[derive(Debug, Clone)]
struct Span<A> {
    first: u64,
    last: u64,
    /// No record of it has a lower number.
    from_number: u64,
    holds: A,
}

/// What a demotion lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Demoted<A> {
    /// What is not worth its place on the disk.
    pub(super) left_out: A,
    /// What should have been there.
    pub(super) refused: Option<(DropReason, A)>,
}

/// What to do with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// It is next: [`Lane::load`] it.
    Load,
    /// It is next, but there is no room now.
    Later,
    /// It is in memory, or delivered.
    Pass,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Lane<A> {
    head: VecDeque<Entry<A>>,
    /// How many of the head the current connection was given.
    sent: usize,
    span: Option<Span<A>>,
    tail: VecDeque<Entry<A>>,
    bytes: usize,
    in_memory: A,
    in_flight: A,
    acknowledged: A,
    acknowledged_through: u64,
    demotions: u64,
}

impl<A: Amount> Default for Lane<A> {
    fn default() -> Self {
        Lane {
            head: VecDeque::new(),
            sent: 0,
            span: None,
            tail: VecDeque::new(),
            bytes: 0,
            in_memory: A::default(),
            in_flight: A::default(),
            acknowledged: A::default(),
            acknowledged_through: 0,
            demotions: 0,
        }
    }
}

impl<A: Amount> Lane<A> {
    /// A lane of which everything lies on the disk, in records from `from_number` on.
    pub(super) fn on_disk(first: u64, last: u64, from_number: u64, holds: A) -> Self {
        Lane { span: Some(Span { first, last, from_number, holds }), ..Lane::default() }
    }

    /// Takes the next frame. Its numbers follow those before.
    pub(super) fn push(&mut self, first: u64, last: u64, frame: Vec<u8>, holds: A) {
        self.bytes += frame.len();
        self.in_memory.add(&holds);
        let entry = Entry { first, last, frame: frame.into(), holds, copy: Copy::None, stays: false };
        if self.span.is_some() { self.tail.push_back(entry) } else { self.head.push_back(entry) }
    }

    /// The next frame for the current connection, with its last number.
    pub(super) fn next(&mut self) -> Option<(u64, Arc<[u8]>)> {
        let entry = self.head.get_mut(self.sent)?;
        entry.stays = true;
        self.sent += 1;
        self.in_flight.add(&entry.holds);
        Some((entry.last, entry.frame.clone()))
    }

    /// The server holds everything through this number. Whether that freed anything.
    pub(super) fn acknowledge(&mut self, through: u64) -> bool {
        self.acknowledged_through = self.acknowledged_through.max(through);
        let mut freed = false;
        while let Some(entry) = self.head.pop_front_if(|entry| entry.last <= through) {
            self.bytes -= entry.frame.len();
            self.in_memory.take(&entry.holds);
            if self.sent > 0 {
                self.sent -= 1;
                self.in_flight.take(&entry.holds);
            }
            self.acknowledged.add(&entry.holds);
            freed = true;
        }
        freed
    }

    /// A new connection begins, and the server holds everything through this number: the rest is sent again.
    pub(super) fn rewind(&mut self, through: u64) {
        self.unsend();
        self.acknowledge(through);
    }

    /// The connection is gone: nothing is on its way.
    pub(super) fn unsend(&mut self) {
        self.sent = 0;
        self.in_flight = A::default();
    }

    /// Forgets what was acknowledged so far: the server counts it among what it has.
    pub(super) fn forget_acknowledged(&mut self) {
        self.acknowledged = A::default();
    }

    /// The oldest frame that has no copy, if any.
    pub(super) fn uncopied(&self) -> Option<&Entry<A>> {
        self.head.iter().chain(&self.tail).find(|entry| matches!(entry.copy, Copy::None))
    }

    /// Says what became of the copy of a frame, if that is still here.
    pub(super) fn copied(&mut self, first: u64, copy: Copy<A>) {
        let mut entries = self.head.iter_mut().chain(&mut self.tail);
        if let Some(entry) = entries.find(|entry| entry.first == first && matches!(entry.copy, Copy::None)) {
            entry.copy = copy;
        }
    }

    /// Frees the memory of one frame beside the span; `None` when there is none that can go.
    pub(super) fn demote(&mut self) -> Option<Demoted<A>> {
        let able = |entry: &mut Entry<A>| !entry.stays && !matches!(entry.copy, Copy::None);
        // Without a span the newest goes: what came first stays whole.
        let entry =
            if self.span.is_some() { self.tail.pop_front_if(able) } else { self.head.pop_back_if(able) }?;
        self.bytes -= entry.frame.len();
        self.in_memory.take(&entry.holds);
        self.demotions += 1;
        let mut left_out = entry.holds;
        let refused = match entry.copy {
            Copy::Stored { number, kept } => {
                left_out.take(&kept);
                let span = self.span.get_or_insert_with(|| Span {
                    first: entry.first,
                    last: entry.last,
                    from_number: number,
                    holds: A::default(),
                });
                span.first = span.first.min(entry.first);
                span.last = span.last.max(entry.last);
                span.from_number = span.from_number.min(number);
                span.holds.add(&kept);
                None
            }
            Copy::Refused { kept, reason } => {
                left_out.take(&kept);
                Some((reason, kept))
            }
            Copy::None => None,
        };
        Some(Demoted { left_out, refused })
    }

    /// What a record with these numbers is to this lane, when at most `room` bytes may wait in memory to be sent.
    pub(super) fn wish(&self, first: u64, last: u64, room: usize) -> Wish {
        let span = self.span.as_ref().filter(|span| span.first <= first && last <= span.last);
        match span {
            None => Wish::Pass,
            Some(_) if self.unsent_bytes() >= room => Wish::Later,
            Some(_) => Wish::Load,
        }
    }

    /// Whether something waits on the disk and there is room for it.
    pub(super) fn is_hungry(&self, room: usize) -> bool {
        self.span.is_some() && self.unsent_bytes() < room
    }

    /// Takes back from the disk what [`Lane::wish`] asked for. One that the server holds already is only passed.
    pub(super) fn load(&mut self, number: u64, first: u64, last: u64, frame: Vec<u8>, holds: A) {
        self.leave_span(last, number, &holds);
        if last > self.acknowledged_through {
            self.bytes += frame.len();
            self.in_memory.add(&holds);
            let copy = Copy::Stored { number, kept: holds.clone() };
            let stays = true;
            self.head.push_back(Entry { first, last, frame: frame.into(), holds, copy, stays });
        }
        self.end_empty_span();
    }

    fn leave_span(&mut self, last: u64, number: u64, holds: &A) {
        if let Some(span) = &mut self.span {
            span.first = last.saturating_add(1);
            span.from_number = number + 1;
            span.holds.take(holds);
        }
    }

    /// The record of this number is gone from the disk: what is lost by that.
    pub(super) fn evicted(&mut self, number: u64, first: u64, holds: &A) -> Option<A> {
        let in_memory = self.head.iter_mut().chain(&mut self.tail).find(|entry| entry.first == first);
        if let Some(entry) = in_memory {
            if let Copy::Stored { number: stored, kept } = &entry.copy
                && *stored == number
            {
                entry.copy = Copy::Refused { kept: kept.clone(), reason: DropReason::SpoolFull };
            }
            return None;
        }
        let span = self.span.as_mut().filter(|span| (span.first..=span.last).contains(&first))?;
        span.holds.take(holds);
        self.end_empty_span();
        Some(holds.clone())
    }

    /// Nothing more of the span can be read: what is lost by that.
    pub(super) fn give_up_span(&mut self) -> A {
        let lost = self.span.take().map(|span| span.holds).unwrap_or_default();
        self.head.append(&mut self.tail);
        lost
    }

    fn end_empty_span(&mut self) {
        if self.span.as_ref().is_some_and(|span| span.holds.is_nothing() || span.first > span.last) {
            // An amount that is left was claimed and never there; it is lost by no one.
            self.give_up_span();
        }
    }

    /// The lowest number of a record that is still needed.
    pub(super) fn lowest_record(&self) -> Option<u64> {
        let entries = self.head.iter().chain(&self.tail);
        let copies = entries.filter_map(|entry| match entry.copy {
            Copy::Stored { number, .. } => Some(number),
            _ => None,
        });
        copies.chain(self.span.as_ref().map(|span| span.from_number)).min()
    }

    /// What is delivered, or on its way on the current connection.
    pub(super) fn passed(&self) -> A {
        let mut passed = self.acknowledged.clone();
        passed.add(&self.in_flight);
        passed
    }

    /// What is acknowledged.
    pub(super) fn delivered(&self) -> A {
        self.acknowledged.clone()
    }

    /// What is not.
    pub(super) fn undelivered(&self) -> A {
        let mut all = self.in_memory.clone();
        if let Some(span) = &self.span {
            all.add(&span.holds);
        }
        all
    }

    /// What waits, in memory or on the disk.
    pub(super) fn held(&self) -> A {
        let mut held = self.undelivered();
        held.take(&self.in_flight);
        held
    }

    /// Whether all of it is acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.span.is_none() && self.tail.is_empty()
    }

    /// Whether all of it is on its way at least.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.head.len() && self.span.is_none() && self.tail.is_empty()
    }

    /// Whether all that waits on the disk is newer than what the server holds, as far as that is known.
    pub(super) fn is_past_acknowledged(&self) -> bool {
        self.span.as_ref().is_none_or(|span| span.first > self.acknowledged_through)
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Frames in memory.
    pub(super) fn frames(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// How often a frame was demoted.
    pub(super) fn demotions(&self) -> u64 {
        self.demotions
    }

    fn unsent_bytes(&self) -> usize {
        self.head.iter().skip(self.sent).map(|entry| entry.frame.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(frames: u64) -> Lane<u64> {
        let mut lane = Lane::default();
        (1..=frames).for_each(|number| lane.push(number, number, vec![0; 10], 3));
        lane
    }

    fn store(lane: &mut Lane<u64>, first: u64, kept: u64) {
        lane.copied(first, Copy::Stored { number: 100 + first, kept });
    }

    fn sent(lane: &mut Lane<u64>) -> Vec<u64> {
        std::iter::from_fn(|| lane.next().map(|(last, _)| last)).collect()
    }

    #[test]
    fn what_was_not_acknowledged_is_sent_again_on_the_next_connection() {
        let mut lane = lane(3);
        assert_eq!(sent(&mut lane), [1, 2, 3]);
        lane.acknowledge(1);
        assert_eq!((lane.passed(), lane.held()), (9, 0));
        lane.rewind(2);
        assert_eq!((lane.passed(), lane.held()), (6, 3));
        assert_eq!(sent(&mut lane), [3]);
        lane.acknowledge(3);
        assert!(lane.is_empty() && lane.bytes() == 0);
    }

    #[test]
    fn the_newest_goes_to_the_disk_and_comes_back_in_its_turn() {
        let mut lane = lane(3);
        store(&mut lane, 3, 2);
        assert_eq!(lane.demote(), Some(Demoted { left_out: 1, refused: None }));
        // It has no copy: it stays.
        assert_eq!(lane.demote(), None);
        lane.push(4, 4, vec![0; 10], 3);
        assert_eq!((sent(&mut lane), lane.held()), (vec![1, 2], 5));
        assert_eq!(
            (lane.wish(2, 2, 99), lane.wish(3, 3, 99), lane.wish(4, 4, 99)),
            (Wish::Pass, Wish::Load, Wish::Pass)
        );
        lane.load(103, 3, 3, vec![0; 5], 2);
        assert_eq!(sent(&mut lane), [3, 4]);
        assert_eq!(lane.lowest_record(), Some(103));
        lane.acknowledge(4);
        assert_eq!((lane.passed(), lane.held(), lane.lowest_record()), (11, 0, None));
    }

    #[test]
    fn a_frame_that_was_sent_stays_whole() {
        let mut lane = lane(1);
        store(&mut lane, 1, 1);
        sent(&mut lane);
        lane.unsend();
        assert_eq!(lane.demote(), None);
        assert_eq!(lane.held(), 3);
    }

    #[test]
    fn an_evicted_record_is_lost_only_when_nothing_else_holds_it() {
        let mut lane = lane(2);
        store(&mut lane, 1, 3);
        store(&mut lane, 2, 3);
        lane.demote();
        assert_eq!(lane.evicted(101, 1, &3), None);
        assert_eq!(lane.evicted(102, 2, &3), Some(3));
        assert_eq!(lane.held(), 3);
        assert_eq!(lane.demote(), Some(Demoted { left_out: 0, refused: Some((DropReason::SpoolFull, 3)) }));
        assert!(lane.is_empty());
    }
}
