//! Peers that say they hold a blob and don't give it, each in its way, among agents: nobody waits for them for long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use darter_core::manifest::root_of_pieces;
use darter_core::source::{Credentials, blob_of};
use darter_core::{
    BlobId, Manifest, NodeId, PieceHash, PieceIndex, PieceLength, PieceSet, Rate, Signer, Source, Version,
};
use darter_node::options::Role as AgentRole;
use darter_node::{Agent, Options};
use darter_wire::control::{self, ControlConfig, ControlSender};
use darter_wire::{
    Greeted, Held, Hello, Kind, Listener, MAX_PIECES, Message, PeerInfo, PeerStream, Role, SwarmPart, TcpTransport,
    Transport, Verdict, preface,
};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::origin::{Answer, Origin, read};
use crate::seed;

/// Far more than a fleet without liars takes, on a machine that has other things to do; and less than one of them took.
const SOON: Duration = Duration::from_secs(25);

/// What a liar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// Takes requests and answers none.
    Silent,
    /// Answers a byte at a time.
    Bytes,
    /// Answers with a chunk each second.
    Chunks,
    Refuses,
    Busy,
    /// Has nothing of what it says it holds.
    Empty,
    /// Announces a length that no piece has.
    Absurd,
    Wrong,
    /// Answers after ten seconds.
    Late,
    /// Takes back all that it holds, and says again that it holds it, over and over.
    Withdraws,
    /// Is gone in the middle of its second answer.
    Vanishes,
    /// Accepts data connections and says nothing.
    NeverGreets,
    /// Says things without end.
    Floods,
    /// Says that it knows and holds more than any blob has.
    Counts,
    /// Says that it leads, holds and knows everything.
    Leads,
}

impl Lie {
    const ALL: [Self; 15] = [
        Self::Silent,
        Self::Bytes,
        Self::Chunks,
        Self::Refuses,
        Self::Busy,
        Self::Empty,
        Self::Absurd,
        Self::Wrong,
        Self::Late,
        Self::Withdraws,
        Self::Vanishes,
        Self::NeverGreets,
        Self::Floods,
        Self::Counts,
        Self::Leads,
    ];
}

/// A peer that says it holds all of a blob.
struct Liar {
    lie: Lie,
    me: Hello,
    source: Source,
    blob: BlobId,
    content: Arc<Vec<u8>>,
    pieces: PieceLength,
    answers: AtomicU32,
    /// Whom it talks with.
    others: Mutex<Vec<ControlSender>>,
    gone: CancellationToken,
}

impl Liar {
    /// Joins the swarm by way of this agent.
    async fn start(number: u8, lie: Lie, source: Source, content: Arc<Vec<u8>>, agent: &str) -> Arc<Self> {
        let listener = TcpTransport::default().listen("127.0.0.1:0").await.unwrap();
        let me = seed::hello(NodeId([number; 16]), Role::Node, &listener.local_addr().to_string());
        let blob = blob_of(&source.digest().unwrap());
        let pieces = PieceLength::for_blob(content.len() as u64);
        let (answers, others, gone) = (AtomicU32::new(0), Mutex::default(), CancellationToken::new());
        let liar = Arc::new(Self { lie, me, source, blob, content, pieces, answers, others, gone });
        let accepting = Arc::clone(&liar);
        tokio::spawn(async move { accepting.gone.run_until_cancelled(accepting.accept(listener)).await });
        let lead = liar.meet(agent).await.expect("the agent is there");
        let held = Some(Held { blob, pieces: liar.claim() });
        let credentials = Credentials::none();
        let join = Message::Join { request: 1, source: liar.source.clone(), credentials, held, wants: true };
        for message in [Message::Inventory { blobs: vec![blob] }, join] {
            lead.send(&message).await.unwrap();
        }
        let talking = Arc::clone(&liar);
        tokio::spawn(async move { talking.gone.run_until_cancelled(talking.talk()).await });
        liar
    }

    fn count(&self) -> u32 {
        self.pieces.count(self.content.len() as u64)
    }

    fn claim(&self) -> PieceSet {
        PieceSet::full(if self.lie == Lie::Counts { MAX_PIECES } else { self.count() })
    }

    fn meeting(&self) -> Message {
        let known = if self.lie == Lie::Counts { MAX_PIECES } else { self.count() };
        Message::Meet { blob: self.blob, held: self.claim(), known, wants: true }
    }

