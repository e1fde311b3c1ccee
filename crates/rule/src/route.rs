//! Which kinds of event a rule can match, found before the first event comes.
//!
//! The logsource names a set of kinds. Each of them is then tried against the rule's condition, with every field that such
//! an event does not have counted as a miss: what is left is where the rule must be asked. The same walk tells why a rule
//! can never speak. It errs to one side only: a rule may be asked in vain, it is never left out wrongly.
//!
//! Then the rule is rewritten for each kind: an item that is true of every event of the kind (`event.kind: exec`,
//! `type: EXECVE`) says nothing there, and the library's index would take it for the rule's best mark and ask the rule
//! about every event.

use std::collections::BTreeSet;

use rsigma_parser::{
    ConditionExpr, Detection, DetectionItem, Detections, LogSource, Modifier, Quantifier, SelectorPattern,
    SigmaRule, SigmaValue,
};
use watchfire_event::Kind;

use crate::field;
use crate::kinds::KindSet;

/// Where a rule must be asked.
pub(crate) struct Route {
    /// The kinds of event it can match.
    pub(crate) kinds: KindSet,
    /// What it asks for that no event of its logsource has.
    pub(crate) missing: Vec<String>,
    /// Why no kind is left, in words.
    pub(crate) silent: Option<String>,
}

pub(crate) fn route(rule: &SigmaRule) -> Route {
    let from = match logsource_kinds(&rule.logsource) {
        Ok(kinds) => kinds,
        Err(reason) => return Route { kinds: KindSet::NONE, missing: Vec::new(), silent: Some(reason) },
    };
    let no_source = rule.logsource.category.is_none() && rule.logsource.service.is_none();
    let only_keywords =
        rule.detection.named.values().all(|detection| matches!(detection, Detection::Keywords(_)));
    if no_source && only_keywords {
        let silent = Some("its keywords are for log lines, and no log lines are read".to_owned());
        return Route { kinds: KindSet::NONE, missing: Vec::new(), silent };
    }
    let mut kinds = KindSet::NONE;
    let mut missing: Option<BTreeSet<String>> = None;
    for kind in from.iter() {
        let walk = Walk { kind, detections: &rule.detection };
        if rule.detection.conditions.iter().any(|condition| walk.condition(condition)) {
            kinds.insert(kind);
        }
        let lacking = walk.lacking();
        missing = Some(match missing {
            None => lacking,
            Some(before) => before.intersection(&lacking).cloned().collect(),
        });
    }
    let missing: Vec<String> = missing.unwrap_or_default().into_iter().collect();
    let silent = kinds.is_empty().then(|| {
        let what = if missing.is_empty() {
            "what its selections ask for together".to_owned()
        } else {
            missing.join(", ")
        };
        format!("no event has {what}")
    });
    Route { kinds, missing, silent }
}

/// The rule without what is true of every event of `kind`; `None` when nothing could be left out.
pub(crate) fn rewritten(rule: &SigmaRule, kind: Kind) -> Option<SigmaRule> {
    let mut rewritten = rule.clone();
    let mut changed = false;
    for detection in rewritten.detection.named.values_mut() {
        changed |= leave_out(detection, kind);
    }
    let all_true = |detection: &Detection| match detection {
        Detection::AllOf(items) => items.iter().all(|item| always_true(item, kind)),
        _ => false,
    };
    let named = rule.detection.named.iter().filter(|(_, detection)| all_true(detection));
    let given: Vec<&str> = named.map(|(name, _)| name.as_str()).collect();
    for condition in &mut rewritten.detection.conditions {
        changed |= leave_out_of_condition(condition, &given);
    }
    changed.then_some(rewritten)
}

/// Takes selections that are always true out of every `and` that says more.
fn leave_out_of_condition(condition: &mut ConditionExpr, given: &[&str]) -> bool {
    let is_given = |part: &ConditionExpr| matches!(part, ConditionExpr::Identifier(name) if given.contains(&name.as_str()));
    match condition {
        ConditionExpr::And(parts) => {
            let before = parts.len();
            if parts.iter().any(|part| !is_given(part)) {
                parts.retain(|part| !is_given(part));
            }
            let fewer = parts.len() < before;
            parts.iter_mut().fold(fewer, |changed, part| leave_out_of_condition(part, given) || changed)
        }
        ConditionExpr::Or(parts) => {
            parts.iter_mut().fold(false, |changed, part| leave_out_of_condition(part, given) || changed)
        }
        ConditionExpr::Not(part) => leave_out_of_condition(part, given),
        ConditionExpr::Identifier(_) | ConditionExpr::Selector { .. } => false,
    }
}

