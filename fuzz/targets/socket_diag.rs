//! Datagrams that answer the question which sockets listen (netlink).

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_host::diag_datagram;

/// `sizeof` of a message's header and of a socket in it.
const SOCKET: usize = 16 + 72;

fuzz_target!(|bytes: &[u8]| {
    // The sequence number stands in the first message, so that the bytes are an answer more often.
    let sequence = bytes.get(8..12).and_then(|word| word.try_into().ok()).map_or(1, u32::from_ne_bytes);
    let (sockets, answers) = diag_datagram(bytes, sequence);
    assert!(answers <= 4 && sockets <= 4 * bytes.len() / SOCKET, "{sockets} in {} bytes", bytes.len());
});
