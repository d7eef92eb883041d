//! A seed, or another peer, that speaks the protocol as a test wants it to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_agent::{Agent, Options};
use darter_core::manifest::{hash_piece, root_of_pieces};
use darter_core::{BlobId, NodeId, PieceHash, PieceIndex, PieceLength, Place, Signer, Source, SystemClock, Version};
use darter_wire::control::{self, ControlConfig, ControlSender};
use darter_wire::{
    Bind, Capabilities, ConnectionKind, Greeted, Hello, Listener, Message, Payload, Request, Role, Sending, Sent,
    Slots, TcpTransport, Transport, Unlimited, Uploads, Verdict, Versions, Wanted, preface, serve_data,
};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A blob that only its seeds have: nobody answers at its address.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) source: Source,
    version: Version,
    pub(crate) piece_length: PieceLength,
}

impl Content {
    /// Three pieces.
    pub(crate) fn new() -> Self {
        let piece_length = PieceLength::from_log2(18).unwrap();
        let bytes = (0..piece_length.bytes() as u32 * 3).map(|at| (at * 31 + at / 251) as u8).collect();
        let (source, _) = Source::from_url("http://127.0.0.1:1/file".parse().unwrap(), &[], None);
        let version = Version { etag: Some("\"1\"".into()), ..Version::default() };
        Self { bytes, source, version, piece_length }
    }

    /// The same, for another peer.
    pub(crate) fn copy(&self) -> Self {
        let (bytes, source, version) = (self.bytes.clone(), self.source.clone(), self.version.clone());
        Self { bytes, source, version, piece_length: self.piece_length }
    }

    pub(crate) fn length(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(crate) fn blob(&self) -> BlobId {
        self.source.blob(&self.version)
    }

    pub(crate) fn piece(&self, index: u32) -> &[u8] {
        let range = self.piece_length.range(PieceIndex(index), self.length());
        &self.bytes[range.start() as usize..range.end() as usize]
    }

    /// The answer to a request, with a piece.
    pub(crate) fn gives(&self, piece: PieceIndex) -> Bind {
        Bind::Send { piece, payload: Payload::Bytes(Bytes::copy_from_slice(self.piece(piece.0))) }
    }

    pub(crate) fn hashes(&self) -> Vec<PieceHash> {
        (0..3).map(|index| hash_piece(self.piece_length, PieceIndex(index), self.piece(index), false)).collect()
    }

    /// A lead's answer to somebody who joins: all that is to be known of the blob.
    pub(crate) fn joined(&self, request: u32) -> Message {
        let verdict = Verdict { root: root_of_pieces(&self.hashes()), digest: None };
        Message::Joined {
            request,
            blob: self.blob(),
            version: self.version.clone(),
            piece_length: self.piece_length,
            length: Some(self.length()),
            hashes: self.hashes(),
            key: Signer::draw().key(),
            members_ask: false,
            proof: None,
            neighbours: Vec::new(),
            verdict: Some(verdict),
            whole: None,
        }
    }
}

/// The behaviour of a peer; the rest is the protocol's.
pub(crate) trait Part: Send + Sync + 'static {
    /// Somebody asks this seed to be let into a swarm.
    fn asked_to_lead(&self, seed: NodeId, request: u32) -> Message;

    /// The same, where it matters for what.
    fn asked_to_lead_for(&self, seed: NodeId, request: u32, _source: &Source) -> Message {
        self.asked_to_lead(seed, request)
    }

    /// A seed's message behind that answer.
    fn says_then(&self) -> Option<Message> {
        None
    }

    /// Its message to a peer that connects.
    fn says_first(&self) -> Option<Message> {
        None
    }

    /// Its answer to anything else.
    fn hears(&self, _message: &Message) -> Option<Message> {
        None
    }

    /// Its answer to a request for a piece, which is asked again after [`changes`](Self::changes) if it is to wait.
    fn bind(&self, _wanted: Wanted) -> Bind {
        Bind::Wait
    }

    /// A piece was sent.
    fn sent(&self, _piece: PieceIndex, _delivered: bool) {}

    /// Tells when a request that waits may be answered otherwise; `None`: never.
    fn changes(&self) -> Option<watch::Receiver<()>> {
        None
    }
}

/// The pieces of a peer.
struct Pieces {
    part: Arc<dyn Part>,
    never: watch::Sender<()>,
}

impl Uploads for Pieces {
    fn bind(&self, _: NodeId, request: &Request, _: &dyn Fn() -> Option<u64>) -> Bind {
        self.part.bind(request.wanted)
    }

