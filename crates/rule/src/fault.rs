//! What loading has to tell: rules that were refused, rules that can never speak, rules that can speak only in part.

use std::fmt;

use watchfire_event::printable;

/// Why a rule was refused. The other rules stay loaded.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The YAML, or the rule in it, does not parse.
    #[error("does not parse: {0}")]
    Parse(String),
    /// It parses, and asks for something the engine cannot do or that contradicts itself.
    #[error("cannot be compiled: {0}")]
    Compile(String),
    /// Another rule has the same id; the one loaded first stays.
    #[error("id {id} is already taken by {holder}")]
    DuplicateId {
        /// The id.
        id: String,
        /// Where the other rule stands.
        holder: String,
    },
    /// A correlation rule names a rule that is not loaded, or stands in a circle.
    #[error("refers to {0:?}, which is no loaded rule (or refers back to this one)")]
    UnknownReference(String),
    /// A correlation rule needs more memory of the past than a group may keep.
    #[error("threshold {asked} is over the limit of {limit} remembered events per group")]
    ThresholdTooHigh {
        /// What the rule asks for.
        asked: u64,
        /// The limit.
        limit: u64,
    },
    /// The text is larger than a rule file may be.
    #[error("{bytes} bytes, the limit for a rule file is {limit}")]
    TooLarge {
        /// Size of the text.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// There are more rules than may be loaded.
    #[error("more than {limit} rules; this one and the rest are left out")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The file or directory could not be read.
    #[error("{attempt}: {source}")]
    Unreadable {
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The directory tree is deeper or fuller than may be read.
    #[error("{0}")]
    TreeTooLarge(String),
    /// The library panicked over it.
    #[error("the rule library panicked over it")]
    Panicked,
}

/// A rule, or a file of rules, that was refused.
#[derive(Debug, thiserror::Error)]
pub struct RuleFault {
    /// File or other source of the text, as the loader was told.
    pub file: String,
    /// Title of the rule, as far as it could be read.
    pub title: Option<String>,
    /// Why.
    #[source]
    pub error: RuleError,
}

/// `FILE: rule "TITLE": REASON`, escaped: both come from outside.
impl fmt::Display for RuleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", printable(self.file.as_bytes()))?;
        if let Some(title) = &self.title {
            write!(f, "rule \"{}\" ", printable(title.as_bytes()))?;
        }
        f.write_str(&printable(self.error.to_string().as_bytes()))
    }
}

/// A rule that is well formed and loaded, but that no event of this agent can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentRule {
    /// File or other source of the text.
    pub file: String,
    /// Title of the rule.
    pub title: String,
    /// Its id.
    pub id: String,
    /// Why, in words.
    pub reason: String,
}

/// A rule that is evaluated, though some of its alternatives ask for what no event of this agent tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialRule {
    /// File or other source of the text.
    pub file: String,
    /// Title of the rule.
    pub title: String,
    /// Its id.
    pub id: String,
    /// What is missing: ``field `x` ``, ``` `type` SERVICE_STOP ```.
    pub missing: Vec<String>,
}
