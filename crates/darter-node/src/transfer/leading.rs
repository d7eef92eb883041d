//! Being the lead of a swarm: what members are told, and what they are given.
//!
//! A seed leads what it reads. When no seed lives, the members choose one of themselves (see [`Transfer::elect`]), and
//! hand the swarm back when a seed returns. An agent that leads while it follows another lead — a node that led
//! until the seed came back, a seed under another seed — passes on what it hears and never reads the origin.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{HashChain, Moment, NodeId, PieceIndex, PieceSet, Proof, Signer};
use darter_origin::{Reading, Requester};
use darter_swarm::{
    Event, Lead as SwarmLead, MAX_HASHES, Neighbour, Notice, OriginReader, OriginRun, Start, Teaching, Telling, Tuning,
    Wish,
};
use darter_wire::{Message, PeerInfo, Verdict};
use tokio::sync::Notify;

use super::dissolve::refuse;
use super::runs::ToldRuns;
use super::{Lead, Outcome, Transfer, narrower, random_seed};
use crate::error::FetchError;

/// Blobs this small are sent with the first answer, in bytes.
const INLINE: u64 = 64 * 1024;

/// How long an answer waits for such a blob to be read from the origin.
const SMALL_BLOB_TIMEOUT: Duration = Duration::from_millis(500);

/// How soon a lead looks again for something to send to a member that there was nothing for: half the shortest pause
/// between two copies of a piece.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A lead's work on one swarm.
pub(crate) struct Leading {
    swarm: SwarmLead,
    /// Vouches for hashes.
    signer: Signer,
    teaching: Teaching,
    /// Whether every member has been told the length, and the verdict.
    told_length: bool,
    told_verdict: bool,
    /// Members that wait to be let in, by the number of their question, with all bytes if they are few.
    replies: Vec<(NodeId, u32, Option<Vec<u8>>)>,
    members: usize,
    /// Who was let in and has not left.
    inside: HashSet<NodeId>,
    /// When it last said that it may have more to send without anything happening.
    wakes: Option<Moment>,
    /// When to look again for something to send to members that there was nothing for.
    look_again: Option<Moment>,
    /// Which hashes behind gaps members were told.
    pub(super) told_runs: ToldRuns,
    /// Wakes the tasks that read the origin, each by its own.
    pub(super) plan_changed: [Arc<Notify>; 2],
}

/// What a lead has to say.
pub(super) struct Speech {
    pub(super) messages: Vec<(NodeId, Message)>,
    /// Members that this agent itself should meet.
    pub(super) own_neighbours: Vec<NodeId>,
}

impl Leading {
    /// The first piece that no member holds.
    pub(super) fn first_unheld(&self) -> PieceIndex {
        self.swarm.first_unheld()
    }

    /// Whether a member holds a piece.
    pub(super) fn is_held(&self, piece: PieceIndex) -> bool {
        self.swarm.holders(piece) > 0
    }

    /// Whether a member still wants pieces.
    pub(super) fn is_wanted(&self) -> bool {
        self.swarm.is_wanted()
    }

    pub(super) const fn member_count(&self) -> usize {
        self.members
    }

