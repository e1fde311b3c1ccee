//! Rows of `/proc/PID/net/tcp`, `tcp6`, `udp` and `udp6`: addresses and inodes of sockets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The remote address of the connected TCP socket `inode` in a table of `/proc/PID/net`; `None` when the table does not
/// hold it, or it is connected to no one.
pub(crate) fn remote_of(table: &[u8], inode: u64) -> Option<SocketAddr> {
    let found = table.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let line = std::str::from_utf8(line).ok()?;
        let mut fields = line.split_ascii_whitespace();
        let remote = fields.nth(2)?;
        let known: u64 = fields.nth(6)?.parse().ok()?;
        (known == inode).then(|| address(remote)).flatten()
    })?;
    let found = SocketAddr::new(found.ip().to_canonical(), found.port());
    (!found.ip().is_unspecified()).then_some(found)
}

/// `0100007F:1F90` or 32 digits for IPv6: the kernel prints each 32-bit word of the address in its own byte order.
pub(crate) fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word =
        |index: usize| u32::from_str_radix(ip.get(index * 8..index * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0u8; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    #[test]
    #[cfg(target_endian = "little")]
    fn the_peer_of_an_inode_is_found_in_both_families() {
        let table = format!(
            "{HEAD}   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0\n   \
             1: 0100007F:CF6C 0100007F:A9B3 01 00000000:00000000 00:00000000 00000000  1000        0 22 1 0\n   \
             2: 0000000000000000FFFF00000100007F:0016 0000000000000000FFFF00000200007F:0017 01 0:0 0:0 0 0 0 33 1 0\n"
        );
        assert_eq!(remote_of(table.as_bytes(), 22), "127.0.0.1:43443".parse().ok());
        assert_eq!(remote_of(table.as_bytes(), 33), "127.0.0.2:23".parse().ok());
        assert_eq!(remote_of(table.as_bytes(), 11), None, "a listener has no peer");
        assert_eq!(remote_of(table.as_bytes(), 44), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), inode in any::<u64>()) {
            let _seen = remote_of(&bytes, inode);
        }

        #[test]
        fn no_address_panics(text in "\\PC{0,40}") {
            let _seen = address(&text);
        }
    }
}
