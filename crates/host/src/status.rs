//! `/proc/PID/status`: `Name:\tvalue` lines.

use watchfire_event::Credentials;

/// What is used of `/proc/PID/status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Status {
    pub(crate) tgid: u32,
    /// Its id in its innermost pid namespace.
    pub(crate) ns_tgid: u32,
    pub(crate) credentials: Credentials,
    /// Resident memory in bytes: all, anonymous, shared.
    pub(crate) rss: u64,
    pub(crate) rss_anon: u64,
    pub(crate) rss_shmem: u64,
}

/// Reads the lines it knows; a line that does not parse leaves its field at zero.
pub(crate) fn parse(text: &[u8]) -> Status {
    let mut status = Status::default();
    // `Name:` is first; the kernel escapes a newline in it, so no name can forge a later line.
    for line in text.split(|byte| *byte == b'\n') {
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let numbers = || value.split_ascii_whitespace();
        let decimal =
            |index: usize| numbers().nth(index).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
        let kib =
            || numbers().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1024);
        let bits = || u64::from_str_radix(value.trim(), 16).unwrap_or(0);
        let ids = &mut status.credentials;
        match key {
            "Tgid" => status.tgid = decimal(0),
            "NStgid" => status.ns_tgid = numbers().last().and_then(|text| text.parse().ok()).unwrap_or(0),
            "Uid" => (ids.uid, ids.euid, ids.suid) = (decimal(0), decimal(1), decimal(2)),
            "Gid" => (ids.gid, ids.egid) = (decimal(0), decimal(1)),
            "CapPrm" => ids.cap_permitted = bits(),
            "CapEff" => ids.cap_effective = bits(),
            "VmRSS" => status.rss = kib(),
            "RssAnon" => status.rss_anon = kib(),
            "RssShmem" => status.rss_shmem = kib(),
            _ => {}
        }
    }
    if status.ns_tgid == 0 {
        // Kernels before 4.1, or built without pid namespaces.
        status.ns_tgid = status.tgid;
    }
    status
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REAL: &[u8] = b"Name:\tsh\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t500\nPid:\t500\nPPid:\t1\n\
        Uid:\t1000\t0\t0\t0\nGid:\t1001\t1002\t1002\t1002\nNStgid:\t500\t7\nNSpid:\t500\t7\nVmRSS:\t    1728 kB\n\
        RssAnon:\t     116 kB\nRssShmem:\t       4 kB\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000000002\n";

    #[test]
    fn ids_capabilities_and_memory_are_read() {
        let status = parse(REAL);
        let Credentials { uid, euid, suid, gid, egid, cap_effective, cap_permitted } = status.credentials;
        assert_eq!((uid, euid, suid, gid, egid), (1000, 0, 0, 1001, 1002));
        assert_eq!((cap_effective, cap_permitted), (2, 0x1ff_feff_ffff));
        assert_eq!((status.tgid, status.ns_tgid), (500, 7));
        assert_eq!((status.rss, status.rss_anon, status.rss_shmem), (1728 * 1024, 116 * 1024, 4096));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _seen = parse(&bytes);
        }

        #[test]
        fn no_mutation_of_a_real_file_panics(at in 0usize..300, byte in any::<u8>()) {
            let mut bytes = REAL.to_vec();
            let len = bytes.len();
            bytes[at % len] = byte;
            let _seen = parse(&bytes);
        }
    }
}
