//! `darter mount IMAGE`: an image's root, out of a registry, through the kernel's EROFS and overlayfs over FUSE files.
//!
//! Only root can do that, on a kernel that has both: elsewhere these tests say so and do nothing.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use darter_core::Digest;
use darter_oci::platform::Platform;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Daemon, Room, content, wait_until};
use crate::tar::{dir, file, hardlink, symlink, tar};

/// True if images can be mounted here; else it prints the reason.
pub(crate) fn can_mount() -> bool {
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let lacks = |kind: &str| !kernel.lines().any(|line| line.ends_with(kind));
    let why = if !rustix::process::geteuid().is_root() {
        "this is not root"
    } else if std::fs::File::options().read(true).write(true).open("/dev/fuse").is_err() {
        "there is no /dev/fuse"
    } else if lacks("\terofs") || lacks("\toverlay") {
        "the kernel has no EROFS, or no overlayfs"
    } else {
        return true;
    };
    eprintln!("skipped: {why}");
    false
}

/// A registry of one image.
pub(crate) struct ImageRegistry {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

type Documents = BTreeMap<String, (&'static str, Vec<u8>)>;

impl ImageRegistry {
    /// With the image `app:1` of these tars, the lowest first.
    fn of(tars: &[Vec<u8>]) -> Self {
        let mut documents = Documents::new();
        let mut put = |kind: &str, media_type: &'static str, bytes: Vec<u8>| {
            let (digest, size) = (Digest::sha256(&bytes), bytes.len());
            documents.insert(format!("/v2/app/{kind}/{digest}"), (media_type, bytes));
            json!({ "mediaType": media_type, "digest": digest, "size": size })
        };
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let layers: Vec<_> = tars.iter().map(|tar| put("blobs", layer, tar.clone())).collect();
        let diff_ids: Vec<_> = tars.iter().map(|tar| Digest::sha256(tar)).collect();
        let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let config = put("blobs", "application/vnd.oci.image.config.v1+json", config.into());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let manifest = manifest.to_string().into_bytes();
        let own = put("manifests", media_type, manifest.clone());
        let other_config = json!({ "os": "linux", "architecture": "s390x", "rootfs": { "type": "layers", "diff_ids": [diff_ids[0]] } });
        let other_config =
            put("blobs", "application/vnd.oci.image.config.v1+json", other_config.to_string().into_bytes());
        let other =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": other_config, "layers": [layers[0]] });
        let other = other.to_string().into_bytes();
        let other = put("manifests", media_type, other);
        let index = list_of(&[(own, &Platform::host()), (other, &"linux/s390x".parse().unwrap())]);
        documents.insert("/v2/app/manifests/1".to_owned(), (media_type, manifest));
        documents.insert("/v2/app/manifests/all".to_owned(), ("application/vnd.oci.image.index.v1+json", index));

        Self::serving(documents)
    }

    /// With the artifact `app:1` of these files.
    pub(crate) fn of_files(files: &[(&str, &[u8])]) -> Self {
        let mut documents = Documents::new();
        let mut put = |kind: &str, media_type: &'static str, bytes: &[u8]| {
            let (digest, size) = (Digest::sha256(bytes), bytes.len());
            documents.insert(format!("/v2/app/{kind}/{digest}"), (media_type, bytes.to_vec()));
            json!({ "mediaType": media_type, "digest": digest, "size": size })
        };
        let titled = |(title, bytes): &(&str, &[u8])| {
            let mut layer = put("blobs", "application/octet-stream", bytes);
            layer["annotations"] = json!({ "org.opencontainers.image.title": title });
            layer
        };
        let layers: Vec<_> = files.iter().map(titled).collect();
        let config = put("blobs", "application/vnd.oci.empty.v1+json", b"{}");
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "artifactType": "x/model", "config": config, "layers": layers });
        documents.insert("/v2/app/manifests/1".to_owned(), (media_type, manifest.to_string().into_bytes()));
        Self::serving(documents)
    }

    fn serving(documents: Documents) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (documents, seen) = (Arc::new(documents), Arc::clone(&requests));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (documents, seen) = (Arc::clone(&documents), Arc::clone(&seen));
                // A client that goes away ends its connection, which is no event.
                thread::spawn(move || answer(&stream, &documents, &seen));
            }
        });
        Self { address, requests }
    }

    fn image(&self) -> String {
        format!("{}/app:1", self.address)
    }

    /// How often one of its blobs was read.
    pub(crate) fn reads(&self, blob: &[u8]) -> usize {
        let path = format!("GET /v2/app/blobs/{}", Digest::sha256(blob));
        self.requests.lock().unwrap().iter().filter(|request| **request == path).count()
    }
}

