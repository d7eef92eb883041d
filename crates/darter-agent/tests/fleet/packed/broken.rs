//! A peer whose packed pieces are broken: each is a wrong piece of that peer, which the lead hears of, and comes from somebody else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::{PieceSet, Place};
use darter_wire::{Bind, Message, PackedPiece, Packer, Payload, PeerInfo};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::seed::{Content, Part};

const SEED: NodeId = NodeId([1; 16]);
const HOLDER: NodeId = NodeId([2; 16]);

/// What a holder makes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Makes {
    Right,
    /// A frame that never was one.
    NoFrame,
    /// A frame that breaks off.
    Cut,
    /// A frame with a damaged byte.
    Damaged,
    /// Two frames.
    Twice,
    /// Half of the piece, as which it is named.
    Half,
    /// Half of the piece, named as the whole of it.
    HalfAsWhole,
    /// Twice the piece, named as the piece.
    Longer,
    /// As many other bytes.
    OtherBytes,
}

impl Makes {
    const BROKEN: [Self; 8] = [
        Self::NoFrame,
        Self::Cut,
        Self::Damaged,
        Self::Twice,
        Self::Half,
        Self::HalfAsWhole,
        Self::Longer,
        Self::OtherBytes,
    ];

    fn of(self, plain: &[u8]) -> PackedPiece {
        let frame = |plain: &[u8]| Packer::default().pack(plain).unwrap().body()[4..].to_vec();
        let right = frame(plain);
        let (half, whole) = (plain.len() / 2, plain.len());
        let (named, frame) = match self {
            Self::Right => (whole, right),
            Self::NoFrame => (whole, vec![0xaa; 1000]),
            Self::Cut => (whole, right[..right.len() / 2].to_vec()),
            Self::Damaged => {
                let (mut damaged, middle) = (right.clone(), right.len() / 2);
                damaged[middle] ^= 0xff;
                (whole, damaged)
            }
            Self::Twice => (whole, right.repeat(2)),
            Self::Half => (half, frame(&plain[..half])),
            Self::HalfAsWhole => (whole, frame(&plain[..half])),
            Self::Longer => (whole, frame(&plain.repeat(2))),
            Self::OtherBytes => (whole, frame(&plain.iter().map(|byte| !byte).collect::<Vec<_>>())),
        };
        let body = [&(named as u32).to_le_bytes()[..], &frame].concat();
        PackedPiece::read(Bytes::from(body), whole as u32).expect("the wire has nothing against it")
    }
}

/// A seed that gives nothing before it has heard of a wrong piece, and the holder that it names.
struct Player {
    me: NodeId,
    content: Arc<Content>,
    makes: Makes,
    holder: Option<PeerInfo>,
    given: AtomicU32,
    reported: Mutex<Vec<NodeId>>,
    hears: watch::Sender<()>,
}

impl Part for Player {
    fn asked_to_lead(&self, _: NodeId, request: u32) -> Message {
        let mut joined = self.content.joined(request);
        if let Message::Joined { neighbours, .. } = &mut joined {
            neighbours.extend(self.holder.clone());
        }
        joined
    }

    fn hears(&self, message: &Message) -> Option<Message> {
        let of = self.content.blob();
        match message {
            Message::Meet { blob, .. } if self.me == HOLDER && *blob == of => {
                Some(Message::Meet { blob: of, held: PieceSet::full(3), known: 3, wants: false })
            }
            Message::Report { blob, peer, .. } if self.me == SEED && *blob == of => {
                self.reported.lock().push(*peer);
                self.hears.send_replace(());
                None
            }
            _ => None,
        }
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        if self.me == SEED && self.reported.lock().is_empty() {
            return Bind::Wait;
        }
        let piece = match wanted {
            Wanted::Piece(piece) => piece,
            Wanted::Any => PieceIndex(self.given.fetch_add(1, Ordering::Relaxed) % 3),
        };
        if self.me == SEED {
            return self.content.gives(piece);
        }
        Bind::Send { piece, payload: Payload::Packed(self.makes.of(self.content.piece(piece.0))) }
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.hears.subscribe())
    }
}

/// Fetches the content by way of such a holder; tells how many pieces were wrong, and of whom the seed heard.
async fn fetch_by(makes: Makes) -> (u64, Vec<NodeId>) {
    let content = Arc::new(Content::new());
    let player = |me, holder| {
        let (content, hears) = (Arc::clone(&content), watch::channel(()).0);
        Arc::new(Player { me, content, makes, holder, given: AtomicU32::new(0), reported: Mutex::default(), hears })
    };
    let addr = seed::start(HOLDER, WireRole::Node, player(HOLDER, None), CancellationToken::new()).await;
    let part = player(SEED, Some(PeerInfo { node: HOLDER, addr, place: Place::default() }));
    let seed = seed::start(SEED, WireRole::Seed, Arc::clone(&part) as Arc<dyn Part>, CancellationToken::new()).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(seed::node(directory.path(), vec![seed])).await.unwrap();
    let fetched = seed::fetch(&agent, &content);
    tokio::time::timeout(Duration::from_secs(60), fetched).await.unwrap_or_else(|_| panic!("{makes:?} stops it"));
    let told = agent.explain(&content.blob().to_string()).await.unwrap();
    let says_so = told.events.iter().any(|event| event.what.contains("sent a wrong piece"));
    assert_eq!(says_so, makes != Makes::Right, "{makes:?}: {:#?}", told.events);
    let wrong = agent.metrics().pieces_corrupt.get();
    agent.drain().await;
    let reported = part.reported.lock().clone();
    (wrong, reported)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packed_piece_that_is_none_counts_against_its_giver_and_comes_from_somebody_else() {
    // The holder that gives right ones is not reported, and nothing is needed of the seed.
    assert_eq!(fetch_by(Makes::Right).await, (0, vec![]));
    for makes in Makes::BROKEN {
        let (wrong, reported) = fetch_by(makes).await;
        // It may have been asked for all of them by the time the first one came.
        assert!((1..=3).contains(&wrong), "{makes:?}: {wrong} wrong pieces");
        assert!(!reported.is_empty() && reported.iter().all(|peer| *peer == HOLDER), "{makes:?}: {reported:?}");
    }
}
