//! A record of the spool: what lies on a disk must not end the connection that it is sent over.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_wire::{ClosedBatch, SpooledContent, SpooledFrame, batch_in_frame, decode_agent_frame, decode_alert, v1};

fuzz_target!(|record: &[u8]| {
    let Ok(spooled) = SpooledFrame::decode(record) else { return };
    assert_eq!(spooled.encode(), record, "what is read is what was written");
    match &spooled.content {
        SpooledContent::Events(counts) => {
            let batch = batch_in_frame(&spooled.frame).expect("a batch");
            let batch = ClosedBatch::read(batch).expect("that a server can count");
            assert_eq!((batch.sequence, &batch.counts), (spooled.first, counts));
            assert!(counts.iter().map(|(_, count)| count).sum::<u64>() <= spooled.frame.len() as u64);
        }
        SpooledContent::Alerts(count) => {
            let frame = decode_agent_frame(&spooled.frame).expect("a frame");
            let Some(v1::agent_frame::Body::Alerts(batch)) = frame.body else { panic!("of alerts") };
            assert_eq!(batch.alerts.len() as u64, *count);
            batch.alerts.into_iter().for_each(|alert| drop(decode_alert(alert).expect("that a server takes")));
        }
    }
});
