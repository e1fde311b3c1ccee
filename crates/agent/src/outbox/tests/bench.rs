//! The bench of these tests: a model of the server, a worker that counts, and an outbox whose threads are the test.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message;
use watchfire_event::{
    Alert, AlertId, AlertTimes, Body as EventBody, Books, BootId, Counts, DropReason, HostId, Kind, Level,
    Process, ProcessKey, ProcessNode, RuleId, Stage,
};
use watchfire_spool::{SpoolSettings, WhenFull};
use watchfire_wire::{
    BatchBuilder, batch_counts, decode_batch, decode_books, encode_alert, encode_books, frame_around_batch,
};

use super::super::*;

/// Exec is worth a place on the disk here, fork is not.
pub(super) const KEPT: [Kind; 2] = [Kind::Exec, Kind::Login];

/// A server as the agent sees it.
#[derive(Default)]
pub(super) struct Server {
    pub(super) streams: BTreeMap<StreamId, Stream>,
}

#[derive(Default)]
pub(super) struct Stream {
    pub(super) last_batch: u64,
    pub(super) last_alert: u64,
    pub(super) taken: BTreeMap<Kind, u64>,
    /// The marks of all events, in the order they came.
    pub(super) events: Vec<(Kind, u64)>,
    pub(super) alerts: Vec<[u8; 16]>,
    pub(super) ledger: Option<Books>,
}

impl Server {
    pub(super) fn welcome(&self, stream: StreamId) -> v1::Welcome {
        let Some(known) = self.streams.get(&stream) else { return v1::Welcome::default() };
        let taken =
            known.taken.iter().map(|(kind, count)| v1::KindCount { kind: *kind as u32, count: *count });
        v1::Welcome { last_batch: known.last_batch, last_alert: known.last_alert, taken: taken.collect() }
    }

    pub(super) fn take(&mut self, stream: StreamId, frame: &[u8]) {
        let known = self.streams.entry(stream).or_default();
        match v1::AgentFrame::decode(frame).unwrap().body.unwrap() {
            Body::Events(batch) => {
                let bytes = batch.encode_to_vec();
                let (sequence, counts) = batch_counts(&bytes).unwrap();
                if sequence <= known.last_batch {
                    return;
                }
                known.last_batch = sequence;
                counts.iter().for_each(|(kind, count)| *known.taken.entry(*kind).or_default() += count);
                let events = decode_batch(&bytes).unwrap();
                known.events.extend(events.iter().map(|event| (event.kind(), event.at.0)));
            }
            Body::Alerts(batch) => {
                for alert in batch.alerts {
                    let id: [u8; 16] = alert.id.as_slice().try_into().unwrap();
                    if !known.alerts.contains(&id) {
                        known.alerts.push(id);
                    }
                    known.last_alert = known.last_alert.max(alert.sequence);
                }
            }
            Body::Ledger(ledger) => {
                assert_eq!(ledger.after_batch, known.last_batch, "books of this point of the stream");
                let mut books = decode_books(&ledger).unwrap();
                for (kind, count) in &known.taken {
                    let counts = books.entry(Stage::Ingest, *kind);
                    (counts.seen, counts.passed) = (*count, *count);
                }
                assert_eq!(books.faults(), [""; 0], "{stream:?}");
                known.ledger = Some(books);
            }
            Body::Status(_) => {}
            Body::Hello(_) => panic!("a second hello"),
        }
    }

    pub(super) fn all_events(&self) -> Vec<(Kind, u64)> {
        self.streams.values().flat_map(|stream| stream.events.iter().copied()).collect()
    }

    pub(super) fn all_alerts(&self) -> Vec<[u8; 16]> {
        self.streams.values().flat_map(|stream| stream.alerts.iter().copied()).collect()
    }

    /// What the books of all streams say was lost at the uplink.
    pub(super) fn lost(&self) -> BTreeMap<DropReason, u64> {
        let mut lost = BTreeMap::new();
        for books in self.streams.values().filter_map(|stream| stream.ledger.as_ref()) {
            for row in books.rows().filter(|row| row.stage == Stage::Uplink) {
                row.counts
                    .dropped
                    .iter()
                    .for_each(|(reason, count)| *lost.entry(*reason).or_default() += count);
            }
        }
        lost
    }
}

/// An agent whose threads are this test.
pub(super) struct Bench {
    pub(super) outbox: Arc<Outbox>,
    pub(super) shelf: Shelf,
    pub(super) now: Instant,
    pub(super) worker: Worker,
    pub(super) server_is_there: bool,
    pub(super) earlier_is_connected: bool,
}

