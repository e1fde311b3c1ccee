//! The listing: table by table, by netlink where the kernel answers there, else from /proc/net.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::table::Rows;
use super::{Listener, Table, diag};

/// What the kernel fills at once; a longer datagram it does not send.
const BUFFER: usize = 32 * 1024;
/// Datagrams that any process may send to our port are passed over; so many in one step.
const STRANGERS: u32 = 64;

/// Lists sockets step by step, again and again.
#[derive(Debug)]
pub struct Listing {
    net: PathBuf,
    /// By table: why netlink does not answer for it. It is not asked again: the question may make the kernel start modprobe.
    refused: [Option<String>; Table::ALL.len()],
    /// The table that is read, by its place.
    place: usize,
    reading: Option<Reading>,
    sequence: u32,
    problems: Vec<String>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum Reading {
    Netlink(OwnedFd),
    File(File, Rows),
}

impl Listing {
    /// A listing of the network namespace that this thread is in; where netlink does not answer, from the tables below `proc`.
    pub fn new(proc: impl Into<PathBuf>) -> Self {
        Listing {
            net: proc.into().join("net"),
            refused: Default::default(),
            place: 0,
            reading: None,
            sequence: 0,
            problems: Vec::new(),
            buffer: Vec::new(),
        }
    }

    /// Reads the files alone.
    #[must_use]
    pub fn without_netlink(mut self) -> Self {
        self.refused.fill(Some("switched off".to_owned()));
        self
    }

    /// Begins anew.
    pub fn begin(&mut self) {
        (self.place, self.reading) = (0, None);
        self.problems.clear();
    }

    /// Reads one piece, of 32 KiB at most; whether there are more. A socket may come twice; one that was there all the while may be
    /// missing when others came and went meanwhile.
    pub fn step(&mut self, mut found: impl FnMut(Listener)) -> bool {
        let Some(table) = Table::ALL.get(self.place).copied() else {
            self.buffer = Vec::new();
            return false;
        };
        self.buffer.resize(BUFFER, 0);
        match self.read(table, &mut found) {
            Ok(true) => {}
            Ok(false) => (self.place, self.reading) = (self.place + 1, None),
            Err(error) if self.refused[self.place].is_none() => {
                self.refused[self.place] = Some(error.to_string());
                self.reading = None;
            }
            Err(error) => {
                // A kernel without IPv6 has no such table.
                if !(table.v6 && error.kind() == ErrorKind::NotFound) {
                    self.problems.push(format!("{}: {error}", table.name()));
                }
                (self.place, self.reading) = (self.place + 1, None);
            }
        }
        true
    }

    /// The tables that could not be read since [`Listing::begin`], each with the reason.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The tables for which netlink did not answer, each with the reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = Table::ALL.iter().zip(&self.refused);
        all.filter_map(|(table, why)| Some((table.name(), why.as_deref()?)))
    }

    fn read(&mut self, table: Table, found: &mut impl FnMut(Listener)) -> io::Result<bool> {
        if self.reading.is_none() {
            self.reading = Some(self.open(table)?);
        }
        match self.reading.as_mut() {
            Some(Reading::Netlink(socket)) => {
                let length = receive(socket, &mut self.buffer)?;
                let ended = diag::answer(&self.buffer[..length], table, self.sequence, found);
                ended.map(|ended| !ended).map_err(io::Error::other)
            }
            Some(Reading::File(file, rows)) => {
                let length = file.read(&mut self.buffer)?;
                Ok(length > 0 && rows.take(&self.buffer[..length], found))
            }
            None => Ok(false),
        }
    }

    fn open(&mut self, table: Table) -> io::Result<Reading> {
        if self.refused[self.place].is_some() {
            let file = File::open(self.net.join(table.name()))?;
            return Ok(Reading::File(file, Rows::new(table)));
        }
        // One socket a table: an answer that was given up leaves nothing behind for the next.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        self.sequence = self.sequence.wrapping_add(1);
        let question = diag::question(table, self.sequence);
        rustix::net::sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(Reading::Netlink(socket))
    }
}

/// The next datagram from the kernel, which writes it while it is asked: there is nothing to wait for.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    for _ in 0..STRANGERS {
        match rustix::net::recvfrom(socket, &mut *buffer, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, length, from)) => {
                let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                if from.is_none_or(|from| from.pid() != 0) {
                    continue;
                }
                if length > buffer.len() {
                    return Err(io::Error::other("a datagram longer than any"));
                }
                return Ok(length);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("others write to the socket"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::listening::{ListenerKey, Transport};

    fn all(listing: &mut Listing) -> BTreeMap<ListenerKey, Listener> {
        let mut found = BTreeMap::new();
        listing.begin();
        while listing.step(|listener| {
            found.insert(listener.key, listener);
        }) {}
        found
    }

    fn inode(socket: &impl AsRawFd) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().ino()
    }

    #[test]
    fn both_sources_find_what_listens_and_nothing_that_is_connected() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
        connected.connect(udp.local_addr().unwrap()).unwrap();
        let v6 = TcpListener::bind("[::1]:0").ok();
        let key = |transport, address: SocketAddr, inode| ListenerKey { transport, address, inode };
        for mut listing in [Listing::new("/proc"), Listing::new("/proc").without_netlink()] {
            let found = all(&mut listing);
            assert_eq!(listing.problems(), [""; 0]);
            let uid = rustix::process::geteuid().as_raw();
            let one = &found[&key(Transport::Tcp, tcp.local_addr().unwrap(), inode(&tcp))];
            assert_eq!((one.uid, one.v6_only), (uid, None));
            assert!(found.contains_key(&key(Transport::Udp, udp.local_addr().unwrap(), inode(&udp))));
            let of = |inode| found.keys().filter(|key| key.inode == inode).count();
            assert_eq!((of(inode(&peer)), of(inode(&connected))), (0, 0));
            if let Some(v6) = &v6 {
                let one = &found[&key(Transport::Tcp, v6.local_addr().unwrap(), inode(v6))];
                // Bound to an address of its own family it takes no IPv4.
                assert!(one.v6_only.is_none_or(|only| only), "{one:?}");
            }
            // And again: one that ended is gone.
            let address = key(Transport::Udp, connected.local_addr().unwrap(), inode(&connected));
            assert!(!all(&mut listing).contains_key(&address));
        }
    }

    #[test]
    fn a_table_that_cannot_be_read_is_a_problem_and_one_without_ipv6_is_none() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("net/udp")).unwrap();
        let title = "  sl  local_address rem_address   st\n";
        std::fs::write(root.path().join("net/tcp"), title).unwrap();
        let mut listing = Listing::new(root.path()).without_netlink();
        assert!(all(&mut listing).is_empty());
        assert_eq!(listing.problems().len(), 1, "{:?}", listing.problems());
        assert!(listing.problems()[0].starts_with("udp: "), "{:?}", listing.problems());
        assert_eq!(listing.refusals().count(), 4);
    }
}
