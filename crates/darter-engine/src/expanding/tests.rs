//! Streams of layers out of an origin that sends what it is told to, when it is told to.

use std::sync::atomic::{AtomicUsize, Ordering};

use darter_core::{ByteRange, Manifest, PieceIndex, SystemClock};
use darter_image::{Expander, metadata_start};
use darter_origin::{Reading, RegistryConfig, Stat};
use darter_store::{BlobInfo, MemStore, Store as _, StoreConfig};
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::*;

type Way = mpsc::Sender<Result<Bytes, OriginError>>;

/// Each question is answered by the chunks that come by the next of these ways.
struct ScriptedOrigin {
    ways: Mutex<Vec<mpsc::Receiver<Result<Bytes, OriginError>>>>,
    asked: AtomicUsize,
}

#[async_trait::async_trait]
impl Origin for ScriptedOrigin {
    async fn stat(&self, _: &Source, _: &Credentials, _: Option<&Version>) -> Result<Stat, OriginError> {
        Err(OriginError::new(ErrorKind::NotFound, "nobody asks"))
    }

    async fn read(
        &self,
        _: &Source,
        _: &Credentials,
        range: Option<ByteRange>,
        _: Option<&Version>,
    ) -> Result<Reading, OriginError> {
        assert_eq!(range, None);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let way = self.ways.lock().remove(0);
        let body = futures_util::stream::unfold(way, async |mut way| Some((way.recv().await?, way))).boxed();
        let (version, shown) = Default::default();
        Ok(Reading { version, shown, start: 0, is_part: false, length: None, witness: None, body })
    }
}

