//! The books of a stream: the sum over the lives of all workers, closed where a life ended without its last words, and what the way to
//! the server did with it.

use std::collections::BTreeMap;

use watchfire_event::{Books, DropReason, Kind, Stage};

use super::tally::{Amount, Tally};

/// The stages in front of the uplink, from it back to the kernel.
const BACKWARDS: [Stage; 4] = [Stage::Uplink, Stage::Detect, Stage::Sensor, Stage::Kernel];

/// Why events were lost on the way, and how many.
pub(super) type Losses = BTreeMap<DropReason, Tally>;

/// Counts a loss.
pub(super) fn lose(losses: &mut Losses, reason: DropReason, events: &Tally) {
    if !events.is_nothing() {
        losses.entry(reason).or_default().add(events);
    }
}

/// One life of a worker.
#[derive(Debug, Default)]
struct Life {
    /// What it said last.
    reported: Books,
    /// What came from it so far.
    received: Tally,
}

impl Life {
    fn is_silent(&self) -> bool {
        self.reported.rows().next().is_none()
    }

    /// Its books as they must stand now: what came after its last words has passed every stage that it speaks of. What it claims to
    /// have sent and never came is returned too: a batch that was refused as malformed.
    fn settled(&self) -> (Books, Tally) {
        let mut books = self.reported.clone();
        let claimed: Tally = Kind::ALL.iter().map(|kind| (*kind, passed(&books, *kind))).collect();
        settle(&mut books, &self.received.beyond(&claimed));
        (books, claimed.beyond(&self.received))
    }
}

/// The books of the present stream.
#[derive(Debug, Default)]
pub(super) struct StreamBooks {
    lives: BTreeMap<u64, Life>,
    /// The sum over lives that have ended.
    ended: Books,
    /// The master's own events.
    own: Tally,
    /// Events of lives that ended before they had said anything.
    unspoken: Tally,
    losses: Losses,
}

impl StreamBooks {
    pub(super) fn received(&mut self, life: u64, events: &Tally) {
        self.lives.entry(life).or_default().received.add(events);
    }

    pub(super) fn reported(&mut self, life: u64, books: Books) {
        self.lives.entry(life).or_default().reported = books;
    }

    /// No more comes of this life. What its books say was still inside it is lost with it.
    pub(super) fn ended(&mut self, life: u64) {
        let Some(life) = self.lives.remove(&life) else { return };
        if life.is_silent() {
            self.unspoken.add(&life.received);
        }
        let (mut books, malformed) = life.settled();
        end(&mut books);
        self.ended.add(&books);
        lose(&mut self.losses, DropReason::Malformed, &malformed);
        // From here on the sum counts it as handed on by the worker, and the loss as the master's.
    }

    pub(super) fn own(&mut self, events: &Tally) {
        self.own.add(events);
    }

    pub(super) fn lost(&mut self, reason: DropReason, events: &Tally) {
        lose(&mut self.losses, reason, events);
    }

    /// The books at a point of the stream where `passed` is handed to the server, and `held` waits behind it.
    pub(super) fn at(&self, passed: &Tally, held: &Tally) -> Books {
        let mut books = self.ended.clone();
        let mut losses = self.losses.clone();
        let mut unspoken = self.unspoken.clone();
        unspoken.add(&self.own);
        for life in self.lives.values() {
            if life.is_silent() {
                unspoken.add(&life.received);
            }
            let (of_life, malformed) = life.settled();
            books.add(&of_life);
            lose(&mut losses, DropReason::Malformed, &malformed);
        }
        for (kind, count) in self.own.iter() {
            for stage in [Stage::Sensor, Stage::Detect, Stage::Uplink] {
                let counts = books.entry(stage, kind);
                counts.seen += count;
                counts.passed += count;
            }
        }
        // Where others speak of the kernel, these came from there too, as far as anyone knows.
        for (kind, count) in unspoken.iter() {
            if books.get(Stage::Kernel, kind).is_some() {
                let counts = books.entry(Stage::Kernel, kind);
                counts.seen += count;
                counts.passed += count;
            }
        }
        hand_on(&mut books, passed, held, &losses);
        books
    }
}