/// An index of these manifests.
fn list_of(manifests: &[(serde_json::Value, &Platform)]) -> Vec<u8> {
    let listed = manifests.iter().map(|(descriptor, platform)| {
        let mut listed = descriptor.clone();
        listed["platform"] = json!({ "os": platform.os, "architecture": platform.architecture });
        listed
    });
    let listed: Vec<_> = listed.collect();
    let index =
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": listed });
    index.to_string().into_bytes()
}

fn answer(mut stream: &TcpStream, documents: &Documents, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let mut words = head.split(' ');
        let (method, path) = (words.next()?, words.next()?.split('?').next()?);
        seen.lock().unwrap().push(format!("{method} {path}"));
        let (status, media_type, bytes) = match documents.get(path) {
            Some((media_type, bytes)) => ("200 OK", *media_type, &bytes[..]),
            None => ("404 Not Found", "application/json", &b"{}"[..]),
        };
        let digest = Digest::sha256(bytes);
        let length = bytes.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: {media_type}\r\ncontent-length: {length}\r\ndocker-content-digest: {digest}\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).ok()?;
        if method != "HEAD" {
            stream.write_all(bytes).ok()?;
        }
    }
}

struct MountedImage<'a> {
    room: &'a Room,
    dir: PathBuf,
}

impl Drop for MountedImage<'_> {
    fn drop(&mut self) {
        self.room.run(&format!("unmount --lazy {}", self.dir.display()));
    }
}

fn mount<'a>(room: &'a Room, image: &str) -> MountedImage<'a> {
    let dir = room.path("root");
    std::fs::create_dir_all(&dir).unwrap();
    let mounted = MountedImage { room, dir: std::fs::canonicalize(&dir).unwrap() };
    room.run(&format!("mount --timeout 5s {image} {}", dir.display())).succeeded();
    mounted
}

/// An image's setuid files and device nodes mean nothing on this host.
fn assert_mounted_for_nobody_to_trust(image: &MountedImage<'_>) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_image = |line: &&str| line.split(' ').nth(4) == image.dir.to_str();
    let options = mounts.lines().find(of_image).and_then(|line| line.split(' ').nth(5)).unwrap();
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.split(',').any(|it| it == option), "{option} is not in {options}");
    }
}

/// Everything below a directory: its kind and mode, and what is in it.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let inside = if meta.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else if meta.is_symlink() {
                std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                std::fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), (meta.mode(), inside));
        }
    }
    found
}

#[test]
fn an_images_root_is_what_its_layers_make_and_ends_with_its_mount() {
    if !can_mount() {
        return;
    }
    let large = content(3 << 20);
    let lower = tar([
        dir("etc/"),
        file("etc/name", "lower"),
        file("etc/gone", "not in the image"),
        dir("usr/"),
        file("usr/large", &large),
        symlink("usr/link", "large"),
    ]);
    let upper = tar([
        dir("etc/"),
        file("etc/name", "upper").mode(0o600),
        file("etc/.wh.gone", ""),
        file("etc/new", "new"),
        hardlink("etc/same", "etc/new"),
    ]);
    let registry = ImageRegistry::of(&[lower.clone(), upper.clone()]);
    let room = Room::new();
    let mut daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    let image = mount(&room, &registry.image());
    let expected: BTreeMap<PathBuf, (u32, Vec<u8>)> = [
        ("etc", 0o040_755, &b""[..]),
        ("etc/name", 0o100_600, b"upper"),
        ("etc/new", 0o100_644, b"new"),
        ("etc/same", 0o100_644, b"new"),
        ("usr", 0o040_755, b""),
        ("usr/large", 0o100_644, &large),
        ("usr/link", 0o120_777, b"large"),
    ]
    .into_iter()
    .map(|(path, mode, inside)| (path.into(), (mode, inside.to_vec())))
    .collect();
    let found = tree(&image.dir);
    for (path, (mode, inside)) in &expected {
        let (its_mode, its_inside) = found.get(path).unwrap_or_else(|| panic!("{} is missing", path.display()));
        // A link's permissions say nothing.
        assert_eq!(its_mode & 0o170_000, mode & 0o170_000, "{}", path.display());
        assert!(*mode >> 12 == 0o12 || its_mode == mode, "{}: {its_mode:o}", path.display());
        assert!(its_inside == inside, "{}", path.display());
    }
    assert_eq!(found.len(), expected.len(), "{:?}", found.keys());
    assert_eq!((registry.reads(&lower), registry.reads(&upper)), (1, 1));
    assert!(std::fs::write(image.dir.join("etc/name"), "x").is_err(), "it is read-only");
    assert_mounted_for_nobody_to_trust(&image);

    let list = room.run("mount --list --json").succeeded().json();
    assert_eq!((list[0]["url"].as_str(), list[0]["state"].as_str()), (Some(&*registry.image()), Some("open")));
    assert!(room.run("mount --list").succeeded().text().contains(image.dir.to_str().unwrap()));
    // Files that were read before can be read without the daemon; nothing is ever zeros.
    daemon.process.signal(Signal::KILL);
    daemon.process.ended();
    assert!(std::fs::read(image.dir.join("usr/large")).unwrap() == large);
    room.run(&format!("unmount {}", image.dir.display())).succeeded();
    // Another test's mount namespace may have a copy of it for a moment.
    wait_until("its keeper ends", || room.run("mount --list --json").succeeded().json() == json!([]));
    assert!(tree(&image.dir).is_empty());
    let left = std::fs::read_dir(room.data_dir().join("mounts")).map(|left| left.count());
    assert_eq!(left.unwrap_or_default(), 0, "nothing is left of it");
}

