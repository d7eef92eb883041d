//! Long runs of reads, by the kernel.
//!
//! On hosts without FUSE these tests say so and do nothing.

#![allow(missing_docs)]

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use darter_core::manifest::hash_piece;
use darter_core::{BlobId, ByteRange, PieceHash, PieceIndex, PieceLength, SystemClock};
use darter_kernel::cached::cached;
use darter_mount::supply::{Content, End, Given, Refusal, Supplier, Supply};
use darter_mount::{Cache, Fill, KeptFile, MountOptions, Mounted, MountedFile, Pages, Settings};
use rustix::fs::{Advice, fadvise};
use tokio::sync::watch;

const LENGTH: u64 = 40 << 20;
const STEP: usize = 128 << 10;
const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;

/// An agent that holds everything in a file, unless it refuses.
#[derive(Clone)]
struct Agent {
    file: Arc<File>,
    hashes: Arc<Vec<PieceHash>>,
    refuses: Arc<AtomicBool>,
    end: watch::Sender<Option<End>>,
}

fn byte(at: u64) -> u8 {
    (at % 251) as u8 | 1
}

fn pieces() -> PieceLength {
    PieceLength::from_log2(19).unwrap()
}

impl Agent {
    fn new(dir: &Path) -> Self {
        let bytes: Vec<u8> = (0..LENGTH).map(byte).collect();
        let mut file = File::options().read(true).write(true).create(true).truncate(true).open(dir.join("x")).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        let hash = |piece| {
            let range = pieces().range(PieceIndex(piece), LENGTH);
            hash_piece(pieces(), PieceIndex(piece), &bytes[range.start() as usize..range.end() as usize], false)
        };
        let hashes = Arc::new(pieces().pieces_of(ByteRange::new(0, LENGTH)).map(hash).collect());
        Self { file: Arc::new(file), hashes, refuses: Arc::default(), end: watch::channel(None).0 }
    }

    fn content() -> Content {
        Content { blob: BlobId([7; 32]), length: LENGTH, pieces: pieces(), modified: None }
    }

    fn of(&self, range: ByteRange) -> Vec<PieceHash> {
        pieces().pieces_of(range).map(|piece| self.hashes[piece as usize]).collect()
    }
}

#[async_trait]
impl Supply for Agent {
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal> {
        if self.refuses.load(Ordering::SeqCst) {
            tokio::time::sleep(within).await;
            return Err(Refusal::Late);
        }
        Ok(Given::File(Arc::clone(&self.file), self.of(range)))
    }

    async fn fetch(&self, range: ByteRange, _: Duration) -> Result<Vec<PieceHash>, Refusal> {
        Ok(self.of(range))
    }

    async fn everything(&self) {}

    async fn touched(&self, _: &[ByteRange]) {}

    async fn progress(&self) -> Option<(u64, bool)> {
        None
    }

    async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        end.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Supplier for Agent {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        Err("there is no other agent".to_owned())
    }
}

struct World {
    agent: Agent,
    mounted: Option<Mounted>,
    cache: Cache,
    kept: Arc<KeptFile>,
    runtime: tokio::runtime::Runtime,
    dir: tempfile::TempDir,
}

impl World {
    /// `None` where nothing can be mounted. Everything was read once, so that all of it is at hand, and is in no page cache of the mount.
    fn new() -> Option<Self> {
        Self::with(Pages::Mounted)
    }

