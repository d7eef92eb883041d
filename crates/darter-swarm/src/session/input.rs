//! Inputs of a session.

use std::time::Duration;

use darter_core::{NodeId, PieceIndex, PieceSet};
use darter_protocol::{Message, PeerInfo, Refusal, Wanted};

use super::Came;
use crate::{ReaderId, RequestId, Wish};

/// Something that happened to one blob at one agent. Names of peers or requests that are not known (in late answers, say) are harmless.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "most are messages, and each is moved once")]
pub enum Input {
    /// A peer says something of the blob. Hashes are not taken from it: they are checked and stored first, with nothing locked
    /// ([`Session::lead_told`](super::Session::lead_told), [`Session::answered`](super::Session::answered),
    /// [`Session::took_run`](super::Session::took_run)).
    Said {
        /// The peer.
        by: NodeId,
        /// The message.
        message: Message,
    },
    /// Agents hold pieces, though whoever leads may not know of them: they are to be met.
    Found(Vec<PeerInfo>),
    /// A peer's connection is gone. It leaves whoever was let in here; the lead that it may be is lost apart
    /// ([`Session::lost_lead`](super::Session::lost_lead)).
    Gone(NodeId),
    /// A peer can't be reached.
    Unreached(NodeId),
    /// The peer that was asked begins to send a piece.
    Begun {
        /// The request.
        request: RequestId,
        /// The piece.
        piece: PieceIndex,
    },
    /// So many bytes of an answer have come so far.
    Moved {
        /// The request.
        request: RequestId,
        /// How many bytes.
        bytes: u32,
    },
    /// A piece came before its hash.
    Early {
        /// The giver.
        by: NodeId,
        /// The piece.
        piece: PieceIndex,
    },
    /// A request is refused.
    Refused {
        /// The request.
        request: RequestId,
        /// By whom.
        by: NodeId,
        /// The piece that was asked for, or any.
        wanted: Wanted,
        /// Why.
        reason: Refusal,
    },
    /// A request will not be answered: its holder can't be reached, say.
    Unanswered {
        /// The request.
        request: RequestId,
    },
    /// A piece was verified and stored that was lacking.
    Stored(Came),
    /// A piece came that is here already.
    Again(Came),
    /// A piece came that does not match its hash.
    Wrong {
        /// The sender.
        by: NodeId,
        /// The request that it answers.
        request: RequestId,
        /// The piece.
        piece: PieceIndex,
    },
    /// Pieces that were held are not any more.
    Lacking(PieceSet),
    /// A reader in order stands at a piece, and waits for so many from there on.
    ReaderAt {
        /// The reader.
        reader: ReaderId,
        /// The piece.
        piece: PieceIndex,
        /// How many pieces it waits for at once.
        count: u32,
        /// How long it may stand still before its piece becomes urgent.
        patience: Duration,
    },
    /// A reader is done.
    ReaderGone(ReaderId),
    /// A reader waits for these pieces, wherever they are; or for none any more.
    Wish {
        /// The reader.
        reader: ReaderId,
        /// The pieces.
        wish: Option<Wish>,
    },
    /// Somebody on this host wants everything.
    WantsAll {
        /// True if the blob passes through without being stored whole, so that its readers alone fetch it.
        passes: bool,
    },
}
