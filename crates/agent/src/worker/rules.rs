//! Loading the rules a worker judges by.

use tracing::{info, warn};
use watchfire_detect::{DetectSettings, Engine, load_rules};
use watchfire_event::{StreamId, UnixNanos};
use watchfire_wire::v1;

use crate::settings::RawRules;

/// The most faults told to the server; the log has all.
const FAULTS_TOLD: usize = 50;

/// An engine with its rules, and what did not load.
pub(crate) struct LoadedRules {
    pub(crate) engine: Engine,
    pub(crate) count: u32,
    pub(crate) faults: Vec<v1::RuleFault>,
}

/// Loads the pack and the directories named. A broken rule is told and left out.
pub(crate) fn load(settings: &RawRules, stream: StreamId, booted: UnixNanos) -> LoadedRules {
    let detect =
        DetectSettings { pack: settings.pack, dirs: settings.dirs.clone(), ..DetectSettings::default() };
    let loaded = load_rules(&detect);
    for fault in &loaded.faults {
        warn!(%fault, "rule left out");
    }
    if !loaded.silent.is_empty() {
        info!(count = loaded.silent.len(), "rules that no event of this agent can match");
    }
    let faults = loaded
        .faults
        .iter()
        .take(FAULTS_TOLD)
        .map(|fault| v1::RuleFault { file: fault.file.clone(), error: fault.to_string() });
    let faults = faults.collect();
    let count = u32::try_from(loaded.accepted).unwrap_or(u32::MAX);
    LoadedRules { engine: Engine::new(loaded.rules, &detect, stream, booted), count, faults }
}
