//! Finds another lead when the lead is gone, and hands the swarm back to a seed that comes.
//!
//! The session decides the next step ([`Output::Seek`](darter_swarm::Output)), which is carried out here: candidates are asked to let this agent
//! in, agents are asked which of them leads.

use std::sync::Arc;
use std::time::Duration;

use darter_api::Role;
use darter_core::NodeId;
use darter_swarm::leadership::JOIN_TIMEOUT;
use darter_swarm::{Guilt, Input, Loss, Sought, Start, Step};

use super::{Outcome, Transfer};
use crate::error::FetchError;

impl Transfer {
    /// The lead is gone, gave up, or does not answer: another one has to be found.
    pub(crate) fn lead_failed(&self, lead: NodeId, why: &str) {
        self.tell(Input::LeadLost { lead, loss: Loss::Failed, why: why.to_owned() });
    }

    /// The session has found that the lead is lost.
    pub(super) fn lead_lost(&self, lead: NodeId, loss: Loss, lets_down: bool, why: &str) {
        if matches!(loss, Loss::Mute | Loss::Stalled) {
            tracing::warn!(blob = %self.blob.short(), why, "leaving the agent that led this download");
        }
        if lets_down {
            self.let_down_by(lead, if loss == Loss::Mute { Guilt::Sure } else { Guilt::Perhaps });
        }
        self.note(format!("lost the lead {} ({why})", self.fleet.address(lead)));
    }

    /// Throws away what a node said of this blob, and the pieces that came with that. Waiting readers get their bytes from the next try.
    pub(super) fn end_trust(self: &Arc<Self>, why: &str) {
        let reason = format!("the node that gave it can't go on ({why})");
        let ending = Arc::clone(self);
        self.spawn(async move { ending.dissolve(FetchError::Withdrawn { blob: ending.blob, reason }).await });
    }

    /// Takes a step to find a lead. The session is told the result, if this transfer goes on.
    pub(super) fn seek(self: &Arc<Self>, step: Step) {
        let seeking = Arc::clone(self);
        match step {
            Step::End => {}
            Step::Rest(pause) => {
                self.spawn(async move { seeking.rest(pause).await });
            }
            Step::Survey => {
                self.spawn(async move { seeking.ask_around().await });
            }
            Step::Ask(node) => {
                self.spawn(async move { seeking.ask_to_lead(node).await });
            }
            Step::Lead if self.is_on_trust() => self.end_trust("no other is found"),
            Step::Lead => {
                if let Some(error) = self.setback() {
                    return self.give_up(&error);
                }
                self.note("leading the swarm from here on");
                self.context.metrics.back_to_source.inc();
                self.lead_it(Start::TakeOver, None);
            }
        }
    }

    async fn rest(self: &Arc<Self>, pause: Duration) {
        let _ = tokio::time::timeout(pause, self.closed.cancelled()).await;
        if !self.is_wanted() {
            let reason = "nobody waits for it, and no agent leads it".to_owned();
            return self.give_up(&FetchError::Withdrawn { blob: self.blob, reason });
        }
        self.tell(Input::Sought(Sought::Done));
    }

    async fn ask_around(&self) {
        let failed = self.state().session.leadership().failed().collect();
        let survey = self.fleet.survey_without(self.blob, Some(self.blob), failed).await;
        self.tell(Input::Sought(Sought::Found { found: survey.heard.into(), holders: survey.holders }));
    }

    /// Asks an agent to lead, and follows it.
    async fn ask_to_lead(self: &Arc<Self>, node: NodeId) {
        let how = match tokio::time::timeout(JOIN_TIMEOUT, self.join_again(node)).await {
            Ok(Ok(())) => Sought::Done,
            // The pieces here came from that agent.
            Ok(Err(error @ FetchError::WrongDigest { .. })) if self.came_by(node) => return self.dissolve(error).await,
            Ok(Err(error)) => {
                self.note(format!("{} does not lead: {error}", self.fleet.address(node)));
                Sought::Refused(node)
            }
            Err(_) => {
                self.note(format!("{} does not answer", self.fleet.address(node)));
                Sought::Silent(node)
            }
        };
        self.tell(Input::Sought(how));
    }

    /// While the origin fails: connects with nodes that hold all of the blob and can give it. One that was lost may be back, or a new one may have appeared.
    pub(super) async fn meet_holders(&self) {
        if self.context.options.role == Role::Node {
            let survey = self.fleet.survey(self.source.key(), Some(self.blob)).await;
            self.meet_also(&survey.holders);
        }
    }

    /// A seed is connected (again), and should lead.
    pub(super) fn return_to(self: &Arc<Self>, seed: NodeId) {
        if !matches!(self.outcome(), Outcome::Open) {
            return;
        }
        let transfer = Arc::clone(self);
        self.spawn(async move {
            match tokio::time::timeout(JOIN_TIMEOUT, transfer.join_again(seed)).await {
                Ok(Ok(())) => transfer.note(format!("the seed {} leads again", transfer.fleet.address(seed))),
                Ok(Err(FetchError::Withdrawn { .. })) | Err(_) => {}
                Ok(Err(error)) => transfer.note(format!("the seed came back but does not lead: {error}")),
            }
        });
    }
}
