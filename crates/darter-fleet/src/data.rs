//! Data connections to holders: one each, made when the first piece is requested.
//!
//! A `DataLink` is in one of three states: *connecting* (requests wait), *up*, or *closed* (requests fail at once, and
//! the next one makes a new link). Invariant: the listener is called exactly once for every request, with its answer or because there will be
//! none.
//!
//! A holder accepts a limited number of requests on one connection. Further requests wait here for their turn: `turns.rs` says whose it is.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use darter_core::{BlobId, Moment, NodeId, in_full};
use darter_swarm::{RequestId, Standing, Tuning};
use darter_wire::preface;
use darter_wire::{Answer, Answers, Capabilities, ConnectionKind, DataClient, MAX_UNANSWERED, Request, Wanted};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::turns::Turns;
use super::{Fleet, Peer, PeerListener};

/// How many answers of one link are verified and written at a time: enough to keep reading while the disk works.
const BEING_STORED: usize = 4;

/// Most requests that wait for their turn at one holder; each blob has few.
const MAX_WAITING: usize = 16 * 1024;

/// A request for a piece to a holder.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The blob.
    pub blob: BlobId,
    /// The picker's id for the request.
    pub request: RequestId,
    /// The piece that is wanted.
    pub wanted: Wanted,
    /// True if it goes before all requests that are not urgent.
    pub urgent: bool,
    /// Most bytes of the answer.
    pub longest: u32,
}

enum Link {
    Connecting(Vec<Ask>),
    Up(DataClient),
    Closed,
}

/// A data connection to one holder.
pub(crate) struct DataLink {
    link: Mutex<Link>,
    /// Unanswered requests, and how fast the others were answered.
    open: Mutex<Open>,
}

/// The requests that are at a holder or wait for it.
#[derive(Default)]
struct Open {
    last: u32,
    asks: HashMap<u32, Sent>,
    numbers: HashMap<(BlobId, RequestId), u32>,
    /// Requests that exceed the holder's limit for now.
    turns: Turns,
    /// How many requests name a piece, and how fast the holder answers.
    standing: Standing,
    /// True if holder and requester know packed pieces.
    takes_packed: bool,
}

#[derive(Clone, Copy)]
struct Sent {
    ask: Ask,
    /// When it was sent. If the lead chooses its piece, when the lead did so: only since then does the request's age say anything about the holder.
    since: Moment,
    named: bool,
}

impl Open {
    /// Removes and returns the request whose turn it is, if the holder accepts one more.
    fn take_next(&mut self) -> Option<Ask> {
        (self.asks.len() < MAX_UNANSWERED).then(|| self.turns.take()).flatten()
    }

    /// Adds a request that is sent now, and returns its number.
    fn add(&mut self, ask: Ask, now: Moment) -> u32 {
        loop {
            self.last = self.last.wrapping_add(1);
            if !self.asks.contains_key(&self.last) {
                break;
            }
        }
        let named = matches!(ask.wanted, Wanted::Piece(_));
        self.standing.named += u32::from(named);
        self.asks.insert(self.last, Sent { ask, since: now, named });
        self.numbers.insert((ask.blob, ask.request), self.last);
        self.turns.sent(ask.blob);
        self.last
    }

    /// The lead chose a piece for the request with this number.
    fn begin(&mut self, number: u32, now: Moment) -> Option<Ask> {
        let sent = self.asks.get_mut(&number)?;
        if !sent.named {
            (sent.named, sent.since) = (true, now);
            self.standing.named += 1;
        }
        Some(sent.ask)
    }

    fn remove(&mut self, number: u32) -> Option<Sent> {
        let sent = self.asks.remove(&number)?;
        self.numbers.remove(&(sent.ask.blob, sent.ask.request));
        self.turns.ended(sent.ask.blob);
        self.standing.named -= u32::from(sent.named);
        Some(sent)
    }

    /// Removes the request that was answered with `bytes`.
    fn answered(&mut self, number: u32, bytes: Option<u64>, now: Moment) -> Option<Ask> {
        let sent = self.remove(number)?;
        if let Some(bytes) = bytes {
            self.standing.pace.answered(bytes, sent.since, now, &Tuning::default());
        }
        Some(sent.ask)
    }
}

impl DataLink {
    /// Closes the connection; unanswered requests fail.
    pub(crate) fn close(&self) {
        let mut link = self.link.lock();
        match std::mem::replace(&mut *link, Link::Closed) {
            Link::Up(client) => client.close(),
            // The task that is still connecting reports these requests as unanswered.
            Link::Connecting(waiting) => {
                let mut open = self.open.lock();
                for ask in waiting {
                    open.add(ask, Moment::ZERO);
                }
            }
            Link::Closed => {}
        }
    }

