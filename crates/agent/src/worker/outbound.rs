//! The worker's way out: events gather into batches, alerts go at once, one thread writes both to the master.
//!
//! The queue between the worker's loop and that thread is bounded in bytes; the loop never waits for it. What does not fit
//! is dropped and counted.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;
use watchfire_event::{Alert, Books, DropReason, Event, Kind, Stage};
use watchfire_pace::{Rate, TokenBucket};
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{BatchBuilder, encode_alert, encode_books, frame_around_batch, write_raw_frame};

use crate::outbox::encode;
use crate::settings::{RawLimits, RawWorkerLimits};

/// A batch closes at this weight in bytes, or at [`MAX_AGE`].
const BATCH_WEIGHT: usize = 128 << 10;
/// The most alerts in one frame: at 33 processes of a few kilobytes each, far below the limit of a frame.
const ALERTS_TOGETHER: usize = 16;
/// How long an event may wait for company.
const MAX_AGE: Duration = Duration::from_millis(100);
/// Frames waiting for the writing thread: sixteen full batches.
const QUEUE_BYTES: usize = 2 << 20;

#[derive(Default)]
struct Queue {
    alerts: VecDeque<Vec<u8>>,
    frames: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether a frame that was taken from here is being written.
    writing: bool,
    closed: bool,
    broken: bool,
}

type Shared = Arc<(Mutex<Queue>, Condvar)>;

/// How fast events may leave: one bucket for all, and one for each kind that has a limit of its own.
struct Gate {
    all: TokenBucket,
    kinds: BTreeMap<Kind, TokenBucket>,
}

/// A bucket holds what ten seconds bring: a burst is what one wants to see.
const BURST_SECONDS: u64 = 10;

impl Gate {
    fn new(limits: &RawLimits, worker: &RawWorkerLimits, now: Instant) -> Self {
        let bucket = |per_second: u32| {
            let rate = u64::from(per_second);
            TokenBucket::new(Rate::per_second(rate), rate * BURST_SECONDS, now)
        };
        let kinds = limits.kinds_per_s.iter();
        Gate {
            all: bucket(worker.events_per_s),
            kinds: kinds.filter_map(|(word, rate)| Some((word.parse().ok()?, bucket(*rate)))).collect(),
        }
    }

    fn lets(&mut self, kind: Kind, now: Instant) -> bool {
        let of_kind = self.kinds.get_mut(&kind).is_none_or(|bucket| bucket.take(1, now));
        of_kind && self.all.take(1, now)
    }
}

/// A way to the master beside the worker's loop, for when that hangs.
pub(crate) struct LastWords(Shared);

