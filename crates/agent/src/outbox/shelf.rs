//! The disk's side of the outbox: one thread that owns the spool. Nobody else waits for a disk.
//!
//! Each turn it does the first of: copy a frame that should survive, bring back what was on the disk alone, release what is
//! delivered, sync, write the books. While the server is there and quick only alerts and, now and then, the books touch the disk.

mod copy;
mod read;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use watchfire_event::{Kind, StreamId, UnixNanos};
use watchfire_spool::{Spool, SpoolSettings};
use watchfire_wire::v1;
use watchfire_wire::{SpooledFrame, decode_books, encode_books};

use self::copy::Waiting;
use super::books::LastBooks;
use super::earlier::{Earlier, Found, stream_of};
use super::lives::{Life, LivesFile};
use super::tally::Tally;
use super::{Shared, State};

/// Between two tries to open a spool that could not be opened.
const REOPEN: Duration = Duration::from_secs(30);
/// After a failed write the disk is left alone for this long.
const RETRY: Duration = Duration::from_secs(5);
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often the books are written while they change.
const BOOKS_EVERY: Duration = Duration::from_secs(5);
/// Streams that no server takes are passed over; so many are remembered.
const MOST_GIVEN_UP: usize = 64;
/// The longest sleep: nothing here is due without a time of its own.
const IDLE: Duration = Duration::from_secs(60);

/// What the rest of the agent is told of the spool.
#[derive(Debug, Clone, Default)]
pub(super) struct SpoolView {
    pub(super) open: bool,
    /// Why it is not open, or cannot be written just now.
    pub(super) trouble: String,
    /// What was found damaged.
    pub(super) damage: String,
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) limit: u64,
}

impl SpoolView {
    pub(super) fn to_wire(&self, earlier: usize) -> v1::SpoolStatus {
        let words = [&self.trouble, &self.damage].map(String::as_str);
        v1::SpoolStatus {
            state: if self.open { "open" } else { "unavailable" }.to_owned(),
            detail: words.into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join("; "),
            records: self.records,
            bytes: self.bytes,
            limit_bytes: self.limit,
            earlier_streams: u32::try_from(earlier).unwrap_or(u32::MAX),
        }
    }
}

/// See the module's documentation.
pub(super) struct Shelf {
    settings: SpoolSettings,
    kinds: Vec<Kind>,
    stream: StreamId,
    booted: UnixNanos,
    /// How an earlier stream introduces itself that left records and no books.
    like: v1::Hello,
    lives: LivesFile,
    spool: Option<Spool>,
    open_due: Instant,
    /// After a failed write.
    rest_until: Option<Instant>,
    /// A record that was read and has no room yet.
    in_hand: Option<(u64, SpooledFrame)>,
    /// The demotions at the moment the present pass over the spool began.
    pass: Option<u64>,
    /// Records of streams that the last pass did not list begin here.
    unlisted_from: Option<u64>,
    newest: u64,
    released: u64,
    unsynced: bool,
    sync_due: Instant,
    books_due: Instant,
    given_up: Vec<StreamId>,
    damaged_told: u64,
    /// What is wrong with the disk just now.
    trouble: String,
}

/// What a turn finds to do.
enum Job {
    Open,
    CopyAlerts(Waiting),
    CopyBatch(Waiting),
    Read,
    Release(u64),
    Sync,
    WriteBooks(Vec<Life>),
}

impl Shelf {
    pub(super) fn new(
        settings: SpoolSettings,
        kinds: Vec<Kind>,
        stream: StreamId,
        like: v1::Hello,
        lives: PathBuf,
        now: Instant,
    ) -> Self {
        Shelf {
            settings,
            kinds,
            stream,
            booted: UnixNanos(like.booted),
            like,
            lives: LivesFile::new(lives),
            spool: None,
            open_due: now,
            rest_until: None,
            in_hand: None,
            pass: None,
            unlisted_from: None,
            newest: 0,
            released: 0,
            unsynced: false,
            sync_due: now,
            books_due: now,
            given_up: Vec::new(),
            damaged_told: 0,
            trouble: String::new(),
        }
    }

    /// Works until the outbox is shelved: then everything that should survive is on the disk.
    pub(super) fn run(mut self, shared: &Shared) {
        self.recall(shared);
        loop {
            if self.turn(shared, Instant::now()) {
                continue;
            }
            let state = shared.lock();
            let now = Instant::now();
            // Looked at once more with the lock held: what came since the turn has woken nobody.
            if self.job(&state, now).is_some() {
                continue;
            }
            if state.shelving {
                break;
            }
            let patience = self.patience(&state, now);
            let woken = shared.work.wait_timeout(state, patience);
            drop(woken.expect("no thread panics while it holds the outbox"));
        }
        self.finish(shared);
    }

