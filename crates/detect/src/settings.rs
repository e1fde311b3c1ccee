//! What a user may choose, and loading by it.

use std::path::PathBuf;
use std::time::Duration;

use watchfire_rule::{LoadLimits, Loaded, RuleFault, RuleText, load};

use crate::directory::read_rule_directory;
use crate::pack::pack;

/// What a user may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectSettings {
    /// Whether the project's own pack is loaded.
    pub pack: bool,
    /// Directory trees with further Sigma rules.
    pub dirs: Vec<PathBuf>,
    /// Ids of rules and detectors that shall not speak.
    pub disabled: Vec<String>,
    /// One rule tells of one process and one object once in this time.
    pub quiet: Duration,
}

impl Default for DetectSettings {
    fn default() -> Self {
        DetectSettings { pack: true, dirs: Vec::new(), disabled: Vec::new(), quiet: Duration::from_secs(60) }
    }
}

/// Loads the pack and the directories; of two rules with one id the pack's stays. What was refused stands in
/// [`Loaded::faults`].
pub fn load_rules(settings: &DetectSettings) -> Loaded {
    let mut texts: Vec<RuleText> = Vec::new();
    if settings.pack {
        texts.extend(
            pack().iter().map(|rule| RuleText { source: rule.source.to_owned(), text: rule.text.to_owned() }),
        );
    }
    let limits = LoadLimits::default();
    let mut faults: Vec<RuleFault> = Vec::new();
    for dir in &settings.dirs {
        let (found, refused) = read_rule_directory(dir, limits);
        texts.extend(found);
        faults.extend(refused);
    }
    let mut loaded = load(&texts, limits);
    loaded.faults.extend(faults);
    loaded
}