    /// Whether a node was let in and has not left.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.inside.contains(&node)
    }

    /// The members other than this agent, and how many pieces each holds.
    pub(super) fn holdings(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        let me = self.swarm.node();
        self.swarm.members().into_iter().filter(move |node| *node != me).filter_map(|node| {
            let held = self.swarm.held_by(node)?;
            Some((node, held))
        })
    }

    pub(super) fn own(&mut self, piece: PieceIndex) {
        self.swarm.own(piece);
        self.replan();
    }

    pub(super) fn disown(&mut self, piece: PieceIndex) {
        self.swarm.disown(piece);
        self.replan();
    }

    pub(super) fn report(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        self.swarm.report(reporter, suspect)
    }

    /// A holder let this agent down: nothing is left to it alone.
    pub(super) fn doubt(&mut self, holder: NodeId) {
        self.swarm.doubt(holder);
        self.replan();
    }

    /// A member gave this agent a piece, or some of one.
    pub(super) fn gave(&mut self, member: NodeId, is_whole: bool, now: Moment) {
        self.swarm.gave(member, is_whole, now);
    }

    /// When time alone may have made more to send.
    pub(super) fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        let tells = self.swarm.notices_due().into_iter().chain(self.teaching.due());
        self.swarm.next_wakeup(now).into_iter().chain(self.look_again).chain(tells).min()
    }

    /// Whether such a time has come; says so once.
    pub(super) fn falls_due(&mut self, now: Moment) -> bool {
        let looks = self.look_again.take_if(|at| *at <= now).is_some();
        let next = self.swarm.next_wakeup(now);
        let due = std::mem::replace(&mut self.wakes, next);
        looks || due.is_some_and(|due| due <= now)
    }

    /// When the plan may change though nothing happens.
    pub(super) fn plan_due(&self, now: Moment) -> Option<Moment> {
        self.swarm.next_wakeup(now)
    }

    /// What a reader is to read of the origin, when the hashes of these pieces are known.
    pub(super) fn plan(&mut self, reader: OriginReader, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        self.swarm.origin_plan(reader, known, now)
    }

    /// Whether a reader that comes to a piece goes on.
    pub(super) fn goes_on(&mut self, reader: OriginReader, piece: PieceIndex, known: &PieceSet, now: Moment) -> bool {
        self.swarm.goes_on(reader, piece, known, now)
    }

    /// A reader begins with these pieces, or ends.
    pub(super) fn reads(&mut self, reader: OriginReader, pieces: Option<Range<u32>>) {
        if self.swarm.reads(reader, pieces) {
            self.replan();
        }
    }

    /// Whether a reader is at some pieces.
    pub(super) const fn is_reading(&self, reader: OriginReader) -> bool {
        self.swarm.is_reading(reader)
    }

    /// What the others wait for.
    pub(super) fn wishes_of_others(&self) -> Vec<(NodeId, Wish)> {
        let me = self.swarm.node();
        self.swarm.wishes_by_node().filter(|(node, _)| *node != me).collect()
    }

    /// The members besides this agent and those who are coming in.
    pub(super) fn others(&self) -> Vec<NodeId> {
        let me = self.swarm.node();
        let entering = |node: &NodeId| self.replies.iter().any(|(entering, ..)| entering == node);
        self.swarm.members().into_iter().filter(|node| *node != me && !entering(node)).collect()
    }

    /// Whether members have to ask each other for hashes.
    pub(super) const fn members_ask(&self) -> bool {
        self.teaching.members_ask()
    }

    /// Vouches for hashes.
    pub(super) fn prove(&mut self, chain: &HashChain) -> Proof {
        self.signer.prove(chain)
    }

    /// The plan of what to read may have changed.
    fn replan(&self) {
        self.plan_changed.iter().for_each(|changed| changed.notify_one());
    }

    /// Somebody wants everything.
    pub(super) fn read_everything(&mut self) {
        self.swarm.read_everything();
        self.replan();
    }

    /// Whether everything is read for somebody.
    pub(super) const fn reads_everything(&self) -> bool {
        self.swarm.reads_everything()
    }

    /// A node waits for these pieces, and for nothing else.
    pub(super) fn wish(&mut self, node: NodeId, wishes: &[Wish], now: Moment) {
        self.swarm.wish(node, wishes, now);
        self.replan();
    }

    /// What is waited for, here and by members.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.swarm.wishes().collect()
    }

    /// Whether anything is waited for.
    pub(super) fn has_wishes(&self) -> bool {
        self.swarm.wishes().next().is_some()
    }

    /// Whether nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        !self.reads_everything() && !self.has_wishes()
    }

    /// Gathers what members must be told: news to those who are in, then the answers to those who come in.
    pub(super) fn speak(
        &mut self,
        transfer: &Transfer,
        chain: &HashChain,
        verdict: Option<&Verdict>,
        now: Moment,
    ) -> Speech {
        let me = transfer.context.me;
        let mut messages = Vec::new();
        for message in self.news(transfer, chain, verdict, now) {
            messages.extend(self.others().into_iter().map(|node| (node, message.clone())));
        }
        messages.extend(self.tell_runs(transfer, chain.count()));
        let own = self.swarm.take_notice(me).map(|notice| notice.gained).unwrap_or_default();
        let own_neighbours = own.into_iter().map(|peer| peer.node).collect();
        let mut answers = Vec::new();
        for reply in std::mem::take(&mut self.replies) {
            let node = reply.0;
            let answer = self.let_in(transfer, chain, verdict, reply, now);
            answers.extend(answer.into_iter().map(|message| (node, message)));
        }
        // Who comes in was told of its neighbours with the answer.
        for Notice { to, lost, gained } in self.swarm.take_notices(now) {
            let add = gained.into_iter().map(|peer| info(transfer, peer)).collect();
            messages.push((to, Message::Neighbours { blob: transfer.blob, add, gone: lost }));
        }
        messages.extend(answers);
        Speech { messages, own_neighbours }
    }

    /// What all members are to be told.
    fn news(&mut self, transfer: &Transfer, chain: &HashChain, verdict: Option<&Verdict>, now: Moment) -> Vec<Message> {
        let mut messages = Vec::new();
        let length = transfer.stored.length();
        let learns_length = length.is_some() && !self.told_length;
        let nothing = Telling { from: 0, count: 0, signed: false };
        let are_all = transfer.pieces() == Some(chain.count());
        let telling = self.teaching.tell(chain.count(), are_all, self.members, now);
        let telling = telling.or(learns_length.then_some(nothing));
        if let Some(telling) = telling {
            self.told_length = length.is_some();
            messages.extend(growth(transfer, telling, self.word(chain, telling)));
        }
        if let Some(verdict) = verdict.filter(|_| !self.told_verdict) {
            messages.push(Message::Whole { blob: transfer.blob, verdict: verdict.clone() });
            self.told_verdict = true;
        }
        messages
    }

    /// The answer to a member that comes in, and the hashes that don't fit into it.
    fn let_in(
        &mut self,
        transfer: &Transfer,
        chain: &HashChain,
        verdict: Option<&Verdict>,
        (node, request, whole): (NodeId, u32, Option<Vec<u8>>),
        now: Moment,
    ) -> Vec<Message> {
        let telling = self.teaching.greet(self.members, now);
        let first = telling.count.min(MAX_HASHES);
        let (lost, gained) = self.swarm.take_notice(node).map_or_else(Default::default, |it| (it.lost, it.gained));
        // Who is one again is met anew, and forgotten by neither.
        let lost: Vec<_> = lost.into_iter().filter(|peer| gained.iter().all(|it| it.node != *peer)).collect();
        let neighbours = gained.into_iter().map(|peer| info(transfer, peer)).collect();
        let joined = Message::Joined {
            request,
            blob: transfer.blob,
            version: transfer.version.clone(),
            piece_length: transfer.piece_length,
            length: transfer.stored.length(),
            hashes: transfer.stored.hashes_from(0, first as usize),
            key: self.signer.key(),
            members_ask: self.teaching.members_ask(),
            proof: (telling.signed && telling.count == first).then(|| self.signer.prove(chain)),
            neighbours,
            verdict: verdict.cloned(),
            whole: verdict.and(whole),
        };
        let rest = Telling { from: first, count: telling.count - first, ..telling };
        let mut messages = Vec::new();
        if !lost.is_empty() {
            // It was in before, and forgets first whom it knew then.
            messages.push(Message::Neighbours { blob: transfer.blob, add: Vec::new(), gone: lost });
        }
        messages.push(joined);
        if rest.count > 0 {
            messages.extend(growth(transfer, rest, self.word(chain, rest)));
        }
        if !self.teaching.members_ask() {
            messages.extend(self.runs_from(transfer, chain.count()));
        }
        messages
    }

    /// What goes with hashes that are told: whether members ask each other, and the word for them.
    fn word(&mut self, chain: &HashChain, telling: Telling) -> (bool, Option<Proof>) {
        (self.teaching.members_ask(), telling.signed.then(|| self.signer.prove(chain)))
    }
}

