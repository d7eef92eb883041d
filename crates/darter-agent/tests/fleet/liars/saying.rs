//! Messages and acts of liars without being asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_core::source::Credentials;
use darter_core::{BlobId, Digest, NodeId, PieceIndex, PieceSet, Place, Source};
use darter_protocol::Wish;
use darter_protocol::data::Ask;
use darter_wire::{ConnectionKind, Failure, FailureKind, Hello, Message, PeerInfo, Request, Verdict, Wanted, preface};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Lie;
use super::peer::Liar;

/// How often it says what it has to say.
const PAUSE: Duration = Duration::from_millis(20);

impl Liar {
    /// Until it is gone.
    pub(super) async fn talk(self: &Arc<Self>) {
        for round in 0.. {
            match self.lie {
                Lie::Hogs | Lie::Leeches | Lie::Hoards | Lie::Multiplies | Lie::Starves => self.fetch_from_others(),
                Lie::Crowds | Lie::Mumbles => self.crowd().await,
                Lie::Leaves if round == 50 => return self.vanish(),
                Lie::Leaves => {}
                Lie::Flaps => self.flap().await,
                Lie::Pretends => self.pretend().await,
                _ => {
                    let messages = self.says(round);
                    if messages.is_empty() {
                        return;
                    }
                    let others = self.others.lock().clone();
                    for message in &messages {
                        others.iter().for_each(|other| drop(other.try_send(message)));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn says(&self, round: u32) -> Vec<Message> {
        let (blob, known) = (self.blob, self.count());
        let all = || (0..known).map(PieceIndex).collect::<Vec<_>>();
        let request = round + 2;
        let join = |source: &Source, request| {
            let (source, credentials) = (source.clone(), Credentials::none());
            Message::Join { request, source, credentials, held: None, wants: true, size: None }
        };
        match self.lie {
            Lie::Withdraws => {
                vec![Message::Lost { blob, pieces: all() }, Message::Have { blob, pieces: all(), known }]
            }
            Lie::Floods => vec![Message::AskPeers; 200],
            Lie::Wavers if round.is_multiple_of(100) => vec![Message::Have { blob, pieces: all(), known }],
            Lie::Wavers if round % 100 == 50 => vec![Message::Lost { blob, pieces: all() }],
            // It goes on.
            Lie::Wavers => vec![Message::AskPeers],
            Lie::Chatters => {
                let piece = |nth: u32| vec![PieceIndex((round + nth) % known)];
                let say = |nth: u32| {
                    [Message::Have { blob, pieces: piece(nth), known: nth }, Message::Lost { blob, pieces: piece(nth) }]
                };
                (0..500).flat_map(say).collect()
            }
            Lie::Insists => vec![Message::Have { blob, pieces: all(), known }; 5],
            Lie::Parts => vec![Message::Part { blob }, self.meeting()],
            Lie::Joins => vec![join(&self.source, request), Message::Leave { blob }, join(&self.source, request + 1)],
            Lie::JoinsOthers => (0..5).map(|nth| join(&self.made_up_source(round * 5 + nth), request)).collect(),
            Lie::Asks => {
                let made_up = BlobId(self.made_up_digest(round).value().try_into().unwrap());
                let mut asks = Vec::new();
                for key in [blob, made_up].into_iter().cycle().take(10) {
                    asks.push(Message::AskLead { request, key, blob: Some(key) });
                    asks.push(Message::AskManifest { request, blob: key });
                    asks.push(Message::AskHashes { blob: key, from: 0 });
                }
                asks
            }
            Lie::Accuses => {
                let others: Vec<_> = self.met.lock().keys().copied().collect();
                let accuse =
                    |peer| [Message::Report { blob, peer, piece: PieceIndex(0) }, Message::Unreached { blob, peer }];
                let made_up = NodeId(self.made_up_digest(round).value()[..16].try_into().unwrap());
                others.into_iter().chain([made_up]).flat_map(accuse).collect()
            }
            Lie::Wishes => {
                let wish = |nth: u32| {
                    let first = (round * 7 + nth * 13) % known;
                    Wish { first, end: first + 1, within_ms: 0 }
                };
                vec![Message::Want { blob, everything: true, wishes: (0..20).map(wish).collect() }]
            }
            Lie::Commands => self.commands(),
            Lie::Names => {
                let made_up = |nth: u32| {
                    let digest = self.made_up_digest(round * 50 + nth);
                    let bytes = digest.value();
                    let addr = format!("10.9.{}.{}:7400", bytes[20], bytes[21]);
                    PeerInfo { node: NodeId(bytes[..16].try_into().unwrap()), addr, place: Place::default() }
                };
                let others = self.met.lock().keys().copied().collect::<Vec<_>>();
                let stolen = others.into_iter().map(|node| self.at_own_address(node));
                let peers: Vec<_> = (0..50).map(made_up).chain(stolen).collect();
                vec![Message::Seeds { seeds: peers.clone() }, Message::Peers { peers }]
            }
            _ => Vec::new(),
        }
    }

    fn at_own_address(&self, node: NodeId) -> PeerInfo {
        PeerInfo { node, addr: self.me.listen.clone(), place: Place::default() }
    }

    fn made_up_digest(&self, number: u32) -> Digest {
        Digest::sha256(format!("{} {number}", self.me.node).as_bytes())
    }

    /// A blob that its registry does not have.
    fn made_up_source(&self, number: u32) -> Source {
        match self.source.clone() {
            Source::Registry { registry, repository, .. } => {
                Source::Registry { registry, repository, digest: self.made_up_digest(number) }
            }
            Source::Url { .. } | Source::Expanded(_) => panic!("liars are about a registry's blob"),
        }
    }

    /// A lead's messages; most of them end a pull, or would have its bytes thrown away.
    fn commands(&self) -> Vec<Message> {
        let blob = self.blob;
        let failure = |kind| Failure {
            kind,
            status: Some(429),
            text: "the origin said so".to_owned(),
            challenge: Some("86400".to_owned()),
        };
        let expected = self.source.digest().unwrap();
        let verdict = Verdict { root: darter_core::manifest::root_of_pieces(&self.made_up()), digest: Some(expected) };
        let gone: Vec<_> = self.met.lock().keys().copied().collect();
        let add = vec![self.at_own_address(NodeId([77; 16]))];
        vec![
            Message::Dissolved { blob, reason: "it is over".to_owned() },
            Message::Failed { blob, failure: failure(FailureKind::Changed) },
            Message::Failed { blob, failure: failure(FailureKind::RateLimited) },
            Message::Refuted { request: None, blob, expected, got: self.made_up_digest(0), reader: None },
            Message::Whole { blob, verdict },
            Message::Grew { blob, from: 0, hashes: self.made_up(), length: Some(1), members_ask: true, proof: None },
            Message::Run { blob, from: 1, hashes: self.made_up(), proof: None },
            Message::Neighbours { blob, add, gone },
        ]
    }

    /// The nodes that it knows.
    fn addresses(&self) -> Vec<Hello> {
        self.met.lock().values().cloned().collect()
    }

    /// Meets everybody and hangs up.
    async fn flap(self: &Arc<Self>) {
        for other in self.addresses() {
            if let Ok(greeted) = preface::open(&*self.transport, &other.listen, ConnectionKind::Control, &self.me).await
            {
                let (sender, _) = darter_wire::control::start(greeted.stream, &Default::default());
                let _ = sender.send(&self.meeting()).await;
            }
        }
        self.others.lock().clear();
    }

    /// Connects to everybody under the name of everybody else, says that it holds nothing and goes.
    async fn pretend(self: &Arc<Self>) {
        let all = self.addresses();
        for other in &all {
            for name in all.iter().filter(|name| name.node != other.node) {
                let me = Hello { listen: self.me.listen.clone(), ..name.clone() };
                let Ok(greeted) = preface::open(&*self.transport, &other.listen, ConnectionKind::Control, &me).await
                else {
                    continue;
                };
                let (sender, _receiver) = darter_wire::control::start(greeted.stream, &Default::default());
                let (blob, held) = (self.blob, PieceSet::new());
                for message in [Message::Part { blob }, Message::Meet { blob, held, known: 0, wants: true }] {
                    let _ = sender.send(&message).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Fetches from each that it met, once it is met.
    fn fetch_from_others(self: &Arc<Self>) {
        let times = if self.lie == Lie::Multiplies { 16 } else { 1 };
        let others = std::mem::take(&mut *self.met.lock()).into_values();
        for other in others.flat_map(|other| std::iter::repeat_n(other, times)) {
            let liar = Arc::clone(self);
            tokio::spawn(async move {
                let gone = liar.gone.clone();
                // A peer that is asked so may hang up.
                gone.run_until_cancelled(liar.fetch_from(&other.listen)).await
            });
        }
    }

    /// Makes connections, and keeps the latest few hundred.
    async fn crowd(&self) {
        for other in self.addresses() {
            let Ok(mut stream) = self.transport.connect(&other.listen).await else { continue };
            if self.lie == Lie::Mumbles {
                let _ = stream.writer.write_all(&[0x5a; 100]).await;
            }
            let mut crowd = self.crowd.lock();
            crowd.push_back(stream);
            if crowd.len() > 400 {
                crowd.pop_front();
            }
        }
    }

    /// Tells everybody of what it was given, or would have been if it came in order.
    fn hoards(&self, taken: u64) {
        let end = u32::try_from(taken / self.piece_bytes()).unwrap_or(u32::MAX).min(self.count());
        let told = self.told.fetch_max(end, Ordering::Relaxed);
        if self.lie == Lie::Hoards && told < end {
            let (blob, pieces) = (self.blob, (told..end).map(PieceIndex).collect());
            let have = Message::Have { blob, pieces, known: end };
            self.others.lock().iter().for_each(|other| drop(other.try_send(&have)));
        }
    }

    async fn fetch_from(&self, address: &str) -> Option<()> {
        let greeted = preface::open(&*self.transport, address, ConnectionKind::Data, &self.me).await.ok()?;
        let mut stream = greeted.stream;
        let mut read = vec![0; 1 << 16];
        for round in 0.. {
            for piece in 0..self.count() {
                let wanted = Wanted::Piece(PieceIndex(piece));
                let id = round * self.count() + piece;
                let ask = Ask::Request(Request { id, blob: self.blob, wanted, urgent: true, takes_packed: false });
                stream.writer.write_all(&ask.encode()).await.ok()?;
            }
            if self.lie == Lie::Starves {
                std::future::pending::<()>().await;
            }
            let most = u64::from(self.count()) * self.piece_bytes();
            let mut taken = 0;
            // A piece that is not held yet is refused: it asks again soon.
            while taken < most {
                let reading = tokio::time::timeout(Duration::from_millis(500), stream.reader.read(&mut read));
                match reading.await {
                    Ok(Ok(0) | Err(_)) => return None,
                    Ok(Ok(bytes)) => {
                        taken += bytes as u64;
                        self.hoards(taken);
                    }
                    Err(_) => break,
                }
            }
        }
        None
    }
}
