//! A whole that has to be read once more to be checked takes as long as the disk takes: nothing comes meanwhile, and nothing stands still. A check
//! that panics ends the download, and is waited for by nobody.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, FetchError, Options};
use darter_core::manifest::hash_piece;
use darter_core::{BlobId, Digest, Manifest, PieceHash, PieceIndex, PieceLength, PieceSet, Source};
use darter_store::{
    Amount, BlobInfo, BlobSummary, MemStore, PieceFile, Put, Result, SetAside, SourceRecord, Store, StoreConfig,
    StoredBlob, Usage, threads,
};

use crate::origin::{Answer, Origin, read};
use crate::seed;

const PIECES: u32 = 12;
/// How long each piece takes that is read for the check.
const PIECE_TIME: Duration = Duration::from_millis(500);
/// Less than the check takes, and more than a piece takes on a busy machine.
const STALL_TIMEOUT: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(120);

/// Methods that the other store answers.
macro_rules! passed_on {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        $(fn $name(&self, $($arg: $type),*) $(-> $out)? {
            self.0.$name($($arg),*)
        })*
    };
}

/// A store on a disk that is slow to give all of a blob, or where reading all of it panics, once.
struct Slow(Arc<MemStore>, Arc<AtomicBool>);

impl Store for Slow {
    fn open(&self, blob: BlobId) -> Result<Option<Arc<dyn StoredBlob>>> {
        Ok(self.0.open(blob)?.map(|blob| Arc::new(SlowBlob(blob, Arc::clone(&self.1))) as Arc<dyn StoredBlob>))
    }

    fn open_or_create(&self, blob: BlobId, info: BlobInfo, manifest: Manifest) -> Result<Arc<dyn StoredBlob>> {
        Ok(Arc::new(SlowBlob(self.0.open_or_create(blob, info, manifest)?, Arc::clone(&self.1))))
    }

    passed_on! {
        fn is_absent(blob: BlobId) -> bool;
        fn list() -> Vec<BlobSummary>;
        fn remove(blob: BlobId) -> Result<bool>;
        fn spare(blob: BlobId, spared: bool);
        fn path(blob: BlobId) -> Option<std::path::PathBuf>;
        fn pin(blob: BlobId, pinned: bool) -> Result<()>;
        fn touch(blob: BlobId);
        fn usage() -> Usage;
        fn set_aside() -> SetAside;
        fn set_limits(quota: Option<Amount>, reserve: Amount);
        fn remember_source(key: BlobId, record: SourceRecord);
        fn recall_source(key: BlobId) -> Result<Option<SourceRecord>>;
        fn flush() -> Result<()>;
    }
}

#[derive(Debug)]
struct SlowBlob(Arc<dyn StoredBlob>, Arc<AtomicBool>);

impl StoredBlob for SlowBlob {
    fn hash_whole(&self, like: &Digest, step: &dyn Fn()) -> Result<Digest> {
        assert!(!self.1.swap(false, Ordering::Relaxed), "as the test wants it");
        self.0.hash_whole(like, &|| {
            step();
            std::thread::sleep(PIECE_TIME);
        })
    }

    passed_on! {
        fn id() -> BlobId;
        fn info() -> BlobInfo;
        fn manifest() -> Manifest;
        fn hashes_from(from: u32, most: usize) -> Vec<PieceHash>;
        fn length() -> Option<u64>;
        fn prefix() -> u32;
        fn known() -> PieceSet;
        fn known_count() -> u32;
        fn hash(piece: PieceIndex) -> Option<PieceHash>;
        fn extend(from: u32, hashes: &[PieceHash]) -> Result<u32>;
        fn set_length(length: u64) -> Result<()>;
        fn held() -> PieceSet;
        fn holds(piece: PieceIndex) -> bool;
        fn held_bytes() -> u64;
        fn take_lost() -> PieceSet;
        fn put(piece: PieceIndex, data: &[u8]) -> Result<Put>;
        fn put_first(piece: PieceIndex, data: &[u8], only: bool) -> Result<Put>;
        fn read_at(offset: u64, buffer: &mut [u8]) -> Result<()>;
        fn read_piece(piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<()>;
        fn verify(piece: PieceIndex) -> Result<()>;
        fn file_run(pieces: Range<PieceIndex>) -> Result<Option<PieceFile>>;
        fn ready_run(pieces: Range<PieceIndex>) -> Option<PieceFile>;
        fn seal(root: PieceHash) -> Result<()>;
        fn is_complete() -> bool;
        fn drop_pieces(pieces: &PieceSet) -> Result<()>;
        fn discard() -> Result<()>;
        fn is_discarded() -> bool;
        fn rest();
        fn wake() -> bool;
    }
}

/// A store in which an earlier run left all but the last piece of a blob; what it had hashed of the whole went with it.
fn begun(content: &[u8], length: PieceLength, source: &Source) -> Arc<MemStore> {
    let store = Arc::new(MemStore::new(&StoreConfig::new(Arc::new(|| 0))));
    let pieces: Vec<_> = content.chunks(length.bytes() as usize).collect();
    let hashes = (0..).map(PieceIndex).zip(&pieces).map(|(at, piece)| hash_piece(length, at, piece, false));
    let mut manifest = Manifest::new(length, Some(content.len() as u64));
    manifest.extend(0, &hashes.collect::<Vec<_>>()).unwrap();
    let info = BlobInfo { name: source.to_string(), digest: source.digest(), ..BlobInfo::default() };
    let blob = store.open_or_create(source.own_blob().unwrap(), info, manifest).unwrap();
    for (at, piece) in (0..).map(PieceIndex).zip(&pieces[..pieces.len() - 1]) {
        blob.put(at, piece).unwrap();
    }
    store
}

/// An agent alone with such a store, which `panics` or does not; and a source of which its last piece is to be read.
async fn agent(dir: &Path, panics: bool, stall_timeout: Duration) -> (Agent, Source, Vec<u8>, Origin) {
    let length = PieceLength::from_log2(18).unwrap();
    let content: Vec<u8> = (0..PIECES * length.bytes() as u32).map(|at| (at * 31 + at / 251) as u8).collect();
    let served = content.clone();
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let source = origin.blob(&content);
    let (held, name) = (content.clone(), source.clone());
    let store = threads::run(move || begun(&held, length, &name)).await;
    let options = Options { role: Role::Embedded, listen: None, stall_timeout, ..seed::node(dir, Vec::new()) };
    let store = Slow(store, Arc::new(AtomicBool::new(panics)));
    (Agent::builder(options).store(store).start().await.unwrap(), source, content, origin)
}

#[tokio::test]
async fn a_whole_that_takes_longer_to_check_than_a_blob_may_stand_still_is_right_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, source, content, _origin) = agent(dir.path(), false, STALL_TIMEOUT).await;
    let got = tokio::time::timeout(SOON, read(&agent, &source)).await.expect("it ends");
    assert!(got.unwrap() == content);
    agent.drain().await;
}

#[tokio::test]
async fn a_check_that_panics_ends_the_download_and_the_next_one_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (agent, source, content, _origin) = agent(dir.path(), true, Duration::ZERO).await;
    let got = tokio::time::timeout(SOON, read(&agent, &source)).await.expect("nobody waits for ever");
    assert!(matches!(got, Err(FetchError::Broken { .. })), "{got:?}");
    let got = tokio::time::timeout(SOON, read(&agent, &source)).await.expect("it ends");
    assert!(got.unwrap() == content);
    agent.drain().await;
}
