//! A frame as it waits on a disk: which stream it belongs to, where in it, and the frame itself.
//!
//! ```text
//! 66 bytes, little endian   version u8 | kind u8 | host 16 | boot 16 | incarnation u64 | booted i64 | first u64 | last u64
//! then                      the encoded AgentFrame
//! ```
//! The spool's checksum keeps chance out; what is read is checked all the same, so that nothing on a disk can end the connection that
//! it is sent over.

use watchfire_event::{BootId, BootNanos, HostId, Kind, StreamId, UnixNanos};

use crate::alerts::decode_alert;
use crate::frame::{MAX_FRAME, batch_in_frame, decode_agent_frame};
use crate::process::ConversionError;
use crate::relay::ClosedBatch;
use crate::v1::agent_frame::Body;

const VERSION: u8 = 1;
const EVENTS: u8 = 1;
const ALERTS: u8 = 2;
const HEADER: usize = 66;

/// A frame of events or alerts, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpooledFrame {
    /// The stream it was numbered in.
    pub stream: StreamId,
    /// Wall time of that boot.
    pub booted: UnixNanos,
    /// The sequence of the first alert; for a batch its own.
    pub first: u64,
    /// The sequence of the last.
    pub last: u64,
    /// What is in it.
    pub content: SpooledContent,
    /// The encoded `AgentFrame`.
    pub frame: Vec<u8>,
}

/// What a spooled frame holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpooledContent {
    /// One batch with so many events of each kind.
    Events(Vec<(Kind, u64)>),
    /// So many alerts.
    Alerts(u64),
}

impl SpooledFrame {
    /// The record for the disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::with_capacity(HEADER + self.frame.len());
        let kind = match self.content {
            SpooledContent::Events(_) => EVENTS,
            SpooledContent::Alerts(_) => ALERTS,
        };
        record.extend_from_slice(&[VERSION, kind]);
        record.extend_from_slice(&self.stream.host.0);
        record.extend_from_slice(&self.stream.boot.0);
        record.extend_from_slice(&self.stream.incarnation.0.to_le_bytes());
        record.extend_from_slice(&self.booted.0.to_le_bytes());
        record.extend_from_slice(&self.first.to_le_bytes());
        record.extend_from_slice(&self.last.to_le_bytes());
        record.extend_from_slice(&self.frame);
        record
    }

    /// Reads a record, and checks that a server would take its frame.
    ///
    /// # Errors
    /// A record cut short or of another version; a frame that is no batch or alerts, or holds other numbers than the header says.
    pub fn decode(record: &[u8]) -> Result<Self, ConversionError> {
        let cut = || ConversionError::Missing("the rest of a spooled frame's header");
        let (header, frame) = record.split_first_chunk::<HEADER>().ok_or_else(cut)?;
        let (&[version, kind], ids) = header.split_first_chunk().ok_or_else(cut)?;
        if version != VERSION {
            return Err(ConversionError::BadValue {
                what: "version of a spooled frame",
                value: version.into(),
            });
        }
        if frame.len() > MAX_FRAME {
            return Err(ConversionError::BadValue {
                what: "length of a spooled frame",
                value: frame.len() as u64,
            });
        }
        let (host, ids) = ids.split_first_chunk().ok_or_else(cut)?;
        let (boot, numbers) = ids.split_first_chunk().ok_or_else(cut)?;
        let (incarnation, numbers) = numbers.split_first_chunk().ok_or_else(cut)?;
        let (booted, numbers) = numbers.split_first_chunk().ok_or_else(cut)?;
        let (first, last) = numbers.split_first_chunk().ok_or_else(cut)?;
        let (first, last) = (u64::from_le_bytes(*first), last.first_chunk().ok_or_else(cut)?);
        let last = u64::from_le_bytes(*last);
        let content = match kind {
            EVENTS => events(frame, first, last)?,
            ALERTS => alerts(frame, first, last)?,
            _ => {
                return Err(ConversionError::BadValue {
                    what: "kind of a spooled frame",
                    value: kind.into(),
                });
            }
        };
        let incarnation = BootNanos(u64::from_le_bytes(*incarnation));
        Ok(SpooledFrame {
            stream: StreamId { host: HostId(*host), boot: BootId(*boot), incarnation },
            booted: UnixNanos(i64::from_le_bytes(*booted)),
            first,
            last,
            content,
            frame: frame.to_vec(),
        })
    }
}

fn events(frame: &[u8], first: u64, last: u64) -> Result<SpooledContent, ConversionError> {
    let batch = batch_in_frame(frame).ok_or(ConversionError::Missing("the batch of a spooled frame"))?;
    let batch = ClosedBatch::read(batch)?;
    if batch.sequence == 0 || (first, last) != (batch.sequence, batch.sequence) {
        return Err(ConversionError::BadValue { what: "sequence of a spooled batch", value: batch.sequence });
    }
    Ok(SpooledContent::Events(batch.counts))
}

