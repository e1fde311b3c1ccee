//! A stable mixer of bits. Its output decides when a host's turn is, so it must never change.

/// What SplitMix64 adds for each step: the golden ratio times 2^64, made odd.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64: each bit of `word` moves about half of the bits of the result. Constants: Sebastiano
/// Vigna, `splitmix64.c` (2015, public domain), after Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
/// Generators" (2014).
pub(crate) fn finalise(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Maps an even `word` to an even number in `0..bound`, by the high half of their product (Lemire, "Fast Random Integer
/// Generation in an Interval", 2019, without the rejection: the bias is below bound / 2^64). 0 for a bound of 0.
pub(crate) fn scale(word: u64, bound: u64) -> u64 {
    let product = u128::from(word) * u128::from(bound);
    u64::try_from(product >> 64).expect("the high half of a 128-bit product fits in 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_reaches_both_ends_and_never_the_bound() {
        assert_eq!(scale(0, 10), 0);
        assert_eq!(scale(u64::MAX, 10), 9);
        assert_eq!(scale(u64::MAX, 0), 0);
        assert_eq!(scale(u64::MAX, u64::MAX), u64::MAX - 1);
    }
}