fn leave_out(detection: &mut Detection, kind: Kind) -> bool {
    match detection {
        Detection::AllOf(items) => {
            let before = items.len();
            // One item must stay: a selection of nothing is refused.
            if items.iter().any(|item| !always_true(item, kind)) {
                items.retain(|item| !always_true(item, kind));
            }
            items.len() < before
        }
        Detection::AnyOf(parts) | Detection::And(parts) => {
            parts.iter_mut().fold(false, |changed, part| leave_out(part, kind) || changed)
        }
        Detection::Keywords(_) | Detection::ArrayMatch { .. } | Detection::Conditional { .. } => false,
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

/// The kinds a logsource speaks of, or why there are none.
fn logsource_kinds(source: &LogSource) -> Result<KindSet, String> {
    if let Some(product) = source.product.as_deref().filter(|product| !product.eq_ignore_ascii_case("linux"))
    {
        return Err(format!("it is for product {product}"));
    }
    match (source.category.as_deref(), source.service.as_deref()) {
        (Some(category), Some("watchfire") | None) => category_kinds(category),
        (None, Some("auditd")) => Ok(field::AUDIT),
        (None, Some("watchfire") | None) => Ok(KindSet::ALL.without(&[Kind::Fork, Kind::Exit, Kind::Loss])),
        (_, Some(service)) => Err(format!("no log lines of service {service} are read")),
    }
}

fn category_kinds(category: &str) -> Result<KindSet, String> {
    if let Ok(kind) = category.parse::<Kind>() {
        return Ok(KindSet::of(&[kind]));
    }
    Ok(match category {
        "process_creation" => KindSet::of(&[Kind::Exec]),
        "process_termination" => KindSet::of(&[Kind::Exit]),
        "network_connection" => KindSet::of(&[Kind::Connect, Kind::Accept, Kind::UdpSend]),
        "network" => KindSet::NETWORK,
        "file_event" => KindSet::of(&[Kind::FileCreate, Kind::FileWrite, Kind::FileRename, Kind::FileLink]),
        "file_delete" => KindSet::of(&[Kind::FileUnlink]),
        "file_change" => KindSet::of(&[Kind::FileAttrib]),
        "file_access" => KindSet::of(&[Kind::FileOpen]),
        "file" => KindSet::FILE,
        "driver_load" => KindSet::of(&[Kind::ModuleLoad]),
        other => return Err(format!("no event source speaks of category {other}")),
    })
}

/// One walk through a rule as events of one kind would see it.
struct Walk<'r> {
    kind: Kind,
    detections: &'r Detections,
}

impl Walk<'_> {
    fn condition(&self, condition: &ConditionExpr) -> bool {
        match condition {
            ConditionExpr::And(parts) => parts.iter().all(|part| self.condition(part)),
            ConditionExpr::Or(parts) => parts.iter().any(|part| self.condition(part)),
            // What is possible may also not happen.
            ConditionExpr::Not(_) => true,
            ConditionExpr::Identifier(name) => {
                self.detections.named.get(name).is_none_or(|found| self.detection(found))
            }
            ConditionExpr::Selector { quantifier, pattern } => self.selector(quantifier, pattern),
        }
    }

    fn selector(&self, quantifier: &Quantifier, pattern: &SelectorPattern) -> bool {
        let mut chosen =
            self.detections.named.iter().filter(|(name, _)| pattern.matches_detection_name(name));
        match quantifier {
            Quantifier::Any => chosen.any(|(_, found)| self.detection(found)),
            Quantifier::All => chosen.all(|(_, found)| self.detection(found)),
            Quantifier::Count(least) => {
                let possible = chosen.filter(|(_, found)| self.detection(found)).count();
                u64::try_from(possible).is_ok_and(|possible| possible >= *least)
            }
        }
    }

    fn detection(&self, detection: &Detection) -> bool {
        match detection {
            Detection::AllOf(items) => items.iter().all(|item| self.lack(item).is_none()),
            Detection::AnyOf(alternatives) => alternatives.iter().any(|one| self.detection(one)),
            Detection::And(parts) => parts.iter().all(|part| self.detection(part)),
            Detection::ArrayMatch { field, .. } => self.has(field),
            Detection::Keywords(_) | Detection::Conditional { .. } => true,
        }
    }

    fn has(&self, name: &str) -> bool {
        field::kinds_of(name).is_some_and(|kinds| kinds.holds(self.kind))
    }

    /// What this item asks for that an event of this kind cannot give.
    fn lack(&self, item: &DetectionItem) -> Option<String> {
        let name = item.field.name.as_deref()?;
        let absent_is_fine = item.field.has_modifier(Modifier::Neq)
            || item.values.iter().any(|value| matches!(value, SigmaValue::Null | SigmaValue::Bool(false)));
        if !self.has(name) {
            return (!absent_is_fine).then(|| format!("field `{name}`"));
        }
        let words = field::words_of(name, self.kind)?;
        if !item.field.modifiers.is_empty() {
            return None;
        }
        let asked: Option<Vec<String>> = item.values.iter().map(plain).collect();
        let asked = asked?;
        let told = asked.iter().any(|value| words.iter().any(|word| word.eq_ignore_ascii_case(value)));
        (!told).then(|| format!("`{name}` {}", asked.join("|")))
    }

    fn lacking(&self) -> BTreeSet<String> {
        let mut lacking = BTreeSet::new();
        for detection in self.detections.named.values() {
            self.collect(detection, &mut lacking);
        }
        lacking
    }

    fn collect(&self, detection: &Detection, lacking: &mut BTreeSet<String>) {
        match detection {
            Detection::AllOf(items) => lacking.extend(items.iter().filter_map(|item| self.lack(item))),
            Detection::AnyOf(parts) | Detection::And(parts) => {
                parts.iter().for_each(|part| self.collect(part, lacking))
            }
            Detection::ArrayMatch { field, .. } if !self.has(field) => {
                lacking.insert(format!("field `{field}`"));
            }
            Detection::ArrayMatch { .. } | Detection::Keywords(_) | Detection::Conditional { .. } => {}
        }
    }
}