    /// True while it is connected.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.link.lock(), Link::Up(_))
    }

    /// Sends a request, or lets it wait for its turn. Returns requests that the link can't take.
    fn send(&self, client: &DataClient, ask: Ask, now: Moment) -> Vec<Ask> {
        {
            let mut open = self.open.lock();
            if open.turns.waiting() >= MAX_WAITING {
                return vec![ask];
            }
            open.turns.wait(ask);
        }
        self.send_waiting(client, now)
    }

    /// Sends as many waiting requests as the holder accepts. Returns requests that the link can't take.
    fn send_waiting(&self, client: &DataClient, now: Moment) -> Vec<Ask> {
        let mut refused = Vec::new();
        let mut open = self.open.lock();
        while let Some(ask) = open.take_next() {
            let number = open.add(ask, now);
            let Ask { blob, wanted, urgent, .. } = ask;
            let request = Request { id: number, blob, wanted, urgent, takes_packed: open.takes_packed };
            if client.request(request, ask.longest).is_err() {
                open.remove(number);
                refused.push(ask);
            }
        }
        refused
    }

    /// A request was answered, so that a waiting one may be sent.
    fn go_on(&self, now: Moment) -> Vec<Ask> {
        match &*self.link.lock() {
            Link::Up(client) => self.send_waiting(client, now),
            Link::Connecting(_) | Link::Closed => Vec::new(),
        }
    }
}

impl Fleet {
    /// Requests a piece from a holder. The answer, or its absence, is reported to the [`PeerListener`].
    pub fn ask(self: &Arc<Self>, holder: NodeId, ask: Ask) {
        self.context.metrics.round_trips.inc();
        let link = self.link_to(holder);
        let refused = match &mut *link.link.lock() {
            Link::Connecting(waiting) => {
                waiting.push(ask);
                Vec::new()
            }
            Link::Up(client) => link.send(client, ask, self.context.now()),
            Link::Closed => vec![ask],
        };
        let Some(listener) = self.listener() else { return };
        for ask in refused {
            listener.unanswered(holder, ask.blob, ask.request);
        }
    }

    /// Withdraws a request; if the answer comes all the same, it is used.
    pub fn cancel(&self, holder: NodeId, blob: BlobId, request: RequestId) {
        let link = self.state.lock().links.get(&holder).cloned();
        let Some(link) = link else { return };
        let number = {
            let mut open = link.open.lock();
            if open.turns.forget(blob, request) {
                return;
            }
            open.numbers.get(&(blob, request)).copied()
        };
        match &mut *link.link.lock() {
            Link::Up(client) => {
                if let Some(number) = number {
                    client.cancel(number);
                }
            }
            Link::Connecting(waiting) => waiting.retain(|ask| (ask.blob, ask.request) != (blob, request)),
            Link::Closed => {}
        }
    }

    /// The requests at a holder, for all blobs together, and how fast it answers.
    pub fn standing(&self, holder: NodeId) -> Standing {
        let link = self.state.lock().links.get(&holder).cloned();
        let Some(link) = link else { return Standing::default() };
        let waiting = if let Link::Connecting(waiting) = &*link.link.lock() { waiting.len() } else { 0 };
        let open = link.open.lock();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(open.turns.named());
        Standing { named: open.standing.named.saturating_add(waiting), ..open.standing }
    }

    /// How many bytes of a request's answer have arrived.
    pub fn arrived(&self, holder: NodeId, blob: BlobId, request: RequestId) -> Option<u32> {
        let link = self.state.lock().links.get(&holder).cloned()?;
        let number = link.open.lock().numbers.get(&(blob, request)).copied()?;
        match &*link.link.lock() {
            Link::Up(client) => client.arrived(number),
            _ => None,
        }
    }

    fn link_to(self: &Arc<Self>, holder: NodeId) -> Arc<DataLink> {
        let mut state = self.state.lock();
        if let Some(link) = state.links.get(&holder)
            && !matches!(*link.link.lock(), Link::Closed)
        {
            return Arc::clone(link);
        }
        let link = Arc::new(DataLink { link: Mutex::new(Link::Connecting(Vec::new())), open: Mutex::default() });
        state.links.insert(holder, Arc::clone(&link));
        let dialled = state.peers.get(&holder).and_then(|connected| connected.dialled.clone());
        let addr = dialled.or_else(|| state.addresses.of(&holder).map(str::to_owned)).unwrap_or_default();
        drop(state);
        let (fleet, running) = (Arc::clone(self), Arc::clone(&link));
        self.tasks.spawn(async move { fleet.run_link(holder, &addr, running).await });
        link
    }

