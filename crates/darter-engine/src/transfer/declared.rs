//! Hashes of the whole that a later answer of the origin declares, after an earlier one broke off or was read before a restart.
//!
//! A hash that no earlier answer declared has to cover the bytes before this answer, too: they are read from the store, once for each
//! hash, and the later pieces follow. If not all of those bytes are here, the hash is not checked. If two answers
//! can't both be right, they are of two versions.
//!
//! Not here: what the first answer declares, and what is declared for a part only.

use std::sync::Arc;

use darter_core::PieceIndex;
use darter_origin::{OriginError, Witness};
use darter_store::StoreError;

use super::Transfer;
use super::whole::Hashing;

impl Transfer {
    /// Uses what an answer declares that continues at the piece `first`.
    pub(super) async fn heed(self: &Arc<Self>, later: Witness, first: PieceIndex) -> Result<(), OriginError> {
        let mut whole = self.whole.take().await;
        let heeded = self.heed_beside(later, &mut whole, first).await;
        // Pieces that other connections have read ahead may follow.
        self.hashed(whole);
        heeded
    }

    async fn heed_beside(&self, later: Witness, whole: &mut Hashing, first: PieceIndex) -> Result<(), OriginError> {
        let Some(later) = later.beside(whole.witness.as_ref())? else { return Ok(()) };
        // Other connections, and members, may have hashed further, or be behind.
        let first = if whole.is_idle() { first } else { self.piece_length.piece_at(whole.next) };
        let at = self.piece_length.offset(first);
        let is_in_step = whole.next == at || whole.is_idle();
        if !is_in_step || !(0..first.0).all(|piece| self.stored.holds(PieceIndex(piece))) {
            return Ok(());
        }
        let stored = Arc::clone(&self.stored);
        let caught_up = self.context.disk.run(move || {
            let (mut later, mut buffer) = (later, Vec::new());
            for piece in 0..first.0 {
                stored.read_piece(PieceIndex(piece), &mut buffer)?;
                later.update(&buffer);
            }
            Ok::<_, StoreError>(later)
        });
        match caught_up.await {
            Ok(later) => {
                whole.next = at;
                match &mut whole.witness {
                    Some(known) => known.join(later),
                    None => whole.witness = Some(later),
                }
            }
            Err(error) => self.note(format!("what the origin declares is not checked: {error}")),
        }
        Ok(())
    }
}
