//! The uplink: carries the backlogs to the server, one connection after another, until told to stop.
//!
//! A connection belongs to one stream. Hello → Welcome (what the server holds already) → frames out, acknowledgements in.
//! A lost connection costs a wait (exponential up to 10 s, full jitter) and nothing else: what was not acknowledged is sent
//! again, and the server recognises what it has.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use watchfire_host::Identity;
use watchfire_pace::{Backoff, BackoffSettings, Random};
use watchfire_wire::v1::{self, agent_frame::Body, server_frame};
use watchfire_wire::{FrameError, PROTOCOL, read_frame, write_frame, write_raw_frame};

use crate::backlog::Backlog;

/// Between two tries to reach the server; agents that lost one server shall not return as one.
const RECONNECT: BackoffSettings = BackoffSettings {
    first: Duration::from_millis(200),
    cap: Duration::from_secs(10),
    floor: Duration::from_millis(50),
};
/// How often the uplink looks whether there is a stream to carry.
const LOOK: Duration = Duration::from_millis(100);
/// The server's answer to Hello, and the room it must make for a frame, may take this long.
const IO_DEADLINE: Duration = Duration::from_secs(10);
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
}

/// The master's end of the link to the server.
pub(crate) struct Uplink {
    pub(crate) socket: PathBuf,
    pub(crate) identity: Identity,
    /// The streams to carry, oldest first: one for each life of the sensor worker.
    pub(crate) streams: Arc<Mutex<Vec<Arc<Backlog>>>>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) connected: Arc<AtomicBool>,
}

impl Uplink {
    /// Runs until `stop` is set and everything is delivered, or `stop` is set and the server is away.
    pub(crate) fn run(self) {
        let mut backoff = Backoff::new(RECONNECT);
        let mut random = Random::seeded(watchfire_host::boot_now().0);
        while let Some(backlog) = self.current() {
            if backlog.finished() {
                self.retire(&backlog);
                continue;
            }
            let outcome = self.carry(&backlog, &mut backoff);
            self.connected.store(false, Ordering::Release);
            match outcome {
                Ok(()) => continue,
                Err(error @ LinkError::Connect { .. }) => {
                    debug!(error = &error as &dyn std::error::Error, "server away")
                }
                Err(error) => warn!(error = &error as &dyn std::error::Error, "uplink lost; will reconnect"),
            }
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(backoff.next_wait(&mut random));
        }
    }

    /// The stream to carry now; waits for one, and ends when there is none and none will come.
    fn current(&self) -> Option<Arc<Backlog>> {
        loop {
            let first =
                self.streams.lock().expect("no thread panics while it holds the streams").first().cloned();
            if first.is_some() || self.stop.load(Ordering::Acquire) {
                return first;
            }
            thread::sleep(LOOK);
        }
    }

    fn retire(&self, done: &Arc<Backlog>) {
        let mut streams = self.streams.lock().expect("no thread panics while it holds the streams");
        streams.retain(|backlog| !Arc::ptr_eq(backlog, done));
    }

    fn carry(&self, backlog: &Arc<Backlog>, backoff: &mut Backoff) -> Result<(), LinkError> {
        let connection = connect(&self.socket)?;
        let mut incoming = connection.try_clone().map_err(LinkError::Deadline)?;
        let mut outgoing = connection;
        write_frame(&mut outgoing, &v1::AgentFrame { body: Some(Body::Hello(self.hello(backlog))) })?;
        let welcome = read_welcome(&mut incoming)?;
        backlog.rewind(welcome.last_batch, welcome.last_alert);
        info!(socket = %self.socket.display(), last_batch = welcome.last_batch, last_alert = welcome.last_alert, "uplink open");
        self.connected.store(true, Ordering::Release);
        backoff.reset();
        // Acknowledgements may be far apart: no read deadline from here on.
        incoming.set_read_timeout(None).map_err(LinkError::Deadline)?;
        let lost = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Err(error) = receive(&mut incoming, backlog) {
                    debug!(error = &error as &dyn std::error::Error, "no more acknowledgements");
                }
                lost.store(true, Ordering::Release);
            });
            let sent = self.send(&mut outgoing, backlog, &lost);
            // Wakes the receiver, which otherwise waits for an acknowledgement that will not come.
            if let Err(error) = outgoing.shutdown(std::net::Shutdown::Both) {
                debug!(%error, "the connection was already gone");
            }
            sent
        })
    }

    fn send(&self, outgoing: &mut UnixStream, backlog: &Backlog, lost: &AtomicBool) -> Result<(), LinkError> {
        loop {
            if lost.load(Ordering::Acquire) {
                return Err(LinkError::Closed);
            }
            if backlog.finished() {
                return Ok(());
            }
            match backlog.next(Instant::now() + IDLE) {
                Some(frame) => write_raw_frame(outgoing, &frame)?,
                // A closed stream returns at once while its last acknowledgements are on their way.
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn hello(&self, backlog: &Backlog) -> v1::Hello {
        v1::Hello {
            protocol: PROTOCOL,
            host: backlog.stream.host.0.to_vec(),
            boot: backlog.stream.boot.0.to_vec(),
            incarnation: backlog.stream.incarnation.0,
            hostname: self.identity.hostname.clone(),
            booted: self.identity.booted.0,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: self.identity.kernel.clone(),
            os: self.identity.os.clone(),
        }
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

fn receive(incoming: &mut UnixStream, backlog: &Backlog) -> Result<(), LinkError> {
    while let Some(frame) = read_frame::<v1::ServerFrame>(incoming)? {
        if let Some(server_frame::Body::Ack(ack)) = frame.body {
            backlog.acknowledge(ack.last_batch, ack.last_alert);
        }
    }
    Ok(())
}
