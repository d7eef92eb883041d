//! The identity of a node: the hash of its public key.
//!
//! A name that is drawn at random can be said by anybody. One that is the hash of a key can be proved by whoever has the key: a
//! transport that authenticates its ends (mutual TLS, with just this key) learns the public key of the other one, and that
//! leaves one [`NodeId`] that the other one may call itself. Nobody has to keep a list of who has which key.
//!
//! Keys are Ed25519 (RFC 8032). A node's id is the first 16 bytes of the public key's BLAKE3 hash, derived for this purpose alone:
//! to find another key with the id of a given node takes 2^128 attempts.
//!
//! A key is kept as text of three lines:
//!
//! ```text
//! darter node key 1
//! 64 hexadecimal digits: the private key (the seed of RFC 8032)
//! 64 hexadecimal digits: the public key
//! ```
//!
//! The 1 is the format: whoever finds a higher one leaves the file alone. The public key is there so that damage is noticed; the
//! private one alone would be another key.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian as _, Curve25519SeedBin};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use rustix::io::retry_on_intr;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::NodeId;

/// Keeps ids apart from whatever else BLAKE3 is used for.
const ID: &str = "darter 2026-11 node id";

/// The beginning of a key's text, before the number of its format.
const TITLE: &str = "darter node key ";
const FORMAT: u32 = 1;

/// The public half of a node's key pair. The node proves that it has the private half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The one id that the key's owner may have.
    pub fn node(&self) -> NodeId {
        let hash = blake3::derive_key(ID, &self.0);
        let (id, _) = hash.split_first_chunk().expect("16 of 32 bytes");
        NodeId(*id)
    }
}

/// A node's key pair.
pub struct NodeKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A newer release wrote it.
    #[error("a key of format {0}, this darter knows format {FORMAT}")]
    Newer(u32),
    /// The file is something else, or damaged.
    #[error("not a node key, or a damaged one")]
    Damaged,
}

impl NodeKey {
    /// Draws a key.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub fn draw() -> Self {
        Self::of(draw_pair())
    }

    fn of(pair: Ed25519KeyPair) -> Self {
        let public = pair.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes");
        Self { pair, public: PublicKey(public) }
    }

    /// The key's public half.
    pub const fn public(&self) -> PublicKey {
        self.public
    }

    /// The text to keep it as; a secret.
    pub fn to_text(&self) -> String {
        let seed: Curve25519SeedBin<'static> =
            self.pair.seed().and_then(|seed| seed.as_be_bytes()).expect("a key pair has its seed");
        format!("{TITLE}{FORMAT}\n{}\n{}\n", hex::encode(seed.as_ref()), hex::encode(self.public.0))
    }

    /// Reads a key from the text that [`to_text`](Self::to_text) gives.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let mut lines = text.lines();
        let format = lines.next().and_then(|line| line.strip_prefix(TITLE)).and_then(|format| format.parse().ok());
        match format {
            Some(FORMAT) => {}
            Some(newer @ FORMAT..) => return Err(KeyError::Newer(newer)),
            _ => return Err(KeyError::Damaged),
        }
        let mut half = || -> Option<[u8; 32]> {
            let mut half = [0; 32];
            hex::decode_to_slice(lines.next()?, &mut half).ok()?;
            Some(half)
        };
        let (Some(seed), Some(public)) = (half(), half()) else { return Err(KeyError::Damaged) };
        let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &public).map_err(|_| KeyError::Damaged)?;
        Ok(Self::of(pair))
    }
}

/// Draws a key pair from the system's random numbers. The library's own generator gathers entropy from jitter when a process asks it first,
/// which is some thirty milliseconds of computing (`docs/notes/cpu-at-800-mbit.md`).
///
/// # Panics
/// When the system has no random numbers.
pub(crate) fn draw_pair() -> Ed25519KeyPair {
    let mut seed = [0; 32];
    let drawn = retry_on_intr(|| getrandom(&mut seed[..], GetRandomFlags::empty()));
    assert_eq!(drawn, Ok(seed.len()), "the system has random numbers");
    Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed")
}

/// Without the secret.
impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("public", &self.public).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From RFC 8032, section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn text() -> String {
        format!("darter node key 1\n{SEED}\n{PUBLIC}\n")
    }

    #[test]
    fn a_kept_key_is_read_and_names_its_node() {
        let key = NodeKey::from_text(&text()).unwrap();
        assert_eq!(hex::encode(key.public().0), PUBLIC);
        assert_eq!(key.to_text(), text());
        let hash = blake3::Hasher::new_derive_key("darter 2026-11 node id").update(&key.public().0).finalize();
        assert_eq!(key.public().node().0, hash.as_bytes()[..16]);
        assert!(!format!("{key:?}").contains(&SEED[..8]), "a secret");
        assert_ne!(NodeKey::draw().public().node(), NodeKey::draw().public().node());
    }

    #[test]
    fn damage_is_noticed_wherever_it_is_and_a_newer_format_is_told() {
        let text = text();
        for at in 0..text.trim_end().len() {
            let mut damaged = text.clone().into_bytes();
            damaged[at] = if damaged[at] == b'0' { b'8' } else { b'0' };
            let damaged = String::from_utf8(damaged).unwrap();
            assert!(NodeKey::from_text(&damaged).is_err(), "{at}: {damaged}");
            assert!(NodeKey::from_text(&text[..at]).is_err(), "cut at {at}");
        }
        let read = |text: &str| NodeKey::from_text(text).unwrap_err();
        assert_eq!([read(""), read("garbage"), read("darter node key x")], [KeyError::Damaged; 3]);
        assert_eq!(read("darter node key 2\nwhatever\n"), KeyError::Newer(2));
        assert_eq!(read(&text.replace(" 1\n", " 0\n")), KeyError::Damaged);
    }
}
