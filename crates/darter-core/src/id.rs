//! Names of nodes and blobs inside the fleet: fixed-size, cheap to copy and to compare.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::write_digits;

/// The name of an agent in the fleet: 16 bytes of its public key's hash, see [`crate::identity`]. An agent whose data directory an
/// older release made has 16 bytes that were drawn at random.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

/// One blob's name in the fleet: 32 bytes derived from what the bytes *are* (a content digest, or a source and
/// its version), see [`crate::source`]. Two versions of one URL never share an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

/// A text that is not an id in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id: {0:?} (expected {1} hexadecimal digits)")]
pub struct ParseIdError(String, usize);

macro_rules! hex_id {
    ($name:ident, $bytes:literal) => {
        impl $name {
            /// The first eight hexadecimal digits: enough for people to tell ids apart.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_digits(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.short())
            }
        }

        /// Hexadecimal in formats that people read, the bare bytes in others.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = Cow::<'de, str>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError(text.to_owned(), $bytes * 2))?;
                Ok(Self(bytes))
            }
        }
    };
}

hex_id!(NodeId, 16);
hex_id!(BlobId, 32);

/// BLAKE3 in key-derivation mode over length-prefixed parts.
pub(crate) fn named(context: &str, parts: &[&[u8]]) -> BlobId {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    BlobId(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_read_digits_and_the_wire_carries_bytes() {
        let id = NodeId([0xab; 16]);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(16)));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<BlobId>(&json).is_err(), "an id of the wrong length");
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!(bytes, [0xab; 16]);
        assert_eq!(postcard::from_bytes::<NodeId>(&bytes).unwrap(), id);
    }
}
