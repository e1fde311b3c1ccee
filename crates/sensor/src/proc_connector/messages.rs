//! Messages of the process connector: `nlmsghdr`, `cn_msg`, `proc_event` (uapi/linux/cn_proc.h).

use crate::netlink::{HEADER, half, word};

const CN_IDX_PROC: u32 = 1;
const CN_VAL_PROC: u32 = 1;
/// `sizeof(struct cn_msg)`.
const CN_HEADER: usize = 20;
/// `what`, `cpu`, `timestamp_ns`.
const EVENT_HEADER: usize = 16;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) cpu: u32,
    /// Counts the events of this CPU, whether they were delivered or not.
    pub(super) sequence: u32,
    /// `CLOCK_MONOTONIC`.
    pub(super) monotonic: u64,
    pub(super) what: Happening,
}

/// What happened. `pid` is a thread's id, as the kernel calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happening {
    /// The kernel's answer to the subscription.
    Answer {
        error: u32,
    },
    Fork {
        parent: u32,
        child_pid: u32,
        child: u32,
    },
    Exec {
        tgid: u32,
    },
    Uid {
        pid: u32,
        tgid: u32,
        real: u32,
        effective: u32,
    },
    Ptrace {
        target: u32,
        tracer: u32,
    },
    Exit {
        pid: u32,
        tgid: u32,
        status: u32,
    },
    /// Group, session and name changes, core dumps.
    Other,
}

/// The payload that subscribes (`PROC_CN_MCAST_LISTEN`, 1) or ends the subscription (`PROC_CN_MCAST_IGNORE`, 2).
pub(super) fn subscription(operation: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CN_HEADER + 4);
    for value in [CN_IDX_PROC, CN_VAL_PROC, 0, 0] {
        bytes.extend(value.to_ne_bytes());
    }
    bytes.extend(4u16.to_ne_bytes());
    bytes.extend(0u16.to_ne_bytes());
    bytes.extend(operation.to_ne_bytes());
    bytes
}

/// Reads a datagram; `None` when it is no event.
pub(super) fn parse(datagram: &[u8]) -> Option<Message> {
    let length = usize::try_from(word(datagram, 0)?).ok()?;
    let connector = datagram.get(HEADER..length)?;
    if (word(connector, 0)?, word(connector, 4)?) != (CN_IDX_PROC, CN_VAL_PROC) {
        return None;
    }
    let event = connector.get(CN_HEADER..CN_HEADER.checked_add(usize::from(half(connector, 16)?))?)?;
    let at = |index: usize| word(event, EVENT_HEADER + index * 4);
    let what = match word(event, 0)? {
        0 => Happening::Answer { error: at(0)? },
        0x1 => Happening::Fork { parent: at(1)?, child_pid: at(2)?, child: at(3)? },
        0x2 => Happening::Exec { tgid: at(1)? },
        0x4 => Happening::Uid { pid: at(0)?, tgid: at(1)?, real: at(2)?, effective: at(3)? },
        0x100 => Happening::Ptrace { target: at(1)?, tracer: at(3)? },
        0x8000_0000 => Happening::Exit { pid: at(0)?, tgid: at(1)?, status: at(2)? },
        _ => Happening::Other,
    };
    let monotonic = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
    Some(Message { cpu: word(event, 4)?, sequence: word(connector, 8)?, monotonic, what })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(what: u32, data: &[u32]) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let event = [words(&[what, 1]), 77u64.to_ne_bytes().to_vec(), words(data)].concat();
        let length = u16::try_from(event.len()).unwrap();
        let connector = [words(&[1, 1, 9, 0]), length.to_ne_bytes().to_vec(), vec![0, 0], event].concat();
        let whole = u32::try_from(HEADER + connector.len()).unwrap();
        [words(&[whole, 3, 0, 0]), connector].concat()
    }

    #[test]
    fn each_event_is_read() {
        let read = |what, data: &[u32]| parse(&datagram(what, data)).unwrap();
        let fork = read(1, &[10, 11, 12, 13]);
        assert_eq!((fork.cpu, fork.sequence, fork.monotonic), (1, 9, 77));
        assert_eq!(fork.what, Happening::Fork { parent: 11, child_pid: 12, child: 13 });
        assert_eq!(read(2, &[10, 11]).what, Happening::Exec { tgid: 11 });
        assert_eq!(
            read(4, &[10, 11, 1000, 0]).what,
            Happening::Uid { pid: 10, tgid: 11, real: 1000, effective: 0 }
        );
        assert_eq!(read(0x100, &[10, 11, 12, 13]).what, Happening::Ptrace { target: 11, tracer: 13 });
        assert_eq!(
            read(0x8000_0000, &[10, 11, 256, 17]).what,
            Happening::Exit { pid: 10, tgid: 11, status: 256 }
        );
        assert_eq!(read(0x200, &[10, 11]).what, Happening::Other);
        assert_eq!(parse(&datagram(1, &[10])), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _seen = parse(&bytes);
        }

        #[test]
        fn no_mutation_of_a_real_message_panics(at in any::<usize>(), byte in any::<u8>(), cut in 0usize..80) {
            let mut bytes = datagram(1, &[10, 11, 12, 13]);
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(cut);
            let _seen = parse(&bytes);
        }
    }
}