/// The last known books of a stream whose agent is gone.
#[derive(Debug, Default)]
pub(super) struct LastBooks {
    known: Option<Books>,
    /// What was known to be delivered.
    delivered: Tally,
    /// What has been lost of it since.
    losses: Losses,
}

impl LastBooks {
    pub(super) fn new(known: Option<Books>) -> Self {
        let mut known = known;
        let mut delivered = Tally::default();
        if let Some(books) = &mut known {
            delivered = Kind::ALL.iter().map(|kind| (*kind, passed(books, *kind))).collect();
            end_stages(books, &BACKWARDS[1..]);
        }
        LastBooks { known, delivered, losses: Losses::default() }
    }

    /// The books as they were written.
    pub(super) fn known(&self) -> Option<&Books> {
        self.known.as_ref()
    }

    pub(super) fn lost(&mut self, reason: DropReason, events: &Tally) {
        lose(&mut self.losses, reason, events);
    }

    /// Closes them by what the server had taken when this connection began, what was sent on it, and what waits. `None` when no
    /// books of this stream are known: the server's own are better then.
    ///
    /// What came in after the books were written is seen through what arrived; what was counted then and is neither delivered nor
    /// waits was in the agent's memory when it ended.
    pub(super) fn at(&self, taken: &Tally, sent: &Tally, held: &Tally) -> Option<Books> {
        let mut books = self.known.clone()?;
        let mut passed = taken.larger(&self.delivered);
        passed.add(sent);
        for kind in Kind::ALL {
            let lost_since: u64 = self.losses.values().map(|lost| lost.get(*kind)).sum();
            let accounted = passed.get(*kind) + held.get(*kind) + lost_since;
            let Some(counts) = books.get(Stage::Uplink, *kind) else {
                if accounted == 0 {
                    continue;
                }
                settle(&mut books, &[(*kind, accounted)].into_iter().collect());
                let counts = books.entry(Stage::Uplink, *kind);
                (counts.passed, counts.held) = (passed.get(*kind), held.get(*kind));
                add_losses(&mut books, *kind, &self.losses);
                continue;
            };
            let mut left = counts.seen.saturating_sub(accounted);
            let beyond = accounted.saturating_sub(counts.seen);
            let before = counts.dropped.clone();
            // What was held then is told anew below; what is beyond came in later.
            books.entry(Stage::Uplink, *kind).held = 0;
            settle(&mut books, &[(*kind, beyond)].into_iter().collect());
            let counts = books.entry(Stage::Uplink, *kind);
            counts.dropped.clear();
            (counts.passed, counts.held) = (passed.get(*kind), held.get(*kind));
            for (reason, count) in before {
                let count = count.min(left);
                left -= count;
                if count > 0 {
                    counts.dropped.insert(reason, count);
                }
            }
            if left > 0 {
                *counts.dropped.entry(DropReason::ProcessEnded).or_default() += left;
            }
            add_losses(&mut books, *kind, &self.losses);
        }
        Some(books)
    }
}

fn passed(books: &Books, kind: Kind) -> u64 {
    books.get(Stage::Uplink, kind).map_or(0, |counts| counts.passed)
}

