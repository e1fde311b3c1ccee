//! An agent's frame, opened only as far as this stage needs: a batch of events stays the bytes it came as, which are
//! the bytes the log keeps.

use prost::Message;
use watchfire_wire::v1;

/// What an agent sent.
#[derive(Debug)]
pub(super) enum Incoming {
    Hello(v1::Hello),
    /// An encoded `EventBatch`.
    Events(Vec<u8>),
    Alerts(v1::AlertBatch),
    Ledger(v1::Ledger),
    Status(v1::Status),
}

/// Why a frame is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFrame {
    #[error("not a frame of this protocol")]
    Undecodable(#[from] prost::DecodeError),
    #[error("a frame must hold one message, this one holds {0}")]
    Count(usize),
}

/// `AgentFrame` with its messages left closed: on the wire a message is a length and bytes.
#[derive(Clone, PartialEq, Message)]
struct Closed {
    #[prost(bytes = "vec", optional, tag = "1")]
    hello: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    events: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    alerts: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    ledger: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    status: Option<Vec<u8>>,
}

pub(super) fn open(frame: &[u8]) -> Result<Incoming, BadFrame> {
    let closed = Closed::decode(frame)?;
    let parts = [&closed.hello, &closed.events, &closed.alerts, &closed.ledger, &closed.status];
    let count = parts.iter().filter(|part| part.is_some()).count();
    Ok(match closed {
        _ if count != 1 => return Err(BadFrame::Count(count)),
        Closed { events: Some(bytes), .. } => Incoming::Events(bytes),
        Closed { hello: Some(bytes), .. } => Incoming::Hello(v1::Hello::decode(bytes.as_slice())?),
        Closed { alerts: Some(bytes), .. } => Incoming::Alerts(v1::AlertBatch::decode(bytes.as_slice())?),
        Closed { ledger: Some(bytes), .. } => Incoming::Ledger(v1::Ledger::decode(bytes.as_slice())?),
        Closed { status, .. } => Incoming::Status(v1::Status::decode(status.unwrap_or_default().as_slice())?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use watchfire_wire::v1::agent_frame::Body;

    #[test]
    fn a_batch_keeps_its_bytes() {
        let batch = v1::EventBatch { sequence: 9, ..v1::EventBatch::default() };
        let frame = v1::AgentFrame { body: Some(Body::Events(batch.clone())) }.encode_to_vec();
        let Incoming::Events(bytes) = open(&frame).unwrap() else { panic!("not events") };
        assert_eq!(bytes, batch.encode_to_vec());
    }

    #[test]
    fn an_empty_frame_and_one_with_two_messages_are_refused() {
        assert!(matches!(open(b""), Err(BadFrame::Count(0))));
        let mut frame = v1::AgentFrame { body: Some(Body::Hello(v1::Hello::default())) }.encode_to_vec();
        frame.extend(v1::AgentFrame { body: Some(Body::Status(v1::Status::default())) }.encode_to_vec());
        assert!(matches!(open(&frame), Err(BadFrame::Count(2))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let outcome = open(&bytes);
            prop_assert!(outcome.is_ok() || outcome.is_err());
        }

        #[test]
        fn nor_does_a_real_frame_with_one_byte_changed(at in 0usize..64, to in any::<u8>()) {
            let hello = v1::Hello { host: vec![1; 16], boot: vec![2; 16], ..v1::Hello::default() };
            let mut frame = v1::AgentFrame { body: Some(Body::Hello(hello)) }.encode_to_vec();
            let at = at % frame.len();
            frame[at] = to;
            let outcome = open(&frame);
            prop_assert!(outcome.is_ok() || outcome.is_err());
        }
    }
}
