//! Being the lead of a swarm: what members are told, and what they are given.
//!
//! A seed leads what it reads. When no seed lives, the members choose one of themselves (see [`Transfer::elect`]), and
//! hand the swarm back when a seed returns. An agent that leads while it follows another lead — a node that led
//! until the seed came back, a seed under another seed — passes on what it hears and never reads the origin.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use darter_core::{BlobId, Moment, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Version};
use darter_origin::{Reading, Requester};
use darter_swarm::{
    Books, Entering, Event, Facts, Lead as SwarmLead, Opening, OriginReader, OriginRun, Phase, Start, Tuning, Wish,
};
use tokio::sync::Notify;

use super::beside::Connections;
use super::dissolve::refuse;
use super::{Outcome, Transfer, narrower, random_seed};
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
    books: Books,
    /// When it last said that it may have more to send without anything happening.
    wakes: Option<Moment>,
    /// When to look again for something to send to members that there was nothing for.
    look_again: Option<Moment>,
    /// Wake the tasks that read everything, and what somebody waits for.
    plan_changed: [Arc<Notify>; 2],
}

impl Leading {
    /// Who is in the swarm, and what they are told.
    pub(super) const fn books(&mut self) -> &mut Books {
        &mut self.books
    }

    /// The first piece that no member holds.
    pub(super) fn first_unheld(&self) -> PieceIndex {
        self.books.lead().first_unheld()
    }

    /// Whether a member holds a piece.
    pub(super) fn is_held(&self, piece: PieceIndex) -> bool {
        self.books.lead().holders(piece) > 0
    }

    /// Whether a member still wants pieces.
    pub(super) fn is_wanted(&self) -> bool {
        self.books.lead().is_wanted()
    }

    pub(super) const fn member_count(&self) -> usize {
        self.books.member_count()
    }

    /// Whether a node was let in and has not left.
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.books.has(node)
    }

    /// The members other than this agent, and how many pieces each holds.
    pub(super) fn holdings(&self) -> impl Iterator<Item = (NodeId, u32)> + '_ {
        let lead = self.books.lead();
        let me = lead.node();
        lead.members().into_iter().filter(move |node| *node != me).filter_map(move |node| {
            let held = lead.held_by(node)?;
            Some((node, held))
        })
    }

    pub(super) fn own(&mut self, piece: PieceIndex) {
        self.books.lead_mut().own(piece);
        self.replan();
    }

    pub(super) fn disown(&mut self, piece: PieceIndex) {
        self.books.lead_mut().disown(piece);
        self.replan();
    }

    fn report(&mut self, reporter: NodeId, suspect: NodeId) -> bool {
        self.books.lead_mut().report(reporter, suspect)
    }

    /// A holder let this agent down: nothing is left to it alone.
    pub(super) fn doubt(&mut self, holder: NodeId) {
        self.books.lead_mut().doubt(holder);
        self.replan();
    }

    /// A member gave this agent some of a piece.
    pub(super) fn gave_some(&mut self, member: NodeId, now: Moment) {
        self.books.lead_mut().gave(member, false, now);
    }

    /// When time alone may have made more to send.
    pub(super) fn next_wakeup(&self, now: Moment) -> Option<Moment> {
        let lead = self.books.lead();
        lead.next_wakeup(now).into_iter().chain(self.look_again).chain(self.books.due()).min()
    }

    /// Whether such a time has come; says so once.
    pub(super) fn falls_due(&mut self, now: Moment) -> bool {
        let looks = self.look_again.take_if(|at| *at <= now).is_some();
        let next = self.books.lead().next_wakeup(now);
        let due = std::mem::replace(&mut self.wakes, next);
        looks || due.is_some_and(|due| due <= now)
    }

    /// When the plan may change though nothing happens.
    pub(super) fn plan_due(&self, now: Moment) -> Option<Moment> {
        self.books.lead().next_wakeup(now)
    }

    /// What a reader is to read of the origin, when the hashes of these pieces are known.
    pub(super) fn plan(&mut self, reader: OriginReader, known: &PieceSet, now: Moment) -> Option<OriginRun> {
        self.books.lead_mut().origin_plan(reader, known, now)
    }

    /// Whether a reader that comes to a piece goes on.
    pub(super) fn goes_on(&mut self, reader: OriginReader, piece: PieceIndex, known: &PieceSet, now: Moment) -> bool {
        self.books.lead_mut().goes_on(reader, piece, known, now)
    }

    /// A reader begins a run.
    pub(super) fn begins(&mut self, reader: OriginReader, run: OriginRun) {
        self.books.lead_mut().begins(reader, run);
    }

    /// Wakes a reader that had nothing to read.
    pub(super) fn plan_changed(&self, reader: OriginReader) -> Arc<Notify> {
        Arc::clone(&self.plan_changed[usize::from(reader == OriginReader::Errands)])
    }

    /// A reader is at these pieces, or ends.
    pub(super) fn reads(&mut self, reader: OriginReader, pieces: Option<Range<u32>>) {
        if self.books.lead_mut().reads(reader, pieces) {
            self.replan();
        }
    }

    /// Whether a reader is at some pieces.
    pub(super) fn is_reading(&self, reader: OriginReader) -> bool {
        self.books.lead().is_reading(reader)
    }

    /// What the others wait for.
    pub(super) fn wishes_of_others(&self) -> Vec<(NodeId, Wish)> {
        let lead = self.books.lead();
        lead.wishes_by_node().filter(|(node, _)| *node != lead.node()).collect()
    }

    /// The plan of what to read may have changed.
    pub(super) fn replan(&self) {
        self.plan_changed.iter().for_each(|changed| changed.notify_one());
    }

    /// Somebody wants everything.
    pub(super) fn read_everything(&mut self) {
        self.books.lead_mut().read_everything();
        self.replan();
    }

    /// Whether everything is read for somebody.
    pub(super) const fn reads_everything(&self) -> bool {
        self.books.lead().reads_everything()
    }

    /// A node waits for these pieces, and for nothing else.
    pub(super) fn wish(&mut self, node: NodeId, wishes: &[Wish], now: Moment) {
        self.books.lead_mut().wish(node, wishes, now);
        self.replan();
    }

    /// What is waited for, here and by members.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        self.books.lead().wishes().collect()
    }

    /// Whether anything is waited for.
    pub(super) fn has_wishes(&self) -> bool {
        self.books.lead().wishes().next().is_some()
    }

    /// Whether nobody waits for anything.
    pub(super) fn is_idle(&self) -> bool {
        !self.reads_everything() && !self.has_wishes()
    }
}

