//! One record in a segment.
//!
//! ```text
//! header (16 bytes, little endian)   length of the payload u32 | number u64 | crc32 u32
//! ```
//! The checksum covers the 12 bytes before it and the payload, and starts from the spool's *salt*. Behind damage a record is
//! searched for byte by byte, and payloads hold bytes that an attacker chose: without the salt, which is as secret as
//! the files are, a record forged inside a payload would be taken for one.

/// The largest record: a frame of 4 MiB and what an envelope may add to it.
pub const MAX_RECORD: usize = (4 << 20) + (64 << 10);

pub(crate) const RECORD_HEADER: usize = 16;
/// The smallest record there can be, header included.
pub(crate) const LEAST_RECORD: u64 = RECORD_HEADER as u64 + 1;
/// How far numbers may jump inside a segment. Only damage makes them jump, by fewer than the segment could hold.
const LONGEST_JUMP: u64 = 1 << 32;
const SUM_AT: usize = 12;

/// A header, not yet believed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) length: usize,
    pub(crate) number: u64,
}

impl Head {
    pub(crate) fn parse(bytes: &[u8; RECORD_HEADER]) -> Head {
        let [a, b, c, d, number @ .., _, _, _, _] = *bytes;
        Head { length: u32::from_le_bytes([a, b, c, d]) as usize, number: u64::from_le_bytes(number) }
    }

    /// Header and payload.
    pub(crate) fn whole(&self) -> usize {
        RECORD_HEADER + self.length
    }

    pub(crate) fn possible(&self) -> bool {
        // The last number has none after it, so no spool gives it.
        (1..=MAX_RECORD).contains(&self.length) && self.number < u64::MAX
    }

    /// Whether the next record from `floor` on, in `room` bytes, may look like this.
    pub(crate) fn plausible(&self, room: u64, floor: u64) -> bool {
        let near = self.number.checked_sub(floor).is_some_and(|jump| jump <= LONGEST_JUMP);
        self.possible() && near && self.whole() as u64 <= room
    }
}

/// Writes a record into `buffer`, which it clears first.
pub(crate) fn encode(buffer: &mut Vec<u8>, salt: u32, number: u64, payload: &[u8]) {
    buffer.clear();
    buffer.reserve(RECORD_HEADER + payload.len());
    buffer.extend_from_slice(&u32::try_from(payload.len()).expect("bounded by MAX_RECORD").to_le_bytes());
    buffer.extend_from_slice(&number.to_le_bytes());
    let sum = checksum(salt, buffer, payload);
    buffer.extend_from_slice(&sum.to_le_bytes());
    buffer.extend_from_slice(payload);
}

/// Whether the checksum of a whole record is right.
pub(crate) fn is_sound(record: &[u8], salt: u32) -> bool {
    let Some((header, payload)) = record.split_first_chunk::<RECORD_HEADER>() else { return false };
    let (covered, sum) = header.split_at(SUM_AT);
    sum == checksum(salt, covered, payload).to_le_bytes()
}

pub(crate) fn checksum(salt: u32, first: &[u8], second: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(first);
    hasher.update(second);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_and_one_changed_bit_or_another_salt_is_noticed(
            salt: u32, other: u32, number in 0..u64::MAX, payload in vec(any::<u8>(), 1..300), flip: prop::sample::Index,
        ) {
            let mut bytes = Vec::new();
            encode(&mut bytes, salt, number, &payload);
            let head = Head::parse(bytes.first_chunk().unwrap());
            prop_assert_eq!((head.number, head.length), (number, payload.len()));
            prop_assert!(head.plausible(bytes.len() as u64, number) && is_sound(&bytes, salt));
            prop_assert_eq!(&bytes[RECORD_HEADER..], &payload[..]);
            prop_assert!(salt == other || !is_sound(&bytes, other));
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!is_sound(&bytes, salt));
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..100), salt: u32) {
            prop_assert!(!is_sound(&bytes, salt));
            if let Some(header) = bytes.first_chunk() {
                let head = Head::parse(header);
                prop_assert!(!head.plausible(0, 0) && !head.plausible(u64::MAX, u64::MAX));
            }
        }
    }
}
