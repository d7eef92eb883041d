//! A store that is full, file descriptors that run out, a disk that hangs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use crate::support::web::Web;
use crate::support::{Daemon, Outcome, Room, Running, content, wait_until};

const MEGABYTE: usize = 1_000_000;

#[test]
fn what_is_whole_and_not_being_read_makes_room_at_once() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "--quota 10MB");
    let files: Vec<Vec<u8>> = (0..5).map(|at| content(4 * MEGABYTE + at)).collect();
    let webs: Vec<Web> = files.iter().map(|file| Web::serve(file.clone())).collect();
    for (web, file) in webs.iter().zip(&files) {
        room.run(&format!("get {} -o file.bin", web.url)).succeeded();
        assert!(room.read("file.bin") == *file);
    }
    let status = room.run("status --json").succeeded().json();
    let store = &status["store"];
    assert_eq!((&store["quota"], &store["evicted"]), (&json!(10_000_000), &json!(3)));
    let list = room.run("ls --json").succeeded().json();
    let held: u64 = list.as_array().unwrap().iter().map(|blob| blob["held"].as_u64().unwrap()).sum();
    assert_eq!(store["used"], held);
    assert!(held <= 10 * MEGABYTE as u64);
    // An evicted blob is read anew.
    room.run(&format!("get {} -o file.bin", webs[0].url)).succeeded();
    assert!(room.read("file.bin") == files[0]);
    assert_eq!(webs[0].sent(), 2 * files[0].len() as u64);
    assert_eq!(webs[4].sent(), files[4].len() as u64);
    let log = std::fs::read_to_string(room.path("seed.log")).unwrap();
    assert_eq!(log.matches("evicted to make room").count(), 4, "{log}");
}

#[test]
fn what_was_wanted_again_goes_last() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "--quota 13MB");
    let webs: Vec<Web> = (0..4).map(|at| Web::serve(content(4 * MEGABYTE + at))).collect();
    let get = |web: &Web, name: &str| room.run(&format!("get {} -o {name}", web.url)).succeeded();
    for web in &webs[..3] {
        get(web, "first");
    }
    get(&webs[0], "again");
    get(&webs[3], "last");
    let list = room.run("ls --json").succeeded().json();
    let names: Vec<_> = list.as_array().unwrap().iter().map(|blob| blob["name"].as_str().unwrap()).collect();
    assert!(names.contains(&webs[0].url.as_str()), "it was wanted again: {names:?}");
    assert!(!names.contains(&webs[1].url.as_str()), "and this one was not: {names:?}");
}

#[test]
fn what_is_pinned_stays_until_it_is_unpinned() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "--quota 10MB");
    let webs: Vec<Web> = (0..4).map(|at| Web::serve(content(4 * MEGABYTE + at))).collect();
    let get = |web: &Web| room.run(&format!("get {} -o file.bin", web.url)).succeeded();
    let pinned = || {
        let list = room.run("ls --json").succeeded().json();
        list.as_array()
            .unwrap()
            .iter()
            .find(|blob| blob["name"] == webs[0].url.as_str())
            .map(|blob| blob["pinned"].clone())
    };
    get(&webs[0]);
    assert_eq!(room.run(&format!("pin {} --json", webs[0].url)).succeeded().json(), json!({ "pinned": [webs[0].url] }));
    let told = room.run(&format!("pin {} nobody-knows-it {} --json", webs[0].url, webs[0].url));
    assert_eq!((told.code, told.err.as_str(), &told.json()["pinned"]), (Some(1), "", &json!([webs[0].url])));
    assert!(told.json()["error"].as_str().unwrap().contains("nobody-knows-it"), "{}", told.text());
    for web in &webs[1..] {
        get(web);
    }
    assert_eq!(pinned(), Some(true.into()));
    room.run(&format!("rm {}", webs[0].url)).failed_with(1, &["pinned"]);
    assert!(room.run("ls").succeeded().text().contains("pinned"));
    assert_eq!(room.run(&format!("unpin {}", webs[0].url)).succeeded().text(), format!("unpinned {}\n", webs[0].url));
    assert_eq!(pinned(), Some(false.into()));
    room.run("pin http://never/asked").failed_with(1, &["http://never/asked"]);
    assert_eq!(room.run("unpin").code, Some(2));
    get(&webs[1]);
    get(&webs[2]);
    get(&webs[3]);
    assert_eq!(pinned(), None);
}

fn pid_of(room: &Room) -> Pid {
    let pid = room.run("status --json").succeeded().json()["pid"].as_i64().unwrap();
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

fn local_of(room: &Room) -> String {
    room.run("status --json").succeeded().json()["local"].as_str().unwrap().to_owned()
}

/// True if the local port says within some seconds that it is well.
fn is_well(local: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(local) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let asked =
        stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {local}\r\nConnection: close\r\n\r\n").as_bytes());
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
}

#[test]
fn a_daemon_takes_all_the_file_descriptors_it_may_have_and_says_once_when_they_run_out() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let (pid, local) = (pid_of(&room), local_of(&room));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap();
    let open_files: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(open_files[3], open_files[4], "soft and hard: {limits}");

    let limit = rustix::process::getrlimit(Resource::Nofile);
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(48), maximum: limit.maximum }).unwrap();
    let crowd: Vec<TcpStream> = (0..80).filter_map(|_| TcpStream::connect(&local).ok()).collect();
    let log = || std::fs::read_to_string(room.path("seed.log")).unwrap();
    wait_until("it says so", || log().contains("can't accept connections"));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(log().matches("can't accept connections").count(), 1, "{}", log());
    assert!(log().contains("LimitNOFILE"), "{}", log());
    drop(crowd);
    wait_until("it accepts again", || is_well(&local));
}

