//! One JSON object as one line of plain text.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};
use watchfire_event::printable;

/// Writes JSON in which controls and bidirectional marks stand as `\uNNNN`. That is the same JSON to every parser,
/// and harmless to a terminal that shows it as it is.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, found)) = rest.char_indices().find(|(_, character)| is_harmful(*character)) {
            CompactFormatter.write_string_fragment(writer, &rest[..at])?;
            let mut units = [0u16; 2];
            for unit in found.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + found.len_utf8()..];
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}

/// What `printable` would escape, the backslash aside, which JSON escapes itself.
fn is_harmful(character: char) -> bool {
    if matches!(character, ' '..='~') {
        return false;
    }
    let mut bytes = [0u8; 4];
    let text: &str = character.encode_utf8(&mut bytes);
    printable(text.as_bytes()) != text
}

/// `value` as one line that ends in a newline.
pub(crate) fn line<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(512);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Harmless);
    if let Err(error) = value.serialize(&mut serializer) {
        // The views hold only text, numbers and string-keyed maps, and a Vec takes every write.
        tracing::error!(%error, "a view did not become JSON");
        bytes.clear();
        bytes.extend_from_slice(br#"{"error":{"code":"internal","message":"not representable"}}"#);
    }
    bytes.push(b'\n');
    bytes
}

/// Bytes as a JSON string: as they are when they are UTF-8, else escaped by [`printable`]; [`text_hex`] then holds
/// the exact bytes.
pub(crate) fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| printable(bytes), Cow::Borrowed)
}

/// The bytes in hexadecimal, when they are not UTF-8.
pub(crate) fn text_hex(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).is_err().then(|| hex(bytes))
}

/// Lower case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn controls_and_bidi_marks_are_spelled_out_and_read_back() {
        let hostile = "a\x1b[2J\u{9b}\u{202e}\u{7f}\n\"\\烽火";
        let bytes = line(&[hostile]);
        let shown = std::str::from_utf8(&bytes).unwrap();
        assert_eq!(shown, "[\"a\\u001b[2J\\u009b\\u202e\\u007f\\n\\\"\\\\烽火\"]\n");
        assert_eq!(serde_json::from_slice::<Vec<String>>(&bytes).unwrap(), [hostile]);
    }

    #[test]
    fn bytes_that_are_no_text_come_with_their_hex() {
        assert_eq!((text(b"\xff\\").as_ref(), text_hex(b"\xff\\")), ("\\xff\\\\", Some("ff5c".to_owned())));
        assert_eq!((text(b"a\\b").as_ref(), text_hex(b"a\\b")), ("a\\b", None));
    }

    proptest! {
        #[test]
        fn every_string_reads_back_and_shows_no_control(text in ".*") {
            let bytes = line(&text);
            prop_assert_eq!(&serde_json::from_slice::<String>(&bytes).unwrap(), &text);
            let body = std::str::from_utf8(&bytes).unwrap().trim_end_matches('\n');
            prop_assert!(!body.chars().any(char::is_control));
        }
    }
}
