//! What a plug-in is, which file it is, and what it may reach.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use watchfire_event::Report;

use crate::keys::to_hex;

/// Longest list of paths or arguments.
const MOST: usize = 64;

/// A manifest, as its author writes it in JSON and its operator signs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name: 1 to 64 of `a-z 0-9 _ . -`. Its reports carry it, and its document is found by it.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// The executable's name, in the manifest's folder.
    pub executable: String,
    /// SHA-256 of the executable, 64 hexadecimal digits.
    pub sha256: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// What it may read besides programs and libraries: absolute paths, directories with all below them.
    #[serde(default)]
    pub read: Vec<PathBuf>,
    /// Whether it may open network sockets.
    #[serde(default)]
    pub network: bool,
}

/// Why a manifest is none.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not such JSON.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A value is not allowed.
    #[error("{key} = {value:?}: allowed is {allowed}")]
    Value {
        /// Its key.
        key: &'static str,
        /// The value, cut when it is long.
        value: String,
        /// What would be, in words.
        allowed: &'static str,
    },
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Manifest = serde_json::from_slice(bytes)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        let refuse = |key, value: &str, allowed| {
            Err(ManifestError::Value { key, value: value.chars().take(80).collect(), allowed })
        };
        if !Report::is_label(&self.name) {
            return refuse("name", &self.name, "1 to 64 of a-z 0-9 _ . -");
        }
        if self.version.is_empty() || self.version.len() > 64 || self.version.chars().any(char::is_control) {
            return refuse("version", &self.version, "1 to 64 bytes without control characters");
        }
        let executable = Path::new(&self.executable);
        let mut parts = executable.components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
        // A slash at its end is no component of a path.
        if !plain || self.executable.contains(['/', '\0']) {
            return refuse("executable", &self.executable, "the name of a file in the manifest's folder");
        }
        let digits = self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if self.sha256.len() != 64 || !digits {
            return refuse("sha256", &self.sha256, "64 hexadecimal digits, small letters");
        }
        if self.arguments.len() > MOST || self.read.len() > MOST {
            return refuse("arguments, read", "a long list", "64 entries at most");
        }
        if let Some(argument) = self.arguments.iter().find(|argument| argument.contains('\0')) {
            return refuse("arguments", argument, "text without zero bytes");
        }
        match self.read.iter().find(|path| !path.is_absolute()) {
            Some(path) => refuse("read", &path.to_string_lossy(), "absolute paths"),
            None => Ok(()),
        }
    }

    /// Whether a file with this digest is the executable.
    pub fn matches(&self, digest: &[u8; 32]) -> bool {
        self.sha256 == to_hex(digest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(change: Value) -> Result<Manifest, String> {
        let mut manifest = json!({
            "name": "hello", "version": "1", "executable": "hello.py", "sha256": "0".repeat(64),
        });
        for (key, value) in change.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        Manifest::parse(manifest.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_is_read_and_what_it_leaves_out_is_little() {
        let manifest = parse(json!({})).unwrap();
        assert!(manifest.arguments.is_empty() && manifest.read.is_empty() && !manifest.network);
        assert!(manifest.matches(&[0; 32]) && !manifest.matches(&[1; 32]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (json!({"name": "Hello"}), "name"),
            (json!({"name": ""}), "name"),
            (json!({"version": "1\n2"}), "version"),
            (json!({"executable": "../hello"}), "executable"),
            (json!({"executable": "/bin/sh"}), "executable"),
            (json!({"executable": "."}), "executable"),
            (json!({"executable": "hello/"}), "executable"),
            (json!({"sha256": "0".repeat(63)}), "sha256"),
            (json!({"sha256": "A".repeat(64)}), "sha256"),
            (json!({"read": ["etc"]}), "read"),
            (json!({"arguments": ["a\u{0}b"]}), "arguments"),
            (json!({"readd": []}), "readd"),
        ];
        for (change, named) in cases {
            let error = parse(change.clone()).unwrap_err();
            assert!(error.contains(named), "{change}: {error}");
        }
    }
}
