//! What a member of a swarm hears: from its lead, from its neighbours, and in answer to its requests.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{Blamed as _, Fault, NodeId, PieceIndex, PieceSet, Place, Source, in_full};
use darter_fleet::Peer;
use darter_store::Put;
use darter_swarm::{Event, RequestId};
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
        if self.stays_lead_of(lead) {
            return;
        }
        // A lead that has gone by now is left below; nothing is taken from it.
        let peer = self.fleet.peer(lead);
        let is_seed = peer.as_ref().is_none_or(Peer::is_seed);
        let whole = joined.whole.take().zip(peer);
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            // Before the driver knows whom it could ask: it asks for nothing that came with the answer.
            if whole.is_some() {
                state.course.arrives();
            }
            if state.lead() == Lead::Me {
                let neighbours: Vec<_> = state.met.drain().collect();
                state.to_meet.extend(neighbours);
            }
            state.change_lead(Lead::Node(lead), Some(joined.key), now);
            state.follows_seed = is_seed;
            state.hashes.members_ask(joined.members_ask);
            if let Some(verdict) = joined.verdict {
                state.told_verdict(verdict);
            }
            state.picker.handle(Event::PeerLeft { peer: lead }, now);
            let met = std::mem::take(&mut state.met);
            state.to_meet.retain(|node| !met.contains(node));
            state.met = met;
            // Even those that were met before: they may have been told that they are no neighbours any more.
            state.to_meet.extend(joined.neighbours.iter().map(|info| info.node));
            state.to_meet.remove(&self.context.me);
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
        self.kick.notify_one();
    }

    /// Whether this agent goes on to lead the one that would lead it.
    fn stays_lead_of(&self, other: NodeId) -> bool {
        let state = self.state.lock();
        let leads = state.leading.as_ref().is_some_and(|leading| leading.has(other));
        leads && state.leadership.stays_lead_of(other)
    }

    /// Whether an agent was let in here, and has not left.
    fn leads(&self, other: NodeId) -> bool {
        self.state.lock().leading.as_ref().is_some_and(|leading| leading.has(other))
    }

    /// Asks an agent to lead this transfer, and follows it.
    pub(super) async fn join_again(self: &Arc<Self>, lead: NodeId) -> Result<(), FetchError> {
        if !self.fleet.is_seed(lead) && self.context.let_downs.is_barred(self.setback_key(), lead, self.context.now()) {
            let reason = "nodes that led it gave nothing".to_owned();
            return Err(FetchError::Withdrawn { blob: self.blob, reason });
        }
        let (credentials, everything) = {
            let state = self.state.lock();
            (state.callers.current().clone(), state.wants_everything())
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
                self.state.lock().hashes.members_ask(members_ask);
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
                    let mut state = self.state.lock();
                    let is_neighbour = state.met.contains(&from) || state.to_meet.contains(&from);
                    let follows = is_neighbour && self.showed(&mut state, from, known, pieces.iter().copied());
                    state.picker.peer_has(from, &pieces) || follows
                };
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
                {
                    let mut state = self.state.lock();
                    state.met.remove(&from);
                    state.hashes.left(from);
                }
                self.tell(Event::PeerLeft { peer: from });
                // One that was let in says so to its lead by itself.
                if !self.leads(from) {
                    self.member_left(from);
                }
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
            let was_met = state.met.remove(&node);
            state.hashes.left(node);
            state.picker.handle(Event::PeerLeft { peer: node }, now);
            // It may be this connection alone that is gone.
            let is_led = state.leadership.following().is_some_and(|lead| lead != node);
            again = was_met && is_led && state.course.is_open();
            if again {
                state.to_meet.insert(node);
            }
        }
        if again {
            let addr = self.fleet.address(node);
            self.fleet.ensure(&PeerInfo { node, addr, place: Place::default() });
        }
        self.lead_failed(node, "connection lost");
        self.kick.notify_one();
    }

    /// A node can't be reached. If it was to be met the lead is told, which names another one where there are any.
    pub(crate) fn not_reached(&self, node: NodeId) {
        let lead = {
            let state = self.state.lock();
            let is_missed = state.to_meet.contains(&node) && state.course.is_open();
            state.leadership.following().filter(|lead| is_missed && *lead != node)
        };
        if let Some(lead) = lead {
            self.fleet.say(lead, &Message::Unreached { blob: self.blob, peer: node });
        }
    }

    /// A peer is connected that may be one to meet.
    pub(crate) fn peer_came(self: &Arc<Self>, node: NodeId, is_seed: bool) {
        self.kick.notify_one();
        if is_seed {
            self.seed_returned(node);
        }
    }

    /// The lead begins to send a piece of its choice: its hash has time to come meanwhile.
    pub(crate) fn begun(&self, request: RequestId, piece: PieceIndex) {
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let of = state.asked.get(&request).map(|asked| asked.of);
            if of.is_some_and(|of| state.lead() == Lead::Node(of)) {
                state.hashes.lead_showed(piece.0 + 1);
            }
        }
        self.tell(Event::Started { request, piece });
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
        {
            let mut state = self.state.lock();
            if state.lead() == Lead::Node(giver) {
                state.hashes.lead_showed(piece.0 + 1);
            }
        }
        self.kick.notify_one();
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
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            for node in gone {
                state.to_meet.remove(node);
                state.met.remove(node);
                // Who is one again is only met anew: it may know of this one all the time.
                if !add.iter().any(|info| info.node == *node) {
                    state.hashes.left(*node);
                    state.picker.handle(Event::PeerLeft { peer: *node }, now);
                }
            }
            for info in add {
                if info.node != self.context.me && !state.met.contains(&info.node) {
                    state.to_meet.insert(info.node);
                }
            }
        }
        for info in add {
            self.fleet.ensure(info);
        }
        self.kick.notify_one();
    }

    fn learn_verdict(&self, verdict: Verdict) {
        self.state.lock().told_verdict(verdict);
        self.kick.notify_one();
    }

    fn met(&self, peer: NodeId, held: PieceSet, known: u32, wants: bool) {
        let tier = self.fleet.peer(peer).map_or(darter_core::Tier::Far, |it| it.tier);
        {
            let now = self.context.now();
            let mut state = self.state.lock();
            self.showed(&mut state, peer, known, held.iter());
            if state.lead() != Lead::Node(peer) {
                state.picker.handle(Event::PeerJoined { peer, tier, wants, held }, now);
            }
            if !state.met.contains(&peer) {
                state.to_meet.insert(peer);
            }
        }
        self.kick.notify_one();
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
                // What is not taken here is asked for like any other piece.
                Err(error) => {
                    tracing::debug!(blob = %self.blob.short(), error = %in_full(&error), "an inline piece was not stored");
                }
            }
        }
        self.state.lock().course.arrived();
        self.kick.notify_one();
    }
}
