//! The loaded rules, asked event by event.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rsigma_eval::{Engine, EvaluationResult, FieldMatch, MatchDetailLevel, ResultBody, compile_rule};
use rsigma_parser::FilterRule;
use watchfire_event::{Event, Kind, MatchedField};

use crate::adapter::RuleEvent;
use crate::correlate::Correlations;
use crate::kinds::KindSet;
use crate::load::Accepted;
use crate::rewrite::rewritten;
use crate::verdict::{MATCHED_FIELDS, RuleInfo, Verdict, bounded_value};

/// One slot for each number a kind may have.
const SLOTS: usize = 32;

/// All rules, behind one engine for each set of kinds that share their rules.
#[derive(Default)]
pub struct RuleSet {
    engines: Vec<Engine>,
    /// Index into `engines` by the kind's number; a kind no rule wants has none and costs nothing.
    by_kind: [Option<usize>; SLOTS],
    pub(crate) correlations: Correlations,
    infos: HashMap<String, Arc<RuleInfo>>,
    counts: RuleSetCounts,
}

/// What the rules did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleSetCounts {
    /// Events that met at least one rule.
    pub evaluated: u64,
    /// Evaluations given up because the library panicked.
    pub panics: u64,
}

impl std::fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RuleSet({} rules, {} engines)", self.infos.len(), self.engines.len())
    }
}

impl RuleSet {
    /// How many rules are loaded, detection and correlation rules, those included that no event can match.
    pub fn len(&self) -> usize {
        self.infos.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.infos.is_empty()
    }

    /// What is known of the loaded rules, in no order.
    pub fn infos(&self) -> impl Iterator<Item = &Arc<RuleInfo>> {
        self.infos.values()
    }

    /// The kinds of event that some rule wants.
    pub fn kinds(&self) -> KindSet {
        let mut kinds = KindSet::NONE;
        Kind::ALL
            .iter()
            .filter(|kind| self.by_kind[**kind as usize].is_some())
            .for_each(|kind| kinds.insert(*kind));
        kinds
    }

    /// What the rules did so far.
    pub fn counts(&self) -> RuleSetCounts {
        self.counts
    }

    /// Groups that correlation rules remember now.
    pub fn correlation_groups(&self) -> usize {
        self.correlations.groups()
    }

    /// Asks every rule that can match this kind of event. Correlation rules keep what they need to; time is the event's.
    pub fn evaluate(&mut self, event: &Event) -> Vec<Verdict> {
        let Some(engine) = self.by_kind[event.kind() as usize].and_then(|index| self.engines.get(index))
        else {
            return Vec::new();
        };
        self.counts.evaluated += 1;
        let adapter = RuleEvent::new(event);
        let correlations = &mut self.correlations;
        // The engine's state is windows of plain numbers and texts: at worst one of them misses an event.
        let results = catch_unwind(AssertUnwindSafe(|| {
            let results = engine.evaluate(&adapter);
            if results.is_empty() { results } else { correlate(correlations, &adapter, results) }
        }));
        let Ok(results) = results else {
            self.counts.panics += 1;
            return Vec::new();
        };
        results.into_iter().filter_map(|result| self.verdict(result, event.kind())).collect()
    }

    fn verdict(&self, result: EvaluationResult, kind: Kind) -> Option<Verdict> {
        let rule = Arc::clone(self.infos.get(result.header.rule_id.as_deref()?)?);
        let mut matched = Vec::new();
        match result.body {
            ResultBody::Detection(body) => {
                body.matched_fields.into_iter().for_each(|field| note(&mut matched, field));
            }
            ResultBody::Correlation(body) => {
                for (name, value) in body.group_key {
                    matched.push(MatchedField { name, value: bounded_value(value.as_bytes()) });
                }
                matched.truncate(MATCHED_FIELDS - 2);
                let value = body.aggregated_value.to_string();
                matched.push(MatchedField { name: "correlation.value".to_owned(), value });
                let value = format!("{} s", body.timespan_secs);
                matched.push(MatchedField { name: "correlation.timespan".to_owned(), value });
            }
        }
        if matched.is_empty() {
            // All that it asked for is true of the kind, or it only names what must not be.
            matched.push(MatchedField { name: "event.kind".to_owned(), value: kind.as_str().to_owned() });
        }
        Some(Verdict { rule, matched })
    }

    pub(crate) fn know(&mut self, info: Arc<RuleInfo>) {
        self.infos.insert(info.id.clone(), info);
    }

    pub(crate) fn build(&mut self, accepted: Vec<Accepted>) {
        // Kinds that ask the same rules, none of them rewritten, share an engine.
        let mut known: HashMap<Vec<(usize, Option<Kind>)>, usize> = HashMap::new();
        for kind in Kind::ALL {
            let mut wanted = Vec::new();
            let mut rules = Vec::new();
            for (index, one) in accepted.iter().enumerate().filter(|(_, one)| one.kinds.holds(*kind)) {
                let rewritten = rewritten(&one.rule, *kind).and_then(|rule| compile_rule(&rule).ok());
                wanted.push((index, rewritten.is_some().then_some(*kind)));
                rules.push(rewritten.unwrap_or_else(|| one.compiled.clone()));
            }
            if rules.is_empty() {
                continue;
            }
            let engines = &mut self.engines;
            let index = *known.entry(wanted).or_insert_with(|| {
                let mut engine = Engine::new();
                engine.set_match_detail(MatchDetailLevel::Summary);
                engine.extend_compiled_rules(rules);
                engines.push(engine);
                engines.len() - 1
            });
            self.by_kind[*kind as usize] = Some(index);
        }
        for one in accepted {
            self.know(one.info);
        }
    }

    /// Applies a Sigma filter to the rules it names.
    pub(crate) fn filter(&mut self, filter: &FilterRule) -> Result<(), String> {
        self.engines
            .iter_mut()
            .try_for_each(|engine| engine.apply_filter(filter))
            .map_err(|error| error.to_string())
    }
}

impl Default for Correlations {
    fn default() -> Self {
        Correlations::new()
    }
}

/// Feeds what correlations want to them, and takes away what speaks only through them.
fn correlate(
    correlations: &mut Correlations,
    event: &RuleEvent<'_>,
    mut results: Vec<EvaluationResult>,
) -> Vec<EvaluationResult> {
    let id_of = |result: &EvaluationResult| result.header.rule_id.clone().unwrap_or_default();
    let feeding: Vec<EvaluationResult> =
        results.iter().filter(|one| correlations.wants(&id_of(one))).cloned().collect();
    if feeding.is_empty() {
        return results;
    }
    results.retain(|one| !correlations.silences(&id_of(one)));
    results.extend(correlations.feed(event, feeding, event.event.at));
    results
}

/// Adds what a rule matched, each field and value once; what it found absent says nothing and is left out.
fn note(matched: &mut Vec<MatchedField>, field: FieldMatch) {
    if matched.len() >= MATCHED_FIELDS || field.negated {
        return;
    }
    let value = match field.value {
        serde_json::Value::Null => return,
        serde_json::Value::String(text) => bounded_value(text.as_bytes()),
        serde_json::Value::Array(values) => {
            let texts: Vec<String> = values
                .into_iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            bounded_value(texts.join(" ").as_bytes())
        }
        other => bounded_value(other.to_string().as_bytes()),
    };
    let field = MatchedField { name: field.field, value };
    if !matched.contains(&field) {
        matched.push(field);
    }
}
