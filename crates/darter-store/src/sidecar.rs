//! The sidecar: a small file with everything about one blob except its bytes.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `DARTPIEC` |
//! | 8 | 1 | version of this layout: 1, or 2 if the known hashes have gaps |
//! | 9 | 1 | flags: 1 complete (sealed), 2 pinned, 4 length known |
//! | 10 | 1 | base-two logarithm of the piece length |
//! | 11 | 1 | zero |
//! | 12 | 4 | `N`, how many pieces have a known hash |
//! | 16 | 8 | length of the blob in bytes; zero while unknown |
//! | 24 | 32 | the blob's id |
//! | 56 | 4 | `I`, length of the info |
//! | 60 | 4 | `W`, words of the bitmap |
//! | 64 | `I` | the info: [`BlobInfo`] in postcard's encoding, fields in order |
//! | … | 32 · `N` | the hashes of these `N` pieces, in their order: in version 1 of the first `N` |
//! | … | 8 · `W` | the held pieces, 64 to a word, lowest piece in the lowest bit |
//! | … | 4 | in version 2: `K`, words of the next bitmap |
//! | … | 8 · `K` | in version 2: the pieces with a known hash, in the same form |
//! | … | 32 | BLAKE3 of everything before |
//!
//! Numbers are little-endian. A file with another length, version or checksum is not a sidecar. A file with a greater version belongs to a newer Darter, whatever follows
//! the version, and is kept for it: the places of magic and version never change. Version 2 is written only if hashes have gaps, since the release before it sets
//! such a sidecar aside and reads all others.
//!
//! Invariants: held pieces have known hashes, and a complete blob holds all its pieces. A file that says otherwise is not a sidecar either.

use std::error::Error;

use darter_core::{BlobId, Manifest, PieceHash, PieceLength, PieceSet};

use crate::facts::Facts;
use crate::store::BlobInfo;

const MAGIC: &[u8; 8] = b"DARTPIEC";
/// The greatest version that this release reads.
const VERSION: u8 = 2;
/// The known hashes are those of the first pieces.
const WITHOUT_GAPS: u8 = 1;
/// They have gaps.
const WITH_GAPS: u8 = 2;
const HEADER: usize = 64;
const CHECKSUM: usize = 32;

const COMPLETE: u8 = 1;
const PINNED: u8 = 2;
const LENGTH_KNOWN: u8 = 4;

/// A blob's sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sidecar {
    pub(crate) id: BlobId,
    pub(crate) info: BlobInfo,
    pub(crate) manifest: Manifest,
    pub(crate) held: PieceSet,
    pub(crate) complete: bool,
    pub(crate) pinned: bool,
}

