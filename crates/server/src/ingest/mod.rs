//! The agents' way in: a Unix socket, one thread per connection, frames in the order they were sent.
//!
//! accept → check the peer → `session`: Hello/Welcome, then batches → log → sync → Ack. An agent that sends faster
//! than the disk takes is simply not read from; it keeps what was not acknowledged.

mod frame;
mod session;

use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::ServerError;
use crate::shared::Shared;

/// `sizeof(sun_path)` less the NUL at its end.
const SOCKET_PATH_LIMIT: usize = 107;
/// Connections at once: the machine's own agent, its next run while the last one leaves, and a few of tests.
const MAX_CONNECTIONS: usize = 16;
/// How soon a waiting thread notices that it should stop.
const TICK: Duration = Duration::from_millis(100);

/// What ingest met and could not use.
#[derive(Debug, Default)]
pub(crate) struct IngestFaults {
    /// Frames that are no message, or not one for this place.
    pub(crate) malformed_frames: AtomicU64,
    /// Batches sent again after they were stored.
    pub(crate) duplicate_batches: AtomicU64,
    /// Sequence numbers that never came.
    pub(crate) missing_batches: AtomicU64,
    /// Peers of another user.
    pub(crate) refused_peers: AtomicU64,
}

/// The listening side; its thread ends when [`Shared::stopping`] is set.
#[derive(Debug)]
pub(crate) struct Ingest {
    path: PathBuf,
    thread: JoinHandle<()>,
}

impl Ingest {
    /// Listens at `path`, which only this process' user can open.
    pub(crate) fn start(path: &Path, shared: Arc<Shared>) -> Result<Ingest, ServerError> {
        let listener = listen(path)?;
        let run = move || accept_until_stopped(&listener, &shared);
        let thread = std::thread::Builder::new()
            .name("ingest".to_owned())
            .spawn(run)
            .map_err(|source| ServerError::Thread { what: "ingest", source })?;
        Ok(Ingest { path: path.to_owned(), thread })
    }

    /// Waits until every connection was drained and closed, `deadline` at the latest; false when it passed.
    pub(crate) fn join(self, deadline: Instant) -> bool {
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "socket not removed");
        }
        self.thread.is_finished() && self.thread.join().is_ok()
    }
}

fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(ServerError::SocketPath { path: path.to_owned(), length, limit: SOCKET_PATH_LIMIT });
    }
    // Left by a run that was killed: the directory's lock is ours, so no one listens there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(ServerError::file("remove stale socket", path)(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(ServerError::file("listen on", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(ServerError::file("chmod", path))?;
    listener.set_nonblocking(true).map_err(ServerError::file("listen on", path))?;
    Ok(listener)
}

fn accept_until_stopped(listener: &UnixListener, shared: &Arc<Shared>) {
    let mut sessions: Vec<JoinHandle<()>> = Vec::new();
    while !shared.stopping() {
        reap(&mut sessions);
        if !readable(listener, TICK) {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) if sessions.len() < MAX_CONNECTIONS => sessions.extend(serve(stream, shared)),
            Ok(_) => tracing::warn!(limit = MAX_CONNECTIONS, "connection refused: too many agents"),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "accept failed; will retry");
                std::thread::sleep(TICK);
            }
        }
    }
    for session in sessions {
        if session.join().is_err() {
            tracing::error!("a session panicked");
        }
    }
}

fn serve(stream: UnixStream, shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
    if let Err(reason) = allowed(&stream) {
        shared.ingest_faults.refused_peers.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(reason, "connection refused");
        return None;
    }
    let shared = shared.clone();
    let run = move || session::run(stream, &shared);
    let spawned = std::thread::Builder::new().name("session".to_owned()).spawn(run);
    spawned.inspect_err(|error| tracing::error!(%error, "no thread for a connection")).ok()
}

/// Only root and the server's own user may speak for this host.
fn allowed(stream: &UnixStream) -> Result<(), String> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|error| error.to_string())?;
    let own = rustix::process::geteuid();
    if peer.uid.is_root() || peer.uid == own {
        return Ok(());
    }
    Err(format!("peer with tgid {} is uid {}, not root nor {}", peer.pid, peer.uid, own))
}

fn reap(sessions: &mut Vec<JoinHandle<()>>) {
    for ended in sessions.extract_if(.., |session| session.is_finished()) {
        if ended.join().is_err() {
            tracing::error!("a session panicked");
        }
    }
}

/// Waits up to `timeout` for something to read (or the end of the stream).
fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).unwrap_or_default();
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    // An interrupted poll looks like one that saw nothing; the caller asks again.
    rustix::event::poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
}

/// Whether the other end was closed. A poll that fails has not seen it.
fn hung_up(fd: &impl AsFd) -> bool {
    // Asked for nothing, it still tells of that.
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    let polled = rustix::event::poll(&mut fds, Some(&Timespec::default()));
    polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_peer_has_hung_up_once_it_is_closed_and_not_while_it_is_silent_or_speaks() {
        let (here, mut there) = UnixStream::pair().unwrap();
        assert!(!hung_up(&here));
        there.write_all(b"words").unwrap();
        assert!(!hung_up(&here));
        drop(there);
        assert!(hung_up(&here));
    }

    #[test]
    fn a_socket_path_the_kernel_cannot_take_is_named_with_its_length() {
        let path = PathBuf::from(format!("/tmp/{}", "d".repeat(120)));
        let error = listen(&path).unwrap_err().to_string();
        assert!(error.contains("125 bytes") && error.contains("--data-dir"), "{error}");
    }

    #[test]
    fn a_stale_socket_is_replaced_and_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(listen(&path).unwrap());
        assert!(path.exists());
        let _listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
