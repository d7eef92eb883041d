//! What a member of a swarm hears: from its lead, from its neighbours, and in answer to its requests.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Blamed as _, Fault, Moment, NodeId, PieceIndex, PieceSet, Place, Source, in_full};
use darter_fleet::Peer;
use darter_store::Put;
use darter_swarm::{Event, Meeting, RequestId, Session};
use darter_wire::{Answer, FailureKind, Held, Message, PeerInfo, PooledBuffer, Refusal, Verdict, Wanted};

use super::{Asked, Lead, Transfer};
use crate::error::FetchError;
use crate::joins::{Entered, Joined};
use crate::let_downs::How;

/// How long a piece that came before its hash waits for it. Pieces of the lead's choice may: the hash is on its way, or asked for.
const HASH_TIMEOUT: Duration = Duration::from_secs(5);

impl Transfer {
    /// Follows a lead that let this agent in. A lead that cuts the blob into other pieces is not followed.
    pub(crate) fn follow(self: &Arc<Self>, lead: NodeId, mut joined: Joined) {
        if joined.piece_length != self.piece_length || self.is_complete() {
            return;
        }
        // A lead that has gone by now is left below; nothing is taken from it.
        let peer = self.fleet.peer(lead);
        let is_seed = peer.as_ref().is_none_or(Peer::is_seed);
        let whole = joined.whole.take().zip(peer);
        {
            let now = self.context.now();
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let neighbours = joined.neighbours.iter().map(|info| info.node);
            if !state.session.follow(lead, joined.key, neighbours, now) {
                return;
            }
            // Before the driver knows whom it could ask: it asks for nothing that came with the answer.
            if whole.is_some() {
                state.session.course.arrives();
            }
            state.follows_seed = is_seed;
            state.session.hashes.members_ask(joined.members_ask);
            if let Some(verdict) = joined.verdict {
                state.told_verdict(verdict);
            }
        }
        for info in &joined.neighbours {
            self.fleet.ensure(info);
        }
        if let Some(length) = joined.length {
            self.learn_length(lead, length);
        }
        self.learn_hashes(lead, 0, &joined.hashes, joined.proof);
        if let Some((whole, peer)) = whole {
            let transfer = Arc::clone(self);
            self.tasks.spawn(async move { transfer.take_whole(&peer, whole).await });
        }
        // It may have gone before this agent followed it, and then nobody will say so.
        if self.fleet.peer(lead).is_none() {
            self.lead_failed(lead, "connection lost");
        }
        self.ring();
    }