impl LastWords {
    /// Sends a status, and waits until all that is queued is written, or `patience` is over.
    pub(crate) fn say(&self, status: v1::Status, patience: Duration) {
        let (queue, changed) = &*self.0;
        let frame = encode(Body::Status(status));
        let deadline = Instant::now() + patience;
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.bytes += frame.len();
        // Ahead of the events: there may be many, and a master that does not read.
        queue.alerts.push_back(frame);
        changed.notify_all();
        while (queue.bytes > 0 || queue.writing) && !queue.broken && Instant::now() < deadline {
            drop(queue);
            thread::sleep(Duration::from_millis(10));
            queue = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// See the module's documentation.
pub(crate) struct Outbound {
    shared: Shared,
    writer: Option<JoinHandle<()>>,
    batch: BatchBuilder,
    opened: Instant,
    next_sequence: u64,
    gate: Gate,
    seen: BTreeMap<Kind, u64>,
    dropped: BTreeMap<(Kind, DropReason), u64>,
    alerts: Vec<v1::Alert>,
    alerts_dropped: u64,
}

impl Outbound {
    /// Starts the thread that writes to the master.
    pub(crate) fn start(
        link: UnixStream,
        limits: &RawLimits,
        worker: &RawWorkerLimits,
    ) -> std::io::Result<Self> {
        let shared = Shared::default();
        let for_writer = shared.clone();
        let writer =
            thread::Builder::new().name("outbound".into()).spawn(move || write_all(link, &for_writer))?;
        Ok(Outbound {
            shared,
            writer: Some(writer),
            batch: BatchBuilder::new(),
            opened: Instant::now(),
            next_sequence: 1,
            gate: Gate::new(limits, worker, Instant::now()),
            seen: BTreeMap::new(),
            dropped: BTreeMap::new(),
            alerts: Vec::new(),
            alerts_dropped: 0,
        })
    }

    /// A way to the master for another thread.
    pub(crate) fn last_words(&self) -> LastWords {
        LastWords(self.shared.clone())
    }

    /// Other limits are in force.
    pub(crate) fn limit(&mut self, limits: &RawLimits, worker: &RawWorkerLimits) {
        self.gate = Gate::new(limits, worker, Instant::now());
    }

    /// Takes one event into the open batch, as far as the limits let it; `now` may be coarse.
    pub(crate) fn push_event(&mut self, event: &Event, now: Instant) {
        let kind = event.kind();
        *self.seen.entry(kind).or_default() += 1;
        if !self.gate.lets(kind, now) {
            *self.dropped.entry((kind, DropReason::RateLimited)).or_default() += 1;
            return;
        }
        if self.batch.is_empty() {
            self.opened = Instant::now();
        }
        self.batch.push(event);
        if self.batch.weight() >= BATCH_WEIGHT {
            self.close_batch();
        }
    }

    /// Takes one alert; it goes with the others of this turn at the next [`Outbound::send_alerts`].
    pub(crate) fn push_alert(&mut self, alert: &Alert) {
        self.alerts.push(encode_alert(alert));
        // An alert's tree may hold some hundred kilobytes of arguments; a frame must not grow over its limit.
        if self.alerts.len() >= ALERTS_TOGETHER {
            self.send_alerts();
        }
    }

    /// Sends the alerts of this turn ahead of all events, in one frame: the store makes them durable together. Alerts have
    /// as much room again as everything else.
    pub(crate) fn send_alerts(&mut self) {
        if self.alerts.is_empty() {
            return;
        }
        let alerts = std::mem::take(&mut self.alerts);
        let count = alerts.len() as u64;
        let frame = encode(Body::Alerts(v1::AlertBatch { alerts }));
        let mut queue = self.shared.0.lock().expect("no thread panics while it holds the queue");
        if queue.bytes + frame.len() > 2 * QUEUE_BYTES {
            self.alerts_dropped += count;
            return;
        }
        queue.bytes += frame.len();
        queue.alerts.push_back(frame);
        self.shared.1.notify_one();
    }

    /// Closes the open batch if it is old enough.
    pub(crate) fn tick(&mut self) {
        if !self.batch.is_empty() && self.opened.elapsed() >= MAX_AGE {
            self.close_batch();
        }
    }

    /// Sends the books as they stand here: the open batch is closed first, so that nothing is held. `books` holds the
    /// earlier stages; the uplink's rows are added.
    pub(crate) fn push_books(&mut self, mut books: Books) {
        self.close_batch();
        for (kind, seen) in &self.seen {
            let counts = books.entry(Stage::Uplink, *kind);
            counts.seen = *seen;
            counts.passed = *seen;
        }
        for ((kind, reason), dropped) in &self.dropped {
            let counts = books.entry(Stage::Uplink, *kind);
            counts.passed -= dropped;
            counts.dropped.insert(*reason, *dropped);
        }
        let ledger = encode_books(&books, self.next_sequence - 1);
        if !self.enqueue(encode(Body::Ledger(ledger))) {
            tracing::debug!("no room for the books; the next ones hold these");
        }
    }

    /// Sends the worker's status.
    pub(crate) fn push_status(&self, status: v1::Status) {
        if !self.enqueue(encode(Body::Status(status))) {
            tracing::debug!("no room for a status; the next one tells more");
        }
    }

    /// Alerts lost because the master did not read for too long.
    pub(crate) fn alerts_dropped(&self) -> u64 {
        self.alerts_dropped
    }

    /// Whether the master is gone.
    pub(crate) fn broken(&self) -> bool {
        self.shared.0.lock().expect("no thread panics while it holds the queue").broken
    }

    /// Whether a batch is open.
    pub(crate) fn is_gathering(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Writes out what is queued, and ends the thread.
    pub(crate) fn finish(mut self) {
        self.drain();
    }

    /// The same for one that is shared: what comes after it stays here.
    pub(crate) fn drain(&mut self) {
        self.send_alerts();
        self.close_batch();
        self.shared.0.lock().expect("no thread panics while it holds the queue").closed = true;
        self.shared.1.notify_one();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            warn!("the outbound thread panicked");
        }
    }

    fn close_batch(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let counts: Vec<(Kind, u64)> = self.batch.counts().collect();
        let batch = self.batch.finish(self.next_sequence);
        if self.enqueue(frame_around_batch(&batch)) {
            self.next_sequence += 1;
            return;
        }
        for (kind, count) in counts {
            *self.dropped.entry((kind, DropReason::QueueFull)).or_default() += count;
        }
    }

    fn enqueue(&self, frame: Vec<u8>) -> bool {
        let mut queue = self.shared.0.lock().expect("no thread panics while it holds the queue");
        if queue.bytes + frame.len() > QUEUE_BYTES {
            return false;
        }
        queue.bytes += frame.len();
        queue.frames.push_back(frame);
        self.shared.1.notify_one();
        true
    }
}

fn write_all(mut link: UnixStream, shared: &Shared) {
    while let Some(frame) = next(shared) {
        if let Err(error) = write_raw_frame(&mut link, &frame) {
            warn!(error = &error as &dyn std::error::Error, "the master is gone");
            shared.0.lock().expect("no thread panics while it holds the queue").broken = true;
            return;
        }
    }
    if let Err(error) = link.flush() {
        warn!(%error, "the master is gone");
    }
}

fn next(shared: &Shared) -> Option<Vec<u8>> {
    let (queue, changed) = &**shared;
    let mut queue = queue.lock().expect("no thread panics while it holds the queue");
    queue.writing = false;
    loop {
        let alert = queue.alerts.pop_front();
        if let Some(frame) = alert.or_else(|| queue.frames.pop_front()) {
            queue.bytes -= frame.len();
            queue.writing = true;
            return Some(frame);
        }
        if queue.closed {
            return None;
        }
        queue = changed.wait(queue).expect("no thread panics while it holds the queue");
    }
}

#[cfg(test)]
mod tests {
    use watchfire_event::{Body as EventBody, BootNanos};
    use watchfire_wire::{decode_batch, read_frame};

    use super::*;

    fn event() -> Event {
        Event {
            at: BootNanos(1),
            decoded: BootNanos(1),
            process: Arc::default(),
            parent: None,
            body: EventBody::Exec,
        }
    }

    fn start(link: UnixStream, limits: &RawLimits) -> Outbound {
        Outbound::start(link, limits, &limits.sensor).unwrap()
    }

    #[test]
    fn beyond_its_limit_a_kind_is_dropped_with_a_count_and_the_books_close() {
        let (link, mut master) = UnixStream::pair().unwrap();
        let mut limits = RawLimits::default();
        limits.kinds_per_s.insert("exec".to_owned(), 1);
        let mut outbound = start(link, &limits);
        let now = Instant::now();
        for _ in 0..25 {
            outbound.push_event(&event(), now);
        }
        outbound.push_books(Books::default());
        outbound.finish();
        let mut sent = 0;
        let mut books = Books::default();
        while let Some(frame) = read_frame::<v1::AgentFrame>(&mut master).unwrap() {
            match frame.body.unwrap() {
                Body::Events(batch) => sent += batch.events.len() as u64,
                Body::Ledger(ledger) => books = watchfire_wire::decode_books(&ledger).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        let row = books.get(Stage::Uplink, Kind::Exec).unwrap();
        assert_eq!((row.seen, row.passed, sent), (25, 10, 10));
        assert_eq!(row.dropped[&DropReason::RateLimited], 15);
        assert!(books.faults().is_empty());
    }

    #[test]
    fn a_wrapped_batch_reads_as_a_frame_and_the_books_follow_it() {
        let (link, mut master) = UnixStream::pair().unwrap();
        let mut outbound = start(link, &RawLimits::default());
        outbound.push_event(&event(), Instant::now());
        outbound.push_books(Books::default());
        outbound.finish();
        let mut bodies = Vec::new();
        while let Some(frame) = read_frame::<v1::AgentFrame>(&mut master).unwrap() {
            bodies.push(frame.body.unwrap());
        }
        let [Body::Events(batch), Body::Ledger(ledger)] = &bodies[..] else { panic!("{bodies:?}") };
        assert_eq!((batch.sequence, batch.events.len(), ledger.after_batch), (1, 1, 1));
        let encoded = prost::Message::encode_to_vec(batch);
        assert_eq!(decode_batch(&encoded).unwrap(), [event()]);
    }

    #[test]
    fn a_master_that_does_not_read_costs_counted_events_and_never_the_loops_time() {
        let (link, master) = UnixStream::pair().unwrap();
        let mut outbound = start(link, &RawLimits::default());
        let big = Arc::new(watchfire_event::Process { argv: vec![b'a'; 100_000], ..Default::default() });
        for _ in 0..100 {
            outbound.push_event(&Event { process: Arc::new((*big).clone()), ..event() }, Instant::now());
            outbound.close_batch();
        }
        let dropped = outbound.dropped[&(Kind::Exec, DropReason::QueueFull)];
        assert!(dropped > 0 && dropped < 100, "{dropped} dropped");
        assert_eq!(outbound.next_sequence - 1 + dropped, 100);
        drop(master);
        outbound.finish();
    }
}
