//! Handing a socket to a child at a fixed descriptor: the one place of the agent where descriptors are bare numbers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where a worker finds its link.
const LINK_DESCRIPTOR: i32 = 3;

/// Makes the child of `command` find `link` at descriptor 3. The parent's copy closes when `command` is dropped.
pub(crate) fn inherit_link(command: &mut Command, link: OwnedFd) {
    let place = move || {
        let from = link.as_raw_fd();
        // SAFETY: dup2 and fcntl take integers only and are async-signal-safe, as code between fork and exec must be.
        let result = unsafe {
            if from == LINK_DESCRIPTOR {
                // dup2 onto itself would leave close-on-exec set.
                libc::fcntl(LINK_DESCRIPTOR, libc::F_SETFD, 0)
            } else {
                libc::dup2(from, LINK_DESCRIPTOR)
            }
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure allocates nothing, takes no lock, and calls only async-signal-safe functions.
    unsafe { command.pre_exec(place) };
}

/// Takes the link a master left at descriptor 3; an error when this process is not a worker's.
pub(crate) fn take_link() -> io::Result<UnixStream> {
    // SAFETY: F_GETFD reads a flag; an unused number gives EBADF.
    if unsafe { libc::fcntl(LINK_DESCRIPTOR, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a worker's descriptor 3 is the socket its master placed there, and this is called once, before anything
    // else in the process could have opened or closed it.
    let link = unsafe { OwnedFd::from_raw_fd(LINK_DESCRIPTOR) };
    let link = UnixStream::from(link);
    // Fails with ENOTSOCK when something else was left at this number.
    link.peer_addr()?;
    Ok(link)
}
