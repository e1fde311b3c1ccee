//! One message as one line, whatever is in it.
//!
//! ```text
//! 2026-11-26T08:15:30.250Z warning watchfire_agent::master: worker ended worker=sensor status="signal 9" suppressed=3
//! ```
//!
//! What a host's users can choose (names, arguments, a worker's output) reaches a line. So nothing in it can end the line
//! or move a cursor ([`printable`]), and none of it can pass for a field: values with a blank, a quote or `=` are in
//! double quotes, and so is a message with a quote or `=`; a quote inside is `\"`, a backslash `\\`.

use std::borrow::Cow;

use watchfire_event::{UnixNanos, printable};

use crate::Severity;

/// A line is no longer, its newline included, in bytes. A message that long is an accident or an attack.
pub(crate) const LINE_MAX: usize = 16 << 10;
/// Kept free for ` [cut N bytes]`, ` suppressed=N` and the newline, with N of 20 digits.
const TAIL: usize = 96;
/// Of a target or a source; so long a name is no name.
const NAME_MAX: usize = 256;

/// A line in the making.
#[derive(Debug)]
pub(crate) struct Line {
    text: String,
    /// Bytes that found no room. From the first of them on, nothing more is taken.
    cut: usize,
}

impl Line {
    pub(crate) fn new(at: UnixNanos, severity: Severity, target: &str) -> Self {
        let target = target.get(..target.floor_char_boundary(NAME_MAX)).unwrap_or_default();
        let text = format!("{at} {severity} {}:", printable(target.as_bytes()));
        Line { text, cut: 0 }
    }

    pub(crate) fn message(&mut self, message: &[u8]) {
        if message.is_empty() {
            return;
        }
        let quoted = message.iter().any(|byte| matches!(byte, b'"' | b'='));
        self.put(b" ", false);
        self.put(message, quoted);
    }

    pub(crate) fn field(&mut self, name: &str, value: &[u8]) {
        let value = without_quotes(value);
        let quoted = value.is_empty() || value.iter().any(|byte| matches!(byte, b' ' | b'"' | b'='));
        self.put(format!(" {name}=").as_bytes(), false);
        self.put(value, quoted);
    }

    /// Counts bytes that were left out before they came here.
    pub(crate) fn left_out(&mut self, bytes: usize) {
        self.cut += bytes;
    }

    /// The line with its newline, and how many like it did not come before it.
    pub(crate) fn finish(self, suppressed: u64) -> Vec<u8> {
        let mut text = self.text;
        if self.cut > 0 {
            text.push_str(&format!(" [cut {} bytes]", self.cut));
        }
        if suppressed > 0 {
            text.push_str(&format!(" suppressed={suppressed}"));
        }
        text.push('\n');
        text.into_bytes()
    }

    fn room(&self) -> usize {
        (LINE_MAX - TAIL).saturating_sub(self.text.len())
    }

    fn put(&mut self, bytes: &[u8], quoted: bool) {
        let marks = if quoted { 2 } else { 0 };
        if self.cut > 0 || self.room() < marks {
            self.cut += bytes.len();
            return;
        }
        // What is escaped never gets shorter: the rest has no room anyway, and need not be looked at.
        let (head, rest) = bytes.split_at(bytes.len().min(self.room()));
        if quoted {
            self.text.push('"');
        }
        let shown = printable(head);
        if rest.is_empty() && shown.len() + marks <= self.room() && !(quoted && shown.contains('"')) {
            self.text.push_str(&shown);
        } else {
            self.put_by_character(head, quoted);
            self.cut += rest.len();
        }
        if quoted {
            self.text.push('"');
        }
    }

    /// As much as there is room for, never half an escape.
    fn put_by_character(&mut self, bytes: &[u8], quoted: bool) {
        let mut done = 0;
        for character in characters(bytes) {
            let shown =
                if quoted && character == b"\"" { Cow::Borrowed("\\\"") } else { printable(character) };
            if shown.len() + usize::from(quoted) > self.room() {
                self.cut += bytes.len() - done;
                return;
            }
            self.text.push_str(&shown);
            done += character.len();
        }
    }
}

/// The characters of `bytes`, and each byte of what is no UTF-8.
fn characters(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let valid = chunk.valid();
        let whole = valid
            .char_indices()
            .map(move |(start, character)| &valid.as_bytes()[start..start + character.len_utf8()]);
        whole.chain(chunk.invalid().chunks(1))
    })
}

