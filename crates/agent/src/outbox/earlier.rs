//! A stream of an earlier life of the agent: what it had not delivered lies in the spool, and is handed over under its own name.

use std::sync::Arc;

use watchfire_event::{BootId, BootNanos, DropReason, HostId, StreamId};
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{PROTOCOL, SpooledContent, SpooledFrame, encode_books};

use super::books::LastBooks;
use super::encode;
use super::lane::Lane;
use super::tally::{Amount, Tally};

/// So many connections in a row that brought nothing forward, while the server was there, are enough: it does not take this stream.
const FUTILE: u32 = 8;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Earlier {
    pub(super) stream: StreamId,
    pub(super) hello: v1::Hello,
    pub(super) batches: Lane<Tally>,
    pub(super) alerts: Lane<u64>,
    pub(super) books: LastBooks,
    /// What the server had taken when this connection began.
    taken: Tally,
    pub(super) alerts_lost: u64,
    last_sent: u64,
    pub(super) connected: bool,
    ledger: LedgerState,
    /// Connections lost since something was acknowledged.
    futile: u32,
}

/// The books are told twice: where the replay begins, with what waits, and at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LedgerState {
    First,
    Last,
    Told,
}

impl Earlier {
    pub(super) fn new(stream: StreamId, hello: v1::Hello, found: Found, books: LastBooks) -> Self {
        Earlier {
            stream,
            hello: v1::Hello { protocol: PROTOCOL, earlier: true, ..hello },
            batches: found.events.lane(),
            alerts: found.alerts.lane(),
            books,
            taken: Tally::default(),
            alerts_lost: 0,
            last_sent: 0,
            connected: false,
            ledger: LedgerState::First,
            futile: 0,
        }
    }

    pub(super) fn welcomed(&mut self, welcome: &v1::Welcome) {
        self.connected = true;
        self.taken = taken(welcome);
        self.batches.rewind(welcome.last_batch);
        self.batches.forget_acknowledged();
        self.alerts.rewind(welcome.last_alert);
        self.last_sent = welcome.last_batch;
        self.ledger = LedgerState::First;
    }

    pub(super) fn next(&mut self) -> Option<Arc<[u8]>> {
        if let Some((_, frame)) = self.alerts.next() {
            return Some(frame);
        }
        if self.ledger == LedgerState::First && self.batches.is_past_acknowledged() {
            self.ledger = LedgerState::Last;
            if let Some(frame) = self.ledger_frame() {
                return Some(frame);
            }
        }
        if let Some((sequence, frame)) = self.batches.next() {
            self.last_sent = self.last_sent.max(sequence);
            return Some(frame);
        }
        if self.ledger == LedgerState::Last && self.batches.is_sent() && self.alerts.is_sent() {
            self.ledger = LedgerState::Told;
            return self.ledger_frame();
        }
        None
    }

    fn ledger_frame(&self) -> Option<Arc<[u8]>> {
        let books = self.books.at(&self.taken, &self.batches.passed(), &self.batches.held())?;
        Some(encode(Body::Ledger(encode_books(&books, self.last_sent))).into())
    }

    pub(super) fn acknowledge(&mut self, last_batch: u64, last_alert: u64) {
        let batches = self.batches.acknowledge(last_batch);
        if self.alerts.acknowledge(last_alert) || batches {
            self.futile = 0;
        }
    }

    /// A connection ended, or could not be made; `server_there` when another one stands meanwhile.
    pub(super) fn disconnected(&mut self, server_there: bool) {
        self.connected = false;
        self.futile += u32::from(server_there);
        self.batches.unsend();
        self.alerts.unsend();
    }

    pub(super) fn finished(&self) -> bool {
        self.batches.is_empty() && self.alerts.is_empty() && self.ledger == LedgerState::Told
    }

    /// Whether trying again would only do the same again.
    pub(super) fn is_futile(&self) -> bool {
        self.futile >= FUTILE
    }

    pub(super) fn lost_events(&mut self, reason: DropReason, events: &Tally) {
        self.books.lost(reason, events);
    }

    /// The lowest record that is still needed.
    pub(super) fn lowest_record(&self) -> Option<u64> {
        self.batches.lowest_record().into_iter().chain(self.alerts.lowest_record()).min()
    }
}

fn taken(welcome: &v1::Welcome) -> Tally {
    let kinds = welcome.taken.iter().filter_map(|count| {
        let kind = u8::try_from(count.kind).ok()?.try_into().ok()?;
        Some((kind, count.count))
    });
    kinds.collect()
}

/// What a pass over the spool has found of one stream.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) events: FoundLane<Tally>,
    pub(super) alerts: FoundLane<u64>,
}

/// What of it belongs to one lane.
#[derive(Debug, Default)]
pub(super) struct FoundLane<A> {
    numbers: Option<(u64, u64)>,
    from_record: u64,
    holds: A,
}

impl Found {
    pub(super) fn add(&mut self, record: u64, spooled: &SpooledFrame) {
        match &spooled.content {
            SpooledContent::Events(counts) => {
                self.events.add(record, spooled, &counts.iter().copied().collect())
            }
            SpooledContent::Alerts(count) => self.alerts.add(record, spooled, count),
        }
    }
}

impl<A: Amount> FoundLane<A> {
    fn add(&mut self, record: u64, spooled: &SpooledFrame, holds: &A) {
        match &mut self.numbers {
            // A record of a number that was passed before can only be a second copy.
            Some((_, last)) if spooled.first <= *last => return,
            Some((_, last)) => *last = spooled.last,
            None => {
                self.numbers = Some((spooled.first, spooled.last));
                self.from_record = record;
            }
        }
        self.holds.add(holds);
    }

    fn lane(self) -> Lane<A> {
        match self.numbers {
            Some((first, last)) => Lane::on_disk(first, last, self.from_record, self.holds),
            None => Lane::default(),
        }
    }
}

/// The stream that a Hello speaks for.
pub(super) fn stream_of(hello: &v1::Hello) -> Option<StreamId> {
    Some(StreamId {
        host: HostId(hello.host.as_slice().try_into().ok()?),
        boot: BootId(hello.boot.as_slice().try_into().ok()?),
        incarnation: BootNanos(hello.incarnation),
    })
}