/// What is told of a blob is in its store, and in the fleet.
impl Facts for Transfer {
    fn blob(&self) -> BlobId {
        self.blob
    }

    fn version(&self) -> Version {
        self.version.clone()
    }

    fn piece_length(&self) -> PieceLength {
        self.piece_length
    }

    fn length(&self) -> Option<u64> {
        self.stored.length()
    }

    fn prefix(&self) -> u32 {
        self.stored.prefix()
    }

    fn known_count(&self) -> u32 {
        self.stored.known_count()
    }

    fn known(&self) -> PieceSet {
        self.stored.known()
    }

    fn knows(&self, piece: PieceIndex) -> bool {
        self.stored.hash(piece).is_some()
    }

    fn hashes_from(&self, from: u32, most: usize) -> Vec<PieceHash> {
        self.stored.hashes_from(from, most)
    }

    fn address(&self, node: NodeId) -> String {
        self.fleet.address(node)
    }
}

impl Transfer {
    /// Begins to lead, if this agent does not yet. `start` says whether somebody led before; `reading` is an answer of
    /// the origin that was opened already.
    pub(crate) fn lead_it(self: &Arc<Self>, start: Start, reading: Option<Reading>) {
        // What the origin says is for another transfer.
        if self.is_on_trust() {
            return;
        }
        let now = self.context.now();
        {
            let mut state = self.state.lock();
            state.session.leads(now);
            state.lead_changed(now);
        }
        self.open_lead(start);
        self.run_errands();
        if start == Start::Fresh
            && let Some(leading) = &mut self.state.lock().leading
        {
            // A member that was let in a moment before has opened the books, as if somebody else had led. An answer of the
            // origin that is open by now would be dropped, and asked for again.
            leading.books.lead_mut().settle();
        }
        self.start_reading(reading);
        self.kick.notify_one();
    }

    /// Sets up the lead's books, whoever leads above.
    pub(super) fn open_lead(&self, start: Start) {
        let now = self.context.now();
        let held = self.stored.held();
        let Connections { most, known_until } = self.origin_connections();
        let mut state = self.state.lock();
        if state.leading.is_some() {
            return;
        }
        let opening = Opening {
            me: self.context.me,
            place: self.context.place.clone(),
            start,
            held: &held,
            everything: state.wants.everything(),
            wishes: &state.wants.wishes(),
            dropped: state.session.picker.dropped().collect(),
            has_verdict: state.verdict.is_some(),
            seed: random_seed(&self.context.me, self.blob),
            tuning: Tuning::default(),
        };
        let mut books = Books::open(opening, self, now);
        if let Some(length) = self.stored.length() {
            books.lead_mut().read_by(most, known_until, self.piece_length, length);
        }
        if start == Start::TakeOver {
            // Who does not come to this lead, or comes late, holds it all the same.
            for (neighbour, held) in state.session.picker.held_by_neighbours() {
                if let Some(peer) = self.fleet.peer(neighbour) {
                    books.count_in(neighbour, peer.hello.place, held);
                }
            }
        }
        let plan_changed = [(); 2].map(|()| Arc::new(Notify::new()));
        state.leading = Some(Leading { books, wakes: None, look_again: None, plan_changed });
    }

