//! `darter mount` of archives, lists, directories and artifacts: several files that are read before they have come, through real FUSE mounts.
//!
//! Archives are made by Python's own modules; where there is no Python, or no FUSE, these tests say so and do nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::mount::can_mount;
use crate::mount_image::{ImageRegistry, tree};
use crate::support::hub::Hub;
use crate::support::web::Web;
use crate::support::{Daemon, Outcome, Room, Running, content, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;

/// True if archives can be made here; else it prints the reason.
fn can_make() -> bool {
    let python = Command::new("python3").arg("-V").output().is_ok_and(|told| told.status.success());
    if !python {
        eprintln!("skipped: there is no python3, which makes the archives");
    }
    python
}

/// Runs a script with these arguments.
fn python(script: &str, arguments: &[&Path]) {
    let told = Command::new("python3").args(["-c", script]).args(arguments).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
}

/// A directory with what archives have in them.
fn filled(room: &Room) -> PathBuf {
    let top = room.path("in");
    std::fs::create_dir_all(top.join("deep/er")).unwrap();
    std::fs::write(top.join("first"), "the first").unwrap();
    std::fs::write(top.join("deep/large"), content(20 * MEGABYTE)).unwrap();
    let text: String = (0..400_000).map(|number| format!("line {number}\n")).collect();
    std::fs::write(top.join("deep/text"), text).unwrap();
    std::fs::write(top.join("deep/er").join("n".repeat(200)), "a long name").unwrap();
    std::fs::write(top.join("empty"), "").unwrap();
    std::fs::write(top.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(top.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("deep/large", top.join("link")).unwrap();
    std::fs::write(top.join("zz last"), content(5000)).unwrap();
    top
}

/// Large members are stored, others deflated, as is usual.
const ZIP: &str = "
import os, stat, sys, zipfile
top, out = sys.argv[1:]
with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as made:
    for dir, dirs, files in os.walk(top):
        dirs.sort()
        for name in sorted(dirs + files):
            path = os.path.join(dir, name)
            inside = os.path.relpath(path, top)
            if os.path.islink(path):
                info = zipfile.ZipInfo(inside)
                info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
                made.writestr(info, os.readlink(path))
            else:
                made.write(path, inside, zipfile.ZIP_STORED if name == 'large' else None)
";

const TAR: &str = "
import os, sys, tarfile
top, out = sys.argv[1:]
with tarfile.open(out, 'w', format=tarfile.PAX_FORMAT) as made:
    for name in sorted(os.listdir(top)):
        made.add(os.path.join(top, name), name)
";

/// A mount, which is taken away when the test is done with it.
struct Tree<'a> {
    room: &'a Room,
    dir: PathBuf,
}

impl<'a> Tree<'a> {
    fn try_make(room: &'a Room, line: &str) -> (Self, Outcome) {
        let dir = room.path("m");
        std::fs::create_dir_all(&dir).unwrap();
        let outcome = room.run(&format!("mount {line} {}", dir.display()));
        (Self { room, dir: std::fs::canonicalize(dir).unwrap() }, outcome)
    }

    fn make(room: &'a Room, line: &str) -> Self {
        let (tree, outcome) = Self::try_make(room, line);
        outcome.succeeded();
        tree
    }

    fn status(&self) -> serde_json::Value {
        self.room.run("mount --list --json").succeeded().json()[0].clone()
    }

    fn unmount(&self) -> Outcome {
        self.room.run(&format!("unmount {}", self.dir.display()))
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        self.room.run(&format!("unmount --lazy {}", self.dir.display()));
    }
}

/// The tree below a directory, as archives keep it: a link's permissions say nothing.
fn kept(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let plain = |(path, (mode, inside)): (PathBuf, (u32, Vec<u8>))| {
        let is_link = mode >> 12 == 0o12;
        (path, (if is_link { 0o120_777 } else { mode }, inside))
    };
    tree(dir).into_iter().map(plain).collect()
}

fn assert_same(mounted: &Path, top: &Path) {
    let (found, expected) = (kept(mounted), kept(top));
    let names = |tree: &BTreeMap<PathBuf, (u32, Vec<u8>)>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    for (path, (mode, inside)) in expected {
        assert_eq!(found[&path].0, mode, "{}: {mode:o}", path.display());
        assert!(found[&path].1 == inside, "{} is another one", path.display());
    }
}

#[test]
fn an_archive_is_a_directory_of_which_what_is_touched_is_fetched() {
    if !can_mount() || !can_make() {
        return;
    }
    for (script, kind, line) in
        [(ZIP, "zip", ""), (TAR, "tar", ""), (ZIP, "zip", "--no-daemon"), (TAR, "tar", "--no-daemon")]
    {
        let room = Room::new();
        let top = filled(&room);
        let archive = room.path("archive");
        python(script, &[&top, &archive]);
        let bytes = std::fs::read(&archive).unwrap();
        let web = Web::serve(bytes.clone());
        let _daemon = line.is_empty().then(|| Daemon::start(&room, ""));
        let mount = Tree::make(&room, &format!("{} --as archive {line}", web.url));
        assert_eq!(std::fs::read(mount.dir.join("first")).unwrap(), b"the first");
        assert_eq!(std::fs::read_link(mount.dir.join("link")).unwrap(), Path::new("deep/large"));
        let touched = web.sent();
        assert!(touched < 10 * MEGABYTE as u64, "{kind}: {touched} of {} for one small file", bytes.len());
        let large = File::open(mount.dir.join("deep/large")).unwrap();
        let mut page = [0; 4096];
        large.read_exact_at(&mut page, 17 * MEGABYTE as u64).unwrap();
        assert!(page == content(20 * MEGABYTE)[17 * MEGABYTE..][..4096]);
        assert!(File::options().write(true).open(mount.dir.join("first")).is_err(), "it is read-only");
        let status = mount.status();
        assert_eq!((status["kind"].as_str(), status["files"].as_u64()), (Some(kind), Some(7)), "{status}");
        assert_eq!(
            (status["state"].as_str(), status["length_bytes"].as_u64()),
            (Some("open"), Some(bytes.len() as u64))
        );
        assert_same(&mount.dir, &top);
        let times = |dir: &Path| std::fs::metadata(dir.join("run")).unwrap().mtime();
        // Zips know every other second.
        assert!((times(&mount.dir) - times(&top)).abs() < 3 * 3600 * 24, "{kind}");
        // In any order, and the same again.
        let text = std::fs::read(top.join("deep/text")).unwrap();
        let file = File::open(mount.dir.join("deep/text")).unwrap();
        for number in 0..60 {
            let at = (number * 7919 + 13) % (text.len() / 4096) * 4096;
            file.read_exact_at(&mut page, at as u64).unwrap();
            assert!(page == text[at..at + 4096], "{kind}: wrong bytes at {at}");
        }
        assert!(web.sent() < bytes.len() as u64 * 11 / 10 + 1, "each byte is read once of the origin");
        drop((large, file));
        mount.unmount().succeeded();
        assert!(room.run("mount --list").succeeded().text().lines().count() <= 1);
    }
}

#[test]
fn deflated_members_are_read_in_any_order_before_anything_was_read_of_them() {
    if !can_mount() || !can_make() {
        return;
    }
    let room = Room::new();
    let top = filled(&room);
    let archive = room.path("archive");
    python(ZIP, &[&top, &archive]);
    let mount = Tree::make(&room, &format!("{} --as archive", archive.display()));
    let text = std::fs::read(top.join("deep/text")).unwrap();
    std::thread::scope(|scope| {
        for reader in 0..4 {
            let (text, path) = (&text, mount.dir.join("deep/text"));
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut page = [0; 4096];
                for number in 0..40 {
                    let at = ((40 - number) * 104_729 + reader * 7919) % (text.len() - 4096);
                    file.read_exact_at(&mut page, at as u64).unwrap();
                    assert!(page == text[at..at + 4096], "wrong bytes at {at}");
                }
            });
        }
    });
    assert!(mount.status()["daemon"].is_null(), "a local file is read by nobody else");
}

