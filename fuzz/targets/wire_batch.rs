//! A batch of events as an agent sends it: the server decodes whatever a host that was taken over may send.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_wire::{BatchBuilder, batch_counts, decode_batch};

fuzz_target!(|batch: &[u8]| {
    let _ = batch_counts(batch);
    let Ok(events) = decode_batch(batch) else { return };
    let mut again = BatchBuilder::new();
    for event in &events {
        again.push(event);
    }
    let sent = again.finish(1);
    assert_eq!(decode_batch(&sent).expect("what was encoded decodes"), events);
    let (_, counts) = batch_counts(&sent).expect("what was encoded can be counted");
    assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), events.len() as u64);
});