    /// The blob's length is known now.
    pub(super) fn total_known(&self) {
        let (total, length) = (self.pieces(), self.stored.length());
        let known = 0..self.stored.prefix();
        let now = self.context.now();
        let Connections { most, known_until } = self.origin_connections();
        {
            let mut state = self.state.lock();
            if let (Some(leading), Some(total)) = (&mut state.leading, total) {
                leading.books.lead_mut().set_total(total);
            }
            if let (Some(leading), Some(length)) = (&mut state.leading, length) {
                let lead = leading.books.lead_mut();
                lead.read_by(most, known_until, self.piece_length, length);
            }
            if let Some(total) = total {
                state.session.hashes.set_total(total);
            }
            state.session.picker.handle(Event::ManifestGrew { known, total }, now);
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
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            // Who holds all of it waits for nobody.
            if !matches!(state.outcome(), Outcome::Complete) && !state.session.leadership.may_admit(node) {
                let reason = "this agent follows the one that asks".to_owned();
                return Err(FetchError::Withdrawn { blob: self.blob, reason });
            }
            if self.closed.is_cancelled() || state.course.phase() == Phase::Dissolving {
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
            leading.books.admit(Entering { node, request, whole }, peer.hello.place, held, wants);
            leading.replan();
        }
        self.kick.notify_one();
        self.sendable.send_replace(());
        Ok(())
    }

    /// Answers members that wait to be let in into what has ended.
    pub(super) fn reject_waiting(&self) {
        let (error, entering) = {
            let mut state = self.state.lock();
            let error = state.failure.clone().unwrap_or_else(|| FetchError::Withdrawn {
                blob: self.blob,
                reason: "its transfer was ended".to_owned(),
            });
            let leading = state.leading.as_mut();
            (error, leading.map(|leading| leading.books.take_entering()).unwrap_or_default())
        };
        for Entering { node, request, .. } in entering {
            refuse(&self.fleet, node, Some(request), self.blob, &error);
        }
    }

    /// Counts a node as a member that holds these pieces and asks for none; it need not know.
    pub(crate) fn count_in(&self, node: NodeId, held: &PieceSet) {
        {
            let mut state = self.state.lock();
            let Some(peer) = self.fleet.peer(node) else { return };
            let Some(leading) = &mut state.leading else { return };
            leading.books.count_in(node, peer.hello.place, held);
        }
        self.kick.notify_one();
    }

    /// A member is gone.
    pub(super) fn member_left(&self, node: NodeId) {
        {
            let mut state = self.state.lock();
            state.session.hashes.left(node);
            let Some(leading) = &mut state.leading else { return };
            leading.books.left(node);
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
            leading.books.lead_mut().have(node, pieces, now);
            leading.replan();
        }
    }

    /// A member no longer holds pieces.
    pub(super) fn member_lost(&self, node: NodeId, pieces: &[PieceIndex]) {
        let mut state = self.state.lock();
        if let Some(leading) = &mut state.leading {
            for &piece in pieces {
                leading.books.lead_mut().lacks(node, piece);
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
            leading.books.lead_mut().part(member, other);
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
        let leading = state.leading.as_mut().filter(|leading| leading.has(node)).ok_or(())?;
        Ok(decide(leading.books.lead_mut()))
    }

    /// A piece that was asked for by name is being sent.
    pub(crate) fn sending(&self, node: NodeId, piece: PieceIndex) {
        let now = self.context.now();
        if let Some(leading) = &mut self.state.lock().leading {
            leading.books.lead_mut().sending(node, piece, now);
        }
    }

    /// A piece that was being sent did not arrive.
    pub(crate) fn not_sent(&self, node: NodeId, piece: PieceIndex) {
        if let Some(leading) = &mut self.state.lock().leading {
            leading.books.lead_mut().unsent(node, piece);
        }
    }

    /// Whether members have to ask each other for hashes.
    pub(super) fn members_ask(&self) -> bool {
        self.state.lock().leading.as_ref().is_some_and(|leading| leading.books.members_ask())
    }

    /// The members of the swarm that this agent leads, without itself; none if it leads none.
    pub(super) fn member_nodes(&self) -> Vec<NodeId> {
        let state = self.state.lock();
        let members = state.leading.as_ref().map(|leading| leading.books.lead().members()).unwrap_or_default();
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
