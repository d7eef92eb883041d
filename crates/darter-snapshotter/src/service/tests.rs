//! Calls on real directories; as root, on real mounts. An agent that says what the test wants stands in for the host's.

use std::fs;

use darter_core::Moment;
use darter_image::{Expander, metadata_start};
use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;
use crate::stack::LINGER;

/// The runtime's time, which stands still in tests until all wait.
struct TestClock(Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment::ZERO + self.0.elapsed()
    }

    fn unix(&self) -> u64 {
        0
    }
}

/// Says the same of every chain.
#[derive(Default)]
struct Agent {
    answer: Mutex<Option<FoundLayer>>,
}

#[async_trait]
impl Layers for Agent {
    async fn uppermost(&self, _chain: Digest) -> Option<FoundLayer> {
        *self.answer.lock()
    }

    async fn named(&self, _layers: &[Digest]) -> std::result::Result<(), String> {
        Ok(())
    }
}

struct World {
    room: TempDir,
    agent: Arc<Agent>,
    clock: Arc<TestClock>,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(TestClock(Instant::now()));
        let world = Self { room: tempfile::tempdir().unwrap(), agent: Arc::default(), clock };
        for dir in ["root/snapshots", "root/layers", "directory"] {
            fs::create_dir_all(world.room.path().join(dir)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().canonicalize().unwrap().join("root").join(name)
    }

    fn try_open(&self) -> std::result::Result<Snapshotter, StartError> {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let options = Options { root: self.path(""), layers: self.room.path().join("directory"), clock };
        Snapshotter::open(options, Arc::clone(&self.agent) as Arc<dyn Layers>)
    }

    fn open(&self) -> Snapshotter {
        self.try_open().unwrap()
    }

    /// Shows a layer without content in the directory of layers: the agent says so.
    fn show_layer(&self) -> FoundLayer {
        let tar = [0; 1024];
        let diff_id = Digest::sha256(&tar);
        let mut expander = Expander::new();
        expander.push(&tar).unwrap();
        let expanded = expander.finish(&diff_id).unwrap();
        let mut file = expanded.superblock.to_vec();
        file.extend_from_slice(&tar);
        file.resize(metadata_start(expanded.tar_length) as usize, 0);
        file.extend_from_slice(&expanded.metadata);
        let hex = diff_id.to_string().replace("sha256:", "");
        let dir = self.room.path().join("directory/sha256").join(&hex[..2]);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("{hex}.erofs")), &file).unwrap();
        let found = FoundLayer { diff_id, length: file.len() as u64, held: 0 };
        *self.agent.answer.lock() = Some(found);
        found
    }

    fn places(&self) -> Vec<u64> {
        disk::places(&self.path("layers")).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for place in self.places() {
            let _ = disk::take_away(&self.path("layers").join(place.to_string()));
        }
    }
}

/// Says why a test that mounts is skipped.
fn may_not_mount() -> bool {
    let kernel = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let may = rustix::process::geteuid().is_root() && kernel.contains("\terofs");
    if !may {
        eprintln!("skipped: only root mounts EROFS, and only where the kernel has it");
    }
    !may
}

fn chain() -> String {
    Digest::sha256(b"chain").to_string()
}

fn wanted() -> Labels {
    Labels::from([(TARGET.to_owned(), chain())])
}

/// Prepares a snapshot as an unpacker does that wants the chain.
async fn prepare(snapshotter: &Snapshotter, key: &str) -> Result<Vec<Mount>> {
    snapshotter.prepare(key.to_owned(), String::new(), wanted()).await
}

fn lazy_name(snapshotter: &Snapshotter) -> String {
    let all = snapshotter.list(&[]).unwrap();
    all.into_iter().find(|(_, snapshot)| snapshot.lazy.is_some()).unwrap().0
}

#[tokio::test]
async fn a_lazy_snapshot_is_not_given_to_another_namespace_without_the_agents_word() {
    let world = World::new();
    world.show_layer();
    let snapshotter = world.open();
    if !snapshotter.inner.can_mount {
        return;
    }
    let exists = |told: &Result<Vec<Mount>>| matches!(told, Err(Failure::Refused(Refusal::Exists(_))));
    for namespace in ["a/1/extract", "a/2/extract"] {
        assert!(exists(&prepare(&snapshotter, namespace).await), "the agent gives it");
    }
    assert_eq!(snapshotter.list(&[]).unwrap().len(), 1, "once for all");
    *world.agent.answer.lock() = None;
    prepare(&snapshotter, "b/3/extract").await.expect("a directory to unpack into: the agent has not given it");
    let (key, name) = ("b/3/extract".to_owned(), "b/3/chain".to_owned());
    snapshotter.commit(key, name, wanted()).await.unwrap();
    prepare(&snapshotter, "c/4/extract").await.expect("what another namespace has downloaded is not its own");
}

#[tokio::test(start_paused = true)]
async fn mounts_that_are_nobodys_go_after_a_while() {
    if may_not_mount() {
        return;
    }
    let world = World::new();
    for name in ["layers/7", "layers/8"] {
        fs::create_dir(world.path(name)).unwrap();
    }
    mount("none", world.path("layers/7"), "tmpfs", MountFlags::empty(), None).unwrap();
    let snapshotter = world.open();
    assert!(!world.path("layers/8").exists(), "nothing is mounted there");
    let attending = tokio::spawn(async move { snapshotter.attend().await });
    tokio::time::sleep(LINGER / 2).await;
    assert_eq!(world.places(), [7], "containerd may have been told of it a moment ago");
    tokio::time::sleep(LINGER).await;
    assert!(world.places().is_empty() && !world.path("layers/7").exists());
    attending.abort();
}

