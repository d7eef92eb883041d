//! A member of a swarm: follows a lead, and receives messages and pieces from its peers.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Blamed as _, Fault, NodeId, PieceIndex, in_full};
use darter_fleet::Peer;
use darter_metrics::Packed;
use darter_store::Put;
use darter_swarm::{Came, Input, LetIn, RequestId};
use darter_wire::{Answer, Held, Message, PeerInfo, PieceData};

use super::{Lead, Transfer};
use crate::error::FetchError;
use crate::joins::{Entered, JoinQuestion, Joined};

/// How long a piece that arrived before its hash waits for it. Pieces that the lead chose may: the hash was sent, or is being requested.
const HASH_TIMEOUT: Duration = Duration::from_secs(5);

impl Transfer {
    /// Follows a lead that let this agent in. A lead that uses another piece length is not followed.
    pub(crate) fn follow(self: &Arc<Self>, lead: NodeId, mut joined: Joined) {
        if joined.piece_length != self.piece_length || self.is_complete() {
            return;
        }
        // If the lead has gone by now, it is left below, and nothing is taken from it.
        let peer = self.fleet.peer(lead);
        let whole = joined.whole.take().zip(peer);
        let let_in = LetIn {
            lead,
            key: joined.key,
            members_ask: joined.members_ask,
            neighbours: joined.neighbours,
            verdict: joined.verdict,
            arrives: whole.is_some(),
        };
        let now = self.context.now();
        // The driver must not request what came with the answer.
        let follows = self.state().session.handle(Input::LetIn(let_in), &**self, now);
        if !follows {
            return;
        }
        if let Some(length) = joined.length {
            self.learn_length(lead, length);
        }
        self.learn_hashes(lead, 0, &joined.hashes, (None, joined.proof));
        if let Some((whole, peer)) = whole {
            let transfer = Arc::clone(self);
            self.spawn(async move { transfer.take_whole(&peer, whole).await });
        }
        // The lead may have gone before this agent followed it, and then no event will say so.
        if self.fleet.peer(lead).is_none() {
            self.lead_failed(lead, "connection lost");
        }
    }

    /// Asks an agent to lead this transfer, and follows it.
    pub(super) async fn join_again(self: &Arc<Self>, lead: NodeId) -> Result<(), FetchError> {
        let (is_seed, downs) = (self.fleet.is_seed(lead), &self.context.let_downs);
        if downs.lock().is_barred(self.setback_key(), lead, is_seed, self.context.now()) {
            let reason = "agents that led it gave nothing".to_owned();
            return Err(FetchError::Withdrawn { blob: self.blob, reason });
        }
        let (credentials, everything) = {
            let state = self.state();
            (state.callers.current().clone(), state.session.is_all_wanted())
        };
        let held = Some(Held { blob: self.blob, pieces: self.stored.held() });
        let (source, size) = (self.source.clone(), self.context.expansions.named_size(&self.source));
        let asked = JoinQuestion { source, credentials, held, everything, size };
        match self.joins.ask(&self.fleet, lead, asked).await {
            Ok(Entered::Followed { blob, .. }) if blob == self.blob && self.lead() == Lead::Node(lead) => {
                self.note(format!("following {}", self.fleet.address(lead)));
                Ok(())
            }
            Ok(_) => {
                let reason = "the origin has another version now".to_owned();
                Err(FetchError::Withdrawn { blob: self.blob, reason })
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                let error = refusal.final_word().unwrap_or(FetchError::Withdrawn { blob: self.blob, reason });
                Err(self.told_by(lead, error))
            }
        }
    }

    /// A peer sent a message about this blob.
    pub(crate) fn hear(self: &Arc<Self>, from: NodeId, message: Message) {
        match message {
            Message::Grew { from: first, hashes, length, members_ask, proof, .. }
                if self.lead() == Lead::Node(from) =>
            {
                if hashes.is_empty() {
                    let most = self.context.most_waiting(self.fleet.is_seed(from));
                    self.tell(Input::LeadWaits { lead: from, most });
                }
                // The lead sends the length with each message, and it is new only once.
                if let Some(length) = length.filter(|length| self.stored.length() != Some(*length)) {
                    self.learn_length(from, length);
                }
                self.learn_hashes(from, first, &hashes, (Some(members_ask), proof));
            }
            Message::Grew { from: first, hashes, proof, .. } => self.told(from, first, &hashes, proof),
            Message::Run { from: first, hashes, proof, .. } => self.hear_run(from, first, &hashes, proof),
            Message::Touched { pieces, .. } => self.hear_touched(from, pieces),
            Message::Profile { pieces, wants, .. } => self.hear_profile(from, pieces, wants),
            Message::Naming { names_all, .. } => self.hear_naming(from, names_all),
            message => self.tell(Input::Said { by: from, message }),
        }
    }

    /// A peer's connection is closed.
    pub(crate) fn peer_gone(self: &Arc<Self>, node: NodeId) {
        self.tell(Input::Gone(node));
        self.lead_failed(node, "connection lost");
    }

    /// A peer is connected that may be worth a Meet.
    pub(crate) fn peer_came(&self, node: NodeId, is_seed: bool) {
        self.tell(Input::Connected(node));
        if is_seed {
            self.tell(Input::SeedCame(node));
        }
    }

