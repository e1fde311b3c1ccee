//! One agent's connection.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use watchfire_event::{
    Alert, Books, BootId, BootNanos, HostId, Kind, Stage, StreamId, UnixNanos, with_causes,
};
use watchfire_lake::StreamMeta;
use watchfire_pace::{BackoffSettings, Random, RetryBudget, RetryPolicy, Waiting, retry};
use watchfire_wire::{ConversionError, FrameError, PROTOCOL, v1};

use super::frame::{self, BadFrame, Incoming};
use super::{TICK, readable};
use crate::agents::LedgerSnapshot;
use crate::shared::{Shared, StoredAlert};

/// A frame that began must go on: a peer that stops in the middle of one is gone.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Synced and acknowledged at the latest after so many bytes or so long, when the agent never pauses.
const SYNC_BYTES: usize = 4 << 20;
const SYNC_AFTER: Duration = Duration::from_millis(100);
/// While a store refuses (a full disk): as often as it takes.
const RETRY: RetryPolicy = RetryPolicy {
    backoff: BackoffSettings {
        first: Duration::from_millis(100),
        cap: Duration::from_secs(5),
        floor: Duration::from_millis(100),
    },
    attempts: None,
    deadline: None,
};
/// A connection that its agent has left is read to its end in this time. One that is still open then was taken over by another
/// agent with the same identity; both are served.
const PREDECESSOR_LEAVES: Duration = Duration::from_secs(3);
const PREDECESSOR_LOOK: Duration = Duration::from_millis(10);
/// Longest text of a Hello that is kept.
const MAX_WORDS: usize = 256;

/// Why a connection was closed from this side.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    BadFrame(#[from] BadFrame),
    #[error(transparent)]
    Conversion(#[from] ConversionError),
    #[error("protocol {0}, this server speaks {PROTOCOL}")]
    Protocol(u32),
    #[error("{0} before or after its time")]
    OutOfTurn(&'static str),
    #[error("a host or boot id of {0} bytes instead of 16")]
    IdLength(usize),
    #[error("too many hosts")]
    TooManyHosts,
    #[error("the store refused until the server stopped")]
    StoreRefused,
    #[error("the store refused until the peer left")]
    PeerLeft,
}

impl SessionError {
    /// The peer sent what it must not, as opposed to having gone away.
    fn is_malformed(&self) -> bool {
        !matches!(
            self,
            SessionError::Frame(FrameError::Io(_))
                | SessionError::StoreRefused
                | SessionError::PeerLeft
                | SessionError::TooManyHosts
        )
    }
}

/// Serves one connection to its end.
pub(super) fn run(stream: UnixStream, shared: &Shared) {
    let mut link = match Link::new(stream) {
        Ok(link) => link,
        Err(error) => return tracing::warn!(%error, "connection not usable"),
    };
    let ended = match Session::open(&mut link, shared) {
        Ok(Some(mut session)) => {
            let host = session.meta.stream.host;
            let ended = session.run();
            session.leave();
            tracing::info!(%host, last_batch = session.last_batch, "agent disconnected");
            ended
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        if error.is_malformed() {
            shared.ingest_faults.malformed_frames.fetch_add(1, Ordering::Relaxed);
        }
        let error = anyhow::Error::from(error);
        tracing::warn!(error = format!("{error:#}"), "connection closed");
    }
}

/// The two directions of a connection.
struct Link {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Link {
    fn new(stream: UnixStream) -> std::io::Result<Link> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(FRAME_TIMEOUT))?;
        stream.set_write_timeout(Some(FRAME_TIMEOUT))?;
        let writer = stream.try_clone()?;
        Ok(Link { reader: BufReader::with_capacity(256 << 10, stream), writer })
    }

    /// Whether a frame began to arrive.
    fn has_more(&self, timeout: Duration) -> bool {
        !self.reader.buffer().is_empty() || readable(self.reader.get_ref(), timeout)
    }

    /// Whether the peer has closed its end. What it sent before may still wait to be read.
    fn hung_up(&self) -> bool {
        super::hung_up(self.reader.get_ref())
    }

    /// The next frame, or `None` at the end of the stream.
    fn next(&mut self) -> Result<Option<Incoming>, SessionError> {
        let Some(bytes) = watchfire_wire::read_raw_frame(&mut self.reader)? else { return Ok(None) };
        Ok(Some(frame::open(&bytes)?))
    }

    fn send(&mut self, body: v1::server_frame::Body) -> Result<(), SessionError> {
        watchfire_wire::write_frame(&mut self.writer, &v1::ServerFrame { body: Some(body) })?;
        self.writer.flush().map_err(FrameError::from)?;
        Ok(())
    }
}

/// A connection after its Hello.
struct Session<'a> {
    link: &'a mut Link,
    shared: &'a Shared,
    meta: StreamMeta,
    hello: v1::Hello,
    host: String,
    /// In the log, perhaps not on the disk yet.
    last_batch: u64,
    last_alert: u64,
    acked: v1::Ack,
    unsynced: usize,
    oldest_unsynced: Instant,
    /// This stage's rows for the whole stream.
    books: Books,
}