/// Why these bytes are not a sidecar that this release reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SidecarError {
    #[error("not a sidecar")]
    Magic,
    #[error("a sidecar of version {0}, this darter knows versions 1 to {VERSION}")]
    Newer(u8),
    #[error("a sidecar of version {0}, which was never written")]
    Version(u8),
    #[error("the checksum does not match")]
    Checksum,
    #[error("the {0} contradicts the rest")]
    Content(&'static str),
    #[error("the {what} can't be decoded")]
    Field {
        what: &'static str,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

/// The error for a field that says something that can't be.
fn in_field<E: Error + Send + Sync + 'static>(what: &'static str) -> impl FnOnce(E) -> SidecarError {
    move |source| SidecarError::Field { what, source: source.into() }
}

impl Sidecar {
    /// Writes the layout above.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let info = postcard::to_stdvec(&self.info).expect("strings and numbers always encode");
        let known = self.manifest.known();
        let words = self.held.words();
        let has_gaps = known.len() > self.manifest.prefix();
        let (version, gaps) = if has_gaps { (WITH_GAPS, known.words()) } else { (WITHOUT_GAPS, &[][..]) };
        let mut bytes = Vec::new();
        let mut flags = 0;
        for (set, flag) in
            [(self.complete, COMPLETE), (self.pinned, PINNED), (self.manifest.length().is_some(), LENGTH_KNOWN)]
        {
            flags |= if set { flag } else { 0 };
        }
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[version, flags, self.manifest.piece_length().log2(), 0]);
        bytes.extend_from_slice(&known.len().to_le_bytes());
        bytes.extend_from_slice(&self.manifest.length().unwrap_or(0).to_le_bytes());
        bytes.extend_from_slice(&self.id.0);
        let count = |count: usize| u32::try_from(count).expect("info and bitmap are far below 4 GiB").to_le_bytes();
        bytes.extend_from_slice(&count(info.len()));
        bytes.extend_from_slice(&count(words.len()));
        bytes.extend_from_slice(&info);
        for hash in known.runs().flat_map(|run| self.manifest.run_from(run.start)) {
            bytes.extend_from_slice(&hash.0);
        }
        for word in words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        if has_gaps {
            bytes.extend_from_slice(&count(gaps.len()));
            for word in gaps {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
        }
        let checksum = darter_core::manifest::root_of(&bytes);
        bytes.extend_from_slice(&checksum.0);
        bytes
    }

    /// The facts that a listing needs of it.
    pub(crate) fn facts(&self) -> Facts {
        let pieces = self.manifest.piece_length();
        let length = self.manifest.length();
        let range = |piece| pieces.range(piece, length.unwrap_or(u64::MAX));
        let held_bytes = self.held.iter().map(|piece| range(piece).len()).sum();
        Facts { length, held_bytes, complete: self.complete, pinned: self.pinned }
    }

    /// Reads the layout above, and nothing else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SidecarError> {
        // Nothing but these nine bytes is sure to be the same in all versions.
        let version = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first()).copied().ok_or(SidecarError::Magic)?;
        if version > VERSION {
            return Err(SidecarError::Newer(version));
        }
        if version == 0 {
            return Err(SidecarError::Version(version));
        }
        if bytes.len() < HEADER + CHECKSUM {
            return Err(SidecarError::Content("size of the file"));
        }
        let (content, checksum) = bytes.split_at(bytes.len() - CHECKSUM);
        if darter_core::manifest::root_of(content).0 != checksum {
            return Err(SidecarError::Checksum);
        }
        Self::decode_checked(content)
    }

    fn decode_checked(content: &[u8]) -> Result<Self, SidecarError> {
        let mut fields = Fields(&content[9..]);
        let has_gaps = content[8] == WITH_GAPS;
        let [flags, log2, _] = fields.array()?;
        let known = u32::from_le_bytes(fields.array()?) as usize;
        let length = u64::from_le_bytes(fields.array()?);
        let id = BlobId(fields.array()?);
        let info_length = u32::from_le_bytes(fields.array()?) as usize;
        let words = u32::from_le_bytes(fields.array()?) as usize;

        let info = postcard::from_bytes(fields.take(info_length)?).map_err(in_field("info"))?;
        let pieces = PieceLength::from_log2(log2).map_err(in_field("piece length"))?;
        let length = (flags & LENGTH_KNOWN != 0).then_some(length);
        if length.is_some_and(|length| length.div_ceil(pieces.bytes()) > u64::from(u32::MAX)) {
            return Err(SidecarError::Content("length"));
        }
        let hash_bytes = fields.take(known.checked_mul(32).ok_or(SidecarError::Content("number of hashes"))?)?;
        let (hashes, _) = hash_bytes.as_chunks::<32>();
        let hashes: Vec<PieceHash> = hashes.iter().map(|hash| PieceHash(*hash)).collect();
        let held = fields.bitmap(words)?;
        let known = match has_gaps {
            true => {
                let words = u32::from_le_bytes(fields.array()?) as usize;
                Some(fields.bitmap(words)?).filter(|known| known.len() as usize == hashes.len())
            }
            false => Some(PieceSet::full(known as u32)),
        };
        let known = known.ok_or(SidecarError::Content("number of hashes"))?;
        let mut manifest = Manifest::new(pieces, length);
        let mut rest = &hashes[..];
        for run in known.runs() {
            let (these, others) = rest.split_at(run.len());
            manifest.extend(run.start, these).map_err(in_field("number of hashes"))?;
            rest = others;
        }
        let unknown_held = known.lacks_some_of(&held);
        let complete = flags & COMPLETE != 0;
        if unknown_held || !fields.0.is_empty() {
            return Err(SidecarError::Content("bitmap"));
        }
        if complete && !(manifest.is_whole() && held.len() == manifest.prefix()) {
            return Err(SidecarError::Content("flag of completeness"));
        }
        Ok(Self { id, info, manifest, held, complete, pinned: flags & PINNED != 0 })
    }
}

/// The part of a sidecar that is not read yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], SidecarError> {
        let (field, rest) = self.0.split_at_checked(count).ok_or(SidecarError::Content("size of the file"))?;
        self.0 = rest;
        Ok(field)
    }

    fn bitmap(&mut self, words: usize) -> Result<PieceSet, SidecarError> {
        let bytes = self.take(words.checked_mul(8).ok_or(SidecarError::Content("bitmap"))?)?;
        let (words, _) = bytes.as_chunks::<8>();
        let set = PieceSet::from(words.iter().map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>());
        Ok(set)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SidecarError> {
        let (field, rest) = self.0.split_first_chunk().ok_or(SidecarError::Content("size of the file"))?;
        self.0 = rest;
        Ok(*field)
    }
}

#[cfg(test)]
mod tests;
