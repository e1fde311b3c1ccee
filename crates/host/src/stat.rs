//! `/proc/PID/stat`: one line whose second field is a name its owner chose, blanks, brackets and newlines included.

use std::time::Duration;

use watchfire_event::{BootNanos, ProcessKey, Tty};

/// What is used of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Stat {
    pub(crate) comm: Vec<u8>,
    pub(crate) state: u8,
    pub(crate) parent: u32,
    pub(crate) group: u32,
    pub(crate) session: u32,
    pub(crate) tty: Option<Tty>,
    pub(crate) started: BootNanos,
    /// User and system time of all its threads, in clock ticks.
    pub(crate) cpu_ticks: u64,
    /// Length of the argument area; 0 when the reader may not know.
    pub(crate) arguments: u64,
}

impl Stat {
    /// The process has ended and waits for its parent.
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }

    /// `cpu_ticks` as time: USER_HZ is 100 wherever the agent runs (only Alpha and IA-64 had 1024).
    pub(crate) fn cpu(&self) -> Duration {
        Duration::from_millis(self.cpu_ticks.saturating_mul(10))
    }
}

/// Reads the line; `None` when it is not one. Field numbers are those of proc(5), counted from 1.
pub(crate) fn parse(line: &[u8]) -> Option<Stat> {
    let open = line.iter().position(|byte| *byte == b'(')?;
    // The name may hold anything, the fields behind it hold no bracket: the last one ends it.
    let close = line.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(64).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |index: usize| field(index).and_then(|text| text.parse::<u64>().ok());
    // Ids are printed as signed numbers; -1 stands where a process has none.
    let id = |index: usize| field(index)?.parse::<i64>().ok().map(|id| u32::try_from(id).unwrap_or(0));
    Some(Stat {
        comm: line[open + 1..close].to_vec(),
        state: *field(3)?.as_bytes().first()?,
        parent: id(4)?,
        group: id(5)?,
        session: id(6)?,
        tty: field(7)?.parse::<i32>().ok().and_then(tty),
        started: BootNanos(number(22)?.saturating_mul(ProcessKey::TICK)),
        cpu_ticks: number(14)?.saturating_add(number(15)?),
        arguments: number(49).unwrap_or(0).saturating_sub(number(48).unwrap_or(0)),
    })
}

/// The terminal behind `tty_nr`: minor in bits 0-7 and 20-31, major in bits 8-19.
fn tty(packed: i32) -> Option<Tty> {
    let packed = u32::from_ne_bytes(packed.to_ne_bytes());
    let (major, minor) = ((packed >> 8) & 0xfff, (packed & 0xff) | ((packed >> 12) & 0xf_ff00));
    (packed != 0).then(|| Tty { name: tty_name(major, minor).into_bytes(), device: (major, minor) })
}

/// Whether a character device of this major number is a terminal (Linux' Documentation/admin-guide/devices.txt).
pub(crate) fn is_tty_major(major: u32) -> bool {
    matches!(major, 3 | 4 | 5 | 136..=143 | 166 | 188 | 204 | 229)
}

/// The name the kernel's driver gives the terminal; empty for a driver not known here.
fn tty_name(major: u32, minor: u32) -> String {
    match (major, minor) {
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor - 64),
        (5, 0) => "tty".to_owned(),
        (5, 1) => "console".to_owned(),
        (136..=143, _) => format!("pts{}", u64::from(major - 136) * 256 + u64::from(minor)),
        (188, _) => format!("ttyUSB{minor}"),
        (204, 64..=79) => format!("ttyAMA{}", minor - 64),
        (229, _) => format!("hvc{minor}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(comm: &str) -> Vec<u8> {
        let tail = "S 17 42 43 34816 42 4194304 1 2 3 4 500 25 0 0 20 0 1 0 123456 8 9 18446744073709551615 \
                    1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 1 1 1000 1234 1 1 0";
        format!("99 ({comm}) {tail}\n").into_bytes()
    }

    #[test]
    fn a_name_with_brackets_blanks_and_newlines_shifts_no_field() {
        for comm in ["sh", "a) R 1 (b", "x\n99 (y) Z 1 1", ") ", ""] {
            let stat = parse(&line(comm)).unwrap();
            assert_eq!(stat.comm, comm.as_bytes());
            assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'S', 17, 42, 43));
            assert_eq!(stat.started, BootNanos(1_234_560_000_000));
            assert_eq!((stat.cpu_ticks, stat.arguments), (525, 234));
            assert_eq!(stat.tty, Some(Tty { name: b"pts0".to_vec(), device: (136, 0) }));
        }
    }

    #[test]
    fn terminals_are_named_as_the_kernel_names_them() {
        assert_eq!(tty(0), None);
        assert_eq!(tty((4 << 8) | 1).unwrap().name, b"tty1");
        assert_eq!(tty((4 << 8) | 65).unwrap().name, b"ttyS1");
        assert_eq!(tty((136 << 8) | 0x2c | (1 << 20)).unwrap().device, (136, 0x12c));
    }

    #[test]
    fn a_cut_line_is_no_process() {
        let whole = line("sh");
        assert!(parse(&whole[..20]).is_none() && parse(b"").is_none() && parse(b") (").is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _seen = parse(&bytes);
        }

        #[test]
        fn no_mutation_of_a_real_line_panics(at in 0usize..180, byte in any::<u8>(), cut in 0usize..200) {
            let mut bytes = line("sh");
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(cut);
            let _seen = parse(&bytes);
        }
    }
}
