//! Which sockets of this network namespace listen, and which process holds each.
//!
//! `listing.rs` ([`Listing`]) asks the kernel by `diag.rs` (netlink), or reads /proc/net by `table.rs` → [`Listener`] · `holders.rs`
//! ([`HolderWalk`]) looks through the descriptors of all processes for the wanted inodes.
//!
//! Both work in steps of well below a millisecond, and hold no more than one step's input: a host may have hundreds of thousands of
//! sockets, and a process as many descriptors.

mod diag;
mod holders;
mod listing;
mod table;

use std::net::SocketAddr;

pub use diag::diag_datagram;
pub use holders::{Found, HolderWalk};
pub use listing::Listing;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// The word used in output.
    pub fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// One socket at one address. Another that takes over the address has another inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// What it speaks.
    pub transport: Transport,
    /// Where; an IPv6 socket bound to an IPv4 address has that address mapped.
    pub address: SocketAddr,
    /// The socket's inode.
    pub inode: u64,
}

/// A TCP socket that listens, or a UDP socket that is bound and not connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// Which one it is.
    pub key: ListenerKey,
    /// The user who made it.
    pub uid: u32,
    /// Whether an IPv6 socket leaves IPv4 alone; `None` for an IPv4 socket and where the kernel does not tell.
    pub v6_only: Option<bool>,
}

/// The tables of sockets there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) transport: Transport,
    pub(crate) v6: bool,
}

impl Table {
    pub(crate) const ALL: [Table; 4] = [
        Table { transport: Transport::Tcp, v6: false },
        Table { transport: Transport::Tcp, v6: true },
        Table { transport: Transport::Udp, v6: false },
        Table { transport: Transport::Udp, v6: true },
    ];

    /// Its file in /proc/net.
    pub(crate) fn name(self) -> &'static str {
        match (self.transport, self.v6) {
            (Transport::Tcp, false) => "tcp",
            (Transport::Tcp, true) => "tcp6",
            (Transport::Udp, false) => "udp",
            (Transport::Udp, true) => "udp6",
        }
    }

    /// The state (`TCP_LISTEN`, `TCP_CLOSE`) of the sockets that are wanted of it. UDP knows connected and not connected.
    pub(crate) fn state(self) -> u8 {
        match self.transport {
            Transport::Tcp => 10,
            Transport::Udp => 7,
        }
    }
}
