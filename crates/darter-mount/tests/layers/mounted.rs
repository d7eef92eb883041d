//! Layers that the kernel mounts, as containerd does and as Darter does.

use darter_core::{ByteRange, PieceLength};
use darter_image::{Expander, metadata_start};
use darter_kernel::sysfs;
use darter_mount::{engines, erofs, mountinfo};
use rustix::fs::{Advice, fadvise, major, minor};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// A layer with two files, expanded.
fn expanded() -> Vec<u8> {
    let members = [tar::dir("etc/"), tar::file("etc/hello", b"hi there"), tar::file("big", vec![5; 300_000])];
    let tar = tar::tar(members);
    let mut expander = Expander::new();
    expander.push(&tar).unwrap();
    let expanded = expander.finish(&Digest::sha256(&tar)).unwrap();
    let mut file = expanded.superblock.to_vec();
    file.extend_from_slice(&tar);
    file.resize(metadata_start(expanded.tar_length) as usize, 0);
    file.extend_from_slice(&expanded.metadata);
    file
}

/// True if this kernel mounts layers, and this user may.
fn mounts_layers() -> bool {
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let may = rustix::process::geteuid().is_root() && kernel.contains("\terofs");
    if !may {
        eprintln!("skipped: only root mounts EROFS, and only where the kernel has it");
    }
    may
}

