//! What the lake remembers of each stream: how far it came, and how many events of each kind it brought.

use std::collections::{BTreeMap, HashMap};

use watchfire_event::{Books, DropReason, Kind, Stage, StreamId, UnixNanos};

/// A stream and what its agent said about its host when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamMeta {
    /// Which run of which agent.
    pub stream: StreamId,
    /// Wall time of the host's boot, to place boot times on the wall clock.
    pub booted: UnixNanos,
    /// The host's name at that time; at most 255 bytes are kept.
    pub hostname: String,
}

/// Events by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KindCounts(BTreeMap<Kind, u64>);

impl KindCounts {
    pub(crate) fn add(&mut self, kind: Kind, count: u64) {
        if count > 0 {
            let sum = self.0.entry(kind).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    pub(crate) fn add_all(&mut self, other: &KindCounts) {
        other.iter().for_each(|(kind, count)| self.add(kind, count));
    }

    pub(crate) fn get(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }
}

impl FromIterator<(Kind, u64)> for KindCounts {
    fn from_iter<I: IntoIterator<Item = (Kind, u64)>>(counts: I) -> Self {
        let mut all = KindCounts::default();
        counts.into_iter().for_each(|(kind, count)| all.add(kind, count));
        all
    }
}

/// What one commit of the archiver did with one stream, and the sum of all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StreamTally {
    /// Highest batch sequence that is archived.
    pub(crate) last: u64,
    /// Rows in Parquet files.
    pub(crate) archived: KindCounts,
    /// Events that a batch claimed to hold and could not be read from it.
    pub(crate) malformed: KindCounts,
}

impl StreamTally {
    pub(crate) fn add(&mut self, other: &StreamTally) {
        self.last = self.last.max(other.last);
        self.archived.add_all(&other.archived);
        self.malformed.add_all(&other.malformed);
    }
}

/// One stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamBook {
    /// Highest batch sequence appended.
    pub(crate) last: u64,
    /// Highest batch sequence that is durable.
    pub(crate) durable: u64,
    /// Events that were appended.
    pub(crate) seen: KindCounts,
    /// What became of them.
    pub(crate) done: StreamTally,
    /// Log offset of the latest batch, to find who was silent longest.
    pub(crate) touched: u64,
}

impl StreamBook {
    fn books(&self) -> Books {
        let mut books = Books::default();
        for (kind, seen) in self.seen.iter() {
            let archived = self.done.archived.get(kind);
            let malformed = self.done.malformed.get(kind);
            let log = books.entry(Stage::Log, kind);
            log.seen = seen;
            log.passed = archived;
            log.held = seen.saturating_sub(archived + malformed);
            if malformed > 0 {
                log.dropped.insert(DropReason::Malformed, malformed);
            }
            let lake = books.entry(Stage::Lake, kind);
            lake.seen = archived;
            lake.passed = archived;
        }
        books
    }
}

/// All streams, bounded in number.
#[derive(Debug)]
pub(crate) struct Streams {
    books: HashMap<StreamId, StreamBook>,
    most: usize,
}

impl Streams {
    /// Starts from what the manifest says is archived; the log's tail is replayed with [`Streams::appended`].
    pub(crate) fn new(archived: &BTreeMap<StreamId, StreamTally>, most: usize) -> Self {
        let book = |tally: &StreamTally| {
            let mut seen = tally.archived.clone();
            seen.add_all(&tally.malformed);
            StreamBook { last: tally.last, durable: tally.last, seen, done: tally.clone(), touched: 0 }
        };
        Self { books: archived.iter().map(|(stream, tally)| (*stream, book(tally))).collect(), most }
    }

    pub(crate) fn last(&self, stream: StreamId) -> u64 {
        self.books.get(&stream).map_or(0, |book| book.last)
    }

    pub(crate) fn durable(&self, stream: StreamId) -> u64 {
        self.books.get(&stream).map_or(0, |book| book.durable)
    }

    pub(crate) fn appended(&mut self, stream: StreamId, sequence: u64, counts: &KindCounts, offset: u64) {
        let book = self.books.entry(stream).or_default();
        book.last = book.last.max(sequence);
        book.touched = offset;
        book.seen.add_all(counts);
        if self.books.len() > self.most {
            self.forget_silent(stream);
        }
    }

    pub(crate) fn synced(&mut self, stream: StreamId, sequence: u64) {
        if let Some(book) = self.books.get_mut(&stream) {
            book.durable = book.durable.max(sequence);
        }
    }

    /// Books one commit. A batch that held more than it claimed raises `seen`, so that the stage's own sum closes and the
    /// difference shows between the stages, where it arose.
    pub(crate) fn archived(&mut self, stream: StreamId, tally: &StreamTally, surplus: &KindCounts) {
        // A stream that was forgotten meanwhile stays so.
        if let Some(book) = self.books.get_mut(&stream) {
            book.done.add(tally);
            book.seen.add_all(surplus);
        }
    }

    pub(crate) fn books(&self, stream: StreamId) -> Books {
        self.books.get(&stream).map(StreamBook::books).unwrap_or_default()
    }

    pub(crate) fn ids(&self) -> Vec<StreamId> {
        let mut ids: Vec<StreamId> = self.books.keys().copied().collect();
        ids.sort();
        ids
    }

    pub(crate) fn knows(&self, stream: StreamId) -> bool {
        self.books.contains_key(&stream)
    }

    fn forget_silent(&mut self, but: StreamId) {
        let silent =
            self.books.iter().filter(|(stream, _)| **stream != but).min_by_key(|(_, book)| book.touched);
        if let Some(stream) = silent.map(|(stream, _)| *stream) {
            self.books.remove(&stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use watchfire_event::{BootNanos, HostId};

    fn stream(number: u64) -> StreamId {
        StreamId { host: HostId([1; 16]), incarnation: BootNanos(number), ..StreamId::default() }
    }

    #[test]
    fn the_stream_that_was_silent_longest_is_forgotten_first() {
        let mut streams = Streams::new(&BTreeMap::new(), 2);
        let one = KindCounts::from_iter([(Kind::Exec, 1)]);
        streams.appended(stream(1), 1, &one, 0);
        streams.appended(stream(2), 1, &one, 1);
        streams.appended(stream(1), 2, &one, 2);
        streams.appended(stream(3), 1, &one, 3);
        assert_eq!(streams.ids(), [stream(1), stream(3)]);
        assert_eq!(streams.last(stream(1)), 2);
    }

    #[test]
    fn books_close_while_rows_wait_and_after_they_are_archived() {
        let mut streams = Streams::new(&BTreeMap::new(), 9);
        streams.appended(stream(1), 1, &KindCounts::from_iter([(Kind::Exec, 5), (Kind::Exit, 2)]), 0);
        let books = streams.books(stream(1));
        assert_eq!(books.get(Stage::Log, Kind::Exec).unwrap().held, 5);
        assert!(books.faults().is_empty(), "{:?}", books.faults());
        let tally = StreamTally {
            last: 1,
            archived: KindCounts::from_iter([(Kind::Exec, 6)]),
            malformed: KindCounts::from_iter([(Kind::Exit, 2)]),
        };
        streams.archived(stream(1), &tally, &KindCounts::from_iter([(Kind::Exec, 1)]));
        let books = streams.books(stream(1));
        assert!(books.faults().is_empty(), "{:?}", books.faults());
        assert_eq!(books.get(Stage::Lake, Kind::Exec).unwrap().passed, 6);
        assert_eq!(books.get(Stage::Log, Kind::Exit).unwrap().dropped_total(), 2);
    }
}