/// A worker that counts what it sends, as the real one does.
pub(super) struct Worker {
    pub(super) life: WorkerLife,
    pub(super) batch: u64,
    pub(super) sent: BTreeMap<Kind, u64>,
}

impl Worker {
    pub(super) fn books(&self) -> v1::Ledger {
        let mut books = Books::default();
        for (kind, count) in &self.sent {
            for stage in [Stage::Kernel, Stage::Sensor, Stage::Detect, Stage::Uplink] {
                *books.entry(stage, *kind) = Counts { seen: *count, passed: *count, ..Counts::default() };
            }
        }
        encode_books(&books, self.batch)
    }
}

pub(super) fn stream(life: u64) -> StreamId {
    StreamId { host: HostId([1; 16]), boot: BootId([2; 16]), incarnation: BootNanos(life) }
}

pub(super) fn identity() -> Identity {
    Identity {
        host: HostId([1; 16]),
        boot: BootId([2; 16]),
        booted: watchfire_event::UnixNanos(5),
        hostname: "tower".into(),
        os: String::new(),
        kernel: String::new(),
    }
}

pub(super) fn event(kind: Kind, mark: u64, weight: usize) -> Event {
    let process = Process {
        key: ProcessKey { tgid: 7, started: BootNanos(3) },
        argv: vec![b'a'; weight],
        ..Process::default()
    };
    let body = match kind {
        Kind::Exec => EventBody::Exec,
        _ => EventBody::Fork { child: ProcessKey::default() },
    };
    Event { at: BootNanos(mark), decoded: BootNanos(mark), process: Arc::new(process), parent: None, body }
}

pub(super) fn alert(id: u64, weight: usize) -> Alert {
    let process = Process { argv: vec![b'x'; weight], ..Process::default() };
    Alert {
        id: AlertId::derive(stream(0), id),
        sequence: 77,
        rule: RuleId { id: "rule".into(), title: "title".into() },
        attack: Vec::new(),
        level: Level::High,
        kind: Kind::Exec,
        matched: Vec::new(),
        tree: vec![ProcessNode { process: Arc::new(process) }],
        times: AlertTimes::default(),
    }
}

impl Bench {
    pub(super) fn new(folder: &Path, life: u64, max_bytes: u64, when_full: WhenFull, memory: usize) -> Self {
        let now = Instant::now();
        let hello = hello(&identity(), stream(life));
        let limits = Limits { bytes: memory, alerts: 64 };
        let shared = Arc::new(Shared::new(hello.clone(), limits, now));
        let settings = SpoolSettings {
            segment_bytes: max_bytes / 8,
            max_bytes,
            ..SpoolSettings::new(folder.join(SPOOL), when_full)
        };
        let mut shelf = Shelf::new(settings, KEPT.to_vec(), stream(life), hello, folder.join(LIVES), now);
        shelf.recall(&shared);
        let outbox = Arc::new(Outbox { shared, shelf: Mutex::new(None) });
        let mut bench = Bench {
            outbox,
            shelf,
            now,
            worker: Worker { life: WorkerLife(life * 1000), batch: 0, sent: BTreeMap::new() },
            server_is_there: false,
            earlier_is_connected: false,
        };
        bench.turns();
        bench
    }

    /// All that the disk's thread has to do now.
    pub(super) fn turns(&mut self) {
        for _ in 0..100_000 {
            if !self.shelf.turn(&self.outbox.shared, self.now) {
                return;
            }
        }
        panic!("the shelf never rests");
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.turns();
    }

    pub(super) fn send_events(&mut self, events: &[Event]) {
        let mut builder = BatchBuilder::new();
        for event in events {
            builder.push(event);
            *self.worker.sent.entry(event.kind()).or_default() += 1;
        }
        self.worker.batch += 1;
        let frame = frame_around_batch(&builder.finish(self.worker.batch));
        self.outbox.shared.lock().live.take(self.worker.life.0, &frame, self.now).unwrap();
    }

    pub(super) fn send_alerts(&mut self, alerts: &[Alert]) {
        let alerts = alerts.iter().map(encode_alert).collect();
        self.outbox.take(self.worker.life, &encode(Body::Alerts(v1::AlertBatch { alerts }))).unwrap();
    }

