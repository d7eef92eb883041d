//! Nodes without a seed, and one among them that says that it leads whatever they ask for, and makes up the rest. Agents as they are, over
//! memory and in virtual time. In spite of the false lead, the others have the right bytes before long: they read the origin themselves.

use std::sync::Arc;
use std::time::Duration;

use darter_agent::Agent;
use darter_core::manifest::{hash_piece, root_of_pieces};
use darter_core::{Digest, NodeId, PieceHash, PieceIndex, PieceLength, Place, Signer, Source, Version};
use darter_origin::MemOrigin;
use darter_protocol::data::{ASK_LENGTH, Ask, Header};
use darter_wire::control::{self, ControlConfig, ControlSender};
use darter_wire::{
    ConnectionKind, Failure, FailureKind, Greeted, Hello, MemNetwork, Message, PeerInfo, PeerStream, Request, Role,
    SwarmPart, Transport, Verdict, Wanted, preface,
};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, sleep, timeout};

use crate::in_memory::{self, Virtual, address};
use crate::origin::read;
use crate::seed;

/// In virtual time: two leads that give nothing, each for as long as an origin may take, and then some.
pub(crate) const AT_LAST: Duration = Duration::from_secs(100);

pub(crate) const LENGTH: usize = 700_000;

pub(crate) const LIAR: u8 = 9;

/// The false lead's message, and its reaction when it is asked for pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// Hashes and a verdict that it made up. It gives nothing, as in all that follow but two.
    Hashes,
    /// Besides, it names hundreds of neighbours that nobody can reach.
    Neighbours,
    /// It gives bytes that are not those of its hashes.
    Wrong,
    /// It gives a byte a second.
    Drips,
    Short,
    Long,
    /// It tells no length, and more and more hashes.
    Endless,
    /// It says for ever that it waits, before it lets anybody in, or after.
    Waits,
    Pauses,
    /// The origin's supposed answer.
    Missing,
    Forbidden,
    Limited,
    /// The transfer that it lets others into is over right then.
    Changed,
    Dissolved,
    Failed,
    LimitedLater,
    /// It answers nothing.
    Nothing,
    /// It gives bytes that are those of its hashes, and made up like them. The whole alone shows it.
    Forged,
}

impl Word {
    /// Those that give nothing that could be taken for right.
    pub(crate) const ALL: [Self; 17] = [
        Self::Hashes,
        Self::Neighbours,
        Self::Wrong,
        Self::Drips,
        Self::Short,
        Self::Long,
        Self::Endless,
        Self::Waits,
        Self::Pauses,
        Self::Missing,
        Self::Forbidden,
        Self::Limited,
        Self::Changed,
        Self::Dissolved,
        Self::Failed,
        Self::LimitedLater,
        Self::Nothing,
    ];
}

pub(crate) struct FalseLead {
    word: Word,
    me: Hello,
    source: Source,
}

