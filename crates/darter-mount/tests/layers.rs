//! The directory of layers, by the kernel: through a real FUSE mount, with agents of the tests' own.
//!
//! On hosts without FUSE, or where an ordinary user may not let others read a mount of theirs, these tests say so and do nothing.

#![allow(missing_docs)]

#[path = "../../darter-image/tests/support/tar.rs"]
mod tar;

#[path = "layers/mounted.rs"]
mod mounted;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use darter_core::manifest::hash_piece;
use darter_core::{BlobId, ByteRange, Clock, Digest, PieceHash, PieceIndex, PieceLength, SystemClock};
use darter_kernel::cached::cached;
use darter_mount::supply::{Content, End, Given, Refusal, Supplier, Supply};
use darter_mount::{Fill, KeptFile, Layer, Layers, LayersDir, MountError, Mounted, MountedFile, Pages, Settings};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_millis(500);

/// An agent that has everything of one layer, unless it is told to refuse.
#[derive(Clone)]
struct Agent {
    bytes: Arc<Vec<u8>>,
    refuses: Arc<AtomicBool>,
    given: Arc<AtomicUsize>,
    is_whole: Arc<AtomicBool>,
    end: watch::Sender<Option<End>>,
}

impl Agent {
    fn new(bytes: Vec<u8>) -> Self {
        let end = watch::channel(None).0;
        Self { bytes: Arc::new(bytes), refuses: Arc::default(), given: Arc::default(), is_whole: Arc::default(), end }
    }

    fn content(&self) -> Content {
        let pieces = PieceLength::from_log2(17).unwrap();
        Content { blob: BlobId([7; 32]), length: self.bytes.len() as u64, pieces, modified: None }
    }

    fn hashes(&self, range: ByteRange) -> Vec<PieceHash> {
        let Content { pieces, length, .. } = self.content();
        let hash = |piece| {
            let range = pieces.range(PieceIndex(piece), length);
            let bytes = &self.bytes[range.start() as usize..range.end() as usize];
            hash_piece(pieces, PieceIndex(piece), bytes, pieces.count(length) == 1)
        };
        pieces.pieces_of(range).map(hash).collect()
    }
}

#[async_trait]
impl Supply for Agent {
    async fn read(&self, range: ByteRange, within: Duration) -> Result<Given, Refusal> {
        let refuses = async {
            while self.refuses.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(within, refuses).await.map_err(|_| Refusal::Late)?;
        self.given.fetch_add(range.len() as usize, Ordering::SeqCst);
        Ok(Given::Bytes(self.bytes[range.start() as usize..range.end() as usize].to_vec().into()))
    }

    async fn fetch(&self, range: ByteRange, _: Duration) -> Result<Vec<PieceHash>, Refusal> {
        Ok(self.hashes(range))
    }

    async fn everything(&self) {}

    async fn touched(&self, _: &[ByteRange]) {}

    async fn progress(&self) -> Option<(u64, bool)> {
        Some((self.given.load(Ordering::SeqCst) as u64, self.is_whole.load(Ordering::SeqCst)))
    }

    async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        end.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }
}

#[async_trait]
impl Supplier for Agent {
    async fn open(&self) -> Result<(Content, Arc<dyn Supply>), String> {
        Ok((self.content(), Arc::new(self.clone())))
    }
}

/// Layers as the test says.
#[derive(Default)]
struct Known {
    layers: Mutex<HashMap<Digest, (Layer, Agent)>>,
    asked: AtomicUsize,
    opened: Mutex<Vec<std::sync::Weak<KeptFile>>>,
    /// This one's question is never answered.
    hangs: Option<Digest>,
    /// How long reads wait, if not [`LIMIT`].
    limit: Option<Duration>,
    /// The layers that are known without a question.
    at_hand: Mutex<HashMap<Digest, Layer>>,
}

#[async_trait]
impl Layers for Known {
    fn at_hand(&self, layer: Digest) -> Option<Layer> {
        self.at_hand.lock().get(&layer).cloned()
    }

    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.hangs == Some(layer) {
            std::future::pending::<()>().await;
        }
        self.layers.lock().get(&layer).map(|(layer, _)| layer.clone())
    }

    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>> {
        let agent = self.layers.lock().get(&layer)?.1.clone();
        let limit = self.limit.unwrap_or(LIMIT);
        let settings = Settings { limit, fill: Fill::Never, fill_rate: None, has_digest: true, pages: Pages::Stored };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::start());
        let file = MountedFile::new(agent.content(), Arc::new(agent.clone()), settings, clock);
        let kept = KeptFile::begin(file, agent);
        self.opened.lock().push(Arc::downgrade(&kept));
        Some(kept)
    }

    fn listed(&self) -> Vec<Digest> {
        self.layers.lock().keys().copied().collect()
    }
}

