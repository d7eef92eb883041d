//! How a reader of the origin goes on when a run has ended: with the next run, with the same again after a pause, in another way that the origin may
//! support better (without ranges, from the first byte, with another caller's credentials), or not at all.
//!
//! Invariant: when a reader is done here, either the session has been told how the origin is to be read instead, or the transfer has ended.
//! [`reading`](super::reading) reads the runs; [`parts`](super::parts) decides what a failed range shows.

use std::sync::Arc;

use darter_core::source::Credentials;
use darter_core::{Moment, Source, in_full};
use darter_origin::{ErrorKind, OriginError, RetryPolicy};
use darter_swarm::Input;

use super::Transfer;
use super::body::{Leftover, RunEnd};
use super::manners::limits;
use super::parts::{FailedReading, Next};
use crate::error::FetchError;
use crate::expanding::HEAD;

/// How a run was begun.
pub(super) struct Attempt {
    /// True if a range was requested.
    pub(super) asked_part: bool,
    /// The credentials with which the origin was read.
    pub(super) caller: Credentials,
    /// When a byte had last arrived that was not here before.
    pub(super) progress_before: Moment,
}

impl Transfer {
    /// Handles the end of a run. Returns false if its reader is done.
    pub(super) async fn goes_on_after(self: &Arc<Self>, end: RunEnd, attempt: &Attempt, left: &mut Leftover) -> bool {
        match end {
            RunEnd::Replan => {
                (left.tries, left.reached, left.again) = (0, 0, 0);
                left.anew = self.must_compare(left);
                true
            }
            RunEnd::Whole(reading) => {
                let why = "the origin gave all of it though a part was requested: it serves no ranges";
                self.read_in_order(Some(reading), Some(why));
                false
            }
            RunEnd::Here(error) => {
                self.give_up(&error);
                self.clear_unfit().await;
                false
            }
            RunEnd::Origin(error) => self.goes_on_after_failure(error, attempt, left).await,
        }
    }

    /// Handles a failure of the origin: first what it may show of the content, then whether to try again.
    async fn goes_on_after_failure(
        self: &Arc<Self>,
        error: OriginError,
        attempt: &Attempt,
        left: &mut Leftover,
    ) -> bool {
        let is_another_version = self.is_another_version(&error);
        if is_another_version && left.is_on_errands() {
            self.reads_no_parts_after(&error);
            return false;
        }
        // No part of it can be told right from wrong.
        if self.is_all_wrong(&error) {
            self.dissolve(error.into()).await;
            return false;
        }
        let has_another_caller = is_refusal(&error) && self.state().callers.refused(&attempt.caller);
        if has_another_caller {
            let told = in_full(&error);
            self.note(format!("reading the origin: {told}; going on with another caller's credentials"));
            return true;
        }
        if self.is_contradicted(&error) || (is_another_version && left.anew) {
            let error = self.doubt_last_lead(error.into());
            self.supersede(error).await;
            return false;
        }
        if is_another_version {
            self.note(format!("reading the origin: {}; comparing it from the first byte on", in_full(&error)));
            (left.anew, left.assembly, left.again) = (true, None, 0);
            return true;
        }
        self.tries_again(error, attempt, left).await
    }

    /// Reads in another way what failed as a range; reads it again after a pause; or gives up.
    async fn tries_again(self: &Arc<Self>, error: OriginError, attempt: &Attempt, left: &mut Leftover) -> bool {
        let moved_on = left.progress > attempt.progress_before;
        let others_read = self.state().session.is_read_beside();
        let failed = FailedReading { asked_part: attempt.asked_part, moved_on, others_read };
        match left.parts.after(failed, &error) {
            Next::AsBefore => self.tries_after_pause(error, moved_on, left).await,
            Next::Whole | Next::Compared if left.is_on_errands() => {
                self.reads_no_parts_after(&error);
                false
            }
            Next::Whole => {
                let told = in_full(&error);
                self.note(format!("reading the origin by range: {told}; reading it from the first byte"));
                true
            }
            // No byte of that range can be relied on.
            Next::Compared => {
                let told = in_full(&error);
                self.note(format!("reading the origin by range: {told}; comparing it from the first byte on"));
                left.assembly = None;
                left.anew = matches!(self.source, Source::Url { .. });
                true
            }
        }
    }

