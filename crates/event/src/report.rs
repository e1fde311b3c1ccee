//! A report: what an app tells in fields of its own, for facts that no other kind of event has a shape for.

use std::fmt;

use crate::printable::printable_field;

/// Longest name of an app, a topic or a field, in bytes.
pub const REPORT_LABEL_BYTES: usize = 64;
/// Most fields of one report.
pub const REPORT_FIELDS: usize = 64;
/// Longest value of a field, in bytes.
pub const REPORT_VALUE_BYTES: usize = 4096;

/// A fact that an app tells in fields of its own. It keeps within the limits above by construction: whoever holds one can
/// send it, store it and match it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Report {
    app: String,
    topic: String,
    fields: Vec<(String, String)>,
}

/// What is wrong with a report.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// A name is empty, too long, or not of the alphabet.
    #[error(
        "{what} of a report: {given:?} is not 1 to {REPORT_LABEL_BYTES} bytes of a-z, 0-9, '_', '.' and '-'"
    )]
    Label {
        /// `app`, `topic` or `field`.
        what: &'static str,
        /// What was given, cut when it is long.
        given: String,
    },
    /// There are more than [`REPORT_FIELDS`].
    #[error("a report has more than {REPORT_FIELDS} fields")]
    TooManyFields,
    /// A value is longer than [`REPORT_VALUE_BYTES`].
    #[error("field {name} of a report: {length} bytes are more than {REPORT_VALUE_BYTES}")]
    LongValue {
        /// The field.
        name: String,
        /// Length of the value in bytes.
        length: usize,
    },
    /// Two fields have one name.
    #[error("field {name} of a report stands twice")]
    Twice {
        /// The field.
        name: String,
    },
}

impl Report {
    /// A report of `app` about `topic`. The fields keep their order.
    ///
    /// # Errors
    /// [`ReportError`] for the first thing that is against the limits.
    pub fn new(
        app: impl Into<String>,
        topic: impl Into<String>,
        fields: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Result<Report, ReportError> {
        let (app, topic) = (label("app", app.into())?, label("topic", topic.into())?);
        let mut report = Report { app, topic, fields: Vec::new() };
        for (name, value) in fields {
            report.add(name.into(), value.into())?;
        }
        Ok(report)
    }

    /// Whether `text` can be the name of an app, a topic or a field: 1 to [`REPORT_LABEL_BYTES`] bytes of `a-z`, `0-9`,
    /// `_`, `.` and `-`.
    pub fn is_label(text: &str) -> bool {
        let known = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        (1..=REPORT_LABEL_BYTES).contains(&text.len()) && text.bytes().all(known)
    }

    /// As much of `text` from its beginning as the value of a field holds: for texts of unknown length, such as errors.
    pub fn fitting(text: &str) -> &str {
        &text[..text.floor_char_boundary(REPORT_VALUE_BYTES)]
    }

    /// The app that tells it.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// What it is about, in the app's own words.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Names and values, in the order in which they were given; no name stands twice.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The value of the field called `name`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &value[..])
    }

    /// Bytes of all its texts.
    pub fn text_bytes(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| name.len() + value.len());
        self.app.len() + self.topic.len() + fields.sum::<usize>()
    }

    fn add(&mut self, name: String, value: String) -> Result<(), ReportError> {
        if self.fields.len() == REPORT_FIELDS {
            return Err(ReportError::TooManyFields);
        }
        let name = label("field", name)?;
        if value.len() > REPORT_VALUE_BYTES {
            return Err(ReportError::LongValue { name, length: value.len() });
        }
        if self.field(&name).is_some() {
            return Err(ReportError::Twice { name });
        }
        self.fields.push((name, value));
        Ok(())
    }
}

/// One line for people: app, topic, then `name=value` of every field, escaped.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.app, self.topic)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " {}", printable_field(name, value)))
    }
}

fn label(what: &'static str, text: String) -> Result<String, ReportError> {
    if Report::is_label(&text) {
        return Ok(text);
    }
    let given = text[..text.floor_char_boundary(REPORT_LABEL_BYTES)].to_owned();
    Err(ReportError::Label { what, given })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 0] = [];

    fn numbered(count: usize) -> Vec<(String, String)> {
        (0..count).map(|number| (format!("n{number}"), String::new())).collect()
    }

    #[test]
    fn what_is_within_the_limits_is_kept_as_it_was_given() {
        let long = "é".repeat(REPORT_VALUE_BYTES / 2);
        let fields = [("z", "1"), ("a.b-c_9", &*long), ("empty", "")];
        let report = Report::new("agent", "x".repeat(REPORT_LABEL_BYTES), fields).unwrap();
        assert_eq!((report.app(), report.topic().len()), ("agent", REPORT_LABEL_BYTES));
        let names: Vec<&str> = report.fields().iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, ["z", "a.b-c_9", "empty"]);
        assert_eq!((report.field("a.b-c_9"), report.field("b")), (Some(&*long), None));
        assert_eq!(report.text_bytes(), 5 + REPORT_LABEL_BYTES + 2 + 7 + long.len() + 5);
        assert!(
            Report::new("a", "b", numbered(REPORT_FIELDS)).is_ok() && Report::new("a", "b", NONE).is_ok()
        );
    }

    #[test]
    fn each_limit_is_named_when_it_is_broken() {
        for bad in ["", "Agent", "a b", "a/b", "é", &"x".repeat(REPORT_LABEL_BYTES + 1)] {
            let labels = [
                Report::new(bad, "t", NONE),
                Report::new("a", bad, NONE),
                Report::new("a", "t", [(bad, "")]),
            ];
            for (label, what) in labels.into_iter().zip(["app", "topic", "field"]) {
                assert!(
                    matches!(label, Err(ReportError::Label { what: told, .. }) if told == what),
                    "{bad:?}"
                );
            }
        }
        assert_eq!(Report::new("a", "t", numbered(REPORT_FIELDS + 1)), Err(ReportError::TooManyFields));
        let twice = Report::new("a", "t", [("n", "1"), ("m", ""), ("n", "2")]);
        assert_eq!(twice.unwrap_err().to_string(), "field n of a report stands twice");
        let long = Report::new("a", "t", [("n", "x".repeat(REPORT_VALUE_BYTES + 1))]);
        assert_eq!(long.unwrap_err().to_string(), "field n of a report: 4097 bytes are more than 4096");
    }

    #[test]
    fn a_text_of_any_length_can_be_made_to_fit() {
        let long = format!("x{}", "é".repeat(REPORT_VALUE_BYTES));
        let fitting = Report::fitting(&long);
        assert_eq!(fitting.len(), REPORT_VALUE_BYTES - 1);
        assert!(Report::new("a", "t", [("n", fitting)]).is_ok());
        assert_eq!(Report::fitting("short"), "short");
    }

    #[test]
    fn a_value_cannot_pass_for_another_field_nor_move_a_cursor() {
        let report =
            Report::new("agent", "app", [("cause", "x state=ok"), ("n", "\x1b[2J"), ("e", "")]).unwrap();
        assert_eq!(report.to_string(), "agent app cause='x state=ok' n=\\x1b[2J e=''");
    }
}
