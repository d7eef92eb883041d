//! A blob that is handed on in any order, as `darter get` takes it for a file: what comes is given on, whatever is missing
//! before it, and given again when it was lost meanwhile.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::{Amount, Role as AgentRole};
use darter_agent::{Agent, Download, FetchError, Handing, HeldPart, Options, Order, Part};
use darter_api::CheckedBy;
use darter_core::{ByteRange, Digest, NodeId, PieceIndex, Source};
use darter_wire::{Bind, Message, Role, Wanted};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::another_user::copied;
use crate::damaged::data_file;
use crate::origin::{Answer, Origin};
use crate::seed::{self, Content};
use crate::web::{Reply, Web};

const SOON: Duration = Duration::from_secs(60);

/// Puts what is handed on where it belongs, as a program does that keeps a file.
#[derive(Default)]
struct Copy {
    bytes: Vec<u8>,
    /// The beginnings of the parts, as they came.
    order: Vec<u64>,
    /// How often what came was void.
    anew: u32,
}

impl Copy {
    /// Takes the next thing; tells the digests at the end.
    fn take(&mut self, handing: Handing) -> Option<(u64, Vec<(Digest, CheckedBy)>)> {
        match handing {
            Handing::Part(at, part) => {
                let bytes = match part {
                    Part::Bytes(bytes) => bytes.to_vec(),
                    Part::File(part) => {
                        assert_eq!(part.range.start(), at);
                        let mut bytes = vec![0; part.range.len() as usize];
                        part.file.read_exact_at(&mut bytes, at).unwrap();
                        bytes
                    }
                };
                let (start, end) = (at as usize, at as usize + bytes.len());
                self.bytes.resize(self.bytes.len().max(end), 0);
                self.bytes[start..end].copy_from_slice(&bytes);
                self.order.push(at);
                None
            }
            Handing::Anew { .. } => {
                *self = Self { anew: self.anew + 1, ..Self::default() };
                None
            }
            Handing::Whole { length, checked } => {
                Some((length, checked.into_iter().map(|it| (it.digest, it.by)).collect()))
            }
        }
    }
}

type Parts = BoxStream<'static, Result<Handing, FetchError>>;

async fn next(parts: &mut Parts) -> Result<Handing, FetchError> {
    tokio::time::timeout(SOON, parts.next()).await.expect("nobody waits for ever").expect("it ends with a word")
}

/// Everything that is handed on.
async fn all(download: &Download, order: Order) -> Result<(Copy, Vec<(Digest, CheckedBy)>), FetchError> {
    let (mut copy, mut parts) = (Copy::default(), download.hand_on(order));
    loop {
        if let Some((length, checked)) = copy.take(next(&mut parts).await?) {
            assert_eq!(length, copy.bytes.len() as u64);
            return Ok((copy, checked));
        }
    }
}

/// A seed that sends the pieces that it may, and no others.
struct Chosen {
    content: Content,
    may_send: Mutex<Vec<u32>>,
    sent: Mutex<BTreeMap<u32, u32>>,
    changes: watch::Sender<()>,
}

impl Chosen {
    fn may_send(&self, pieces: &[u32]) {
        *self.may_send.lock() = pieces.to_vec();
        self.changes.send_replace(());
    }

    fn sends(&self, piece: u32) -> Bind {
        self.may_send.lock().retain(|may| *may != piece);
        self.content.gives(PieceIndex(piece))
    }
}

impl seed::Part for Chosen {
    fn asked_to_lead(&self, _seed: NodeId, request: u32) -> Message {
        self.content.joined(request)
    }

    fn bind(&self, wanted: Wanted) -> Bind {
        let may_send = self.may_send.lock().clone();
        match wanted {
            Wanted::Any => may_send.first().map_or(Bind::Wait, |piece| self.sends(*piece)),
            Wanted::Piece(piece) if may_send.contains(&piece.0) => self.sends(piece.0),
            Wanted::Piece(_) => Bind::Wait,
        }
    }

    fn sent(&self, piece: PieceIndex, delivered: bool) {
        *self.sent.lock().entry(piece.0).or_default() += u32::from(delivered);
    }

    fn changes(&self) -> Option<watch::Receiver<()>> {
        Some(self.changes.subscribe())
    }
}

