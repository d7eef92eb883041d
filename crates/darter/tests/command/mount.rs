//! `darter mount`: a file that is read before it has come, through a real FUSE mount, by a real daemon.
//!
//! On hosts without FUSE these tests say so and do nothing. As an ordinary user they mount with fusermount3.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use darter_api::GetRequest;
use darter_api::client::Client;
use darter_api::parts::{Answer, Ask, PartAsk};
use darter_core::ByteRange;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::web::Web;
use crate::support::{Daemon, Outcome, Room, content, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;
const PAGE: usize = 4096;

/// True if files can be mounted here; else it prints the reason.
pub(crate) fn can_mount() -> bool {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    let helper = rustix::process::geteuid().is_root() || Command::new("fusermount3").arg("-V").output().is_ok();
    match (&device, helper) {
        (Ok(_), true) => true,
        (Err(error), _) => {
            eprintln!("skipped: /dev/fuse: {error}");
            false
        }
        (_, false) => {
            eprintln!("skipped: there is no fusermount3");
            false
        }
    }
}

/// A mount, which is taken away when the test is done with it.
struct Mount<'a> {
    room: &'a Room,
    dir: PathBuf,
}

impl<'a> Mount<'a> {
    fn try_make(room: &'a Room, name: &str, line: &str) -> (Self, Outcome) {
        let dir = room.path(name);
        std::fs::create_dir_all(&dir).unwrap();
        let outcome = room.run(&format!("mount {line} {}", dir.display()));
        (Self { room, dir: std::fs::canonicalize(dir).unwrap() }, outcome)
    }

    fn make(room: &'a Room, name: &str, line: &str) -> Self {
        let (mount, outcome) = Self::try_make(room, name, line);
        outcome.succeeded();
        mount
    }

    fn path(&self) -> PathBuf {
        self.dir.join("file.bin")
    }

    fn open(&self) -> File {
        File::open(self.path()).unwrap()
    }

    fn status(&self) -> serde_json::Value {
        let list = self.room.run("mount --list --json").succeeded().json();
        let found = list.as_array().unwrap().iter().find(|mount| mount["dir"] == self.dir.to_str().unwrap());
        found.cloned().unwrap_or_default()
    }

    fn unmount(&self, more: &str) -> Outcome {
        self.room.run(&format!("unmount {more} {}", self.dir.display()))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        self.unmount("--lazy");
    }
}

/// Waits until a mount that was taken away is gone: another test's mount namespace may have a copy of it for a moment.
fn gone(mount: &Mount<'_>) {
    wait_until("its keeper ends", || mount.status().is_null());
}

/// Reads, and compares; false if it can't be read.
fn reads(file: &File, bytes: &[u8], at: usize, count: usize) -> bool {
    let mut read = vec![0; count];
    match file.read_exact_at(&mut read, at as u64) {
        Ok(()) => {
            assert!(read == bytes[at..at + count], "wrong bytes at {at}");
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
            false
        }
    }
}

/// Offsets of pages all over the content, in no order.
fn offsets(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let pages = length / PAGE;
    (0..count).map(move |number| (number * 7919 + 13) % pages * PAGE)
}