#[test]
fn the_kernel_mounts_a_layer_of_which_nothing_has_come() {
    if !mounts_layers() {
        return;
    }
    let Some(world) = World::new(Known::default()) else { return };
    let agent = Agent::new(expanded());
    world.known.file("x", &agent);
    let at = tempfile::tempdir().unwrap();
    let mounted = mount(world.path("x"), at.path(), "erofs", MountFlags::RDONLY, None);
    if mounted == Err(rustix::io::Errno::NOTBLK) {
        eprintln!("skipped: this kernel mounts no EROFS over files");
        return;
    }
    mounted.unwrap();
    assert_eq!(std::fs::read(at.path().join("etc/hello")).unwrap(), b"hi there");
    agent.refuses.store(true, Ordering::SeqCst);
    let read = std::fs::read(at.path().join("big"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    agent.refuses.store(false, Ordering::SeqCst);
    assert!(std::fs::read(at.path().join("big")).unwrap() == vec![5; 300_000]);

    // Whole by now: the second mount needs nobody.
    let mut whole = tempfile::NamedTempFile::new().unwrap();
    whole.write_all(&agent.bytes).unwrap();
    world.known.set("x", Layer::Link(whole.path().to_owned()), &agent);
    let second = tempfile::tempdir().unwrap();
    mount(world.path("x"), second.path(), "erofs", MountFlags::RDONLY, None).unwrap();
    let given = agent.given.load(Ordering::SeqCst);
    assert!(std::fs::read(second.path().join("big")).unwrap() == vec![5; 300_000]);
    assert_eq!(agent.given.load(Ordering::SeqCst), given);
    for dir in [&at, &second] {
        unmount(dir.path(), UnmountFlags::empty()).unwrap();
    }
}

/// A layer mounted, of which its agent gives nothing but what a listing needs.
fn stalled(world: &World, agent: &Agent, at: &Path) -> bool {
    world.known.file("x", agent);
    let mounted = mount(world.path("x"), at, "erofs", MountFlags::RDONLY, None);
    if mounted == Err(rustix::io::Errno::NOTBLK) {
        eprintln!("skipped: this kernel mounts no EROFS over files");
        return false;
    }
    mounted.unwrap();
    assert_eq!(std::fs::metadata(at.join("big")).unwrap().len(), 300_000);
    agent.refuses.store(true, Ordering::SeqCst);
    true
}

#[test]
fn read_ahead_of_a_mounted_layer_is_asked_for_while_its_reader_goes_on() {
    if !mounts_layers() || !erofs::goes_on() {
        eprintln!("skipped: the kernel waits for each of its questions");
        return;
    }
    let limit = Some(Duration::from_secs(3600));
    let Some(world) = World::new(Known { limit, ..Known::default() }) else { return };
    let (agent, at) = (Agent::new(expanded()), tempfile::tempdir().unwrap());
    if !stalled(&world, &agent, at.path()) {
        return;
    }
    let big = File::open(at.path().join("big")).unwrap();
    let asking = std::thread::spawn(move || fadvise(&big, 0, None, Advice::WillNeed).is_ok());
    assert!(soon(|| asking.is_finished()), "nobody waits for what is read ahead");
    assert!(asking.join().unwrap() && world.known.waiting(&world.runtime) > 0, "it was asked for");
    let mut reader =
        Command::new("cat").arg(at.path().join("big")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = || std::fs::read_to_string(format!("/proc/{}/status", reader.id())).unwrap().contains("State:\tD");
    assert!(soon(waits), "for the pages that were asked for");
    reader.kill().unwrap();
    assert!(soon(|| reader.try_wait().unwrap().is_some()), "it ends long before its read's limit");
    agent.refuses.store(false, Ordering::SeqCst);
    assert!(std::fs::read(at.path().join("big")).unwrap() == vec![5; 300_000]);
    unmount(at.path(), UnmountFlags::empty()).unwrap();
}

#[test]
fn a_whole_layer_past_the_page_cache_is_read_ahead_as_far_as_its_disk_is_and_no_other_one() {
    if !mounts_layers() {
        return;
    }
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, dirs) = (Agent::new(expanded()), [(); 3].map(|()| tempfile::tempdir().unwrap()));
    let mut whole = tempfile::NamedTempFile::new().unwrap();
    whole.write_all(&agent.bytes).unwrap();
    whole.as_file().sync_all().unwrap();
    fadvise(whole.as_file(), 0, None, Advice::DontNeed).unwrap();
    let [lazy, plain, own] = [&dirs[0], &dirs[1], &dirs[2]].map(tempfile::TempDir::path);
    if !stalled(&world, &agent, plain) {
        return;
    }
    agent.refuses.store(false, Ordering::SeqCst);
    erofs::mount(&world.path("x"), lazy, erofs::INERT).unwrap();
    erofs::mount(whole.path(), own, erofs::INERT).unwrap();
    let said = |place: &Path| std::fs::read_to_string(place).ok()?.trim().parse::<u64>().ok();
    let of = |at: &Path| {
        let name = sysfs::name(&File::open(at).unwrap()).ok()?;
        said(&Path::new("/sys/class/bdi").join(name.strip_prefix("erofs/")?).join("read_ahead_kb"))
    };
    let device = whole.as_file().metadata().unwrap().dev();
    let disk = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let disk = said(&disk.join("queue/read_ahead_kb")).or_else(|| said(&disk.join("../queue/read_ahead_kb")));
    if let Some(usual) = of(plain) {
        assert_eq!(of(lazy), Some(usual), "what is read ahead is fetched");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let is_own = |line: &&str| line.split(' ').nth(1).is_some_and(|place| Path::new(place) == own);
        let is_direct = mounts.lines().find(is_own).unwrap().contains("directio");
        assert_eq!(of(own), Some(usual.max(disk.filter(|_| is_direct).unwrap_or_default())));
    }
    for dir in &dirs {
        assert!(std::fs::read(dir.path().join("big")).unwrap() == vec![5; 300_000]);
        unmount(dir.path(), UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn a_layer_that_became_whole_under_an_engines_mount_is_read_ahead_by_whole_questions() {
    if !mounts_layers() || !erofs::goes_on() {
        return;
    }
    let Some(world) = World::new(Known::default()) else { return };
    let (agent, at) = (Agent::new(expanded()), tempfile::tempdir().unwrap());
    let shown = world.shown.clone().unwrap();
    engines::attend(world.dir.path().to_owned(), move |name| shown.is_whole(name), |_, _| ());
    if !stalled(&world, &agent, at.path()) {
        return;
    }
    agent.refuses.store(false, Ordering::SeqCst);
    let name = sysfs::name(&File::open(at.path()).unwrap()).unwrap_or_default();
    let Some(name) = name.strip_prefix("erofs/") else { return };
    let place = Path::new("/sys/class/bdi").join(name).join("read_ahead_kb");
    let far = || std::fs::read_to_string(&place).unwrap().trim().parse::<u64>().unwrap();
    let usual = far();
    assert!(std::fs::read(at.path().join("big")).unwrap() == vec![5; 300_000] && usual < 1024 && far() == usual);
    agent.is_whole.store(true, Ordering::SeqCst);
    assert!(soon(|| far() == 1024), "{usual}, {}", far());
    unmount(at.path(), UnmountFlags::empty()).unwrap();
}

#[test]
fn a_whole_layer_that_an_engine_mounts_is_read_past_the_page_cache_and_only_its_first_mount() {
    if !mounts_layers() || !erofs::goes_on() {
        return;
    }
    let (names, at) = (tempfile::tempdir().unwrap(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
    let mut bytes = expanded();
    let layer = |name: &str, bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file.as_file().sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        let link = names.path().join(name);
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        (file, link)
    };
    let (_early, early) = layer("early", &bytes);
    let (whole, link) = layer("whole", &bytes);
    let options = |at: &tempfile::TempDir| {
        let mounts = mountinfo::parsed(&std::fs::read_to_string(mountinfo::PATH).unwrap());
        mounts.into_iter().find(|mount| mount.dir == at.path()).unwrap().options
    };
    let is_direct = |at: &tempfile::TempDir| options(at).split(',').any(|option| option == "directio");
    let by_engine = |file: &Path, at: &tempfile::TempDir| {
        mount(file, at.path(), "erofs", MountFlags::RDONLY | MountFlags::NOSUID, None).unwrap();
    };
    by_engine(&early, &at[0]);
    engines::attend(names.path().to_owned(), |_| false, |_, _| ());
    by_engine(&link, &at[1]);
    // As Darter mounts it itself: where that is not so, nothing suits here.
    erofs::mount(whole.path(), at[3].path(), erofs::INERT).unwrap();
    if is_direct(&at[3]) {
        assert!(soon(|| is_direct(&at[1])), "{}", options(&at[1]));
        let flags = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = flags.lines().find(|line| line.contains(at[1].path().to_str().unwrap())).unwrap();
        assert!(line.contains("nosuid"), "{line}");
    } else {
        eprintln!("skipped: files here are not read past the page cache");
    }
    by_engine(&link, &at[2]);
    // Another one that is made later is seen after it.
    bytes.push(0);
    let last = tempfile::tempdir().unwrap();
    let (_last, link) = layer("last", &bytes);
    by_engine(&link, &last);
    assert!(!is_direct(&at[3]) || soon(|| is_direct(&last)));
    assert!(!is_direct(&at[0]) && !is_direct(&at[2]), "one from before, and a second one");
    for at in at.iter().chain([&last]) {
        assert!(std::fs::read(at.path().join("big")).unwrap() == vec![5; 300_000]);
        unmount(at.path(), UnmountFlags::empty()).unwrap();
    }
}

#[test]
fn parts_of_a_whole_layer_that_were_read_of_an_engines_mount_are_found() {
    if !mounts_layers() {
        return;
    }
    let (names, at) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = expanded();
    let mut whole = tempfile::NamedTempFile::new().unwrap();
    whole.write_all(&bytes).unwrap();
    let layer = digest("whole");
    let digits = layer.to_string().replace("sha256:", "");
    let shard = names.path().join("sha256").join(&digits[..2]);
    std::fs::create_dir_all(&shard).unwrap();
    let name = shard.join(format!("{digits}.erofs"));
    std::os::unix::fs::symlink(whole.path(), &name).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    engines::attend(
        names.path().to_owned(),
        |_| false,
        move |layer, mounted| {
            let _ = tell.send((layer, mounted));
        },
    );
    // All of it is in memory, as right after it came.
    if mount(&name, at.path(), "erofs", MountFlags::RDONLY, None) == Err(rustix::io::Errno::NOTBLK) {
        eprintln!("skipped: this kernel mounts no EROFS over files");
        return;
    }
    let (found, mounted) = told.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(found, layer);
    let pieces = PieceLength::from_log2(17).unwrap();
    let read_parts = || mounted.read_parts(pieces).unwrap();
    if read_parts().is_empty() {
        let place = |content: &[u8]| bytes.windows(content.len()).position(|window| window == content).unwrap() as u64;
        let big = File::open(at.path().join("big")).unwrap();
        fadvise(&big, 0, None, Advice::Random).unwrap();
        let mut page = [0; 4096];
        big.read_exact_at(&mut page, 0).unwrap();
        assert_eq!(std::fs::read(at.path().join("etc/hello")).unwrap(), b"hi there");
        drop(big);
        // The engine takes it away, as when a program was there for a moment only.
        unmount(at.path(), UnmountFlags::empty()).unwrap();
        let parts = read_parts();
        let has = |at: u64| parts.iter().any(|part: &ByteRange| (part.start()..part.end()).contains(&at));
        let big = place(&[5; 5000]);
        assert!(has(place(b"hi there")) && has(big) && !has(big + 290_000), "{parts:?}");
        let piece_of = |at| pieces.piece_at(at);
        assert!(parts.iter().all(|part| piece_of(part.start()) == piece_of(part.end() - 1)), "{parts:?}");
    } else {
        panic!("nobody has read anything: {:?}", read_parts());
    }
}
