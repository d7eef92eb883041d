//! What a member of a swarm hears: from its lead, from its neighbours, and in answer to its requests.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{NodeId, PieceHash, PieceIndex, PieceSet};
use darter_store::{Put, StoreError};
use darter_swarm::{Event, RequestId};
use darter_wire::{Answer, Held, Message, PeerInfo, PooledBuffer, Refusal, Verdict, Wanted};

use super::{Asked, Lead, Transfer};
use crate::error::FetchError;
use crate::fleet::Peer;
use crate::joins::Joined;

/// How long a piece that came before its hash waits for it. The hash left first, on the other connection.
const HASH_PATIENCE: Duration = Duration::from_secs(5);

impl Transfer {
    /// Follows a lead that let this agent in. A lead that cuts the blob into other pieces is not followed.
    pub(crate) fn follow(self: &Arc<Self>, lead: NodeId, joined: Joined) {
        if joined.piece_length != self.piece_length || self.is_complete() {
            return;
        }
        // A lead that has gone by now is left below; nothing is taken from it.
        if let (Some(whole), Some(peer)) = (&joined.whole, self.fleet.peer(lead)) {
            // Before the driver knows whom it could ask: it asks for nothing that came with the answer.
            self.state.lock().verdict.clone_from(&joined.verdict);
            if let Some(length) = joined.length {
                self.learn_length(lead, length);
            }
            self.learn_hashes(lead, 0, &joined.hashes);
            self.take_whole(&peer, whole);
        }
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            if state.lead == Lead::Me {
                let neighbours: Vec<_> = state.met.drain().collect();
                state.to_meet.extend(neighbours);
            }
            state.change_lead(Lead::Node(lead), now);
            state.picker.handle(Event::PeerLeft { peer: lead }, now);
            state.to_meet.extend(joined.neighbours.iter().map(|info| info.node));
            state.to_meet.remove(&self.context.me);
            let met = std::mem::take(&mut state.met);
            state.to_meet.retain(|node| !met.contains(node));
            state.met = met;
        }
        for info in &joined.neighbours {
            self.fleet.ensure(info);
        }
        if let Some(length) = joined.length {
            self.learn_length(lead, length);
        }
        self.learn_hashes(lead, 0, &joined.hashes);
        if let Some(verdict) = joined.verdict {
            self.state.lock().verdict = Some(verdict);
        }
        // It may have gone before this agent followed it, and then nobody will say so.
        if self.fleet.peer(lead).is_none() {
            self.lead_failed(lead, "connection lost");
        }
        self.kick.notify_one();
    }

    /// Asks an agent to lead this transfer, and follows it.
    pub(super) async fn join_again(self: &Arc<Self>, lead: NodeId) -> Result<(), FetchError> {
        let credentials = self.state.lock().credentials.clone();
        let held = Some(Held { blob: self.blob, pieces: self.stored.held() });
        match self.joins.ask(&self.fleet, lead, self.source.clone(), credentials, held).await {
            Ok(None) if self.lead() == Lead::Node(lead) => {
                self.note(format!("following {}", self.fleet.address(lead)));
                Ok(())
            }
            Ok(_) => {
                let reason = "the origin has another version now".to_owned();
                Err(FetchError::Withdrawn { blob: self.blob, reason })
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                Err(refusal.final_word().unwrap_or(FetchError::Withdrawn { blob: self.blob, reason }))
            }
        }
    }

    /// A peer said something about this blob.
    pub(crate) fn hear(self: &Arc<Self>, from: NodeId, message: Message) {
        let from_lead = self.lead() == Lead::Node(from);
        match message {
            Message::Grew { from: first, hashes, length, .. } if from_lead => {
                if let Some(length) = length {
                    self.learn_length(from, length);
                }
                self.learn_hashes(from, first, &hashes);
            }
            Message::Neighbours { add, gone, .. } if from_lead => self.learn_neighbours(&add, &gone),
            Message::Whole { verdict, .. } if from_lead => self.learn_verdict(verdict),
            Message::Dissolved { reason, .. } if from_lead => {
                let dissolving = Arc::clone(self);
                self.tasks.spawn(async move {
                    let blob = dissolving.blob;
                    dissolving.dissolve(FetchError::Withdrawn { blob, reason }).await;
                });
            }
            Message::Failed { failure, .. } if from_lead => self.lead_failed(from, &failure.text),
            Message::Meet { held, wants, .. } => self.met(from, held, wants),
            Message::Have { pieces, .. } => {
                let follows = self.state.lock().picker.peer_has(from, &pieces);
                self.member_has(from, &pieces);
                // Most announcements change nothing for now: waking the driver for each would be most of its work.
                if follows {
                    self.kick.notify_one();
                }
            }
            Message::Lost { pieces, .. } => {
                {
                    let now = self.context.now();
                    let mut state = self.state.lock();
                    for &piece in &pieces {
                        state.picker.handle(Event::PeerLost { peer: from, piece }, now);
                        if self.stored.holds(piece) {
                            state.news.is_wanted_by(from, piece);
                        }
                    }
                }
                self.member_lost(from, &pieces);
                self.kick.notify_one();
            }
            Message::Part { .. } => {
                self.tell(Event::PeerLeft { peer: from });
                self.state.lock().met.remove(&from);
            }
            Message::Leave { .. } => self.member_left(from),
            Message::Report { peer, .. } => self.member_reports(from, peer),
            // Said by a lead that is not ours any more, or of something that is over.
            _ => {}
        }
    }

    /// A peer's connection is gone.
    pub(crate) fn peer_gone(self: &Arc<Self>, node: NodeId) {
        self.member_left(node);
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            state.met.remove(&node);
            state.picker.handle(Event::PeerLeft { peer: node }, now);
        }
        self.lead_failed(node, "connection lost");
        self.kick.notify_one();
    }

    /// A peer is connected that may be one to meet.
    pub(crate) fn peer_came(self: &Arc<Self>, node: NodeId, is_seed: bool) {
        self.kick.notify_one();
        if is_seed {
            self.seed_returned(node);
        }
    }

    /// A peer answered a request.
    pub(crate) async fn answered(self: &Arc<Self>, peer: &Peer, request: RequestId, answer: Answer) {
        let from = peer.hello.node;
        match answer {
            Answer::Begun { .. } => {}
            Answer::Data { piece, data, .. } => self.take_piece(peer, request, piece, data).await,
            Answer::None { reason, wanted, .. } => {
                tracing::trace!(blob = %self.blob.short(), peer = %from.short(), ?reason, "refused");
                if let (Wanted::Piece(piece), Refusal::UnknownBlob | Refusal::NotHeld) = (wanted, reason) {
                    self.tell(Event::PeerLost { peer: from, piece });
                }
                let stood = self.unanswered(request).is_some();
                match (wanted, reason) {
                    (Wanted::Any, Refusal::UnknownBlob | Refusal::Refused) if stood => self.lead_forgot(from),
                    // If this agent leads, somebody has to be found who does hold it.
                    (Wanted::Piece(piece), Refusal::UnknownBlob | Refusal::NotHeld) => {
                        self.member_lost(from, &[piece]);
                    }
                    _ => {}
                }
            }
        }
    }

    /// A holder can't be reached, or its connection broke. If this agent leads, it must not leave to that one what the
    /// origin can give: it counts as a holder again when it says so.
    pub(crate) fn unreached(&self, holder: NodeId, request: RequestId) {
        if let Some(Asked { wanted: Wanted::Piece(piece), .. }) = self.unanswered(request) {
            self.member_lost(holder, &[piece]);
        }
    }

    /// A request will not be answered. `None` if nobody waited for it any more.
    fn unanswered(&self, request: RequestId) -> Option<Asked> {
        let now = self.context.now();
        let asked = {
            let mut state = self.state.lock();
            state.picker.handle(Event::Failed { request }, now);
            state.asked.remove(&request)
        };
        self.kick.notify_one();
        asked
    }

    async fn take_piece(self: &Arc<Self>, peer: &Peer, request: RequestId, piece: PieceIndex, data: PooledBuffer) {
        self.wait_for_hash(piece).await;
        let from = peer.hello.node;
        let bytes = data.len() as u64;
        self.count_received(peer, bytes);
        let stored = Arc::clone(&self.stored);
        let put = tokio::task::spawn_blocking(move || stored.put(piece, &data)).await;
        match put.expect("storing a piece does not panic") {
            Ok(Put::Stored) => self.stored_piece(piece, bytes, Some(request), peer.giver()),
            Ok(Put::AlreadyHeld) => self.tell(Event::Received { request: Some(request), piece, bytes }),
            Err(StoreError::WrongPiece { .. }) => {
                tracing::warn!(blob = %self.blob.short(), peer = %from.short(), %piece, "a peer sent a wrong piece");
                self.context.metrics.pieces_corrupt.inc();
                self.tell(Event::Corrupt { peer: from, request: Some(request), piece });
            }
            Err(error @ StoreError::Full { .. }) => self.fail(error.into()),
            Err(error) => {
                tracing::debug!(blob = %self.blob.short(), %error, "a piece was not stored");
                self.unanswered(request);
            }
        }
    }

    fn count_received(&self, from: &Peer, bytes: u64) {
        self.context.metrics.peer_received(from.is_seed(), from.tier, bytes);
        self.context.tiers.came(from.tier, bytes);
    }

    async fn wait_for_hash(&self, piece: PieceIndex) {
        if self.stored.hash(piece).is_some() {
            return;
        }
        let mut changed = self.changed.subscribe();
        let known = async { while self.stored.hash(piece).is_none() && changed.changed().await.is_ok() {} };
        // Without a hash in time the store refuses the piece, and it is asked for again.
        let _ = tokio::time::timeout(HASH_PATIENCE, known).await;
    }

    fn learn_length(self: &Arc<Self>, from: NodeId, length: u64) {
        match self.stored.set_length(length) {
            Ok(()) => self.total_known(),
            Err(error) => self.lead_failed(from, &error.to_string()),
        }
    }

    fn learn_hashes(self: &Arc<Self>, from: NodeId, first: u32, hashes: &[PieceHash]) {
        match self.stored.extend(first, hashes) {
            Ok(_) => self.total_known(),
            Err(error) => self.lead_failed(from, &error.to_string()),
        }
    }

    fn learn_neighbours(&self, add: &[PeerInfo], gone: &[NodeId]) {
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            for info in add {
                if info.node != self.context.me && !state.met.contains(&info.node) {
                    state.to_meet.insert(info.node);
                }
            }
            for node in gone {
                state.to_meet.remove(node);
                state.met.remove(node);
                state.picker.handle(Event::PeerLeft { peer: *node }, now);
            }
        }
        for info in add {
            self.fleet.ensure(info);
        }
        self.kick.notify_one();
    }

    fn learn_verdict(&self, verdict: Verdict) {
        self.state.lock().verdict = Some(verdict);
        self.kick.notify_one();
    }

    fn met(&self, peer: NodeId, held: PieceSet, wants: bool) {
        let tier = self.fleet.peer(peer).map_or(darter_core::Tier::Far, |it| it.tier);
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            if state.lead != Lead::Node(peer) {
                state.picker.handle(Event::PeerJoined { peer, tier, wants, held }, now);
            }
            if !state.met.contains(&peer) {
                state.to_meet.insert(peer);
            }
        }
        self.kick.notify_one();
    }

    fn take_whole(&self, lead: &Peer, whole: &[u8]) {
        let mut bytes = whole;
        let mut piece = PieceIndex(0);
        while !bytes.is_empty() {
            let length = bytes.len().min(usize::try_from(self.piece_length.bytes()).expect("at most 16 MiB"));
            let (data, rest) = bytes.split_at(length);
            match self.stored.put(piece, data) {
                Ok(Put::Stored) => {
                    self.count_received(lead, data.len() as u64);
                    self.stored_piece(piece, data.len() as u64, None, lead.giver());
                }
                Ok(Put::AlreadyHeld) => {}
                // What is not taken here is asked for like any other piece.
                Err(error) => tracing::debug!(blob = %self.blob.short(), %error, "an inline piece was not stored"),
            }
            bytes = rest;
            piece = PieceIndex(piece.0 + 1);
        }
    }

    /// Throws the blob away here, and tells the members if this agent leads.
    pub(super) async fn dissolve(self: &Arc<Self>, error: FetchError) {
        tracing::warn!(blob = %self.blob.short(), %error, "dissolving a swarm");
        for node in self.member_nodes() {
            self.fleet.say(node, &Message::Dissolved { blob: self.blob, reason: error.to_string() });
        }
        let stored = Arc::clone(&self.stored);
        let discarded = tokio::task::spawn_blocking(move || stored.discard()).await;
        if let Err(problem) = discarded.expect("discarding does not panic") {
            tracing::error!(blob = %self.blob.short(), error = %problem, "a dissolved blob could not be removed");
        }
        self.end_with(error);
    }
}