fn kill(process: &serde_json::Value) {
    let pid = i32::try_from(process.as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_few_pages_of_a_large_file_cost_a_few_pieces_and_the_file_is_there_at_once() {
    if !can_mount() {
        return;
    }
    let bytes = content(200 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let mount = Mount::make(&room, "m", &web.url);
    let file = mount.open();
    assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    // Mapped, as whoever loads a model does it.
    let mapped = format!(
        "import mmap,sys; f=open(sys.argv[1],'rb'); m=mmap.mmap(f.fileno(),0,access=mmap.ACCESS_READ); \
         sys.stdout.buffer.write(b''.join(m[at:at+{PAGE}] for at in map(int,sys.argv[2:])))"
    );
    let wanted: Vec<usize> = offsets(bytes.len(), 4).collect();
    let words = wanted.iter().map(ToString::to_string);
    match Command::new("python3").args(["-c", &mapped]).arg(mount.path()).args(words).output() {
        Ok(read) => {
            let right: Vec<u8> = wanted.iter().flat_map(|at| &bytes[*at..at + PAGE]).copied().collect();
            assert!(read.stdout == right, "{}", String::from_utf8_lossy(&read.stderr));
        }
        Err(_) => assert!(wanted.iter().all(|at| reads(&file, &bytes, *at, PAGE))),
    }
    let moved = web.sent();
    assert!(moved < 8 * MEGABYTE as u64, "{moved} bytes for four pages");
    let status = mount.status();
    assert_eq!((&status["state"], &status["whole"], &status["fill"]), (&"open".into(), &false.into(), &"never".into()));
    assert!(status["held_bytes"].as_u64().unwrap() < 8 * MEGABYTE as u64, "{status}");
    // The kernel does not ask again for pages that it was given.
    assert!(wanted.iter().all(|at| reads(&file, &bytes, *at, PAGE)));
    assert_eq!(web.sent(), moved);
    let refused = File::options().write(true).open(mount.path()).unwrap_err();
    assert!(matches!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem | std::io::ErrorKind::PermissionDenied));
}

#[test]
fn every_byte_is_right_in_any_order_for_two_readers_and_the_end_is_the_end() {
    if !can_mount() {
        return;
    }
    for line in ["", "--no-daemon"] {
        let mut bytes = content(9 * MEGABYTE + 123);
        // Zeros that are content.
        bytes[3 * MEGABYTE..4 * MEGABYTE].fill(0);
        let web = Web::serve(bytes.clone());
        let room = Room::new();
        let _daemon = line.is_empty().then(|| Daemon::start(&room, ""));
        let mount = Mount::make(&room, "m", &format!("{} {line}", web.url));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let file = mount.open();
                assert!(offsets(bytes.len(), 200).all(|at| reads(&file, &bytes, at, PAGE)));
            });
            assert!(std::fs::read(mount.path()).unwrap() == bytes);
        });
        assert!(reads(&mount.open(), &bytes, bytes.len() - 5, 5));
        assert_eq!(mount.open().read_at(&mut [0; 9], bytes.len() as u64).unwrap(), 0);
        let sent = web.sent();
        assert!(sent < bytes.len() as u64 * 11 / 10 + 1, "each byte is read once of the origin: {sent}");
        let names: Vec<_> = std::fs::read_dir(&mount.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file.bin"]);
        mount.unmount("").succeeded();
        gone(&mount);
    }
}

/// As an upgrade does it, or worse.
#[test]
fn an_agent_that_is_killed_under_a_reader_costs_it_no_error() {
    if !can_mount() {
        return;
    }
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let mut daemon = Some(Daemon::start(&room, ""));
    let mount = Mount::make(&room, "m", &web.url);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let file = mount.open();
            let mut right = 0;
            for at in offsets(bytes.len(), 6000) {
                assert!(reads(&file, &bytes, at, PAGE), "an error at {at}");
                right += 1;
                if done.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            right
        });
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(200));
            if let Some(mut killed) = daemon.take() {
                killed.process.signal(Signal::KILL);
                killed.process.ended();
            }
            daemon = Some(Daemon::start(&room, ""));
        }
        std::thread::sleep(Duration::from_millis(200));
        done.store(true, Ordering::Relaxed);
        assert!(reading.join().unwrap() > 3);
    });
    assert_eq!(mount.status()["state"], "open");
    mount.unmount("").succeeded();
}