#[test]
fn archives_that_mean_harm_or_can_not_be_shown_say_why() {
    if !can_mount() || !can_make() {
        return;
    }
    let room = Room::new();
    let make = |script: &str| {
        let archive = room.path("archive");
        python(&format!("import io, sys, tarfile, zipfile\nout = sys.argv[1]\n{script}"), &[&archive]);
        let bytes = std::fs::read(&archive).unwrap();
        Web::serve(bytes)
    };
    let refused = |script: &str, why: &[&str]| {
        let web = make(script);
        let (_tree, outcome) = Tree::try_make(&room, &format!("{} --as archive", web.url));
        outcome.failed_with(1, why);
    };
    refused(
        "made = tarfile.open(out, 'w')\ninfo = tarfile.TarInfo('../../out')\ninfo.size = 1\nmade.addfile(info, io.BytesIO(b'x'))\nmade.close()",
        &["../../out", "refused"],
    );
    refused("made = zipfile.ZipFile(out, 'w')\nmade.writestr('../x', 'x')\nmade.close()", &["../x", "refused"]);
    refused(
        "made = tarfile.open(out, 'w:gz')\nmade.addfile(tarfile.TarInfo('x'))\nmade.close()",
        &["packed with gzip as a whole", "darter get"],
    );
    refused("open(out, 'w').write('<html>no archive</html>')", &["no tar and no zip"]);
    refused(
        "made = tarfile.open(out, 'w')\ninfo = tarfile.TarInfo('x')\ninfo.size = 100000\nmade.addfile(info, io.BytesIO(bytes(100000)))\n\
         made.close()\nopen(out, 'r+b').truncate(50000)",
        &["ends after 50000 bytes", "a file"],
    );
    refused(
        "made = zipfile.ZipFile(out, 'w')\nmade.writestr('x', 'x' * 1000)\nmade.close()\nopen(out, 'r+b').truncate(500)",
        &["list of members at its end is missing"],
    );
    // Two members whose list says that both are the same bytes.
    refused(
        "made = zipfile.ZipFile(out, 'w')\nmade.writestr('a', 'x' * 1000)\nmade.writestr('b', 'x' * 1000)\nmade.filelist[1].header_offset = 0\nmade.close()",
        &["overlaps"],
    );
    // Python makes no encrypted members: the flag says that it is one.
    let web = make(
        "made = zipfile.ZipFile(out, 'w')\nmade.writestr('public', 'p')\nmade.writestr('secret', 's')\nmade.filelist[1].flag_bits |= 1\nmade.close()",
    );
    let (tree, outcome) = Tree::try_make(&room, &format!("{} --as archive", web.url));
    let outcome = outcome.succeeded();
    assert!(outcome.err.contains("secret is encrypted"), "{}", outcome.err);
    assert_eq!(std::fs::read(tree.dir.join("public")).unwrap(), b"p");
    let error = std::fs::read(tree.dir.join("secret")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()));
    assert_eq!(std::fs::metadata(tree.dir.join("secret")).unwrap().len(), 1);
    tree.unmount().succeeded();
    assert_eq!(room.run("mount --list --json").succeeded().json(), serde_json::json!([]));
}

