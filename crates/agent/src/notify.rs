//! Telling the service manager that started us: ready, alive, stopping (sd_notify(3): one datagram of lines to the socket in
//! `NOTIFY_SOCKET`). Where there is none, nothing is told. Our own supervisor (`supervisor.rs`) hears the same words.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use tracing::warn;

/// What is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// The worker runs.
    Ready,
    /// The master's loop turns: an answer to the manager's watchdog.
    Alive,
    /// Told to stop, and stopping.
    Stopping,
}

impl Word {
    /// Those in a datagram; a line that is none of them is passed over.
    pub(crate) fn all_in(text: &[u8]) -> impl Iterator<Item = Word> {
        text.split(|byte| *byte == b'\n').filter_map(|line| match line {
            b"READY=1" => Some(Word::Ready),
            b"WATCHDOG=1" => Some(Word::Alive),
            b"STOPPING=1" => Some(Word::Stopping),
            _ => None,
        })
    }
}

/// The way to the service manager.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    failed: bool,
}

impl ServiceManager {
    /// The one that started this process, if one did and wants to hear.
    pub(crate) fn find() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET");
        let socket = match address.as_deref().map(connect) {
            Some(Ok(socket)) => Some(socket),
            Some(Err(error)) => {
                warn!(%error, "the service manager's socket cannot be used");
                None
            }
            None => None,
        };
        ServiceManager { socket, failed: false }
    }

    /// Tells it; never waits. Only the first failure is logged.
    pub(crate) fn tell(&mut self, word: Word) {
        let Some(socket) = &self.socket else { return };
        let text = match word {
            Word::Ready => "READY=1\nWATCHDOG=1\n",
            Word::Alive => "WATCHDOG=1\n",
            Word::Stopping => "STOPPING=1\n",
        };
        if let Err(error) = socket.send(text.as_bytes())
            && !std::mem::replace(&mut self.failed, true)
        {
            warn!(%error, "the service manager does not hear");
        }
    }
}

/// A path, or an abstract name behind `@`.
fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(manager: &UnixDatagram) -> String {
        let mut buffer = [0; 100];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    }

    #[test]
    fn a_manager_hears_each_word_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("watchfire-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (manager, address) in [(by_path, path.into_os_string()), (by_name, format!("@{name}").into())] {
            let socket = Some(connect(&address).unwrap());
            let mut service = ServiceManager { socket, failed: false };
            service.tell(Word::Ready);
            service.tell(Word::Stopping);
            assert!(heard(&manager).starts_with("READY=1\n"));
            assert_eq!(heard(&manager), "STOPPING=1\n");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_costs_no_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let _manager = UnixDatagram::bind(&path).unwrap();
        let mut service = ServiceManager { socket: Some(connect(path.as_os_str()).unwrap()), failed: false };
        // Far more than a socket's queue holds; a send that waits would never return.
        for _ in 0..10_000 {
            service.tell(Word::Alive);
        }
        assert!(service.failed);
    }
}