impl Known {
    fn set(&self, name: &str, layer: Layer, agent: &Agent) {
        self.layers.lock().insert(digest(name), (layer, agent.clone()));
    }

    /// How many reads of the file that was opened first wait.
    fn waiting(&self, runtime: &Runtime) -> usize {
        let opened = self.opened.lock().first().and_then(std::sync::Weak::upgrade);
        opened.map_or(0, |kept| runtime.block_on(kept.file().glance()).waiting)
    }

    fn file(&self, name: &str, agent: &Agent) {
        self.set(name, Layer::File { length: agent.bytes.len() as u64, here: 0 }, agent);
    }
}

/// Files that could be opened by way of a descriptor of this process.
static BY_DESCRIPTOR: AtomicUsize = AtomicUsize::new(0);

/// Opens files as another process of the program does.
fn opened(files: &[PathBuf]) -> std::io::Result<()> {
    let mut head = Command::new("head");
    let status = head.args(["-c", "0"]).args(files).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if status.status()?.success() && files.iter().all(|file| file.starts_with("/proc")) {
        BY_DESCRIPTOR.fetch_add(files.len(), Ordering::SeqCst);
    }
    Ok(())
}

struct World {
    known: Arc<Known>,
    dir: tempfile::TempDir,
    mounted: Option<Mounted>,
    shown: Option<LayersDir>,
    runtime: Runtime,
}

impl World {
    /// `None` where nothing can be mounted.
    fn new(known: Known) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (known, dir) = (Arc::new(known), tempfile::tempdir().unwrap());
        let mounted = Mounted::mount_layers(
            Arc::clone(&known) as Arc<dyn Layers>,
            dir.path(),
            SystemTime::UNIX_EPOCH,
            opened,
            runtime.handle().clone(),
        );
        match mounted {
            Ok((mounted, shown)) => Some(Self { known, dir, mounted: Some(mounted), shown: Some(shown), runtime }),
            Err(error) => {
                let is_root = rustix::process::geteuid().is_root();
                assert!(!is_root || matches!(error, MountError::NoDevice | MountError::Device(_)), "{error}");
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let text = digest(name).to_string();
        let digits = text.strip_prefix("sha256:").unwrap();
        self.dir.path().join(format!("sha256/{}/{digits}.erofs", &digits[..2]))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

fn digest(name: &str) -> Digest {
    Digest::sha256(name.as_bytes())
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 | 1).collect()
}

/// However loaded the machine is.
fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    (0..3000).any(|_| {
        is_so() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }
    })
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

fn reads(file: &File, agent: &Agent, at: usize, count: usize) -> bool {
    let mut bytes = vec![0; count];
    match file.read_exact_at(&mut bytes, at as u64) {
        Ok(()) => {
            assert!(bytes == agent.bytes[at..at + count], "wrong bytes at {at}");
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
            false
        }
    }
}

#[test]
fn what_is_at_hand_is_asked_for_each_time_and_nobody_is_asked_for_it_and_no_longer_than_it_is() {
    let Some(world) = World::new(Known::default()) else { return };
    let path = world.path("x");
    world.known.at_hand.lock().insert(digest("x"), Layer::File { length: 4096, here: 512 });
    for _ in 0..50 {
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 4096);
    }
    assert_eq!(world.known.asked.load(Ordering::SeqCst), 0);
    // Not for the moment for which its attributes are good.
    world.known.at_hand.lock().clear();
    assert!(is_absent(&path));
    assert!(world.known.asked.load(Ordering::SeqCst) > 0);
}