/// A string that came through `Debug` has quotes of its own; two pairs would only be in the way.
fn without_quotes(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'"') => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(message: &[u8], fields: &[(&str, &[u8])], suppressed: u64) -> String {
        let mut line = Line::new(UnixNanos(0), Severity::Notice, "agent::master");
        line.message(message);
        fields.iter().for_each(|(name, value)| line.field(name, value));
        String::from_utf8(line.finish(suppressed)).unwrap()
    }

    #[test]
    fn a_line_says_when_how_grave_where_what_and_with_which_figures() {
        let fields: [(&str, &[u8]); 4] =
            [("worker", b"sensor"), ("status", b"signal 9"), ("name", b"\"x\""), ("none", b"")];
        assert_eq!(
            line(b"worker ended", &fields, 3),
            "1970-01-01T00:00:00.000Z notice agent::master: worker ended \
             worker=sensor status=\"signal 9\" name=x none=\"\" suppressed=3\n"
        );
    }

    #[test]
    fn hostile_text_forges_neither_line_nor_field_and_reaches_no_terminal_raw() {
        let hostile = b"x\n1970-01-01T00:00:00.000Z emerg a: b\x1b]0;\x07\xff level=emerg \"suppressed=9";
        assert_eq!(
            line(hostile, &[("path", hostile)], 0),
            "1970-01-01T00:00:00.000Z notice agent::master: \
             \"x\\x0a1970-01-01T00:00:00.000Z emerg a: b\\x1b]0;\\x07\\xff level=emerg \\\"suppressed=9\" \
             path=\"x\\x0a1970-01-01T00:00:00.000Z emerg a: b\\x1b]0;\\x07\\xff level=emerg \\\"suppressed=9\"\n"
        );
        let ends_in_backslash = line(b"", &[("a", b"b c\\"), ("d", b"e")], 0);
        assert!(ends_in_backslash.ends_with(" a=\"b c\\\\\" d=e\n"), "{ends_in_backslash}");
    }

    #[test]
    fn a_huge_line_is_cut_with_a_mark_and_still_says_what_was_suppressed() {
        let huge = vec![b'a'; 10 << 20];
        let cut = line(&huge, &[("tail", b"lost")], u64::MAX);
        assert!(cut.len() <= LINE_MAX);
        let whole = format!("1970-01-01T00:00:00.000Z notice agent::master: {}", "a".repeat(LINE_MAX));
        let kept = LINE_MAX - TAIL;
        let lost = (10 << 20) - (kept - (whole.len() - LINE_MAX)) + " tail=".len() + "lost".len();
        assert_eq!(cut, format!("{} [cut {lost} bytes] suppressed={}\n", &whole[..kept], u64::MAX));
    }

    #[test]
    fn a_huge_name_of_a_source_leaves_room_for_the_message() {
        let mut line = Line::new(UnixNanos(0), Severity::Info, &"烽\u{1b}".repeat(10_000));
        line.message(b"hello");
        let text = String::from_utf8(line.finish(0)).unwrap();
        assert!(text.len() < 2000 && text.ends_with(": hello\n"), "{text}");
    }

    /// Bytes with more of what could break a line than chance would bring.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            prop::sample::select(&b"\n\r\x1b\"\\= \x9b\xc2\xe2"[..]).prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
            (any::<u8>(), 1000usize..6000).prop_map(|(byte, times)| vec![byte; times]),
        ];
        prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
    }

    /// Splits a line at blanks outside of quotes, as a reader would.
    fn words(text: &str) -> Vec<String> {
        let (mut words, mut quoted, mut escaped) = (vec![String::new()], false, false);
        for character in text.chars() {
            match character {
                ' ' if !quoted => {
                    words.push(String::new());
                    continue;
                }
                '"' if !escaped => quoted = !quoted,
                _ => {}
            }
            escaped = character == '\\' && !escaped;
            words.last_mut().unwrap().push(character);
        }
        assert!(!quoted, "an open quote in {text}");
        words
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_line_of_bounded_length_without_a_control_character(
            message in hostile(), first in hostile(), second in hostile(), suppressed: u64,
        ) {
            let text = line(&message, &[("first", &first), ("second", &second)], suppressed);
            prop_assert!(text.len() <= LINE_MAX);
            let body = text.strip_suffix('\n').unwrap();
            prop_assert!(!body.chars().any(char::is_control), "{body:?}");
        }

        #[test]
        fn a_reader_finds_the_fields_that_were_given_and_no_other(
            message in hostile(), first in hostile(), suppressed in 1u64..,
        ) {
            let text = line(&message, &[("first", &first)], suppressed);
            let cut = text.contains(" [cut ");
            let names: Vec<_> = words(text.trim_end())
                .into_iter()
                .filter(|word| !word.starts_with('"'))
                .filter_map(|word| word.split_once('=').map(|(name, _)| name.to_owned()))
                .collect();
            let expected = ["first", "suppressed"];
            // A line that was cut may have lost the field, never gained one.
            let known = names == expected || (cut && names == expected[1..]);
            prop_assert!(known, "{names:?} in {text:?}");
        }
    }
}
