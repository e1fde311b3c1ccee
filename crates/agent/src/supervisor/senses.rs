//! What the supervisor hears: signals, and the master's words on a socket of its own.

use std::fs::{self, Permissions};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Pid;
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use crate::notify::Word;

/// The longest datagram that is read; what our own master says is some 20 bytes.
const WORDS_LIMIT: usize = 256;
/// Datagrams taken at once; the kernel's queue holds some ten.
const DATAGRAMS_AT_ONCE: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Senses {
    /// Has something to read after SIGTERM or SIGINT.
    stop: UnixStream,
    /// The same after SIGCHLD.
    children: UnixStream,
    words: UnixDatagram,
}

impl Senses {
    /// Begins to listen; `socket` is made anew, for this user alone.
    pub(super) fn open(socket: &Path) -> Result<Self> {
        Ok(Senses {
            stop: on_signals(&[SIGTERM, SIGINT]).context("watch for SIGTERM and SIGINT")?,
            children: on_signals(&[SIGCHLD]).context("watch for ends of processes")?,
            words: listen(socket).with_context(|| format!("listen on {}", socket.display()))?,
        })
    }

    /// Sleeps until there is something to hear, `patience` at most.
    pub(super) fn wait(&self, patience: Duration) {
        let timeout = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 60, tv_nsec: 0 });
        let mut fds = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::new(&self.children, PollFlags::IN),
            PollFd::new(&self.words, PollFlags::IN),
        ];
        // Interrupted, it was by a signal; the caller looks at everything anyway.
        let heard = poll(&mut fds, Some(&timeout)).unwrap_or(0);
        if heard > 0 && !fds[1].revents().is_empty() {
            drain(&self.children);
        }
    }

    /// Whether a signal to stop came since the last question.
    pub(super) fn told_to_stop(&self) -> bool {
        drain(&self.stop)
    }

    /// What `speaker` has said since the last question; what anyone else said is dropped.
    pub(super) fn words(&self, speaker: Option<Pid>) -> Vec<Word> {
        let mut words = Vec::new();
        for _ in 0..DATAGRAMS_AT_ONCE {
            let mut text = [0; WORDS_LIMIT];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut text)];
            let received = recvmsg(&self.words, &mut parts, &mut ancillary, RecvFlags::DONTWAIT);
            let Ok(received) = received else { break };
            let from = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid),
                _ => None,
            });
            if from.is_some() && from == speaker {
                words.extend(Word::all_in(&text[..received.bytes.min(WORDS_LIMIT)]));
            }
        }
        words
    }
}

/// Reads all there is; whether there was something.
fn drain(mut pipe: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while matches!(pipe.read(&mut bytes), Ok(count) if count > 0) {
        any = true;
    }
    any
}

fn on_signals(signals: &[i32]) -> io::Result<UnixStream> {
    let (heard, told) = UnixStream::pair()?;
    heard.set_nonblocking(true)?;
    for signal in signals {
        pipe::register(*signal, told.try_clone()?)?;
    }
    Ok(heard)
}

fn listen(path: &Path) -> io::Result<UnixDatagram> {
    // Left by one that was killed: the lock beside it is ours, so no one listens there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    // Each datagram then names its sender: no worker speaks for the master.
    set_socket_passcred(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn only_the_speakers_words_are_heard() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock.notify");
        fs::write(&path, "left behind").unwrap();
        let senses = Senses::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let own = Some(rustix::process::getpid());
        let master = UnixDatagram::unbound().unwrap();
        for text in ["READY=1\nWATCHDOG=1\n", "STATUS=hostile\n\0\n", "STOPPING=1\n"] {
            master.send_to(text.as_bytes(), &path).unwrap();
        }
        senses.wait(Duration::from_secs(60));
        assert_eq!(senses.words(own), [Word::Ready, Word::Alive, Word::Stopping]);
        assert_eq!(senses.words(own), []);
        for stranger in [None, Pid::from_raw(1)] {
            master.send_to(b"WATCHDOG=1\n", &path).unwrap();
            assert_eq!(senses.words(stranger), []);
            assert_eq!(senses.words(own), [], "it is not kept for another");
        }
    }

    #[test]
    fn the_end_of_a_child_wakes_and_is_no_word_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let senses = Senses::open(&dir.path().join("notify")).unwrap();
        let mut child = Command::new("true").spawn().unwrap();
        let began = std::time::Instant::now();
        senses.wait(Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(60));
        child.wait().unwrap();
        assert!(!senses.told_to_stop());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(senses.told_to_stop());
        assert!(!senses.told_to_stop());
    }
}