#[test]
fn an_archive_that_changes_or_does_not_come_gives_errors_and_no_other_bytes() {
    if !can_mount() || !can_make() {
        return;
    }
    let room = Room::new();
    let top = filled(&room);
    let archive = room.path("archive");
    python(ZIP, &[&top, &archive]);
    let bytes = std::fs::read(&archive).unwrap();
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "");
    let mount = Tree::make(&room, &format!("{} --as archive --timeout 2s", web.url));
    assert_eq!(std::fs::read(mount.dir.join("first")).unwrap(), b"the first");
    web.hold_at(0);
    assert!(std::fs::read(mount.dir.join("deep/large")).is_err(), "EIO, and no zeros");
    web.let_go();
    let large = content(20 * MEGABYTE);
    wait_until("it works again", || std::fs::read(mount.dir.join("deep/large")).is_ok_and(|read| read == large));
    web.change_to(vec![7; bytes.len()]);
    let text = std::fs::read(top.join("deep/text")).unwrap();
    if let Ok(read) = std::fs::read(mount.dir.join("deep/text")) {
        assert!(read == text, "wrong bytes");
    }
    assert_eq!(std::fs::read(mount.dir.join("first")).unwrap(), b"the first", "what was read stays");
}

#[test]
fn a_local_directory_is_mounted_with_what_is_in_it() {
    if !can_mount() {
        return;
    }
    let room = Room::new();
    let top = filled(&room);
    let mount = Tree::make(&room, &format!("{}/", top.display()));
    assert_same(&mount.dir, &top);
    let status = mount.status();
    assert_eq!((status["kind"].as_str(), status["files"].as_u64()), (Some("directory"), Some(7)), "{status}");
    std::fs::write(top.join("first"), "longer than it was").unwrap();
    std::fs::write(top.join("run"), "#!/bin/sx\n").unwrap();
    // Pages in the kernel's cache are the old ones; opening anew is refused.
    if let Ok(read) = std::fs::read(mount.dir.join("first")) {
        assert_eq!(read, b"the first");
    }
    mount.unmount().succeeded();
    assert!(
        crate::support::files_below(&room.data_dir()).iter().all(|path| !path.to_string_lossy().contains("/blobs/"))
    );
}