/// A value without wildcards, as text; `None` for one that may stand for many.
fn plain(value: &SigmaValue) -> Option<String> {
    match value {
        SigmaValue::String(text) => text.as_plain(),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use rsigma_parser::parse_sigma_yaml;

    use super::*;

    fn routed(logsource: &str, detection: &str) -> Route {
        let text = format!("title: T\nlogsource:\n{logsource}\ndetection:\n{detection}\n");
        let parsed = parse_sigma_yaml(&text).unwrap();
        assert!(parsed.errors.is_empty(), "{:?}", parsed.errors);
        route(&parsed.rules[0])
    }

    #[test]
    fn audit_rules_meet_only_the_kinds_of_their_records() {
        let execve = routed(
            "  product: linux\n  service: auditd",
            "  one:\n    type: EXECVE\n    a0: id\n  two:\n    type: PATH\n    name: /etc/shadow\n  condition: 1 of them",
        );
        assert!(execve.kinds.holds(Kind::Exec) && execve.kinds.holds(Kind::FileOpen));
        assert!(!execve.kinds.holds(Kind::Connect) && !execve.kinds.holds(Kind::Fork));
    }

    #[test]
    fn a_rule_for_what_no_event_tells_is_silent_with_the_reason() {
        let stop =
            routed("  service: auditd", "  s:\n    type: SERVICE_STOP\n    unit: auditd\n  condition: s");
        assert!(stop.kinds.is_empty());
        assert_eq!(stop.silent.unwrap(), "no event has `type` SERVICE_STOP, field `unit`");
        let windows = routed("  product: windows", "  s:\n    Image: x\n  condition: s");
        assert_eq!(windows.silent.unwrap(), "it is for product windows");
        let lines = routed("  product: linux\n  service: sshd", "  k:\n    - 'oops'\n  condition: k");
        assert_eq!(lines.silent.unwrap(), "no log lines of service sshd are read");
        let keywords = routed("  product: linux", "  k:\n    - 'oops'\n  condition: k");
        assert!(keywords.silent.unwrap().contains("log lines"));
    }

    #[test]
    fn a_missing_alternative_is_told_and_the_rule_still_asked() {
        let half = routed(
            "  category: network_connection",
            "  a:\n    DestinationHostname: evil\n  b:\n    DestinationPort: 4444\n  condition: 1 of them",
        );
        assert_eq!(half.missing, ["field `DestinationHostname`"]);
        assert!(half.silent.is_none() && half.kinds.holds(Kind::Connect));
    }

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

    #[test]
    fn what_must_be_absent_may_be_absent() {
        let no_tty = routed("  category: exec", "  s:\n    Image: x\n    nonsense: null\n  condition: s");
        assert!(no_tty.kinds.holds(Kind::Exec));
        let without =
            routed("  category: exec", "  s:\n    Image: x\n  f:\n    nonsense: y\n  condition: s and not f");
        assert!(without.kinds.holds(Kind::Exec));
    }
}
