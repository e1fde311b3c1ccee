//! One record: a batch as it came, with everything needed to read it alone.
//!
//! ```text
//! header (24 bytes, little endian)   magic u32 | length of the payload u32 | offset u64 | reserved u32 | crc32 u32
//! payload                            host 16 | boot 16 | incarnation u64 | booted i64 | received i64 | sequence u64 |
//!                                    length of the name u8 | host name | the encoded EventBatch
//! ```
//! The checksum covers the header before it and the payload. Booted time and host name travel in every record: a record
//! costs some 80 bytes for a batch of 64 KiB and more, and reads without any state from earlier ones.

use watchfire_event::{BootId, BootNanos, HostId, StreamId, UnixNanos};

use crate::streams::StreamMeta;

/// The largest batch that is taken: what one frame of the agent protocol can carry.
pub const MAX_BATCH: usize = watchfire_wire::MAX_FRAME;

pub(crate) const HEADER: usize = 24;
pub(crate) const MAGIC: [u8; 4] = *b"WFr1";
const FIXED: usize = 16 + 16 + 8 * 4 + 1;
const MAX_NAME: usize = 255;
const MAX_PAYLOAD: usize = FIXED + MAX_NAME + MAX_BATCH;

/// A batch of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) offset: u64,
    pub(crate) stream: StreamId,
    pub(crate) booted: UnixNanos,
    pub(crate) received: UnixNanos,
    pub(crate) sequence: u64,
    pub(crate) hostname: &'a [u8],
    pub(crate) batch: &'a [u8],
}

/// What bytes turned out to be instead of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRecord {
    /// They may be the beginning of one: this many bytes are needed.
    Short(usize),
    /// They are none.
    Damaged(&'static str),
}

/// Writes a record into `buffer`, which it clears first.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    offset: u64,
    meta: &StreamMeta,
    received: UnixNanos,
    batch: (u64, &[u8]),
) {
    let (sequence, batch) = batch;
    let name = &meta.hostname.as_bytes()[..meta.hostname.len().min(MAX_NAME)];
    let length = FIXED + name.len() + batch.len();
    buffer.clear();
    buffer.reserve(HEADER + length);
    buffer.extend_from_slice(&MAGIC);
    buffer.extend_from_slice(&u32::try_from(length).expect("bounded by MAX_BATCH").to_le_bytes());
    buffer.extend_from_slice(&offset.to_le_bytes());
    buffer.extend_from_slice(&[0; 8]);
    buffer.extend_from_slice(&meta.stream.host.0);
    buffer.extend_from_slice(&meta.stream.boot.0);
    buffer.extend_from_slice(&meta.stream.incarnation.0.to_le_bytes());
    buffer.extend_from_slice(&meta.booted.0.to_le_bytes());
    buffer.extend_from_slice(&received.0.to_le_bytes());
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.push(u8::try_from(name.len()).expect("cut at 255"));
    buffer.extend_from_slice(name);
    buffer.extend_from_slice(batch);
    let sum = checksum(&buffer[..HEADER - 4], &buffer[HEADER..]);
    buffer[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// The whole length of the record whose header `bytes` begin with; its payload need not be there.
pub(crate) fn length(bytes: &[u8]) -> Result<usize, NoRecord> {
    let header = bytes.first_chunk::<HEADER>().ok_or(NoRecord::Short(HEADER))?;
    if header[..4] != MAGIC {
        return Err(NoRecord::Damaged("no record begins here"));
    }
    let payload = u32::from_le_bytes(fixed(header, 4)) as usize;
    let possible = (FIXED..=MAX_PAYLOAD).contains(&payload);
    if possible { Ok(HEADER + payload) } else { Err(NoRecord::Damaged("impossible length")) }
}

/// The record that `bytes` begin with, and its whole length.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Record<'_>, usize), NoRecord> {
    let length = length(bytes)?;
    let (header, payload) = bytes.get(..length).ok_or(NoRecord::Short(length))?.split_at(HEADER);
    if checksum(&header[..HEADER - 4], payload) != u32::from_le_bytes(fixed(header, 20)) {
        return Err(NoRecord::Damaged("bad checksum"));
    }
    let name = usize::from(payload[FIXED - 1]);
    let (Some(hostname), Some(batch)) = (payload.get(FIXED..FIXED + name), payload.get(FIXED + name..))
    else {
        return Err(NoRecord::Damaged("impossible length of the host name"));
    };
    let record = Record {
        offset: u64::from_le_bytes(fixed(header, 8)),
        stream: StreamId {
            host: HostId(fixed(payload, 0)),
            boot: BootId(fixed(payload, 16)),
            incarnation: BootNanos(u64::from_le_bytes(fixed(payload, 32))),
        },
        booted: UnixNanos(i64::from_le_bytes(fixed(payload, 40))),
        received: UnixNanos(i64::from_le_bytes(fixed(payload, 48))),
        sequence: u64::from_le_bytes(fixed(payload, 56)),
        hostname,
        batch,
    };
    Ok((record, length))
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    hasher.finalize()
}

/// `N` bytes at `at`, which the caller has checked to be there.
fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes")
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn encoded(offset: u64, name: &str, sequence: u64, batch: &[u8]) -> Vec<u8> {
        let stream = StreamId { host: HostId([7; 16]), boot: BootId([8; 16]), incarnation: BootNanos(9) };
        let meta = StreamMeta { stream, booted: UnixNanos(-5), hostname: name.to_owned() };
        let mut buffer = Vec::new();
        encode(&mut buffer, offset, &meta, UnixNanos(11), (sequence, batch));
        buffer
    }

    proptest! {
        #[test]
        fn a_record_reads_back_and_one_changed_bit_is_noticed(
            offset: u64, name in ".{0,300}", sequence: u64, batch in vec(any::<u8>(), 0..300), flip: prop::sample::Index,
        ) {
            let mut bytes = encoded(offset, &name, sequence, &batch);
            let (record, length) = parse(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!((record.offset, record.sequence, record.batch), (offset, sequence, &batch[..]));
            prop_assert_eq!(record.hostname, &name.as_bytes()[..name.len().min(MAX_NAME)]);
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(mut bytes in vec(any::<u8>(), 0..200), magic: bool) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
