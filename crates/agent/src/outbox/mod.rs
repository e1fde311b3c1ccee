//! The agent's way to the server: one stream for each life of the master, into which all workers put their frames.
//!
//! `Outbox::take` (numbers, books) → lanes in memory (`lane.rs`) ⇄ the spool (`shelf.rs`, one thread) → `uplink.rs` → server
//!
//! Alerts have a copy on the disk as soon as they are taken. Events are copied there when the server is away or slow, as far as their
//! kinds are worth it; while it is there and quick they never touch a disk. What an earlier life of the agent left is handed
//! over beside the present stream, under its own name (`earlier.rs`).
//!
//! The books (`books.rs`) are told at a point of the stream: what was sent by then has passed, the rest is held or lost by reason.

mod books;
mod earlier;
mod lane;
mod live;
mod lives;
mod shelf;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tracing::{info, warn};
use watchfire_event::{BootNanos, Event, Kind, StreamId};
use watchfire_host::Identity;
use watchfire_wire::v1::{self, agent_frame::Body};
use watchfire_wire::{ConversionError, PROTOCOL};

use self::earlier::Earlier;
use self::live::{Limits, Live};
use self::shelf::{Shelf, SpoolView};
use crate::settings::AgentSettings;
use crate::uplink::Cargo;

/// The spool's folder and the file of the books, in the state directory.
const SPOOL: &str = "spool";
const LIVES: &str = "spool.lives";

/// One life of a worker, whatever worker it is: a number that no other life in this master's has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WorkerLife(pub(crate) u64);

/// See the module's documentation.
pub(crate) struct Outbox {
    shared: Arc<Shared>,
    shelf: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    state: Mutex<State>,
    /// For those who send: there may be a frame, or an end.
    changed: Condvar,
    /// For the shelf: there may be something to copy, read or release.
    work: Condvar,
}

struct State {
    hello: v1::Hello,
    live: Live,
    /// Oldest first; the first is the one handed over.
    earlier: VecDeque<Earlier>,
    /// Whether the spool was looked through for them.
    listed: bool,
    spool: SpoolView,
    /// What is left goes to the disk, and nothing more comes.
    shelving: bool,
    /// Nobody will ask for earlier streams any more.
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the outbox")
    }
}

impl Outbox {
    /// Begins the stream of this life, which began at `incarnation`, and starts the thread that owns the spool in `state_dir`. A spool
    /// that cannot be opened is no error: it is told and tried again.
    pub(crate) fn open(
        identity: &Identity,
        incarnation: BootNanos,
        settings: &AgentSettings,
        state_dir: &Path,
    ) -> Result<Arc<Self>> {
        let now = Instant::now();
        let stream = StreamId { host: identity.host, boot: identity.boot, incarnation };
        let hello = hello(identity, stream);
        let limits = Limits {
            bytes: settings.uplink.backlog_kib as usize * 1024,
            alerts: settings.uplink.backlog_alerts as usize,
        };
        let shared = Arc::new(Shared::new(hello.clone(), limits, now));
        let shelf = Shelf::new(
            settings.spool.spool_settings(state_dir.join(SPOOL)),
            settings.spool.kept_kinds(),
            stream,
            hello,
            state_dir.join(LIVES),
            now,
        );
        let for_shelf = shared.clone();
        let thread = thread::Builder::new().name("spool".into()).spawn(move || shelf.run(&for_shelf));
        let thread = thread.context("start the spool's thread")?;
        Ok(Arc::new(Outbox { shared, shelf: Mutex::new(Some(thread)) }))
    }

    /// Takes a frame of events, alerts or books from a worker.
    ///
    /// # Errors
    /// A frame that is none of them, or malformed. It is left out; events in it show in the books as such.
    pub(crate) fn take(&self, life: WorkerLife, frame: &[u8]) -> Result<(), ConversionError> {
        let now = Instant::now();
        let mut state = self.shared.lock();
        state.live.take(life.0, frame, now)?;
        let wake = state.live.wants_copies(now) || state.live.alerts.uncopied().is_some();
        drop(state);
        self.shared.changed.notify_all();
        if wake {
            self.shared.work.notify_one();
        }
        Ok(())
    }

