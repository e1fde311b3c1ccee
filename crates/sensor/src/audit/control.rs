//! The orders to the kernel's audit system: its status, who its daemon is, and our rules.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::netlink::{ACK, DONE, ERROR, HEADER, Netlink, REQUEST, Received, half, word};

pub(super) const GET: u16 = 1000;
const SET: u16 = 1001;
const ADD_RULE: u16 = 1011;
const DELETE_RULE: u16 = 1012;
const LIST_RULES: u16 = 1013;
/// Another daemon asks whether we still live, before it takes our place.
pub(super) const REPLACE: u16 = 1329;

const MASK_ENABLED: u32 = 0x1;
const MASK_PID: u32 = 0x4;
const MASK_BACKLOG_LIMIT: u32 = 0x10;
const MASK_BACKLOG_WAIT: u32 = 0x20;
/// Records the kernel queues for us; at some 1 KiB each.
const BACKLOG: u32 = 16_384;
const RECEIVE_BUFFER: usize = 8 << 20;
/// `MAX_AUDIT_MESSAGE_LENGTH` and a header.
const DATAGRAM: usize = 16 * 1024;
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Records that come while an answer is waited for.
const MAX_EARLY: usize = 4096;

/// `struct audit_rule_data` without its buffer: three words, then masks, fields, values and operators, 64 words each.
const RULE_FIELDS: usize = 64;
const FILTER_TASK: u32 = 1;
const FILTER_EXIT: u32 = 4;
const NEVER: u32 = 0;
const ALWAYS: u32 = 2;
const FIELD_ARCH: u32 = 11;
const FIELD_SUCCESS: u32 = 104;
const FIELD_KEY: u32 = 210;
const EQUAL: u32 = 0x4000_0000;
/// The mark on our rules, by which they are told from the administrator's.
const KEY: &[u8] = b"watchfire-exec";

/// An architecture as audit names it, with its numbers of execve and execveat.
type Calls = (u32, [u32; 2]);

/// The native one first, then the 32-bit one the same kernel runs.
const CALLS: &[Calls] = if cfg!(target_arch = "x86_64") {
    &[(0xc000_003e, [59, 322]), (0x4000_0003, [11, 358])]
} else if cfg!(target_arch = "aarch64") {
    &[(0xc000_00b7, [221, 281]), (0x4000_0028, [11, 387])]
} else {
    &[]
};

/// What is used of `struct audit_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Status {
    /// 0 off, 1 on, 2 on and locked until the next boot.
    pub(super) enabled: u32,
    /// The daemon, or 0.
    pub(super) daemon: u32,
    pub(super) backlog_limit: u32,
    /// Records lost since boot.
    pub(super) lost: u32,
    pub(super) backlog_wait: u32,
}

impl Status {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        Some(Status {
            enabled: word(payload, 4)?,
            daemon: word(payload, 12)?,
            backlog_limit: word(payload, 20)?,
            lost: word(payload, 24)?,
            // Absent before 3.14.
            backlog_wait: word(payload, 36).unwrap_or(0),
        })
    }
}