/// Books `extra` as having come out at the uplink: each stage passed it on, first from what it held, the rest newly seen.
fn settle(books: &mut Books, extra: &Tally) {
    let silent = books.rows().next().is_none();
    for (kind, count) in extra.iter() {
        let of_kind = books.rows().any(|row| row.kind == kind);
        let mut needed = count;
        for stage in BACKWARDS {
            // Nothing can be said of stages before the first that these books mention; a life without books had at least all but
            // the first. Behind that one none is left out, whether it is mentioned yet or not.
            let spoken_of = match of_kind {
                true => books.rows().any(|row| row.kind == kind && row.stage <= stage),
                false if silent => stage != Stage::Kernel,
                false => books.rows().any(|row| row.stage <= stage),
            };
            if needed == 0 || !(stage == Stage::Uplink || spoken_of) {
                continue;
            }
            let counts = books.entry(stage, kind);
            let from_held = counts.held.min(needed);
            counts.passed += needed;
            counts.held -= from_held;
            needed -= from_held;
            counts.seen += needed;
        }
    }
}

/// A process is gone, and what it held with it.
fn end(books: &mut Books) {
    end_stages(books, &BACKWARDS);
}

fn end_stages(books: &mut Books, stages: &[Stage]) {
    for kind in Kind::ALL {
        for stage in stages {
            if books.get(*stage, *kind).is_none_or(|counts| counts.held == 0) {
                continue;
            }
            let counts = books.entry(*stage, *kind);
            let held = std::mem::take(&mut counts.held);
            *counts.dropped.entry(DropReason::ProcessEnded).or_default() += held;
        }
    }
}

/// What the workers passed on was received here: it is handed on, waits, or is lost.
fn hand_on(books: &mut Books, passed: &Tally, held: &Tally, losses: &Losses) {
    for kind in Kind::ALL {
        if books.get(Stage::Uplink, *kind).is_none() && passed.get(*kind) + held.get(*kind) == 0 {
            continue;
        }
        let counts = books.entry(Stage::Uplink, *kind);
        counts.passed = passed.get(*kind);
        counts.held += held.get(*kind);
        add_losses(books, *kind, losses);
    }
}

fn add_losses(books: &mut Books, kind: Kind, losses: &Losses) {
    for (reason, lost) in losses {
        if lost.get(kind) > 0 {
            *books.entry(Stage::Uplink, kind).dropped.entry(*reason).or_default() += lost.get(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use watchfire_event::Counts;

    use super::*;

    #[test]
    fn events_that_come_before_the_worker_has_spoken_of_them_cross_every_stage() {
        // A sensor worker's first words: its hooks are in the kernel and have counted nothing, or a little, or not this kind.
        for (told, exec) in [(Kind::Exec, 0), (Kind::Exec, 3), (Kind::Fork, 0)] {
            let mut first = Books::default();
            *first.entry(Stage::Kernel, told) = Counts { seen: exec, passed: exec, ..Counts::default() };
            *first.entry(Stage::Sensor, told) = Counts { seen: exec, held: exec, ..Counts::default() };
            let received: Tally = [(Kind::Exec, 56)].into_iter().collect();
            let mut books = StreamBooks::default();
            books.reported(1, first);
            books.received(1, &received);
            assert_eq!(books.at(&received, &Tally::default()).faults(), [""; 0], "{told:?} {exec}");
            books.ended(1);
            assert_eq!(books.at(&received, &Tally::default()).faults(), [""; 0], "{told:?} {exec}, ended");
        }
    }

    #[test]
    fn the_same_where_only_the_kernel_was_spoken_of() {
        let mut first = Books::default();
        *first.entry(Stage::Kernel, Kind::Exec) = Counts::default();
        let received: Tally = [(Kind::Exec, 56)].into_iter().collect();
        let mut books = StreamBooks::default();
        books.reported(1, first);
        books.received(1, &received);
        // Another worker's life has spoken of all stages.
        let mut other = Books::default();
        for stage in BACKWARDS {
            *other.entry(stage, Kind::Exec) = Counts { seen: 1463, passed: 1463, ..Counts::default() };
        }
        books.reported(2, other);
        books.received(2, &[(Kind::Exec, 1463)].into_iter().collect());
        let passed = [(Kind::Exec, 1519)].into_iter().collect();
        assert_eq!(books.at(&passed, &Tally::default()).faults(), [""; 0]);
    }
}