fn alerts(frame: &[u8], first: u64, last: u64) -> Result<SpooledContent, ConversionError> {
    let Some(Body::Alerts(batch)) = decode_agent_frame(frame)?.body else {
        return Err(ConversionError::Missing("the alerts of a spooled frame"));
    };
    let count = batch.alerts.len() as u64;
    let expected = last.checked_sub(first).and_then(|span| span.checked_add(1));
    if first == 0 || expected != Some(count) {
        return Err(ConversionError::BadValue { what: "number of spooled alerts", value: count });
    }
    for (alert, sequence) in batch.alerts.into_iter().zip(first..) {
        if alert.sequence != sequence {
            return Err(ConversionError::BadValue {
                what: "sequence of a spooled alert",
                value: alert.sequence,
            });
        }
        decode_alert(alert)?;
    }
    Ok(SpooledContent::Alerts(count))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;
    use watchfire_event::arbitrary::{any_event, any_process};
    use watchfire_event::{Alert, AlertId, AlertTimes, Level, ProcessNode, RuleId};

    use super::*;
    use crate::{BatchBuilder, encode_alert, frame_around_batch, v1};

    fn stream(incarnation: u64) -> StreamId {
        StreamId { host: HostId([1; 16]), boot: BootId([2; 16]), incarnation: BootNanos(incarnation) }
    }

    fn batch(events: &[watchfire_event::Event], sequence: u64) -> SpooledFrame {
        let mut builder = BatchBuilder::new();
        events.iter().for_each(|event| builder.push(event));
        let mut counts: Vec<(Kind, u64)> = builder.counts().collect();
        counts.sort();
        SpooledFrame {
            stream: stream(9),
            booted: UnixNanos(-5),
            first: sequence,
            last: sequence,
            content: SpooledContent::Events(counts),
            frame: frame_around_batch(&builder.finish(sequence)),
        }
    }

    fn two_alerts(first: u64) -> SpooledFrame {
        let alert = |sequence| Alert {
            id: AlertId::derive(stream(9), sequence),
            sequence,
            rule: RuleId { id: "r".into(), title: "t".into() },
            attack: Vec::new(),
            level: Level::High,
            kind: Kind::Exec,
            matched: Vec::new(),
            tree: vec![ProcessNode { process: Arc::default() }],
            times: AlertTimes::default(),
        };
        let alerts = [first, first + 1].map(|sequence| encode_alert(&alert(sequence))).to_vec();
        SpooledFrame {
            stream: stream(9),
            booted: UnixNanos(7),
            first,
            last: first + 1,
            content: SpooledContent::Alerts(2),
            frame: v1::AgentFrame { body: Some(Body::Alerts(v1::AlertBatch { alerts })) }.encode_to_vec(),
        }
    }

    proptest! {
        #[test]
        fn a_batch_reads_back_as_it_was(events in vec(any_event(), 0..6), sequence in 1..u64::MAX) {
            let spooled = batch(&events, sequence);
            prop_assert_eq!(SpooledFrame::decode(&spooled.encode()).unwrap(), spooled);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
            std::hint::black_box(SpooledFrame::decode(&bytes).is_ok());
        }

        #[test]
        fn nor_does_a_record_with_one_byte_changed(process in any_process(), at: prop::sample::Index, bits in 1u8..) {
            let event = watchfire_event::Event {
                at: BootNanos(1),
                decoded: BootNanos(2),
                process: Arc::new(process),
                parent: None,
                body: watchfire_event::Body::Exec,
            };
            for spooled in [batch(&[event], 3), two_alerts(3)] {
                let mut record = spooled.encode();
                let at = at.index(record.len());
                record[at] ^= bits;
                std::hint::black_box(SpooledFrame::decode(&record).is_ok());
            }
        }
    }

    #[test]
    fn alerts_read_back_as_they_were() {
        let spooled = two_alerts(41);
        assert_eq!(SpooledFrame::decode(&spooled.encode()).unwrap(), spooled);
    }

    #[test]
    fn numbers_that_do_not_agree_are_refused() {
        let refused =
            |spooled: SpooledFrame| SpooledFrame::decode(&spooled.encode()).unwrap_err().to_string();
        assert!(refused(SpooledFrame { first: 2, last: 2, ..batch(&[], 3) }).contains("sequence"));
        assert!(refused(SpooledFrame { last: 9, ..two_alerts(3) }).contains("number of spooled alerts"));
        assert!(refused(SpooledFrame { first: 4, last: 5, ..two_alerts(3) }).contains("sequence"));
        assert!(refused(SpooledFrame { frame: batch(&[], 3).frame, ..two_alerts(3) }).contains("missing"));
        let mut other = two_alerts(3).encode();
        other[0] = 2;
        assert!(SpooledFrame::decode(&other).unwrap_err().to_string().contains("version"));
    }
}