impl<'a> Session<'a> {
    /// Reads Hello and answers it; `None` when the peer left or the server stops first.
    fn open(link: &'a mut Link, shared: &'a Shared) -> Result<Option<Self>, SessionError> {
        while !link.has_more(TICK) {
            if shared.stopping() {
                return Ok(None);
            }
        }
        let Some(incoming) = link.next()? else { return Ok(None) };
        let Incoming::Hello(mut hello) = incoming else {
            return Err(SessionError::OutOfTurn("a frame other than Hello"));
        };
        if hello.protocol != PROTOCOL {
            return Err(SessionError::Protocol(hello.protocol));
        }
        for words in [&mut hello.hostname, &mut hello.agent_version, &mut hello.kernel, &mut hello.os] {
            truncate(words, MAX_WORDS);
        }
        let id = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).map_err(|_| SessionError::IdLength(bytes.len()));
        let stream = StreamId {
            host: HostId(id(&hello.host)?),
            boot: BootId(id(&hello.boot)?),
            incarnation: BootNanos(hello.incarnation),
        };
        let host = crate::agents::name_or_id(&hello.hostname, stream.host);
        let meta = StreamMeta { stream, booted: UnixNanos(hello.booted), hostname: hello.hostname.clone() };
        // An agent that is not welcomed in time comes again: were its earlier connections not given up, a disk that stays full
        // would collect them. Nothing is lost by that, for nothing was taken yet.
        let waits = || !link.hung_up();
        wait_for_predecessor(shared, stream, waits)?;
        let (last_batch, lake) = shared.stores.position(stream);
        // What an earlier connection left unsynced is about to be promised.
        retried_while(shared, "sync events", waits, || shared.stores.sync())?;
        let last_alert =
            retried_while(shared, "read last alert", waits, || shared.stores.last_alert(stream))?;
        // An earlier life of the agent is not what the host is now.
        let earlier = hello.earlier;
        if !earlier {
            retried_while(shared, "store host", waits, || shared.stores.host_seen(stream, &hello))?;
        }
        tracing::info!(host = %stream.host, hostname = host, earlier, last_batch, last_alert, "agent connected");
        if !shared.agents.connected(stream, hello.clone()) {
            return Err(SessionError::TooManyHosts);
        }
        let acked = v1::Ack { last_batch, last_alert };
        let books = books_so_far(&lake);
        let session = Session {
            link,
            shared,
            meta,
            hello,
            host,
            last_batch,
            last_alert,
            acked,
            unsynced: 0,
            oldest_unsynced: Instant::now(),
            books,
        };
        let taken = taken(&session.books);
        let welcome = v1::server_frame::Body::Welcome(v1::Welcome { last_batch, last_alert, taken });
        if let Err(error) = session.link.send(welcome) {
            shared.agents.disconnected(stream);
            return Err(error);
        }
        Ok(Some(session))
    }

    /// Takes frames until the peer leaves, or the server stops and nothing more is on its way.
    fn run(&mut self) -> Result<(), SessionError> {
        loop {
            let full = self.unsynced >= SYNC_BYTES;
            let late = self.unsynced > 0 && self.oldest_unsynced.elapsed() >= SYNC_AFTER;
            if full || late || !self.link.has_more(Duration::ZERO) {
                self.settle()?;
            }
            if !self.link.has_more(TICK) {
                if self.shared.stopping() {
                    return Ok(());
                }
                continue;
            }
            let next = self.link.next();
            let Ok(Some(incoming)) = next else {
                // What came whole is kept, whatever came after it.
                self.sync()?;
                return next.map(drop);
            };
            self.take(incoming)?;
        }
    }

    /// The connection is over, however it ended.
    fn leave(&self) {
        self.shared.agents.disconnected(self.meta.stream);
        self.note_host();
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), SessionError> {
        match incoming {
            Incoming::Hello(_) => Err(SessionError::OutOfTurn("a second Hello")),
            Incoming::Events(batch) => self.take_events(&batch),
            Incoming::Alerts(batch) => self.take_alerts(batch),
            Incoming::Ledger(ledger) => self.take_ledger(&ledger),
            Incoming::Status(status) => {
                self.take_status(status);
                Ok(())
            }
        }
    }

    fn take_events(&mut self, batch: &[u8]) -> Result<(), SessionError> {
        let (sequence, counts) = watchfire_wire::batch_counts(batch)?;
        if sequence <= self.last_batch {
            self.shared.ingest_faults.duplicate_batches.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if self.last_batch > 0 && sequence != self.last_batch + 1 {
            // Refusing what did come would lose that too; the ledger shows what is missing.
            self.shared
                .ingest_faults
                .missing_batches
                .fetch_add(sequence - self.last_batch - 1, Ordering::Relaxed);
        }
        for (kind, count) in &counts {
            self.books.entry(Stage::Ingest, *kind).seen += count;
        }
        let append = || self.shared.stores.append(&self.meta, sequence, batch);
        retried(self.shared, "append events", append)?;
        for (kind, count) in counts {
            self.books.entry(Stage::Ingest, kind).passed += count;
            self.shared.live.add(kind, count);
        }
        if self.unsynced == 0 {
            self.oldest_unsynced = Instant::now();
        }
        self.unsynced += batch.len();
        self.last_batch = sequence;
        Ok(())
    }

    fn take_alerts(&mut self, batch: v1::AlertBatch) -> Result<(), SessionError> {
        let alerts: Vec<Alert> =
            batch.alerts.into_iter().map(watchfire_wire::decode_alert).collect::<Result<_, _>>()?;
        let stream = self.meta.stream;
        let new = retried(self.shared, "store alerts", || self.shared.stores.record_alerts(stream, &alerts))?;
        self.last_alert = alerts.iter().map(|alert| alert.sequence).fold(self.last_alert, u64::max);
        for alert in new {
            self.shared.publish(StoredAlert { host: self.host.clone(), alert });
        }
        self.acknowledge()
    }

    /// The agent's books join this stage's and the lake's at exactly this point of the stream.
    fn take_ledger(&mut self, ledger: &v1::Ledger) -> Result<(), SessionError> {
        let mut books = watchfire_wire::decode_books(ledger)?;
        if ledger.after_batch != self.last_batch {
            let (after, last) = (ledger.after_batch, self.last_batch);
            tracing::debug!(after, last, "books of another point of the stream; kept the last ones");
            return Ok(());
        }
        books.add(&self.books);
        books.add(&self.shared.stores.books(self.meta.stream));
        let snapshot = LedgerSnapshot { time: UnixNanos::now(), books };
        self.shared.agents.update(self.meta.stream, |agent| agent.ledger = Some(snapshot));
        Ok(())
    }

    fn take_status(&self, status: v1::Status) {
        let stream = self.meta.stream;
        self.shared.agents.update(stream, |agent| agent.status = Some(bounded(status)));
        self.note_host();
    }

    fn note_host(&self) {
        if self.hello.earlier {
            return;
        }
        // Only the time of day in a list of hosts: not worth a retry.
        if let Err(error) = self.shared.stores.host_seen(self.meta.stream, &self.hello) {
            tracing::warn!(%error, "not written that the host was heard of");
        }
    }

    /// Makes what was taken durable, and says so.
    fn settle(&mut self) -> Result<(), SessionError> {
        self.sync()?;
        self.acknowledge()
    }

    fn sync(&mut self) -> Result<(), SessionError> {
        if self.unsynced > 0 {
            retried(self.shared, "sync events", || self.shared.stores.sync())?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn acknowledge(&mut self) -> Result<(), SessionError> {
        let last_batch = if self.unsynced == 0 { self.last_batch } else { self.acked.last_batch };
        let ack = v1::Ack { last_batch, last_alert: self.last_alert };
        if ack != self.acked {
            self.link.send(v1::server_frame::Body::Ack(ack))?;
            self.acked = ack;
        }
        Ok(())
    }
}

/// This stage handed on all that the log holds, in this run of the server or an earlier one.
fn books_so_far(lake: &Books) -> Books {
    let mut books = Books::default();
    for kind in Kind::ALL {
        if let Some(log) = lake.get(Stage::Log, *kind) {
            let counts = books.entry(Stage::Ingest, *kind);
            (counts.seen, counts.passed) = (log.seen, log.seen);
        }
    }
    books
}

/// An agent that connects again has left its connection before; what it sent there may still be on its way into the store, and would
/// come a second time.
fn wait_for_predecessor(
    shared: &Shared,
    stream: StreamId,
    peer_waits: impl Fn() -> bool,
) -> Result<(), SessionError> {
    let until = Instant::now() + PREDECESSOR_LEAVES;
    while shared.agents.connections(stream) > 0 && Instant::now() < until && !shared.stopping() {
        if !peer_waits() {
            return Err(SessionError::PeerLeft);
        }
        std::thread::sleep(PREDECESSOR_LOOK);
    }
    Ok(())
}

/// What this stage has taken in of each kind.
fn taken(books: &Books) -> Vec<v1::KindCount> {
    let kinds = Kind::ALL.iter().filter_map(|kind| {
        let count = books.get(Stage::Ingest, *kind)?.seen;
        (count > 0).then_some(v1::KindCount { kind: *kind as u32, count })
    });
    kinds.collect()
}

/// Tries until it works or the server stops: a full disk is waited out, and the agent with it. What the agent sent is kept even
/// if it leaves meanwhile.
fn retried<T, E: std::error::Error + Send + Sync + 'static>(
    shared: &Shared,
    attempt: &'static str,
    step: impl Fn() -> Result<T, E>,
) -> Result<T, SessionError> {
    retried_while(shared, attempt, || true, step)
}

/// The same, as long as the peer waits for it.
fn retried_while<T, E: std::error::Error + Send + Sync + 'static>(
    shared: &Shared,
    attempt: &'static str,
    peer_waits: impl Fn() -> bool,
    step: impl Fn() -> Result<T, E>,
) -> Result<T, SessionError> {
    let tried = |_| {
        step().inspect_err(|error| {
            let error = with_causes(error);
            tracing::error!(error, attempt, "the store refused; will retry");
        })
    };
    let wanted = Wanted { shared, peer_waits };
    // Only to keep sessions from retrying in step.
    let mut random = Random::seeded(UnixNanos::now().0.cast_unsigned());
    retry(&RETRY, &RetryBudget::unlimited(), &mut random, &wanted, tried)
        .map_err(|_| if shared.stopping() { SessionError::StoreRefused } else { SessionError::PeerLeft })
}