    /// Errands need ranges that belong together, and this failure shows that the origin serves none.
    fn reads_no_parts_after(self: &Arc<Self>, error: &OriginError) {
        self.read_in_order(None, Some(&format!("reading a part of the origin: {error}")));
    }

    /// Pauses before the next try, and asks known holders meanwhile. Returns false if there is none: it gave up.
    async fn tries_after_pause(self: &Arc<Self>, error: OriginError, moved_on: bool, left: &mut Leftover) -> bool {
        if moved_on {
            left.tries = 0;
        }
        left.tries += 1;
        let spent = self.context.now().since(left.progress);
        let in_vain = left.tries > 1 && !self.is_wanted();
        let policy = RetryPolicy::patient(self.context.options.origin_patience);
        let Some(pause) = policy.pause(left.tries, spent, &error).filter(|_| !in_vain) else {
            let error = error.into();
            self.context.origin_failed(self.setback_key(), &error);
            self.give_up(&error);
            return false;
        };
        if limits(&error) {
            self.origin_is_read_alone(error.retry_after(), &in_full(&error).to_string());
            self.tell(Input::OriginAsksForRest(pause));
        }
        self.note(format!("reading the origin: {}; continuing", in_full(&error)));
        let _told = self.context.pauses.begin(&self.source, error.to_string(), pause);
        // If a holder does not answer within the pause, it is asked again in a later one.
        let asking = tokio::time::timeout(pause, self.meet_holders());
        let _ = tokio::join!(self.pause_reading(pause), asking);
        true
    }

    /// True if a failure shows that all received bytes are wrong or useless. For an expanded layer, whose digests are checked at the end, this
    /// is also the case if the bytes differ from those of an interrupted read: nothing shows which of the two is right.
    fn is_all_wrong(&self, error: &OriginError) -> bool {
        let is_of_no_use = matches!(error.kind(), ErrorKind::Unmountable | ErrorKind::Changed);
        (self.source.is_headed_last() && is_of_no_use) || *error.kind() == ErrorKind::Contradicted
    }

    /// The error if the store has no space for an expanded layer: what has passed through memory could be had again
    /// only by reading and expanding all of the layer.
    pub(super) fn unfit(&self) -> Option<OriginError> {
        let Source::Expanded(layer) = &self.source else { return None };
        let is_long = self.stored.length().is_none_or(|length| length > HEAD);
        (is_long && self.stored.passes()).then(|| self.context.expansions.has_no_room(layer))
    }

    /// Throws away the part of an expanded layer that has arrived if the layer does not fit, since it is useless.
    async fn clear_unfit(&self) {
        if !(self.source.is_headed_last() && self.stored.passes()) {
            return;
        }
        let stored = Arc::clone(&self.stored);
        if let Err(error) = self.context.disk.run(move || stored.discard()).await {
            tracing::error!(blob = %self.blob.short(), error = %in_full(&error), "the bytes of a blob that did not fit can't be removed");
        }
    }

    /// This agent can't lead this swarm to its end: the members look for another lead, the readers here get the error.
    pub(super) fn give_up(self: &Arc<Self>, error: &FetchError) {
        self.tell(Input::GivesUp(error.to_failure()));
        self.fail(error.clone());
    }
}

/// True if the origin does not accept these credentials, and may accept others.
pub(super) const fn is_refusal(error: &OriginError) -> bool {
    matches!(error.kind(), ErrorKind::Unauthorized { .. } | ErrorKind::Forbidden)
}
