//! `/proc/loadavg`, and how many CPUs there are to share it.

use std::path::Path;

use crate::reading;

/// One line of less than 100 bytes for each CPU stands before everything else.
const MAX_STAT: usize = 512 * 1024;

/// The run queue of the host: tasks that run, wait for a CPU, or wait in uninterruptible sleep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Average over 1 minute, in tasks.
    pub one: f32,
    /// Over 5 minutes.
    pub five: f32,
    /// Over 15 minutes.
    pub fifteen: f32,
    /// CPUs that are online, at least 1.
    pub cpus: u32,
}

/// Reads the host's load from the procfs at `proc_root`; `None` when it is not told.
pub fn load(proc_root: impl AsRef<Path>) -> Option<Load> {
    let [one, five, fifteen] = averages(&reading::file(&proc_root.as_ref().join("loadavg"), 256).ok()?)?;
    let stat = reading::file(&proc_root.as_ref().join("stat"), MAX_STAT).unwrap_or_default();
    Some(Load { one, five, fifteen, cpus: cpus(&stat).max(1) })
}

/// `0.20 0.18 0.12 1/80 11206`
fn averages(text: &[u8]) -> Option<[f32; 3]> {
    let mut fields = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let mut next =
        || fields.next()?.parse::<f32>().ok().filter(|load| load.is_finite() && load.is_sign_positive());
    Some([next()?, next()?, next()?])
}

/// The `cpuN` lines of `/proc/stat`: it lists those online, and the sum of all as `cpu` without a number.
fn cpus(stat: &[u8]) -> u32 {
    let lines = stat.split(|byte| *byte == b'\n');
    let numbered =
        lines.filter(|line| line.starts_with(b"cpu") && line.get(3).is_some_and(u8::is_ascii_digit));
    u32::try_from(numbered.count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn averages_and_cpus_are_read() {
        assert_eq!(averages(b"0.20 12.18 0.12 1/80 11206\n"), Some([0.2, 12.18, 0.12]));
        assert_eq!(cpus(b"cpu  1 2\ncpu0 1 2\ncpu7 1 2\nintr 5 cpu\n"), 2);
        assert_eq!(averages(b"0.20 NaN 0.12"), None);
        assert_eq!(averages(b"0.20 -1.0 0.12"), None);
        assert_eq!(load("/nonexistent"), None);
    }

    #[test]
    fn this_host_has_as_many_cpus_as_are_online() {
        let expected = std::fs::read_to_string("/proc/cpuinfo").unwrap().matches("processor\t:").count();
        // Some architectures print their processors otherwise.
        if expected > 0 {
            assert_eq!(load("/proc").unwrap().cpus as usize, expected);
        }
        assert!(load("/proc").unwrap().cpus >= 1);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _seen = (averages(&bytes), cpus(&bytes));
        }
    }
}