impl FalseLead {
    pub(crate) async fn start(network: &MemNetwork, word: Word, source: Source, role: Role) {
        let ip = [10, 0, 0, LIAR];
        let transport = network.host(ip);
        let listener = transport.listen(&address(LIAR)).await.unwrap();
        let me = seed::hello(NodeId([LIAR; 16]), role, &address(LIAR));
        let lead = Arc::new(Self { word, me, source });
        tokio::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                let lead = Arc::clone(&lead);
                tokio::spawn(async move {
                    let Ok(greeted) = preface::greet(stream, &lead.me).await else { return };
                    match greeted.kind {
                        ConnectionKind::Control => lead.converse(greeted).await,
                        // The agent's end of it is the agent's affair.
                        ConnectionKind::Data => drop(lead.give(greeted.stream).await),
                    }
                });
            }
        });
    }

    fn length(&self) -> u64 {
        match self.word {
            Word::Short => 1000,
            Word::Long => 1 << 44,
            _ => LENGTH as u64,
        }
    }

    fn pieces(&self) -> PieceLength {
        if self.word == Word::Long { PieceLength::from_log2(24).unwrap() } else { PieceLength::for_blob(LENGTH as u64) }
    }

    /// The name that the origin's own answer would give the blob.
    fn version(&self) -> Version {
        Version { etag: Some("\"1\"".into()), length: Some(LENGTH as u64), ..Version::default() }
    }

    fn forged_hash(&self, piece: PieceIndex) -> PieceHash {
        let forged = vec![0; self.pieces().range(piece, self.length()).len() as usize];
        hash_piece(self.pieces(), piece, &forged, false)
    }

    fn joined(&self, request: u32) -> Message {
        let count = if self.word == Word::Endless { 1 } else { self.pieces().count(self.length()).min(1000) };
        let hashes: Vec<_> = match self.word {
            Word::Forged => (0..count).map(|piece| self.forged_hash(PieceIndex(piece))).collect(),
            _ => vec![PieceHash([7; 32]); count as usize],
        };
        let neighbour = |number: u8| PeerInfo {
            node: NodeId([number; 16]),
            addr: format!("10.9.9.{number}:7400"),
            place: Place::default(),
        };
        let neighbours = if self.word == Word::Neighbours { (10..250).map(neighbour).collect() } else { Vec::new() };
        let has_length = self.word != Word::Endless;
        let verdict = Verdict { root: root_of_pieces(&hashes), digest: self.source.digest() };
        Message::Joined {
            request,
            blob: self.source.blob(&self.version()),
            version: self.version(),
            piece_length: self.pieces(),
            length: has_length.then(|| self.length()),
            hashes,
            key: Signer::draw().key(),
            members_ask: false,
            proof: None,
            neighbours,
            verdict: has_length.then_some(verdict),
            whole: None,
        }
    }

    async fn converse(&self, greeted: Greeted) {
        let (sender, mut receiver) = control::start(greeted.stream, &ControlConfig::default());
        while let Ok(Some(message)) = receiver.recv().await {
            match message {
                Message::AskLead { request, .. } => {
                    let part = SwarmPart::Lead;
                    let answer = Message::LeadIs { request, part, lead: None, seeds: vec![], nearest: vec![] };
                    let _ = sender.send(&answer).await;
                }
                Message::Join { request, .. } => {
                    let said = self.answer(&sender, request);
                    if said.await.is_err() {
                        return;
                    }
                }
                _ => {}
            }
        }
    }

    async fn answer(&self, sender: &ControlSender, request: u32) -> darter_wire::Result<()> {
        let blob = self.source.blob(&self.version());
        let failure = |kind, status| Failure {
            kind,
            status: Some(status),
            text: "the origin said so".to_owned(),
            challenge: (kind == FailureKind::RateLimited).then(|| "86400".to_owned()),
        };
        let refusal = match self.word {
            Word::Missing => Some((FailureKind::NotFound, 404)),
            Word::Forbidden => Some((FailureKind::Forbidden, 403)),
            Word::Limited => Some((FailureKind::RateLimited, 429)),
            _ => None,
        };
        if let Some((kind, status)) = refusal {
            return sender.send(&Message::Rejected { request, failure: failure(kind, status) }).await;
        }
        if !matches!(self.word, Word::Waits | Word::Nothing) {
            sender.send(&self.joined(request)).await?;
        }
        let then = match self.word {
            Word::Changed => Message::Failed { blob, failure: failure(FailureKind::Changed, 200) },
            Word::Failed => Message::Failed { blob, failure: failure(FailureKind::Unreachable, 502) },
            Word::LimitedLater => Message::Failed { blob, failure: failure(FailureKind::RateLimited, 429) },
            Word::Dissolved => Message::Dissolved { blob, reason: "it is over".to_owned() },
            Word::Waits => Message::Waiting { request },
            Word::Pauses | Word::Endless => {
                let hashes = vec![PieceHash([7; 32]); usize::from(self.word == Word::Endless)];
                Message::Grew { blob, from: 1, hashes, length: None, members_ask: false, proof: None }
            }
            _ => return Ok(()),
        };
        sender.send(&then).await?;
        if matches!(self.word, Word::Waits | Word::Pauses | Word::Endless) {
            let sender = sender.clone();
            let mut then = then;
            tokio::spawn(async move {
                while sender.send(&then).await.is_ok() {
                    if let Message::Grew { from, hashes, .. } = &mut then {
                        *from += hashes.len() as u32;
                    }
                    sleep(Duration::from_secs(1)).await;
                }
            });
        }
        Ok(())
    }

    /// Answers requests for pieces, or does not.
    async fn give(&self, mut stream: PeerStream) -> std::io::Result<()> {
        let mut frame = [0; ASK_LENGTH];
        let mut any = (0..self.pieces().count(self.length())).cycle().map(PieceIndex);
        loop {
            stream.reader.read_exact(&mut frame).await?;
            let Ok(Ok(Ask::Request(Request { id, wanted, .. }))) = Ask::decode(&frame) else { continue };
            let piece = match wanted {
                Wanted::Piece(piece) => piece,
                Wanted::Any if self.word == Word::Forged => any.next().expect("it goes round"),
                Wanted::Any => PieceIndex(0),
            };
            let length = self.pieces().range(piece, self.length()).len() as u32;
            let header = Header::Data { id, piece, length }.encode();
            match self.word {
                Word::Wrong | Word::Forged => {
                    stream.writer.write_all(&[&header[..], &vec![0; length as usize]].concat()).await?;
                }
                Word::Drips => {
                    stream.writer.write_all(&header).await?;
                    for _ in 0..length {
                        stream.writer.write_all(&[0]).await?;
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_a_node_says_that_leads_by_its_own_word_the_others_have_the_right_bytes() {
    let content: Vec<u8> = (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect();
    for digest in [None, Some(Digest::sha256(&content))] {
        for word in Word::ALL {
            let (network, origin, dir) = (MemNetwork::new(), MemOrigin::new(), TempDir::new().unwrap());
            let (source, _) = Source::from_url("http://origin.lab/file".parse().unwrap(), &[], digest);
            origin.put(&source, content.clone());
            FalseLead::start(&network, word, source.clone(), Role::Node).await;
            let clock = Virtual(Instant::now());
            let mut nodes = Vec::new();
            for host in 1..=3 {
                let options = in_memory::options(host, [LIAR, 1], dir.path());
                nodes.push(in_memory::start(host, options, &network, origin.clone(), clock).await);
            }
            let before = Instant::now();
            let pulls = join_all(nodes.iter().map(|node| read(node, &source)));
            let pulled = timeout(AT_LAST, pulls).await.unwrap_or_else(|_| panic!("{word:?} stops them"));
            assert!(
                pulled.iter().all(|got| matches!(got, Ok(bytes) if *bytes == content)),
                "{word:?} deceives somebody"
            );
            let copies = origin.bytes_read(&source) as f64 / LENGTH as f64;
            println!("{word:?}, digest {}: {:?}, {copies} copies", digest.is_some(), before.elapsed());
            assert!(copies <= 3.0, "{word:?}: {copies} copies");
            join_all(nodes.iter().map(Agent::drain)).await;
        }
    }
}