/// The directory may be another user's, under a mount by root.
#[test]
fn a_link_that_was_put_in_the_place_of_a_local_directorys_file_leads_nowhere_out_of_it() {
    if !can_mount() {
        return;
    }
    let room = Room::new();
    let top = room.path("in");
    std::fs::create_dir_all(top.join("deep")).unwrap();
    for name in ["deep/file", "other", "inside"] {
        std::fs::write(top.join(name), b"what is in the directory").unwrap();
    }
    let outside = room.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), b"what the owner may not see").unwrap();
    std::fs::write(room.path("link"), "").unwrap();
    // The directory itself may be named by a link.
    symlink(&top, room.path("by-link")).unwrap();
    let mount = Tree::make(&room, &format!("{}/", room.path("by-link").display()));
    std::fs::remove_dir_all(top.join("deep")).unwrap();
    symlink(&outside, top.join("deep")).unwrap();
    std::fs::remove_file(top.join("other")).unwrap();
    symlink(outside.join("file"), top.join("other")).unwrap();
    for name in ["deep/file", "other"] {
        assert!(std::fs::read(mount.dir.join(name)).is_err(), "{name}");
    }
    assert_eq!(std::fs::read(mount.dir.join("inside")).unwrap(), b"what is in the directory");
    mount.unmount().succeeded();
}

#[test]
fn the_files_of_a_list_are_mounted_under_their_paths_and_checked_by_their_digests() {
    if !can_mount() {
        return;
    }
    let bytes = content(3 * MEGABYTE);
    let (one, two) = (Web::serve(bytes.clone()), Web::requiring(content(1000), "x-secret: 1"));
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let list = |text: &str| std::fs::write(room.path("list.txt"), text).unwrap();
    let line = format!("{} --as list -H x-secret:1 --timeout 5s", room.path("list.txt").display());
    list(&format!("# a model\n{} {} weights/one.bin\n{}\n", one.url, sha256(&bytes), two.url));
    let mount = Tree::make(&room, &line);
    assert_eq!(mount.status()["files"], 2);
    assert_eq!(std::fs::metadata(mount.dir.join("weights/one.bin")).unwrap().len(), bytes.len() as u64);
    assert!(one.sent() < MEGABYTE as u64 * 2, "nothing was read yet: {}", one.sent());
    assert!(std::fs::read(mount.dir.join("weights/one.bin")).unwrap() == bytes);
    assert!(std::fs::read(mount.dir.join("file.bin")).unwrap() == content(1000));
    mount.unmount().succeeded();
    // One that has another digest is not read to its end.
    list(&format!("{} {} wrong\n", one.url, sha256(b"something else")));
    let mount = Tree::make(&room, &format!("{line} --fill always"));
    wait_until("it is tainted", || mount.status()["state"] == "tainted");
    assert!(std::fs::read(mount.dir.join("wrong")).is_err());
    mount.unmount().succeeded();
    for (text, why) in
        [("nothing/\n", "names no file"), ("", "names no file"), ("http://127.0.0.1:1/x ../x\n", "127.0.0.1:1")]
    {
        list(text);
        let (_tree, outcome) = Tree::try_make(&room, &line);
        assert!(outcome.code != Some(0) && outcome.err.contains(why), "{}", outcome.err);
    }
    list(&format!("{} ../x\n", one.url));
    Tree::try_make(&room, &line).1.failed_with(1, &["../x", "leads out"]);
    // A list from elsewhere names no files of this host, and gets no header for strangers.
    let hostile = Web::serve(b"file:///etc/hostname\n".to_vec());
    Tree::try_make(&room, &format!("{} --as list", hostile.url)).1.failed_with(2, &["can't name files of this host"]);
    let stranger = Web::serve(format!("{}\n", two.url).into_bytes());
    let (_tree, outcome) = Tree::try_make(&room, &format!("{} --as list -H x-secret:1", stranger.url));
    outcome.failed_with(1, &["401"]);
    assert!(two.heads().last().is_some_and(|head| !head.to_lowercase().contains("x-secret")));
}

