//! Which kinds of event a rule can match, found before the first event comes.
//!
//! The logsource names a set of kinds. Each of them is then tried against the rule's condition, with every field that such
//! an event does not have counted as a miss: what is left is where the rule must be asked. The same walk tells why a rule
//! can never speak. It errs to one side only: a rule may be asked in vain, it is never left out wrongly.

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

/// What a rule is about that names no category: deeds of processes. The rest is asked for by name.
const DEEDS: KindSet = KindSet::ALL.without(&[Kind::Fork, Kind::Exit, Kind::Loss, Kind::Report]);

/// The kinds a logsource speaks of, or why there are none.
fn logsource_kinds(source: &LogSource) -> Result<KindSet, String> {
    if let Some(product) = source.product.as_deref().filter(|product| !product.eq_ignore_ascii_case("linux"))
    {
        return Err(format!("it is for product {product}"));
    }
    match (source.category.as_deref(), source.service.as_deref()) {
        (Some(category), Some("watchfire") | None) => category_kinds(category),
        (None, Some("auditd")) => Ok(field::AUDIT),
        (None, Some("watchfire") | None) => Ok(DEEDS),
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
pub(crate) fn plain(value: &SigmaValue) -> Option<String> {
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
    fn reports_are_asked_for_by_their_category_and_by_any_name_that_a_field_can_have() {
        let told = routed(
            "  category: report",
            "  s:\n    report.app: x\n    report.fields.a.b-1: y\n  condition: s",
        );
        assert_eq!(told.kinds, KindSet::of(&[Kind::Report]));
        let never = routed("  category: report", "  s:\n    report.fields.State: y\n  condition: s");
        assert_eq!(never.silent.unwrap(), "no event has field `report.fields.State`");
        let unasked = routed("  service: watchfire", "  s:\n    process.name: x\n  condition: s");
        assert!(unasked.kinds.holds(Kind::Exec) && !unasked.kinds.holds(Kind::Report));
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
    fn what_must_be_absent_may_be_absent() {
        let no_tty = routed("  category: exec", "  s:\n    Image: x\n    nonsense: null\n  condition: s");
        assert!(no_tty.kinds.holds(Kind::Exec));
        let without =
            routed("  category: exec", "  s:\n    Image: x\n  f:\n    nonsense: y\n  condition: s and not f");
        assert!(without.kinds.holds(Kind::Exec));
    }
}
