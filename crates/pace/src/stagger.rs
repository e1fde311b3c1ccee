//! When in a window a host's turn is, so that what a million hosts do is not done in the same second.

use std::time::Duration;

use crate::mix::{finalise, scale};

/// The offset of `host` in `window`, for this `purpose`: the same at each call, in `[0, window)`, evenly spread over
/// hosts, and independent for each purpose, so that who scans first does not also reconnect first.
///
/// Algorithm, which never changes (a fleet of two versions must keep its spread): FNV-1a, 64 bits, over the 16 bytes of
/// the host's id and then the purpose's bytes; the finaliser of SplitMix64, because FNV's high bits are weak; the high
/// half of the product with the window in nanoseconds. FNV: <http://www.isthe.com/chongo/tech/comp/fnv/>.
/// A window beyond 584 years is cut there.
pub fn stagger(host: &[u8; 16], purpose: &str, window: Duration) -> Duration {
    let word = finalise(fnv1a(host.iter().chain(purpose.as_bytes())));
    let nanos = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(scale(word, nanos))
}

fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Random;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_hash_is_fnv_1a() {
        // From the published test vectors.
        assert_eq!(fnv1a(b"".iter()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a".iter()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar".iter()), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn offsets_never_change_between_versions() {
        let rising: [u8; 16] = std::array::from_fn(|index| u8::try_from(index).unwrap());
        // Reckoned by a second implementation, in another language.
        let offsets = [
            stagger(&[0; 16], "reconnect", HOUR),
            stagger(&[0; 16], "scan", HOUR),
            stagger(&[0xff; 16], "reconnect", HOUR),
            stagger(&rising, "upgrade", HOUR),
            stagger(&rising, "", HOUR),
        ];
        assert_eq!(
            offsets.map(|offset| offset.as_nanos()),
            [51_339_076_588, 2_495_103_697_438, 2_692_112_784_968, 1_631_902_587_100, 1_095_605_361_837]
        );
    }

    #[test]
    fn an_empty_window_is_no_wait() {
        assert_eq!(stagger(&[1; 16], "scan", Duration::ZERO), Duration::ZERO);
        assert!(stagger(&[1; 16], "scan", Duration::MAX) < Duration::MAX);
    }

    /// Chi-square over 1000 buckets of 100,000 hosts: 999 degrees of freedom, so mean 999 and standard deviation 44.7.
    fn chi_square(hosts: impl Iterator<Item = [u8; 16]>, purpose: &str) -> f64 {
        let mut buckets = [0_u32; 1000];
        for host in hosts {
            let offset = stagger(&host, purpose, Duration::from_secs(1000));
            buckets[usize::try_from(offset.as_secs()).unwrap()] += 1;
        }
        assert_eq!(buckets.iter().sum::<u32>(), 100_000);
        buckets.iter().map(|count| (f64::from(*count) - 100.0).powi(2) / 100.0).sum()
    }

    #[test]
    fn a_hundred_thousand_hosts_spread_evenly_whether_ids_are_random_or_counted() {
        let counted = || (0..100_000_u128).map(u128::to_be_bytes);
        let from_the_other_end = || (0..100_000_u128).map(u128::to_le_bytes);
        let mut random = Random::seeded(1);
        let drawn: Vec<[u8; 16]> = (0..100_000)
            .map(|_| (u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())).to_be_bytes())
            .collect();
        for purpose in ["reconnect", "scan", "upgrade", "heartbeat"] {
            for (ids, chi) in [
                ("counted", chi_square(counted(), purpose)),
                ("counted, little-endian", chi_square(from_the_other_end(), purpose)),
                ("random", chi_square(drawn.iter().copied(), purpose)),
            ] {
                // Four standard deviations to both sides: too even is suspicious too.
                assert!((820.0..1178.0).contains(&chi), "{purpose}, {ids} ids: chi-square {chi}");
            }
        }
    }

    #[test]
    fn a_hosts_turn_for_one_purpose_says_nothing_of_its_turn_for_another() {
        let mut buckets = [[0_u32; 10]; 10];
        for host in (0..100_000_u128).map(u128::to_be_bytes) {
            let tenth = |purpose| {
                let offset = stagger(&host, purpose, Duration::from_secs(10));
                usize::try_from(offset.as_secs()).unwrap()
            };
            buckets[tenth("scan")][tenth("reconnect")] += 1;
        }
        let counts = buckets.as_flattened();
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
