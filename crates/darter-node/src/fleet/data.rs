//! Data connections to holders: one each, made when the first piece is asked for.
//!
//! A [`DataLink`] is in one of three states: *connecting* (requests wait), *up*, or *closed* (requests fail at once, and
//! the next one makes a new link). Every request that goes in comes out as exactly one call of the listener:
//! answered or unanswered.

use std::collections::HashMap;
use std::sync::Arc;

use darter_core::{BlobId, NodeId};
use darter_swarm::RequestId;
use darter_wire::preface;
use darter_wire::{Answer, Answers, DataClient, Kind, Request, Wanted};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{Fleet, Listener, Peer};

/// Answers of one link that are being verified and written at a time: enough to keep reading while the disk works.
const BEING_STORED: usize = 4;

/// A piece that is wanted from a holder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// The blob.
    pub(crate) blob: BlobId,
    /// Names it to the picker.
    pub(crate) request: RequestId,
    /// Which piece.
    pub(crate) wanted: Wanted,
    /// Goes before all that is not urgent.
    pub(crate) urgent: bool,
    /// The most bytes the answer may have.
    pub(crate) longest: u32,
}

enum Link {
    Connecting(Vec<Ask>),
    Up(DataClient),
    Closed,
}

/// A data connection to one holder.
pub(crate) struct DataLink {
    link: Mutex<Link>,
    /// Unanswered requests by their number on the wire.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u32,
    asks: HashMap<u32, Ask>,
    numbers: HashMap<(BlobId, RequestId), u32>,
}

impl DataLink {
    /// Ends the connection; what is unanswered fails.
    pub(crate) fn close(&self) {
        let before = std::mem::replace(&mut *self.link.lock(), Link::Closed);
        match before {
            Link::Up(client) => client.close(),
            // Whoever is connecting still says that they are not answered.
            Link::Connecting(waiting) => {
                for ask in waiting {
                    self.number(ask);
                }
            }
            Link::Closed => {}
        }
    }

    /// Whether it is connected.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.link.lock(), Link::Up(_))
    }

    fn number(&self, ask: Ask) -> u32 {
        let mut open = self.open.lock();
        loop {
            open.last = open.last.wrapping_add(1);
            if !open.asks.contains_key(&open.last) {
                break;
            }
        }
        let number = open.last;
        open.asks.insert(number, ask);
        open.numbers.insert((ask.blob, ask.request), number);
        number
    }

    fn take(&self, number: u32) -> Option<Ask> {
        let mut open = self.open.lock();
        let ask = open.asks.remove(&number)?;
        open.numbers.remove(&(ask.blob, ask.request));
        Some(ask)
    }

    /// Sends what waits or comes; false when the link can't take it.
    fn send(&self, client: &DataClient, ask: Ask) -> bool {
        let number = self.number(ask);
        let request = Request { id: number, blob: ask.blob, wanted: ask.wanted, urgent: ask.urgent };
        let sent = client.request(request, ask.longest).is_ok();
        if !sent {
            self.take(number);
        }
        sent
    }
}

impl Fleet {
    /// Asks a holder for a piece. The answer, or that there is none, comes through the [`Listener`].
    pub(crate) fn ask(self: &Arc<Self>, holder: NodeId, ask: Ask) {
        self.metrics.round_trips.inc();
        let link = self.link_to(holder);
        let refused = match &mut *link.link.lock() {
            Link::Connecting(waiting) => {
                waiting.push(ask);
                false
            }
            Link::Up(client) => !link.send(client, ask),
            Link::Closed => true,
        };
        if refused && let Some(listener) = self.listener() {
            listener.unanswered(holder, ask.blob, ask.request);
        }
    }

    /// Calls a request back; its answer is welcome if it comes all the same.
    pub(crate) fn cancel(&self, holder: NodeId, blob: BlobId, request: RequestId) {
        let link = self.state.lock().links.get(&holder).cloned();
        let Some(link) = link else { return };
        let number = link.open.lock().numbers.get(&(blob, request)).copied();
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

    /// How many requests stand at a holder, of whatever blob.
    pub(crate) fn standing(&self, holder: NodeId) -> u32 {
        let link = self.state.lock().links.get(&holder).cloned();
        link.map_or(0, |link| u32::try_from(link.open.lock().asks.len()).unwrap_or(u32::MAX))
    }

    /// Bytes of a request's answer that have come.
    pub(crate) fn arrived(&self, holder: NodeId, blob: BlobId, request: RequestId) -> Option<u32> {
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
        let addr = state.addresses.get(&holder).cloned().unwrap_or_default();
        drop(state);
        let (fleet, running) = (Arc::clone(self), Arc::clone(&link));
        self.tasks.spawn(async move { fleet.run_link(holder, &addr, running).await });
        link
    }

    async fn run_link(self: Arc<Self>, holder: NodeId, addr: &str, link: Arc<DataLink>) {
        let Some(listener) = self.listener() else { return };
        match preface::open(&*self.transport, addr, Kind::Data, self.me()).await {
            Ok(greeted) if greeted.hello.node == holder => {
                let (client, answers) = DataClient::start(greeted.stream, self.receiving.clone());
                let before = std::mem::replace(&mut *link.link.lock(), Link::Up(client.clone()));
                if let Link::Connecting(waiting) = before {
                    for ask in waiting {
                        if !link.send(&client, ask) {
                            listener.unanswered(holder, ask.blob, ask.request);
                        }
                    }
                    self.read_answers(self.peer_of(&greeted.hello), &link, answers, &listener).await;
                }
            }
            Ok(other) => {
                tracing::debug!(peer = %holder.short(), found = %other.hello.node.short(), "another agent answers there");
            }
            Err(error) => tracing::debug!(peer = %holder.short(), %error, "no data connection"),
        }
        let before = std::mem::replace(&mut *link.link.lock(), Link::Closed);
        let mut lost: Vec<Ask> = link.open.lock().asks.drain().map(|(_, ask)| ask).collect();
        if let Link::Connecting(waiting) = before {
            lost.extend(waiting);
        }
        for ask in lost {
            listener.unanswered(holder, ask.blob, ask.request);
        }
    }

    async fn read_answers(&self, holder: Peer, link: &DataLink, mut answers: Answers, listener: &Arc<dyn Listener>) {
        let holder = Arc::new(holder);
        let room = Arc::new(Semaphore::new(BEING_STORED));
        loop {
            let answer = tokio::select! {
                answer = answers.recv() => answer,
                () = self.stop.cancelled() => return,
            };
            let answer = match answer {
                Ok(Some(answer)) => answer,
                Ok(None) => return,
                Err(error) => {
                    tracing::debug!(peer = %holder.hello.node.short(), %error, "a data connection failed");
                    return;
                }
            };
            let id = match &answer {
                Answer::Begun { id, piece, .. } => {
                    let ask = link.open.lock().asks.get(id).copied();
                    if let Some(ask) = ask {
                        listener.begun(ask.blob, ask.request, *piece);
                    }
                    continue;
                }
                Answer::Data { id, .. } | Answer::None { id, .. } => id,
            };
            let Some(ask) = link.take(*id) else { continue };
            let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
            let (listener, holder) = (Arc::clone(listener), Arc::clone(&holder));
            self.tasks.spawn(async move {
                listener.answered(&holder, ask.blob, ask.request, answer).await;
                drop(permit);
            });
        }
    }
}