#[test]
fn a_mount_without_a_daemon_leaves_nothing_behind_however_it_ends() {
    if !can_mount() {
        return;
    }
    let room = Room::new();
    let nothing_stays = || {
        let files = crate::support::files_below(&room.data_dir());
        !files.iter().any(|path| path.to_string_lossy().contains("/blobs/"))
    };
    let (one, two) = (Web::serve(content(MEGABYTE)), Web::serve(content(2 * MEGABYTE)));
    std::fs::write(room.path("list.txt"), format!("{} a\n{} b\n", one.url, two.url)).unwrap();
    let line = format!("{} --as list --no-daemon", room.path("list.txt").display());
    for signal in [Signal::TERM, Signal::INT] {
        let mount = Tree::make(&room, &line);
        for name in ["a", "b"] {
            std::fs::read(mount.dir.join(name)).unwrap();
        }
        assert!(!nothing_stays());
        let keeper = mount.status()["pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(keeper.try_into().unwrap()).unwrap(), signal).unwrap();
        wait_until("the mount is gone", || room.run("mount --list --json").succeeded().json() == serde_json::json!([]));
        wait_until("nothing stays", nothing_stays);
    }
    // The second file does not answer: it is broken off before the mount is there, by which time something came of the first.
    two.hold_at(0);
    std::fs::create_dir_all(room.path("m")).unwrap();
    let asked = two.heads().len();
    let mut command = Running::start(room.darter(&format!("mount {line} --foreground {}", room.path("m").display())));
    wait_until("it waits for the second", || two.heads().len() > asked);
    command.signal(Signal::TERM);
    drop(command.end());
    assert!(nothing_stays(), "{:?}", crate::support::files_below(&room.data_dir()));
}

#[test]
fn what_others_keep_stays_where_a_mount_without_a_daemon_reads() {
    if !can_mount() {
        return;
    }
    let room = Room::new();
    let blobs = || {
        let files = crate::support::files_below(&room.data_dir()).into_iter();
        files.filter(|path| path.to_string_lossy().contains("/blobs/")).collect::<BTreeSet<_>>()
    };
    let (kept, other) = (Web::serve(content(MEGABYTE)), Web::serve(content(2 * MEGABYTE)));
    room.run(&format!("get {} -o kept --keep", kept.url)).succeeded();
    let before = blobs();
    assert!(!before.is_empty());
    std::fs::write(room.path("list.txt"), format!("{} a\n{} b\n", kept.url, other.url)).unwrap();
    let mount = Tree::make(&room, &format!("{} --as list --no-daemon", room.path("list.txt").display()));
    for name in ["a", "b"] {
        std::fs::read(mount.dir.join(name)).unwrap();
    }
    assert!(blobs().len() > before.len(), "it reads by way of the same store");
    mount.unmount().succeeded();
    wait_until("its own is gone", || blobs().len() <= before.len());
    assert_eq!(blobs(), before);
}

#[test]
fn an_artifacts_files_are_mounted_by_their_titles() {
    if !can_mount() {
        return;
    }
    let weights = content(3 * MEGABYTE);
    let registry = ImageRegistry::of_files(&[("model/weights.bin", &weights), ("config.json", b"{}")]);
    let room = Room::new();
    let _daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    let name = format!("{}/app:1", registry.address);
    let mount = Tree::make(&room, &name);
    assert_eq!(std::fs::read(mount.dir.join("config.json")).unwrap(), b"{}");
    assert_eq!(registry.reads(&weights), 0, "nobody has touched it");
    assert!(std::fs::read(mount.dir.join("model/weights.bin")).unwrap() == weights);
    let status = mount.status();
    assert_eq!((status["kind"].as_str(), status["files"].as_u64()), (Some("artifact"), Some(2)), "{status}");
    assert!(status["image"].is_string() && status["url"] == name);
    let table = room.run("mount --list").succeeded().text().to_owned();
    assert!(table.contains("KIND") && table.contains("artifact"), "{table}");
    mount.unmount().succeeded();
    room.run(&format!("image profile {name}")).failed_with(2, &["artifact"]);
}

#[test]
fn a_repository_of_a_model_hub_is_mounted_at_its_commit_with_a_token_that_only_the_hub_sees() {
    if !can_mount() {
        return;
    }
    let weights = content(3 * MEGABYTE);
    let store = Web::serve(weights.clone());
    let small: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("sub/read me.txt", b"read")];
    let hub = Hub::start(&small, &[("weights/model.safetensors", &weights, &store.url)], "secret");
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let (_tree, outcome) = Tree::try_make(&room, &format!("{} --as hub", hub.url));
    outcome.failed_with(1, &["401"]);
    std::fs::write(room.path("header"), "authorization: Bearer secret\n").unwrap();
    let line = format!("{} --as hub -H @{}", hub.url, room.path("header").display());
    let mount = Tree::make(&room, &line);
    assert_eq!(store.sent(), 0, "nobody has touched it");
    assert_eq!(std::fs::metadata(mount.dir.join("weights/model.safetensors")).unwrap().len(), weights.len() as u64);
    for (path, content) in small {
        assert_eq!(std::fs::read(mount.dir.join(path)).unwrap(), content, "{path}");
    }
    assert!(std::fs::read(mount.dir.join("weights/model.safetensors")).unwrap() == weights);
    assert!(!store.heads().is_empty());
    assert!(store.heads().iter().all(|head| !head.to_lowercase().contains("secret")), "{:?}", store.heads());
    let status = mount.status();
    assert_eq!((status["kind"].as_str(), status["files"].as_u64()), (Some("hub"), Some(3)), "{status}");
    mount.unmount().succeeded();
    // Large files have to match the digests that the hub gives.
    let other = Web::serve(content(3 * MEGABYTE).into_iter().rev().collect());
    let liar = Hub::start(&[], &[("weights", &weights, &other.url)], "secret");
    let line = line.replace(&hub.url, &liar.url);
    let mount = Tree::make(&room, &format!("{line} --fill always"));
    wait_until("it is tainted", || mount.status()["state"] == "tainted");
    assert!(std::fs::read(mount.dir.join("weights")).is_err());
}

#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    let room = Room::new();
    std::fs::create_dir_all(room.path("m")).unwrap();
    let m = room.path("m").display().to_string();
    for (line, why) in [
        ("mount http://127.0.0.1:1/x.zip --as archive --name y", "--name"),
        ("mount debian --as archive", "--as"),
        ("mount http://127.0.0.1:1/ --as hub", "names no repository"),
        (
            "mount http://127.0.0.1:1/l --as list --digest sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "--digest",
        ),
    ] {
        room.run(&format!("{line} {m}")).failed_with(2, &[why]);
    }
}
