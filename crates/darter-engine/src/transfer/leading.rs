//! Being the lead of a swarm: what members are told and given.
//!
//! A seed leads what it reads. If no seed is alive, the members choose one of themselves (see [`Transfer::elect`]), and
//! hand the swarm back when a seed returns. An agent that leads while it follows another lead — a node that led
//! until the seed came back, a seed under another seed — passes on what it is told and never reads the origin.

use std::sync::Arc;
use std::time::Duration;

use darter_core::{
    BlobId, Moment, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Place, Signer, Source, Tier, Version,
};
use darter_origin::{Reading, Requester};
use darter_swarm::{Choice, Desk, Entering, Facts, Input, Rejection, Standing, Start};
use darter_wire::Capabilities;

use super::beside::Connections;
use super::dissolve::refuse;
use super::{Outcome, Transfer, random_seed};
use crate::error::FetchError;

/// Blobs of up to this many bytes are sent with the first answer.
const INLINE: u64 = 64 * 1024;

/// How long an answer waits until such a blob is read from the origin.
const SMALL_BLOB_TIMEOUT: Duration = Duration::from_millis(500);

/// What the session may ask about the blob: the store and the fleet
/// answer it.
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

    fn place(&self, node: NodeId) -> Option<Place> {
        self.fleet.peer(node).map(|peer| peer.hello.place.clone())
    }

    fn tier(&self, node: NodeId) -> Tier {
        self.fleet.peer(node).map_or(Tier::Far, |peer| peer.tier)
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.fleet.peer(node).is_some()
    }

    fn is_seed(&self, node: NodeId) -> bool {
        self.fleet.peer(node).is_none_or(|peer| peer.is_seed())
    }

    fn seeds(&self) -> Vec<NodeId> {
        self.fleet.seeds()
    }

    fn gives_parts(&self, node: NodeId) -> bool {
        self.fleet.peer(node).is_some_and(|peer| peer.hello.capabilities.contains(Capabilities::PARTS))
    }

    fn fetched(&self) -> u32 {
        self.context.fetching.count()
    }

    fn standing(&self, node: NodeId) -> Standing {
        self.fleet.standing(node)
    }

    fn is_on_trust(&self) -> bool {
        self.is_on_trust()
    }

    fn may_change(&self) -> bool {
        matches!(self.source, Source::Url { .. })
    }

    fn is_headed_last(&self) -> bool {
        self.source.is_headed_last()
    }

    fn is_read_alone(&self) -> bool {
        self.reads_alone()
    }

    fn may_read_beside(&self, number: u8) -> bool {
        self.has_connection(number)
    }
}

impl Transfer {
    /// Begins to lead, unless this agent leads already. `start` says whether somebody led before; `reading` is an answer of
    /// the origin that is open already.
    pub(crate) fn lead_it(self: &Arc<Self>, start: Start, reading: Option<Reading>) {
        // This transfer must not use the origin's answer.
        if self.is_on_trust() {
            return;
        }
        let bears = self.bears();
        self.tell_and(Input::Leads { start, desk: self.desk() }, |state, now| {
            if let Some(reading) = reading {
                state.readers.opened(reading, now);
            }
            // Before the origin is asked: otherwise the whole blob would be requested.
            if let Some(bears) = bears {
                state.session.handle(bears, &**self, now);
            }
        });
        if self.source.is_headed_last() {
            // Any range needs all of the layer to be read and expanded.
            self.want_everything();
        }
    }

    /// Creates the lead's books, also if this agent follows another lead.
    fn open_books(&self) {
        self.tell(Input::OpensBooks(self.desk()));
        self.bears_connections();
    }

    fn desk(&self) -> Desk {
        let seed = random_seed(&self.context.me, self.blob);
        Desk { place: self.context.place.clone(), seed, signer: Signer::draw() }
    }

    /// Tells the session by how many connections the origin may be read.
    fn bears_connections(&self) {
        if !self.state().session.has_books() {
            return;
        }
        if let Some(bears) = self.bears() {
            self.tell(bears);
        }
    }

    fn bears(&self) -> Option<Input> {
        let (piece_length, length) = (self.piece_length, self.stored.length()?);
        let Connections { most, known_until } = self.origin_connections();
        Some(Input::OriginBears { connections: most, known_until, piece_length, length })
    }

    /// The blob's length has become known.
    pub(super) fn total_known(&self) {
        self.tell(Input::Sized);
        self.bears_connections();
        self.changed.send_replace(());
    }

