//! Which protocol an agent speaks: a range of versions, and a set of capabilities.
//!
//! A version is what both ends must have in common to talk at all: two agents speak the highest one that both know. It
//! counts up when messages or fields are added that an older agent would misread, or whose answer somebody waits for. A
//! capability is what one end can do besides, whatever its version; it counts only where both have it.
//!
//! | version | since then |
//! |---|---|
//! | 2 | the first that is still spoken |
//! | 3 | a hello tells the run; the messages from [`AskPeers`](crate::Message::AskPeers) on |
//! | 4 | a hello tells range and capabilities; what a receiver does not know is skipped; runs of hashes and wishes |
//!
//! Each release raises the highest version where it has to, and lets the lowest follow a release later at the earliest: so
//! it speaks with the release before it and the one after.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A range of protocol versions, both ends included. On the wire: two bytes, the lowest and the highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The lowest that is understood.
    pub lowest: u8,
    /// The highest that is understood.
    pub highest: u8,
}

impl Versions {
    /// The versions that this release speaks.
    pub const SPOKEN: Self = Self { lowest: 2, highest: 4 };

    /// Just this version.
    pub const fn exactly(version: u8) -> Self {
        Self { lowest: version, highest: version }
    }

    /// True if the range has this version.
    pub const fn contains(self, version: u8) -> bool {
        self.lowest <= version && version <= self.highest
    }

    /// The highest version that both ranges have.
    pub const fn common(self, other: Self) -> Option<u8> {
        let highest = if self.highest < other.highest { self.highest } else { other.highest };
        if self.contains(highest) && other.contains(highest) { Some(highest) } else { None }
    }
}

/// `version 3`, or `versions 2 to 4`.
impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lowest, highest } = self;
        if lowest == highest { write!(f, "version {lowest}") } else { write!(f, "versions {lowest} to {highest}") }
    }
}

/// An agent's abilities beyond those of its version, as a set of bits. On the wire: the number of bytes as a varint, then the bytes, those
/// of the lowest bits first, without zeros at the end.
///
/// The set is open: a reader takes any number of bytes and heeds the bits that it knows. Bits are given out once and never
/// again:
///
/// | bit | capability |
/// |---|---|
/// | 0 | [`FAILURE_KINDS`](Self::FAILURE_KINDS) |
/// | 1 | [`EXPANDED_LAYERS`](Self::EXPANDED_LAYERS) |
/// | 2 | [`PROFILES`](Self::PROFILES) |
/// | 3 | [`DOUBTS`](Self::DOUBTS) |
/// | 4 | [`PARTS`](Self::PARTS) |
/// | 5 | [`PACKED_PIECES`](Self::PACKED_PIECES) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Capabilities(u64);

impl Capabilities {
    /// No capability.
    pub const NONE: Self = Self(0);

    /// Knows the [kinds of failure](crate::FailureKind) from 8 on.
    pub const FAILURE_KINDS: Self = Self(1);

    /// Knows [layers in their expanded form](darter_core::ExpandedLayer) as sources, and leads their swarms.
    pub const EXPANDED_LAYERS: Self = Self(2);

    /// Knows what is told of first touches: [`Message::Touched`](crate::Message::Touched) and [`Message::Profile`](crate::Message::Profile).
    pub const PROFILES: Self = Self(4);

    /// Looks again when it is told that what it gave or vouched for is wrong: a [`Message::Report`](crate::Message::Report) of itself, and a
    /// [`Message::Refuted`](crate::Message::Refuted) of a member's.
    pub const DOUBTS: Self = Self(8);

    /// When it leads, answers a request for any piece of a member that wants no more than parts with one of those that the member said it
    /// waits for ([`Message::Want`](crate::Message::Want)). Others answer with any piece of the blob.
    pub const PARTS: Self = Self(16);

    /// Knows requests that take [packed pieces](crate::packed). Nobody says of a request to another agent that it takes them.
    pub const PACKED_PIECES: Self = Self(32);

    /// The abilities of this release.
    pub const OWN: Self = Self(
        Self::FAILURE_KINDS.0
            | Self::EXPANDED_LAYERS.0
            | Self::PROFILES.0
            | Self::DOUBTS.0
            | Self::PARTS.0
            | Self::PACKED_PIECES.0,
    );

    /// The capabilities with these bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// True if all of `other` are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The abilities of these that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The abilities that both have.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Serialize for Capabilities {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = self.0.to_le_bytes();
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        serializer.serialize_bytes(&bytes[..length])
    }
}

impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(Bits)
    }
}

struct Bits;

impl Visitor<'_> for Bits {
    type Value = Capabilities;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes of capabilities")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Capabilities, E> {
        // Bits beyond the eighth byte belong to capabilities that nobody knew when this release was made.
        let mut low = [0; 8];
        let known = bytes.len().min(low.len());
        low[..known].copy_from_slice(&bytes[..known]);
        Ok(Capabilities(u64::from_le_bytes(low)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(lowest: u8, highest: u8) -> Versions {
        Versions { lowest, highest }
    }

    #[test]
    fn the_highest_version_that_both_know_is_spoken() {
        for (one, other, common) in [
            (range(2, 4), range(2, 4), Some(4)),
            (range(2, 4), range(3, 9), Some(4)),
            (range(2, 4), range(4, 9), Some(4)),
            (range(2, 4), Versions::exactly(3), Some(3)),
            (range(2, 4), range(1, 2), Some(2)),
            (range(2, 4), range(5, 9), None),
            (range(2, 4), Versions::exactly(1), None),
            (range(2, 4), range(9, 3), None),
        ] {
            assert_eq!((one.common(other), other.common(one)), (common, common), "{one} and {other}");
        }
    }

    #[test]
    fn capabilities_that_nobody_knows_are_read_past() {
        let written = |bits| postcard::to_stdvec(&Capabilities::from_bits(bits)).unwrap();
        assert_eq!(written(0), [0]);
        assert_eq!(written(0b101), [1, 0b101]);
        assert_eq!(written(1 << 15), [2, 0, 0x80]);
        let read = postcard::take_from_bytes::<Capabilities>;
        let endless = [&[200, 1][..], &[0xff; 200], b"rest"].concat();
        assert_eq!(read(&endless).unwrap(), (Capabilities::from_bits(u64::MAX), &b"rest"[..]));
        let (few, _) = read(&[1, 0b101]).unwrap();
        assert!(few.contains(Capabilities::from_bits(0b100)) && !few.contains(Capabilities::from_bits(0b110)));
        assert_eq!(few.common(Capabilities::from_bits(0b110)), Capabilities::from_bits(0b100));
    }

    #[test]
    fn a_range_of_one_is_one_version() {
        assert_eq!((range(3, 3).to_string(), range(2, 4).to_string()), ("version 3".into(), "versions 2 to 4".into()));
    }
}