/// News of hashes and length, in messages that stay below the protocol's limit.
fn growth(transfer: &Transfer, telling: Telling, (members_ask, proof): (bool, Option<Proof>)) -> Vec<Message> {
    let (blob, length) = (transfer.blob, transfer.stored.length());
    // One message even without hashes: the length alone may be the news.
    let messages = telling.count.div_ceil(MAX_HASHES).max(1);
    let message = |nth| {
        let from = telling.from + nth * MAX_HASHES;
        let rest = telling.from + telling.count - from;
        let hashes = transfer.stored.hashes_from(from, rest.min(MAX_HASHES) as usize);
        let proof = proof.filter(|_| nth + 1 == messages);
        Message::Grew { blob, from, hashes, length, members_ask, proof }
    };
    (0..messages).map(message).collect()
}

/// What a member is told of a neighbour.
fn info(transfer: &Transfer, peer: Neighbour) -> PeerInfo {
    PeerInfo { node: peer.node, addr: transfer.fleet.address(peer.node), place: peer.place }
}

impl Transfer {
    /// Begins to lead, if this agent does not yet. `start` says whether somebody led before; `reading` is an answer of
    /// the origin that was opened already.
    pub(crate) fn lead_it(self: &Arc<Self>, start: Start, reading: Option<Reading>) {
        let now = self.context.now();
        {
            let mut state = self.state.lock();
            state.change_lead(Lead::Me, None, now);
        }
        self.open_lead(start);
        self.run_errands();
        if start == Start::Fresh
            && let Some(leading) = &mut self.state.lock().leading
        {
            // A member that was let in a moment before has opened the books, as if somebody else had led. An answer of the
            // origin that is open by now would be dropped, and asked for again.
            leading.swarm.settle();
        }
        self.start_reading(reading);
        self.kick.notify_one();
    }

