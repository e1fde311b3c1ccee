//! A netlink socket to the kernel: what the process connector and audit share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

/// `sizeof(struct nlmsghdr)`.
pub(crate) const HEADER: usize = 16;
/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 1;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 4;
/// `NLMSG_ERROR`: an acknowledgement, or a refusal.
pub(crate) const ERROR: u16 = 2;
/// `NLMSG_DONE`.
pub(crate) const DONE: u16 = 3;

/// What one receive gave.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes of a datagram from the kernel.
    Datagram(usize),
    /// The socket's buffer was full, and the kernel threw datagrams away.
    Overflow,
    /// Nothing is there.
    Nothing,
}

/// A bound socket that never blocks.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
}

impl Netlink {
    /// A socket of `protocol` that hears the multicast groups of the bit set `groups`.
    pub(crate) fn open(protocol: Protocol, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(protocol))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Netlink { fd })
    }

    /// Asks for a receive buffer of `bytes`, past the system's limit if this process may; what comes of it is the kernel's
    /// choice.
    pub(crate) fn widen(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err()
            && let Err(error) = sockopt::set_socket_recv_buffer_size(&self.fd, bytes)
        {
            tracing::debug!(%error, bytes, "netlink: receive buffer");
        }
    }

    /// Sends one message to the kernel.
    pub(crate) fn send(&self, kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> io::Result<()> {
        let message = message(kind, flags, sequence, payload)?;
        rustix::net::sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Takes one datagram. What did not come from the kernel is passed over: any process may send to a netlink port.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        loop {
            match rustix::net::recvfrom(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, length, from)) => {
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    if from.is_some_and(|from| from.pid() == 0) {
                        return Ok(Received::Datagram(length.min(buffer.len())));
                    }
                }
                Err(Errno::AGAIN) => return Ok(Received::Nothing),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(Received::Overflow),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + payload.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(payload);
    Ok(bytes)
}

/// `u32` at `at`, in the machine's order.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

/// `u16` at `at`.
pub(crate) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at.checked_add(2)?)?.try_into().ok().map(u16::from_ne_bytes)
}
