//! Messages of `NETLINK_SOCK_DIAG`: the question for one table of sockets, and the answers.
//!
//! Asked for listeners alone the kernel walks the table of TCP listeners and no connection (linux/inet_diag.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Listener, ListenerKey, Table, Transport};

/// `sizeof(struct nlmsghdr)`.
const HEADER: usize = 16;
/// `sizeof(struct inet_diag_req_v2)`.
const REQUEST: usize = 56;
/// `sizeof(struct inet_diag_msg)`.
const ANSWER: usize = 72;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const FLAGS: u16 = 0x301;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// An attribute of one byte: whether an IPv6 socket leaves IPv4 alone.
const INET_DIAG_SKV6ONLY: u16 = 11;

/// Why an answer is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiagError {
    /// The kernel said no, with this error number.
    #[error("{}", std::io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// The bytes are no messages.
    #[error("the kernel's answer is not understood")]
    Malformed,
}

impl Table {
    fn family(self) -> u8 {
        if self.v6 { AF_INET6 } else { AF_INET }
    }
}

/// The message that asks for the wanted sockets of `table`.
pub(super) fn question(table: Table, sequence: u32) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let length = u32::try_from(bytes.len()).expect("72 bytes");
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[HEADER] = table.family();
    bytes[HEADER + 1] = match table.transport {
        Transport::Tcp => IPPROTO_TCP,
        Transport::Udp => IPPROTO_UDP,
    };
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&(1u32 << table.state()).to_ne_bytes());
    bytes
}

/// Takes one datagram of the answer to the question `sequence` for `table` apart. Gives whether the answer ends with it. What answers
/// another question, or is of another state or family, is passed over.
pub(super) fn answer(
    datagram: &[u8],
    table: Table,
    sequence: u32,
    mut found: impl FnMut(Listener),
) -> Result<bool, DiagError> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = word(rest, 0).and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| (HEADER..=rest.len()).contains(length));
        let length = length.ok_or(DiagError::Malformed)?;
        let (message, _) = rest.split_at(length);
        rest = rest.get(aligned(length)..).unwrap_or_default();
        if word(message, 8) != Some(sequence) {
            continue;
        }
        let payload = &message[HEADER..];
        match half(message, 4) {
            // Both begin with an error number, negative; 0 is none. An end without one is an end.
            Some(kind @ (NLMSG_ERROR | NLMSG_DONE)) => {
                let error = word(payload, 0).map(u32::cast_signed);
                return match error {
                    Some(error) if error < 0 => Err(DiagError::Refused(error.saturating_neg())),
                    _ => Ok(kind == NLMSG_DONE),
                };
            }
            Some(SOCK_DIAG_BY_FAMILY) => {
                if let Some(listener) = listener(payload, table) {
                    found(listener);
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

/// Reads any bytes as the answer for each table, for a fuzzer. Gives the sockets in them, and how many tables the bytes are an answer for.
pub fn diag_datagram(datagram: &[u8], sequence: u32) -> (usize, usize) {
    let mut sockets = 0;
    let answers = Table::ALL.map(|table| answer(datagram, table, sequence, |_| sockets += 1));
    (sockets, answers.iter().filter(|answer| answer.is_ok()).count())
}

/// A `struct inet_diag_msg` and its attributes.
fn listener(message: &[u8], table: Table) -> Option<Listener> {
    let attributes = message.get(ANSWER..)?;
    if message[0] != table.family() || message[1] != table.state() {
        return None;
    }
    let port = u16::from_be_bytes(message[4..6].try_into().ok()?);
    if port == 0 {
        return None;
    }
    let ip = if table.v6 {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&message[8..24]).ok()?))
    } else {
        IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&message[8..12]).ok()?))
    };
    let key = ListenerKey {
        transport: table.transport,
        address: SocketAddr::new(ip, port),
        inode: word(message, 68)?.into(),
    };
    let v6_only = if table.v6 { attribute(attributes, INET_DIAG_SKV6ONLY) } else { None };
    Some(Listener { key, uid: word(message, 64)?, v6_only: v6_only.map(|byte| byte != 0) })
}

