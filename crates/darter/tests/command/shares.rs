//! How a file comes to its place on real file systems: such as share blocks, and one in memory that is filled meanwhile. Each is made for its test.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::statvfs;
use tempfile::TempDir;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, wait_until};

const MEGABYTE: usize = 1_000_000;

/// A mounted file system. Unmounted when dropped.
struct Disk {
    at: PathBuf,
    _room: TempDir,
}

impl Disk {
    /// A file system of `bytes`, made by `mkfs`; `None`, and the reason is said, where that can't be.
    fn of(mkfs: &str, bytes: u64) -> Option<Self> {
        let room = TempDir::new().unwrap();
        let image = room.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        let made = rustix::process::geteuid().is_root() && run(mkfs, &["-q", image.to_str().unwrap()]);
        let disk = made.then(|| Self::mounted(room, &["-o", "loop", image.to_str().unwrap()])).flatten();
        if disk.is_none() {
            eprintln!("skipped: needs root, {mkfs} and loop devices");
        }
        disk
    }

    /// One in memory.
    fn in_memory(bytes: usize) -> Option<Self> {
        let size = format!("size={bytes}");
        let disk = Self::mounted(TempDir::new().unwrap(), &["-t", "tmpfs", "-o", &size, "tmpfs"]);
        if disk.is_none() {
            eprintln!("skipped: needs root");
        }
        disk
    }

    fn mounted(room: TempDir, arguments: &[&str]) -> Option<Self> {
        let at = room.path().join("disk");
        std::fs::create_dir(&at).unwrap();
        run("mount", &[arguments, &[at.to_str().unwrap()]].concat()).then_some(Self { at, _room: room })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        run("umount", &["-l", self.at.to_str().unwrap()]);
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

fn free(at: &Path) -> u64 {
    let found = statvfs(at).unwrap();
    found.f_bfree * found.f_frsize
}

fn shares(mkfs: &str, bytes: u64) {
    let Some(disk) = Disk::of(mkfs, bytes) else { return };
    let (room, bytes) = (Room::new_in(&disk.at), content(24 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let daemon = Daemon::start(&room, "");
    let placed =
        |words: &str| room.run(&format!("get {} --json {words}", web.url)).succeeded().json()["placed"].clone();
    assert_eq!(placed("-o cold"), "reflink", "{mkfs}: while it comes");
    let before = free(&disk.at);
    for words in ["-o again", "-o whole --verify-whole", "-o linked --link", "-o fourth"] {
        assert_eq!(placed(words), "reflink", "{mkfs} {words}");
    }
    let taken = before.saturating_sub(free(&disk.at));
    assert!(taken < bytes.len() as u64 / 2, "{mkfs}: four files take {taken} bytes");
    assert_eq!(std::fs::metadata(room.path("out/linked")).unwrap().nlink(), 1, "{mkfs}: no need for a link");

    // Each is a file of its own: what is written into one changes neither the store nor another.
    let mut file = std::fs::File::options().write(true).open(room.path("out/again")).unwrap();
    file.rewind().unwrap();
    file.write_all(b"somebody else's").unwrap();
    let elsewhere = TempDir::new().unwrap();
    assert_eq!(placed(&format!("-o {}/copy", elsewhere.path().display())), "copied", "{mkfs}: to another file system");
    assert!(std::fs::read(elsewhere.path().join("copy")).unwrap() == bytes, "{mkfs}");
    assert!(["cold", "whole", "linked", "fourth"].iter().all(|name| room.read(name) == bytes), "{mkfs}");
    assert_eq!(web.sent(), bytes.len() as u64, "{mkfs}: from the store");
    drop(daemon);
}

#[test]
fn files_share_blocks_on_xfs() {
    shares("mkfs.xfs", 320 << 20);
}

#[test]
fn files_share_blocks_on_btrfs() {
    shares("mkfs.btrfs", 256 << 20);
}

/// Room in memory is counted, not taken before it is written. If something else takes it meanwhile, the error says so, no file is left, and the
/// pieces that came are kept.
#[test]
fn memory_that_is_filled_meanwhile_is_told_and_the_rest_comes_later() {
    let Some(disk) = Disk::in_memory(8 * MEGABYTE) else { return };
    let (room, bytes) = (Room::new(), content(6 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "--origin-patience 1m");
    let (file, other) = (disk.at.join("file"), disk.at.join("other"));
    let line = format!("get {} -o {} --quiet", web.url, file.display());
    web.hold_at(3 * MEGABYTE);
    let get = Running::start(room.darter(&line));
    wait_until("some of it is written", || free(&disk.at) < 7 * MEGABYTE as u64);
    std::fs::write(&other, vec![1; 3 * MEGABYTE]).unwrap();
    web.let_go();
    get.end().failed_with(1, &["no room for the rest of", file.to_str().unwrap()]);
    let left: Vec<_> = std::fs::read_dir(&disk.at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["other"]);
    room.run(&line).failed_with(1, &["no room for 6.0 MB", "are free"]);

    std::fs::remove_file(&other).unwrap();
    room.run(&line).succeeded();
    assert!(std::fs::read(&file).unwrap() == bytes);
    assert_eq!(web.sent(), bytes.len() as u64, "what came was kept");
}
