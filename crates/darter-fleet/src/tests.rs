//! Connections that are lost at awkward moments.

use std::sync::Arc;

use async_trait::async_trait;
use darter_core::{BlobId, NodeId, PieceIndex, Place, SystemClock};
use darter_metrics::Metrics;
use darter_store::{Disk, MemStore, StoreConfig};
use darter_swarm::RequestId;
use darter_wire::{
    Answer, Bind, BufferPool, Capabilities, ConnectionKind, Hello, MemNetwork, Message, Request, Role, Sent, Slots,
    Transport as _, Unlimited, Versions, Wanted, preface,
};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::data::Ask;

const PEER: NodeId = NodeId([2; 16]);

/// Closes the connection of which it is notified, before the notification returns.
#[derive(Default)]
struct Loses {
    fleet: OnceLock<Arc<Fleet>>,
    told: Mutex<Vec<bool>>,
    unanswered: watch::Sender<u32>,
}

#[async_trait]
impl PeerListener for Loses {
    fn peer_up(&self, peer: &Peer) {
        self.fleet.get().unwrap().drop_connection(peer.hello.node, 1);
        self.told.lock().push(true);
    }

    fn peer_down(&self, _: NodeId) {
        self.told.lock().push(false);
    }

    fn not_reached(&self, _: NodeId) {}
    fn said(&self, _: NodeId, _: Message) {}
    fn begun(&self, _: BlobId, _: RequestId, _: PieceIndex) {}
    async fn answered(&self, _: &Peer, _: BlobId, _: RequestId, _: Answer) {}

    fn unanswered(&self, _: NodeId, _: BlobId, _: RequestId) {
        self.unanswered.send_modify(|count| *count += 1);
    }
}

struct Nothing(watch::Sender<()>);

impl Uploads for Nothing {
    fn bind(&self, _: NodeId, _: &Request, _: &dyn Fn() -> Option<u64>) -> Bind {
        Bind::Wait
    }

    fn sent(&self, _: NodeId, _: BlobId, _: PieceIndex, _: Option<Sent>) {}

    fn changes(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

fn hello(node: NodeId) -> Hello {
    Hello {
        node,
        listen: format!("10.0.0.{}:7400", node.0[0]),
        place: Place::default(),
        role: Role::Node,
        program: "test".to_owned(),
        run: node.0[0].into(),
        versions: Versions::SPOKEN,
        capabilities: Capabilities::default(),
    }
}

/// A fleet on the host 10.0.0.1 and its listener.
fn fleet(network: &MemNetwork) -> (Arc<Fleet>, Arc<Loses>, Arc<Nothing>) {
    let clock = Arc::new(SystemClock::start());
    let dir = std::env::temp_dir();
    let context = FleetContext {
        role: darter_api::Role::Node,
        place: Place::default(),
        join: Vec::new(),
        data_dir: dir,
        clock: clock.clone(),
        disk: Disk::new(Arc::new(MemStore::new(&StoreConfig::new(Arc::new(|| 1))))),
        metrics: Metrics::new(0),
    };
    let receiving = Receiving { budget: Arc::new(Unlimited), buffers: BufferPool::default() };
    let sending = Sending { slots: Slots::new(4), budget: Arc::new(Unlimited), stall: Duration::from_secs(10), clock };
    let transport = Arc::new(network.host([10, 0, 0, 1]));
    let fleet = Fleet::new(context, transport, receiving, sending, TaskTracker::new());
    let (listener, uploads) = (Arc::new(Loses::default()), Arc::new(Nothing(watch::channel(()).0)));
    assert!(listener.fleet.set(Arc::clone(&fleet)).is_ok());
    let (heard, gives): (Arc<dyn PeerListener>, Arc<dyn Uploads>) = (listener.clone(), uploads.clone());
    fleet.begin(hello(NodeId([1; 16])), Arc::downgrade(&heard), Arc::downgrade(&gives));
    (fleet, listener, uploads)
}

#[tokio::test]
async fn a_peer_that_is_lost_while_it_is_announced_is_not_believed_to_be_there() {
    let network = MemNetwork::new();
    let (fleet, listener, _uploads) = fleet(&network);
    let there = network.host([10, 0, 0, 2]).listen("10.0.0.2:7400").await.unwrap();
    let me = hello(PEER);
    let greeting = async { preface::greet(there.accept().await.unwrap(), &me).await.unwrap() };
    let (dialled, _greeted) = tokio::join!(fleet.dial("10.0.0.2:7400"), greeting);
    assert_eq!(dialled.unwrap(), PEER);
    assert!(fleet.peer(PEER).is_none());
    assert_eq!(*listener.told.lock(), [false, true, false], "what is told last is so");
}

#[tokio::test]
async fn nothing_is_remembered_of_a_holder_that_is_asked_when_it_is_gone() {
    let network = MemNetwork::new();
    let (fleet, listener, _uploads) = fleet(&network);
    let ask = |request| {
        let (blob, request) = (BlobId([1; 32]), RequestId(request));
        Ask { blob, request, wanted: Wanted::Any, urgent: false, longest: 1 << 20 }
    };
    // First nothing listens there; then something does, and closes the connection.
    fleet.ask(PEER, ask(1));
    let mut unanswered = listener.unanswered.subscribe();
    unanswered.wait_for(|count| *count == 1).await.unwrap();
    assert!(fleet.state.lock().links.is_empty());
    fleet.state.lock().note_address(PEER, "10.0.0.2:7400");
    let there = network.host([10, 0, 0, 2]).listen("10.0.0.2:7400").await.unwrap();
    fleet.ask(PEER, ask(2));
    let greeted = preface::greet(there.accept().await.unwrap(), &hello(PEER)).await.unwrap();
    assert_eq!(greeted.kind, ConnectionKind::Data);
    assert_eq!(fleet.state.lock().links.len(), 1);
    drop(greeted);
    unanswered.wait_for(|count| *count == 2).await.unwrap();
    assert!(fleet.state.lock().links.is_empty());
}
