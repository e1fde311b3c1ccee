//! What a process costs, so that an agent can tell on itself.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::{reading, stat, status};

/// Memory and CPU time of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss: u64,
    /// Its anonymous part: heap and stacks.
    pub rss_anon: u64,
    /// Its shared part: tmpfs and shared anonymous memory.
    pub rss_shmem: u64,
    /// CPU time of all its threads since its start, in steps of a clock tick (10 ms).
    pub cpu: Duration,
}

/// Measures process `tgid` in the procfs at `proc_root`.
///
/// # Errors
/// What the kernel said when `status` or `stat` could not be read; `InvalidData` when `stat` is not understood.
pub fn usage(proc_root: &Path, tgid: u32) -> io::Result<Usage> {
    usage_in(reading::directory(&proc_root.join(tgid.to_string()))?)
}

/// As [`usage`], of the process whose directory is open.
pub(crate) fn usage_in(dir: impl AsFd) -> io::Result<Usage> {
    let memory = status::parse(&reading::file_at(&dir, "status", 16 * 1024)?);
    let stat = stat::parse(&reading::file_at(&dir, "stat", 4 * 1024)?).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Usage { rss: memory.rss, rss_anon: memory.rss_anon, rss_shmem: memory.rss_shmem, cpu: stat.cpu() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_uses_cpu_when_it_works() {
        let own = || usage(Path::new("/proc"), std::process::id()).unwrap();
        let before = own();
        assert!(before.rss > 100_000 && before.rss_anon > 0 && before.rss >= before.rss_anon);
        let until = std::time::Instant::now() + Duration::from_millis(200);
        while std::time::Instant::now() < until {
            std::hint::spin_loop();
        }
        assert!(own().cpu > before.cpu);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        assert!(usage(Path::new("/proc"), u32::MAX).is_err());
    }
}
