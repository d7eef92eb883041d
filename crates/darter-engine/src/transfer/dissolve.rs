//! Content that does not match its digest: every member throws it away, and its sender is named.
//!
//! The lead finds this by the digest that it computes while it reads; a member finds it if its lead is gone. The sender is
//! the origin, through the agent that read it. A member that followed that agent, and led others, tells them so: it was deceived itself, and they ask it
//! again, once.

use std::sync::Arc;

use darter_core::{BlobId, NodeId, Source, in_full};
use darter_fleet::Fleet;
use darter_swarm::{Guilt, Input};
use darter_wire::Message;

use super::{Lead, Transfer};
use crate::error::FetchError;
use crate::setbacks::{Culprit, key_of};

impl Transfer {
    /// Starts to throw the blob away.
    pub(crate) fn throw_away(self: &Arc<Self>, error: FetchError) {
        let dissolving = Arc::clone(self);
        self.spawn(async move { dissolving.dissolve(error).await });
    }

    /// Throws the blob away here, and tells the members if this agent leads.
    pub(super) async fn dissolve(self: &Arc<Self>, error: FetchError) {
        let blob = self.blob;
        let mut error = error;
        let mut told = FetchError::Withdrawn { blob, reason: in_full(&error).to_string() };
        let culprit = self.culprit(&error);
        let is_wrong = if let FetchError::WrongDigest { from, reader, .. } = &mut error {
            from.clone_from(&culprit.from);
            *reader = Some(culprit.reader);
            told = error.clone();
            true
        } else {
            false
        };
        {
            let mut state = self.state();
            if !state.session.handle(Input::Dissolves { tells: true }, &**self, self.context.now()) {
                return;
            }
            state.dissolved_for = Some(told);
        }
        if is_wrong {
            self.context.wrong_content(self.setback_key(), blob, &culprit, &error);
        }
        if let Some(lead) = culprit.said_by {
            // An honest agent may be deceived once.
            self.let_down_by(lead, Guilt::Perhaps);
        }
        tracing::warn!(blob = %blob.short(), error = %in_full(&error), "dissolving a swarm");
        self.remember_thrown_away(&error);
        let stored = Arc::clone(&self.stored);
        if let Err(problem) = self.context.disk.run(move || stored.discard()).await {
            tracing::error!(blob = %blob.short(), error = %in_full(&problem), "a dissolved blob could not be removed");
        }
        self.end_with(error);
    }

    /// Keeps the explanation of a blob that is about to be removed.
    pub(super) fn remember_thrown_away(&self, error: &FetchError) {
        let mut told = self.explain();
        told.failed = Some(in_full(error).to_string());
        self.context.thrown_away.keep(&self.source, told);
    }

    /// True if `node`'s message about the content is about the bytes here: it was the last lead, nobody has led since, and this agent has
    /// read nothing.
    pub(super) fn came_by(&self, node: NodeId) -> bool {
        let state = self.state();
        state.session.was_lead(node) && state.session.has_read_nothing()
    }

    /// True if this agent read all of this blob from the origin.
    pub(super) fn has_read_all(&self) -> bool {
        let read = self.state().journal.traffic().from_origin;
        self.stored.length().is_some_and(|length| read >= length.max(1))
    }

    /// Tells members why the blob is thrown away.
    pub(super) fn say_dissolved(&self, to: &[NodeId]) {
        let Some(error) = self.state().dissolved_for.clone() else { return };
        to.iter().for_each(|node| refuse(&self.fleet, *node, None, self.blob, &error));
    }

    pub(super) fn setback_key(&self) -> BlobId {
        key_of(&self.source, self.state().callers.current())
    }

    /// Why this agent must not read the origin now.
    pub(super) fn setback(&self) -> Option<FetchError> {
        self.context.setbacks.refusal(self.setback_key(), self.context.me, self.context.now())
    }

    /// A lead's error. If it is about wrong content, the lead's name is added, and nobody asks the lead again for a while.
    pub(super) fn told_by(&self, lead: NodeId, mut error: FetchError) -> FetchError {
        if matches!(error, FetchError::WrongDigest { .. }) {
            let culprit = told_wrong(&self.source, &self.fleet, lead, &error);
            if let FetchError::WrongDigest { from, .. } = &mut error {
                from.clone_from(&culprit.from);
            }
            self.context.wrong_content(self.setback_key(), self.blob, &culprit, &error);
        }
        error
    }

    /// The sender of the wrong content. Its lead may have reported by whom it was deceived itself.
    fn culprit(&self, error: &FetchError) -> Culprit {
        let lead = {
            let state = self.state();
            match state.lead() {
                Lead::Node(lead) => Some(lead),
                // The last lead read it, even if it is lost, unless this agent read a part.
                Lead::Me | Lead::Nobody if state.session.has_read_nothing() => {
                    state.session.leadership().last_followed()
                }
                Lead::Me | Lead::Nobody => None,
            }
        };
        match lead {
            Some(lead) => told_wrong(&self.source, &self.fleet, lead, error),
            None => read_wrong(&self.source, self.context.me, "this agent"),
        }
    }
}

/// Tells a member why it can't have a blob any more or, if this answers its `request`, why it is not let in; in a form that its version of the
/// protocol supports.
pub(crate) fn refuse(fleet: &Fleet, node: NodeId, request: Option<u32>, blob: BlobId, error: &FetchError) {
    if let FetchError::WrongDigest { expected, got, reader, .. } = error {
        let reader = reader.filter(|reader| *reader != fleet.me().node);
        if fleet.say(node, &Message::Refuted { request, blob, expected: **expected, got: **got, reader }) {
            return;
        }
    }
    let older = match request {
        Some(request) => Message::Rejected { request, failure: error.to_failure() },
        None => Message::Dissolved { blob, reason: error.to_string() },
    };
    fleet.say(node, &older);
}

/// The origin of a source, as read by `reader`.
pub(crate) fn read_wrong(source: &Source, reader: NodeId, title: &str) -> Culprit {
    let source = origin_of(source);
    Culprit { reader, said_by: None, from: format!("{source}, read by {title}"), source }
}

/// The origin of a source, as read by `lead`, or by another agent by which `lead` says that it was deceived.
pub(crate) fn told_wrong(source: &Source, fleet: &Fleet, lead: NodeId, error: &FetchError) -> Culprit {
    let FetchError::WrongDigest { reader: Some(reader), .. } = error else {
        return read_wrong(source, lead, &fleet.title(lead));
    };
    // This agent knows what it did itself.
    if *reader == lead || *reader == fleet.me().node {
        return read_wrong(source, lead, &fleet.title(lead));
    }
    let title = format!("{}, says {}", fleet.title(*reader), fleet.title(lead));
    Culprit { said_by: Some(lead), ..read_wrong(source, *reader, &title) }
}

/// The host of an origin, for logs: the address may contain more than should be logged.
pub(crate) fn origin_of(source: &Source) -> String {
    let url = source.address();
    let host = url.host_str().unwrap_or(url.scheme());
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