#[test]
fn a_name_is_there_while_its_layer_can_be_had_and_a_sidecar_never_is() {
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, path) = (Agent::new(content(300_000)), world.path("x"));
    assert!(is_absent(&path));
    world.known.file("x", &agent);
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert!(found.is_file() && found.len() == 300_000 && found.blocks() == 0, "{found:?}");
    assert_eq!(found.mode() & 0o777, 0o400);
    world.known.layers.lock().clear();
    assert!(is_absent(&path), "what is answered has no life");
    world.known.file("x", &agent);
    assert!(!is_absent(&path));

    let asked = world.known.asked.load(Ordering::SeqCst);
    for _ in 0..50 {
        assert!(is_absent(&path.with_extension("erofs.dmverity")));
    }
    assert!(is_absent(&path.with_extension("other")) && is_absent(&world.dir.path().join("sha512")));
    assert_eq!(world.known.asked.load(Ordering::SeqCst), asked, "nobody is asked for those");
    assert!(File::options().write(true).open(&path).is_err());
    let names = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), [path.file_name().unwrap()]);
    assert_eq!(std::fs::read_dir(world.dir.path().join("sha256")).unwrap().count(), 256);
}

#[test]
fn another_user_finds_and_reads_no_layer() {
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, path) = (Agent::new(content(5000)), world.path("x"));
    world.known.file("x", &agent);
    assert!(reads(&File::open(&path).unwrap(), &agent, 0, 5000), "who mounted it does");
    let whole = tempfile::NamedTempFile::new().unwrap();
    world.known.set("whole", Layer::Link(whole.path().to_owned()), &agent);
    let link = world.path("whole");
    assert_eq!(std::fs::read_link(&link).unwrap(), whole.path());
    let has_setpriv = std::process::Command::new("setpriv").arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has_setpriv {
        eprintln!("skipped: needs root and setpriv");
        return;
    }
    let shard = path.parent().unwrap();
    let as_user = |line: &[&str], path: &Path| {
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        let ran = std::process::Command::new("setpriv").args(user).args(line).arg(path).output().unwrap();
        assert!(!ran.status.success(), "{line:?} {}: {ran:?}", path.display());
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(said.contains("Permission denied"), "{line:?} {}: {said}", path.display());
    };
    for dir in [world.dir.path(), &world.dir.path().join("sha256"), shard] {
        as_user(&["ls"], dir);
    }
    as_user(&["cat"], &path);
    as_user(&["stat"], &path);
    as_user(&["readlink", "-v"], &link);
}

#[test]
fn reads_wait_and_fail_and_work_again_and_blocks_are_those_that_are_here() {
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, path) = (Agent::new(content(1_000_000)), world.path("x"));
    world.known.file("x", &agent);
    let file = File::open(&path).unwrap();
    assert!(reads(&file, &agent, 0, 4096));
    agent.refuses.store(true, Ordering::SeqCst);
    assert!(!reads(&file, &agent, 900_000, 5000), "never zeros");
    assert!(!reads(&file, &agent, 0, 4096), "nothing of it is kept here: who reads it has its own pages");
    agent.refuses.store(false, Ordering::SeqCst);
    assert!(reads(&file, &agent, 900_000, 5000), "nothing stays poisoned");
    let is_told = || std::fs::metadata(&path).unwrap().blocks() > 0;
    assert!((0..500).any(|_| is_told() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
    assert!(std::fs::metadata(&path).unwrap().blocks() < 1_000_000 / 512);
}

#[test]
fn what_is_read_of_a_layer_stays_in_no_page_cache_of_its_file_here() {
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, path) = (Agent::new(content(1_000_000)), world.path("x"));
    world.known.file("x", &agent);
    let file = File::open(&path).unwrap();
    assert!(reads(&file, &agent, 0, 600_000) && reads(&file, &agent, 700_001, 4096));
    match cached(&file, 0, 0) {
        Ok(cached) => assert_eq!(cached.pages, 0),
        Err(error) => eprintln!("skipped: cachestat: {error}"),
    }
}

#[test]
fn a_program_that_waits_for_a_read_can_be_killed_and_others_wait_on() {
    let limit = Some(Duration::from_secs(3600));
    let Some(world) = World::new(Known { limit, ..Known::default() }) else { return };
    let (agent, path) = (Agent::new(content(300_000)), world.path("x"));
    world.known.file("x", &agent);
    agent.refuses.store(true, Ordering::SeqCst);
    let waiting = || world.known.waiting(&world.runtime);
    let begin = || Command::new("cat").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut programs = [begin(), begin()];
    assert!(soon(|| waiting() == 2), "{}", waiting());
    for left in [1, 0] {
        programs[left].kill().unwrap();
        assert!(soon(|| programs[left].try_wait().unwrap().is_some()), "it ends long before its read's limit");
        assert!(soon(|| waiting() == left), "{}", waiting());
        assert!(left == 0 || programs[0].try_wait().unwrap().is_none(), "the other one waits");
    }
    agent.refuses.store(false, Ordering::SeqCst);
    assert!(reads(&File::open(&path).unwrap(), &agent, 0, 300_000), "and nothing stays poisoned");
}

