//! A peer that says it holds all of a blob, and lies: its connections, what it answers, and what it gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_core::manifest::root_of_pieces;
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Signer, Source, Version};
use darter_protocol::data::{ASK_LENGTH, Ask, HEADER_LENGTH, Header};
use darter_wire::control::{self, ControlConfig, ControlReceiver, ControlSender};
use darter_wire::{
    ConnectionKind, Greeted, Held, Hello, Listener, MAX_PIECES, Message, PeerInfo, PeerStream, Refusal, Request, Role,
    SwarmPart, Transport, Verdict, Wanted, preface,
};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::Lie;
use crate::seed;

/// A peer that says it holds all of a blob.
pub(super) struct Liar {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) lie: Lie,
    pub(super) me: Hello,
    pub(super) source: Source,
    pub(super) blob: BlobId,
    content: Arc<Vec<u8>>,
    pieces: PieceLength,
    answers: AtomicU32,
    /// The one that it gives to.
    favoured: Mutex<Option<NodeId>>,
    /// Peers that it talks with.
    pub(super) others: Mutex<Vec<ControlSender>>,
    /// How those that it met introduced themselves.
    pub(super) met: Mutex<BTreeMap<NodeId, Hello>>,
    /// Nodes that it has connected to.
    dialled: Mutex<BTreeSet<NodeId>>,
    /// Channels that a liar reads nothing of.
    unread: Mutex<Vec<ControlReceiver>>,
    /// Connections on which it says nothing that makes sense, and how many pieces it told of.
    pub(super) crowd: Mutex<VecDeque<PeerStream>>,
    pub(super) told: AtomicU32,
    pub(super) gone: CancellationToken,
}

impl Liar {
    /// Joins the swarm by way of this agent; listens at `address`.
    pub(super) async fn start(
        number: u8,
        lie: Lie,
        source: Source,
        content: Arc<Vec<u8>>,
        (transport, address): (impl Transport, &str),
        agent: &str,
    ) -> Arc<Self> {
        let listener = transport.listen(address).await.unwrap();
        let transport = Arc::new(transport);
        let me = seed::hello(NodeId([number; 16]), Role::Node, &listener.local_addr().to_string());
        let blob = blob_of(&source.digest().unwrap());
        let pieces = PieceLength::for_blob(content.len() as u64);
        let liar = Arc::new(Self {
            transport,
            lie,
            me,
            source,
            blob,
            content,
            pieces,
            answers: AtomicU32::new(0),
            favoured: Mutex::default(),
            others: Mutex::default(),
            met: Mutex::default(),
            dialled: Mutex::default(),
            unread: Mutex::default(),
            crowd: Mutex::default(),
            told: AtomicU32::new(0),
            gone: CancellationToken::new(),
        });
        let accepting = Arc::clone(&liar);
        tokio::spawn(async move { accepting.gone.run_until_cancelled(accepting.accept(listener)).await });
        let lead = liar.meet(agent).await.expect("the agent is there");
        let held = Some(Held { blob, pieces: liar.claim() });
        let credentials = Credentials::none();
        let join =
            Message::Join { request: 1, source: liar.source.clone(), credentials, held, wants: true, size: None };
        let inventory = Message::Inventory { blobs: if lie.claims_nothing() { vec![] } else { vec![blob] } };
        for message in [inventory, join] {
            lead.send(&message).await.unwrap();
        }
        let talking = Arc::clone(&liar);
        tokio::spawn(async move { talking.gone.run_until_cancelled(talking.talk()).await });
        liar
    }

    pub(super) fn count(&self) -> u32 {
        self.pieces.count(self.content.len() as u64)
    }

    pub(super) fn claim(&self) -> PieceSet {
        PieceSet::full(match self.lie {
            Lie::Counts => MAX_PIECES,
            lie if lie.claims_nothing() => 0,
            _ => self.count(),
        })
    }

    pub(super) fn meeting(&self) -> Message {
        let known = if self.lie == Lie::Counts { MAX_PIECES } else { self.count() };
        let known = if self.lie.claims_nothing() { 0 } else { known };
        Message::Meet { blob: self.blob, held: self.claim(), known, wants: true }
    }

    /// Hashes of nothing.
    pub(super) fn made_up(&self) -> Vec<PieceHash> {
        vec![PieceHash([7; 32]); self.count() as usize]
    }

    /// Has nobody hear of it any more.
    pub(super) fn vanish(&self) {
        self.gone.cancel();
        self.others.lock().clear();
        self.unread.lock().clear();
        self.crowd.lock().clear();
    }

    async fn accept(self: &Arc<Self>, listener: Box<dyn Listener>) {
        while let Ok(stream) = listener.accept().await {
            let liar = Arc::clone(self);
            tokio::spawn(async move {
                let gone = liar.gone.clone();
                gone.run_until_cancelled(liar.greet(stream)).await;
            });
        }
    }

