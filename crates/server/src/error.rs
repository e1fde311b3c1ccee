//! Why a server did not start. Each message names the thing and, where there is one, the way out.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why the server could not start or went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The listen address is taken.
    #[error("{address} is in use{}; choose another with --listen", owner.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
        /// Name and tgid of the process that listens there, when it can be seen.
        owner: Option<String>,
    },
    /// The listen address cannot be had for another reason.
    #[error("listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another instance runs on this data directory.
    #[error("data directory {} is in use by watchfire with tgid {owner}; stop it first, or choose another with --data-dir", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The tgid written in the lock file, or a question mark.
        owner: String,
    },
    /// Other users may write in the data directory.
    #[error("data directory {} can be written by other users (mode {mode:04o}); `chmod go-w` it, or choose another with --data-dir", path.display())]
    Exposed {
        /// The data directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file or directory could not be made, read or written.
    #[error("{attempt} {}", path.display())]
    File {
        /// What was attempted: `create`, `read`, `lock`, …
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The admin token's file does not hold a token.
    #[error("{} holds no token (64 hexadecimal digits expected); restore it, or remove it to have a new one made", path.display())]
    BadToken {
        /// The file.
        path: PathBuf,
    },
    /// The path of a Unix socket has a limit set by the kernel.
    #[error("socket path {} is {length} bytes long, the kernel allows {limit}; choose a shorter --data-dir", path.display())]
    SocketPath {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The event log or lake did not open; the source names the file.
    #[error("open the event lake")]
    Lake(#[source] Box<watchfire_lake::LakeError>),
    /// The alert database did not open; the source names the file.
    #[error("open the alert database")]
    Alerts(#[source] Box<watchfire_alertdb::AlertDbError>),
    /// A thread or the runtime could not be started.
    #[error("start {what}")]
    Thread {
        /// What was to run.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("no random bytes from the system")]
    Random(#[from] getrandom::Error),
}

impl ServerError {
    pub(crate) fn file(
        attempt: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> ServerError {
        let path = path.into();
        move |source| ServerError::File { attempt, path, source }
    }
}