#[test]
fn many_small_files_take_no_descriptor_each() {
    let (room, bytes) = (Room::new(), content(1000));
    let _daemon = Daemon::start(&room, "");
    let limit = rustix::process::getrlimit(Resource::Nofile);
    prlimit(Some(pid_of(&room)), Resource::Nofile, Rlimit { current: Some(640), maximum: limit.maximum }).unwrap();
    let web = Web::serve(bytes.clone());
    let list: String = (0..900).map(|number| format!("{0}-{number} {number}\n", web.url)).collect();
    std::fs::write(room.path("list"), list).unwrap();
    room.run(&format!("get -q -i {}", room.path("list").display())).succeeded();
    assert!((0..900).all(|number| room.read(&number.to_string()) == bytes));
    assert!(is_well(&local_of(&room)));
}

/// A file system in a file, mounted for a test, that can be frozen.
struct Frozen<'a>(&'a Path);

impl Frozen<'_> {
    fn run(program: &str, arguments: &[&str]) -> bool {
        Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        Self::run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        Frozen::run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

#[test]
fn a_disk_that_hangs_holds_up_only_what_needs_it() {
    let room = Room::new();
    let (image, disk) = (room.path("image"), room.data_dir());
    std::fs::create_dir(&disk).unwrap();
    std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    let (image, mount_at) = (image.to_str().unwrap().to_owned(), disk.to_str().unwrap().to_owned());
    let mounted = rustix::process::geteuid().is_root()
        && Frozen::run("mkfs.ext4", &["-q", "-F", &image])
        && Frozen::run("mount", &["-o", "loop", &image, &mount_at]);
    if !mounted {
        eprintln!("skipped: needs root, mkfs.ext4 and loop devices");
        return;
    }
    let mounted = Mounted(disk.clone());
    let daemon = Daemon::start(&room, "");
    let local = local_of(&room);
    let (here, coming) = (Web::serve(content(3 * MEGABYTE)), Web::serve(content(3 * MEGABYTE + 1)));
    room.run(&format!("get {} -o here", here.url)).succeeded();

    let frozen = Frozen(&disk);
    assert!(Frozen::run("fsfreeze", &["-f", &mount_at]));
    let waiting = Running::start(room.darter(&format!("get {} -o coming", coming.url)));
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..3 {
        assert!(is_well(&local));
        let started = std::process::Command::new("timeout")
            .args(["10", env!("CARGO_BIN_EXE_darter"), "status"])
            .env("DARTER_DATA_DIR", &disk)
            .output()
            .unwrap();
        Outcome::of(started).succeeded();
    }
    // A blob that lies in memory needs no disk.
    let again = std::process::Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_darter"), "get", &here.url, "-o", room.path("again").to_str().unwrap()])
        .env("DARTER_DATA_DIR", &disk)
        .output()
        .unwrap();
    Outcome::of(again).succeeded();
    assert_eq!(std::fs::read(room.path("again")).unwrap().len(), 3 * MEGABYTE);
    // A blob that can't be stored passes through.
    waiting.end().succeeded();
    assert_eq!(room.read("coming").len(), 3 * MEGABYTE + 1);
    drop(frozen);
    drop(daemon);
    drop(mounted);
}

/// Two programs of a host and the nodes of a fleet ask for more than there is room for.
#[test]
fn what_does_not_fit_passes_through_and_its_origin_is_read_once_for_all_who_read_meanwhile() {
    let (room, bytes) = (Room::new(), content(70 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "--quota 10MB");
    web.hold_at(MEGABYTE);
    let gets = ["one", "two"].map(|name| Running::start(room.darter(&format!("get {} -o {name}", web.url))));
    wait_until("it reads", || web.sent() > 0);
    std::thread::sleep(Duration::from_millis(500));
    web.let_go();
    for get in gets {
        get.end().succeeded();
    }
    assert!(room.read("one") == bytes && room.read("two") == bytes);
    assert_eq!(web.sent(), bytes.len() as u64);
    let status = room.run("status --json").succeeded().json();
    assert!(status["store"]["used"].as_u64().unwrap() <= 10_000_000, "{status}");
    assert!(status["resident"].as_u64().unwrap() < 400_000_000, "{status}");
    // A later get reads it anew.
    room.run(&format!("get {} -o three", web.url)).succeeded();
    assert!(room.read("three") == bytes);
    assert_eq!(web.sent(), 2 * bytes.len() as u64);
}

#[test]
fn a_seed_without_room_reads_an_origin_once_for_its_nodes() {
    let (seed_room, rooms, bytes) = (Room::new(), [Room::new(), Room::new(), Room::new()], content(50 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let seed = Daemon::start(&seed_room, "--quota 5MB");
    // The last node has no room either.
    let quotas = ["", "", "--quota 5MB"];
    let _nodes: Vec<Daemon> =
        rooms.iter().zip(quotas).map(|(room, quota)| Daemon::node(room, &seed.listen, quota)).collect();
    web.hold_at(MEGABYTE);
    let gets: Vec<Running> =
        rooms.iter().map(|room| Running::start(room.darter(&format!("get {}", web.url)))).collect();
    wait_until("it reads", || web.sent() > 0);
    std::thread::sleep(Duration::from_secs(1));
    web.let_go();
    for (get, room) in gets.into_iter().zip(&rooms) {
        get.end().succeeded();
        assert!(room.read("file.bin") == bytes);
    }
    let copies = web.sent() as f64 / bytes.len() as f64;
    assert!(copies < 1.2, "{copies} copies were read");
}

#[test]
fn what_turns_out_too_long_passes_through_from_there_on() {
    let (room, bytes) = (Room::new(), content(20 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.tell_nothing();
    let _daemon = Daemon::start(&room, "--quota 8MB");
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    assert_eq!(web.sent(), bytes.len() as u64);
}