    /// Hashes of nothing.
    fn made_up(&self) -> Vec<PieceHash> {
        vec![PieceHash([7; 32]); self.count() as usize]
    }

    /// Has nobody hear of it any more.
    fn vanish(&self) {
        self.gone.cancel();
        self.others.lock().clear();
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
            Kind::Control => {
                self.converse(greeted);
            }
            Kind::Data => {
                // The agent's end of it is the agent's affair.
                let _ = self.give(greeted.stream).await;
            }
        }
    }

    /// Connects to an agent.
    async fn meet(self: &Arc<Self>, address: &str) -> Option<ControlSender> {
        let greeted = preface::open(&TcpTransport::default(), address, Kind::Control, &self.me).await.ok()?;
        Some(self.converse(greeted))
    }

    fn converse(self: &Arc<Self>, greeted: Greeted) -> ControlSender {
        let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
        self.others.lock().push(sender.clone());
        let (liar, to) = (Arc::clone(self), sender.clone());
        tokio::spawn(async move {
            let listening = async {
                while let Ok(Some(message)) = receiver.recv().await {
                    liar.hear(message, &to).await;
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
                for PeerInfo { addr, .. } in neighbours {
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
            Message::AskLead { request, .. } if self.lie == Lie::Leads => {
                Message::LeadIs { request, part: SwarmPart::Lead, lead: None, seeds: vec![], nearest: vec![] }
            }
            Message::AskLead { request, .. } => {
                Message::LeadIs { request, part: SwarmPart::Holder, lead: None, seeds: vec![], nearest: vec![] }
            }
            Message::AskManifest { request, .. } => {
                let mut manifest = Manifest::new(self.pieces, Some(self.content.len() as u64));
                manifest.extend(0, &self.made_up()).unwrap();
                Message::ManifestIs { request, blob, manifest: Some(manifest) }
            }
            Message::Join { request, .. } if self.lie == Lie::Leads => Message::Joined {
                request,
                blob,
                version: Version::default(),
                piece_length: self.pieces,
                length: Some(self.content.len() as u64),
                hashes: self.made_up(),
                key: Signer::draw().key(),
                members_ask: false,
                proof: None,
                neighbours: Vec::new(),
                verdict: Some(Verdict { root: root_of_pieces(&self.made_up()), digest: self.source.digest() }),
                whole: None,
            },
            _ => return,
        };
        // An agent that hangs up has reason to.
        let _ = to.send(&answer).await;
    }

    /// What it says unasked.
    async fn talk(self: &Arc<Self>) {
        let (blob, known) = (self.blob, self.count());
        let all: Vec<PieceIndex> = (0..known).map(PieceIndex).collect();
        loop {
            let messages = match self.lie {
                Lie::Withdraws => vec![
                    Message::Lost { blob, pieces: all.clone() },
                    Message::Have { blob, pieces: all.clone(), known },
                ],
                Lie::Floods => vec![Message::AskPeers; 200],
                _ => return,
            };
            let others = self.others.lock().clone();
            for message in &messages {
                others.iter().for_each(|other| drop(other.try_send(message)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Answers the requests of one connection, or does not.
    async fn give(&self, mut stream: PeerStream) -> std::io::Result<()> {
        let mut frame = [0; 44];
        loop {
            stream.reader.read_exact(&mut frame).await?;
            if frame[4] != 0 {
                continue;
            }
            let (id, piece) = (&frame[0..4], u32::from_le_bytes(frame[8..12].try_into().unwrap()));
            if piece >= self.count() {
                continue;
            }
            let range = self.pieces.range(PieceIndex(piece), self.content.len() as u64);
            let right = &self.content[range.start() as usize..range.end() as usize];
            let header = |status: u8, length: u32| {
                let (status, index) = ([status, 0, 0, 0], if status == 0 { piece } else { u32::MAX });
                [id, &status, &index.to_le_bytes(), &length.to_le_bytes()].concat()
            };
            let data = header(0, right.len() as u32);
            match self.lie {
                Lie::Silent | Lie::NeverGreets | Lie::Floods | Lie::Counts | Lie::Leads => {}
                Lie::Refuses => stream.writer.write_all(&header(3, 0)).await?,
                Lie::Busy => stream.writer.write_all(&header(2, 0)).await?,
                Lie::Empty | Lie::Withdraws => stream.writer.write_all(&header(1, 0)).await?,
                Lie::Absurd => stream.writer.write_all(&header(0, u32::MAX)).await?,
                Lie::Wrong => stream.writer.write_all(&[data, vec![0; right.len()]].concat()).await?,
                Lie::Late => {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                    stream.writer.write_all(&[&data, right].concat()).await?;
                }
                Lie::Bytes | Lie::Chunks => {
                    stream.writer.write_all(&data).await?;
                    let (size, pause) = if self.lie == Lie::Bytes { (1, 100) } else { (16 << 10, 1000) };
                    for chunk in right.chunks(size) {
                        stream.writer.write_all(chunk).await?;
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                }
                Lie::Vanishes => {
                    let nth = self.answers.fetch_add(1, Ordering::Relaxed);
                    let most = if nth == 0 { right.len() } else { right.len() / 2 };
                    stream.writer.write_all(&[&data, &right[..most]].concat()).await?;
                    if nth > 0 {
                        self.vanish();
                    }
                }
            }
        }
    }
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Who there is besides honest nodes and liars.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// A seed that has everything.
    Full,
    /// A seed that reads the origin.
    Empty,
    /// Nobody.
    Nobody,
}

/// An agent whose links are not much faster than those of a small cloud machine.
fn options(dir: &std::path::Path, name: &str, join: Vec<String>) -> Options {
    let rate = Rate::from_bytes_per_second(24_000_000);
    let origin_patience = Duration::from_secs(30);
    Options { upload_limit: rate, origin_patience, ..seed::node(&dir.join(name), join) }
}

/// So many nodes pull a blob at once in the company of these liars; how often the origin was asked.
async fn pull(above: Above, nodes: usize, lies: &[Lie]) -> u32 {
    let content = Arc::new(content(8 << 20));
    let served = Arc::clone(&content);
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let source = origin.blob(&content);
    let dir = tempfile::tempdir().unwrap();
    let first = match above {
        Above::Nobody => options(dir.path(), "first", Vec::new()),
        _ => Options { role: AgentRole::Seed, ..options(dir.path(), "first", Vec::new()) },
    };
    let first = Agent::start(first).await.unwrap();
    let address = first.status().listen.unwrap();
    if matches!(above, Above::Full) {
        read(&first, &source).await.unwrap();
    }
    let mut agents = Vec::new();
    for node in 0..nodes {
        agents.push(Agent::start(options(dir.path(), &node.to_string(), vec![address.clone()])).await.unwrap());
    }
    let mut liars = Vec::new();
    for (number, lie) in (1..).zip(lies) {
        liars.push(Liar::start(number, *lie, source.clone(), Arc::clone(&content), &address).await);
    }
    // All know each other, the liars among them.
    let connected = async {
        while agents.iter().any(|agent| agent.status().peers.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, connected).await.expect("they meet");
    let pulls = agents.iter().map(|agent| tokio::time::timeout(SOON, read(agent, &source)));
    for got in join_all(pulls).await {
        let got = got.unwrap_or_else(|_| panic!("{above:?}, {nodes} nodes: {lies:?} stopped one"));
        assert!(got.unwrap_or_else(|error| panic!("{above:?}, {nodes} nodes, {lies:?}: {error}")) == **content);
    }
    liars.iter().for_each(|liar| liar.vanish());
    join_all(agents.iter().chain([&first]).map(Agent::drain)).await;
    origin.gets()
}

async fn each(above: Above, nodes: usize, lies: impl Iterator<Item = Vec<Lie>>) {
    // Some at a time: an ordinary user has a thousand descriptors.
    let pulls = futures_util::stream::iter(lies).map(async |lies| {
        let gets = pull(above, nodes, &lies).await;
        println!("{above:?} {lies:?}: {gets} reads");
    });
    pulls.buffer_unordered(4).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_of_any_kind_among_three_nodes_of_a_seed_that_has_it_all_stops_nobody() {
    each(Above::Full, 3, Lie::ALL.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_of_any_kind_among_three_nodes_of_a_seed_that_reads_the_origin_stops_nobody() {
    each(Above::Empty, 3, Lie::ALL.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_liar_of_any_kind_among_three_nodes_without_a_seed_stops_nobody() {
    each(Above::Nobody, 3, Lie::ALL.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_liars_among_eight_and_four_among_three_stop_nobody() {
    let pairs = Lie::ALL.chunks(2).map(<[Lie]>::to_vec);
    each(Above::Empty, 6, pairs).await;
    let fours = [Lie::Silent, Lie::Bytes, Lie::Refuses, Lie::Absurd].map(|lie| vec![lie; 4]);
    each(Above::Full, 3, fours.into_iter()).await;
}
