//! Identities. Each is a type of its own, so that a boot cannot stand where a host belongs.

use std::fmt;
use std::str::FromStr;

use crate::clock::BootNanos;

/// Why a textual id was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {text:?}: expected 32 hexadecimal digits, hyphens allowed")]
pub struct ParseIdError {
    what: &'static str,
    text: String,
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex128(text).map(Self).ok_or_else(|| ParseIdError { what: $what, text: text.to_owned() })
            }
        }
    };
}

id128!(
    /// A machine with one agent. Made once and kept on the host; the host's name may change, this does not.
    HostId, "host id"
);

impl HostId {
    /// The same number on this host each time, another on most others: for what spreads the hosts of a fleet in time.
    pub fn seed(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

id128!(
    /// One boot of a host: `/proc/sys/kernel/random/boot_id`.
    BootId, "boot id"
);
id128!(
    /// One alert. Derived from where it stands in its agent's stream, so that a resent alert is recognised.
    AlertId, "alert id"
);

fn parse_hex128(text: &str) -> Option<[u8; 16]> {
    let mut digits = text.trim().bytes().filter(|byte| *byte != b'-');
    let mut id = [0u8; 16];
    for byte in &mut id {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(id)
}

impl AlertId {
    /// The id of alert number `sequence` of one stream: FNV-1a (128 bit, <http://www.isthe.com/chongo/tech/comp/fnv/>)
    /// over all four parts. It need not be secret, only the same each time.
    pub fn derive(stream: StreamId, sequence: u64) -> Self {
        const OFFSET: u128 = 0x6c62272e07bb014262b821756295c58d;
        const PRIME: u128 = 0x0000000001000000000000000000013b;
        let numbers = stream.incarnation.0.to_be_bytes().into_iter().chain(sequence.to_be_bytes());
        let bytes = stream.host.0.iter().chain(&stream.boot.0).copied().chain(numbers);
        let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
        AlertId(hash.to_be_bytes())
    }
}

/// What one run of an agent sends: sequence numbers grow without gaps inside it, and start at 1 in the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId {
    /// The host.
    pub host: HostId,
    /// Its boot.
    pub boot: BootId,
    /// When this run of the agent began.
    pub incarnation: BootNanos,
}

/// One process of one boot. A tgid alone is reused; a tgid with its start time is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// The thread group leader's start, cut to a whole tick (10 ms); see [`ProcessKey::on_tick`].
    pub started: BootNanos,
}

impl ProcessKey {
    /// One tick of `USER_HZ` (100 on every architecture), the unit of `starttime` in `/proc/PID/stat`.
    pub const TICK: u64 = 10_000_000;

    /// The key every source agrees on: the start cut to whole ticks, since /proc knows no more than that. A tgid is not
    /// reused within one tick.
    pub fn on_tick(self) -> ProcessKey {
        ProcessKey { tgid: self.tgid, started: BootNanos(self.started.0 / Self::TICK * Self::TICK) }
    }
}

/// A container as its runtime names it: 64 hexadecimal digits, or what the cgroup path ends in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(pub String);

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_with_and_without_hyphens() {
        let plain: BootId = "0123456789abcdef0123456789abcdef".parse().unwrap();
        let dashed: BootId = "01234567-89ab-cdef-0123-456789abcdef\n".parse().unwrap();
        assert_eq!(plain, dashed);
        assert_eq!(plain.to_string(), "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn a_short_long_or_foreign_id_is_refused_with_its_text() {
        for text in ["", "0123", "0123456789abcdef0123456789abcdef00", "g123456789abcdef0123456789abcdef"] {
            assert!(text.parse::<HostId>().unwrap_err().to_string().contains("host id"), "{text}");
        }
    }

    #[test]
    fn alert_ids_differ_by_sequence_and_repeat_for_the_same() {
        let stream = StreamId { host: HostId([1; 16]), boot: BootId([2; 16]), incarnation: BootNanos(3) };
        let later = StreamId { incarnation: BootNanos(4), ..stream };
        assert_eq!(AlertId::derive(stream, 7), AlertId::derive(stream, 7));
        assert_ne!(AlertId::derive(stream, 7), AlertId::derive(stream, 8));
        assert_ne!(AlertId::derive(stream, 7), AlertId::derive(later, 7));
    }
}
