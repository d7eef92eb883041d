//! Which version of the protocol brought a message, and what no message may say. Goes on with `impl Message`.

use darter_core::proof::block_of;
use darter_core::{PieceIndex, PieceLength, PieceSet};

use super::{Message, WANT_SINCE};
use crate::{
    MAX_BLOB_LENGTH, MAX_PEERS_TOLD, MAX_PIECES, MAX_REGISTRY_HEADERS, MAX_REGISTRY_PATH, MAX_STRETCHES, MAX_WISHES,
    ProtocolError, Result,
};

impl Message {
    /// The version of the protocol that brought this message. It is not said to an agent with which an older one is spoken:
    /// that would not answer it, and up to version 3 would disconnect.
    pub const fn since(&self) -> u8 {
        match self {
            Self::Join { .. }
            | Self::Leave { .. }
            | Self::Report { .. }
            | Self::Inventory { .. }
            | Self::Joined { .. }
            | Self::Rejected { .. }
            | Self::Grew { .. }
            | Self::Neighbours { .. }
            | Self::Whole { .. }
            | Self::Dissolved { .. }
            | Self::Failed { .. }
            | Self::Meet { .. }
            | Self::Have { .. }
            | Self::Lost { .. }
            | Self::Part { .. }
            | Self::AskManifest { .. }
            | Self::ManifestIs { .. }
            | Self::AskHashes { .. } => 2,
            Self::AskPeers
            | Self::Peers { .. }
            | Self::AskLead { .. }
            | Self::LeadIs { .. }
            | Self::SameId { .. }
            | Self::Waiting { .. }
            | Self::AskRegistry { .. }
            | Self::RegistryIs { .. }
            | Self::Refuted { .. }
            | Self::Seeds { .. }
            | Self::AskRegistryAlike { .. }
            | Self::AskRegistryKnown { .. } => 3,
            Self::Run { .. } | Self::Want { .. } => WANT_SINCE,
            Self::Unreached { .. }
            | Self::Touched { .. }
            | Self::Profile { .. }
            | Self::Naming { .. }
            | Self::InOrder { .. } => 4,
        }
    }

    /// Refuses numbers that no blob can have, so that nobody above computes or allocates with them.
    pub(crate) fn check(&self) -> Result<()> {
        let fits = match self {
            Self::Join { held: Some(held), .. } => set_fits(&held.pieces),
            Self::Meet { held, known, .. } => set_fits(held) && *known <= MAX_PIECES,
            Self::Have { pieces, known, .. } => *known <= MAX_PIECES && pieces.iter().all(|piece| piece.0 < MAX_PIECES),
            Self::Lost { pieces, .. } => pieces.iter().all(|piece| piece.0 < MAX_PIECES),
            Self::AskHashes { from, .. } => *from <= MAX_PIECES,
            Self::Report { piece, .. } => piece.0 < MAX_PIECES,
            Self::AskRegistry { question, .. }
            | Self::AskRegistryAlike { question, .. }
            | Self::AskRegistryKnown { question, .. } => {
                question.path.len() <= MAX_REGISTRY_PATH && question.headers.len() <= MAX_REGISTRY_HEADERS
            }
            Self::RegistryIs { answer: Ok(answer), .. } => {
                (100..1000).contains(&answer.status) && answer.headers.len() <= MAX_REGISTRY_HEADERS
            }
            Self::Joined { piece_length, length, .. } => blob_fits(*piece_length, *length),
            Self::Grew { from, hashes, length, proof, .. } => {
                let end = u64::from(*from) + hashes.len() as u64;
                end <= u64::from(MAX_PIECES)
                    && length.is_none_or(|it| it <= MAX_BLOB_LENGTH)
                    && proof.is_none_or(|proof| u64::from(proof.count) == end)
            }
            Self::Run { from, hashes, proof, .. } => {
                let end = u64::from(*from) + hashes.len() as u64;
                let block = block_of(PieceIndex(*from));
                end <= u64::from(MAX_PIECES.min(block.end))
                    && proof.is_none_or(|proof| proof.count as usize == hashes.len())
            }
            Self::Want { wishes, .. } => {
                wishes.len() <= MAX_WISHES && wishes.iter().all(|wish| wish.first <= wish.end && wish.end <= MAX_PIECES)
            }
            Self::Touched { pieces, .. } | Self::Profile { pieces, .. } => {
                pieces.len() <= MAX_STRETCHES && pieces.iter().all(|run| run.first <= run.end && run.end <= MAX_PIECES)
            }
            Self::ManifestIs { manifest: Some(manifest), .. } => {
                let known = manifest.hashes().len() as u64;
                blob_fits(manifest.piece_length(), manifest.length())
                    && manifest.length().is_none_or(|it| known <= u64::from(manifest.piece_length().count(it)))
            }
            Self::Peers { peers } | Self::Seeds { seeds: peers } => peers.len() <= MAX_PEERS_TOLD,
            Self::LeadIs { seeds, nearest, .. } => seeds.len() + nearest.len() <= MAX_PEERS_TOLD,
            _ => true,
        };
        if fits { Ok(()) } else { Err(ProtocolError::Violation { what: "a number that is over its limit" }) }
    }
}

fn set_fits(set: &PieceSet) -> bool {
    set.words().len() <= (MAX_PIECES / 64) as usize
}

fn blob_fits(pieces: PieceLength, length: Option<u64>) -> bool {
    length.is_none_or(|length| length <= MAX_BLOB_LENGTH && pieces.count(length) <= MAX_PIECES)
}
