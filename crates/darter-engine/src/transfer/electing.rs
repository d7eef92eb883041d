//! Finding another lead when the one that was followed is gone, and handing the swarm back to a seed that comes.
//!
//! What to do next is [`Leadership`](darter_swarm::Leadership)'s to say; here it is done: candidates are asked to let this agent in, agents
//! are asked around for who leads.

use std::sync::Arc;

use darter_api::Role;
use darter_core::NodeId;
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Loss, Phase, Start, Step};
use darter_wire::{Failure, FailureKind, PeerInfo};

use super::{Outcome, Transfer};
use crate::error::FetchError;
use crate::let_downs::How;

impl Transfer {
    /// The lead is gone, gave up, or does not answer: find another.
    pub(crate) fn lead_failed(self: &Arc<Self>, lead: NodeId, why: &str) {
        self.lose_lead(lead, why, Loss::Failed);
    }

    /// The lead let this agent in and gave nothing.
    pub(super) fn lead_mute(self: &Arc<Self>, lead: NodeId, why: &str) {
        self.lose_lead(lead, why, Loss::Mute);
    }

    /// The lead can't go on.
    pub(super) fn lead_gave_up(self: &Arc<Self>, lead: NodeId, failure: Failure) {
        let text = failure.text.clone();
        // The next lead would ask an origin that asked to be left alone. Of a node that is no more than its word.
        if failure.kind == FailureKind::RateLimited
            && self.fleet.is_seed(lead)
            && let Some(error) = FetchError::from_failure(failure)
        {
            return self.give_up(&error);
        }
        self.lead_failed(lead, &text);
    }

    /// The lead is well but knows nothing of this agent's part in the swarm.
    pub(super) fn lead_forgot(self: &Arc<Self>, lead: NodeId) {
        self.lose_lead(lead, "it no longer knows of this swarm or of its members", Loss::Forgot);
    }

    fn lose_lead(self: &Arc<Self>, lead: NodeId, why: &str, loss: Loss) {
        let now = self.context.now();
        let is_hearsay = {
            let mut state = self.state.lock();
            if !state.session.lost_lead(lead, loss, now) {
                return;
            }
            if !state.session.course.is_open() {
                return;
            }
            let addr = self.fleet.address(lead);
            state.journal.note(now, format!("lost the lead {addr} ({why})"));
            !state.follows_seed && state.session.course.phase() != Phase::Arriving && loss != Loss::Forgot
        };
        // Of what a node said of this blob nothing was ever borne out. A transfer that goes on by those hashes might never end.
        if is_hearsay && self.stored.held().is_empty() && self.stored.known_count() > 0 {
            let (transfer, why) = (Arc::clone(self), why.to_owned());
            self.tasks.spawn(async move { transfer.start_over_without(lead, How::Perhaps, why).await });
            return;
        }
        if self.is_on_trust() {
            let (transfer, why) = (Arc::clone(self), why.to_owned());
            self.tasks.spawn(async move { transfer.end_trust(&why).await });
            return;
        }
        self.elect();
    }

    /// Throws away what a node said of this blob, and what came by that. Readers that wait are given what the next try brings.
    async fn end_trust(self: &Arc<Self>, why: &str) {
        let reason = format!("the node that gave it can't go on ({why})");
        self.dissolve(FetchError::Withdrawn { blob: self.blob, reason }).await;
    }