/// A tar of one file that is longer than a beginning, and what it becomes.
fn layer() -> (Vec<u8>, Vec<u8>) {
    let content: Vec<u8> = (0..3_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut header = [0; 512];
    header[..1].copy_from_slice(b"f");
    header[100..107].copy_from_slice(b"0000644");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let tar = [&header[..], &content, &[0; 1024]].concat();
    let mut expander = Expander::new();
    expander.push(&tar).unwrap();
    let made = expander.finish(&Digest::sha256(&tar)).unwrap();
    let mut file = [&made.superblock[..], &tar].concat();
    file.resize(metadata_start(made.tar_length) as usize, 0);
    file.extend_from_slice(&made.metadata);
    (tar, file)
}

fn named(digest: Digest, diff_id: Digest) -> (Source, ExpandedLayer) {
    let registry = "https://lab.example/".parse().unwrap();
    let layer = ExpandedLayer { registry, repository: "app".into(), digest, diff_id, format: FORMAT };
    (Source::Expanded(layer.clone()), layer)
}

/// An origin of expanded layers, the ways of its answers, and how often the registry was asked.
fn origin(answers: usize) -> (Expanding, Vec<Way>, Arc<ScriptedOrigin>) {
    origin_beside(MemStore::new(&StoreConfig::new(Arc::new(|| 0))), answers)
}

/// The same with a store that has something.
fn origin_beside(store: MemStore, answers: usize) -> (Expanding, Vec<Way>, Arc<ScriptedOrigin>) {
    let (give, ways): (Vec<_>, Vec<_>) = (0..answers).map(|_| mpsc::channel(100)).unzip();
    let told = Arc::new(ScriptedOrigin { ways: Mutex::new(ways), asked: AtomicUsize::new(0) });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
    let expansions = Expansions::new(ExpansionsOptions {
        data_dir: "/nowhere".into(),
        disk: Disk::new(Arc::new(store)),
        clock: Arc::clone(&clock),
        metrics: Metrics::new(0),
        budget: ByteBudget::new(None, clock),
        pauses: Pauses::default(),
        registries: Upstreams::new(&RegistryConfig::default()),
        patience: Duration::from_secs(60),
    });
    let inner: Arc<dyn Origin> = told.clone();
    (Expanding::new(inner, expansions, Requester::Here), give, told)
}

async fn read(origin: &Expanding, source: &Source, range: Option<ByteRange>) -> Result<Reading, OriginError> {
    origin.read(source, &Credentials::none(), range, None).await
}

#[tokio::test]
async fn what_is_made_comes_while_the_layer_does_and_the_beginning_once_all_is_right() {
    let (tar, file) = layer();
    let (source, _) = named(Digest::sha256(&tar), Digest::sha256(&tar));
    let (origin, give, told) = origin(1);
    let (first, last) = tar.split_at(2 << 20);
    give[0].send(Ok(Bytes::copy_from_slice(first))).await.unwrap();
    let reading = read(&origin, &source, None).await.unwrap();
    assert_eq!((reading.start, reading.length, reading.is_part), (HEAD, None, true));
    let mut body = reading.body;
    let mut got = Vec::new();
    while got.len() < (2 << 20) - HEAD as usize {
        got.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    assert!(got == file[HEAD as usize..][..got.len()]);
    give[0].send(Ok(Bytes::copy_from_slice(last))).await.unwrap();
    drop(give);
    let rest: Vec<Bytes> = body.try_collect().await.unwrap();
    got.extend(rest.concat());
    assert!(got == file[HEAD as usize..]);
    let reading = read(&origin, &source, Some(ByteRange::new(0, HEAD))).await.unwrap();
    assert_eq!((reading.start, reading.length), (0, Some(file.len() as u64)));
    let head: Vec<Bytes> = reading.body.try_collect().await.unwrap();
    assert!(head.concat() == file[..HEAD as usize]);
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_a_wrong_layer_neither_the_end_comes_nor_the_beginning() {
    let (tar, file) = layer();
    let (right, wrong) = (Digest::sha256(&tar), Digest::sha256(b"another"));
    for (digest, diff_id, kind) in [(wrong, right, ErrorKind::Contradicted), (right, wrong, ErrorKind::Unmountable)] {
        let (source, _) = named(digest, diff_id);
        let (origin, give, told) = origin(1);
        give[0].send(Ok(tar.clone().into())).await.unwrap();
        drop(give);
        let body = read(&origin, &source, None).await.unwrap().body;
        let (mut came, mut failed) = (HEAD, None);
        for chunk in body.collect::<Vec<_>>().await {
            match chunk {
                Ok(chunk) => came += chunk.len() as u64,
                Err(error) => failed = Some(error),
            }
        }
        assert_eq!(failed.map(|error| error.kind().clone()), Some(kind.clone()));
        assert!(came <= metadata_start(tar.len() as u64) && came < file.len() as u64, "no metadata");
        let again = read(&origin, &source, Some(ByteRange::new(0, HEAD))).await;
        assert_eq!(again.err().map(|error| error.kind().clone()), Some(kind));
        assert_eq!(told.asked.load(Ordering::Relaxed), 1, "it is known to be wrong");
    }
}

#[tokio::test]
async fn whoever_reads_no_more_ends_the_reading_of_the_layer() {
    let (tar, _) = layer();
    let (source, _) = named(Digest::sha256(&tar), Digest::sha256(&tar));
    let (origin, give, _) = origin(1);
    give[0].send(Ok(Bytes::copy_from_slice(&tar[..1 << 20]))).await.unwrap();
    drop(read(&origin, &source, None).await.unwrap());
    tokio::time::timeout(Duration::from_secs(60), give[0].closed()).await.expect("an end");
    assert_eq!(origin.expansions().begun.available_permits(), MAX_BEGUN);
}

/// The beginning of a file is made by reading all of its layer, and nothing is given meanwhile.
#[tokio::test]
async fn the_work_on_a_layer_gets_on_with_each_of_its_bytes_and_while_it_waits_for_its_turn() {
    let (tar, _) = layer();
    let (source, named) = named(Digest::sha256(&tar), Digest::sha256(&tar));
    let (origin, give, _) = origin(1);
    let (expansions, clock) = (origin.expansions(), Arc::clone(&origin.expansions().clock));
    assert!(!expansions.moves(&named, clock.now()), "nobody works on it");
    let others = expansions.begun.acquire_many(MAX_BEGUN as u32).await.unwrap();
    let mut head = std::pin::pin!(read(&origin, &source, Some(ByteRange::new(0, HEAD))));
    assert!(futures_util::poll!(&mut head).is_pending());
    assert!(expansions.moves(&named, clock.now()), "others get on");
    drop(others);
    assert!(futures_util::poll!(&mut head).is_pending());
    expansions.moved.lock().remove(&key_of(&named));
    give[0].send(Ok(Bytes::copy_from_slice(&tar[..1 << 20]))).await.unwrap();
    let comes = async {
        while !expansions.moves(&named, clock.now()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = comes => {}
        _ = &mut head => panic!("more is to come"),
        () = tokio::time::sleep(Duration::from_secs(60)) => panic!("what came is not noted"),
    }
    assert!(!expansions.moves(&named, clock.now() + STEP_COUNTS_FOR), "nothing more comes");
}

/// Stores content under the name of a layer, as an agent does that believes what its lead says of the whole.
fn put(store: &MemStore, layer: &ExpandedLayer, content: &[u8]) {
    let pieces = PieceLength::for_blob(content.len() as u64);
    let info = BlobInfo { name: layer.stored().to_string(), ..BlobInfo::default() };
    let manifest = Manifest::new(pieces, Some(content.len() as u64));
    let stored = store.open_or_create(blob_of(&layer.digest), info, manifest).unwrap();
    for (piece, bytes) in content.chunks(pieces.bytes() as usize).enumerate() {
        stored.put_first(PieceIndex(piece as u32), bytes, bytes.len() == content.len()).unwrap();
    }
    stored.seal(stored.manifest().root().unwrap()).unwrap();
}

#[tokio::test]
async fn a_copy_that_is_right_spares_the_registry_and_a_wrong_one_is_thrown_away_and_read_again_in_the_same_try() {
    let (tar, file) = layer();
    let (source, named) = named(Digest::sha256(&tar), Digest::sha256(&tar));
    let mut wrong = tar.clone();
    wrong[2 << 20] ^= 1;
    for (copy, asked) in [(&tar, 0), (&wrong, 1)] {
        let store = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
        // On a thread that may wait for a disk.
        std::thread::scope(|scope| scope.spawn(|| put(&store, &named, copy)).join()).unwrap();
        let (origin, give, told) = origin_beside(store, 1);
        give[0].send(Ok(tar.clone().into())).await.unwrap();
        drop(give);
        let got: Vec<Bytes> = read(&origin, &source, None).await.unwrap().body.try_collect().await.unwrap();
        assert!(got.concat() == file[HEAD as usize..], "{asked}");
        assert_eq!(told.asked.load(Ordering::Relaxed), asked);
        let is_kept = origin.expansions().disk.open(blob_of(&named.digest)).await.unwrap().is_some();
        assert_eq!(is_kept, asked == 0);
    }
}

#[tokio::test]
async fn a_size_of_whoever_may_not_have_the_layer_counts_no_more() {
    let (source, layer) = named(Digest::sha256(b"layer"), Digest::sha256(b"tar"));
    let (origin, _, _) = origin(0);
    let sizes = origin.expansions();
    let before = sizes.names_size(&layer.digest, 5);
    sizes.takes_size_back(&layer.digest, 5, before);
    assert_eq!(sizes.named_size(&source), None);
    let before = sizes.names_size(&layer.digest, 5);
    sizes.names_size(&layer.digest, 100);
    sizes.takes_size_back(&layer.digest, 5, before);
    assert_eq!(sizes.named_size(&source), Some(100), "another one's");
    let before = sizes.names_size(&layer.digest, 1000);
    sizes.takes_size_back(&layer.digest, 1000, before);
    assert_eq!(sizes.named_size(&source), Some(100));
}

/// Its members are to be told, and who sent it is to be noted.
#[tokio::test]
async fn a_wrong_copy_that_is_under_way_is_left_to_its_transfer() {
    let (tar, _) = layer();
    let (source, named) = named(Digest::sha256(&tar), Digest::sha256(&tar));
    let mut wrong = tar.clone();
    wrong[2 << 20] ^= 1;
    let store = MemStore::new(&StoreConfig::new(Arc::new(|| 0)));
    std::thread::scope(|scope| scope.spawn(|| put(&store, &named, &wrong)).join()).unwrap();
    let (origin, give, told) = origin_beside(store, 1);
    give[0].send(Ok(tar.into())).await.unwrap();
    drop(give);
    let thrown = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&thrown);
    origin.expansions().throws_away(move |blob, error| {
        notes.lock().push((blob, matches!(error, FetchError::WrongDigest { .. })));
        true
    });
    let got: Vec<Bytes> = read(&origin, &source, None).await.unwrap().body.try_collect().await.unwrap();
    assert!(!got.is_empty() && told.asked.load(Ordering::Relaxed) == 1);
    let blob = blob_of(&named.digest);
    assert_eq!(*thrown.lock(), [(blob, true)]);
    assert!(origin.expansions().disk.open(blob).await.unwrap().is_some());
}
