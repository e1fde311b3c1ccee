//! Alerts: a rule's verdict on events. They never travel on the event stream.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::clock::{BootNanos, UnixNanos};
use crate::event::{Kind, UnknownKind};
use crate::ids::AlertId;
use crate::process::Process;

/// A rule's verdict on one event or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    /// Same for the same alert, however often it is sent.
    pub id: AlertId,
    /// Number of this alert in its boot, counted from 1 without gaps.
    pub sequence: u64,
    /// The rule that spoke.
    pub rule: RuleId,
    /// ATT&CK technique ids, upper case: `T1059.004`.
    pub attack: Vec<String>,
    /// How bad.
    pub level: Level,
    /// The kind of event that completed the match.
    pub kind: Kind,
    /// The fields that matched, by the names the rule uses.
    pub matched: Vec<MatchedField>,
    /// The process, then its parent, up to init as far as known; never empty.
    pub tree: Vec<ProcessNode>,
    /// When what happened.
    pub times: AlertTimes,
}

/// Which rule spoke.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleId {
    /// The rule's `id`: a UUID in Sigma, a stable word for a detector in Rust.
    pub id: String,
    /// The rule's title for people.
    pub title: String,
}

/// One process of an alert's tree.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessNode {
    /// The process as known when the alert was judged.
    pub process: Arc<Process>,
}

/// A field that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchedField {
    /// Name of the field.
    pub name: String,
    /// Its value, escaped by [`crate::printable`].
    pub value: String,
}

/// The way of an alert in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AlertTimes {
    /// The kernel saw the event that completed the match.
    pub kernel: BootNanos,
    /// The agent had decoded it.
    pub decoded: BootNanos,
    /// The rule had spoken.
    pub judged: BootNanos,
    /// The alert was durable in the store; `None` until then.
    pub stored: Option<UnixNanos>,
    /// Wall time of the host's boot, to place the three above.
    pub booted: UnixNanos,
}

impl AlertTimes {
    /// Milliseconds from the kernel's sight to the stored alert; `None` before it is stored.
    pub fn latency_ms(&self) -> Option<f64> {
        Some(self.stored?.millis_since(self.kernel.on_wall(self.booted)))
    }
}

/// How bad, in Sigma's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// For the record.
    Informational = 1,
    /// Notable, seldom an incident by itself.
    Low = 2,
    /// Should be looked at.
    Medium = 3,
    /// Should be looked at soon.
    High = 4,
    /// Now.
    Critical = 5,
}

impl Level {
    /// From low to high.
    pub const ALL: [Level; 5] =
        [Level::Informational, Level::Low, Level::Medium, Level::High, Level::Critical];

    /// Sigma's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Informational => "informational",
            Level::Low => "low",
            Level::Medium => "medium",
            Level::High => "high",
            Level::Critical => "critical",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = UnknownKind;

    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Level::ALL
            .into_iter()
            .find(|level| level.as_str() == word)
            .ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

impl TryFrom<u8> for Level {
    type Error = UnknownKind;

    fn try_from(number: u8) -> Result<Self, UnknownKind> {
        let index = usize::from(number).wrapping_sub(1);
        Level::ALL.get(index).copied().ok_or_else(|| UnknownKind(number.to_string()))
    }
}
