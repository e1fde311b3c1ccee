//! An app's document: partial JSON over defaults, unknown keys and values out of range refused by name.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The typed settings of an app. `serde(default, deny_unknown_fields)` belongs on every struct of them.
pub trait Settings: DeserializeOwned + Serialize + Default + Send + 'static {
    /// Whether every value is in its range.
    ///
    /// # Errors
    /// The first that is not.
    fn check(&self) -> Result<(), OutOfRange>;
}

/// The settings of an app that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

impl Settings for NoSettings {
    fn check(&self) -> Result<(), OutOfRange> {
        Ok(())
    }
}

/// A value that is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: allowed is {allowed}")]
pub struct OutOfRange {
    /// Its key within the document, with dots.
    pub key: &'static str,
    /// The value.
    pub value: String,
    /// The range, in words.
    pub allowed: &'static str,
}

/// Whether `value` is in `range`; `allowed` is the range in words.
///
/// # Errors
/// When it is not.
pub fn within<N: PartialOrd + ToString>(
    key: &'static str,
    value: N,
    range: std::ops::RangeInclusive<N>,
    allowed: &'static str,
) -> Result<(), OutOfRange> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(OutOfRange { key, value: value.to_string(), allowed })
}

/// Why a document was refused. What was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON object, or its `enabled` is no boolean.
    #[error("{app}: {problem}")]
    Shape {
        /// The app.
        app: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An unknown key, or a value of another type.
    #[error("{app}: {source}")]
    Parse {
        /// The app.
        app: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A value is out of its range.
    #[error("{app}.{source}")]
    OutOfRange {
        /// The app.
        app: String,
        /// Which value, and what is allowed.
        source: OutOfRange,
    },
}

/// See [`Document::most_per_s`].
pub(crate) const MOST_PER_S: &str = "most_per_s";
/// No host yields so much for long: the fastest storm measured on two cores was some 15,000 a second.
const DEFAULT_MOST_PER_S: u32 = 100_000;

/// A document as it came: whether the app is to run, how much it may yield, and its settings, still partial.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Whether the app is to run: the document's key `enabled`.
    pub enabled: bool,
    /// Facts in a second from which on the app is overloaded, and its breaker trips when that lasts: the key `most_per_s`.
    pub most_per_s: u32,
    /// All other keys.
    pub settings: Value,
}

impl Document {
    /// One that is switched on, with these settings and none of the keys that every app has.
    pub fn switched_on(settings: Value) -> Self {
        Document { enabled: true, most_per_s: DEFAULT_MOST_PER_S, settings }
    }

    /// Takes a document apart. `None` is one that was never written.
    ///
    /// # Errors
    /// [`DocumentError::Shape`]; [`DocumentError::OutOfRange`] of `most_per_s`.
    pub fn read(
        app: &str,
        document: Option<&Value>,
        enabled_by_default: bool,
    ) -> Result<Self, DocumentError> {
        let shape = |problem| DocumentError::Shape { app: app.to_owned(), problem };
        let mut settings = match document {
            None => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            Some(_) => return Err(shape("a document is a JSON object")),
        };
        let enabled = match settings.remove("enabled") {
            None => enabled_by_default,
            Some(Value::Bool(enabled)) => enabled,
            Some(_) => return Err(shape("enabled is true or false")),
        };
        let most_per_s = match settings.remove(MOST_PER_S) {
            None => DEFAULT_MOST_PER_S,
            Some(value) => value.as_u64().and_then(|most| u32::try_from(most).ok()).unwrap_or(0),
        };
        let range = 1..=10_000_000;
        within(MOST_PER_S, most_per_s, range, "1 to 10000000")
            .map_err(|source| DocumentError::OutOfRange { app: app.to_owned(), source })?;
        Ok(Document { enabled, most_per_s, settings: Value::Object(settings) })
    }

    /// The settings, defaults filled in and every range checked.
    ///
    /// # Errors
    /// [`DocumentError::Parse`], [`DocumentError::OutOfRange`].
    pub fn settings<S: Settings>(&self, app: &str) -> Result<S, DocumentError> {
        let settings: S = serde_json::from_value(self.settings.clone())
            .map_err(|source| DocumentError::Parse { app: app.to_owned(), source })?;
        settings.check().map_err(|source| DocumentError::OutOfRange { app: app.to_owned(), source })?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Scan {
        every_s: u32,
    }

    impl Settings for Scan {
        fn check(&self) -> Result<(), OutOfRange> {
            within("every_s", self.every_s, 0..=60, "0 to 60")
        }
    }

    fn read(document: Value) -> Result<(bool, Scan), String> {
        let document = Document::read("scan", Some(&document), true).map_err(|error| error.to_string())?;
        let settings = document.settings("scan").map_err(|error| error.to_string())?;
        Ok((document.enabled, settings))
    }

    #[test]
    fn what_a_document_leaves_out_is_the_default() {
        assert_eq!(read(json!({})), Ok((true, Scan { every_s: 0 })));
        assert_eq!(read(json!({"enabled": false, "every_s": 7})), Ok((false, Scan { every_s: 7 })));
        assert!(!Document::read("scan", None, false).unwrap().enabled);
    }

    #[test]
    fn what_is_wrong_is_named_with_key_value_and_range() {
        assert_eq!(read(json!({"every_s": 61})).unwrap_err(), "scan.every_s = 61: allowed is 0 to 60");
        assert!(read(json!({"evry_s": 6})).unwrap_err().contains("evry_s"));
        assert!(read(json!({"every_s": "6"})).unwrap_err().contains("scan: invalid type"));
        assert_eq!(read(json!([])).unwrap_err(), "scan: a document is a JSON object");
        assert_eq!(read(json!({"enabled": 1})).unwrap_err(), "scan: enabled is true or false");
        let error = read(json!({"most_per_s": 0})).unwrap_err();
        assert_eq!(error, "scan.most_per_s = 0: allowed is 1 to 10000000");
    }
}
