//! After the last piece has arrived: checks the whole.
//!
//! Every piece was checked against the manifest, so the root over the manifest is the root of what is held. It remains to be shown that the manifest
//! is the right one. The lead shows it by the origin's own digest, if possible while it reads, and tells its members root and digest; a member compares
//! its root with the lead's. So SHA-256, the most expensive step, is computed once for the fleet. A member whose lead is gone, or that is configured to
//! trust no other agent (`verify_whole`), computes it itself, and so does a seed that follows a node.
//!
//! An expanded layer has no digest of its own: the lead has checked the tar, and made the rest, when it expanded it. Every other agent expands the tar
//! again and compares, whatever its lead says: an engine hashes what it pulls, but only the agent can check what is mounted. A layer that passes
//! through memory is never held whole, so for such a layer an agent has only the lead's word.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_api::Checked;
use darter_api::Role;
use darter_core::{Digest, Source, in_full};
use darter_image::{NotExpanded, check_expanded};
use darter_origin::ErrorKind;
use darter_store::StoreError;
use darter_swarm::{CheckedBy, Input};
use darter_wire::{Message, Verdict};

use super::Transfer;
use crate::error::FetchError;

/// How long the end waits for pieces that are stored but not counted yet.
const COUNTING_TIMEOUT: Duration = Duration::from_secs(2);

impl Transfer {
    /// Checks the whole and seals it, or throws it away.
    pub(super) async fn finish(self: Arc<Self>) {
        self.all_counted().await;
        match self.check_whole().await {
            Ok((verdict, by)) => {
                self.made_naming();
                self.seal(verdict, by).await;
            }
            Err(error @ FetchError::WrongDigest { .. }) => match self.mixed_versions(&error) {
                Some(changed) => self.supersede(changed).await,
                None => {
                    self.tell_lead(&error);
                    self.dissolve(error).await;
                }
            },
            Err(FetchError::Origin(failure)) if failure.kind == ErrorKind::Contradicted => {
                self.dissolve(FetchError::Origin(failure)).await;
            }
            Err(error) => self.unchecked(&error),
        }
        self.tell(Input::CheckEnded);
    }

    /// Waits until the journal has every piece: a duplicate can report the piece as held before the first copy is in the journal, and
    /// the journal of a complete blob should be complete.
    async fn all_counted(&self) {
        let mut changed = self.changed.subscribe();
        let counted =
            async { while self.counted_pieces() < self.stored.prefix() && changed.changed().await.is_ok() {} };
        // Pieces that a former transfer of this blob stored at its very end are in no journal.
        let _ = tokio::time::timeout(COUNTING_TIMEOUT, counted).await;
    }

    fn counted_pieces(&self) -> u32 {
        self.state().journal.pieces()
    }

    /// The whole could not be checked. Pieces that were found damaged are fetched, and the whole is checked again; if
    /// nothing is missing, another check would give the same result.
    fn unchecked(self: &Arc<Self>, error: &FetchError) {
        self.note(format!("checking the whole: {}", in_full(error)));
        self.note_losses();
        // The missing pieces may have arrived by now; the whole is checked again in any case.
        let was_missing = matches!(error, FetchError::Store(error)
            if matches!(**error, StoreError::Incomplete { .. } | StoreError::NotHeld { .. }));
        if was_missing {
            self.fetch_missing();
        } else if self.pieces() == Some(self.stored.held().len()) {
            self.give_up(error);
        }
    }

    async fn check_whole(self: &Arc<Self>) -> Result<(Verdict, CheckedBy), FetchError> {
        let root = self
            .manifest()
            .root()
            .ok_or_else(|| FetchError::Withdrawn { blob: self.blob, reason: "its manifest is not whole".to_owned() })?;
        let (verdict, by) = {
            let state = self.state();
            let (verdict, by) = state.session.verdict();
            (verdict.cloned(), by)
        };
        let expected = self.digest();
        let has_verdict = verdict.is_some();
        let agrees = |verdict: &Verdict| verdict.root == root && (expected.is_none() || verdict.digest == expected);
        let vouched = verdict.filter(agrees);
        if has_verdict && vouched.is_none() {
            self.note("the lead's verdict is about other bytes; checking the whole here");
        }
        let trusts_nobody = self.context.options.verify_whole || self.is_on_trust();
        let is_looked_at = trusts_nobody || (self.is_expanded() && !self.stored.passes());
        if let Some(verdict) = vouched.filter(|_| !is_looked_at) {
            return Ok((verdict, by));
        }
        if let Source::Expanded(layer) = &self.source {
            let has_read_all = self.has_read_all();
            if has_read_all {
                // The last piece was passed on only after both digests were found right.
                let expansions = &self.context.expansions;
                expansions.note_unpacked(layer);
                expansions.told(layer).into_iter().for_each(|told| self.note(told));
            }
            if trusts_nobody || !has_read_all {
                self.check_expanded(layer.diff_id).await?;
            }
            return Ok((Verdict { root, digest: None }, CheckedBy::Here));
        }
        let rest = self.hash_rest().await?;
        let streamed = rest.or_else(|| self.state().streamed_digest.take());
        let Some(expected) = expected else { return Ok((Verdict { root, digest: streamed }, CheckedBy::Here)) };
        let got = match streamed {
            Some(digest) => digest,
            None => self.hash_whole(expected).await?,
        };
        if got != expected {
            return Err(FetchError::refuted(expected, got, None));
        }
        Ok((Verdict { root, digest: Some(expected) }, CheckedBy::Here))
    }