#[test]
fn a_dead_keeper_leaves_errors_and_no_zeros_and_is_unmounted() {
    if !can_mount() {
        return;
    }
    let large = content(8 << 20);
    // One layer is EROFS alone.
    let only = tar([file("large", &large), file("small", "small")]);
    let registry = ImageRegistry::of(std::slice::from_ref(&only));
    let room = Room::new();
    let _daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    let image = mount(&room, &registry.image());
    assert_eq!(std::fs::read(image.dir.join("small")).unwrap(), b"small");
    assert_mounted_for_nobody_to_trust(&image);
    let keeper = room.run("mount --list --json").succeeded().json()[0]["pid"].as_u64().unwrap();
    kill_process(Pid::from_raw(keeper.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    wait_until("the keeper is gone", || !Path::new(&format!("/proc/{keeper}/exe")).exists());
    if let Ok(read) = std::fs::read(image.dir.join("large")) {
        assert!(read == large, "wrong bytes");
    }
    let list = room.run("mount --list --json").succeeded().json();
    assert_eq!(list[0]["state"], "lost");
    room.run(&format!("unmount {}", image.dir.display())).succeeded();
    assert_eq!(room.run("mount --list --json").succeeded().json(), json!([]));
}

#[test]
fn what_can_not_be_mounted_is_refused_in_a_line() {
    let registry = ImageRegistry::of(&[tar([hardlink("link", "none")])]);
    let room = Room::new();
    std::fs::create_dir_all(room.path("root")).unwrap();
    let line = format!("mount {} {}", registry.image(), room.path("root").display());
    room.run(&line).failed_with(1, &["no daemon runs", "darter up"]);
    let _daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    if !rustix::process::geteuid().is_root() {
        room.run(&line).failed_with(1, &["root", "sudo"]);
        return;
    }
    room.run(&line).failed_with(1, &["hard link to none", "ordinary way"]);
    let none = format!("mount {}/none:1 {}", registry.address, room.path("root").display());
    room.run(&none).failed_with(1, &["none:1", "404"]);
    // The mirror's own words, and not what a 403 usually means.
    let unconfigured = format!("mount 127.0.0.2:1/app:1 {}", room.path("root").display());
    room.run(&unconfigured)
        .failed_with(1, &["127.0.0.2:1/app:1", "HTTP 403 Forbidden: DENIED", "--upstream 127.0.0.2:1="]);
    let misspelt = room.run(&format!("mount App {}", room.path("root").display()));
    assert!(misspelt.code == Some(2) && misspelt.err.contains("docker.io/library/debian:12"), "{misspelt:?}");
    // A directory here has such a name, too.
    for name in [&format!("{}/none:1", registry.address), "App"] {
        std::fs::create_dir_all(room.path("out").join(name)).unwrap();
        let told = room.run(&format!("mount {name} {}", room.path("root").display()));
        assert!(told.code != Some(0) && told.err.contains(&format!("write ./{name}")), "{told:?}");
    }
    assert_eq!(room.run("mount --list --json").succeeded().json(), json!([]));
}

#[test]
fn what_an_image_reads_first_is_shown_exported_and_pinned() {
    if !can_mount() {
        return;
    }
    let large = content(8 << 20);
    let only = tar([file("large", &large), file("small", "small")]);
    let registry = ImageRegistry::of(std::slice::from_ref(&only));
    let room = Room::new();
    let name = registry.image();
    let profile = |flags: &str| room.run(&format!("image profile {name} {flags}"));
    profile("").failed_with(1, &["no daemon"]);
    let _daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    profile("").failed_with(75, &["it is not known yet", "darter mount"]);
    let image = mount(&room, &name);
    assert_eq!(std::fs::read(image.dir.join("small")).unwrap(), b"small");
    room.run(&format!("unmount {}", image.dir.display())).succeeded();
    // The keeper says it with its last breath.
    wait_until("it is known", || profile("").code == Some(0));
    let table = profile("").succeeded().text().to_owned();
    assert!(table.contains("1 start") && table.contains("LAYER"), "{table}");
    let known = profile("--json").succeeded().json()["layers"][0].clone();
    let (bytes, length) = (known["bytes"].as_u64().unwrap(), known["length_bytes"].as_u64().unwrap());
    assert!(bytes > 0 && bytes < length / 4, "{bytes} of {length}: what is not touched is not in it");
    assert_eq!(known["diff_id"], Digest::sha256(&only).to_string());

    profile("--export known.json").succeeded();
    let exported: serde_json::Value = serde_json::from_slice(&room.read("known.json")).unwrap();
    assert_eq!((&exported["version"], &exported["layers"][0]["ranges"]), (&json!(1), &known["ranges"]));
    let mut other = exported;
    other["layers"][0]["ranges"] = json!([[0, 1]]);
    let write =
        |what: &serde_json::Value| std::fs::write(room.path("out").join("other.json"), what.to_string()).unwrap();
    write(&other);
    profile("--pin other.json").succeeded();
    let pinned = profile("--json").succeeded().json()["layers"][0].clone();
    assert_eq!((&pinned["pinned"], &pinned["ranges"]), (&json!(true), &json!([[0, 512 << 10]])), "whole pieces");
    assert!(profile("").succeeded().text().contains("pinned"));
    profile("--unpin").succeeded();
    assert_eq!(profile("--json").succeeded().json()["layers"][0]["ranges"], known["ranges"]);

    other["layers"][0]["diff_id"] = json!(Digest::sha256(b"another"));
    write(&other);
    profile("--pin other.json").failed_with(2, &["no layer of", &name]);
    write(&json!({ "version": 2 }));
    profile("--pin other.json").failed_with(2, &["version 2", "upgrade"]);
    write(&json!([]));
    profile("--pin other.json").failed_with(2, &["not a profile", "--export"]);
    profile("--pin none.json").failed_with(1, &["can't read none.json"]);
}

#[test]
fn of_an_image_for_several_platforms_the_hosts_is_mounted_or_the_one_that_is_asked_for() {
    let registry = ImageRegistry::of(&[tar([file("lower", "lower")]), tar([file("upper", "upper")])]);
    let room = Room::new();
    let all = format!("{}/app:all", registry.address);
    let _daemon = Daemon::start(&room, &format!("--trusted-registry {}", registry.address));
    // The error for a platform that the image does not have names those that it has.
    let none = room.run(&format!("image profile {all} --platform linux/riscv64"));
    none.failed_with(1, &["linux/s390x", &Platform::host().to_string(), "not for linux/riscv64", "--platform"]);
    let misspelt = room.run(&format!("image profile {all} --platform riscv64"));
    assert!(misspelt.code == Some(2) && misspelt.err.contains("not a platform"), "{}", misspelt.err);
    room.run(&format!("image profile {all} --platform linux/s390x")).failed_with(75, &["it is not known yet"]);
    if !can_mount() {
        return;
    }
    for (flags, is_other) in [("", false), ("--platform linux/s390x ", true)] {
        let image = mount(&room, &format!("{flags}{all}"));
        assert!(image.dir.join("lower").exists());
        assert_eq!(image.dir.join("upper").exists(), !is_other, "{flags}");
        room.run(&format!("unmount {}", image.dir.display())).succeeded();
    }
    let dir = room.path("root").display().to_string();
    room.run(&format!("mount --platform linux/s390x http://127.0.0.1:1/x {dir}")).failed_with(2, &["--platform"]);
}