    pub(super) fn send_books(&mut self) {
        let frame = encode(Body::Ledger(self.worker.books()));
        self.outbox.shared.lock().live.take(self.worker.life.0, &frame, self.now).unwrap();
    }

    /// The worker crashes without its last books, and another one starts.
    pub(super) fn crash_worker(&mut self) {
        self.outbox.worker_ended(self.worker.life);
        self.worker = Worker { life: WorkerLife(self.worker.life.0 + 1), batch: 0, sent: BTreeMap::new() };
    }

    pub(super) fn stream(&self) -> StreamId {
        earlier::stream_of(&self.outbox.hello()).unwrap()
    }

    pub(super) fn connect(&mut self, server: &Server) {
        let welcome = server.welcome(self.stream());
        let mut state = self.outbox.shared.lock();
        state.live.welcomed(welcome.last_batch, welcome.last_alert, self.now);
        self.server_is_there = true;
    }

    pub(super) fn disconnect(&mut self) {
        self.outbox.shared.lock().live.disconnected(self.now);
        if let Some(earlier) = self.outbox.shared.lock().earlier.front_mut() {
            earlier.disconnected(false);
        }
        (self.server_is_there, self.earlier_is_connected) = (false, false);
    }

    /// Sends up to so many frames of the present stream.
    pub(super) fn send(&mut self, server: &mut Server, frames: usize) {
        let stream = self.stream();
        for _ in 0..frames {
            let frame = self.outbox.shared.lock().next_live(self.now);
            let Some(frame) = frame else { break };
            server.take(stream, &frame);
        }
        self.turns();
    }

    pub(super) fn acknowledge(&mut self, server: &Server) {
        let welcome = server.welcome(self.stream());
        self.outbox.acknowledge(welcome.last_batch, welcome.last_alert);
        self.turns();
    }

    /// Sends up to so many frames of what earlier lives left.
    pub(super) fn send_earlier(&mut self, server: &mut Server, frames: usize) {
        for _ in 0..frames {
            let mut state = self.outbox.shared.lock();
            if !state.listed {
                return;
            }
            let Some(earlier) = state.earlier.front_mut() else { return };
            let stream = earlier.stream;
            if !std::mem::replace(&mut self.earlier_is_connected, true) {
                earlier.welcomed(&server.welcome(stream));
            }
            let frame = earlier.next();
            drop(state);
            match frame {
                Some(frame) => server.take(stream, &frame),
                None => {
                    let welcome = server.welcome(stream);
                    let cargo = EarlierCargo { outbox: self.outbox.clone(), stream };
                    cargo.acknowledge(welcome.last_batch, welcome.last_alert);
                    if cargo.finished() {
                        cargo.retire();
                        self.earlier_is_connected = false;
                    }
                }
            }
            self.turns();
        }
    }

    /// The books as they would be told now, with what the model server has taken at the point the stream has reached.
    pub(super) fn books_close(&self) {
        let state = self.outbox.shared.lock();
        let books = state.live.books.at(&state.live.batches.passed(), &state.live.batches.held());
        assert_eq!(books.faults(), [""; 0]);
    }

    /// Everything that is left goes to the server.
    pub(super) fn deliver(&mut self, server: &mut Server) {
        self.disconnect();
        self.connect(server);
        self.send_books();
        for _ in 0..2000 {
            self.send_earlier(server, 50);
            self.send(server, 50);
            self.acknowledge(server);
            self.now += Duration::from_millis(1100);
            let state = self.outbox.shared.lock();
            if state.live.is_delivered() && state.earlier.is_empty() {
                break;
            }
        }
        self.send_books();
        self.send(server, 10);
        let state = self.outbox.shared.lock();
        assert!(state.live.is_delivered(), "{:?}", state.live);
        assert!(state.earlier.is_empty(), "{:?}", state.earlier);
        drop(state);
        self.turns();
        let held = self.shelf.held_records();
        assert_eq!(held, 0, "records stay in the spool");
    }

    /// SIGTERM: what is left goes to the disk.
    pub(super) fn stop(mut self) {
        self.outbox.shared.lock().shelving = true;
        self.turns();
        let shared = self.outbox.shared.clone();
        self.shelf.finish(&shared);
    }

    /// SIGKILL: nothing more is written but the spool's cursor, by its drop. That records are read again without it, the spool's
    /// own tests see to; `an_old_cursor_…` below sees to what the outbox makes of them.
    pub(super) fn kill(self) {
        drop(self);
    }
}