    /// Lets a member in. The driver answers, in order with its other messages.
    ///
    /// # Errors
    /// Why the transfer failed, if it has failed meanwhile.
    pub(crate) async fn admit(
        &self,
        node: NodeId,
        request: u32,
        held: &PieceSet,
        wants: bool,
    ) -> Result<(), FetchError> {
        let whole = self.small_whole().await;
        self.open_books();
        // Asked again under the lock: an agent that left while the origin was asked must not count as a holder.
        let Some(peer) = self.fleet.peer(node) else { return Ok(()) };
        if self.closed.is_cancelled() {
            let reason = "its transfer was ended".to_owned();
            return Err(FetchError::Withdrawn { blob: self.blob, reason });
        }
        if !peer.is_here {
            self.is_asked_by(Requester::Elsewhere);
        }
        let (entering, held) = (Entering { node, request, whole }, held.clone());
        self.tell(Input::Enters { entering, place: peer.hello.place.clone(), held, wants });
        if self.fleet.peer(node).is_none() {
            self.tell(Input::Gone(node));
        }
        self.sendable.send_replace(());
        Ok(())
    }

    /// Tells a node that it is not let in.
    pub(super) fn reject(&self, node: NodeId, request: u32, why: Rejection) {
        let withdrawn = |reason: &str| FetchError::Withdrawn { blob: self.blob, reason: reason.to_owned() };
        let error = match why {
            Rejection::Follows => withdrawn("this agent follows the one that asks"),
            Rejection::Ended => self.failure().unwrap_or_else(|| withdrawn("its transfer was ended")),
        };
        refuse(&self.fleet, node, Some(request), self.blob, &error);
    }

    fn failure(&self) -> Option<FetchError> {
        self.state().failure.clone()
    }

    /// Counts a node as a member that holds these pieces and asks for none. The node need not know.
    pub(crate) fn count_in(&self, node: NodeId, held: &PieceSet) {
        if let Some(peer) = self.fleet.peer(node) {
            self.tell(Input::CountsIn { node, place: peer.hello.place.clone(), held: held.clone() });
        }
    }

    /// The piece that a member should get now; `Err` if it is not a member. A copy of a piece that others have is chosen
    /// only after `may_copy` was asked, without the lock.
    pub(crate) fn choose_for(&self, node: NodeId, may_copy: impl FnOnce() -> bool) -> Result<Option<PieceIndex>, ()> {
        let now = self.context.now();
        let mut choice = self.state().session.choose(node, now);
        if choice == Choice::MayCopy {
            let may = may_copy();
            choice = self.state().session.choose_copy(node, may, now);
        }
        match choice {
            Choice::NoMember => Err(()),
            Choice::Send(piece) => Ok(Some(piece)),
            Choice::MayCopy | Choice::Nothing => {
                self.tell(Input::AskStands);
                Ok(None)
            }
        }
    }

    /// True if this agent has a piece for a member that nobody else has yet.
    pub(crate) fn has_fresh_for(&self, node: NodeId, now: Moment) -> bool {
        self.state().session.has_fresh_for(node, now)
    }

    /// True if a peer's request for this piece is answered after those of others.
    pub(crate) fn goes_last(&self, to: NodeId, piece: PieceIndex) -> bool {
        self.state().session.goes_last(to, piece, self.context.now())
    }

    /// A piece that was requested by its number is being sent.
    pub(crate) fn sending(&self, to: NodeId, piece: PieceIndex) {
        self.tell(Input::Sending { to, piece });
    }

    /// A piece that was being sent did not arrive.
    pub(crate) fn not_sent(&self, to: NodeId, piece: PieceIndex) {
        self.tell(Input::Unsent { to, piece });
    }

    /// Waits until a small blob can be sent with the answer to a member that joins, so that one request brings the blob. The wait is short:
    /// the answer also says how far the origin was read.
    pub(crate) async fn small_is_whole(&self) {
        if self.small_length().is_none() {
            return;
        }
        let mut changed = self.changed.subscribe();
        let whole = async { while matches!(self.outcome(), Outcome::Open) && changed.changed().await.is_ok() {} };
        // A member that is let in earlier gets the blob piece by piece.
        let _ = tokio::time::timeout(SMALL_BLOB_TIMEOUT, whole).await;
    }

    fn small_length(&self) -> Option<u64> {
        self.stored.length().filter(|length| *length <= INLINE)
    }

    /// All bytes, if they are few, all here and checked.
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