/// The socket to the audit system.
#[derive(Debug)]
pub(super) struct Control {
    socket: Netlink,
    sequence: u32,
    early: Vec<(u16, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl Control {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Netlink::open(rustix::net::netlink::AUDIT, 0)?;
        socket.widen(RECEIVE_BUFFER);
        Ok(Control { socket, sequence: 0, early: Vec::new(), buffer: vec![0; DATAGRAM] })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn status(&mut self) -> io::Result<Status> {
        let mut found = None;
        self.request(GET, &[], |kind, payload| {
            if kind == GET {
                found = Status::parse(payload);
            }
            found.is_some()
        })?;
        found.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Asks for the status; the answer comes among the records.
    pub(super) fn ask_status(&mut self) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(GET, REQUEST, self.sequence, &[])
    }

    /// Becomes the audit daemon, and lets no process of the host wait for us: a full backlog loses records, which the
    /// kernel counts.
    pub(super) fn register(&mut self) -> io::Result<()> {
        let mask = MASK_ENABLED | MASK_PID | MASK_BACKLOG_LIMIT | MASK_BACKLOG_WAIT;
        self.set(
            mask,
            Status {
                enabled: 1,
                daemon: std::process::id(),
                backlog_limit: BACKLOG,
                lost: 0,
                backlog_wait: 0,
            },
        )
    }

    /// Gives the place back and restores what was found. Best effort: it runs when the source is dropped.
    pub(super) fn unregister(&mut self, before: Status) -> io::Result<()> {
        let mask = MASK_BACKLOG_LIMIT | MASK_BACKLOG_WAIT;
        let restored = self.set(mask, before);
        let left = self.set(MASK_ENABLED | MASK_PID, Status { daemon: 0, ..before });
        restored.and(left)
    }

    fn set(&mut self, mask: u32, status: Status) -> io::Result<()> {
        let Status { enabled, daemon, backlog_limit, backlog_wait, .. } = status;
        let words = [mask, enabled, 0, daemon, 0, backlog_limit, 0, 0, 0, backlog_wait];
        let payload: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.request(SET, &payload, |_, _| false)
    }

    /// Adds our rules, after taking away what an earlier run that was killed may have left.
    pub(super) fn add_rules(&mut self) -> io::Result<()> {
        self.delete_rules()?;
        let (native, compat) = CALLS.split_first().ok_or(io::ErrorKind::Unsupported)?;
        self.request(ADD_RULE, &rule(*native), |_, _| false)?;
        for calls in compat {
            // A kernel without 32-bit programs refuses, and needs none.
            if let Err(error) = self.request(ADD_RULE, &rule(*calls), |_, _| false) {
                tracing::debug!(%error, "audit: rule for 32-bit programs");
            }
        }
        Ok(())
    }

    /// Takes away our rules, and no other.
    pub(super) fn delete_rules(&mut self) -> io::Result<()> {
        for calls in CALLS {
            match self.request(DELETE_RULE, &rule(*calls), |_, _| false) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Our rules in the kernel, and whether an administrator's rule keeps tasks from being audited at all.
    pub(super) fn rules(&mut self) -> io::Result<(usize, bool)> {
        let (mut ours, mut never) = (0, false);
        self.request(LIST_RULES, &[], |kind, payload| {
            if kind == LIST_RULES {
                ours += usize::from(key_of(payload) == Some(KEY));
                never |= word(payload, 0) == Some(FILTER_TASK) && word(payload, 4) == Some(NEVER);
            }
            kind == DONE
        })?;
        Ok((ours, never))
    }

    /// Takes one message; `None` when none is there, an empty one of kind 0 for an overflow.
    pub(super) fn receive(&mut self) -> io::Result<Option<(u16, Vec<u8>)>> {
        if let Some(early) = self.early.pop() {
            return Ok(Some(early));
        }
        Ok(self.next()?.map(|(kind, _, payload)| (kind, payload)))
    }

    fn next(&mut self) -> io::Result<Option<(u16, u32, Vec<u8>)>> {
        match self.socket.receive(&mut self.buffer)? {
            Received::Nothing => Ok(None),
            Received::Overflow => Ok(Some((0, 0, Vec::new()))),
            Received::Datagram(length) => {
                let datagram = &self.buffer[..length];
                let (Some(kind), Some(sequence)) = (half(datagram, 4), word(datagram, 8)) else {
                    return Ok(Some((u16::MAX, 0, Vec::new())));
                };
                // The length in the header leaves the header out for records and not for answers: the datagram's counts.
                Ok(Some((kind, sequence, datagram.get(HEADER..).unwrap_or_default().to_vec())))
            }
        }
    }

    /// Sends a request and waits for its acknowledgement, and until `answered` has seen enough if it is a question. Records
    /// that come in between are kept.
    fn request(
        &mut self,
        kind: u16,
        payload: &[u8],
        mut answered: impl FnMut(u16, &[u8]) -> bool,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let question = matches!(kind, GET | LIST_RULES);
        self.socket.send(kind, REQUEST | ACK, self.sequence, payload)?;
        let deadline = Instant::now() + ANSWER_WITHIN;
        let (mut acknowledged, mut enough) = (false, !question);
        while !(acknowledged && enough) {
            let Some((kind, sequence, payload)) = self.next()? else {
                self.wait(deadline)?;
                continue;
            };
            if kind == ERROR && sequence == self.sequence {
                let error = word(&payload, 0).map_or(i32::MIN, u32::cast_signed);
                if error != 0 {
                    return Err(io::Error::from_raw_os_error(error.saturating_neg()));
                }
                acknowledged = true;
            } else if question && matches!(kind, GET | LIST_RULES | DONE) {
                enough |= answered(kind, &payload);
            } else if self.early.len() < MAX_EARLY {
                self.early.insert(0, (kind, payload));
            }
        }
        Ok(())
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut poll = [PollFd::new(&self.socket, PollFlags::IN)];
        rustix::event::poll(&mut poll, Some(&timeout))?;
        Ok(())
    }
}

/// The strings of a rule; ours has only its key. The datagram may be padded behind them.
fn key_of(rule: &[u8]) -> Option<&[u8]> {
    let strings = (3 + 4 * RULE_FIELDS + 1) * 4;
    let length = usize::try_from(word(rule, strings - 4)?).ok()?;
    rule.get(strings..strings.checked_add(length)?)
}

/// `-a always,exit -F arch=… -S execve -S execveat -F success=1 -k watchfire-exec`
fn rule((arch, calls): Calls) -> Vec<u8> {
    let mut masks = [0u32; RULE_FIELDS];
    for call in calls {
        let index = usize::try_from(call / 32).unwrap_or(RULE_FIELDS);
        if let Some(mask) = masks.get_mut(index) {
            *mask |= 1 << (call % 32);
        }
    }
    let length = u32::try_from(KEY.len()).unwrap_or(0);
    let (mut fields, mut values, mut operators) =
        ([0u32; RULE_FIELDS], [0u32; RULE_FIELDS], [0u32; RULE_FIELDS]);
    for (index, (field, value)) in
        [(FIELD_ARCH, arch), (FIELD_SUCCESS, 1), (FIELD_KEY, length)].into_iter().enumerate()
    {
        (fields[index], values[index], operators[index]) = (field, value, EQUAL);
    }
    let head = [FILTER_EXIT, ALWAYS, 3];
    let words = head.iter().chain(&masks).chain(&fields).chain(&values).chain(&operators).chain([&length]);
    words.flat_map(|word| word.to_ne_bytes()).chain(KEY.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_has_the_layout_of_audit_rule_data() {
        let bytes = rule((0xc000_003e, [59, 322]));
        assert_eq!(bytes.len(), 3 * 4 + 4 * 64 * 4 + 4 + KEY.len());
        assert_eq!(word(&bytes, 12 + 4), Some(1 << 27), "59 is bit 27 of word 1");
        assert_eq!(word(&bytes, 12 + 40), Some(1 << 2), "322 is bit 2 of word 10");
        assert_eq!(key_of(&[&bytes[..], &[0, 0]].concat()), Some(KEY));
    }

    proptest! {
        #[test]
        fn no_status_panics(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _seen = Status::parse(&bytes);
        }

        #[test]
        fn no_rule_panics(bytes in proptest::collection::vec(any::<u8>(), 1030..1060)) {
            let _seen = key_of(&bytes);
        }
    }
}
