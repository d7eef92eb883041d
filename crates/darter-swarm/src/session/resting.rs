//! A lead waits for its origin if the origin asked for a pause, is slow, or serves other blobs first. Every few seconds the lead tells its
//! members that it waits; this time does not count as a stall. A member that leads others itself passes the message on.

use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId};
use darter_protocol::Message;

use super::{Output, Session};
use crate::{Facts, Leader};

/// How often members are told.
const SIGN_EVERY: Duration = Duration::from_secs(2);

/// A pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pause {
    until: Moment,
    /// When the members were last told.
    told: Moment,
    /// When to poll the pause again.
    due: Moment,
}

impl Session {
    /// The origin is not asked for anything for `pause`.
    pub(super) fn rests(&mut self, pause: Duration, now: Moment) {
        let until = now + pause;
        match &mut self.pause {
            Some(pause) => pause.until = pause.until.max(until),
            none => *none = Some(Pause { until, told: now, due: now }),
        }
    }

    /// The origin asked all readers of this agent to pause for `pause`.
    pub(super) fn is_asked_to_rest(&mut self, pause: Duration, now: Moment) {
        self.rest_until = self.rest_until.max(now + pause);
    }

    /// For how long the origin, as it asked, is not to be asked for anything.
    pub fn asked_to_rest(&self, now: Moment) -> Duration {
        self.rest_until.since(now)
    }

    pub(super) fn rest_due(&self) -> Option<Moment> {
        let sign = self.sign_due.filter(|_| self.waits_for_origin());
        self.pause.map(|pause| pause.due).into_iter().chain(sign).min()
    }

    /// True while a reader waits for the origin, or for its turn.
    fn waits_for_origin(&self) -> bool {
        self.pause.is_none() && self.is_reading()
    }

    fn sign(&self, facts: &dyn Facts) -> Option<Output> {
        let books = self.books.as_ref()?;
        let to = books.others();
        (!to.is_empty()).then(|| Output::Say { to, message: sign(facts, books.members_ask()) })
    }

    /// Tells the members that their lead waits for the origin.
    fn poll_sign(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        let has_members = || self.books.as_ref().is_some_and(|books| !books.others().is_empty());
        if self.leader() != Leader::Me || !self.course.is_open() || !has_members() {
            self.sign_due = None;
            return;
        }
        if now < *self.sign_due.get_or_insert(now + SIGN_EVERY) {
            return;
        }
        self.sign_due = Some(now + SIGN_EVERY);
        if self.waits_for_origin() {
            outputs.extend(self.sign(facts));
        }
    }

    pub(super) fn poll_rest(&mut self, facts: &dyn Facts, now: Moment, outputs: &mut Vec<Output>) {
        self.poll_sign(facts, now, outputs);
        let Some(pause) = self.pause.filter(|pause| pause.due <= now) else { return };
        self.vigil.excuse(now.since(pause.told), Duration::MAX);
        if now >= pause.until || !self.course.is_open() {
            self.pause = None;
            return;
        }
        self.pause = Some(Pause { told: now, due: pause.until.min(now + SIGN_EVERY), ..pause });
        outputs.extend(self.sign(facts));
    }

    /// The lead says that it waits for the origin: that time is not counted, up to `most`.
    pub(super) fn lead_waits(&mut self, lead: NodeId, most: Duration, facts: &dyn Facts, now: Moment) -> bool {
        let is_lead = self.following() == Some(lead);
        if is_lead {
            self.vigil.excuse(SIGN_EVERY, most);
            // Not more often than a lead says it: agents that follow each other in a circle would say it for ever.
            if self.passed_on.is_none_or(|last| now >= last + SIGN_EVERY / 2) {
                self.passed_on = Some(now);
                let sign = self.sign(facts);
                self.outputs.extend(sign);
            }
        }
        is_lead
    }
}

fn sign(facts: &dyn Facts, members_ask: bool) -> Message {
    let (blob, length): (BlobId, _) = (facts.blob(), facts.length());
    Message::Grew { blob, from: 0, hashes: Vec::new(), length, members_ask, proof: None }
}