    /// No more comes of this life: its books are closed by what came.
    pub(crate) fn worker_ended(&self, life: WorkerLife) {
        self.shared.lock().live.worker_ended(life.0, Instant::now());
        self.shared.changed.notify_all();
    }

    /// Takes what the agent says of itself; only the newest is sent. Figures of the way to the server are added on the way.
    pub(crate) fn push_status(&self, status: v1::Status) {
        self.shared.lock().live.push_status(status);
        self.shared.changed.notify_all();
    }

    /// Takes an event that the master itself has to tell.
    pub(crate) fn push_own_event(&self, event: &Event) {
        self.shared.lock().live.push_own(event, Instant::now());
        self.shared.changed.notify_all();
    }

    /// An event that could not be taken for its teller's limit: it is in the books alone.
    pub(crate) fn drop_own(&self, kind: Kind) {
        self.shared.lock().live.drop_own(kind, Instant::now());
    }

    /// No more will come from any worker.
    pub(crate) fn close(&self) {
        self.shared.lock().live.closed = true;
        self.shared.changed.notify_all();
    }

    /// Whether no more will come and all that came is acknowledged.
    pub(crate) fn finished(&self) -> bool {
        self.shared.lock().live.finished()
    }

    /// Waits until an earlier stream is there to be handed over; `None` when the outbox stops first.
    pub(crate) fn earlier(self: &Arc<Self>) -> Option<EarlierCargo> {
        let mut state = self.shared.lock();
        loop {
            if state.stopping {
                return None;
            }
            if state.listed
                && let Some(earlier) = state.earlier.front()
            {
                return Some(EarlierCargo { outbox: self.clone(), stream: earlier.stream });
            }
            state = self.shared.changed.wait(state).expect("no thread panics while it holds the outbox");
        }
    }

    /// Earlier streams wait for the next life from here on.
    pub(crate) fn stop_earlier(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
    }

    /// Puts what is left on the disk, and ends the spool's thread; false when that took longer than `grace`.
    pub(crate) fn shelve(&self, grace: Duration) -> bool {
        {
            let mut state = self.shared.lock();
            state.live.gather_own(Instant::now(), true);
            (state.shelving, state.stopping) = (true, true);
        }
        self.shared.work.notify_all();
        self.shared.changed.notify_all();
        let thread = self.shelf.lock().expect("no thread panics while it holds the shelf").take();
        let Some(thread) = thread else { return true };
        let deadline = Instant::now() + grace;
        while !thread.is_finished() {
            if Instant::now() >= deadline {
                warn!(?grace, "the disk did not take what was left in time");
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        thread.join().is_ok()
    }
}

impl Shared {
    fn new(hello: v1::Hello, limits: Limits, now: Instant) -> Self {
        let state = State {
            hello,
            live: Live::new(limits, now),
            earlier: VecDeque::new(),
            listed: false,
            spool: SpoolView::default(),
            shelving: false,
            stopping: false,
        };
        Shared { state: Mutex::new(state), changed: Condvar::new(), work: Condvar::new() }
    }

    /// Waits for a frame of what `next` looks at, until `deadline`.
    fn wait_for(
        &self,
        deadline: Instant,
        mut next: impl FnMut(&mut State, Instant) -> Option<Arc<[u8]>>,
        due: impl Fn(&State) -> Option<Instant>,
    ) -> Option<Arc<[u8]>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(frame) = next(&mut state, now) {
                if state.waits_on_disk() {
                    self.work.notify_one();
                }
                return Some(frame);
            }
            if now >= deadline || state.live.closed {
                return None;
            }
            let until = due(&state).map_or(deadline, |due| due.min(deadline));
            let left = until.saturating_duration_since(now).max(Duration::from_millis(1));
            (state, _) =
                self.changed.wait_timeout(state, left).expect("no thread panics while it holds the outbox");
        }
    }
}

impl State {
    /// Whether there is something for the shelf to bring back or to release.
    fn waits_on_disk(&self) -> bool {
        self.spool.records > 0
    }

    fn next_live(&mut self, now: Instant) -> Option<Arc<[u8]>> {
        if let Some(frame) = self.live.next(now) {
            return Some(frame);
        }
        let mut status = self.live.due_status()?;
        status.alerts_dropped += self.live.alerts_dropped;
        status.spool = Some(self.spool.to_wire(self.earlier.len()));
        Some(encode(Body::Status(status)).into())
    }
}

