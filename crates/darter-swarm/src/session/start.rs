//! The state in which an agent's session begins.

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceLength, PieceSet};
use darter_protocol::Verdict;

use super::Session;
use crate::{Event, Hashes, Leadership, Picker, Tuning};

/// The agent, the blob, and which parts of it are known and here.
#[derive(Clone, Debug)]
pub struct SessionStart {
    /// The agent.
    pub me: NodeId,
    /// The blob's source, for which seeds are ranked.
    pub source: BlobId,
    /// The blob.
    pub blob: BlobId,
    /// True if the agent may follow others.
    pub may_follow: bool,
    /// The length of its pieces.
    pub pieces: PieceLength,
    /// The length of its pieces in bytes; in a test it may differ from `pieces`.
    pub piece_bytes: u64,
    /// How many pieces it has, if that is known.
    pub total: Option<u32>,
    /// The first hashes, without a gap.
    pub hashes: Vec<PieceHash>,
    /// The pieces whose hashes are known.
    pub known: PieceSet,
    /// The pieces that are here.
    pub held: PieceSet,
    /// The root and digest of the whole, if an agent has checked it.
    pub verdict: Option<Verdict>,
    /// True if all of it is here and was checked.
    pub is_complete: bool,
    /// True if all of it is wanted, not only what readers wait for.
    pub everything: bool,
    /// Chooses among what is equal.
    pub seed: u64,
    /// Constants.
    pub tuning: Tuning,
    /// The present.
    pub now: Moment,
}

impl Session {
    /// A session that has met no other agent.
    pub fn begin(start: SessionStart) -> Self {
        let SessionStart { me, source, blob, may_follow, pieces, piece_bytes, total, seed, tuning, now, .. } = start;
        let mut hashes = Hashes::new(blob, pieces, &start.hashes, seed as usize, tuning);
        if let Some(total) = total {
            hashes.set_total(total);
        }
        let mut picker = Picker::new(me, piece_bytes, tuning, seed);
        for known in start.known.runs().chain(std::iter::once(0..0)) {
            picker.handle(Event::ManifestGrew { known, total }, now);
        }
        for piece in start.held.iter() {
            picker.handle(Event::Received { request: None, piece, bytes: 0 }, now);
        }
        let leadership = Leadership::new(me, source, blob, may_follow);
        let mut session = Self::new(me, picker, leadership, hashes, tuning, now);
        session.resumes(start.verdict, start.is_complete);
        if !start.everything {
            session.wants_parts(now);
        }
        session
    }
}
