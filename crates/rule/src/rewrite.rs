//! A rule as one kind of event meets it.
//!
//! An item that is true of every event of the kind (`event.kind: exec`, `type: EXECVE`) says nothing there, and the
//! library's index would take it for the rule's best mark and ask the rule about every event. So it is left out, which
//! changes no verdict: `true and x` is `x`, negated or not.

use rsigma_parser::{ConditionExpr, Detection, DetectionItem, SigmaRule, SigmaValue};
use watchfire_event::Kind;

use crate::field;
use crate::route::plain;

/// The rule without what is true of every event of `kind`; `None` when nothing could be left out.
pub(crate) fn rewritten(rule: &SigmaRule, kind: Kind) -> Option<SigmaRule> {
    let all_true = |detection: &Detection| match detection {
        Detection::AllOf(items) => items.iter().all(|item| always_true(item, kind)),
        _ => false,
    };
    let named = rule.detection.named.iter().filter(|(_, detection)| all_true(detection));
    let given: Vec<&str> = named.map(|(name, _)| name.as_str()).collect();
    let mut rewritten = rule.clone();
    rewritten.detection.named.values_mut().for_each(|detection| leave_out(detection, kind));
    rewritten.detection.conditions.iter_mut().for_each(|condition| leave_out_of_condition(condition, &given));
    (rewritten.detection != rule.detection).then_some(rewritten)
}

/// Takes selections that are always true out of every `and` that says more.
fn leave_out_of_condition(condition: &mut ConditionExpr, given: &[&str]) {
    let is_given = |part: &ConditionExpr| matches!(part, ConditionExpr::Identifier(name) if given.contains(&name.as_str()));
    match condition {
        ConditionExpr::And(parts) => {
            if parts.iter().any(|part| !is_given(part)) {
                parts.retain(|part| !is_given(part));
            }
            parts.iter_mut().for_each(|part| leave_out_of_condition(part, given));
        }
        ConditionExpr::Or(parts) => parts.iter_mut().for_each(|part| leave_out_of_condition(part, given)),
        ConditionExpr::Not(part) => leave_out_of_condition(part, given),
        ConditionExpr::Identifier(_) | ConditionExpr::Selector { .. } => {}
    }
}

fn leave_out(detection: &mut Detection, kind: Kind) {
    match detection {
        // One item must stay: a selection of nothing is refused.
        Detection::AllOf(items) if items.iter().any(|item| !always_true(item, kind)) => {
            items.retain(|item| !always_true(item, kind));
        }
        Detection::AnyOf(parts) | Detection::And(parts) => {
            parts.iter_mut().for_each(|part| leave_out(part, kind))
        }
        Detection::AllOf(_)
        | Detection::Keywords(_)
        | Detection::ArrayMatch { .. }
        | Detection::Conditional { .. } => {}
    }
}

/// Whether an item asks a field that is the same in all events of the kind for a value that it has.
fn always_true(item: &DetectionItem, kind: Kind) -> bool {
    let Some(name) = item.field.name.as_deref().filter(|name| field::same_in_all(name, kind)) else {
        return false;
    };
    let exists = field::kinds_of(name).is_some_and(|kinds| kinds.holds(kind));
    let words = field::words_of(name, kind).unwrap_or_default();
    let told = |value: &SigmaValue| {
        plain(value).is_some_and(|value| words.iter().any(|word| word.eq_ignore_ascii_case(&value)))
    };
    exists && item.field.modifiers.is_empty() && item.values.iter().any(told)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rsigma_eval::{compile_rule, evaluate_rule};
    use rsigma_parser::parse_sigma_yaml;
    use watchfire_event::{Body, BootNanos, Event, FileAction, FileActivity, Process};

    use crate::adapter::RuleEvent;

    use super::*;

    #[test]
    fn what_is_true_of_a_kind_is_left_out_for_it_and_nothing_else() {
        let text = "title: T\nlogsource: {service: watchfire}\ndetection:\n  a: {event.kind: exec, process.name: x}\n  b: {event.kind: [file_write, exec]}\n  c: {type: EXECVE, a0: id}\n  condition: 1 of them\n";
        let rule = parse_sigma_yaml(text).unwrap().rules.remove(0);
        let items = |rule: &SigmaRule, name: &str| match &rule.detection.named[name] {
            Detection::AllOf(items) => items.len(),
            other => panic!("{other:?}"),
        };
        let exec = rewritten(&rule, Kind::Exec).unwrap();
        assert_eq!((items(&exec, "a"), items(&exec, "b"), items(&exec, "c")), (1, 1, 1));
        assert!(rewritten(&rule, Kind::FileWrite).is_none() && rewritten(&rule, Kind::Connect).is_none());
        let text = "title: T\nlogsource: {service: auditd}\ndetection:\n  e: {type: EXECVE}\n  k: [touch]\n  f: {a0: x}\n  condition: e and k and not (f and e)\n";
        let rule = parse_sigma_yaml(text).unwrap().rules.remove(0);
        let exec = rewritten(&rule, Kind::Exec).unwrap();
        assert_eq!(exec.detection.conditions[0].to_string(), "(k and not (f))");
    }

    const SELECTIONS: &str = "  a: {event.kind: exec, process.name: x}
  b: {event.kind: [file_write, exec]}
  c: {type: EXECVE, a0: id}
  d: {type: [PATH, EXECVE]}
  e: {process.name: y}
  f:
    - event.kind: file_write
      file.name: x
    - type: EXECVE
";

    fn event(exec: bool, name: &str, arg: &str) -> Event {
        let process = Process {
            exe: format!("/bin/{name}").into_bytes(),
            argv: format!("{arg}\0").into_bytes(),
            ..Process::default()
        };
        let file = FileActivity {
            action: FileAction::Write,
            path: format!("/d/{arg}").into_bytes(),
            new_path: None,
            mode: None,
            uid: None,
        };
        let body = if exec { Body::Exec } else { Body::File(file) };
        Event { at: BootNanos(1), decoded: BootNanos(1), process: Arc::new(process), parent: None, body }
    }

    fn condition() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec!["a", "b", "c", "d", "e", "f", "1 of *", "all of a*"])
            .prop_map(str::to_owned);
        name.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 2..4)
                    .prop_map(|parts| format!("({})", parts.join(" and "))),
                prop::collection::vec(inner.clone(), 2..4)
                    .prop_map(|parts| format!("({})", parts.join(" or "))),
                inner.prop_map(|part| format!("not ({part})")),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_rewriting_changes_a_verdict(condition in condition(), exec in any::<bool>(), name in "[xyz]", arg in "(id|x)") {
            let text = format!("title: T\nlogsource: {{service: watchfire}}\ndetection:\n{SELECTIONS}  condition: {condition}\n");
            let rule = parse_sigma_yaml(&text).unwrap().rules.remove(0);
            let event = event(exec, &name, &arg);
            if let Some(rewritten) = rewritten(&rule, event.kind()) {
                let speaks = |rule: &SigmaRule| evaluate_rule(&compile_rule(rule).unwrap(), &RuleEvent::new(&event)).is_some();
                prop_assert_eq!(speaks(&rule), speaks(&rewritten), "{}", condition);
            }
        }
    }
}