    /// Sets up the lead's books, whoever leads above.
    pub(super) fn open_lead(&self, start: Start) {
        let now = self.context.now();
        let held = self.stored.held();
        let total = self.pieces();
        let mut state = self.state.lock();
        if state.leading.is_some() {
            return;
        }
        let me = self.context.me;
        let place = self.context.place.clone();
        let seed = random_seed(&me, self.blob);
        let mut swarm = SwarmLead::new(me, place.clone(), start, Tuning::default(), seed, now);
        if let Some(total) = total {
            swarm.set_total(total);
        }
        for piece in held.iter() {
            swarm.own(piece);
        }
        if !state.wants.everything() {
            swarm.read_on_errands_only();
        }
        swarm.wish(me, &state.wants.wishes(), now);
        swarm.join(me, place, &held, true);
        for suspect in state.picker.dropped() {
            swarm.report(me, suspect);
        }
        state.leading = Some(Leading {
            swarm,
            signer: Signer::draw(),
            teaching: Teaching::new(self.stored.prefix(), Tuning::default(), now),
            told_length: total.is_some(),
            told_verdict: state.verdict.is_some(),
            replies: Vec::new(),
            members: 0,
            inside: HashSet::new(),
            wakes: None,
            look_again: None,
            told_runs: ToldRuns::default(),
            plan_changed: [(); 2].map(|()| Arc::new(Notify::new())),
        });
    }

    /// The blob's length is known now.
    pub(super) fn total_known(&self) {
        let total = self.pieces();
        let known = 0..self.stored.prefix();
        let now = self.context.now();
        {
            let mut state = self.state.lock();
            if let (Some(leading), Some(total)) = (&mut state.leading, total) {
                leading.swarm.set_total(total);
            }
            if let Some(total) = total {
                state.hashes.set_total(total);
            }
            state.picker.handle(Event::ManifestGrew { known, total }, now);
        }
        self.kick.notify_one();
        self.changed.send_replace(());
    }