    async fn run_link(self: Arc<Self>, holder: NodeId, addr: &str, link: Arc<DataLink>) {
        let Some(listener) = self.listener() else { return };
        match preface::open(&*self.transport, addr, ConnectionKind::Data, self.me()).await {
            Ok(greeted) if greeted.hello.node == holder => {
                let peer = self.peer_of(&greeted);
                let packed = Capabilities::PACKED_PIECES;
                let takes_packed = self.me().capabilities.common(peer.hello.capabilities).contains(packed);
                link.open.lock().takes_packed = takes_packed;
                let (client, answers) = DataClient::start(greeted.stream, self.receiving.clone());
                let before = std::mem::replace(&mut *link.link.lock(), Link::Up(client.clone()));
                if let Link::Connecting(waiting) = before {
                    for ask in waiting {
                        for refused in link.send(&client, ask, self.context.now()) {
                            listener.unanswered(holder, refused.blob, refused.request);
                        }
                    }
                    self.read_answers(peer, &link, answers, &listener).await;
                }
            }
            Ok(other) => {
                tracing::debug!(peer = %holder.short(), found = %other.hello.node.short(), "another agent answers there");
            }
            Err(error) => tracing::debug!(peer = %holder.short(), error = %in_full(&error), "no data connection"),
        }
        let before = std::mem::replace(&mut *link.link.lock(), Link::Closed);
        // Nothing else removes the link to a peer that is not connected.
        {
            let links = &mut self.state.lock().links;
            if links.get(&holder).is_some_and(|last| Arc::ptr_eq(last, &link)) {
                links.remove(&holder);
            }
        }
        let open = std::mem::take(&mut *link.open.lock());
        let mut lost: Vec<Ask> =
            open.asks.into_values().map(|sent| sent.ask).chain(open.turns.into_waiting()).collect();
        if let Link::Connecting(waiting) = before {
            lost.extend(waiting);
        }
        for ask in lost {
            listener.unanswered(holder, ask.blob, ask.request);
        }
    }

    async fn read_answers(
        &self,
        holder: Peer,
        link: &DataLink,
        mut answers: Answers,
        listener: &Arc<dyn PeerListener>,
    ) {
        let holder = Arc::new(holder);
        let room = Arc::new(Semaphore::new(BEING_STORED));
        let mut stopped = pin!(self.stop.cancelled());
        loop {
            let answer = tokio::select! {
                answer = answers.recv() => answer,
                () = &mut stopped => return,
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return,
                Err(error) => {
                    self.failed(holder.hello.node, &error);
                    return;
                }
            };
            let now = self.context.now();
            let (id, bytes) = match &answer {
                Answer::Begun { id, piece, .. } => {
                    let ask = link.open.lock().begin(*id, now);
                    if let Some(ask) = ask {
                        listener.begun(ask.blob, ask.request, *piece);
                    }
                    continue;
                }
                Answer::Data { id, data, .. } => (*id, Some(data.plain_length().into())),
                Answer::None { id, .. } => (*id, None),
            };
            let ask = link.open.lock().answered(id, bytes, now);
            for refused in link.go_on(now) {
                listener.unanswered(holder.hello.node, refused.blob, refused.request);
            }
            let Some(ask) = ask else { continue };
            let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
            let (listener, holder) = (Arc::clone(listener), Arc::clone(&holder));
            self.tasks.spawn(async move {
                listener.answered(&holder, ask.blob, ask.request, answer).await;
                drop(permit);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use darter_core::PieceIndex;

    use super::*;

    const PIECE: u64 = 1 << 20;

    fn ask(wanted: Wanted, request: u64) -> Ask {
        Ask { blob: BlobId([1; 32]), request: RequestId(request), wanted, urgent: false, longest: 1 << 20 }
    }

    fn at(millis: u64) -> Moment {
        Moment::from_micros(millis * 1000)
    }

    #[test]
    fn what_a_holder_does_not_take_waits_for_its_turn_and_each_blob_has_one() {
        let mut open = Open::default();
        let of = |blob: u8, request| Ask { blob: BlobId([blob; 32]), ..ask(Wanted::Any, request) };
        let busy: Vec<_> = (0..MAX_UNANSWERED as u64).map(|request| open.add(of(1, request), at(0))).collect();
        [of(1, 900), of(2, 901)].into_iter().for_each(|ask| open.turns.wait(ask));
        assert!(open.take_next().is_none(), "the holder takes no more");
        open.answered(busy[0], Some(PIECE), at(10));
        let next = open.take_next().unwrap();
        assert_eq!(next.request.0, 901);
        let number = open.add(next, at(10));
        assert!(open.take_next().is_none());
        open.answered(busy[1], None, at(20));
        assert_eq!(open.take_next().map(|next| next.request.0), Some(900));
        open.turns.wait(of(1, 902));
        open.turns.wait(of(2, 903));
        open.remove(number);
        assert_eq!(open.take_next().map(|next| next.request.0), Some(903), "what was answered is not counted");
    }

    #[test]
    fn what_stands_at_a_holder_is_what_it_was_asked_for_by_name_or_has_begun() {
        let mut open = Open::default();
        let named = open.add(ask(Wanted::Piece(PieceIndex(3)), 1), at(0));
        let any = open.add(ask(Wanted::Any, 2), at(0));
        let other = open.add(ask(Wanted::Any, 3), at(0));
        assert_eq!(open.standing.named, 1, "an ask that just stands takes nobody's time");
        assert!(open.begin(any, at(10)).is_some());
        assert!(open.begin(any, at(20)).is_some(), "said twice, it counts once");
        assert_eq!(open.standing.named, 2);
        assert!(open.answered(named, None, at(30)).is_some());
        assert!(open.answered(any, Some(PIECE), at(110)).is_some());
        assert!(open.answered(other, None, at(120)).is_some());
        assert_eq!(open.standing.named, 0);
        assert!(open.answered(any, Some(PIECE), at(130)).is_none(), "nobody waits for it");
        assert!(open.numbers.is_empty());
    }
}
