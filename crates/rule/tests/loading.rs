//! Loading and asking rules from outside: faults, correlations, hostile texts, and the public rules.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise, helpers included")]

use std::sync::Arc;

use proptest::prelude::*;
use watchfire_event::{Body, BootNanos, Event, Kind, Process, ProcessKey, Report};
use watchfire_rule::{LoadLimits, Loaded, RuleError, RuleText, load};

fn loaded(texts: &[&str]) -> Loaded {
    let texts: Vec<RuleText> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| RuleText { source: format!("rules/{index}.yml"), text: (*text).to_owned() })
        .collect();
    load(&texts, LoadLimits::default())
}

fn exec(at: u64, parent: u32, exe: &str, argv: &str) -> Event {
    let key = |tgid| ProcessKey { tgid, started: BootNanos(7) };
    let process = Process {
        key: key(1000),
        parent: Some(key(parent)),
        exe: exe.as_bytes().to_vec(),
        comm: exe.rsplit('/').next().unwrap().as_bytes().to_vec(),
        argv: argv.split(' ').flat_map(|arg| arg.bytes().chain([0])).collect(),
        ..Process::default()
    };
    let at = BootNanos(at * 1_000_000_000);
    Event { at, decoded: at, process: Arc::new(process), parent: None, body: Body::Exec }
}

const WHOAMI: &str = "
title: Whoami
id: 11111111-1111-1111-1111-111111111111
logsource: {category: process_creation, product: linux}
detection:
    s:
        Image|endswith: /whoami
    condition: s
tags: [attack.discovery, attack.t1033]
level: low
";

fn report(topic: &str, fields: &[(&str, &str)]) -> Event {
    let body = Body::Report(Report::new("listeners", topic, fields.iter().copied()).unwrap());
    Event { body, ..exec(1, 1, "/usr/lib/watchfire/listeners", "listeners") }
}

#[test]
fn a_rule_matches_a_report_by_the_names_its_app_made_up() {
    let rule = "
title: Listener on a high port
id: 22222222-2222-2222-2222-222222222222
logsource: {category: report}
detection:
    s:
        report.app: listeners
        report.topic|startswith: new
        report.fields.port.number|gte: 1024
        report.fields.exe|contains: /tmp/
        report.fields.odd: null
    condition: s
level: high
";
    let keyword = "
title: Word in a report
id: 33333333-3333-3333-3333-333333333333
logsource: {category: report}
detection:
    s: ['*0.0.0.0*']
    condition: s
";
    let mut loaded = loaded(&[rule, keyword]);
    assert!(loaded.faults.is_empty() && loaded.silent.is_empty() && loaded.partial.is_empty());
    assert_eq!(loaded.rules.kinds().iter().collect::<Vec<_>>(), [Kind::Report]);
    let mut told = |event: &Event| {
        let mut titles: Vec<String> =
            loaded.rules.evaluate(event).into_iter().map(|verdict| verdict.rule.title.clone()).collect();
        titles.sort();
        titles
    };
    let high = [("port.number", "4444"), ("exe", "/tmp/x"), ("address", "0.0.0.0:4444")];
    assert_eq!(told(&report("new-listener", &high)), ["Listener on a high port", "Word in a report"]);
    assert!(told(&report("new-listener", &[("port.number", "80"), ("exe", "/tmp/x")])).is_empty());
    assert!(told(&report("new-listener", &[("port.number", "none"), ("exe", "/tmp/x")])).is_empty());
    assert!(told(&report("gone", &high[..2])).is_empty());
    let odd = [high[0], high[1], ("odd", "")];
    assert!(told(&report("new", &odd[..2])).len() == 1 && told(&report("new", &odd)).is_empty());
}

