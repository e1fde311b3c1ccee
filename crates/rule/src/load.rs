//! From texts to a rule set. What is wrong with one rule is told and costs that rule alone.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rsigma_eval::{CompiledRule, compile_rule};
use rsigma_parser::{CorrelationRule, FilterRule, SigmaCollection, SigmaRule, parse_sigma_yaml};
use watchfire_event::Level;

use crate::fault::{PartialRule, RuleError, RuleFault, SilentRule};
use crate::kinds::KindSet;
use crate::route::route;
use crate::set::RuleSet;
use crate::verdict::{RuleInfo, attack_ids};

/// One file of rules: YAML, one document or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleText {
    /// Where it comes from, for people: a path.
    pub source: String,
    /// The YAML.
    pub text: String,
}

/// How much may be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadLimits {
    /// Bytes of one text.
    pub file_bytes: usize,
    /// Rules over all texts.
    pub rules: usize,
}

impl Default for LoadLimits {
    fn default() -> Self {
        LoadLimits { file_bytes: 256 * 1024, rules: 10_000 }
    }
}

/// What came of loading.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The rules, ready to judge.
    pub rules: RuleSet,
    /// Rules that were accepted: detection and correlation rules, silent ones too.
    pub accepted: usize,
    /// What was refused, and why.
    pub faults: Vec<RuleFault>,
    /// Accepted rules that no event of this agent can match, and why.
    pub silent: Vec<SilentRule>,
    /// Accepted rules of which some alternatives cannot match, and why.
    pub partial: Vec<PartialRule>,
}

/// Loads all texts in their order; of two rules with one id the first stays.
pub fn load(texts: &[RuleText], limits: LoadLimits) -> Loaded {
    let mut loader = Loader { limits, ..Loader::default() };
    for text in texts {
        loader.text(text);
    }
    loader.finish()
}

/// A detection rule on its way into the set.
pub(crate) struct Accepted {
    pub(crate) rule: SigmaRule,
    pub(crate) compiled: CompiledRule,
    pub(crate) kinds: KindSet,
    pub(crate) info: Arc<RuleInfo>,
}

#[derive(Default)]
struct Loader {
    limits: LoadLimits,
    rules: Vec<Accepted>,
    correlations: Vec<(String, CorrelationRule)>,
    filters: Vec<(String, FilterRule)>,
    /// Id to the source that holds it.
    holders: HashMap<String, String>,
    full: bool,
    loaded: Loaded,
}

impl Loader {
    fn text(&mut self, text: &RuleText) {
        if text.text.len() > self.limits.file_bytes {
            let (bytes, limit) = (text.text.len(), self.limits.file_bytes);
            return self.refuse(&text.source, None, RuleError::TooLarge { bytes, limit });
        }
        let Ok(collection) = parse(&text.text) else {
            return self.refuse(&text.source, title_in(&text.text), RuleError::Panicked);
        };
        let collection = match collection {
            Ok(collection) => collection,
            Err(error) => {
                return self.refuse(&text.source, title_in(&text.text), RuleError::Parse(one_line(&error)));
            }
        };
        if collection.is_empty() && collection.errors.is_empty() {
            let error = RuleError::Parse("there is no rule in it".to_owned());
            return self.refuse(&text.source, None, error);
        }
        let mut titles = titles_of_broken(&text.text, collection.errors.len()).into_iter();
        for error in collection.errors {
            self.refuse(&text.source, titles.next().flatten(), RuleError::Parse(one_line(&error)));
        }
        for rule in collection.rules {
            self.rule(&text.source, rule);
        }
        for rule in collection.correlations {
            self.correlations.push((text.source.clone(), rule));
        }
        self.filters.extend(collection.filters.into_iter().map(|filter| (text.source.clone(), filter)));
    }

    fn refuse(&mut self, file: &str, title: Option<String>, error: RuleError) {
        self.loaded.faults.push(RuleFault { file: file.to_owned(), title, error });
    }

    fn has_room(&mut self, file: &str) -> bool {
        if self.holders.len() < self.limits.rules {
            return true;
        }
        if !self.full {
            self.full = true;
            self.refuse(file, None, RuleError::TooMany { limit: self.limits.rules });
        }
        false
    }

    /// Takes an id for a rule, or says who has it.
    fn claim(&mut self, file: &str, id: &str) -> Result<(), RuleError> {
        if let Some(holder) = self.holders.get(id) {
            return Err(RuleError::DuplicateId { id: id.to_owned(), holder: holder.clone() });
        }
        self.holders.insert(id.to_owned(), file.to_owned());
        Ok(())
    }

    fn rule(&mut self, file: &str, mut rule: SigmaRule) {
        if !self.has_room(file) {
            return;
        }
        let title = rule.title.clone();
        let id = rule.id.get_or_insert_with(|| made_up_id(file, &title)).clone();
        // The library reads settings of its own from rules; they are not a rule's to set.
        rule.custom_attributes.retain(|name, _| !name.starts_with("rsigma."));
        let compiled = match catch_unwind(AssertUnwindSafe(|| compile_rule(&rule))) {
            Ok(Ok(compiled)) => compiled,
            Ok(Err(error)) => {
                return self.refuse(file, Some(title), RuleError::Compile(one_line(&error.to_string())));
            }
            Err(_) => return self.refuse(file, Some(title), RuleError::Panicked),
        };
        if rule.detection.conditions.is_empty() {
            return self.refuse(file, Some(title), RuleError::Compile("it has no condition".to_owned()));
        }
        if let Err(error) = self.claim(file, &id) {
            return self.refuse(file, Some(title), error);
        }
        let way = route(&rule);
        let file = file.to_owned();
        if let Some(reason) = way.silent {
            self.loaded.silent.push(SilentRule {
                file: file.clone(),
                title: title.clone(),
                id: id.clone(),
                reason,
            });
        } else if !way.missing.is_empty() {
            let (file, title, id) = (file.clone(), title.clone(), id.clone());
            self.loaded.partial.push(PartialRule { file, title, id, missing: way.missing });
        }
        let info = RuleInfo { id, title, level: level(rule.level), attack: attack_ids(&rule.tags), file };
        self.rules.push(Accepted { rule, compiled, kinds: way.kinds, info: Arc::new(info) });
        self.loaded.accepted += 1;
    }

