//! Handing a socket to a child at a fixed descriptor: the one place of the agent where descriptors are bare numbers.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where a worker finds its link.
const LINK_DESCRIPTOR: i32 = 3;

/// Where a plug-in finds the file it is executed from: an interpreter opens it once more.
pub(crate) const EXECUTABLE_DESCRIPTOR: i32 = 4;

/// Makes the child of `command` find `link` at descriptor 3. The parent's copy closes when `command` is dropped.
pub(crate) fn inherit_link(command: &mut Command, link: OwnedFd) {
    // SAFETY: the closure allocates nothing, takes no lock, and calls only async-signal-safe functions.
    unsafe { command.pre_exec(move || place(link.as_raw_fd(), LINK_DESCRIPTOR)) };
}

/// The same, and `executable` at descriptor 4.
pub(crate) fn inherit_link_and_executable(command: &mut Command, link: OwnedFd, executable: OwnedFd) {
    let place_both = move || {
        let (link, mut executable) = (link.as_raw_fd(), executable.as_raw_fd());
        // Whichever comes first must not take the other's place.
        if executable == LINK_DESCRIPTOR {
            // SAFETY: F_DUPFD takes integers only and is async-signal-safe.
            executable = unsafe { libc::fcntl(executable, libc::F_DUPFD, EXECUTABLE_DESCRIPTOR + 1) };
            if executable < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        place(link, LINK_DESCRIPTOR)?;
        place(executable, EXECUTABLE_DESCRIPTOR)
    };
    // SAFETY: the closure allocates nothing, takes no lock, and calls only async-signal-safe functions.
    unsafe { command.pre_exec(place_both) };
}

/// Moves a descriptor to a number at which the next program finds it.
fn place(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: dup2 and fcntl take integers only and are async-signal-safe, as code between fork and exec must be.
    let result = unsafe {
        // dup2 onto itself would leave close-on-exec set.
        if from == to { libc::fcntl(to, libc::F_SETFD, 0) } else { libc::dup2(from, to) }
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
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
