//! Rules plus state over a stream of events, to alerts.
//!
//! ```text
//! rules/ (pack.rs) + a user's directories (directory.rs) → watchfire_rule::load → RuleSet ┐
//! event ──────────────────────────────────────────────────────────────────────────────────┼→ engine.rs → suppress.rs → Alert
//!   └→ detectors/: scene.rs (pipes, connections) → one file for each thing a rule cannot say ┘
//! ```
//!
//! All state is bounded, ages by the events' own time, and is told from in the counts.

#![forbid(unsafe_code)]

mod detectors;
mod directory;
mod engine;
mod lineage;
mod memory;
mod pack;
mod settings;
mod suppress;

pub use detectors::{DetectorInfo, detectors};
pub use directory::read_rule_directory;
pub use engine::{DetectCounts, Engine};
pub use lineage::Lineage;
pub use pack::{PackRule, pack, rule_id};
pub use settings::{DetectSettings, load_rules};
pub use watchfire_rule::{Loaded, RuleFault, RuleSet};
