//! An event of ours as the rule library sees it: fields by name, read in place.
//!
//! Values that are not UTF-8 are given lossily (U+FFFD for each bad sequence): a rule that looks for `/etc/shadow` still
//! finds it between bad bytes, and one that looks for the bad bytes themselves cannot be written in YAML anyway. The alert
//! carries the process with its true bytes.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;

use rsigma_eval::{Event as SigmaEvent, EventValue};
use watchfire_event::{Event, Process};

use crate::field;

/// Longest value that may become part of a correlation's memory; longer ones are cut and closed with a hash.
const REMEMBERED_BYTES: usize = 128;

/// A borrowed event with the few values that have to be put together, made at most once.
pub(crate) struct RuleEvent<'e> {
    pub(crate) event: &'e Event,
    command_line: OnceCell<String>,
    parent_command_line: OnceCell<String>,
}

impl<'e> RuleEvent<'e> {
    pub(crate) fn new(event: &'e Event) -> Self {
        RuleEvent { event, command_line: OnceCell::new(), parent_command_line: OnceCell::new() }
    }

    /// The arguments as one line, joined by single blanks.
    pub(crate) fn command_line(&self) -> &str {
        self.command_line.get_or_init(|| join(&self.event.process))
    }

    /// The same of the parent.
    pub(crate) fn parent_command_line(&self) -> Option<&str> {
        let parent = self.event.parent.as_ref()?;
        Some(self.parent_command_line.get_or_init(|| join(parent)))
    }
}

fn join(process: &Process) -> String {
    let mut line = Vec::with_capacity(process.argv.len());
    for (index, arg) in process.args().enumerate() {
        if index > 0 {
            line.push(b' ');
        }
        line.extend_from_slice(arg);
    }
    match String::from_utf8(line) {
        Ok(text) => text,
        Err(bad) => String::from_utf8_lossy(bad.as_bytes()).into_owned(),
    }
}

impl SigmaEvent for RuleEvent<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        field::value(self, path)
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        field::keyword_texts(self).any(|text| pred(&text))
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        field::keyword_texts(self).collect()
    }

    fn visit_string_values(&self, visit: &mut dyn FnMut(&str)) {
        field::keyword_texts(self).for_each(|text| visit(&text));
    }

    /// Not on any path here: correlations keep no events ([`crate::correlate`]).
    fn to_json(&self) -> serde_json::Value {
        let known = field::fields()
            .filter_map(|doc| Some((doc.name.to_owned(), self.get_field(doc.name)?.to_json())));
        serde_json::Value::Object(known.collect::<BTreeMap<_, _>>().into_iter().collect())
    }
}

/// The same event with values short enough to be remembered as a group key or a counted value.
pub(crate) struct Remembered<'r, 'e>(pub(crate) &'r RuleEvent<'e>);

impl SigmaEvent for Remembered<'_, '_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        Some(match self.0.get_field(path)? {
            EventValue::Str(text) => EventValue::Str(shorten(text)),
            EventValue::Array(values) => {
                let joined: Vec<String> =
                    values.iter().filter_map(|v| v.as_str().map(Cow::into_owned)).collect();
                EventValue::Str(shorten(Cow::Owned(joined.join(" "))))
            }
            other => other,
        })
    }

    fn any_string_value(&self, _pred: &dyn Fn(&str) -> bool) -> bool {
        false
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        Vec::new()
    }

    fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

fn shorten(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.len() <= REMEMBERED_BYTES {
        return text;
    }
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut end = REMEMBERED_BYTES - 17;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(format!("{}#{hash:016x}", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_short_and_still_tells_long_values_apart() {
        let one = "é".repeat(4000);
        let two = format!("{one}x");
        let (short_one, short_two) = (shorten(Cow::Borrowed(&one)), shorten(Cow::Borrowed(&two)));
        assert!(short_one.len() <= REMEMBERED_BYTES && short_two.len() <= REMEMBERED_BYTES);
        assert_ne!(short_one, short_two);
        assert_eq!(shorten(Cow::Borrowed("whoami")), "whoami");
    }
}
