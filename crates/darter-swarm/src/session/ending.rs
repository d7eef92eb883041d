//! How a blob's transfer ends, and what other agents are told of it.

use darter_core::NodeId;
use darter_protocol::{Failure, Message, Verdict};

use super::hearing::PendingRequest;
use super::{Output, Session};
use crate::{CheckedBy, Entering, Facts, Leader};

/// The reason for which an agent is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// This agent follows it: two agents that follow each other would wait for each other.
    Follows,
    /// The blob has ended here.
    Ended,
}

impl Session {
    /// The whole was checked, and is what it should be. Returns false if the blob has failed or is being deleted nevertheless.
    pub(super) fn completes(&mut self, verdict: Verdict, by: CheckedBy) -> bool {
        if !self.course.completes() {
            return false;
        }
        (self.verdict, self.checked_by) = (Some(verdict), by);
        if self.course.comes_at_once() {
            self.news.at_once();
        }
        self.outputs.push(Output::Completed);
        true
    }

    /// This agent can't lead the swarm any further: the members are to look for another lead.
    pub(super) fn gives_up(&mut self, failure: &Failure, facts: &dyn Facts) {
        let to = self.member_nodes();
        if !to.is_empty() {
            let message = Message::Failed { blob: facts.blob(), failure: failure.clone() };
            self.outputs.push(Output::Say { to, message });
        }
    }

    /// The bytes are deleted, unless they are being deleted already; if it `tells` members, they do the same.
    pub(super) fn dissolves(&mut self, tells: bool) -> bool {
        let begins = self.course.dissolves();
        if begins && tells {
            let to = self.member_nodes();
            self.outputs.push(Output::SayDissolved { to });
        }
        begins
    }

    /// Tells the swarm that this agent leaves.
    pub(super) fn leaves(&mut self, facts: &dyn Facts) {
        let blob = facts.blob();
        if let Leader::Node(lead) = self.leader() {
            self.say(lead, Message::Leave { blob });
        }
        if !self.met.is_empty() {
            let to = self.met.iter().copied().collect();
            self.outputs.push(Output::Say { to, message: Message::Part { blob } });
        }
    }

    /// The last outputs: messages that are still to be sent, withdrawals of all open requests, and rejections of nodes that wait to be admitted.
    pub fn end(&mut self) -> Vec<Output> {
        let mut outputs = std::mem::take(&mut self.outputs);
        outputs.retain(|it| {
            matches!(it, Output::Say { .. } | Output::SayDissolved { .. } | Output::Reject { .. } | Output::Completed)
        });
        outputs.extend(self.withdraw());
        self.reject_waiting(&mut outputs);
        outputs
    }

    /// Withdraws all open requests.
    pub(super) fn withdraw(&mut self) -> Vec<Output> {
        let asked = std::mem::take(&mut self.asked);
        asked.into_iter().map(|(request, PendingRequest { of, .. })| Output::Withdraw { request, of }).collect()
    }

    /// Admits none of the nodes that wait for it.
    pub(super) fn reject_waiting(&mut self, outputs: &mut Vec<Output>) {
        let waiting = self.books.as_mut().map(|books| books.take_entering()).unwrap_or_default();
        let reject = |Entering { node, request, .. }| Output::Reject { node, request, why: Rejection::Ended };
        outputs.extend(waiting.into_iter().map(reject));
    }

    /// The members of the swarm that this agent leads, without itself; empty if it leads none.
    pub fn member_nodes(&self) -> Vec<NodeId> {
        let members = self.books.as_ref().map(|books| books.lead().members()).unwrap_or_default();
        members.into_iter().filter(|node| *node != self.me).collect()
    }
}
