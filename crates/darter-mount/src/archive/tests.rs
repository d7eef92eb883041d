use std::sync::atomic::{AtomicU64, Ordering};

use darter_archive::tree::TreeBuilder;
use darter_core::{BlobId, Clock, Moment, PieceHash, PieceLength};
use tokio::time::Instant;

use super::*;
use crate::fill::Fill;
use crate::supply::{Content, End, Given, Refusal, Supply};
use crate::{Pages, Settings, supply};

const LIMIT: Duration = Duration::from_secs(60);

/// How long each member is.
const SIZE: u64 = 32 * CHUNK;

struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        0
    }
}

/// An agent that has the archive.
struct Agent {
    archive: Vec<u8>,
    /// How long it takes for each answer.
    pause: Duration,
    asked: AtomicU64,
}

#[async_trait]
impl Supply for Agent {
    async fn read(&self, range: ByteRange, _: Duration) -> Result<Given, Refusal> {
        self.asked.fetch_add(range.len(), Ordering::SeqCst);
        // The first MiB is here: headers.
        if range.start() > 0 && !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        let (from, to) = (usize::try_from(range.start()).unwrap(), usize::try_from(range.end()).unwrap());
        Ok(Given::Bytes(self.archive[from..to].to_vec().into()))
    }

    async fn fetch(&self, _: ByteRange, _: Duration) -> Result<Vec<PieceHash>, Refusal> {
        Err(Refusal::Late)
    }

    async fn everything(&self) {}

    async fn touched(&self, _: &[ByteRange]) {}

    async fn progress(&self) -> Option<(u64, bool)> {
        None
    }

    async fn ended(&self) -> supply::End {
        std::future::pending::<End>().await
    }
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8
}

/// A member's own header, and its data: deflated, by blocks that are not compressed. The checksum is left out, so nobody may read the end.
fn member(name: &str) -> Vec<u8> {
    let mut out = b"PK\x03\x04\x14\0\0\0\x08\0".to_vec();
    out.resize(30, 0);
    out[26] = name.len() as u8;
    out.extend(name.bytes());
    let bytes: Vec<_> = (0..SIZE).map(byte).collect();
    for block in bytes.chunks(60_000) {
        let length = block.len() as u16;
        out.push(0);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    out
}

/// An archive with `members` members, named `0`, `1` …, room for `places` decoders, and an agent that takes `pause` for each answer.
fn archive(members: usize, places: usize, pause: Duration) -> (Archive, Arc<Agent>, Vec<NodeId>) {
    let (mut all, mut builder) = (Vec::new(), TreeBuilder::new(Time::default()));
    for name in (0..members).map(|number| number.to_string()) {
        let (header, data) = (all.len() as u64, member(&name));
        let compressed = (data.len() - 30 - name.len()) as u64;
        let end = header + data.len() as u64;
        all.extend(data);
        let zipped = Box::new(Zipped { header, end, compressed, deflated: true, crc: 0 });
        let body = Body::File { size: SIZE, contents: Contents::Zipped(zipped) };
        builder.add(name.as_bytes(), 0o644, Time::default(), body).unwrap();
    }
    let tree = builder.finish().unwrap();
    let nodes = (0..members).map(|number| tree.find(&number.to_string()).unwrap()).collect();
    let pieces = PieceLength::from_log2(17).unwrap();
    let content = Content { blob: BlobId([1; 32]), length: all.len() as u64, pieces, modified: None };
    let agent = Arc::new(Agent { archive: all, pause, asked: AtomicU64::new(0) });
    let settings =
        Settings { limit: LIMIT, fill: Fill::Never, fill_rate: None, has_digest: false, pages: Pages::Mounted };
    let supply = Arc::clone(&agent) as Arc<dyn Supply>;
    let file = MountedFile::new(content, supply, settings, Arc::new(TestClock(Instant::now())));
    (Archive::with_places(Arc::new(tree), file, places), agent, nodes)
}

/// Reads all chunks but the last.
async fn read_all(archive: &Archive, node: NodeId) {
    for number in 0..SIZE / CHUNK - 1 {
        let range = ByteRange::new(number * CHUNK, (number + 1) * CHUNK);
        let read = archive.read(node, range).await.unwrap();
        assert!(read.iter().zip(range.start()..).all(|(read, at)| *read == byte(at)), "{range}");
    }
}

#[tokio::test(start_paused = true)]
async fn members_are_read_in_a_row_without_inflating_twice_though_no_copies_are_left() {
    let (archive, agent, nodes) = archive(4, 4, Duration::ZERO);
    for node in &nodes {
        archive.open(*node).await.unwrap();
        let before = agent.asked.load(Ordering::SeqCst);
        read_all(&archive, *node).await;
        let asked = agent.asked.load(Ordering::SeqCst) - before;
        // Pieces at both ends are asked for twice.
        assert!(asked < 4 * SIZE, "{asked}");
    }
    assert_eq!(archive.copies.available_permits(), 0);
    for node in nodes {
        let member = archive.member(node).unwrap();
        assert!(member.place.is_some() && member.copies.lock().is_empty(), "each has one place");
        archive.release(node);
    }
    assert_eq!(archive.copies.available_permits(), 4);
}

#[tokio::test(start_paused = true)]
async fn copies_are_shared_by_the_members_that_are_open() {
    let (archive, _, nodes) = archive(3, 8, Duration::ZERO);
    for node in &nodes {
        archive.open(*node).await.unwrap();
        read_all(&archive, *node).await;
    }
    let copies = |node: &NodeId| archive.member(*node).unwrap().copies.lock().len();
    assert!(
        nodes.iter().all(|node| (1..=3).contains(&copies(node))),
        "{:?}",
        nodes.iter().map(copies).collect::<Vec<_>>()
    );
}

#[tokio::test(start_paused = true)]
async fn reads_of_a_member_end_within_the_limit_and_the_next_goes_on_where_they_were() {
    let (archive, agent, nodes) = archive(1, 8, LIMIT / 10);
    archive.open(nodes[0]).await.unwrap();
    let range = ByteRange::new(SIZE / 2, SIZE / 2 + 4096);
    let began = Instant::now();
    // One inflates, and the other waits for it.
    let page = ByteRange::new(range.end(), range.end() + 4096);
    let (one, other) = tokio::join!(archive.read(nodes[0], range), archive.read(nodes[0], page));
    assert!(one.is_err() && other.is_err());
    assert!(began.elapsed() < LIMIT + Duration::from_secs(1), "{:?}", began.elapsed());
    let began = Instant::now();
    assert!(archive.read(nodes[0], range).await.is_err(), "the kernel asks for it once more");
    assert!(began.elapsed() < LIMIT / 10, "{:?}", began.elapsed());
    let asked = agent.asked.load(Ordering::SeqCst);
    for _ in 0..10 {
        tokio::time::sleep(LIMIT).await;
        if let Ok(read) = archive.read(nodes[0], range).await {
            assert!(read.iter().zip(range.start()..).all(|(read, at)| *read == byte(at)));
            let more = agent.asked.load(Ordering::SeqCst) - asked;
            assert!(more < 3 * SIZE, "{more}");
            return;
        }
    }
    panic!("it never comes there");
}
