//! What a rule says about an event.

use std::sync::Arc;

use watchfire_event::{Level, MatchedField, printable};

/// At most so many matched fields travel with a verdict.
pub const MATCHED_FIELDS: usize = 20;
/// At most so many bytes of one matched value, after escaping.
pub const MATCHED_VALUE_BYTES: usize = 2048;

/// What is known of a loaded rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInfo {
    /// The rule's id; one made from file and title when the rule has none.
    pub id: String,
    /// Title for people.
    pub title: String,
    /// How bad; medium when the rule does not say.
    pub level: Level,
    /// ATT&CK technique ids, upper case.
    pub attack: Vec<String>,
    /// Where its text stands.
    pub file: String,
}

/// One rule's match.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The rule.
    pub rule: Arc<RuleInfo>,
    /// The fields that matched, escaped and bounded ([`MATCHED_FIELDS`], [`MATCHED_VALUE_BYTES`]).
    pub matched: Vec<MatchedField>,
}

/// The technique ids among Sigma tags: `attack.t1059.004` → `T1059.004`. Tactics and other tags are left out.
pub fn attack_ids<S: AsRef<str>>(tags: &[S]) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for tag in tags {
        let lower = tag.as_ref().to_ascii_lowercase();
        let Some(id) = lower.strip_prefix("attack.t") else { continue };
        let well_formed = id.len() >= 4 && id.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        let id = format!("T{id}");
        if well_formed && !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// `bytes` escaped for people and cut to [`MATCHED_VALUE_BYTES`], a cut shown by `…`.
pub fn bounded_value(bytes: &[u8]) -> String {
    let text = printable(bytes.get(..MATCHED_VALUE_BYTES).unwrap_or(bytes));
    if text.len() <= MATCHED_VALUE_BYTES && bytes.len() <= MATCHED_VALUE_BYTES {
        return text.into_owned();
    }
    let mut end = text.len().min(MATCHED_VALUE_BYTES - '…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_techniques_become_ids_each_once() {
        let tags =
            ["attack.execution", "attack.t1059.004", "attack.T1059.004", "cve.2021-1", "attack.tomato"];
        assert_eq!(attack_ids(&tags), ["T1059.004"]);
    }

    #[test]
    fn a_long_or_wild_value_stays_within_its_bound() {
        for bytes in [vec![0x1b; 5000], "é".repeat(3000).into_bytes(), vec![b'a'; MATCHED_VALUE_BYTES + 1]] {
            let value = bounded_value(&bytes);
            assert!(value.len() <= MATCHED_VALUE_BYTES && value.ends_with('…'), "{}", value.len());
        }
        assert_eq!(bounded_value(b"a\nb"), "a\\x0ab");
        assert_eq!(bounded_value(&[b'a'; MATCHED_VALUE_BYTES]).len(), MATCHED_VALUE_BYTES);
    }
}