    fn sent(&self, _: NodeId, _: BlobId, piece: PieceIndex, sent: Option<Sent>) {
        self.part.sent(piece, sent.is_some());
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.part.changes().unwrap_or_else(|| self.never.subscribe())
    }
}

/// An agent with these seeds.
pub(crate) fn node(data_dir: &Path, join: Vec<String>) -> Options {
    Options {
        role: darter_agent::options::Role::Node,
        data_dir: data_dir.to_owned(),
        sockets: Vec::new(),
        socket_group: None,
        listen: Some(([127, 0, 0, 1], 0).into()),
        advertise: None,
        local: None,
        join,
        labels: BTreeMap::new(),
        upload_limit: None,
        download_limit: None,
        origin_limit: None,
        // Tests count what is read to the byte: another connection's trial may be read twice. See `connections.rs`.
        origin_connections: 1,
        insecure: true,
        quota: None,
        reserve: darter_agent::options::Amount::Bytes(0),
        upstreams: Vec::new(),
        default_upstream: None,
        metrics: None,
        local_names: Vec::new(),
        trusted_registries: Vec::new(),
        ask_login: false,
        plain_http: Vec::new(),
        logins: Vec::new(),
        docker_config: None,
        origin_ca: None,
        origin_patience: Duration::from_secs(2),
        origin_timeout: Duration::from_secs(30),
        signed_parameters: Vec::new(),
        grant_ttl: Duration::ZERO,
        stale_tags: Default::default(),
        verify_whole: false,
        answer_timeout: darter_agent::ANSWER_TIMEOUT,
        stall_timeout: Duration::ZERO,
        lazy: None,
        profiles: true,
        packed: true,
        local_roots: None,
        drain_timeout: Duration::ZERO,
    }
}

/// Fetches the content through an agent; panics unless its bytes are right.
pub(crate) async fn fetch(agent: &Agent, content: &Content) {
    let download = agent.open(content.source.clone(), Default::default()).await.unwrap();
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.unwrap());
    }
    assert!(read == content.bytes);
}

/// Starts a peer, and tells its address. Cancelling `leave` lets its control connections go, and nobody finds it any more;
/// data connections go on.
pub(crate) async fn start(node: NodeId, role: Role, part: Arc<dyn Part>, leave: CancellationToken) -> String {
    let listener = TcpTransport::default().listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().to_string();
    let me = hello(node, role, &address);
    tokio::spawn(async move { leave.clone().run_until_cancelled(accept(listener, me, part, leave)).await });
    address
}

/// How such a peer introduces itself.
pub(crate) fn hello(node: NodeId, role: Role, address: &str) -> Hello {
    let (listen, program) = (address.to_owned(), "a test's".to_owned());
    let (versions, capabilities) = (Versions::SPOKEN, Capabilities::OWN);
    Hello { node, listen, place: Place::default(), role, program, run: 1, versions, capabilities }
}

async fn accept(listener: Box<dyn Listener>, me: Hello, part: Arc<dyn Part>, leave: CancellationToken) {
    while let Ok(stream) = listener.accept().await {
        let (me, part, leave) = (me.clone(), Arc::clone(&part), leave.clone());
        tokio::spawn(async move {
            let Ok(greeted) = preface::greet(stream, &me).await else { return };
            match greeted.kind {
                ConnectionKind::Control => {
                    leave.run_until_cancelled(converse(greeted, me.node, &*part)).await;
                }
                ConnectionKind::Data => {
                    let clock = Arc::new(SystemClock::start());
                    let (slots, budget) = (Slots::new(1), Arc::new(Unlimited));
                    let sending = Sending { slots, budget, stall: Duration::MAX, clock };
                    // The agent's end of it is the agent's affair.
                    let pieces = Arc::new(Pieces { part, never: watch::channel(()).0 });
                    let _ = serve_data(greeted.stream, greeted.hello.node, pieces, &sending).await;
                }
            }
        });
    }
}

async fn converse(greeted: Greeted, me: NodeId, part: &dyn Part) {
    let (sender, mut receiver): (ControlSender, _) = control::start(greeted.stream, &ControlConfig::default());
    if let Some(message) = part.says_first() {
        sender.send(&message).await.unwrap();
    }
    while let Ok(Some(message)) = receiver.recv().await {
        if let Message::Join { request, source, .. } = message {
            sender.send(&part.asked_to_lead_for(me, request, &source)).await.unwrap();
            if let Some(message) = part.says_then() {
                sender.send(&message).await.unwrap();
            }
        } else if let Some(answer) = part.hears(&message) {
            sender.send(&answer).await.unwrap();
        }
    }
}
