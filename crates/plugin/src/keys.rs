//! Keys that sign manifests: Ed25519 (RFC 8032), written as 64 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Why a key or a signature is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not so many hexadecimal digits.
    #[error("not {digits} hexadecimal digits")]
    Digits {
        /// How many there should be.
        digits: usize,
    },
    /// No point of the curve, or one of small order.
    #[error("not a public key")]
    NoKey,
    /// The bytes were not signed by this key, or not with this signature.
    #[error("the signature does not match")]
    Mismatch,
    /// The system gave no random bytes.
    #[error("no random bytes")]
    NoRandom,
}

/// A key whose signatures are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedKey(VerifyingKey);

impl TrustedKey {
    /// Whether `signature` (128 hexadecimal digits, blanks around them) is this key's over `bytes`.
    ///
    /// # Errors
    /// [`KeyError::Digits`], [`KeyError::Mismatch`].
    pub fn verify(&self, bytes: &[u8], signature: &str) -> Result<(), KeyError> {
        let signature = Signature::from_bytes(&from_hex(signature.trim())?);
        // Strict: one signature for each message, and no key of small order (Chalkias and others, "Taming the many EdDSAs", 2020).
        self.0.verify_strict(bytes, &signature).map_err(|_| KeyError::Mismatch)
    }
}

impl FromStr for TrustedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(&from_hex(text.trim())?).map_err(|_| KeyError::NoKey)?;
        if key.is_weak() { Err(KeyError::NoKey) } else { Ok(TrustedKey(key)) }
    }
}

impl fmt::Display for TrustedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(self.0.as_bytes()))
    }
}

/// A key that signs. Its bytes are wiped when it is dropped.
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new one.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|_| KeyError::NoRandom)?;
        Ok(SecretKey(SigningKey::from_bytes(&seed)))
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> TrustedKey {
        TrustedKey(self.0.verifying_key())
    }

    /// The signature over `bytes`, as 128 hexadecimal digits.
    pub fn sign(&self, bytes: &[u8]) -> String {
        to_hex(&self.0.sign(bytes).to_bytes())
    }

    /// The secret itself, to be kept in a file.
    pub fn reveal(&self) -> String {
        to_hex(self.0.as_bytes())
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Ok(SecretKey(SigningKey::from_bytes(&from_hex(text.trim())?)))
    }
}

fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], KeyError> {
    let wrong = KeyError::Digits { digits: 2 * N };
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16)?.try_into().ok()).collect();
    let digits = digits.filter(|digits| digits.len() == 2 * N).ok_or(wrong)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    Ok(bytes)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8032, section 7.1, test 2.
    const SECRET: &str = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
    const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNATURE: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

    #[test]
    fn it_signs_and_verifies_as_the_rfc_says() {
        let secret: SecretKey = SECRET.parse().unwrap();
        assert_eq!(secret.public().to_string(), PUBLIC);
        assert_eq!(secret.sign(&[0x72]), SIGNATURE);
        let trusted: TrustedKey = PUBLIC.parse().unwrap();
        assert_eq!(trusted.verify(&[0x72], SIGNATURE), Ok(()));
        assert_eq!(trusted.verify(&[0x73], SIGNATURE), Err(KeyError::Mismatch));
        assert_eq!(
            SecretKey::generate().unwrap().public().verify(&[0x72], SIGNATURE),
            Err(KeyError::Mismatch)
        );
    }

    #[test]
    fn what_is_no_key_or_no_signature_is_told() {
        let trusted: TrustedKey = PUBLIC.parse().unwrap();
        for text in ["", "00", &PUBLIC[1..], &format!("{PUBLIC}0"), &PUBLIC.replace('3', "x"), "烽火"] {
            assert_eq!(text.parse::<TrustedKey>().unwrap_err(), KeyError::Digits { digits: 64 });
            assert_eq!(trusted.verify(&[], text).unwrap_err(), KeyError::Digits { digits: 128 });
        }
        // The neutral element: every message has a signature that verifies under it.
        let weak = format!("01{}", "0".repeat(62));
        assert_eq!(weak.parse::<TrustedKey>().unwrap_err(), KeyError::NoKey);
    }
}