/// A node whose seed sends what the test lets it.
async fn node_of(dir: &std::path::Path, may_send: &[u32]) -> (Agent, Arc<Chosen>, Download) {
    let chosen = Arc::new(Chosen {
        content: Content::new(),
        may_send: Mutex::new(may_send.to_vec()),
        sent: Mutex::default(),
        changes: watch::channel(()).0,
    });
    let address = seed::start(NodeId([1; 16]), Role::Seed, Arc::clone(&chosen) as _, CancellationToken::new()).await;
    let agent = Agent::start(seed::node(dir, vec![address])).await.unwrap();
    let download = agent.open(chosen.content.source.clone(), Default::default()).await.unwrap();
    (agent, chosen, download)
}

/// Waits until an agent holds `pieces` pieces.
async fn held(agent: &Agent, chosen: &Chosen, pieces: u32) {
    let held = async {
        while agent.progress(chosen.content.blob()).unwrap().held != pieces {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, held).await.expect("it comes to hold as many");
}

/// A reader in order would be given nothing before the first piece, which does not come until others were given.
#[tokio::test]
async fn what_comes_is_handed_on_whatever_is_missing_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, chosen, download) = node_of(dir.path(), &[1]).await;
    let (mut copy, mut parts) = (Copy::default(), download.hand_on(Order::Any));
    copy.take(next(&mut parts).await.unwrap());
    let second = chosen.content.piece_length.bytes();
    assert_eq!(copy.order, [second]);

    // The last piece is held back until the whole was checked, though it is here.
    chosen.may_send(&[2]);
    held(&agent, &chosen, 2).await;
    assert!(tokio::time::timeout(Duration::from_millis(100), parts.next()).await.is_err());
    chosen.may_send(&[0]);
    let end = loop {
        if let Some(end) = copy.take(next(&mut parts).await.unwrap()) {
            break end;
        }
    };
    assert_eq!(end, (chosen.content.length(), vec![]), "the seed told no digest");
    assert!(copy.bytes == chosen.content.bytes);
    assert_eq!((copy.order.iter().filter(|at| **at == second).count(), copy.order.len()), (1, 3), "{:?}", copy.order);
    let traffic = agent.progress(chosen.content.blob()).unwrap().traffic;
    assert_eq!(traffic.to_local, chosen.content.length(), "what was given is counted");
    agent.drain().await;
}

#[tokio::test]
async fn a_piece_that_was_damaged_after_it_was_handed_on_is_handed_on_again() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, chosen, download) = node_of(dir.path(), &[0]).await;
    let (mut copy, mut parts) = (Copy::default(), download.hand_on(Order::Any));
    let file = loop {
        let handing = next(&mut parts).await.unwrap();
        if let Handing::Part(0, Part::File(part)) = &handing {
            let file = Arc::clone(&part.file);
            copy.take(handing);
            break file;
        }
    };
    drop(file);
    // The disk gives something else from now on; somebody who reads it notices.
    let path = data_file(dir.path());
    let damaged = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    damaged.write_all_at(b"damaged", 100).unwrap();
    let mut other = download.stream(None);
    let noticed = tokio::spawn(async move { other.next().await.unwrap().unwrap() });
    held(&agent, &chosen, 0).await;
    chosen.may_send(&[0, 1, 2]);
    let first = tokio::time::timeout(SOON, noticed).await.expect("it is fetched again").unwrap();
    assert!(first == chosen.content.bytes[..first.len()]);
    loop {
        if copy.take(next(&mut parts).await.unwrap()).is_some() {
            break;
        }
    }
    assert!(copy.bytes == chosen.content.bytes);
    assert_eq!(copy.order.iter().filter(|at| **at == 0).count(), 2, "{:?}", copy.order);
    agent.drain().await;
}

