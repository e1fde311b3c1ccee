//! Secrets: 32 random bytes, kept only as a digest, compared in constant time.

use sha2::{Digest, Sha256};

use std::hint::black_box;

/// A secret this server can recognise but no longer tell.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Of 64 hexadecimal digits; `None` for anything else.
    pub(crate) fn from_hex(text: &str) -> Option<Secret> {
        let is_token = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_token.then(|| Secret::of(text))
    }

    /// Of whatever was presented.
    pub(crate) fn of(presented: &str) -> Secret {
        Secret(Sha256::digest(presented.as_bytes()).into())
    }

    /// Whether `presented` is this secret. The time taken says nothing about where they differ: digests are
    /// compared, and all of their bytes.
    pub(crate) fn matches(&self, presented: &str) -> bool {
        let other = Secret::of(presented);
        let difference = self.0.iter().zip(&other.0).fold(0, |sum, (ours, theirs)| sum | (ours ^ theirs));
        black_box(difference) == 0
    }
}

/// 256 random bits as 64 hexadecimal digits.
pub(crate) fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0u8; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_text_matches() {
        let text = random_hex().unwrap();
        let secret = Secret::from_hex(&text).unwrap();
        assert!(secret.matches(&text));
        assert!(!secret.matches(&text[1..]) && !secret.matches(""));
        assert_ne!(text, random_hex().unwrap());
        assert!(Secret::from_hex("xyz").is_none());
    }
}