#[test]
fn a_daemon_that_stops_need_not_wait_for_mounts() {
    if !can_mount() {
        return;
    }
    let bytes = content(3 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let mut daemon = Daemon::start(&room, "--drain-timeout 10m");
    let mount = Mount::make(&room, "m", &web.url);
    let blob = mount.status()["blob"].as_str().unwrap().to_owned();
    room.run(&format!("rm {blob}")).failed_with(75, &["in use"]);
    assert!(reads(&mount.open(), &bytes, 0, PAGE));
    daemon.process.signal(Signal::TERM);
    assert!(daemon.process.ended().success());
    wait_until("it waits for another", || mount.status()["state"] == "waiting");
}

#[test]
fn an_origin_that_is_gone_is_an_error_after_the_limit_and_then_it_works_again() {
    if !can_mount() {
        return;
    }
    let bytes = content(6 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let mount = Mount::make(&room, "m", &format!("{} --timeout 1s", web.url));
    let file = mount.open();
    assert!(reads(&file, &bytes, 0, PAGE));
    web.hold_at(0);
    assert!(!reads(&file, &bytes, 5 * MEGABYTE / PAGE * PAGE, PAGE), "EIO, and no zeros");
    assert!(reads(&file, &bytes, 0, PAGE), "what was read stays");
    web.let_go();
    wait_until("it works again", || reads(&file, &bytes, 5 * MEGABYTE / PAGE * PAGE, PAGE));
}

#[test]
fn the_rest_is_filled_behind_and_then_neither_origin_nor_agent_is_needed() {
    if !can_mount() {
        return;
    }
    for fill in ["always", "idle"] {
        let bytes = content(6 * MEGABYTE);
        let web = Web::serve(bytes.clone());
        let room = Room::new();
        let mut daemon = Daemon::start(&room, "");
        let mount = Mount::make(&room, "m", &format!("{} --fill {fill} --timeout 2s", web.url));
        wait_until("all of it is here", || mount.status()["whole"] == true);
        let most = bytes.len() as u64 * 101 / 100;
        assert!(web.sent() <= most, "each byte is read once of the origin: {}", web.sent());
        wait_until("it knows what the pieces must be", || mount.status()["alone"] == true);
        daemon.process.signal(Signal::KILL);
        daemon.process.ended();
        assert!(std::fs::read(mount.path()).unwrap() == bytes, "{fill}");
    }
}

#[test]
fn content_that_turns_out_wrong_is_not_read_any_more_and_who_sent_it_is_named() {
    if !can_mount() {
        return;
    }
    let bytes = content(4 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let wrong = sha256(b"something else");
    let mount = Mount::make(&room, "m", &format!("{} --digest {wrong} --timeout 2s", web.url));
    let file = mount.open();
    assert!(reads(&file, &bytes, 0, PAGE), "nobody knows yet");
    // All of it, by which it is found.
    let mut all = vec![0; bytes.len()];
    let _ = file.read_exact_at(&mut all, 0);
    wait_until("it is tainted", || mount.status()["state"] == "tainted");
    // Whoever gave another content's digest sees both.
    let told = mount.status();
    let reason = told["reason"].as_str().unwrap();
    for expected in [&web.address, &wrong, &sha256(&bytes)] {
        assert!(reason.contains(expected), "{reason}");
    }
    wait_until("no page of it is read", || !reads(&file, &bytes, 0, PAGE));
    room.run(&format!("get {} --digest {wrong} -o x", web.url)).failed_with(1, &["wrong content", &web.address]);
    let told = room.run("status --json").succeeded().json();
    assert!(told["wrong"][0]["from"].as_str().unwrap().contains(&web.address), "{told}");
}

#[test]
fn content_that_changes_at_its_origin_is_never_mixed() {
    if !can_mount() {
        return;
    }
    let (old, new) = (content(6 * MEGABYTE), vec![7; 6 * MEGABYTE]);
    let web = Web::serve(old.clone());
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let mount = Mount::make(&room, "m", &format!("{} --timeout 2s", web.url));
    let file = mount.open();
    assert!(reads(&file, &old, 0, PAGE));
    web.change_to(new);
    assert!(!reads(&file, &old, 5 * MEGABYTE / PAGE * PAGE, PAGE));
    assert!(reads(&file, &old, 0, PAGE));
    wait_until("it says so", || mount.status()["state"] == "changed");
}

#[test]
fn who_uses_a_mount_is_named_and_a_keeper_that_was_killed_is_no_riddle() {
    if !can_mount() {
        return;
    }
    let bytes = content(3 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let mount = Mount::make(&room, "m", &web.url);
    let file = mount.open();
    let own = format!("process {}", std::process::id());
    mount.unmount("").failed_with(1, &["in use by", &own, "--lazy"]);
    let again = room.run(&format!("mount {} {}", web.url, mount.dir.display()));
    again.failed_with(1, &["is mounted at", "already"]);
    mount.unmount("--lazy").succeeded();
    assert!(reads(&file, &bytes, PAGE, PAGE), "whoever had it open goes on");
    drop(file);
    wait_until("its keeper ends", || mount.status().is_null());
    mount.unmount("").failed_with(1, &["not a mount of darter's"]);

    let mount = Mount::make(&room, "m", &web.url);
    kill(&mount.status()["pid"]);
    wait_until("it is lost", || mount.status()["state"] == "lost");
    assert!(mount.status()["reason"].as_str().unwrap().contains("darter unmount"));
    assert!(std::fs::read(mount.path()).is_err(), "no zeros");
    mount.unmount("").succeeded();
    gone(&mount);
}

/// A thread of the keeper's that waits for a page would keep the device open: nobody would end the reads then, nor the keeper.
/// In the store of a data directory there is more than what a mount of its own fetched.
#[test]
fn what_a_killed_mount_without_a_daemon_left_goes_with_the_next_one_or_when_a_daemon_starts() {
    if !can_mount() {
        return;
    }
    let (kept, left) = (Web::serve(content(MEGABYTE)), Web::serve(content(2 * MEGABYTE)));
    let room = Room::new();
    room.run(&format!("get {} -o kept --keep --no-daemon", kept.url)).succeeded();
    let lengths = || {
        let daemon = Daemon::start(&room, "");
        let rows = room.run("ls --json").succeeded().json();
        drop(daemon);
        rows.as_array().unwrap().iter().map(|row| row["length_bytes"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(lengths(), [MEGABYTE as u64]);
    let killed = || {
        let mount = Mount::make(&room, "killed", &format!("{} --no-daemon", left.url));
        assert_eq!(std::fs::read(mount.path()).unwrap().len(), 2 * MEGABYTE);
        let listed = room.run("mount --list --json").succeeded().json();
        assert_eq!(listed.as_array().unwrap().len(), 1, "who kept the former mount here is forgotten: {listed}");
        kill(&mount.status()["pid"]);
        wait_until("it is lost", || mount.status()["state"] == "lost");
    };
    killed();
    assert_eq!(lengths(), [MEGABYTE as u64], "a daemon clears it");
    killed();
    let next = Mount::make(&room, "next", &format!("{} --no-daemon", kept.url));
    assert_eq!(std::fs::read(next.path()).unwrap().len(), MEGABYTE);
    next.unmount("").succeeded();
    assert!(!room.data_dir().join("guests").exists());
    assert_eq!(lengths(), [MEGABYTE as u64], "so does the next mount, and leaves what was kept");
}

#[test]
fn a_keeper_that_is_killed_while_programs_read_in_order_leaves_nobody_waiting() {
    if !can_mount() {
        return;
    }
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    for _ in 0..3 {
        let mount = Mount::make(&room, "m", &web.url);
        assert!(std::fs::read(mount.path()).unwrap() == bytes);
        let reader = || {
            let file = mount.open();
            std::thread::spawn(move || {
                let mut read = vec![0; 128 << 10];
                loop {
                    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                    let mut at = 0;
                    loop {
                        match file.read_at(&mut read, at) {
                            Ok(0) => break,
                            Ok(count) => at += count as u64,
                            Err(error) => return error,
                        }
                    }
                }
            })
        };
        let readers = [reader(), reader()];
        std::thread::sleep(Duration::from_millis(300));
        kill(&mount.status()["pid"]);
        wait_until("readers get errors", || readers.iter().all(std::thread::JoinHandle::is_finished));
        wait_until("it is lost", || mount.status()["state"] == "lost");
        mount.unmount("").succeeded();
    }
}

#[test]
fn a_local_file_and_one_without_a_daemon_leave_nothing_behind() {
    if !can_mount() {
        return;
    }
    let bytes = content(3 * MEGABYTE);
    let room = Room::new();
    std::fs::write(room.path("file.bin"), &bytes).unwrap();
    let url = format!("file://{}", room.path("file.bin").display());
    let mount = Mount::make(&room, "m", &url);
    assert!(std::fs::read(mount.path()).unwrap() == bytes);
    assert!(mount.status()["daemon"].is_null());
    mount.unmount("").succeeded();
    let left = |dir: &Path| {
        crate::support::files_below(dir).into_iter().filter(|path| path.to_string_lossy().contains("/blobs/")).count()
    };
    assert_eq!(left(&room.data_dir()), 0, "{:?}", crate::support::files_below(&room.data_dir()));
}

/// Root tries it as such a user would, with a device of the usual mode; for an ordinary user all tests here are that.
#[test]
fn an_ordinary_user_mounts_by_fusermount() {
    if !can_mount() {
        return;
    }
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !has("setpriv") || !has("unshare") || !has("fusermount3") {
        eprintln!("skipped: needs root, setpriv, unshare and fusermount3");
        return;
    }
    let bytes = content(3 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let room = Room::new();
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let darter = room.darter_by(&user, "--version").output();
    if !darter.is_ok_and(|told| told.status.success()) {
        eprintln!("skipped: the program may not be run by other users here");
        return;
    }
    let (out, data) = (room.path("out"), room.data_dir());
    std::fs::create_dir_all(out.join("m")).unwrap();
    std::fs::create_dir_all(&data).unwrap();
    let top = out.parent().unwrap();
    for dir in [top, &out, &out.join("m"), &data] {
        std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
    }
    let script = format!(
        "set -e; mknod {top}/fuse c 10 229; chmod 666 {top}/fuse; mount --bind {top}/fuse /dev/fuse; \
         run() {{ setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"; }}; \
         run $0 mount {url} m; run cat m/file.bin > {top}/copy; run $0 mount --list; \
         if cat m/file.bin > /dev/null 2>&1; then echo others read it; exit 9; fi; \
         run sh -c 'cd m; : > ../in; until [ -e ../stop ]; do sleep 0.05; done' & \
         until [ -e in ]; do sleep 0.05; done; \
         if run $0 unmount m; then exit 8; fi; touch stop; wait; \
         run $0 unmount m; run $0 mount --list",
        top = top.display(),
        url = web.url,
    );
    let mut command = room.darter_by(&["unshare", "--mount", "sh", "-c", &script], "");
    let told = Outcome::of(command.output().unwrap());
    assert_eq!(told.code, Some(0), "{} {}", told.err, told.text());
    assert!(std::fs::read(top.join("copy")).unwrap() == bytes);
    assert!(told.err.contains("in use by s"), "{}", told.err);
    assert_eq!(told.text().matches("file.bin").count(), 3, "mounted, listed, and listed no more: {}", told.text());
}

#[test]
fn what_can_not_be_mounted_says_why() {
    let room = Room::new();
    std::fs::create_dir_all(room.path("m")).unwrap();
    let m = room.path("m").display().to_string();
    assert_eq!(room.run("mount http://127.0.0.1:1/x").code, Some(2), "where to");
    room.run("mount http://127.0.0.1:1/x /no/such/dir").failed_with(1, &["can't find /no/such/dir"]);
    room.run(&format!("mount http://127.0.0.1:1/ {m}")).failed_with(2, &["--name"]);
    let timeless = room.run(&format!("mount http://127.0.0.1:1/x {m} --timeout 0s"));
    assert!(timeless.code == Some(2) && timeless.err.contains("longer than 0s"), "{}", timeless.err);
    room.run(&format!("mount http://127.0.0.1:1/x {m}/none")).failed_with(2, &["make the directory first"]);
    if can_mount() {
        room.run(&format!("mount http://127.0.0.1:1/x {m}")).failed_with(75, &["127.0.0.1:1"]);
        let web = Web::serve(content(10));
        room.run(&format!("mount {} {m}", web.url.replace("file", "none"))).failed_with(1, &["404"]);
    }
    assert_eq!(room.run("mount --list --json").succeeded().json(), serde_json::json!([]));
    room.run(&format!("unmount {m}")).failed_with(1, &["not a mount of darter's"]);
}

#[tokio::test]
async fn questions_for_bytes_that_there_are_not_are_refused_and_the_next_one_is_answered() {
    let web = Web::serve(content(MEGABYTE));
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let client = Client::at(room.data_dir().join("darter.sock"));
    let request = GetRequest::of(web.url.clone(), Vec::new());
    let (_, asker) = client.parts(&request).await.unwrap();
    for make in [Ask::Fetch as fn(PartAsk) -> Ask, Ask::Read] {
        for (start, end) in [(1 << 60, (1 << 60) + 1), (u64::MAX, u64::MAX), (0, 0), (0, MEGABYTE as u64 + 1)] {
            let answer = asker.part(make, ByteRange::new(start, end), Duration::from_millis(1)).await.unwrap();
            assert!(matches!(answer, Answer::Failed(_)), "{start}..{end}: {answer:?}");
        }
    }
    let answer = asker.part(Ask::Read, ByteRange::new(0, MEGABYTE as u64), Duration::from_secs(60)).await.unwrap();
    assert!(matches!(answer, Answer::Here(Some(_), _) | Answer::Bytes(_)), "{answer:?}");
}