    /// A peer answered a request.
    pub(crate) async fn answered(self: &Arc<Self>, peer: &Peer, request: RequestId, answer: Answer) {
        match answer {
            Answer::Begun { .. } => {}
            Answer::Data { piece, data, .. } => self.take_piece(peer, request, piece, data).await,
            Answer::None { reason, wanted, .. } => {
                let by = peer.hello.node;
                tracing::trace!(blob = %self.blob.short(), peer = %by.short(), ?reason, "refused");
                self.tell(Input::Refused { request, by, wanted, reason });
            }
        }
    }

    async fn take_piece(self: &Arc<Self>, peer: &Peer, request: RequestId, piece: PieceIndex, data: PieceData) {
        let from = peer.hello.node;
        self.wait_for_hash(piece, from).await;
        let (bytes, wire) = (u64::from(data.plain_length()), u64::from(data.wire_length()));
        self.count_received(peer, wire);
        let packed = match &data {
            PieceData::Packed(packed) => Some(packed.piece().clone()),
            PieceData::Plain(_) => None,
        };
        if packed.is_some() {
            self.context.metrics.packed(Packed::Received, bytes, wire);
        }
        let stored = Arc::clone(&self.stored);
        if stored.is_crowded(PieceIndex(u32::MAX)) && self.is_read_in_parts() {
            self.let_go_aside(None, Duration::ZERO).await;
        }
        let mut forgotten = Ok(());
        if stored.is_crowded(PieceIndex(u32::MAX)) {
            let needed = self.needed_from(Duration::ZERO);
            forgotten = self.context.disk.run(move || stored.forget(needed)).await;
        }
        let put = match forgotten {
            Ok(()) => self.storing.put(&self.context.disk, &self.stored, piece, data).await,
            Err(error) => Err(error),
        };
        match put {
            Ok(Put::Stored) => {
                if let Some(packed) = packed {
                    self.context.packed.came(self.stored.hash(piece), &packed);
                }
                self.hash_if_next(piece);
                self.stored_piece(piece, bytes, Some(request), peer.giver());
            }
            Ok(Put::AlreadyHeld) => {
                self.tell(Input::Again(Came { piece, bytes, request: Some(request), from: Some(from) }));
            }
            Err(error) => match error.blame().fault {
                Fault::Peer => {
                    tracing::warn!(blob = %self.blob.short(), peer = %from.short(), %piece, "a peer sent a wrong piece");
                    self.context.metrics.pieces_corrupt.inc();
                    self.tell(Input::Wrong { by: from, request, piece });
                }
                // Another request for the piece would fail in the same way.
                Fault::Disk => self.give_up(&error.into()),
                _ => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "a piece was not stored");
                    self.tell(Input::Unanswered { request });
                }
            },
        }
    }

    /// Counts bytes that crossed the wire.
    fn count_received(&self, from: &Peer, bytes: u64) {
        self.context.metrics.peer_received(from.is_seed(), from.tier, bytes);
        self.context.tiers.came(from.tier, bytes);
    }

    async fn wait_for_hash(&self, piece: PieceIndex, giver: NodeId) {
        if self.stored.hash(piece).is_some() {
            return;
        }
        self.tell(Input::Early { by: giver, piece });
        let mut changed = self.changed.subscribe();
        let known = async { while self.stored.hash(piece).is_none() && changed.changed().await.is_ok() {} };
        // If the hash does not arrive in time, the store refuses the piece, and it is requested again.
        let _ = tokio::time::timeout(HASH_TIMEOUT, known).await;
    }

    fn learn_length(self: &Arc<Self>, from: NodeId, length: u64) {
        match self.stored.set_length(length) {
            Ok(()) => self.total_known(),
            Err(error) => self.lead_failed(from, &in_full(&error).to_string()),
        }
    }

    /// Connects with these peers, too: they hold pieces although the lead may not know it.
    pub(crate) fn meet_also(&self, holders: &[PeerInfo]) {
        if !holders.is_empty() {
            self.tell(Input::Found(holders.to_vec()));
        }
    }

    /// Stores the pieces that came with the lead's answer; they are few and small.
    async fn take_whole(&self, lead: &Peer, whole: Vec<u8>) {
        let (stored, length) = (Arc::clone(&self.stored), self.piece_length.bytes());
        let length = usize::try_from(length).expect("a piece has at most 16 MiB");
        let put = self.context.disk.run(move || {
            let pieces = (0..).map(PieceIndex).zip(whole.chunks(length));
            pieces.map(|(piece, data)| (piece, data.len() as u64, stored.put(piece, data))).collect::<Vec<_>>()
        });
        for (piece, bytes, put) in put.await {
            match put {
                Ok(Put::Stored) => {
                    self.count_received(lead, bytes);
                    self.stored_piece(piece, bytes, None, lead.giver());
                }
                Ok(Put::AlreadyHeld) => {}
                // A piece that can't be taken here is requested like any other.
                Err(error) => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "an inline piece was not stored");
                }
            }
        }
        self.tell(Input::Arrived);
    }
}