    /// Correlations go in only after everything they refer to: that leaves out circles and loose ends alike.
    fn finish(mut self) -> Loaded {
        let mut set = RuleSet::default();
        let mut waiting = std::mem::take(&mut self.correlations);
        let mut resolved: Vec<(Option<String>, Option<String>)> =
            self.rules.iter().map(|one| (one.rule.id.clone(), one.rule.name.clone())).collect();
        loop {
            let known = |reference: &String| {
                resolved
                    .iter()
                    .any(|(id, name)| id.as_ref() == Some(reference) || name.as_ref() == Some(reference))
            };
            let (ready, rest): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(_, rule)| rule.rules.iter().all(known));
            waiting = rest;
            if ready.is_empty() {
                break;
            }
            for (file, rule) in ready {
                if let Some(names) = self.correlation(&mut set, &file, rule) {
                    resolved.push(names);
                }
            }
        }
        for (file, rule) in waiting {
            let loose = rule.rules.iter().find(|reference| {
                !resolved
                    .iter()
                    .any(|(id, name)| id.as_ref() == Some(reference) || name.as_ref() == Some(reference))
            });
            self.refuse(
                &file,
                Some(rule.title),
                RuleError::UnknownReference(loose.cloned().unwrap_or_default()),
            );
        }
        let filters = std::mem::take(&mut self.filters);
        set.build(std::mem::take(&mut self.rules));
        for (file, filter) in filters {
            if let Err(error) = set.filter(&filter) {
                self.refuse(&file, Some(filter.title), RuleError::Compile(one_line(&error)));
            }
        }
        self.loaded.rules = set;
        self.loaded
    }

    fn correlation(
        &mut self,
        set: &mut RuleSet,
        file: &str,
        mut rule: CorrelationRule,
    ) -> Option<(Option<String>, Option<String>)> {
        if !self.has_room(file) {
            return None;
        }
        let title = rule.title.clone();
        let id = rule.id.get_or_insert_with(|| made_up_id(file, &title)).clone();
        let bases: Vec<&SigmaRule> = self
            .rules
            .iter()
            .map(|one| &one.rule)
            .filter(|base| {
                rule.rules
                    .iter()
                    .any(|name| Some(name) == base.id.as_ref() || Some(name) == base.name.as_ref())
            })
            .collect();
        let mute = !bases.is_empty()
            && bases
                .iter()
                .all(|base| self.loaded.silent.iter().any(|silent| Some(&silent.id) == base.id.as_ref()));
        // The id is claimed last: a rule that is refused must not keep it.
        let taken = self.holders.get(&id).cloned();
        let added = match taken {
            Some(holder) => Err(RuleError::DuplicateId { id: id.clone(), holder }),
            None => catch_unwind(AssertUnwindSafe(|| set.correlations.add(&rule, &bases)))
                .unwrap_or(Err(RuleError::Panicked)),
        };
        if let Err(error) = added.and_then(|()| self.claim(file, &id)) {
            self.refuse(file, Some(title), error);
            return None;
        }
        if mute {
            let reason = "none of the rules it refers to can match".to_owned();
            let (file, title, id) = (file.to_owned(), title.clone(), id.clone());
            self.loaded.silent.push(SilentRule { file, title, id, reason });
        }
        let names = (rule.id.clone(), rule.name.clone());
        let info = RuleInfo {
            id,
            title,
            level: level(rule.level),
            attack: attack_ids(&rule.tags),
            file: file.to_owned(),
        };
        set.know(Arc::new(info));
        self.loaded.accepted += 1;
        Some(names)
    }
}

fn parse(text: &str) -> std::thread::Result<Result<SigmaCollection, String>> {
    catch_unwind(|| parse_sigma_yaml(text).map_err(|error| error.to_string()))
}

/// The library draws arrows under some errors; a fault is one line.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Ids tie alerts to rules, so every rule gets one.
fn made_up_id(file: &str, title: &str) -> String {
    format!("{file}#{title}")
}

fn level(level: Option<rsigma_parser::Level>) -> Level {
    match level {
        Some(rsigma_parser::Level::Informational) => Level::Informational,
        Some(rsigma_parser::Level::Low) => Level::Low,
        Some(rsigma_parser::Level::Medium) | None => Level::Medium,
        Some(rsigma_parser::Level::High) => Level::High,
        Some(rsigma_parser::Level::Critical) => Level::Critical,
    }
}

/// The first title in a text, read without YAML: it is for a message about text that YAML could not read.
fn title_in(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("title:"))?;
    let title = line.trim().trim_matches(['"', '\'']);
    (!title.is_empty()).then(|| title.chars().take(200).collect())
}

/// Titles of the documents that do not parse by themselves, when that explains every error of the whole.
fn titles_of_broken(text: &str, errors: usize) -> Vec<Option<String>> {
    if errors == 0 {
        return Vec::new();
    }
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.trim_end() == "---" {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let broken = |document: &&String| !matches!(parse(document), Ok(Ok(parsed)) if parsed.errors.is_empty());
    let titles: Vec<Option<String>> =
        documents.iter().filter(broken).map(|document| title_in(document)).collect();
    if titles.len() == errors { titles } else { vec![title_in(text)] }
}