#[tokio::test]
async fn content_that_changes_meanwhile_is_handed_on_anew() {
    let old: Vec<u8> = (0..1_500_000_u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let new: Vec<u8> = old.iter().map(|byte| !byte).collect();
    let served = (old.clone(), new.clone());
    let reads = std::sync::atomic::AtomicUsize::new(0);
    let web = Web::start(move |seen| {
        let reads_all = seen.is_get() && seen.header("range") != Some("bytes=0-0");
        let first = reads_all && reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let (bytes, tag) = if first { (&served.0, "\"1\"") } else { (&served.1, "\"2\"") };
        let reply = Reply::ok(bytes).with("etag", tag);
        if first { reply.cut(900_000) } else { reply }
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let options = Options { role: AgentRole::Seed, ..seed::node(dir.path(), Vec::new()) };
    let agent = Agent::start(options).await.unwrap();
    let (source, credentials) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    let download = agent.open(source, credentials).await.unwrap();
    let (copy, checked) = all(&download, Order::Any).await.unwrap();
    assert!(copy.bytes == new);
    assert_eq!(copy.anew, 1);
    assert_eq!(checked, [(Digest::sha256(&new), CheckedBy::Here)]);
    agent.drain().await;
}

#[tokio::test]
async fn what_does_not_fit_comes_in_order_without_a_file() {
    let content: Vec<u8> = (0..3_000_000_u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let served = content.clone();
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    for quota in [1_000_000, 1] {
        let dir = tempfile::tempdir().unwrap();
        let quota = Some(Amount::Bytes(quota));
        let options = Options { role: AgentRole::Seed, quota, ..seed::node(dir.path(), Vec::new()) };
        let agent = Agent::start(options).await.unwrap();
        let download = agent.open(origin.file(), Default::default()).await.unwrap();
        let (copy, _) = all(&download, Order::Any).await.unwrap();
        assert!(copy.bytes == content);
        agent.drain().await;
    }
}

/// As a mount without a daemon reads it: more than may be in memory at a time, and some of it again.
#[tokio::test]
async fn parts_of_what_does_not_fit_come_through_memory_however_many_they_are() {
    const MIB: u64 = 1 << 20;
    let content: Vec<u8> = (0..72_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let served = content.clone();
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let dir = tempfile::tempdir().unwrap();
    let quota = Some(Amount::Bytes(1_000_000));
    let options = Options { role: AgentRole::Seed, quota, ..seed::node(dir.path(), Vec::new()) };
    let agent = Agent::start(options).await.unwrap();
    let download = agent.open_parts(origin.file(), Default::default()).await.unwrap();
    let within = Duration::from_secs(60);
    let again = [71, 40, 1, 70];
    for at in (0..72).chain(again) {
        let range = ByteRange::new(at * MIB, (at + 1) * MIB);
        let held = download.part(range, within).await.unwrap();
        let Some(HeldPart::Bytes(bytes)) = held else { panic!("MiB {at}: {held:?}") };
        assert!(bytes == content[range.start() as usize..range.end() as usize], "MiB {at}");
        // As a mount reads ahead of a program that reads in order.
        let ahead = ByteRange::new(range.end(), range.end() + 4 * MIB).clamp_to(72 * MIB);
        let _ = download.fetch_ahead(ahead, within).await;
    }
    agent.drain().await;
}

/// SHA-256 is computed once, by whoever reads the origin; the others are told, also by an agent that was asked before and has
/// forgotten all but what it stores.
#[tokio::test]
async fn the_digest_of_a_file_is_computed_by_the_lead_and_told_to_all() {
    let content: Vec<u8> = (0..700_000_u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let digest = Digest::sha256(&content);
    let served = content.clone();
    for tells_length in [true, false] {
        let served = served.clone();
        let origin = Origin::start(move |_, _| Answer { tells_length, ..Answer::of(&served) }).await;
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let lead = |dir| Options { role: AgentRole::Seed, ..seed::node(dir, Vec::new()) };
        let lead_agent = Agent::start(lead(dirs[0].path())).await.unwrap();
        let node = Agent::start(seed::node(dirs[1].path(), vec![lead_agent.status().listen.unwrap()])).await.unwrap();
        for (agent, by) in [(&node, CheckedBy::Lead), (&lead_agent, CheckedBy::Here)] {
            for order in [Order::Any, Order::InOrder] {
                let download = agent.open(origin.file(), Default::default()).await.unwrap();
                let (copy, checked) = all(&download, order).await.unwrap();
                assert!(copy.bytes == content);
                assert_eq!(checked, [(digest, by)]);
            }
        }
        node.drain().await;
        lead_agent.drain().await;
        let copy = copied(dirs[0].path());
        let again = Agent::start(lead(copy.path())).await.unwrap();
        let download = again.open(origin.file(), Default::default()).await.unwrap();
        let (_, checked) = all(&download, Order::Any).await.unwrap();
        if tells_length {
            assert_eq!(checked, [(digest, CheckedBy::Earlier)]);
        }
        again.drain().await;
    }
}