    /// The digests of the whole that were checked, for a complete blob.
    pub(crate) fn checked(&self) -> Vec<Checked> {
        let state = self.state();
        let (verdict, by) = state.session.verdict();
        let verdict = verdict.filter(|_| state.is_complete());
        let digest = verdict.and_then(|verdict| verdict.digest);
        digest.into_iter().map(|digest| Checked { digest, by: told(by) }).collect()
    }

    /// Expands the tar once more, and compares all of the result with what was received: one layer at a time.
    async fn check_expanded(&self, expected: Digest) -> Result<(), FetchError> {
        let _turn = tokio::select! {
            turn = self.context.rechecks.layers.acquire() => turn,
            never = self.steps.keep_taking() => match never {},
        };
        let (stored, steps) = (Arc::clone(&self.stored), Arc::clone(&self.steps));
        let (blob, closed) = (self.blob, self.closed.clone());
        let checked = self.context.disk.run(move || {
            let length = stored.length().unwrap_or_default();
            check_expanded(length, &expected, |offset, buffer| {
                steps.take();
                if closed.is_cancelled() {
                    return Err(FetchError::Withdrawn { blob, reason: "its transfer was ended here".to_owned() });
                }
                Ok(stored.read_at(offset, buffer)?)
            })
        });
        match checked.await {
            Ok(()) => Ok(()),
            Err(NotExpanded::Read(error)) => Err(error),
            Err(NotExpanded::OtherTar { got }) => Err(FetchError::refuted(expected, *got, None)),
            Err(error) => {
                // The tar in it may be the right one: the digest of all that came shows that it is another file.
                self.note(format!("it is not the file that is made of its tar: {}", in_full(&error)));
                let got = self.hash_whole(Digest::sha256(&[])).await?;
                Err(FetchError::refuted(expected, got, None))
            }
        }
    }

    /// The digest of all bytes, by the algorithm of `like`.
    pub(crate) async fn hash_whole(&self, like: Digest) -> Result<Digest, FetchError> {
        let (stored, steps) = (Arc::clone(&self.stored), Arc::clone(&self.steps));
        Ok(self.context.disk.run(move || stored.hash_whole(&like, &|| steps.take())).await?)
    }

    async fn seal(self: &Arc<Self>, verdict: Verdict, by: CheckedBy) {
        let stored = Arc::clone(&self.stored);
        let root = verdict.root;
        if let Err(error) = self.context.disk.run(move || stored.seal(root)).await {
            return self.unchecked(&error.into());
        }
        let now = self.context.now();
        let digest = verdict.digest;
        {
            let mut state = self.state();
            if !state.session.handle(Input::Sealed { verdict, by }, &**self, now) {
                return;
            }
            state.journal.completed(now, digest);
            // This agent computed the hashes itself, so they stay right even if a piece is lost again.
            self.on_trust.store(false, Ordering::Release);
        }
        self.context.setbacks.clear(self.setback_key());
        self.changed.send_replace(());
        self.sendable.send_replace(());
        self.may_rest();
        let (archive, explanation) = (self.context.archive.clone(), self.explain());
        if let Err(error) = self.context.disk.run(move || archive.keep(&explanation)).await {
            tracing::warn!(blob = %self.blob.short(), error = %in_full(&error), "the explanation could not be written down");
        }
        tracing::info!(blob = %self.blob.short(), name = %self.source, "complete");
    }

    /// Tells seeds that the blob is complete. The driver sends this together with its other messages of that moment: for a small blob one write sends everything.
    pub(super) fn tell_seeds_of_whole(&self) {
        if self.context.options.role == Role::Node && self.source.names_content() && !self.stored.passes() {
            for seed in self.fleet.seeds() {
                self.fleet.say(seed, &Message::Inventory { blobs: vec![self.blob] });
            }
        }
    }
}

/// The kind of agent that checked the whole, for programs.
const fn told(by: CheckedBy) -> darter_api::CheckedBy {
    match by {
        CheckedBy::Earlier => darter_api::CheckedBy::Earlier,
        CheckedBy::Lead => darter_api::CheckedBy::Lead,
        CheckedBy::Here => darter_api::CheckedBy::Here,
    }
}