#[test]
fn one_bad_rule_costs_itself_alone_and_is_named() {
    let bad_condition = "
title: Nobody
logsource: {category: process_creation}
detection:
    s: {Image: x}
    condition: s and nowhere
";
    let aggregation = "
title: Old counting
logsource: {category: process_creation}
detection:
    s: {Image: x}
    condition: s | count() by Image > 5
";
    let bad_regex = "
title: Half a regex
logsource: {category: process_creation}
detection:
    s: {Image|re: '('}
    condition: s
";
    let mut result =
        loaded(&["title: [", bad_condition, aggregation, bad_regex, WHOAMI, WHOAMI, "", "- a list"]);
    assert_eq!(result.accepted, 1);
    let told: Vec<String> = result.faults.iter().map(ToString::to_string).collect();
    let has = |file: &str, words: &[&str]| {
        told.iter().any(|line| line.starts_with(file) && words.iter().all(|word| line.contains(word)))
    };
    assert!(has("rules/0.yml", &["does not parse"]), "{told:#?}");
    assert!(has("rules/1.yml", &["\"Nobody\"", "nowhere"]), "{told:#?}");
    assert!(has("rules/2.yml", &["\"Old counting\""]), "{told:#?}");
    assert!(has("rules/3.yml", &["\"Half a regex\"", "regex"]), "{told:#?}");
    assert!(has("rules/5.yml", &["\"Whoami\"", "already taken by rules/4.yml"]), "{told:#?}");
    assert!(has("rules/6.yml", &["mapping"]) && has("rules/7.yml", &["mapping"]), "{told:#?}");
    assert!(told.iter().all(|line| !line.contains("\\x0a")), "{told:#?}");
    let verdicts = result.rules.evaluate(&exec(1, 2, "/usr/bin/whoami", "whoami"));
    assert_eq!(verdicts[0].rule.title, "Whoami");
    assert_eq!(verdicts[0].rule.attack, ["T1033"]);
    assert_eq!(verdicts[0].matched[0].name, "Image");
}

#[test]
fn in_a_file_of_several_the_broken_document_is_named_and_the_others_stay() {
    let text = format!("{WHOAMI}---\ntitle: Broken one\nlogsource: {{category: exec}}\ndetection: 7\n");
    let result = loaded(&[&text]);
    assert_eq!((result.accepted, result.faults.len()), (1, 1));
    assert_eq!(result.faults[0].title.as_deref(), Some("Broken one"));
}

#[test]
fn a_fault_is_printed_without_control_characters() {
    let result = loaded(&[
        "title: \"evil\\e[2J\"\nlogsource: {category: exec}\ndetection:\n    s: {a|nope: 1}\n    condition: s\n",
    ]);
    let told = result.faults[0].to_string();
    assert!(!told.contains('\u{1b}') && told.contains("rules/0.yml"), "{told}");
}

#[test]
fn kinds_that_no_rule_wants_meet_no_rule() {
    let mut result = loaded(&[WHOAMI]);
    assert_eq!(result.rules.kinds().iter().collect::<Vec<_>>(), [Kind::Exec]);
    let mut fork = exec(1, 2, "/usr/bin/whoami", "whoami");
    fork.body = Body::Fork { child: ProcessKey::default() };
    assert!(result.rules.evaluate(&fork).is_empty());
    assert_eq!(result.rules.counts().evaluated, 0);
}

const BURST: &str = "
title: Burst
id: 22222222-2222-2222-2222-222222222222
correlation:
    type: value_count
    rules: [asks]
    group-by: [parent.key]
    timespan: 30s
    condition: {field: process.comm, gte: 3}
level: medium
---
title: Asks
name: asks
logsource: {category: process_creation}
detection:
    s: {process.comm: [id, who, whoami, uname]}
    condition: s
";

#[test]
fn a_correlation_counts_by_event_time_within_its_group_and_speaks_alone() {
    let spoken = |times: &[(u64, u32, &str)]| {
        let mut result = loaded(&[BURST]);
        assert!(result.faults.is_empty(), "{:?}", result.faults);
        let mut titles = Vec::new();
        for (at, parent, name) in times {
            titles.extend(
                result
                    .rules
                    .evaluate(&exec(*at, *parent, name, name))
                    .into_iter()
                    .map(|one| one.rule.title.clone()),
            );
        }
        titles
    };
    assert_eq!(spoken(&[(1, 9, "id"), (2, 9, "who"), (3, 9, "uname")]), ["Burst"]);
    assert!(spoken(&[(1, 9, "id"), (2, 9, "id"), (3, 9, "id")]).is_empty());
    assert!(spoken(&[(1, 9, "id"), (2, 8, "who"), (3, 9, "uname")]).is_empty());
    assert!(spoken(&[(1, 9, "id"), (20, 9, "who"), (40, 9, "uname")]).is_empty());
}

