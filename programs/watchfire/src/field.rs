//! Reading the API's JSON for a table: every text that leaves here is safe to show.

use serde_json::Value;
use watchfire_event::{printable, printable_argv};

use crate::table::Colour;

/// The text at a JSON pointer, escaped; empty when there is none.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => printable(text.as_bytes()).into_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    }
}

/// The number at a JSON pointer; 0 when there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// A time as `2026-11-21 08:15:30`.
pub(crate) fn time(value: &Value, pointer: &str) -> String {
    let full = text(value, pointer);
    full.get(..19).map_or_else(|| full.clone(), |short| short.replace('T', " "))
}

/// A process' command line: the exact bytes where they are no text, escaped; its executable when it has no arguments.
pub(crate) fn command(process: &Value) -> String {
    let exact = process.get("argv_hex").and_then(Value::as_array);
    let plain = process.get("argv").and_then(Value::as_array);
    let argv: Vec<u8> = match (exact, plain) {
        (Some(exact), _) => joined(exact, unhex),
        (None, Some(plain)) => joined(plain, |text| text.as_bytes().to_vec()),
        (None, None) => Vec::new(),
    };
    if argv.is_empty() { text(process, "/exe") } else { printable_argv(&argv) }
}

fn joined(arguments: &[Value], bytes_of: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let arguments = arguments.iter().filter_map(Value::as_str);
    arguments.flat_map(|argument| bytes_of(argument).into_iter().chain([0])).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks_exact(2);
    digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// The colour of a level.
pub(crate) fn level_colour(level: &str) -> Option<Colour> {
    match level {
        "critical" | "high" => Some(Colour::Red),
        "medium" => Some(Colour::Yellow),
        "low" => Some(Colour::Blue),
        _ => Some(Colour::Grey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostile_text_is_escaped_and_numbers_pass() {
        let value = json!({"exe": "/tmp/\u{1b}[2J\u{202e}x", "uid": 0, "n": null});
        assert_eq!(text(&value, "/exe"), "/tmp/\\x1b[2J\\u{202e}x");
        assert_eq!((text(&value, "/uid"), text(&value, "/n")), ("0".to_owned(), String::new()));
    }

    #[test]
    fn a_command_line_comes_from_its_exact_bytes() {
        assert_eq!(command(&json!({"argv": ["sh", "-c", "a b"]})), "sh -c 'a b'");
        assert_eq!(command(&json!({"argv": ["\\xff"], "argv_hex": ["ff"]})), "\\xff");
        assert_eq!(command(&json!({"argv": [], "exe": "/init"})), "/init");
        assert_eq!(command(&json!({"argv": ["x"], "argv_hex": ["zz", "f"]})), "'' ''");
    }

    #[test]
    fn times_are_short_and_odd_ones_kept() {
        assert_eq!(time(&json!({"time": "2026-11-21T08:15:30.250Z"}), "/time"), "2026-11-21 08:15:30");
        assert_eq!(time(&json!({"time": "烽火"}), "/time"), "烽火");
    }
}
