//! The uplink: carries streams to the server, one connection after another, until told to stop.
//!
//! A connection belongs to one stream. Hello → Welcome (what the server holds already) → frames out, acknowledgements in.
//! A lost connection costs a wait (exponential up to 10 s, full jitter) and nothing else: what was not acknowledged is sent
//! again, and the server recognises what it has.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use watchfire_pace::{Backoff, BackoffSettings, Random};
use watchfire_wire::v1::{self, agent_frame::Body, server_frame};
use watchfire_wire::{FrameError, read_frame, write_frame, write_raw_frame};

use crate::outbox::Outbox;

/// Between two tries to reach the server; agents that lost one server shall not return as one.
const RECONNECT: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
    floor: Duration::from_millis(50),
};
/// How often a pause looks whether the agent stops.
const LOOK: Duration = Duration::from_millis(100);
/// The server's answer to Hello, and the room it must make for a frame, may take this long.
const IO_DEADLINE: Duration = Duration::from_secs(10);
/// The server has this long to read what was sent last.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the sender sleeps at most before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(500);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("connect to {}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("set a deadline on the connection")]
    Deadline(#[source] io::Error),
    #[error("the server closed the connection")]
    Closed,
    #[error("the server did not answer Hello with Welcome")]
    NoWelcome,
    #[error("the agent stops")]
    Stopping,
}

/// One stream on its way to the server.
pub(crate) trait Cargo: Sync {
    /// How it introduces itself.
    fn hello(&self) -> v1::Hello;
    /// A connection begins.
    fn welcomed(&self, welcome: &v1::Welcome);
    /// The next frame for it, waiting for one until `deadline`.
    fn next(&self, deadline: Instant) -> Option<Arc<[u8]>>;
    /// The server holds everything up to these numbers.
    fn acknowledge(&self, last_batch: u64, last_alert: u64);
    /// The connection ended, or could not be made.
    fn disconnected(&self);
    /// Whether no more will come, and all that came is acknowledged.
    fn finished(&self) -> bool;
}

