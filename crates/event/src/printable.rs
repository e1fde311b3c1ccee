//! Bytes an attacker chose, made safe to show.

use std::borrow::Cow;
use std::fmt::Write;

/// `bytes` as text that cannot move a cursor, break a line or end a field: control characters, bidirectional overrides,
/// and bytes that are not UTF-8 become `\xNN` or `\u{NNNN}`, and a backslash becomes two, so that it reads back one way.
pub fn printable(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(needs_escape) => Cow::Borrowed(text),
        _ => Cow::Owned(escape(bytes)),
    }
}

/// The arguments (each ended by NUL) as one line; an argument that is empty or holds a blank or a quote is quoted.
pub fn printable_argv(argv: &[u8]) -> String {
    let whole = argv.strip_suffix(b"\0").unwrap_or(argv);
    if argv.is_empty() {
        return String::new();
    }
    let mut line = String::with_capacity(whole.len() + 8);
    for (index, arg) in whole.split(|byte| *byte == 0).enumerate() {
        if index > 0 {
            line.push(' ');
        }
        line.push_str(&quoted(printable(arg)));
    }
    line
}

/// `name=value`; a value that is empty or holds a blank or a quote is quoted, so that it cannot pass for another field.
pub fn printable_field(name: &str, value: &str) -> String {
    format!("{}={}", printable(name.as_bytes()), quoted(printable(value.as_bytes())))
}

fn quoted(text: Cow<'_, str>) -> Cow<'_, str> {
    if !text.is_empty() && !text.contains([' ', '"', '\'']) {
        return text;
    }
    Cow::Owned(format!("'{}'", text.replace('\'', "\\'")))
}

fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' {
                text.push_str("\\\\");
            } else if !needs_escape(character) {
                text.push(character);
            } else if character.is_ascii() {
                write!(text, "\\x{:02x}", u32::from(character)).expect("writing to a String cannot fail");
            } else {
                write!(text, "\\u{{{:x}}}", u32::from(character)).expect("writing to a String cannot fail");
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a String cannot fail");
        }
    }
    text
}

/// Controls (C0, DEL, C1), line and paragraph separators, and the marks that reorder what a reader sees
/// (Unicode bidirectional controls, UAX #9), and the backslash, which would make the escapes ambiguous.
fn needs_escape(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\\' | '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{feff}'
        )
        || ('\u{202a}'..='\u{202e}').contains(&character)
        || ('\u{2066}'..='\u{2069}').contains(&character)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_borrowed_as_it_is() {
        assert!(matches!(printable("烽火 /bin/sh".as_bytes()), Cow::Borrowed("烽火 /bin/sh")));
    }

    #[test]
    fn terminal_escapes_newlines_and_bad_utf8_are_spelled_out() {
        assert_eq!(printable(b"\x1b[2Jx\n\xff\\"), "\\x1b[2Jx\\x0a\\xff\\\\");
        assert_eq!(printable("a\u{202e}b\u{9b}".as_bytes()), "a\\u{202e}b\\u{9b}");
    }

    #[test]
    fn arguments_with_blanks_are_quoted() {
        assert_eq!(printable_argv(b"sh\0-c\0echo hi\0\0"), "sh -c 'echo hi' ''");
        assert_eq!(printable_argv(b""), "");
    }
}