#[tokio::test(start_paused = true)]
async fn an_old_mount_goes_when_its_time_is_over() {
    if may_not_mount() {
        return;
    }
    let world = World::new();
    let found = world.show_layer();
    let snapshotter = world.open();
    let attended = snapshotter.clone();
    let attending = tokio::spawn(async move { attended.attend().await });
    prepare(&snapshotter, "extract").await.unwrap_err();
    let first = snapshotter.inner.mounted(found.diff_id).unwrap();
    // Its name leads to another file now.
    let file = snapshotter.inner.layer_file(found.diff_id);
    let copy = file.with_extension("copy");
    fs::copy(&file, &copy).unwrap();
    fs::rename(&copy, &file).unwrap();
    let second = snapshotter.inner.mounted(found.diff_id).unwrap();
    assert_eq!(world.places(), [first, second]);
    tokio::time::sleep(LINGER + TELL_PAUSE).await;
    assert_eq!(world.places(), [second]);
    attending.abort();
}

#[tokio::test]
async fn a_layer_that_somebody_unmounted_is_mounted_again() {
    if may_not_mount() {
        return;
    }
    let world = World::new();
    let found = world.show_layer();
    let snapshotter = world.open();
    prepare(&snapshotter, "extract").await.unwrap_err();
    let parent = lazy_name(&snapshotter);
    let lower = async |key: &str| {
        let mounts = snapshotter.view(key.to_owned(), parent.clone(), Labels::new()).await.unwrap();
        PathBuf::from(&mounts[0].source)
    };
    let first = lower("one").await;
    assert_eq!(lower("two").await, first, "once for all");
    unmount(&first, UnmountFlags::DETACH).unwrap();
    let second = lower("three").await;
    assert!(disk::is_mounted(&second), "nothing is mounted at {}", second.display());
    assert!(second != first && !first.exists());
    assert_eq!(world.places().len(), 1);
    // As it was written down.
    drop(snapshotter);
    let place = world.open().inner.mounted(found.diff_id).unwrap();
    assert_eq!(world.path("layers").join(place.to_string()), second);
}

#[tokio::test]
async fn a_layer_is_not_left_mounted_that_nothing_names() {
    if may_not_mount() {
        return;
    }
    let world = World::new();
    let found = world.show_layer();
    let snapshotter = world.open();
    prepare(&snapshotter, "extract").await.unwrap_err();
    // Its snapshot goes while another call is about to mount it.
    snapshotter.remove(lazy_name(&snapshotter)).await.unwrap();
    let told = snapshotter.inner.mounted(found.diff_id);
    assert!(matches!(told, Err(Failure::Refused(Refusal::Precondition(_)))), "{told:?}");
    assert!(world.places().is_empty());
}

#[tokio::test]
async fn what_containers_have_written_outlives_a_lost_book() {
    let world = World::new();
    let snapshotter = world.open();
    snapshotter.prepare("a".to_owned(), String::new(), Labels::new()).await.unwrap();
    let number = snapshotter.stat("a").unwrap().number;
    let written = world.path(&format!("snapshots/{number}/fs/written"));
    fs::write(&written, "by a container").unwrap();
    drop(snapshotter);
    fs::rename(world.path("snapshots.redb"), world.path("aside")).unwrap();
    for _ in 0..2 {
        let Err(error) = world.try_open() else { panic!("it began a new book") };
        assert!(matches!(error, StartError::Book(BookError::Lost(..))), "{error}");
        assert!(written.exists());
    }
    fs::rename(world.path("aside"), world.path("snapshots.redb")).unwrap();
    assert_eq!(world.open().stat("a").unwrap().number, number);
    assert!(written.exists());
}

#[tokio::test]
async fn what_can_not_be_removed_keeps_nothing_else() {
    let world = World::new();
    let snapshotter = world.open();
    // A file, which is no directory; and as root, a directory that is busy.
    for number in 40..60 {
        fs::create_dir_all(world.path(&format!("snapshots/{number}/fs"))).unwrap();
    }
    fs::write(world.path("snapshots/60"), "").unwrap();
    fs::write(world.path("snapshots/other"), "").unwrap();
    let busy = world.path("snapshots/40");
    let is_busy = mount("none", &busy, "tmpfs", MountFlags::empty(), None).is_ok();
    snapshotter.clean_up().await.unwrap();
    let left = disk::numbers(&world.path("snapshots")).unwrap();
    if is_busy {
        unmount(&busy, UnmountFlags::DETACH).unwrap();
    }
    let expected = if is_busy { vec![40] } else { vec![] };
    assert_eq!(left, (expected, vec![]));
}

#[tokio::test]
async fn a_number_whose_directory_is_there_is_not_given() {
    let world = World::new();
    drop(world.open());
    fs::create_dir_all(world.path("layers/41/left")).unwrap();
    let snapshotter = world.open();
    let number = snapshotter.inner.ledger.state().tree.number();
    assert!(number > 41, "{number}");
}
