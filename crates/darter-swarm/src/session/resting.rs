//! A lead that waits for its origin on purpose, since the origin asked for a pause: its members are told so every few seconds, and the
//! pause is nobody's stall.

use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId};
use darter_protocol::Message;

use super::{Output, Session};
use crate::Facts;

/// How often members are told.
const SIGN_EVERY: Duration = Duration::from_secs(2);

/// A pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Moment,
    /// When the members were told last.
    told: Moment,
    /// When to look again.
    due: Moment,
}

impl Session {
    /// The origin is asked for nothing for so long.
    pub(super) fn rests(&mut self, pause: Duration, now: Moment) {
        let until = now + pause;
        match &mut self.pause {
            Some(pause) => pause.until = pause.until.max(until),
            none => *none = Some(Pause { until, told: now, due: now }),
        }
    }

    /// The origin asks to be left alone for so long, by whomever of those that read it for this agent.
    pub(super) fn is_asked_to_rest(&mut self, pause: Duration, now: Moment) {
        self.rest_until = self.rest_until.max(now + pause);
    }

    /// For how long the origin is to be asked for nothing, as it said.
    pub fn asked_to_rest(&self, now: Moment) -> Duration {
        self.rest_until.since(now)
    }

    pub(super) fn rest_due(&self) -> Option<Moment> {
        self.pause.map(|pause| pause.due)
    }

    pub(super) fn poll_rest(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        let Some(pause) = self.pause.filter(|pause| pause.due <= now) else { return };
        self.vigil.excuse(now.since(pause.told), Duration::MAX);
        if now >= pause.until || !self.course.is_open() {
            self.pause = None;
            return;
        }
        self.pause = Some(Pause { told: now, due: pause.until.min(now + SIGN_EVERY), ..pause });
        let Some(books) = &self.books else { return };
        let to = books.others();
        if !to.is_empty() {
            outputs.push(Output::Say { to, message: sign(facts, books.members_ask()) });
        }
    }

    /// The lead says that it waits for the origin on purpose: that time does not count, up to `most` of it.
    pub(super) fn lead_waits(&mut self, lead: NodeId, most: Duration) -> bool {
        let is_lead = self.following() == Some(lead);
        if is_lead {
            self.vigil.excuse(SIGN_EVERY, most);
        }
        is_lead
    }
}

fn sign(facts: &dyn Facts, members_ask: bool) -> Message {
    let (blob, length): (BlobId, _) = (facts.blob(), facts.length());
    Message::Grew { blob, from: 0, hashes: Vec::new(), length, members_ask, proof: None }
}