#[test]
fn a_correlation_without_its_rule_in_a_circle_or_without_bound_is_refused() {
    let correlation = |id: u32, of: &str, threshold: u32| {
        format!(
            "title: C{id}\nname: c{id}\nid: {id}\ncorrelation:\n    type: event_count\n    rules: [{of}]\n    group-by: [process.uid]\n    timespan: 1m\n    condition: {{gte: {threshold}}}\n"
        )
    };
    let texts = [
        correlation(1, "absent", 2),
        correlation(2, "c3", 2),
        correlation(3, "c2", 2),
        correlation(4, "asks", 100_000),
        correlation(5, "asks", 2),
        BURST.to_owned(),
    ];
    let result = loaded(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let faults: Vec<(&str, &RuleError)> =
        result.faults.iter().map(|fault| (fault.title.as_deref().unwrap(), &fault.error)).collect();
    assert_eq!(faults.len(), 4, "{faults:?}");
    for (title, error) in faults {
        match title {
            "C4" => assert!(matches!(error, RuleError::ThresholdTooHigh { asked: 100_001, .. })),
            "C1" | "C2" | "C3" => assert!(matches!(error, RuleError::UnknownReference(_))),
            other => panic!("{other}: {error}"),
        }
    }
}

#[test]
fn a_flood_of_groups_stays_within_its_bound() {
    let mut result = loaded(&[BURST]);
    for parent in 0..5000 {
        result.rules.evaluate(&exec(1, parent, "id", "id"));
    }
    assert!(result.rules.correlation_groups() <= 1025, "{}", result.rules.correlation_groups());
}

#[test]
fn too_large_and_too_many_are_told_once() {
    let big = "x".repeat(300 * 1024);
    assert!(matches!(loaded(&[&big]).faults[0].error, RuleError::TooLarge { .. }));
    let many: Vec<RuleText> = (0..5)
        .map(|n| RuleText {
            source: "r".into(),
            text: WHOAMI.replace("1111-1111-1111", &format!("1111-1111-{n:04}")),
        })
        .collect();
    let result = load(&many, LoadLimits { rules: 3, ..LoadLimits::default() });
    assert_eq!((result.accepted, result.faults.len()), (3, 1));
}

/// Settings of the library that a rule must not bring along: here the whole event in each match.
#[test]
fn a_rule_cannot_set_the_library() {
    let mut result = loaded(&[&format!("{WHOAMI}rsigma.include_event: 'true'\n")]);
    assert_eq!(result.rules.evaluate(&exec(1, 2, "/usr/bin/whoami", "whoami")).len(), 1);
}

#[test]
fn the_public_rules_load_all_of_them() {
    let Some(dir) = std::env::var_os("WATCHFIRE_SIGMA_DIR") else {
        eprintln!("SKIPPED: WATCHFIRE_SIGMA_DIR names no directory of public rules");
        return;
    };
    let mut texts = Vec::new();
    let mut open = vec![std::path::PathBuf::from(dir)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|end| end == "yml") {
                let source = path.file_name().unwrap().to_string_lossy().into_owned();
                texts.push(RuleText { source, text: std::fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let started = std::time::Instant::now();
    let result = load(&texts, LoadLimits::default());
    eprintln!("{} files, {} rules in {:?}", texts.len(), result.accepted, started.elapsed());
    assert!(result.faults.is_empty(), "{:#?}", result.faults);
    assert!(result.accepted >= texts.len());
    for silent in &result.silent {
        eprintln!("silent: {} ({}): {}", silent.title, silent.file, silent.reason);
    }
    for partial in &result.partial {
        eprintln!("partial: {} ({}): lacks {}", partial.title, partial.file, partial.missing.join(", "));
    }
    eprintln!("{} silent, {} partial", result.silent.len(), result.partial.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever stands in a rule file, the loader comes back.
    #[test]
    fn mutated_rules_never_stop_the_loader(edits in prop::collection::vec((0usize..2000, any::<u8>()), 1..12), cut in 0usize..2000) {
        let mut text = format!("{WHOAMI}---{BURST}").into_bytes();
        for (place, byte) in edits {
            let place = place % text.len();
            text[place] = byte;
        }
        text.truncate(cut.max(1));
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut result = loaded(&[&text, WHOAMI]);
        let _verdicts = result.rules.evaluate(&exec(1, 2, "/usr/bin/whoami", "whoami"));
    }

    #[test]
    fn random_text_never_stops_the_loader(text in "\\PC{0,400}") {
        let result = loaded(&[&text]);
        prop_assert!(result.accepted + result.faults.len() >= 1);
    }

    /// Arguments are bytes an attacker chose: every field answers, every matched value is fit to print.
    #[test]
    fn hostile_arguments_never_stop_a_rule(argv in prop::collection::vec(any::<u8>(), 0..300), exe in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut result = loaded(&["title: any\nlogsource: {service: watchfire}\ndetection:\n    s:\n        process.argv|re: '.*'\n        process.exe|contains: ''\n    k: ['a']\n    condition: s or k\n"]);
        prop_assert!(result.faults.is_empty());
        let mut event = exec(1, 2, "x", "x");
        event.process = Arc::new(Process { argv, exe, ..Process::default() });
        for verdict in result.rules.evaluate(&event) {
            for field in verdict.matched {
                prop_assert!(!field.value.chars().any(char::is_control) && field.value.len() <= 2048);
            }
        }
    }
}