    async fn greet(self: Arc<Self>, stream: PeerStream) {
        if self.lie == Lie::NeverGreets {
            std::future::pending::<()>().await;
        }
        let Ok(greeted) = preface::greet(stream, &self.me).await else { return };
        match greeted.kind {
            ConnectionKind::Control => {
                self.converse(greeted);
            }
            ConnectionKind::Data => {
                // The agent's end of it is the agent's affair.
                let _ = self.give((greeted.stream, greeted.hello.node)).await;
            }
        }
    }

    /// Connects to an agent.
    async fn meet(self: &Arc<Self>, address: &str) -> Option<ControlSender> {
        let greeted = preface::open(&*self.transport, address, ConnectionKind::Control, &self.me).await.ok()?;
        Some(self.converse(greeted))
    }

    fn converse(self: &Arc<Self>, greeted: Greeted) -> ControlSender {
        self.met.lock().insert(greeted.hello.node, greeted.hello.clone());
        let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
        self.others.lock().push(sender.clone());
        if self.lie == Lie::Deaf {
            self.unread.lock().push(receiver);
            return sender;
        }
        if self.lie == Lie::Trickles {
            let (liar, to) = (Arc::clone(self), sender.clone());
            tokio::spawn(async move {
                let gone = liar.gone.clone();
                gone.run_until_cancelled(liar.trickle(&to)).await;
            });
        }
        let (liar, to) = (Arc::clone(self), sender.clone());
        tokio::spawn(async move {
            let listening = async {
                let mut has_met = false;
                while let Ok(Some(message)) = receiver.recv().await {
                    // Two liars would go on meeting each other.
                    if !matches!(message, Message::Meet { .. }) || !std::mem::replace(&mut has_met, true) {
                        liar.hear(message, &to).await;
                    }
                }
            };
            liar.gone.run_until_cancelled(listening).await;
        });
        sender
    }

    async fn hear(self: &Arc<Self>, message: Message, to: &ControlSender) {
        let blob = self.blob;
        let answer = match message {
            Message::Joined { neighbours, .. } | Message::Neighbours { add: neighbours, .. } => {
                for PeerInfo { addr, .. } in neighbours.into_iter().filter(|info| self.dialled.lock().insert(info.node))
                {
                    let liar = Arc::clone(self);
                    tokio::spawn(async move {
                        // It may be another liar.
                        if let Some(neighbour) = liar.meet(&addr).await {
                            let _ = neighbour.send(&liar.meeting()).await;
                        }
                    });
                }
                return;
            }
            Message::Meet { .. } => self.meeting(),
            Message::AskLead { request, .. } if matches!(self.lie, Lie::Leads | Lie::Trickles) => {
                Message::LeadIs { request, part: SwarmPart::Lead, lead: None, seeds: vec![], nearest: vec![] }
            }
            Message::AskLead { request, .. } if self.lie.claims_nothing() => {
                Message::LeadIs { request, part: SwarmPart::Nothing, lead: None, seeds: vec![], nearest: vec![] }
            }
            Message::AskLead { request, .. } => {
                Message::LeadIs { request, part: SwarmPart::Holder, lead: None, seeds: vec![], nearest: vec![] }
            }
            Message::AskManifest { request, .. } => {
                let mut manifest = Manifest::new(self.pieces, Some(self.content.len() as u64));
                manifest.extend(0, &self.made_up()).unwrap();
                Message::ManifestIs { request, blob, manifest: Some(manifest) }
            }
            Message::Join { request, .. } if matches!(self.lie, Lie::Leads | Lie::Trickles) => Message::Joined {
                request,
                blob,
                version: Version::default(),
                piece_length: self.pieces,
                length: Some(self.content.len() as u64),
                hashes: if self.lie == Lie::Leads { self.made_up() } else { Vec::new() },
                key: Signer::draw().key(),
                members_ask: false,
                proof: None,
                neighbours: Vec::new(),
                verdict: (self.lie == Lie::Leads)
                    .then(|| Verdict { root: root_of_pieces(&self.made_up()), digest: self.source.digest() }),
                whole: None,
            },
            _ => return,
        };
        // An agent that hangs up has reason to.
        let _ = to.send(&answer).await;
    }

