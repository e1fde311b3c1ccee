//! Framing: a length (u32, big endian), then one protobuf message. The length is checked before a byte is allocated.

use std::io::{self, Read, Write};

use prost::Message;

use crate::process::ConversionError;
use crate::v1;

/// Version of the protocol spoken in [`crate::v1::Hello`].
pub const PROTOCOL: u32 = 1;

/// The largest frame either side accepts, in bytes. A batch closes far earlier (see `BatchBuilder::weight`); one event
/// with 32 KiB of arguments, paths and a parent of the same size stays well below.
pub const MAX_FRAME: usize = 4 << 20;

/// `AgentFrame.events`: field 2, wire type 2 (length-delimited).
pub(crate) const EVENTS_TAG: u8 = 2 << 3 | 2;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended inside a frame.
    #[error("read or write a frame")]
    Io(#[from] io::Error),
    /// The peer announced more than it may send.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// Announced length in bytes.
        length: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The bytes are no such message.
    #[error("a frame of {length} bytes is no valid message")]
    Malformed {
        /// Length of the frame in bytes.
        length: usize,
        /// What protobuf said.
        source: prost::DecodeError,
    },
}

/// Reads one frame; `None` at the end of the stream between two frames.
pub fn read_frame<M: Message + Default>(stream: &mut impl Read) -> Result<Option<M>, FrameError> {
    let Some(bytes) = read_raw_frame(stream)? else { return Ok(None) };
    M::decode(bytes.as_slice())
        .map(Some)
        .map_err(|source| FrameError::Malformed { length: bytes.len(), source })
}

/// The same from a peer that is allowed less: `limit` bytes, at most [`MAX_FRAME`].
pub fn read_frame_within<M: Message + Default>(
    stream: &mut impl Read,
    limit: usize,
) -> Result<Option<M>, FrameError> {
    let Some(bytes) = read_raw_within(stream, limit.min(MAX_FRAME))? else { return Ok(None) };
    M::decode(bytes.as_slice())
        .map(Some)
        .map_err(|source| FrameError::Malformed { length: bytes.len(), source })
}

/// Reads one frame's bytes without opening them; `None` at the end of the stream between two frames.
pub fn read_raw_frame(stream: &mut impl Read) -> Result<Option<Vec<u8>>, FrameError> {
    read_raw_within(stream, MAX_FRAME)
}

fn read_raw_within(stream: &mut impl Read, limit: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut prefix = [0u8; 4];
    match stream.read(&mut prefix) {
        Ok(0) => return Ok(None),
        Ok(count) => stream.read_exact(&mut prefix[count..])?,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => stream.read_exact(&mut prefix)?,
        Err(error) => return Err(error.into()),
    }
    let length = u32::from_be_bytes(prefix) as usize;
    if length > limit {
        return Err(FrameError::TooLong { length, limit });
    }
    let mut bytes = vec![0u8; length];
    stream.read_exact(&mut bytes)?;
    Ok(Some(bytes))
}

/// Writes one message as one frame.
pub fn write_frame(stream: &mut impl Write, message: &impl Message) -> Result<(), FrameError> {
    write_raw_frame(stream, &message.encode_to_vec())
}

/// Writes the bytes of one encoded message as one frame.
pub fn write_raw_frame(stream: &mut impl Write, message: &[u8]) -> Result<(), FrameError> {
    if message.len() > MAX_FRAME {
        return Err(FrameError::TooLong { length: message.len(), limit: MAX_FRAME });
    }
    let length = u32::try_from(message.len()).expect("MAX_FRAME fits in 32 bits");
    let mut frame = Vec::with_capacity(4 + message.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    stream.write_all(&frame)?;
    Ok(())
}

/// Opens the bytes of an `AgentFrame`.
pub fn decode_agent_frame(frame: &[u8]) -> Result<v1::AgentFrame, ConversionError> {
    v1::AgentFrame::decode(frame).map_err(|source| ConversionError::Malformed { what: "AgentFrame", source })
}

/// The encoded `EventBatch` inside an encoded `AgentFrame`, if that is what it holds; nothing is decoded or copied.
pub fn batch_in_frame(frame: &[u8]) -> Option<&[u8]> {
    let mut rest = frame.strip_prefix(&[EVENTS_TAG])?;
    let length = prost::encoding::decode_varint(&mut rest).ok()?;
    (rest.len() as u64 == length).then_some(rest)
}

/// The bytes of an `AgentFrame` around an encoded `EventBatch`, which is copied and not decoded.
pub fn frame_around_batch(batch: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(batch.len() + 6);
    frame.push(EVENTS_TAG);
    prost::encoding::encode_varint(batch.len() as u64, &mut frame);
    frame.extend_from_slice(batch);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_the_stream_ends_cleanly() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, &v1::Welcome { last_batch: 7, last_alert: 9, taken: Vec::new() }).unwrap();
        let mut stream = bytes.as_slice();
        let welcome: v1::Welcome = read_frame(&mut stream).unwrap().unwrap();
        assert_eq!((welcome.last_batch, welcome.last_alert), (7, 9));
        assert!(read_frame::<v1::Welcome>(&mut stream).unwrap().is_none());
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_are_read() {
        let mut stream = [0xff, 0xff, 0xff, 0xff, 1, 2].as_slice();
        assert!(matches!(
            read_raw_frame(&mut stream),
            Err(FrameError::TooLong { length: 0xffff_ffff, limit: MAX_FRAME })
        ));
        assert_eq!(stream.len(), 2);
    }

    #[test]
    fn a_frame_cut_short_is_an_error_not_an_end() {
        let mut stream = [0, 0, 0, 5, 1, 2].as_slice();
        assert!(matches!(read_raw_frame(&mut stream), Err(FrameError::Io(_))));
    }
}
