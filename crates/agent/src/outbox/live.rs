//! The stream of the present life of the agent: numbered here, booked here, sent from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;
use watchfire_event::{Books, DropReason, Event, Kind};
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{
    BatchBuilder, ClosedBatch, ConversionError, MAX_FRAME, RENUMBERING_ADDS, batch_in_frame,
    decode_agent_frame, decode_alert, decode_books, encode_books,
};

use super::books::StreamBooks;
use super::encode;
use super::lane::{Demoted, Lane};
use super::tally::{Amount, Tally};

/// Alerts in memory beyond this many bytes lie in the spool alone.
const ALERT_BYTES: usize = 1 << 20;
/// Frames in memory may pass their limit by this much until the spool has taken them.
const SLACK: usize = 1 << 20;
/// What alerts may take in memory at most: where no spool works, all that wait.
const MOST_ALERT_BYTES: usize = 4 << 20;
/// How long the master's own event may wait for company.
const OWN_AGE: Duration = Duration::from_millis(100);
/// The most that is gathered, in bytes: as the workers do.
const OWN_WEIGHT: usize = 128 << 10;
/// Books that are due wait this long for the queue to be empty; then they say what it holds.
const LEDGER_PATIENCE: Duration = Duration::from_secs(1);
/// From so long an outage on, events that are worth it have a copy in the spool.
const OUTAGE: Duration = Duration::from_secs(5);
/// A worker's books that count beyond this are not believed.
const MOST_COUNTED: u64 = 1 << 48;

/// Limits of what waits in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: usize,
    pub(super) alerts: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Live {
    limits: Limits,
    pub(super) batches: Lane<Tally>,
    pub(super) alerts: Lane<u64>,
    next_batch: u64,
    next_alert: u64,
    pub(super) books: StreamBooks,
    pub(super) alerts_dropped: u64,
    own: BatchBuilder,
    own_since: Instant,
    status: Option<v1::Status>,
    status_due: bool,
    ledger_due: Option<Instant>,
    /// The last batch that the server has or is about to have.
    last_sent: u64,
    pub(super) connected: bool,
    away_since: Instant,
    pub(super) closed: bool,
    /// Whether what does not fit in memory can go elsewhere.
    pub(super) spool_works: bool,
}