/// The master's end of the links to the server.
#[derive(Clone)]
pub(crate) struct Uplink {
    pub(crate) socket: PathBuf,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Uplink {
    /// Carries the present stream until `stop` is set and everything is delivered, or `stop` is set and the server is away.
    pub(crate) fn run(&self, outbox: &Outbox) {
        let mut pauses = Pauses::new();
        while !outbox.finished() {
            let outcome = self.carry(outbox, &mut pauses);
            tell(&outcome, "present");
            if outcome.is_err() {
                if self.stopping() {
                    return;
                }
                self.pause(&mut pauses);
            }
        }
    }

    /// Hands over the streams of earlier lives, one after another, until told to stop.
    pub(crate) fn run_earlier(&self, outbox: &Arc<Outbox>) {
        let mut pauses = Pauses::new();
        while let Some(cargo) = outbox.earlier() {
            let outcome = self.carry(&cargo, &mut pauses);
            tell(&outcome, "earlier");
            match outcome {
                Ok(()) => cargo.retire(),
                Err(_) => self.pause(&mut pauses),
            }
        }
    }

    fn carry(&self, cargo: &impl Cargo, pauses: &mut Pauses) -> Result<(), LinkError> {
        let outcome = self.connect_and_send(cargo, pauses);
        cargo.disconnected();
        outcome
    }

    fn connect_and_send(&self, cargo: &impl Cargo, pauses: &mut Pauses) -> Result<(), LinkError> {
        let connection = connect(&self.socket)?;
        let mut incoming = connection.try_clone().map_err(LinkError::Deadline)?;
        let mut outgoing = connection;
        let hello = cargo.hello();
        let (incarnation, earlier) = (hello.incarnation, hello.earlier);
        write_frame(&mut outgoing, &v1::AgentFrame { body: Some(Body::Hello(hello)) })?;
        let welcome = read_welcome(&mut incoming)?;
        cargo.welcomed(&welcome);
        let (last_batch, last_alert) = (welcome.last_batch, welcome.last_alert);
        info!(socket = %self.socket.display(), incarnation, earlier, last_batch, last_alert, "uplink open");
        pauses.backoff.reset();
        // Acknowledgements may be far apart: no read deadline from here on.
        incoming.set_read_timeout(None).map_err(LinkError::Deadline)?;
        let lost = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = receive(&mut incoming, cargo) {
                    debug!(error = &error as &dyn std::error::Error, "no more acknowledgements");
                }
                lost.store(true, Ordering::Release);
            });
            let sent = self.send(&mut outgoing, cargo, earlier, &lost);
            if sent.is_ok() {
                wait_for_the_end(&outgoing, &lost);
            }
            // Wakes the receiver, which otherwise waits for an acknowledgement that will not come.
            if let Err(error) = outgoing.shutdown(Shutdown::Both) {
                debug!(%error, "the connection was already gone");
            }
            sent
        })
    }

    fn send(
        &self,
        outgoing: &mut UnixStream,
        cargo: &impl Cargo,
        earlier: bool,
        lost: &AtomicBool,
    ) -> Result<(), LinkError> {
        loop {
            if lost.load(Ordering::Acquire) {
                return Err(LinkError::Closed);
            }
            if cargo.finished() {
                return Ok(());
            }
            // What an earlier life left may wait for the next one.
            if earlier && self.stopping() {
                return Err(LinkError::Stopping);
            }
            match cargo.next(Instant::now() + IDLE) {
                Some(frame) => write_raw_frame(outgoing, &frame)?,
                // A closed stream returns at once while its last acknowledgements are on their way.
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Waits before the next try, not longer than the agent runs.
    fn pause(&self, pauses: &mut Pauses) {
        let until = Instant::now() + pauses.backoff.next_wait(&mut pauses.random);
        while Instant::now() < until && !self.stopping() {
            thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
        }
    }
}

/// How long to wait between tries.
struct Pauses {
    backoff: Backoff,
    random: Random,
}

impl Pauses {
    fn new() -> Self {
        Pauses { backoff: Backoff::new(RECONNECT), random: Random::seeded(watchfire_host::boot_now().0) }
    }
}

fn tell(outcome: &Result<(), LinkError>, stream: &'static str) {
    match outcome {
        Ok(()) | Err(LinkError::Stopping) => {}
        Err(error @ LinkError::Connect { .. }) => {
            debug!(error = error as &dyn std::error::Error, stream, "server away")
        }
        Err(error) => {
            warn!(error = error as &dyn std::error::Error, stream, "uplink lost; will reconnect")
        }
    }
}

/// Everything is acknowledged but the last books, which never are: the server has read them when it closes its end.
fn wait_for_the_end(outgoing: &UnixStream, lost: &AtomicBool) {
    if outgoing.shutdown(Shutdown::Write).is_err() {
        return;
    }
    let deadline = Instant::now() + LAST_WORDS;
    while !lost.load(Ordering::Acquire) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
}

fn connect(socket: &Path) -> Result<UnixStream, LinkError> {
    let connection =
        UnixStream::connect(socket).map_err(|source| LinkError::Connect { socket: socket.into(), source })?;
    connection.set_read_timeout(Some(IO_DEADLINE)).map_err(LinkError::Deadline)?;
    connection.set_write_timeout(Some(IO_DEADLINE)).map_err(LinkError::Deadline)?;
    Ok(connection)
}

fn read_welcome(incoming: &mut UnixStream) -> Result<v1::Welcome, LinkError> {
    match read_frame::<v1::ServerFrame>(incoming)?.and_then(|frame| frame.body) {
        Some(server_frame::Body::Welcome(welcome)) => Ok(welcome),
        Some(server_frame::Body::Ack(_)) => Err(LinkError::NoWelcome),
        None => Err(LinkError::Closed),
    }
}

fn receive(incoming: &mut UnixStream, cargo: &impl Cargo) -> Result<(), LinkError> {
    while let Some(frame) = read_frame::<v1::ServerFrame>(incoming)? {
        if let Some(server_frame::Body::Ack(ack)) = frame.body {
            cargo.acknowledge(ack.last_batch, ack.last_alert);
        }
    }
    Ok(())
}
