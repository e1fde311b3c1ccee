//! `/proc/net/tcp`, `tcp6`, `udp`, `udp6`, read piece by piece.

use super::{Listener, ListenerKey, Table, Transport};
use crate::sockets;

/// No row is as long: one of `tcp6` has some 200 bytes.
const LONGEST_ROW: usize = 1024;
const LISTEN: u8 = 10;
const SYN_RECV: u8 = 3;

/// Takes a table apart in pieces of any size.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table,
    /// The beginning of a row whose end has not come yet.
    begun: Vec<u8>,
    /// The title was passed over.
    titled: bool,
}

impl Rows {
    pub(super) fn new(table: Table) -> Self {
        Rows { table, begun: Vec::new(), titled: false }
    }

    /// Takes the next piece; whether more may hold what is wanted. The kernel lists TCP listeners before all connections, so that the
    /// first of those ends it.
    pub(super) fn take(&mut self, piece: &[u8], mut found: impl FnMut(Listener)) -> bool {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            if self.begun.len() + line.len() <= LONGEST_ROW {
                self.begun.extend_from_slice(line);
            }
            if !line.ends_with(b"\n") {
                continue;
            }
            let row = std::mem::take(&mut self.begun);
            if !std::mem::replace(&mut self.titled, true) {
                continue;
            }
            match row_of(&row, self.table) {
                Some(Row::Wanted(listener)) => found(listener),
                Some(Row::Connection) => return false,
                Some(Row::Other) | None => {}
            }
        }
        true
    }
}

enum Row {
    Wanted(Listener),
    /// Of TCP: behind it there are no listeners.
    Connection,
    Other,
}

fn row_of(line: &[u8], table: Table) -> Option<Row> {
    let line = std::str::from_utf8(line).ok()?;
    let mut fields = line.split_ascii_whitespace();
    let address = sockets::address(fields.nth(1)?)?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    if state != table.state() || address.port() == 0 {
        let connection = table.transport == Transport::Tcp && !matches!(state, LISTEN | SYN_RECV);
        return Some(if connection { Row::Connection } else { Row::Other });
    }
    if address.is_ipv6() != table.v6 {
        return Some(Row::Other);
    }
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    let key = ListenerKey { transport: table.transport, address, inode };
    Some(Row::Wanted(Listener { key, uid, v6_only: None }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 11 1 0 100 0 0 10 0\n   \
        1: 0100007F:1F90 0100007F:A9B3 03 00000000:00000000 00:00000000 00000000     0        0 0 1 0\n   \
        2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0\n   \
        3: 0100007F:CF6C 0100007F:A9B3 01 00000000:00000000 00:00000000 00000000     0        0 33 1 0\n   \
        4: 00000000:0017 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 44 1 0\n";
    const UDP: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n  \
        99: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 55 2 0 0\n  \
        99: 0100007F:CF6C 0100007F:0035 01 00000000:00000000 00:00000000 00000000   101        0 66 2 0 0\n  \
        99: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0 0\n";

    fn read(table: Table, text: &[u8], piece: usize) -> (Vec<Listener>, bool) {
        let (mut rows, mut found) = (Rows::new(table), Vec::new());
        let more = text.chunks(piece).all(|piece| rows.take(piece, |listener| found.push(listener)));
        (found, more)
    }

    fn shown(found: &[Listener]) -> Vec<(String, u64, u32)> {
        found.iter().map(|one| (one.key.address.to_string(), one.key.inode, one.uid)).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_read_up_to_the_first_connection_and_udp_to_its_end() {
        for piece in [1, 7, 64, 4096] {
            let (found, more) = read(Table::ALL[0], TCP.as_bytes(), piece);
            assert_eq!(
                shown(&found),
                [("127.0.0.1:8080".to_owned(), 11, 1000), ("0.0.0.0:22".to_owned(), 22, 0)]
            );
            assert!(!more);
            let (found, more) = read(Table::ALL[2], UDP.as_bytes(), piece);
            assert_eq!(
                shown(&found),
                [("127.0.0.1:53".to_owned(), 55, 101), ("0.0.0.0:68".to_owned(), 77, 0)]
            );
            assert!(more);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_nor_are_kept_beyond_a_row(
            bytes in proptest::collection::vec(any::<u8>(), 0..4000), piece in 1..600usize, table in 0..4usize,
        ) {
            let mut rows = Rows::new(Table::ALL[table]);
            for piece in bytes.chunks(piece) {
                rows.take(piece, |_| {});
                prop_assert!(rows.begun.len() <= LONGEST_ROW);
            }
        }
    }
}
