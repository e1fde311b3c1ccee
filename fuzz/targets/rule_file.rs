//! A file of Sigma rules as an operator may drop it in: a bad one costs itself and nothing else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_rule::{LoadLimits, RuleText, load};

/// A good rule that must survive beside whatever the other file holds.
const GOOD: &str = "title: Good\nid: 00000000-0000-4000-8000-000000000001\nlogsource: {product: linux, category: process_creation}\n\
    detection: {selection: {Image|endswith: /good}, condition: selection}\nlevel: low\n";

fuzz_target!(
    // libFuzzer's hook aborts at every panic; the loader catches those of the Sigma parser, which is what is tried here.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let texts = [RuleText { source: "good".into(), text: GOOD.into() }, RuleText { source: "fuzzed".into(), text }];
        let loaded = load(&texts, LoadLimits::default());
        assert!(!loaded.rules.is_empty(), "the good rule is gone: {:?}", loaded.faults);
    }
);