    /// Lets a member in. The driver answers, in order with what else it says.
    ///
    /// # Errors
    /// Why the transfer failed, if it did meanwhile.
    pub(crate) async fn admit(
        &self,
        node: NodeId,
        request: u32,
        held: &PieceSet,
        wants: bool,
    ) -> Result<(), FetchError> {
        let whole = self.small_whole().await;
        self.open_lead(Start::TakeOver);
        {
            let mut state = self.state.lock();
            if let Outcome::Failed(error) = &state.outcome {
                return Err(error.clone());
            }
            if !state.leadership.may_admit(node) {
                let reason = "this agent follows the one that asks".to_owned();
                return Err(FetchError::Withdrawn { blob: self.blob, reason });
            }
            if self.closed.is_cancelled() || state.dissolving {
                let reason = "its transfer was ended".to_owned();
                return Err(FetchError::Withdrawn { blob: self.blob, reason });
            }
            // Looked up under the lock: one that goes after this is taken out again. One that went while the origin
            // was asked must not count as a holder.
            let Some(peer) = self.fleet.peer(node) else { return Ok(()) };
            if !peer.is_here {
                state.requester = narrower(state.requester, Requester::Elsewhere);
            }
            let Some(leading) = &mut state.leading else { return Ok(()) };
            leading.swarm.join(node, peer.hello.place, held, wants);
            leading.inside.insert(node);
            leading.replies.push((node, request, whole));
            leading.members = leading.swarm.members().len();
            leading.replan();
        }
        self.kick.notify_one();
        self.sendable.send_replace(());
        Ok(())
    }

    /// Answers members that wait to be let in into what has ended.
    pub(super) fn reject_waiting(&self) {
        let (error, replies) = {
            let mut state = self.state.lock();
            let error = match &state.outcome {
                Outcome::Failed(error) => error.clone(),
                _ => FetchError::Withdrawn { blob: self.blob, reason: "its transfer was ended".to_owned() },
            };
            let leading = state.leading.as_mut();
            (error, leading.map(|leading| std::mem::take(&mut leading.replies)).unwrap_or_default())
        };
        for (node, request, _) in replies {
            refuse(&self.fleet, node, Some(request), self.blob, &error);
        }
    }

    /// Counts a node as a member that holds these pieces and asks for none; it need not know.
    pub(crate) fn count_in(&self, node: NodeId, held: &PieceSet) {
        {
            let mut state = self.state.lock();
            let Some(peer) = self.fleet.peer(node) else { return };
            let Some(leading) = &mut state.leading else { return };
            leading.swarm.join(node, peer.hello.place, held, false);
            leading.members = leading.swarm.members().len();
        }
        self.kick.notify_one();
    }

    /// What a member is told that asks for hashes; nobody else is told by the lead.
    pub(super) fn answer_as_lead(&self, node: NodeId, from: u32) -> Option<Vec<Message>> {
        let (telling, word, mut answer) = {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            self.catch_up(state);
            let chain = state.hashes.chain();
            let leading = state.leading.as_mut().filter(|leading| leading.has(node))?;
            let telling = Teaching::answer(chain.count(), from);
            (telling, leading.word(chain, telling), leading.runs_from(self, chain.count()))
        };
        // The last word ends the question.
        answer.extend(growth(self, telling, word).pop());
        Some(answer)
    }

    /// A member is gone.
    pub(super) fn member_left(&self, node: NodeId) {
        {
            let mut state = self.state.lock();
            state.hashes.left(node);
            let Some(leading) = &mut state.leading else { return };
            leading.swarm.leave(node);
            leading.inside.remove(&node);
            leading.members = leading.swarm.members().len();
            leading.replan();
        }
        // Those it stood between have to be told.
        self.kick.notify_one();
    }

    /// A member holds more pieces.
    pub(super) fn member_has(&self, node: NodeId, pieces: &[PieceIndex]) {
        let now = self.context.now();
        let mut state = self.state.lock();
        if let Some(leading) = &mut state.leading {
            leading.swarm.have(node, pieces, now);
            leading.replan();
        }
    }

    /// A member no longer holds pieces.
    pub(super) fn member_lost(&self, node: NodeId, pieces: &[PieceIndex]) {
        let mut state = self.state.lock();
        if let Some(leading) = &mut state.leading {
            for &piece in pieces {
                leading.swarm.lacks(node, piece);
            }
            leading.replan();
        }
    }

    /// A member was sent a wrong piece by another.
    pub(super) fn member_reports(&self, reporter: NodeId, suspect: NodeId) {
        let now = self.context.now();
        let mut state = self.state.lock();
        let put_aside = state.leading.as_mut().is_some_and(|leading| leading.report(reporter, suspect));
        let what = if put_aside { "put aside after wrong pieces" } else { "reported for a wrong piece" };
        state.journal.note(now, format!("{} {what}", suspect.short()));
        drop(state);
        self.kick.notify_one();
    }

