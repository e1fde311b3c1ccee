//! A plug-in's manifest, and the keys and signatures around it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_plugin::{Manifest, TrustedKey};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let again = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        assert_eq!(Manifest::parse(&again).expect("what was read is written the same"), manifest);
        assert!(!manifest.executable.contains('/'), "a file outside the folder: {:?}", manifest.executable);
    }
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines();
    if let Some(key) = lines.next().and_then(|line| line.parse::<TrustedKey>().ok()) {
        assert!(key.verify(bytes, lines.next().unwrap_or_default()).is_err(), "signed itself");
    }
});