    fn with(pages: Pages) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::new(dir.path());
        let settings =
            Settings { limit: Duration::from_millis(300), fill: Fill::Never, fill_rate: None, has_digest: true, pages };
        let at = dir.path().join("mount");
        std::fs::create_dir(&at).unwrap();
        let kept = runtime.block_on(async {
            let supply = Arc::new(agent.clone());
            let file = MountedFile::new(Agent::content(), supply, settings, Arc::new(SystemClock::start()));
            KeptFile::begin(file, agent.clone())
        });
        let options = MountOptions { name: "large".into(), modified: SystemTime::UNIX_EPOCH, others: false };
        match Mounted::mount(Arc::clone(kept.file()), &at, options, |_| Ok(()), runtime.handle().clone()) {
            Ok((mounted, cache)) => {
                let world = Self { agent, mounted: Some(mounted), cache, kept, runtime, dir };
                assert_eq!(world.reads_in_order(0, LENGTH), LENGTH);
                world.forget();
                Some(world)
            }
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn file(&self) -> File {
        File::open(self.dir.path().join("mount/large")).unwrap()
    }

    fn forget(&self) {
        let file = self.file();
        let is_gone = soon(|| {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            std::thread::sleep(Duration::from_millis(20));
            self.in_memory().is_none_or(|bytes| bytes == 0)
        });
        assert!(is_gone);
    }

    /// Reads in order up to the first error, compares, and tells how far it came.
    fn reads_in_order(&self, from: u64, to: u64) -> u64 {
        let (file, mut bytes) = (self.file(), vec![0; STEP]);
        for at in (from..to).step_by(STEP) {
            if file.read_exact_at(&mut bytes, at).is_err() {
                return at;
            }
            assert!(bytes.iter().zip(at..).all(|(found, at)| *found == byte(at)), "wrong bytes at {at}");
        }
        to
    }

    /// Bytes of the mounted file that are in memory; `None` if nobody tells.
    fn in_memory(&self) -> Option<u64> {
        cached(&self.file(), 0, 0).ok().map(|cached| cached.pages * PAGE)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

fn soon(is_so: impl Fn() -> bool) -> bool {
    (0..1000).any(|_| {
        is_so() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }
    })
}

#[test]
fn a_hole_is_given_to_nobody_who_reads_in_order() {
    let Some(world) = World::new() else { return };
    // The fresh pieces are elsewhere.
    let hole = 6 * MIB + 3 * PAGE;
    world.agent.file.write_all_at(&[0; PAGE as usize], hole).unwrap();
    world.agent.refuses.store(true, Ordering::SeqCst);
    let end = world.reads_in_order(0, LENGTH);
    assert!((hole - (256 << 10)..=hole).contains(&end), "{end}");
    let mended: Vec<u8> = (hole..hole + PAGE).map(byte).collect();
    world.agent.file.write_all_at(&mended, hole).unwrap();
    assert!(soon(|| world.reads_in_order(end, LENGTH) == LENGTH), "and works again");
}

#[test]
fn nothing_of_wrong_content_is_put_into_memory() {
    let Some(world) = World::new() else { return };
    assert_eq!(world.reads_in_order(0, 4 * MIB), 4 * MIB);
    world.agent.end.send_replace(Some(End::Wrong("it is wrong".to_owned())));
    world.runtime.block_on(world.kept.over());
    world.cache.forget().unwrap();
    assert!(soon(|| world.in_memory().is_none_or(|bytes| bytes == 0)), "{:?}", world.in_memory());
    assert_eq!(world.reads_in_order(0, LENGTH), 0);
}

#[test]
fn what_was_read_stays_in_memory_where_the_agents_file_is_the_one_to_keep_it() {
    let of = |pages| {
        let world = World::with(pages)?;
        // Not what came lately, which stays in any case.
        let places = || (0..LENGTH / (2 * MIB)).map(|number| number * 2 * MIB).take(4);
        fadvise(&world.agent.file, 0, None, Advice::DontNeed).unwrap();
        let mut page = [0; PAGE as usize];
        for at in places() {
            world.file().read_exact_at(&mut page, at).unwrap();
        }
        let kept = places().filter(|at| cached(&world.agent.file, *at, PAGE).is_ok_and(|cached| cached.pages > 0));
        Some(kept.count())
    };
    let (Some(stored), Some(mounted)) = (of(Pages::Stored), of(Pages::Mounted)) else { return };
    eprintln!("{stored} and {mounted} of 4");
    assert!(stored == 4 || cached(&tempfile::tempfile().unwrap(), 0, 0).is_err(), "{stored}");
}
