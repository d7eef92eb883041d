//! Doubts. Another agent doubts a piece that this one gave, or the whole that it has declared right: this one checks again
//! ([`Output::Recheck`](darter_swarm::Output)), and repairs damage here, or throws away content that was never right. It also tells others of its own
//! doubts.

use std::sync::Arc;

use darter_core::{Digest, NodeId, PieceIndex, in_full};
use darter_store::StoreError;
use darter_swarm::Guilt;
use darter_wire::{Capabilities, Message};

use super::{Lead, Transfer};
use crate::error::FetchError;

/// How many pieces are hashed before others may use the disk, and before checking whether the result is still wanted.
const PIECES_AT_A_TIME: u32 = 16;

impl Transfer {
    /// A peer got a wrong piece from this agent: the piece is compared with its hash again, and if it is damaged, so are all others. Damaged
    /// pieces are fetched again.
    pub(super) fn recheck(self: &Arc<Self>, by: NodeId, piece: PieceIndex) {
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            // If the peer gets another wrong piece, it says so again.
            let Ok(_turn) = transfer.context.rechecks.pieces.try_acquire() else { return };
            let verify = async |piece: PieceIndex| {
                let stored = Arc::clone(&transfer.stored);
                transfer.context.disk.run(move || stored.verify(piece)).await
            };
            let found = match verify(piece).await {
                Ok(()) => "it is right here".to_owned(),
                Err(StoreError::NotHeld { .. }) => "it is damaged here; looking at all others".to_owned(),
                Err(error) => in_full(&error).to_string(),
            };
            let is_damaged = !transfer.stored.holds(piece);
            transfer.note(format!("{} got a wrong piece {piece} from here: {found}", transfer.fleet.title(by)));
            if is_damaged {
                for other in transfer.stored.held().iter() {
                    if let Err(error) = verify(other).await {
                        tracing::debug!(blob = %transfer.blob.short(), error = %in_full(&error), "a piece is damaged, too");
                    }
                    if transfer.is_closed() {
                        return;
                    }
                }
            }
            transfer.note_losses();
        });
    }

    /// A member found the whole wrong that this agent, like the lead before it, has declared right: it is hashed here.
    pub(super) fn recheck_whole(self: &Arc<Self>, by: NodeId, expected: Digest, got: Digest) {
        if self.digest() != Some(expected) {
            return;
        }
        self.note(format!("{} found {got} instead of {expected}; hashing all of it here", self.fleet.title(by)));
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            let hashed = tokio::select! {
                hashed = transfer.hash_in_turn(expected) => hashed,
                () = transfer.closed.cancelled() => return,
            };
            match hashed {
                Ok(found) if found == expected => transfer.note("the whole is right here"),
                Ok(found) => transfer.dissolve(FetchError::refuted(expected, found, None)).await,
                Err(error) => {
                    transfer.note(format!("hashing the whole again: {}", in_full(&error)));
                    transfer.note_losses();
                }
            }
        });
    }

    /// Hashes the whole, some pieces at a time, after any other such check has ended.
    async fn hash_in_turn(&self, like: Digest) -> Result<Digest, StoreError> {
        let _turn = self.context.rechecks.wholes.acquire().await;
        let (mut hasher, mut piece) = (like.hasher(), 0);
        let Some(pieces) = self.pieces() else {
            return Err(StoreError::Incomplete { blob: self.blob, held: self.stored.held().len() });
        };
        while piece < pieces {
            let (stored, end) = (Arc::clone(&self.stored), pieces.min(piece + PIECES_AT_A_TIME));
            let hashing = self.context.disk.run(move || {
                let mut buffer = Vec::new();
                for piece in piece..end {
                    stored.read_piece(PieceIndex(piece), &mut buffer)?;
                    hasher.update(&buffer);
                }
                Ok::<_, StoreError>(hasher)
            });
            hasher = hashing.await?;
            piece = end;
        }
        Ok(hasher.finish())
    }

    /// The origin has other bytes than the last lead said: it has another version, or that lead made its hashes up. If a lead does so again, it is not
    /// followed. Returns the error with the lead's name added.
    pub(super) fn doubt_last_lead(&self, error: FetchError) -> FetchError {
        let Some(lead) = self.state().session.leadership().last_followed() else { return error };
        self.let_down_by(lead, Guilt::Perhaps);
        match error {
            FetchError::Origin(mut failure) => {
                failure.text = format!("{}; {} vouched for other bytes", failure.text, self.fleet.title(lead));
                FetchError::Origin(failure)
            }
            other => other,
        }
    }

    /// Tells a peer that it gave a wrong piece: it may not know that its disk or memory is damaged.
    pub(super) fn tell_giver(&self, peer: NodeId, piece: PieceIndex) {
        self.tell_doubt(peer, &Message::Report { blob: self.blob, peer, piece });
    }

    /// Tells the lead that the whole is wrong which it has declared right: it may have got that verdict from another agent.
    pub(super) fn tell_lead(&self, error: &FetchError) {
        let (Lead::Node(lead), FetchError::WrongDigest { expected, got, .. }) = (self.lead(), error) else { return };
        self.tell_doubt(
            lead,
            &Message::Refuted { request: None, blob: self.blob, expected: **expected, got: **got, reader: None },
        );
    }

    /// Sends a doubt, unless the peer's release is older and would misunderstand the message.
    fn tell_doubt(&self, peer: NodeId, message: &Message) {
        if self.fleet.peer(peer).is_some_and(|peer| peer.hello.capabilities.contains(Capabilities::DOUBTS)) {
            self.fleet.say(peer, message);
        }
    }
}
