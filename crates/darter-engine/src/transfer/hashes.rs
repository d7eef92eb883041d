//! Hashes from peers: signatures are checked, and the store gets the hashes, without the lock. Then the session is told.

use std::ops::Range;
use std::sync::Arc;

use darter_core::manifest::ManifestError;
use darter_core::{NodeId, PieceHash, Proof, in_full};
use darter_store::StoreError;
use darter_swarm::Input;
use darter_swarm::hashes::HashAnswer;

use super::{Lead, Transfer};

impl Transfer {
    /// Tells the session of hashes that the store has got, which may follow a gap.
    pub(super) fn learned_run(&self, run: Range<u32>) {
        self.tell(Input::Learned(run));
    }

    /// The lead sends hashes, perhaps with its signature for them and all earlier ones.
    pub(super) fn learn_hashes(
        &self,
        from: NodeId,
        first: u32,
        hashes: &[PieceHash],
        (members_ask, proof): (Option<bool>, Option<Proof>),
    ) {
        let told = self.stored.extend(first, hashes);
        let (count, taken) = (hashes.len() as u32, told.as_ref().ok().copied());
        self.tell(Input::LeadTold { first, count, proof, members_ask, taken });
        match told {
            Ok(_) => self.total_known(),
            Err(StoreError::Manifest { source: ManifestError::Gap { .. }, .. }) => {}
            Err(error) => self.lead_failed(from, &in_full(&error).to_string()),
        }
    }

    /// An agent other than the lead sends hashes, as the answer to a request.
    pub(super) fn told(&self, from: NodeId, first: u32, hashes: &[PieceHash], proof: Option<Proof>) {
        let Some(check) = self.state().session.hashes().check_for(from) else { return };
        let answer = match check.prove(first, hashes, proof) {
            HashAnswer::Proven(proven) => match self.stored.extend(proven.known, &hashes[proven.at..]) {
                Ok(_) => HashAnswer::Proven(proven),
                Err(error) => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "hashes were not taken");
                    HashAnswer::Useless
                }
            },
            other => other,
        };
        if matches!(answer, HashAnswer::Useless) {
            tracing::debug!(blob = %self.blob.short(), peer = %from.short(), "no hashes with the lead's word");
            self.context.metrics.hashes_refused.inc_by(hashes.len() as u64);
        }
        let is_new = matches!(answer, HashAnswer::Proven(_));
        self.tell(Input::HashesAnswered { by: from, answer });
        if is_new {
            self.total_known();
        }
    }

    /// The lead sends a run of hashes, or a member that was asked for hashes does.
    pub(super) fn hear_run(self: &Arc<Self>, from: NodeId, first: u32, hashes: &[PieceHash], proof: Option<Proof>) {
        let (is_lead, check) = {
            let state = self.state();
            let is_lead = state.lead() == Lead::Node(from);
            (is_lead, state.session.hashes().check_run(from, is_lead, first))
        };
        let Some(run) = check.prove(hashes, proof) else {
            self.context.metrics.hashes_refused.inc_by(hashes.len() as u64);
            return;
        };
        match self.stored.extend(first, hashes) {
            Ok(_) => {}
            // Its length is on its way, or the lead has been left.
            Err(StoreError::Manifest { source: ManifestError::Gap { .. }, .. }) => return,
            Err(error) if is_lead => return self.lead_failed(from, &error.to_string()),
            Err(error) => return tracing::debug!(blob = %self.blob.short(), %error, "a run of hashes was not taken"),
        }
        self.tell(Input::RunTaken { by: from, run, pieces: first..first + hashes.len() as u32 });
        self.changed.send_replace(());
    }
}