    /// Takes in the lives of the file that remembers them.
    pub(super) fn recall(&mut self, shared: &Shared) {
        let lives = self.lives.read();
        let mut state = shared.lock();
        for life in lives {
            let Some(hello) = life.hello else { continue };
            let Some(stream) = stream_of(&hello) else { continue };
            if stream == self.stream || state.earlier.iter().any(|earlier| earlier.stream == stream) {
                continue;
            }
            let books = LastBooks::new(life.ledger.and_then(|ledger| decode_books(&ledger).ok()));
            state.earlier.push_back(Earlier::new(stream, hello, Found::default(), books));
        }
    }

    /// Does one thing that is due; false when nothing is.
    pub(super) fn turn(&mut self, shared: &Shared, now: Instant) -> bool {
        let mut state = shared.lock();
        state.live.demote();
        self.drop_futile(&mut state);
        let Some(job) = self.job(&state, now) else { return false };
        drop(state);
        match job {
            Job::Open => self.open(shared, now),
            Job::CopyAlerts(waiting) => self.copy_alerts(shared, now, &waiting),
            Job::CopyBatch(waiting) => self.copy_batch(shared, now, &waiting),
            Job::Read => self.read(shared, now),
            Job::Release(through) => self.release(through),
            Job::Sync => self.sync(now),
            Job::WriteBooks(lives) => self.write_books(lives, now),
        }
        self.show(shared);
        true
    }

    fn job(&self, state: &State, now: Instant) -> Option<Job> {
        let Some(_) = &self.spool else {
            if now >= self.open_due && !state.shelving {
                return Some(Job::Open);
            }
            return self.books_job(state, now);
        };
        let rested = self.rest_until.is_none_or(|until| now >= until);
        if rested && let Some(entry) = state.live.alerts.uncopied() {
            let (first, last, frame) = (entry.first, entry.last, entry.frame.clone());
            let waiting = Waiting { first, last, frame, events: Tally::default(), alerts: entry.holds };
            return Some(Job::CopyAlerts(waiting));
        }
        let wanted = state.shelving || state.live.wants_copies(now);
        if rested
            && wanted
            && let Some(entry) = state.live.batches.uncopied()
        {
            let (first, last, frame) = (entry.first, entry.last, entry.frame.clone());
            return Some(Job::CopyBatch(Waiting {
                first,
                last,
                frame,
                events: entry.holds.clone(),
                alerts: 0,
            }));
        }
        if !state.shelving && self.may_read(state) {
            return Some(Job::Read);
        }
        if rested && let Some(through) = self.releasable(state) {
            return Some(Job::Release(through));
        }
        if rested && self.unsynced && now >= self.sync_due {
            return Some(Job::Sync);
        }
        self.books_job(state, now)
    }

    fn books_job(&self, state: &State, now: Instant) -> Option<Job> {
        (now >= self.books_due && !state.shelving).then(|| Job::WriteBooks(lives_of(state)))
    }

    /// How long nothing can be due, if nothing happens.
    fn patience(&self, state: &State, now: Instant) -> Duration {
        let mut due = now + IDLE;
        due = due.min(self.books_due);
        if self.spool.is_none() {
            due = due.min(self.open_due);
        } else {
            if self.unsynced {
                due = due.min(self.sync_due);
            }
            if let Some(outage) = state.live.outage_due().filter(|outage| *outage > now) {
                due = due.min(outage);
            }
        }
        if let Some(rested) = self.rest_until.filter(|rested| *rested > now) {
            due = due.min(rested);
        }
        due.saturating_duration_since(now).max(Duration::from_millis(1))
    }

