//! The agent's settings: an operator's JSON, and what the agent kept on the disk.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| watchfire_agent::read_untrusted(bytes));
