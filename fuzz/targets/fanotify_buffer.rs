//! A buffer as read(2) on a fanotify group fills it; file names in it are whatever an attacker chose.

#![no_main]

// The parser is private to its crate, and needs nothing of it.
#[path = "../../crates/sensor/src/fanotify/records.rs"]
#[allow(dead_code)]
mod records;

use libfuzzer_sys::fuzz_target;

/// The fixed part of every event.
const SMALLEST: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let parsed = records::parse(bytes);
    let events = parsed.records.len() + usize::try_from(parsed.malformed).expect("a count");
    assert!(events <= bytes.len() / SMALLEST + 1, "more events than bytes for them");
    for record in &parsed.records {
        let places = [&record.entry, &record.from, &record.to];
        let kept: usize =
            places.into_iter().flatten().map(|entry| entry.name.len() + entry.dir.bytes.len()).sum();
        let object = record.object.as_ref().map_or(0, |handle| handle.bytes.len());
        assert!(kept + object <= bytes.len(), "more kept than there was");
    }
});