/// Waits as long as the server runs and the peer waits too.
struct Wanted<'a, P> {
    shared: &'a Shared,
    peer_waits: P,
}

impl<P: Fn() -> bool> Waiting for Wanted<'_, P> {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, time: Duration) -> bool {
        let until = self.now() + time;
        loop {
            if self.shared.stopping() || !(self.peer_waits)() {
                return true;
            }
            let left = until.saturating_duration_since(self.now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(TICK));
        }
    }

    /// Only a wait is cut short: also a server that stops tries once to store what it was sent.
    fn stopped(&self) -> bool {
        false
    }
}

/// A status is kept and shown: an agent must not be able to fill the server with it.
fn bounded(mut status: v1::Status) -> v1::Status {
    status.sources.truncate(64);
    status.r#use.truncate(16);
    status.rule_faults.truncate(256);
    for source in &mut status.sources {
        truncate(&mut source.name, MAX_WORDS);
        truncate(&mut source.state, MAX_WORDS);
        truncate(&mut source.detail, 2048);
    }
    for fault in &mut status.rule_faults {
        truncate(&mut fault.file, 1024);
        truncate(&mut fault.error, 1024);
    }
    for usage in &mut status.r#use {
        truncate(&mut usage.role, MAX_WORDS);
    }
    status.apps.truncate(64);
    for app in &mut status.apps {
        truncate(&mut app.worker, MAX_WORDS);
        truncate(&mut app.app, MAX_WORDS);
        truncate(&mut app.state, MAX_WORDS);
        truncate(&mut app.why, 1024);
    }
    status.breakers.truncate(64);
    for breaker in &mut status.breakers {
        truncate(&mut breaker.name, MAX_WORDS);
        truncate(&mut breaker.state, MAX_WORDS);
        truncate(&mut breaker.cause, 1024);
    }
    truncate(&mut status.idle, 1024);
    if let Some(spool) = &mut status.spool {
        truncate(&mut spool.state, MAX_WORDS);
        truncate(&mut spool.detail, 1024);
    }
    status
}

fn truncate(text: &mut String, limit: usize) {
    text.truncate(text.floor_char_boundary(limit));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_cut_at_a_character() {
        let mut text = "烽火".to_owned();
        truncate(&mut text, 4);
        assert_eq!(text, "烽");
    }

    #[test]
    fn the_first_books_of_a_stream_are_what_the_log_already_holds() {
        let mut lake = Books::default();
        lake.entry(Stage::Log, Kind::Exec).seen = 7;
        lake.entry(Stage::Log, Kind::Exec).passed = 3;
        let books = books_so_far(&lake);
        assert_eq!(
            books.get(Stage::Ingest, Kind::Exec).map(|counts| (counts.seen, counts.passed)),
            Some((7, 7))
        );
    }
}
