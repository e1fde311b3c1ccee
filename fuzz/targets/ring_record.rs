//! A record of the kernel's ring. Our own eBPF programs write it, and names and arguments in it are whatever an attacker chose.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_abi::{decode, kind_of};

fuzz_target!(|record: &[u8]| {
    let kind = kind_of(record);
    if let Ok(sighting) = decode(record) {
        assert_eq!(
            kind,
            Some(sighting.kind()),
            "losses are booked under the kind that the record would have had"
        );
    }
});