#[test]
fn a_whole_layer_becomes_a_link_to_its_file_and_those_who_have_it_open_go_on() {
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, path) = (Agent::new(content(600_000)), world.path("x"));
    world.known.file("x", &agent);
    let file = File::open(&path).unwrap();
    assert!(reads(&file, &agent, 0, 4096));
    let whole = world.dir.path().with_extension("whole");
    std::fs::write(&whole, &*agent.bytes).unwrap();
    world.known.set("x", Layer::Link(whole.clone()), &agent);
    assert_eq!(std::fs::read_link(&path).unwrap(), whole);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 600_000, "as the store has it");
    assert!(reads(&File::open(&path).unwrap(), &agent, 500_000, 4096));
    assert!(reads(&file, &agent, 500_000, 4096), "by the file that it opened");
    // With the last of them, the connection to the agent ends.
    let opened = world.known.opened.lock()[0].clone();
    assert!(opened.upgrade().is_some());
    drop(file);
    let is_gone = || std::fs::metadata(&path).is_ok() && opened.upgrade().is_none();
    assert!((0..500).any(|_| is_gone() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
    std::fs::remove_file(whole).unwrap();
}

#[test]
fn a_question_that_hangs_keeps_no_other_waiting() {
    let Some(world) = World::new(Known { hangs: Some(digest("slow")), ..Known::default() }) else { return };
    let agent = Agent::new(content(200_000));
    world.known.file("x", &agent);
    let slow = world.path("slow");
    let waiting = std::thread::spawn(move || std::fs::metadata(slow).is_err());
    while world.known.asked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    for _ in 0..100 {
        assert!(!is_absent(&world.path("x")));
    }
    assert!(reads(&File::open(world.path("x")).unwrap(), &agent, 100_000, 4096));
    assert!(!waiting.is_finished());
    drop(world);
    assert!(waiting.join().unwrap(), "it ends with the mount");
}

#[test]
fn of_a_layer_that_turned_out_wrong_nothing_is_read_and_who_opens_it_anew_gets_the_right_one() {
    let Some(world) = World::new(Known::default()) else { return };
    let (wrong, right, path) = (Agent::new(content(400_000)), Agent::new(vec![9; 400_000]), world.path("x"));
    world.known.file("x", &wrong);
    let file = File::open(&path).unwrap();
    assert!(reads(&file, &wrong, 0, 4096));
    world.known.file("x", &right);
    wrong.end.send_replace(Some(End::Wrong("its tar is another".into())));
    let fails = || !reads(&file, &wrong, 0, 4096);
    assert!((0..500).any(|_| fails() || {
        std::thread::sleep(Duration::from_millis(10));
        false
    }));
    assert!(!reads(&file, &wrong, 100_000, 4096));
    assert!(reads(&File::open(&path).unwrap(), &right, 0, 4096));
    assert!(!reads(&file, &wrong, 0, 4096), "the wrong one stays wrong");
}

#[test]
fn a_hidden_directory_is_there_as_long_as_a_file_of_it_is_open_and_what_is_wrong_is_forgotten_in_it_too() {
    // Only root mounts and unmounts by the kernel's own calls.
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root takes a mount out of the tree");
        return;
    }
    let Some(mut world) = World::new(Known::default()) else { return };
    let (wrong, path) = (Agent::new(content(400_000)), world.path("x"));
    world.known.file("x", &wrong);
    let file = File::open(&path).unwrap();
    assert!(reads(&file, &wrong, 0, 4096));
    world.shown.take().unwrap().hide().unwrap();
    assert!(is_absent(&path), "nobody finds it");
    assert!(reads(&file, &wrong, 100_000, 4096), "who has it reads on");
    wrong.end.send_replace(Some(End::Wrong("its tar is another".into())));
    assert!(soon(|| !reads(&file, &wrong, 0, 4096)));
    assert!(
        soon(|| BY_DESCRIPTOR.load(Ordering::SeqCst) == 1),
        "another process opens it, and waits in this one's place"
    );
    let mounted = world.mounted.take().unwrap();
    let ended = std::thread::spawn(move || mounted.wait());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!ended.is_finished(), "a file of it is open");
    drop(file);
    assert!(soon(|| ended.is_finished()));
    ended.join().unwrap().unwrap();
}