    /// Asks an agent to lead this transfer, and follows it.
    pub(super) async fn join_again(self: &Arc<Self>, lead: NodeId) -> Result<(), FetchError> {
        if !self.fleet.is_seed(lead) && self.context.let_downs.is_barred(self.setback_key(), lead, self.context.now()) {
            let reason = "nodes that led it gave nothing".to_owned();
            return Err(FetchError::Withdrawn { blob: self.blob, reason });
        }
        let (credentials, everything) = {
            let state = self.state.lock();
            (state.callers.current().clone(), state.session.is_all_wanted())
        };
        let held = Some(Held { blob: self.blob, pieces: self.stored.held() });
        match self.joins.ask(&self.fleet, lead, self.source.clone(), credentials, held, everything).await {
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

    /// A peer said something about this blob.
    pub(crate) fn hear(self: &Arc<Self>, from: NodeId, message: Message) {
        let from_lead = self.lead() == Lead::Node(from);
        match message {
            Message::Grew { from: first, hashes, length, members_ask, proof, .. } if from_lead => {
                self.state.lock().session.hashes.members_ask(members_ask);
                if hashes.is_empty() {
                    self.lead_waits(from);
                }
                if let Some(length) = length {
                    self.learn_length(from, length);
                }
                self.learn_hashes(from, first, &hashes, proof);
            }
            Message::Run { from: first, hashes, proof, .. } => self.hear_run(from, first, &hashes, proof),
            Message::Want { everything, wishes, .. } => self.member_wants(from, everything, &wishes),
            Message::Grew { from: first, hashes, proof, .. } => self.told(from, first, &hashes, proof),
            Message::AskHashes { from: first, .. } => self.answer_hashes(from, first),
            Message::Neighbours { add, gone, .. } if from_lead => self.learn_neighbours(&add, &gone),
            Message::Whole { verdict, .. } if from_lead => self.learn_verdict(verdict),
            Message::Dissolved { reason, .. } if from_lead => {
                let dissolving = Arc::clone(self);
                self.tasks.spawn(async move {
                    if !dissolving.fleet.is_seed(from) {
                        return dissolving.start_over_without(from, How::Surely, reason).await;
                    }
                    let blob = dissolving.blob;
                    dissolving.dissolve(FetchError::Withdrawn { blob, reason }).await;
                });
            }
            // A lead that throws the blob away refuses requests for its pieces, and may be given up for that before it says why.
            Message::Refuted { expected, got, .. } if from_lead || self.came_by(from) => self.refuted(expected, got),
            Message::Failed { failure, .. }
                if from_lead && failure.kind == FailureKind::Changed && matches!(self.source, Source::Url { .. }) =>
            {
                if !self.fleet.is_seed(from) {
                    self.let_down_by(from, How::Perhaps);
                }
                self.superseded(failure);
            }
            Message::Failed { failure, .. } if from_lead => self.lead_gave_up(from, failure),
            Message::Meet { held, known, wants, .. } => self.met(from, held, known, wants),
            Message::Have { pieces, known, .. } => {
                let follows = {
                    let now = self.context.now();
                    let mut state = self.state.lock();
                    state.session.member_has(from, &pieces, now);
                    state.session.has_more(from, known, &pieces, &**self)
                };
                // Most announcements change nothing for now: waking the driver for each would be most of its work.
                if follows {
                    self.ring();
                } else {
                    self.replan();
                }
            }
            Message::Lost { pieces, .. } => {
                {
                    let now = self.context.now();
                    let mut state = self.state.lock();
                    for &piece in &pieces {
                        state.session.lost_by(from, piece, now);
                    }
                }
                self.ring();
            }
            Message::Part { .. } => {
                {
                    let mut state = self.state.lock();
                    state.session.parted(from, self.context.now());
                    // One that was let in says so to its lead by itself.
                    if !state.session.has_member(from) {
                        state.session.left(from);
                    }
                }
                self.ring();
            }
            Message::Leave { .. } => self.member_left(from),
            Message::Report { peer, .. } => self.member_reports(from, peer),
            Message::Unreached { peer, .. } => self.member_misses(from, peer),
            // Said by a lead that is not ours any more, or of something that is over.
            _ => {}
        }
    }

    /// A peer's connection is gone.
    pub(crate) fn peer_gone(self: &Arc<Self>, node: NodeId) {
        self.member_left(node);
        let again;
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            let is_open = state.session.course.is_open();
            again = state.session.gone(node, is_open, now);
        }
        if again {
            let addr = self.fleet.address(node);
            self.fleet.ensure(&PeerInfo { node, addr, place: Place::default() });
        }
        self.lead_failed(node, "connection lost");
        self.ring();
    }

    /// A node can't be reached. If it was to be met the lead is told, which names another one where there are any.
    pub(crate) fn not_reached(&self, node: NodeId) {
        let lead = {
            let state = self.state.lock();
            state.session.unreached(node, state.session.course.is_open())
        };
        if let Some(lead) = lead {
            self.fleet.say(lead, &Message::Unreached { blob: self.blob, peer: node });
        }
    }

    /// A peer is connected that may be one to meet.
    pub(crate) fn peer_came(self: &Arc<Self>, node: NodeId, is_seed: bool) {
        self.ring();
        if is_seed {
            self.seed_returned(node);
        }
    }

    /// The lead begins to send a piece of its choice: its hash has time to come meanwhile.
    pub(crate) fn begun(&self, request: RequestId, piece: PieceIndex) {
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            let Some(of) = state.asked.get(&request).map(|asked| asked.of) else { return };
            state.session.begun(request, piece, of, now);
        }
        self.ring();
    }

    /// A peer answered a request.
    pub(crate) async fn answered(self: &Arc<Self>, peer: &Peer, request: RequestId, answer: Answer) {
        let from = peer.hello.node;
        match answer {
            Answer::Begun { .. } => {}
            Answer::Data { piece, data, .. } => self.take_piece(peer, request, piece, data).await,
            Answer::None { reason, wanted, .. } => {
                tracing::trace!(blob = %self.blob.short(), peer = %from.short(), ?reason, "refused");
                match (wanted, reason) {
                    (Wanted::Piece(piece), Refusal::UnknownBlob | Refusal::NotHeld) => {
                        self.settle(request, |session, now| session.refused(request, from, piece, now));
                    }
                    (Wanted::Any, Refusal::UnknownBlob | Refusal::Refused) if self.unanswered(request).is_some() => {
                        self.lead_forgot(from);
                    }
                    _ => {
                        self.unanswered(request);
                    }
                }
            }
        }
    }

    /// A holder can't be reached, or its connection broke.
    pub(crate) fn unreached(&self, holder: NodeId, request: RequestId) {
        let wanted = self.state.lock().asked.get(&request).map(|asked| asked.wanted);
        match wanted {
            Some(Wanted::Piece(piece)) => {
                self.settle(request, |session, now| session.failed(request, holder, piece, now));
            }
            _ => {
                self.unanswered(request);
            }
        }
    }