/// The present stream.
impl Cargo for Outbox {
    fn hello(&self) -> v1::Hello {
        self.shared.lock().hello.clone()
    }

    fn welcomed(&self, welcome: &v1::Welcome) {
        self.shared.lock().live.welcomed(welcome.last_batch, welcome.last_alert, Instant::now());
        self.shared.work.notify_one();
    }

    fn next(&self, deadline: Instant) -> Option<Arc<[u8]>> {
        self.shared.wait_for(deadline, State::next_live, |state| state.live.due())
    }

    fn acknowledge(&self, last_batch: u64, last_alert: u64) {
        let mut state = self.shared.lock();
        state.live.batches.acknowledge(last_batch);
        state.live.alerts.acknowledge(last_alert);
        let copies = state.waits_on_disk();
        drop(state);
        self.shared.changed.notify_all();
        if copies {
            self.shared.work.notify_one();
        }
    }

    fn disconnected(&self) {
        self.shared.lock().live.disconnected(Instant::now());
        self.shared.work.notify_one();
    }

    fn finished(&self) -> bool {
        Outbox::finished(self)
    }
}

/// One stream of an earlier life, while it is handed over.
pub(crate) struct EarlierCargo {
    outbox: Arc<Outbox>,
    stream: StreamId,
}

impl EarlierCargo {
    fn with<T>(&self, what: impl FnOnce(&mut Earlier) -> T) -> Option<T> {
        let mut state = self.outbox.shared.lock();
        state.earlier.iter_mut().find(|earlier| earlier.stream == self.stream).map(what)
    }

    /// It is handed over: nothing of it is left here.
    pub(crate) fn retire(self) {
        let mut state = self.outbox.shared.lock();
        let done =
            state.earlier.iter().position(|earlier| earlier.stream == self.stream && earlier.finished());
        let Some(done) = done.and_then(|index| state.earlier.remove(index)) else { return };
        info!(
            incarnation = done.stream.incarnation.0,
            "an earlier life of the agent has handed over what it left"
        );
        drop(state);
        self.outbox.shared.work.notify_one();
    }
}

impl Cargo for EarlierCargo {
    fn hello(&self) -> v1::Hello {
        self.with(|earlier| earlier.hello.clone()).unwrap_or_default()
    }

    fn welcomed(&self, welcome: &v1::Welcome) {
        self.with(|earlier| earlier.welcomed(welcome));
        self.outbox.shared.work.notify_one();
    }

    fn next(&self, deadline: Instant) -> Option<Arc<[u8]>> {
        let next = |state: &mut State, _| {
            state.earlier.iter_mut().find(|earlier| earlier.stream == self.stream)?.next()
        };
        self.outbox.shared.wait_for(deadline, next, |_| None)
    }

    fn acknowledge(&self, last_batch: u64, last_alert: u64) {
        self.with(|earlier| earlier.acknowledge(last_batch, last_alert));
        self.outbox.shared.changed.notify_all();
        self.outbox.shared.work.notify_one();
    }

    fn disconnected(&self) {
        let server_there = self.outbox.shared.lock().live.connected;
        self.with(|earlier| earlier.disconnected(server_there));
        self.outbox.shared.work.notify_one();
    }

    fn finished(&self) -> bool {
        // One that was given up meanwhile is finished too.
        self.with(|earlier| earlier.finished()).unwrap_or(true)
    }
}

fn hello(identity: &Identity, stream: StreamId) -> v1::Hello {
    v1::Hello {
        protocol: PROTOCOL,
        host: stream.host.0.to_vec(),
        boot: stream.boot.0.to_vec(),
        incarnation: stream.incarnation.0,
        hostname: identity.hostname.clone(),
        booted: identity.booted.0,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: identity.kernel.clone(),
        os: identity.os.clone(),
        earlier: false,
    }
}

/// The bytes of one `AgentFrame`.
pub(crate) fn encode(body: Body) -> Vec<u8> {
    use prost::Message;
    v1::AgentFrame { body: Some(body) }.encode_to_vec()
}
