//! Records of the audit socket: the kernel writes them, and the names in them are whatever an attacker chose.

#![no_main]

// The parser is private to its crate, and needs nothing of it.
#[allow(dead_code)]
#[path = "../../crates/sensor/src/audit/records.rs"]
mod records;

use libfuzzer_sys::fuzz_target;

/// What is kept of the arguments.
const MAX_ARGV: usize = 32 * 1024;
const KINDS: [u16; 5] = [records::SYSCALL, records::PATH, records::CWD, records::EXECVE, records::END];

fuzz_target!(|bytes: &[u8]| {
    let mut exec = records::Exec::default();
    // Each line is a record; its first byte says of which kind.
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((kind, text)) = line.split_first() else { continue };
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        match records::stamp(text) {
            Some((_, fields)) => exec.add(kind, fields),
            None => exec.add(kind, text),
        };
    }
    if let Some(mut arguments) = exec.arguments {
        arguments.close();
        let kept = arguments.bytes.len();
        assert!(kept <= MAX_ARGV && kept as u64 <= arguments.length, "{kept} of {}", arguments.length);
        assert!(kept <= bytes.len() + 1, "more kept than there was");
    }
});
