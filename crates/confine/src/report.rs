//! How the child tells its parent what came of each step: records of 8 bytes in a pipe that exec closes.
//!
//! A few dozen records fit into any pipe many times over, and both ends never wait: the child cannot hang on its
//! parent, nor the parent on its child.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// More than there are steps.
const MAX_RECORDS: usize = 64;
const RECORD: usize = 8;

/// The child's end.
#[derive(Debug)]
pub(crate) struct Reporter(OwnedFd);

/// The parent's end.
#[derive(Debug)]
pub(crate) struct Reports(OwnedFd);

pub(crate) fn pipe() -> io::Result<(Reporter, Reports)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Reporter(write), Reports(read)))
}

impl Reporter {
    /// Tells of step number `index`. Allocates nothing; a record that cannot be written is missing at the other end.
    pub(crate) fn tell(&self, index: usize, result: Result<(), Errno>) {
        let errno = result.map_or_else(|errno| errno.raw_os_error(), |()| 0);
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let mut record = [0; RECORD];
        record[..4].copy_from_slice(&index.to_ne_bytes());
        record[4..].copy_from_slice(&errno.to_ne_bytes());
        while rustix::io::write(&self.0, &record) == Err(Errno::INTR) {}
    }
}

impl Reports {
    /// What the child told so far: step number and result. Once `Command::spawn` has returned, exec is done or the child
    /// is gone, and nothing more comes.
    pub(crate) fn read(&self) -> Vec<(usize, Result<(), Errno>)> {
        let mut bytes = [0; MAX_RECORDS * RECORD];
        let length = loop {
            match rustix::io::read(&self.0, &mut bytes) {
                Ok(length) => break length,
                Err(Errno::INTR) => {}
                Err(_) => break 0,
            }
        };
        decode(&bytes[..length])
    }
}

fn decode(bytes: &[u8]) -> Vec<(usize, Result<(), Errno>)> {
    let half = |bytes: &[u8]| bytes.try_into().unwrap_or_default();
    let records = bytes.chunks_exact(RECORD).map(|record| {
        let index = u32::from_ne_bytes(half(&record[..4]));
        let errno = i32::from_ne_bytes(half(&record[4..]));
        (index as usize, if errno == 0 { Ok(()) } else { Err(errno_of(errno)) })
    });
    records.collect()
}

/// The child may be compromised before it tells: a number that is no errno becomes one.
fn errno_of(raw: i32) -> Errno {
    if (1..4096).contains(&raw) { Errno::from_raw_os_error(raw) } else { Errno::INVAL }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_told_is_read_and_silence_does_not_block() {
        let (reporter, reports) = pipe().unwrap();
        assert_eq!(reports.read(), []);
        reporter.tell(0, Ok(()));
        reporter.tell(7, Err(Errno::PERM));
        assert_eq!(reports.read(), [(0, Ok(())), (7, Err(Errno::PERM))]);
        drop(reporter);
        assert_eq!(reports.read(), []);
    }

    #[test]
    fn a_full_pipe_stops_no_child() {
        let (reporter, reports) = pipe().unwrap();
        (0..100_000).for_each(|index| reporter.tell(index, Ok(())));
        assert_eq!(reports.read().len(), MAX_RECORDS);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&bytes).len(), bytes.len() / RECORD);
        }
    }
}