/// The first byte of an attribute (`struct nlattr`).
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<u8> {
    loop {
        let length = usize::from(half(attributes, 0)?);
        let attribute = attributes.get(..length).filter(|bytes| bytes.len() >= 4)?;
        if half(attribute, 2)? == wanted {
            return attribute.get(4).copied();
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEQUENCE: u32 = 7;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let length = HEADER + payload.len();
        let mut bytes = u32::try_from(length).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(aligned(length), 0);
        bytes
    }

    /// A `struct inet_diag_msg` as the kernel writes it, with the attribute of IPv6 behind another one.
    fn payload(listener: &Listener, table: Table) -> Vec<u8> {
        let mut bytes = vec![0; ANSWER];
        (bytes[0], bytes[1]) = (table.family(), table.state());
        bytes[4..6].copy_from_slice(&listener.key.address.port().to_be_bytes());
        match listener.key.address.ip() {
            IpAddr::V4(ip) => bytes[8..12].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => bytes[8..24].copy_from_slice(&ip.octets()),
        }
        bytes[64..68].copy_from_slice(&listener.uid.to_ne_bytes());
        let inode = u32::try_from(listener.key.inode).unwrap();
        bytes[68..72].copy_from_slice(&inode.to_ne_bytes());
        if let Some(v6_only) = listener.v6_only {
            bytes.extend([5u16.to_ne_bytes(), 8u16.to_ne_bytes()].concat());
            bytes.extend([1, 0, 0, 0]);
            bytes.extend([5u16.to_ne_bytes(), INET_DIAG_SKV6ONLY.to_ne_bytes()].concat());
            bytes.push(v6_only.into());
        }
        bytes
    }

    fn taken(datagram: &[u8], table: Table) -> (Vec<Listener>, Result<bool, DiagError>) {
        let mut found = Vec::new();
        let end = answer(datagram, table, SEQUENCE, |listener| found.push(listener));
        (found, end)
    }

    #[test]
    fn an_error_and_an_end_are_told_apart() {
        let table = Table::ALL[0];
        let word = |value: i32| value.to_ne_bytes().to_vec();
        assert_eq!(taken(&message(NLMSG_DONE, SEQUENCE, &word(0)), table).1, Ok(true));
        assert_eq!(taken(&message(NLMSG_DONE, SEQUENCE, &[]), table).1, Ok(true));
        assert_eq!(taken(&message(NLMSG_DONE, SEQUENCE, &word(-2)), table).1, Err(DiagError::Refused(2)));
        assert_eq!(taken(&message(NLMSG_ERROR, SEQUENCE, &word(-1)), table).1, Err(DiagError::Refused(1)));
        assert_eq!(taken(&message(NLMSG_DONE, SEQUENCE + 1, &word(-2)), table).1, Ok(false));
        assert_eq!(taken(&[0; 16], table).1, Err(DiagError::Malformed));
        assert_eq!(taken(&[], table).1, Ok(false));
    }

    fn listeners() -> impl Strategy<Value = (Table, Listener)> {
        let address = (any::<[u8; 16]>(), 1..=u16::MAX);
        (0..4usize, address, any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
            |(table, (ip, port), inode, uid, v6_only)| {
                let table = Table::ALL[table];
                let v4 = Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
                let ip = if table.v6 { IpAddr::V6(ip.into()) } else { IpAddr::V4(v4) };
                let address = SocketAddr::new(ip, port);
                let key = ListenerKey { transport: table.transport, address, inode: inode.into() };
                (table, Listener { key, uid, v6_only: table.v6.then_some(v6_only) })
            },
        )
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read_and_what_is_asked_of_another_table_is_not(
            (table, listener) in listeners(), other in 0..4usize,
        ) {
            let mut datagram = message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &payload(&listener, table));
            datagram.extend(message(SOCK_DIAG_BY_FAMILY, SEQUENCE + 1, &payload(&listener, table)));
            prop_assert_eq!(taken(&datagram, table), (vec![listener], Ok(false)));
            let other = Table::ALL[other];
            let expected = usize::from(other.family() == table.family() && other.state() == table.state());
            prop_assert_eq!(taken(&datagram, other).0.len(), expected);
        }

        #[test]
        fn no_bytes_panic_and_none_give_more_than_they_hold(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..600), shape in any::<bool>(), length in 0..600u32,
        ) {
            if shape && bytes.len() >= 16 {
                bytes[0..4].copy_from_slice(&length.to_ne_bytes());
                bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
                bytes[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
            }
            prop_assert!(diag_datagram(&bytes, SEQUENCE).0 <= 4 * bytes.len() / (HEADER + ANSWER));
        }

        #[test]
        fn a_datagram_cut_anywhere_gives_no_more_than_the_whole((table, listener) in listeners(), cut in 0..200usize) {
            let mut datagram = message(SOCK_DIAG_BY_FAMILY, SEQUENCE, &payload(&listener, table));
            datagram.truncate(cut);
            let (found, _) = taken(&datagram, table);
            prop_assert!(found.is_empty() || found == [listener]);
        }
    }
}
