//! `/proc/pressure`: how much work waits for CPU, memory and I/O (the kernel's Documentation/accounting/psi.rst).
//!
//! Load counts who stands in the queue; pressure says what share of time was lost to it, and means the same on one CPU
//! and on a hundred.

use std::path::Path;
use std::time::Duration;

use crate::reading;

const MAX_FILE: usize = 4 * 1024;

/// How a resource was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StallShare {
    /// Percent of the last 10 seconds, 0 to 100.
    pub avg10: f32,
    /// Percent of the last 60 seconds, 0 to 100.
    pub avg60: f32,
    /// All of it since boot, to the microsecond.
    pub total: Duration,
}

/// What one resource cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stall {
    /// Some task waited.
    pub some: StallShare,
    /// Every task waited, no work was done; the kernel tells no such line for CPU before 5.13.
    pub full: Option<StallShare>,
}

/// What the host's work waits for; `None` where the kernel does not tell (built without PSI, or `psi=0`).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Runnable, and no CPU free.
    pub cpu: Option<Stall>,
    /// Waiting for reclaim, or for pages that were just thrown out.
    pub memory: Option<Stall>,
    /// Waiting for a disk.
    pub io: Option<Stall>,
}

/// Reads the host's pressure from the procfs at `proc_root`.
pub fn pressure(proc_root: impl AsRef<Path>) -> Pressure {
    let dir = proc_root.as_ref().join("pressure");
    // With `psi=0` the files exist and reading them fails with EOPNOTSUPP.
    let stall = |name: &str| parse(&reading::file(&dir.join(name), MAX_FILE).ok()?);
    Pressure { cpu: stall("cpu"), memory: stall("memory"), io: stall("io") }
}

/// `some avg10=1.95 avg60=3.70 avg300=18.35 total=214918015`, then the same for `full`.
fn parse(text: &[u8]) -> Option<Stall> {
    let text = std::str::from_utf8(text).ok()?;
    let line = |kind: &str| text.lines().find_map(|line| share(line.strip_prefix(kind)?));
    Some(Stall { some: line("some ")?, full: line("full ") })
}

fn share(fields: &str) -> Option<StallShare> {
    let field = |name: &str| fields.split_ascii_whitespace().find_map(|field| field.strip_prefix(name));
    let percent = |name: &str| field(name)?.parse::<f32>().ok().filter(|value| (0.0..=100.0).contains(value));
    Some(StallShare {
        avg10: percent("avg10=")?,
        avg60: percent("avg60=")?,
        total: Duration::from_micros(field("total=")?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: &[u8] = b"some avg10=1.95 avg60=3.70 avg300=18.35 total=214918015\n\
        full avg10=0.00 avg60=0.25 avg300=0.00 total=7\n";

    #[test]
    fn both_lines_are_read() {
        let stall = parse(REAL).unwrap();
        assert_eq!((stall.some.avg10, stall.some.avg60), (1.95, 3.7));
        assert_eq!(stall.some.total, Duration::from_micros(214_918_015));
        assert_eq!(stall.full.unwrap().avg60, 0.25);
    }

    #[test]
    fn a_kernel_without_the_second_line_or_the_files_is_no_error() {
        let first = REAL.split(|byte| *byte == b'\n').next().unwrap();
        assert_eq!(parse(first).unwrap().full, None);
        assert_eq!(pressure("/nonexistent"), Pressure::default());
    }

    #[test]
    fn shares_that_are_no_percentages_are_refused() {
        for wrong in ["NaN", "inf", "-1", "101", ""] {
            assert_eq!(share(&format!("avg10={wrong} avg60=0.00 total=1")), None, "{wrong}");
        }
    }

    #[test]
    fn this_host_tells_every_resource_or_none() {
        let here = pressure("/proc");
        let told = Path::new("/proc/pressure/cpu").exists() && std::fs::read("/proc/pressure/cpu").is_ok();
        assert_eq!([here.cpu.is_some(), here.memory.is_some(), here.io.is_some()], [told; 3]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _seen = parse(&bytes);
        }

        #[test]
        fn no_mutation_of_a_real_file_panics(at in 0usize..110, byte in any::<u8>()) {
            let mut bytes = REAL.to_vec();
            let len = bytes.len();
            bytes[at % len] = byte;
            let _seen = parse(&bytes);
        }
    }
}
