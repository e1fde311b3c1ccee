//! Sigma rules over events: load, check, route, evaluate. Pure: no file is read here, texts come in and verdicts go out.
//!
//! ```text
//! texts → load.rs: parse, refuse, report → route.rs: which event kinds a rule can match
//!       → rewrite.rs: the rule as each kind meets it → set.rs: one engine for each set of kinds → verdicts
//! event → adapter.rs: an event as the library sees it, by field.rs: the one table of field names ┘
//! ```

#![forbid(unsafe_code)]

mod adapter;
mod correlate;
mod fault;
mod field;
mod kinds;
mod load;
mod rewrite;
mod route;
mod set;
mod verdict;

pub use fault::{PartialRule, RuleError, RuleFault, SilentRule};
pub use field::{FieldDoc, fields};
pub use kinds::KindSet;
pub use load::{LoadLimits, Loaded, RuleText, load};
pub use set::{RuleSet, RuleSetCounts};
pub use verdict::{MATCHED_FIELDS, MATCHED_VALUE_BYTES, RuleInfo, Verdict, attack_ids, bounded_value};
