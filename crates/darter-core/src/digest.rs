//! Content digests as the OCI image specification writes them: `algorithm:hex`.
//!
//! SHA-256 and SHA-512 are registered algorithms; SHA-384 is not, but the engines and the usual registries know it. All come from the
//! tree's one crypto provider.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest as lc;
use serde::{Deserialize, Serialize};

/// A content digest, such as `sha256:e3b0c442…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256, the one that nearly every registry uses.
    Sha256([u8; 32]),
    /// SHA-384.
    Sha384([u8; 48]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// Why a text is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// No colon between algorithm and value.
    #[error("not a digest: {0:?} (expected something like sha256:<64 hexadecimal digits>)")]
    Form(String),
    /// An algorithm that is not known here.
    #[error("unknown digest algorithm {0:?} (known: sha256, sha384, sha512)")]
    Algorithm(String),
    /// The value has the wrong length, or is not lower-case hexadecimal.
    #[error("the value of a {algorithm} digest is {digits} lower-case hexadecimal digits, got {got:?}")]
    Value {
        /// The algorithm named before the colon.
        algorithm: &'static str,
        /// How many digits its value has.
        digits: usize,
        /// The text that was given instead.
        got: String,
    },
}

impl Digest {
    /// The algorithms, as they stand before the colon.
    pub const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];

    /// The digest's algorithm as it stands before the colon.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha384(_) => "sha384",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The raw value: 32, 48 or 64 bytes.
    pub const fn value(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha384(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The SHA-256 of bytes at hand.
    pub fn sha256(data: &[u8]) -> Self {
        let mut hasher = DigestHasher::sha256();
        hasher.update(data);
        hasher.finish()
    }

    /// A hasher of this digest's algorithm, to check content against it.
    pub fn hasher(&self) -> DigestHasher {
        match self {
            Self::Sha256(_) => DigestHasher::sha256(),
            Self::Sha384(_) => DigestHasher(lc::Context::new(&lc::SHA384)),
            Self::Sha512(_) => DigestHasher(lc::Context::new(&lc::SHA512)),
        }
    }

    /// Algorithm and the first twelve digits, for people.
    pub fn short(&self) -> String {
        format!("{}:{}", self.algorithm(), hex::encode(&self.value()[..6]))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())?;
        f.write_str(":")?;
        write_digits(f, self.value())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let (algorithm, value) = text.split_once(':').ok_or_else(|| ParseDigestError::Form(text.to_owned()))?;
        match algorithm {
            "sha256" => decode("sha256", value).map(Self::Sha256),
            "sha384" => decode("sha384", value).map(Self::Sha384),
            "sha512" => decode("sha512", value).map(Self::Sha512),
            other => Err(ParseDigestError::Algorithm(other.to_owned())),
        }
    }
}

/// Writes bytes as hexadecimal digits. Names and digests are written in every message, log line and file name: without memory of its own.
pub(crate) fn write_digits(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut digits = [0; 64];
    for part in bytes.chunks(digits.len() / 2) {
        let digits = &mut digits[..2 * part.len()];
        hex::encode_to_slice(part, digits).expect("two digits for each byte");
        f.write_str(std::str::from_utf8(digits).expect("digits are text"))?;
    }
    Ok(())
}

fn decode<const N: usize>(algorithm: &'static str, value: &str) -> Result<[u8; N], ParseDigestError> {
    let mut bytes = [0; N];
    let lower = !value.bytes().any(|byte| byte.is_ascii_uppercase());
    match hex::decode_to_slice(value, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(ParseDigestError::Value { algorithm, digits: N * 2, got: value.to_owned() }),
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes content that comes in parts.
#[derive(Clone)]
pub struct DigestHasher(lc::Context);

impl DigestHasher {
    /// A SHA-256 hasher.
    pub fn sha256() -> Self {
        Self(lc::Context::new(&lc::SHA256))
    }

    /// Takes the next bytes.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let value = self.0.finish();
        let value = value.as_ref();
        match value.len() {
            32 => Digest::Sha256(exact(value)),
            48 => Digest::Sha384(exact(value)),
            _ => Digest::Sha512(exact(value)),
        }
    }
}

fn exact<const N: usize>(value: &[u8]) -> [u8; N] {
    value.try_into().expect("an algorithm's values have one length")
}

impl fmt::Debug for DigestHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestHasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_content_has_its_published_digests() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::sha256(b"").to_string(), empty);
        let parsed: Digest = empty.parse().unwrap();
        assert_eq!(parsed.hasher().finish(), parsed);
        let others = [
            "sha384:38b060a751ac96384cd9327eb1b1e36a21fdb71114be07434c0cc7bf63f6e1da274edebfe76f65fbd51ad2f14898b95b",
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
             47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ];
        for text in others {
            let parsed: Digest = text.parse().unwrap();
            assert_eq!((parsed.hasher().finish(), parsed.to_string()), (parsed, text.to_owned()));
            assert!(Digest::ALGORITHMS.contains(&parsed.algorithm()));
        }
    }

    #[test]
    fn wrong_texts_say_what_is_wrong() {
        assert!(matches!("abc".parse::<Digest>(), Err(ParseDigestError::Form(_))));
        assert!(matches!("md5:00".parse::<Digest>(), Err(ParseDigestError::Algorithm(_))));
        assert!(matches!("sha256:00".parse::<Digest>(), Err(ParseDigestError::Value { digits: 64, .. })));
        let upper = format!("sha256:{}", "AB".repeat(32));
        assert!(matches!(upper.parse::<Digest>(), Err(ParseDigestError::Value { .. })));
    }
}
