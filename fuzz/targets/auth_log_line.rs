//! A line of the authentication log: anyone who may write to syslog writes it.

#![no_main]

// The parser is private to its crate, and needs nothing of it.
#[path = "../../crates/sensor/src/auth_log/lines.rs"]
#[allow(dead_code)]
mod lines;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    if let Some(told) = lines::parse(line) {
        assert!(told.times > 0, "a line that tells of nothing");
        assert!(told.attempt.user.len() <= line.len() && told.attempt.service.len() <= line.len());
    }
});
