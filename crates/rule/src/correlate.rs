//! Sigma correlation rules: the library's windows, kept within bounds.
//!
//! Time is the event's own, in whole seconds since boot (the library counts seconds). Nothing of an event is kept but short
//! group keys and counted values ([`crate::adapter::Remembered`]).

use std::collections::HashSet;

use rsigma_eval::{CorrelationConfig, CorrelationEngine, EvaluationResult};
use rsigma_parser::{ConditionOperator, CorrelationCondition, CorrelationRule, SigmaRule};
use watchfire_event::BootNanos;

use crate::adapter::{Remembered, RuleEvent};
use crate::fault::RuleError;

/// Groups over all correlation rules; the stalest go first.
const GROUPS: usize = 1024;
/// What one group remembers unless its rule's threshold asks for more.
const ENTRIES: u64 = 256;
/// The most that a rule's threshold may ask for.
const MOST_ENTRIES: u64 = 1024;
/// The same group speaks at most this often, in seconds.
const QUIET_SECONDS: u64 = 60;
/// How often what has expired is thrown out, in seconds.
const SWEEP_SECONDS: i64 = 60;

/// All correlation rules with their state.
pub(crate) struct Correlations {
    engine: CorrelationEngine,
    /// Ids of rules that feed a correlation.
    feeding: HashSet<String>,
    /// Ids of rules that speak only through a correlation.
    quiet: HashSet<String>,
    swept: i64,
}

impl Correlations {
    pub(crate) fn new() -> Self {
        let config = CorrelationConfig {
            max_state_entries: GROUPS,
            suppress: Some(QUIET_SECONDS),
            emit_detections: false,
            ..CorrelationConfig::default()
        };
        Correlations {
            engine: CorrelationEngine::new(config),
            feeding: HashSet::new(),
            quiet: HashSet::new(),
            swept: 0,
        }
    }

    /// Takes a rule in, with the detection rules it refers to (each needs an id).
    pub(crate) fn add(&mut self, rule: &CorrelationRule, bases: &[&SigmaRule]) -> Result<(), RuleError> {
        let mut rule = rule.clone();
        // The library reads its own settings from rules; bounds are not a rule's to set.
        rule.custom_attributes.retain(|name, _| !name.starts_with("rsigma."));
        let entries = remembered(&rule.condition);
        if entries > MOST_ENTRIES {
            return Err(RuleError::ThresholdTooHigh { asked: entries, limit: MOST_ENTRIES });
        }
        let entries = entries.max(ENTRIES).to_string();
        rule.custom_attributes.insert("rsigma.max_group_entries".to_owned(), entries.into());
        for base in bases {
            let Some(id) = &base.id else { continue };
            if !self.feeding.contains(id) {
                let mut base = (*base).clone();
                base.custom_attributes.clear();
                self.engine.add_rule(&base).map_err(|error| RuleError::Compile(error.to_string()))?;
                self.feeding.insert(id.clone());
            }
            if !rule.generate {
                self.quiet.insert(id.clone());
            }
        }
        self.engine.add_correlation(&rule).map_err(|error| RuleError::Compile(error.to_string()))
    }

    /// Whether a detection rule's match is of interest here.
    pub(crate) fn wants(&self, id: &str) -> bool {
        self.feeding.contains(id)
    }

    /// Whether a detection rule speaks only through a correlation.
    pub(crate) fn silences(&self, id: &str) -> bool {
        self.quiet.contains(id)
    }

    /// Takes matches of one event in; yields the correlations they complete.
    pub(crate) fn feed(
        &mut self,
        event: &RuleEvent<'_>,
        matches: Vec<EvaluationResult>,
        at: BootNanos,
    ) -> Vec<EvaluationResult> {
        let seconds = i64::try_from(at.0 / 1_000_000_000).unwrap_or(i64::MAX);
        if seconds - self.swept >= SWEEP_SECONDS {
            self.swept = seconds;
            self.engine.evict_expired(seconds);
        }
        let mut results = self.engine.process_with_detections(&Remembered(event), matches, seconds);
        results.retain(EvaluationResult::is_correlation);
        results
    }

    /// Groups that are remembered now.
    pub(crate) fn groups(&self) -> usize {
        self.engine.state_count()
    }
}

/// How many events a group must remember for its condition to come true.
fn remembered(condition: &CorrelationCondition) -> u64 {
    match condition {
        CorrelationCondition::Threshold { predicates, .. } => {
            let counts = predicates.iter().filter(|(operator, _)| {
                matches!(operator, ConditionOperator::Gt | ConditionOperator::Gte | ConditionOperator::Eq)
            });
            counts.map(|(_, count)| *count).max().unwrap_or(0).saturating_add(1)
        }
        CorrelationCondition::Extended(_) => 0,
    }
}