impl Live {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Live {
            limits,
            batches: Lane::default(),
            alerts: Lane::default(),
            next_batch: 1,
            next_alert: 1,
            books: StreamBooks::default(),
            alerts_dropped: 0,
            own: BatchBuilder::new(),
            own_since: now,
            status: None,
            status_due: false,
            ledger_due: None,
            last_sent: 0,
            connected: false,
            away_since: now,
            closed: false,
            spool_works: false,
        }
    }

    /// Takes a frame of a worker's life. What it cannot be is refused, and the next ledger of that life shows what is missing.
    pub(super) fn take(&mut self, life: u64, frame: &[u8], now: Instant) -> Result<(), ConversionError> {
        if let Some(batch) = batch_in_frame(frame) {
            let batch = ClosedBatch::read(batch)?;
            check_size(frame)?;
            let events: Tally = batch.counts.iter().copied().collect();
            self.books.received(life, &events);
            self.push_batch(&batch, events);
            return Ok(());
        }
        match decode_agent_frame(frame)?.body {
            Some(Body::Alerts(alerts)) => {
                self.push_alerts(alerts);
                Ok(())
            }
            Some(Body::Ledger(ledger)) => {
                self.books.reported(life, believable(decode_books(&ledger)?)?);
                self.ledger_due.get_or_insert(now);
                Ok(())
            }
            _ => Err(ConversionError::Missing("events, alerts or books in a worker's frame")),
        }
    }

    pub(super) fn worker_ended(&mut self, life: u64, now: Instant) {
        self.books.ended(life);
        self.ledger_due.get_or_insert(now);
    }

    pub(super) fn push_status(&mut self, status: v1::Status) {
        self.status = Some(status);
        self.status_due = true;
    }

    pub(super) fn push_own(&mut self, event: &Event, now: Instant) {
        if self.own.is_empty() {
            self.own_since = now;
        }
        self.own.push(event);
        if self.own.weight() >= OWN_WEIGHT {
            self.gather_own(now, true);
        }
    }

    /// An event of the agent's own that nobody is to have.
    pub(super) fn drop_own(&mut self, kind: Kind, now: Instant) {
        let one: Tally = [(kind, 1)].into_iter().collect();
        self.books.own(&one);
        self.books.lost(DropReason::RateLimited, &one);
        self.ledger_due.get_or_insert(now);
    }

    /// When what is held back here is due without anything else happening.
    pub(super) fn due(&self) -> Option<Instant> {
        let own = (!self.own.is_empty()).then(|| self.own_since + OWN_AGE);
        own.into_iter().chain(self.ledger_due.map(|since| since + LEDGER_PATIENCE)).min()
    }

    /// Numbers what the master itself had to say, once it is old enough or `all` of it is wanted.
    pub(super) fn gather_own(&mut self, now: Instant, all: bool) {
        if self.own.is_empty() || !(all || now >= self.own_since + OWN_AGE) {
            return;
        }
        let events: Tally = self.own.counts().collect();
        let batch = self.own.finish(0);
        match ClosedBatch::read(&batch) {
            Ok(batch) => {
                self.books.own(&events);
                self.push_batch(&batch, events);
                self.ledger_due.get_or_insert(now);
            }
            Err(error) => warn!(error = &error as &dyn std::error::Error, "own events left out"),
        }
    }

    fn push_batch(&mut self, batch: &ClosedBatch<'_>, events: Tally) {
        let frame = batch.frame(self.next_batch);
        let limit = self.limits.bytes + if self.spool_works { SLACK } else { 0 };
        if self.batches.bytes() > 0 && self.batches.bytes() + frame.len() > limit {
            self.books.lost(DropReason::QueueFull, &events);
            return;
        }
        self.batches.push(self.next_batch, self.next_batch, frame, events);
        self.next_batch += 1;
    }

    fn push_alerts(&mut self, mut batch: v1::AlertBatch) {
        let came = batch.alerts.len();
        batch.alerts.retain(|alert| match decode_alert(alert.clone()) {
            Ok(_) => true,
            Err(error) => {
                // One that no server takes would end every connection it is sent over.
                warn!(error = &error as &dyn std::error::Error, "a malformed alert is left out");
                false
            }
        });
        let count = batch.alerts.len() as u64;
        self.alerts_dropped += came as u64 - count;
        if count == 0 {
            return;
        }
        batch.alerts.iter_mut().zip(self.next_alert..).for_each(|(alert, number)| alert.sequence = number);
        let frame = encode(Body::Alerts(batch));
        if frame.len() > MAX_FRAME || self.alerts_are_full(frame.len()) {
            self.alerts_dropped += count;
            return;
        }
        self.alerts.push(self.next_alert, self.next_alert + count - 1, frame, count);
        self.next_alert += count;
    }

    fn alerts_are_full(&self, more: usize) -> bool {
        if self.alerts.frames() == 0 {
            return false;
        }
        // Where a spool works it takes them sooner than this.
        let slack = if self.spool_works { SLACK } else { 0 };
        self.alerts.bytes() + more > MOST_ALERT_BYTES + slack
            || (!self.spool_works && self.alerts.frames() >= self.limits.alerts)
    }

    /// The next frame for the connection: alerts first, then events, then books at the point reached. The status comes last, see
    /// [`Live::due_status`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Arc<[u8]>> {
        if let Some((_, frame)) = self.alerts.next() {
            return Some(frame);
        }
        self.gather_own(now, self.closed);
        if self.ledger_due.is_some_and(|since| now >= since + LEDGER_PATIENCE) {
            return Some(self.ledger_frame(now));
        }
        if let Some((sequence, frame)) = self.batches.next() {
            self.last_sent = sequence;
            return Some(frame);
        }
        if self.ledger_due.is_some() && self.batches.is_sent() {
            return Some(self.ledger_frame(now));
        }
        None
    }

    /// The status, when it has not been told on this connection yet.
    pub(super) fn due_status(&mut self) -> Option<v1::Status> {
        std::mem::take(&mut self.status_due).then(|| self.status.clone())?
    }

    fn ledger_frame(&mut self, now: Instant) -> Arc<[u8]> {
        let held = self.batches.held();
        let books = self.books.at(&self.batches.passed(), &held);
        // What waits now is told again when it does not: perhaps no worker runs that would ask for it.
        self.ledger_due = (!held.is_nothing()).then_some(now);
        encode(Body::Ledger(encode_books(&books, self.last_sent))).into()
    }

    /// The books as they would have to be told if this process ended now.
    pub(super) fn last_books(&self) -> Books {
        self.books.at(&self.batches.delivered(), &self.batches.undelivered())
    }

    pub(super) fn welcomed(&mut self, last_batch: u64, last_alert: u64, now: Instant) {
        self.connected = true;
        self.batches.rewind(last_batch);
        self.alerts.rewind(last_alert);
        self.last_sent = last_batch;
        self.status_due = self.status.is_some();
        self.ledger_due.get_or_insert(now);
    }

    pub(super) fn disconnected(&mut self, now: Instant) {
        if std::mem::take(&mut self.connected) {
            self.away_since = now;
            self.batches.unsend();
            self.alerts.unsend();
        }
    }

    /// Whether no more will come and all that came is acknowledged.
    pub(super) fn finished(&self) -> bool {
        self.closed && self.is_delivered() && self.ledger_due.is_none()
    }

    pub(super) fn is_delivered(&self) -> bool {
        self.batches.is_empty() && self.alerts.is_empty() && self.own.is_empty()
    }

    /// Whether events shall have copies in the spool now: the server is away, or slower than they come.
    pub(super) fn wants_copies(&self, now: Instant) -> bool {
        (!self.connected && now >= self.away_since + OUTAGE) || self.batches.bytes() > self.limits.bytes / 2
    }

    /// When that may change by time alone.
    pub(super) fn outage_due(&self) -> Option<Instant> {
        (!self.connected).then(|| self.away_since + OUTAGE)
    }

    /// Frees memory beyond the limits, as far as the spool has copies.
    pub(super) fn demote(&mut self) {
        while self.batches.bytes() > self.limits.bytes
            && let Some(Demoted { left_out, refused }) = self.batches.demote()
        {
            self.books.lost(DropReason::QueueFull, &left_out);
            if let Some((reason, kept)) = refused {
                self.books.lost(reason, &kept);
            }
            self.ledger_due.get_or_insert_with(Instant::now);
        }
        while (self.alerts.bytes() > ALERT_BYTES || self.alerts.frames() > self.limits.alerts)
            && let Some(Demoted { left_out, refused }) = self.alerts.demote()
        {
            self.alerts_dropped += left_out + refused.map_or(0, |(_, kept)| kept);
        }
    }

    /// What a record that is gone from the spool has cost.
    pub(super) fn lost_events(&mut self, reason: DropReason, events: &Tally, now: Instant) {
        if !events.is_nothing() {
            self.books.lost(reason, events);
            self.ledger_due.get_or_insert(now);
        }
    }
}

/// A frame that would be too long under another number is refused.
fn check_size(frame: &[u8]) -> Result<(), ConversionError> {
    if frame.len() + RENUMBERING_ADDS <= MAX_FRAME {
        return Ok(());
    }
    Err(ConversionError::BadValue { what: "length of a worker's frame", value: frame.len() as u64 })
}

/// Books are added up: counts that no host reaches would run over.
fn believable(books: Books) -> Result<Books, ConversionError> {
    let largest = |counts: &watchfire_event::Counts| {
        let dropped = counts.dropped.values().copied().max().unwrap_or(0);
        counts.seen.max(counts.passed).max(counts.filtered).max(counts.held).max(dropped)
    };
    match books.rows().map(|row| largest(&row.counts)).max().filter(|largest| *largest > MOST_COUNTED) {
        Some(value) => Err(ConversionError::BadValue { what: "count in a worker's books", value }),
        None => Ok(books),
    }
}

/// All of a batch's events are of kinds that are kept.
pub(super) fn all_kept(events: &Tally, kept: &[Kind]) -> bool {
    events.iter().all(|(kind, _)| kept.contains(&kind))
}
