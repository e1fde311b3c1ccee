//! Who has the port: for the error message of a start that failed.

use std::fs;
use std::net::SocketAddr;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN` of `include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Name and tgid of the process that listens on the port of `address`, as far as this user may see.
pub(crate) fn owner(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let text = fs::read_to_string(table).ok()?;
        text.lines().skip(1).find_map(|line| listening_inode(line, address.port()))
    })?;
    let socket = format!("socket:[{inode}]");
    let mut processes = fs::read_dir("/proc").ok()?.flatten();
    let tgid = processes.find_map(|entry| {
        let tgid: u32 = entry.file_name().to_str()?.parse().ok()?;
        holds(tgid, &socket).then_some(tgid)
    })?;
    let comm = fs::read(format!("/proc/{tgid}/comm")).unwrap_or_default();
    Some(format!("{} (tgid {tgid})", watchfire_event::printable(comm.trim_ascii_end())))
}

fn holds(tgid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{tgid}/fd")) else { return false };
    let mut links = descriptors.flatten().filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links.any(|target| target.as_os_str() == socket)
}

/// The inode of a line of `/proc/net/tcp`, if it listens on `port`:
/// `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode …`.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let local_port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    (state == LISTEN && local_port == port).then(|| inode.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_process_that_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = owner(listener.local_addr().unwrap()).unwrap();
        assert!(owner.contains(&format!("tgid {}", std::process::id())), "{owner}");
    }

    #[test]
    fn only_a_listening_line_of_that_port_counts() {
        let line = "   0: 0100007F:1B9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0";
        assert_eq!(listening_inode(line, 7070), Some(4242));
        assert_eq!(listening_inode(line, 7071), None);
        assert_eq!(listening_inode(&line.replace(" 0A ", " 01 "), 7070), None);
        assert_eq!(listening_inode("garbage", 7070), None);
    }
}
