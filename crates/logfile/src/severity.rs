//! How grave a message is, in syslog's words.

use std::fmt;
use std::str::FromStr;

use tracing::Level;

/// The eight severities of RFC 5424, section 6.2.1, gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The system is unusable.
    Emerg,
    /// Someone must act at once.
    Alert,
    /// Critical.
    Crit,
    /// Data lost, or an operator needed.
    Err,
    /// Odd, and recovered.
    Warning,
    /// Normal, and worth knowing.
    Notice,
    /// The course of life.
    Info,
    /// For who looks for a fault.
    Debug,
}

/// A word that names no severity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("log level {word:?}: allowed are emerg, alert, crit, err, warning, notice, info, debug")]
pub struct UnknownSeverity {
    /// The word.
    pub word: String,
}

impl Severity {
    const ALL: [Severity; 8] = [
        Severity::Emerg,
        Severity::Alert,
        Severity::Crit,
        Severity::Err,
        Severity::Warning,
        Severity::Notice,
        Severity::Info,
        Severity::Debug,
    ];

    /// Its word in a line and in settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Emerg => "emerg",
            Severity::Alert => "alert",
            Severity::Crit => "crit",
            Severity::Err => "err",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
            Severity::Info => "info",
            Severity::Debug => "debug",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Severity {
    type Err = UnknownSeverity;

    fn from_str(word: &str) -> Result<Self, UnknownSeverity> {
        let named = Severity::ALL.into_iter().find(|severity| severity.as_str() == word);
        named.ok_or_else(|| UnknownSeverity { word: word.to_owned() })
    }
}

/// What tracing's levels are called here. A message that means more says so in a field, `syslog = "crit"`.
impl From<Level> for Severity {
    fn from(level: Level) -> Self {
        match level {
            Level::ERROR => Severity::Err,
            Level::WARN => Severity::Warning,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_and_graver_sorts_first() {
        for severity in Severity::ALL {
            assert_eq!(severity.as_str().parse(), Ok(severity));
        }
        assert!(Severity::ALL.is_sorted());
    }

    #[test]
    fn an_unknown_word_is_answered_with_the_known_ones() {
        let error = "warn".parse::<Severity>().unwrap_err().to_string();
        assert!(error.contains("\"warn\""));
        assert!(Severity::ALL.iter().all(|severity| error.contains(severity.as_str())), "{error}");
    }
}
