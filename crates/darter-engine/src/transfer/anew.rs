//! Starting over: an origin whose answer can't be continued is read from its first byte, and compared with what is known.
//!
//! After a broken connection, or an answer of another version, the content may still be the same: an origin may have no validators, a
//! weak entity tag or one for each of its replicas, and send the same bytes. The hashes of the known pieces
//! show it. If they match, reading goes on after them; if one does not, the origin has another version: this
//! blob is thrown away at every member, and readers that ask again get a new one.
//!
//! Content with a digest is continued by range even if only the digest will show whether the parts belong together. If the digest does not match,
//! the content is read from the start; it counts as wrong only if it has the same wrong digest a second time.
//!
//! Not for registries: their blobs are named by digest, and have one version.

use std::sync::Arc;

use darter_core::manifest::hash_piece;
use darter_core::{PieceIndex, Source, in_full};
use darter_origin::{ErrorKind, OriginError, OriginFailure};
use darter_swarm::{Input, OriginRun};
use darter_wire::Failure;

use super::body::{Assembly, RunEnd};
use super::{Outcome, Transfer};
use crate::error::FetchError;

impl Transfer {
    /// True if bytes from the middle of the origin can be checked, now or at the end, to be of the same version.
    pub(super) fn can_be_continued(&self) -> bool {
        let strong = self.version.etag.as_deref().is_some_and(|etag| !etag.starts_with("W/"));
        self.digest().is_some() || strong || self.version.last_modified.is_some()
    }

    /// Notes that parts of several answers are combined: the digest has to show that they belong together.
    pub(super) fn joined_parts(&self) {
        self.state().joined_parts = matches!(self.source, Source::Url { .. });
    }

    /// The error for content whose digest does not match although each part of it may be right, because they may be of two versions. `None` if the content is wrong: another
    /// reading gave the same bytes.
    pub(super) fn mixed_versions(&self, error: &FetchError) -> Option<FetchError> {
        let FetchError::WrongDigest { expected, got, .. } = error else { return None };
        let joined = self.state().joined_parts;
        let may_differ =
            joined && !self.context.setbacks.came_to_the_same(self.setback_key(), **got, self.context.now());
        let text = || {
            format!(
                "what came of {} has the digest {got}, and not {expected}: either that digest is another content's, or it changed while it was being read; \
                 ask again, and if it comes to the same, ask with that digest, or with none, for what is there",
                self.source
            )
        };
        may_differ.then(|| OriginError::new(ErrorKind::Changed, text()).into())
    }

    /// True if an error shows that the origin may have another version than before.
    pub(super) fn is_another_version(&self, error: &OriginError) -> bool {
        matches!(self.source, Source::Url { .. }) && *error.kind() == ErrorKind::Changed
    }

    /// True if a registry contradicts what was known of a blob, its length or the hash of a piece: one of the two is wrong, and neither can be
    /// completed.
    pub(super) fn is_contradicted(&self, error: &OriginError) -> bool {
        matches!(self.source, Source::Registry { .. }) && *error.kind() == ErrorKind::Changed
    }

    /// How a run ends whose answer has a length that was refused.
    pub(super) fn wrong_length(&self, error: FetchError) -> RunEnd {
        match error {
            FetchError::Store(_) if matches!(self.source, Source::Url { .. }) => self.changed_end(),
            error => RunEnd::Here(error),
        }
    }

    /// How a run ends whose body ended among the known pieces.
    pub(super) fn ended_before(&self, run: OriginRun, assembly: &Assembly) -> RunEnd {
        if self.stored.length().is_none() {
            return self.changed_end();
        }
        let text = format!("{} ended within piece {}, before {}", self.source, assembly.piece, run.first);
        RunEnd::Origin(OriginError::new(ErrorKind::Truncated, text))
    }

    /// Compares the current piece with its known hash, and goes on to the next one.
    pub(super) async fn compare_piece(&self, assembly: &mut Assembly) -> Option<RunEnd> {
        let (piece, piece_length) = (assembly.piece, self.piece_length);
        let Some(known) = self.stored.hash(piece) else { return Some(self.changed_end()) };
        let only = self.stored.length().is_some_and(|length| piece_length.count(length) == 1);
        let bytes = std::mem::take(&mut assembly.bytes);
        let mut hashing = self.whole.take_at(piece_length.offset(piece));
        let compared = tokio::task::spawn_blocking(move || {
            if let Some(hashing) = &mut hashing {
                if let Some(witness) = &mut hashing.witness {
                    witness.update(&bytes);
                }
                hashing.update(&bytes);
            }
            (hash_piece(piece_length, piece, &bytes, only) == known, bytes, hashing)
        });
        let (is_same, mut bytes, hashing) = compared.await.expect("hashing does not panic");
        if !is_same {
            if hashing.is_some() {
                self.whole.lose();
            }
            return Some(self.changed_end());
        }
        if let Some(hashing) = hashing {
            // The following pieces are compared as well, with these bytes.
            self.whole.give_back(hashing);
        }
        bytes.clear();
        (assembly.bytes, assembly.piece) = (bytes, PieceIndex(piece.0 + 1));
        None
    }

    /// The origin has another version now: readers of this one have to ask again. The pieces of the old version are thrown away,
    /// since it can't be completed.
    pub(super) async fn supersede(self: &Arc<Self>, error: FetchError) {
        if !matches!(self.outcome(), Outcome::Open) {
            return;
        }
        tracing::info!(blob = %self.blob.short(), name = %self.source, error = %in_full(&error), "reading the origin from the start again");
        self.remember_thrown_away(&error);
        self.tell(Input::GivesUp(error.to_failure()));
        let stored = Arc::clone(&self.stored);
        if let Err(problem) = self.context.disk.run(move || stored.discard()).await {
            tracing::error!(blob = %self.blob.short(), error = %in_full(&problem), "a former version could not be removed");
        }
        self.end_with(error);
    }

    /// The lead has found that the origin has another version now.
    pub(super) fn superseded(self: &Arc<Self>, failure: Failure) {
        let failure = OriginFailure::new(ErrorKind::Changed, failure.text);
        let transfer = Arc::clone(self);
        self.spawn(async move { transfer.supersede(FetchError::Origin(failure)).await });
    }

    fn changed_end(&self) -> RunEnd {
        RunEnd::Origin(OriginError::new(ErrorKind::Changed, self.changed_text()))
    }

    fn changed_text(&self) -> String {
        format!("{} changed while it was being read: ask again for the new version", self.source)
    }
}
