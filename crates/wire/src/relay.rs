//! What a relay does with a batch: it reads what stands in front, and sends it on under a number of its own. Events stay closed.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_varint, skip_field};
use watchfire_event::Kind;

use crate::batch::kind_from;
use crate::frame::EVENTS_TAG;
use crate::process::ConversionError;
use crate::v1;

/// `EventBatch.sequence` and `EventBatch.counts`.
const SEQUENCE: u32 = 1;
const COUNTS: u32 = 2;
/// The tag of `EventBatch.sequence` on the wire: field 1, a varint.
const SEQUENCE_TAG: u8 = 1 << 3;
/// What a new number and the lengths around it may add to a frame, in bytes.
pub const RENUMBERING_ADDS: usize = 16;

/// An encoded `EventBatch` whose events were not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedBatch<'a> {
    /// The number its sender gave it; 0 when it gave none.
    pub sequence: u64,
    /// How many events of each kind it claims to hold.
    pub counts: Vec<(Kind, u64)>,
    /// All fields but the sequence.
    rest: &'a [u8],
}

impl<'a> ClosedBatch<'a> {
    /// Reads the front of an encoded `EventBatch`, and checks that it is whole.
    ///
    /// # Errors
    /// Bytes that are no such message; counts that its bytes cannot hold; a sequence anywhere but in front, where every builder of batches writes it: the last one of
    /// several would count, so a second one could not be replaced by laying another number before it.
    pub fn read(batch: &'a [u8]) -> Result<Self, ConversionError> {
        let malformed = |source| ConversionError::Malformed { what: "EventBatch", source };
        let mut rest = batch;
        let mut sequence = 0;
        if let Some(mut numbered) = batch.strip_prefix(&[SEQUENCE_TAG]) {
            sequence = decode_varint(&mut numbered).map_err(malformed)?;
            rest = numbered;
        }
        let mut counts = Vec::new();
        let mut fields = rest;
        while !fields.is_empty() {
            let (field, wire_type) = decode_key(&mut fields).map_err(malformed)?;
            match field {
                SEQUENCE => {
                    return Err(ConversionError::BadValue {
                        what: "place of a batch's sequence",
                        value: (batch.len() - fields.len()) as u64,
                    });
                }
                COUNTS if wire_type == WireType::LengthDelimited => {
                    let mut count = v1::KindCount::default();
                    prost::encoding::message::merge(
                        wire_type,
                        &mut count,
                        &mut fields,
                        DecodeContext::default(),
                    )
                    .map_err(malformed)?;
                    counts.push((kind_from(count.kind)?, count.count));
                }
                _ => {
                    skip_field(wire_type, field, &mut fields, DecodeContext::default()).map_err(malformed)?
                }
            }
        }
        let claimed = counts.iter().fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        if claimed > rest.len() as u64 {
            return Err(ConversionError::BadValue {
                what: "count of events in a smaller batch",
                value: claimed,
            });
        }
        Ok(ClosedBatch { sequence, counts, rest })
    }

    /// The whole `AgentFrame` around this batch under another number. Costs one copy.
    pub fn frame(&self, sequence: u64) -> Vec<u8> {
        let mut number = Vec::with_capacity(11);
        number.push(SEQUENCE_TAG);
        encode_varint(sequence, &mut number);
        let mut frame = Vec::with_capacity(self.rest.len() + number.len() + 6);
        frame.push(EVENTS_TAG);
        encode_varint((self.rest.len() + number.len()) as u64, &mut frame);
        frame.extend_from_slice(&number);
        frame.extend_from_slice(self.rest);
        frame
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;
    use watchfire_event::arbitrary::any_event;

    use super::*;
    use crate::{BatchBuilder, batch_counts, batch_in_frame, decode_batch};

    fn built(events: &[watchfire_event::Event], sequence: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        events.iter().for_each(|event| builder.push(event));
        builder.finish(sequence)
    }

    proptest! {
        #[test]
        fn a_batch_under_another_number_holds_the_same_events(
            events in vec(any_event(), 0..8), before: u64, after: u64,
        ) {
            let batch = built(&events, before);
            let closed = ClosedBatch::read(&batch).unwrap();
            prop_assert_eq!(closed.sequence, before);
            let frame = closed.frame(after);
            prop_assert!(frame.len() <= crate::frame_around_batch(&batch).len() + RENUMBERING_ADDS);
            let sent = batch_in_frame(&frame).unwrap();
            prop_assert_eq!(batch_counts(sent).unwrap(), (after, closed.counts.clone()));
            prop_assert_eq!(decode_batch(sent).unwrap(), events);
            let Some(v1::agent_frame::Body::Events(opened)) = v1::AgentFrame::decode(&*frame).unwrap().body else {
                panic!("no events");
            };
            prop_assert_eq!(opened.sequence, after);
        }

        #[test]
        fn any_bytes_are_refused_or_mean_what_protobuf_says(bytes in vec(any::<u8>(), 0..200), after: u64) {
            if let Ok(closed) = ClosedBatch::read(&bytes) {
                let frame = closed.frame(after);
                let opened = batch_counts(batch_in_frame(&frame).unwrap());
                prop_assert_eq!(opened.unwrap(), (after, closed.counts));
            }
        }

        #[test]
        fn so_are_damaged_batches(events in vec(any_event(), 1..4), at: prop::sample::Index, bits in 1u8..) {
            let mut batch = built(&events, 7);
            let at = at.index(batch.len());
            batch[at] ^= bits;
            if let Ok(closed) = ClosedBatch::read(&batch) {
                let frame = closed.frame(9);
                prop_assert_eq!(batch_counts(batch_in_frame(&frame).unwrap()).unwrap(), (9, closed.counts));
            }
        }
    }

    #[test]
    fn a_batch_without_a_number_gets_one() {
        let unnumbered =
            v1::EventBatch { counts: vec![v1::KindCount { kind: 1, count: 2 }], ..Default::default() };
        let bytes = unnumbered.encode_to_vec();
        let closed = ClosedBatch::read(&bytes).unwrap();
        assert_eq!((closed.sequence, &closed.counts[..]), (0, &[(Kind::Exec, 2)][..]));
        assert_eq!(batch_counts(batch_in_frame(&closed.frame(300)).unwrap()).unwrap().0, 300);
    }

    #[test]
    fn a_claim_beyond_its_bytes_is_refused() {
        let counts = vec![v1::KindCount { kind: 1, count: u64::MAX }, v1::KindCount { kind: 2, count: 9 }];
        let batch = v1::EventBatch { sequence: 1, counts, ..Default::default() }.encode_to_vec();
        let error = ClosedBatch::read(&batch).unwrap_err().to_string();
        assert!(error.contains("count of events"), "{error}");
    }

    #[test]
    fn a_second_number_is_refused() {
        let mut batch = built(&[], 7);
        batch.extend([SEQUENCE_TAG, 9]);
        let error = ClosedBatch::read(&batch).unwrap_err().to_string();
        assert!(error.contains("place of a batch's sequence"), "{error}");
    }
}