    fn open(&mut self, shared: &Shared, now: Instant) {
        self.open_due = now + REOPEN;
        match Spool::open(self.settings.clone()) {
            Ok((spool, recovery)) => {
                info!(
                    records = recovery.records,
                    bytes = recovery.bytes,
                    damaged_bytes = recovery.damaged_bytes,
                    missing_records = recovery.missing_records,
                    "spool open"
                );
                let mut state = shared.lock();
                if recovery.damaged_bytes > 0 || recovery.missing_records > 0 || recovery.cursor_damaged {
                    let missing = recovery.missing_records;
                    warn!(missing, "the spool was damaged; what could be read is kept");
                    state.spool.damage =
                        format!("found damaged at its opening: {missing} records are missing");
                }
                drop(state);
                self.spool = Some(spool);
                self.trouble.clear();
                self.list_earlier(shared);
            }
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if self.trouble != error {
                    error!(error, "no spool: what waits for the server lives in memory alone");
                }
                shared.lock().spool.trouble.clone_from(&error);
                self.trouble = error;
            }
        }
    }

    /// Streams that no server takes must not keep the others waiting for ever.
    fn drop_futile(&mut self, state: &mut State) {
        let futile = |earlier: &mut Earlier| !earlier.connected && earlier.is_futile();
        let Some(futile) = state.earlier.pop_front_if(futile) else { return };
        let events = futile.batches.undelivered().total();
        let alerts = futile.alerts.undelivered();
        error!(
            incarnation = futile.stream.incarnation.0,
            events, alerts, "the server does not take what an earlier life of the agent left; it is given up"
        );
        state.live.alerts_dropped += alerts;
        if self.given_up.len() >= MOST_GIVEN_UP {
            self.given_up.remove(0);
        }
        self.given_up.push(futile.stream);
    }

    /// Everything through which record is delivered, if that is more than was released.
    fn releasable(&self, state: &State) -> Option<u64> {
        let live = state.live.batches.lowest_record().into_iter().chain(state.live.alerts.lowest_record());
        let earlier = state.earlier.iter().filter_map(Earlier::lowest_record);
        let lowest = live.chain(earlier).chain(self.unlisted_from).min();
        let through = lowest.map_or(self.newest, |lowest| lowest - 1);
        (through > self.released).then_some(through)
    }

    fn release(&mut self, through: u64) {
        let Some(spool) = &mut self.spool else { return };
        self.released = through;
        if let Err(error) = spool.release(through) {
            // It holds all the same, and is tried again.
            warn!(error = &error as &dyn std::error::Error, "what is delivered stays on the disk for now");
        }
    }

    fn sync(&mut self, now: Instant) {
        self.sync_due = now + SYNC_EVERY;
        let Some(spool) = &mut self.spool else { return };
        match spool.sync() {
            Ok(()) => {
                self.unsynced = false;
                self.works();
            }
            Err(error) => self.failed(now, &error),
        }
    }

    fn write_books(&mut self, lives: Vec<Life>, now: Instant) {
        self.books_due = now + BOOKS_EVERY;
        if let Err(error) = self.lives.write(lives)
            && self.rest_until.is_none()
        {
            warn!(%error, "the books are not written; will retry");
        }
    }

    /// Tells the status how the spool is.
    fn show(&mut self, shared: &Shared) {
        let mut state = shared.lock();
        state.live.spool_works = self.spool.is_some() && self.rest_until.is_none();
        state.spool.open = self.spool.is_some();
        let Some(spool) = &self.spool else { return };
        let (held, damaged) = (spool.held(), spool.counters().damaged);
        state.spool.records = held.records;
        state.spool.bytes = held.bytes;
        state.spool.limit = self.settings.max_bytes;
        if damaged > self.damaged_told {
            self.damaged_told = damaged;
            warn!(damaged, "records of the spool could not be read");
            state.spool.damage = format!("{damaged} records could not be read");
        }
        state.spool.trouble.clone_from(&self.trouble);
    }

    pub(super) fn finish(mut self, shared: &Shared) {
        let lives = {
            let mut state = shared.lock();
            state.live.disconnected(Instant::now());
            lives_of(&state)
        };
        if let Err(error) = self.lives.write(lives) {
            warn!(%error, "the last books are not written");
        }
        let Some(spool) = &mut self.spool else { return };
        let released = self.released;
        if let Err(error) = spool.release(released).and_then(|()| spool.sync()) {
            warn!(error = &error as &dyn std::error::Error, "the spool was not synced at the end");
        }
    }
}

#[cfg(test)]
impl Shelf {
    pub(super) fn held_records(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.held().records)
    }

    pub(super) fn appended(&self) -> u64 {
        self.spool.as_ref().map_or(0, |spool| spool.counters().appended)
    }
}

/// The lives that have something left to say, oldest first; the present one last.
fn lives_of(state: &State) -> Vec<Life> {
    let mut lives: Vec<Life> = state
        .earlier
        .iter()
        .map(|earlier| Life {
            hello: Some(earlier.hello.clone()),
            ledger: earlier.books.known().map(|books| encode_books(books, 0)),
        })
        .collect();
    if !state.live.finished() {
        let ledger = Some(encode_books(&state.live.last_books(), 0));
        lives.push(Life { hello: Some(state.hello.clone()), ledger });
    }
    lives
}