    /// A member can't reach another.
    pub(super) fn member_misses(&self, member: NodeId, other: NodeId) {
        if let Some(leading) = self.state.lock().leading.as_mut().filter(|leading| leading.has(member)) {
            leading.swarm.part(member, other);
        }
        self.kick.notify_one();
    }

    /// The piece that a member should get now; `Err` if it is no member here. A copy of what others have is only chosen
    /// after `may_copy` was asked, with nothing locked.
    pub(crate) fn choose_for(&self, node: NodeId, may_copy: impl FnOnce() -> bool) -> Result<Option<PieceIndex>, ()> {
        let now = self.context.now();
        if self.lead_for(node, |swarm| swarm.may_give(now))? {
            let fresh = self.lead_for(node, |swarm| swarm.choose_fresh(node, now))?;
            if fresh.is_some() {
                return Ok(fresh);
            }
            if may_copy() {
                let copy = self.lead_for(node, |swarm| swarm.choose_copy(node, now))?;
                if copy.is_some() {
                    return Ok(copy);
                }
            }
        }
        if let Some(leading) = &mut self.state.lock().leading
            && leading.look_again.is_none()
        {
            // A copy may be worth sending after a while though nothing happens until then.
            leading.look_again = Some(now + LOOK_AGAIN);
            self.kick.notify_one();
        }
        Ok(None)
    }

    /// Whether this agent has a piece for a member that nobody has yet.
    pub(crate) fn has_fresh_for(&self, node: NodeId) -> bool {
        let now = self.context.now();
        self.lead_for(node, |swarm| swarm.has_fresh_for(node, now)).unwrap_or(false)
    }

    fn lead_for<T>(&self, node: NodeId, decide: impl FnOnce(&mut SwarmLead) -> T) -> Result<T, ()> {
        let mut state = self.state.lock();
        let leading = state.leading.as_mut().filter(|leading| leading.inside.contains(&node)).ok_or(())?;
        Ok(decide(&mut leading.swarm))
    }

    /// A piece that was asked for by name is being sent.
    pub(crate) fn sending(&self, node: NodeId, piece: PieceIndex) {
        let now = self.context.now();
        if let Some(leading) = &mut self.state.lock().leading {
            leading.swarm.sending(node, piece, now);
        }
    }

    /// A piece that was being sent did not arrive.
    pub(crate) fn not_sent(&self, node: NodeId, piece: PieceIndex) {
        if let Some(leading) = &mut self.state.lock().leading {
            leading.swarm.unsent(node, piece);
        }
    }

    /// Whether members have to ask each other for hashes.
    pub(super) fn members_ask(&self) -> bool {
        self.state.lock().leading.as_ref().is_some_and(|leading| leading.teaching.members_ask())
    }

    /// The members of the swarm that this agent leads, without itself; none if it leads none.
    pub(super) fn member_nodes(&self) -> Vec<NodeId> {
        let state = self.state.lock();
        let members = state.leading.as_ref().map(|leading| leading.swarm.members()).unwrap_or_default();
        members.into_iter().filter(|node| *node != self.context.me).collect()
    }

    /// Waits until a small blob can go with the answer to somebody who joins, so that one question brings it. Not for long:
    /// the answer itself says where the origin stands.
    pub(crate) async fn small_is_whole(&self) {
        if self.small_length().is_none() {
            return;
        }
        let mut changed = self.changed.subscribe();
        let whole = async { while matches!(self.outcome(), Outcome::Open) && changed.changed().await.is_ok() {} };
        // Whoever is let in before it is whole gets it piece by piece, as ever.
        let _ = tokio::time::timeout(SMALL_BLOB_TIMEOUT, whole).await;
    }

    fn small_length(&self) -> Option<u64> {
        self.stored.length().filter(|length| *length <= INLINE)
    }

    /// All bytes, when they are few and all here and checked.
    async fn small_whole(&self) -> Option<Vec<u8>> {
        let length = self.small_length().filter(|_| self.is_complete())?;
        let (stored, length) = (Arc::clone(&self.stored), usize::try_from(length).ok()?);
        let read = self.context.disk.run(move || {
            let mut bytes = vec![0; length];
            stored.read_at(0, &mut bytes).map(|()| bytes)
        });
        read.await.ok()
    }
}