    /// A request will not be answered, from which something follows.
    fn settle(&self, request: RequestId, decide: impl FnOnce(&mut Session, Moment)) {
        let now = self.context.now();
        {
            let mut state = self.state.lock();
            state.asked.remove(&request);
            decide(&mut state.session, now);
        }
        self.ring();
    }

    /// A request will not be answered. `None` if nobody waited for it any more.
    fn unanswered(&self, request: RequestId) -> Option<Asked> {
        let now = self.context.now();
        let asked = {
            let mut state = self.state.lock();
            state.session.picker.handle(Event::Failed { request }, now);
            state.asked.remove(&request)
        };
        self.ring();
        asked
    }

    async fn take_piece(self: &Arc<Self>, peer: &Peer, request: RequestId, piece: PieceIndex, data: PooledBuffer) {
        let from = peer.hello.node;
        self.wait_for_hash(piece, from).await;
        let bytes = data.len() as u64;
        self.count_received(peer, bytes);
        let stored = Arc::clone(&self.stored);
        let needed = stored.is_crowded(PieceIndex(u32::MAX)).then(|| self.needed_from(Duration::ZERO));
        let put = self.context.disk.run(move || {
            if let Some(needed) = needed {
                stored.forget(needed)?;
            }
            stored.put(piece, &data)
        });
        match put.await {
            Ok(Put::Stored) => {
                self.hash_if_next(piece);
                self.stored_piece(piece, bytes, Some(request), peer.giver());
            }
            Ok(Put::AlreadyHeld) => self.tell(Event::Received { request: Some(request), piece, bytes }),
            Err(error) => match error.blame().fault {
                Fault::Peer => {
                    tracing::warn!(blob = %self.blob.short(), peer = %from.short(), %piece, "a peer sent a wrong piece");
                    self.context.metrics.pieces_corrupt.inc();
                    self.tell(Event::Corrupt { peer: from, request: Some(request), piece });
                }
                // Asking for it again would come to the same.
                Fault::Disk => self.give_up(&error.into()),
                _ => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "a piece was not stored");
                    self.unanswered(request);
                }
            },
        }
    }

    fn count_received(&self, from: &Peer, bytes: u64) {
        self.context.metrics.peer_received(from.is_seed(), from.tier, bytes);
        self.context.tiers.came(from.tier, bytes);
    }

    async fn wait_for_hash(&self, piece: PieceIndex, giver: NodeId) {
        if self.stored.hash(piece).is_some() {
            return;
        }
        self.state.lock().session.gives(giver, piece);
        self.ring();
        let mut changed = self.changed.subscribe();
        let known = async { while self.stored.hash(piece).is_none() && changed.changed().await.is_ok() {} };
        // Without a hash in time the store refuses the piece, and it is asked for again.
        let _ = tokio::time::timeout(HASH_TIMEOUT, known).await;
    }

    fn learn_length(self: &Arc<Self>, from: NodeId, length: u64) {
        match self.stored.set_length(length) {
            Ok(()) => self.total_known(),
            Err(error) => self.lead_failed(from, &in_full(&error).to_string()),
        }
    }

    /// Meets these, too: they hold pieces of it though the lead may not know.
    pub(crate) fn meet_also(&self, holders: &[PeerInfo]) {
        if !holders.is_empty() {
            self.learn_neighbours(holders, &[]);
        }
    }

    /// Some are neighbours no more; then others are, perhaps the same ones anew.
    fn learn_neighbours(&self, add: &[PeerInfo], gone: &[NodeId]) {
        let named: Vec<NodeId> = add.iter().map(|info| info.node).collect();
        self.state.lock().session.named(&named, gone, self.context.now());
        for info in add {
            self.fleet.ensure(info);
        }
        self.ring();
    }

    fn learn_verdict(&self, verdict: Verdict) {
        self.state.lock().told_verdict(verdict);
        self.ring();
    }

    fn met(&self, peer: NodeId, held: PieceSet, known: u32, wants: bool) {
        let tier = self.fleet.peer(peer).map_or(darter_core::Tier::Far, |it| it.tier);
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            state.session.met_by(peer, Meeting { tier, held, known, wants }, self, now);
        }
        self.ring();
    }

    /// Stores what came with the lead's answer: all pieces, since they are few and small.
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
                // A piece that is not taken here is requested like any other.
                Err(error) => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "an inline piece was not stored");
                }
            }
        }
        self.state.lock().session.course.arrived();
        self.ring();
    }
}