    /// Finds a lead, unless that is under way or somebody leads.
    pub(crate) fn elect(self: &Arc<Self>) {
        if !self.state.lock().session.leadership.begin_search() {
            return;
        }
        let electing = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut holders = Vec::new();
            // The step that ends the search is taken under the lock: whoever finds the lead gone after it begins another.
            while let Some(step) = electing.next_step().await {
                if !electing.take_step(step, &mut holders).await {
                    electing.state.lock().session.leadership.end_search();
                    return;
                }
            }
        });
    }

    /// The next step to find a lead; `None` when the search has ended.
    async fn next_step(&self) -> Option<Step> {
        self.is_dissolved().await;
        let seeds = self.fleet.seeds();
        let mut state = self.state.lock();
        if !state.session.course.is_open() {
            state.session.leadership.end_search();
            return None;
        }
        match state.session.next_step(&seeds, |node| self.fleet.peer(node).is_some()) {
            Step::End => None,
            step => Some(step),
        }
    }

    /// Does it; false if this transfer is over, and with it the search. `holders` are those that were found meanwhile.
    async fn take_step(self: &Arc<Self>, step: Step, holders: &mut Vec<PeerInfo>) -> bool {
        match step {
            Step::End => {}
            Step::Rest(pause) => {
                let _ = tokio::time::timeout(pause, self.closed.cancelled()).await;
                if !self.is_wanted() {
                    let reason = "nobody waits for it, and no agent leads it".to_owned();
                    self.give_up(&FetchError::Withdrawn { blob: self.blob, reason });
                    return false;
                }
            }
            Step::Survey => {
                let failed = self.state.lock().session.leadership.failed().collect();
                let survey = self.fleet.survey_without(self.blob, Some(self.blob), failed).await;
                *holders = survey.holders;
                self.state.lock().session.leadership.found(survey.heard.into());
            }
            Step::Ask(node) => return self.ask_to_lead(node, holders).await,
            Step::Lead if self.is_on_trust() => {
                self.end_trust("no other is found").await;
                return false;
            }
            Step::Lead => {
                if let Some(error) = self.setback() {
                    self.give_up(&error);
                    return false;
                }
                self.note("leading the swarm from here on");
                self.context.metrics.back_to_source.inc();
                self.lead_it(Start::TakeOver, None);
            }
        }
        true
    }

    /// Asks an agent to lead, and follows it; false if this transfer is over.
    async fn ask_to_lead(self: &Arc<Self>, node: NodeId, holders: &[PeerInfo]) -> bool {
        match tokio::time::timeout(JOIN_TIMEOUT, self.join_again(node)).await {
            Ok(Ok(())) => {
                self.meet_also(holders);
                return true;
            }
            // The pieces here came by way of that agent.
            Ok(Err(error @ FetchError::WrongDigest { .. })) if self.came_by(node) => {
                self.dissolve(error).await;
                return false;
            }
            Ok(Err(error)) => self.note(format!("{} does not lead: {error}", self.fleet.address(node))),
            Err(_) => {
                self.note(format!("{} does not answer", self.fleet.address(node)));
                self.state.lock().session.leadership.silent(node);
                return true;
            }
        }
        self.state.lock().session.leadership.refused(node);
        true
    }

    /// While the origin fails: nodes that hold all of the blob can give it. One may be back that was lost, or be new.
    pub(super) async fn meet_holders(&self) {
        if self.context.options.role == Role::Node {
            let survey = self.fleet.survey(self.source.key(), Some(self.blob)).await;
            self.meet_also(&survey.holders);
        }
    }

    /// A seed is connected (again): it leads, unless a seed does.
    pub(crate) fn seed_returned(self: &Arc<Self>, seed: NodeId) {
        let may_lead = self.state.lock().session.leadership.seed_came(seed, |lead| self.fleet.is_seed(lead));
        if !may_lead || !matches!(self.outcome(), Outcome::Open) {
            return;
        }
        let transfer = Arc::clone(self);
        self.tasks.spawn(async move {
            match tokio::time::timeout(JOIN_TIMEOUT, transfer.join_again(seed)).await {
                Ok(Ok(())) => transfer.note(format!("the seed {} leads again", transfer.fleet.address(seed))),
                Ok(Err(FetchError::Withdrawn { .. })) | Err(_) => {}
                Ok(Err(error)) => transfer.note(format!("the seed came back but does not lead: {error}")),
            }
        });
    }
}