    /// Tells a hash a second.
    async fn trickle(&self, to: &ControlSender) {
        for from in 0..self.count() {
            let (blob, hashes) = (self.blob, vec![PieceHash([7; 32])]);
            let _ = to.send(&Message::Grew { blob, from, hashes, length: None, members_ask: false, proof: None }).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Answers the requests of one connection, or does not.
    async fn give(&self, (mut stream, to): (PeerStream, NodeId)) -> std::io::Result<()> {
        let mut frame = [0; ASK_LENGTH];
        let mut kept = Vec::new();
        loop {
            stream.reader.read_exact(&mut frame).await?;
            let Ok(Ok(Ask::Request(Request { id, wanted: Wanted::Piece(piece), .. }))) = Ask::decode(&frame) else {
                continue;
            };
            if piece.0 >= self.count() {
                continue;
            }
            if self.lie == Lie::HangsUp {
                return Ok(());
            }
            if self.lie == Lie::Favours && *self.favoured.lock().get_or_insert(to) != to {
                continue;
            }
            if self.lie == Lie::Reverses {
                kept.push((id, piece));
                if kept.len() < 3 {
                    continue;
                }
                while let Some((id, piece)) = kept.pop() {
                    self.answer(&mut stream, id, piece).await?;
                }
                continue;
            }
            self.answer(&mut stream, id, piece).await?;
        }
    }

    pub(super) fn piece_bytes(&self) -> u64 {
        self.pieces.bytes()
    }

    fn right(&self, piece: PieceIndex) -> &[u8] {
        let range = self.pieces.range(piece, self.content.len() as u64);
        &self.content[range.start() as usize..range.end() as usize]
    }

    async fn answer(&self, stream: &mut PeerStream, id: u32, piece: PieceIndex) -> std::io::Result<()> {
        let right = self.right(piece);
        let header = |id, piece, length: usize| -> [u8; HEADER_LENGTH] {
            Header::Data { id, piece, length: length as u32 }.encode()
        };
        let refusal = |reason| Header::None { id, reason, skip: 0 }.encode();
        let data = header(id, piece, right.len());
        let writer = &mut stream.writer;
        let next = PieceIndex((piece.0 + 1) % self.count());
        match self.lie {
            Lie::Wavers | Lie::Trickles | Lie::Leaves => {}
            Lie::Silent | Lie::NeverGreets | Lie::Floods | Lie::Counts | Lie::Leads | Lie::HangsUp => {}
            Lie::Refuses => writer.write_all(&refusal(Refusal::Refused)).await?,
            Lie::Busy => writer.write_all(&refusal(Refusal::Busy)).await?,
            Lie::Absurd => writer.write_all(&header(id, piece, u32::MAX as usize)).await?,
            Lie::Wrong => writer.write_all(&[&data[..], &vec![0; right.len()]].concat()).await?,
            Lie::StallsAtTheEnd if piece.0 * 10 >= self.count() * 9 => {}
            Lie::GivesFew if piece.0 * 8 >= self.count() => {}
            Lie::StallsAtTheEnd | Lie::GivesFew | Lie::Favours | Lie::Reverses => {
                writer.write_all(&[&data, right].concat()).await?;
            }
            Lie::StallsMidway => writer.write_all(&[&data, &right[..right.len() / 2]].concat()).await?,
            Lie::Alternates => {
                let is_right = self.answers.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
                let bytes = if is_right { right.to_vec() } else { vec![0; right.len()] };
                writer.write_all(&[&data[..], &bytes].concat()).await?;
            }
            Lie::Late => {
                tokio::time::sleep(Duration::from_secs(10)).await;
                writer.write_all(&[&data, right].concat()).await?;
            }
            Lie::Bytes | Lie::Chunks => {
                writer.write_all(&data).await?;
                let (size, pause) = if self.lie == Lie::Bytes { (1, 100) } else { (16 << 10, 1000) };
                for chunk in right.chunks(size) {
                    writer.write_all(chunk).await?;
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            }
            Lie::Slackens if self.answers.fetch_add(1, Ordering::Relaxed) < 20 => {
                writer.write_all(&[&data, right].concat()).await?;
            }
            Lie::Dawdles | Lie::Slackens => {
                writer.write_all(&data).await?;
                for chunk in right.chunks(16 << 10) {
                    writer.write_all(chunk).await?;
                    tokio::time::sleep(Duration::from_millis(125)).await;
                }
            }
            Lie::Vanishes => {
                let nth = self.answers.fetch_add(1, Ordering::Relaxed);
                let most = if nth == 0 { right.len() } else { right.len() / 2 };
                writer.write_all(&[&data, &right[..most]].concat()).await?;
                if nth > 0 {
                    self.vanish();
                }
            }
            Lie::Unasked => {
                for other in [piece, next] {
                    let unasked = header(!id, other, self.right(other).len());
                    writer.write_all(&[&unasked, self.right(other)].concat()).await?;
                }
            }
            Lie::Swaps => {
                let swapped = header(id, next, self.right(next).len());
                writer.write_all(&[&swapped, self.right(next)].concat()).await?;
            }
            Lie::Halves => {
                let half = &right[..right.len() / 2];
                writer.write_all(&[&header(id, piece, half.len()), half].concat()).await?;
            }
            Lie::Zero => writer.write_all(&header(id, piece, 0)).await?,
            Lie::Twice => {
                let answer = [&data, right].concat();
                writer.write_all(&[&answer[..], &answer].concat()).await?;
            }
            Lie::SlowHeaders => {
                for byte in data {
                    writer.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
            Lie::Garbage => writer.write_all(&[0xaa; 100]).await?,
            _ => writer.write_all(&refusal(Refusal::NotHeld)).await?,
        }
        writer.flush().await
    }
}
