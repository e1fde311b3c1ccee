//! What one process costs, looked at again and again: for a supervisor with a breaker over its workers.
//!
//! A sample costs a few opens of /proc, and one more for each thread; descriptors and threads are counted up to a limit,
//! because a process that runs away with either must not take its watcher along.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, RawDir};

use crate::resources::{self, Usage};
use crate::{reading, stat};

/// A count that was stopped at a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capped {
    /// How many there are; at least so many when `more`.
    pub count: u32,
    /// The limit was reached and counting stopped.
    pub more: bool,
}

/// CPU time of one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadUse {
    /// Its number.
    pub tid: u32,
    /// Its name: bytes it chose itself, 15 at most.
    pub comm: Vec<u8>,
    /// User and system time since it began, in steps of a clock tick (10 ms).
    pub cpu: Duration,
}

/// One look at a process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    /// Memory, and the CPU time of all threads, ended ones included.
    pub usage: Usage,
    /// Open descriptors; `None` when this process may not list them.
    pub fds: Option<Capped>,
    /// The threads that live, up to the sampler's limit, in the kernel's order.
    pub threads: Vec<ThreadUse>,
    /// There are more threads.
    pub more_threads: bool,
    /// Bytes it caused to be read from and written to storage (`read_bytes` and `write_bytes` of proc(5)); `None` when
    /// this process may not know, or the kernel does not count.
    pub io: Option<(u64, u64)>,
}

/// Samples one process. It keeps the process' directory open: when the number is used again, sampling fails instead of
/// telling about another process.
#[derive(Debug)]
pub struct ProcessSampler {
    dir: OwnedFd,
    max_fds: u32,
    max_threads: u32,
}

impl ProcessSampler {
    /// A sampler of process `tgid` in the procfs at `proc_root`, which counts no more than so many descriptors and
    /// threads.
    ///
    /// # Errors
    /// What the kernel said when the process' directory was opened: `NotFound` when there is no such process.
    pub fn open(proc_root: impl AsRef<Path>, tgid: u32, max_fds: u32, max_threads: u32) -> io::Result<Self> {
        let dir = reading::directory(&proc_root.as_ref().join(tgid.to_string()))?;
        Ok(ProcessSampler { dir, max_fds, max_threads })
    }

    /// Looks at the process now. A thread that ends meanwhile is left out.
    ///
    /// # Errors
    /// What the kernel said when `status` or `stat` could not be read; the process has ended, as a rule.
    pub fn sample(&self) -> io::Result<Sample> {
        let usage = resources::usage_in(&self.dir)?;
        let mut sample = Sample { usage, ..Sample::default() };
        sample.fds = self.each_number("fd", self.max_fds, |_| {}).ok();
        let mut threads = Vec::new();
        let seen = self.each_number("task", self.max_threads, |tid| threads.extend(self.thread(tid)));
        sample.threads = threads;
        sample.more_threads = seen.is_ok_and(|seen| seen.more);
        sample.io = reading::file_at(&self.dir, "io", 1024).ok().and_then(|text| storage_bytes(&text));
        Ok(sample)
    }

    fn thread(&self, tid: u32) -> Option<ThreadUse> {
        let line = reading::file_at(&self.dir, &format!("task/{tid}/stat"), 4 * 1024).ok()?;
        let stat = stat::parse(&line)?;
        Some(ThreadUse { tid, cpu: stat.cpu(), comm: stat.comm })
    }

    /// Calls `with` for each numbered entry of a directory, `limit` at most.
    fn each_number(&self, name: &str, limit: u32, mut with: impl FnMut(u32)) -> io::Result<Capped> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&self.dir, name, flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(8 * 1024);
        let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
        let mut seen = Capped::default();
        while let Some(entry) = entries.next() {
            let Some(number) = entry?.file_name().to_str().ok().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if seen.count == limit {
                seen.more = true;
                break;
            }
            seen.count += 1;
            with(number);
        }
        Ok(seen)
    }
}

/// `read_bytes` and `write_bytes` of `/proc/PID/io`.
fn storage_bytes(text: &[u8]) -> Option<(u64, u64)> {
    let text = std::str::from_utf8(text).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Some((field("read_bytes:")?, field("write_bytes:")?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    fn own(max_fds: u32, max_threads: u32) -> Sample {
        ProcessSampler::open("/proc", std::process::id(), max_fds, max_threads).unwrap().sample().unwrap()
    }

    #[test]
    fn the_thread_that_burns_is_told_by_name() {
        let (done, told) = mpsc::channel::<()>();
        let burner = std::thread::Builder::new().name("burner".into()).spawn(move || {
            while told.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
                std::hint::spin_loop();
            }
        });
        let burnt = |sample: &Sample| {
            let thread = sample.threads.iter().find(|thread| thread.comm == b"burner");
            thread.map_or(Duration::ZERO, |thread| thread.cpu)
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while burnt(&own(1000, 1000)) < Duration::from_millis(100) {
            assert!(Instant::now() < deadline, "the burner's time does not show: {:?}", own(1000, 1000));
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(own(1000, 1000).usage.cpu >= Duration::from_millis(100));
        drop(done);
        burner.unwrap().join().unwrap();
    }

    #[test]
    fn counting_stops_at_the_limits() {
        let _open: Vec<_> = (0..20).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert_eq!(own(7, 1).fds, Some(Capped { count: 7, more: true }));
        let all = own(100_000, 1000);
        assert!(all.fds.is_some_and(|fds| fds.count >= 20 && !fds.more), "{all:?}");
        assert_eq!(own(0, 0).threads, []);
        assert!(own(0, 0).more_threads);
    }

    #[test]
    fn a_process_that_ended_is_an_error_and_never_another_process() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let sampler = ProcessSampler::open("/proc", child.id(), 10, 10).unwrap();
        assert!(sampler.sample().is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(sampler.sample().is_err());
    }

    #[test]
    fn storage_bytes_are_those_of_the_disk_and_not_of_the_calls() {
        let text = b"rchar: 5\nwchar: 6\nsyscr: 1\nsyscw: 1\nread_bytes: 4096\nwrite_bytes: 8192\n\
            cancelled_write_bytes: 0\n";
        assert_eq!(storage_bytes(text), Some((4096, 8192)));
        assert_eq!(storage_bytes(b"rchar: 5\n"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _seen = storage_bytes(&bytes);
        }
    }
}
