//! Facts and the findings that follow.

use std::io;
use std::path::PathBuf;

use super::facts::{Containerd, Docker, Kernel, Podman, SocketState};
use super::findings::{Finding, Findings, Level};
use super::{containerd, engines, erofs, host, lazy, shown};
use crate::setup::containerd::{Config, Release};
use crate::setup::proxy::SnapshotterPaths;
use crate::setup::registries::{Directory, RegistryFiles, Root};

const MIRROR: &str = "http://127.0.0.1:7401";
const OURS: &str = "[host.\"http://127.0.0.1:7401\"]\ncapabilities = [\"pull\", \"resolve\"]\n";

/// The worst level among the findings of a check, and all their texts.
fn of(findings: &[Finding], check: &str) -> Option<(Level, String)> {
    let about: Vec<_> = findings.iter().filter(|finding| finding.check == check).collect();
    let worst = about.iter().map(|finding| finding.level).max()?;
    let said = about.iter().map(|it| format!("{} {}", it.text, it.todo.as_deref().unwrap_or_default()));
    Some((worst, said.collect::<Vec<_>>().join("\n")))
}

#[track_caller]
fn expect(findings: &[Finding], check: &str, level: Level, part: &str) {
    let (found, said) = of(findings, check).unwrap_or_else(|| panic!("nothing is said of {check}: {findings:?}"));
    assert!(found == level && said.contains(part), "{check}: {level:?} with {part:?}, and it is {found:?}: {said}");
}

fn kernel() -> Kernel {
    Kernel {
        name: "6.12.117".into(),
        release: (6, 12),
        filesystems: ["erofs", "fuse", "overlay"].map(str::to_owned).into(),
        fuse_device: true,
        fuse_open: true,
        root: true,
        ..Kernel::default()
    }
}

#[test]
fn a_kernel_is_judged_by_what_mounts_need() {
    let ok = kernel();
    for check in ["fuse", "overlayfs", "version"] {
        expect(&host::kernel(&ok), check, Level::Ok, "");
    }
    expect(&host::kernel(&Kernel { fuse_device: false, ..kernel() }), "fuse", Level::Warning, "/dev/fuse");
    expect(&host::kernel(&Kernel { fuse_open: false, ..kernel() }), "fuse", Level::Warning, "may not open /dev/fuse");
    expect(&host::kernel(&Kernel { root: false, ..kernel() }), "fuse", Level::Warning, "fuse3");
    expect(&host::kernel(&Kernel { filesystems: vec![], ..kernel() }), "overlayfs", Level::Warning, "modprobe");
    for (kernel, level, part) in [
        (kernel(), Level::Ok, "from files"),
        (Kernel { file_backed: Some(false), ..kernel() }, Level::Warning, "loop"),
        (Kernel { release: (6, 8), ..kernel() }, Level::Warning, "loop"),
        (Kernel { release: (6, 1), ..kernel() }, Level::Problem, "512"),
        (Kernel { filesystems: vec![], ..kernel() }, Level::Problem, "no EROFS"),
        (Kernel { filesystems: vec![], modules: vec!["erofs"], ..kernel() }, Level::Ok, ""),
    ] {
        expect(&erofs::of_kernel(&kernel), "erofs", level, part);
    }
    for (name, release, warns) in [
        ("6.12.0", (6, 12), true),
        ("6.12.117+deb13-amd64", (6, 12), false),
        ("6.14.11-300.fc42", (6, 14), true),
        ("6.18.44", (6, 18), false),
        ("7.0.0-rc1", (7, 0), false),
        // Files on loop devices are read in another way.
        ("6.8.0", (6, 8), false),
    ] {
        let found = erofs::of_kernel(&Kernel { name: name.into(), release, ..kernel() });
        assert_eq!(of(&found, "short reads").is_some(), warns, "{name}");
    }
    for (mkfs, level) in [(Some(true), Level::Ok), (Some(false), Level::Warning), (None, Level::Warning)] {
        expect(&lazy::of_mkfs(mkfs), "mkfs.erofs", level, "");
    }
}

/// A containerd of this release with this configuration, and these hosts.toml files in /etc/containerd/certs.d.
fn facts(release: Option<Release>, text: &str, hosts: &[(&str, Option<&str>)]) -> Containerd {
    let config = Config::new(vec![(PathBuf::from("/f"), Some(text.to_owned()))], release).unwrap();
    let directories = hosts.iter().map(|(name, hosts)| Directory {
        name: (*name).to_owned(),
        hosts: hosts.map(str::to_owned),
        files: Vec::new(),
    });
    let root = Root { path: "/etc/containerd/certs.d".into(), directories: directories.collect() };
    Containerd {
        installed: true,
        release,
        configuration: Ok((config, RegistryFiles { roots: vec![root] })),
        mirror: MIRROR.to_owned(),
        mkfs: Some(true),
        missing: Vec::new(),
        snapshotter: Some(SocketState::Yes),
    }
}

#[test]
fn what_keeps_containerd_from_the_mirror_is_found() {
    let default = [("_default", Some(OURS))];
    let path = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/etc/containerd/certs.d'\n";
    let right = containerd::mirror(&facts(Some((1, 7)), path, &default));
    assert!(right.iter().all(|finding| finding.level == Level::Ok), "{right:?}");
    let second = format!("[host.'https://a']\n{OURS}");
    let narrowed = OURS.replace(", \"resolve\"", "");
    let mirrors = "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.mirrors.'docker.io']\n";
    for (release, text, hosts, check, level, part) in [
        (Some((1, 7)), "version = 2\n", &default[..], "config_path", Level::Problem, "config_path is not set"),
        (Some((2, 4)), "version = 4\n", &default, "config_path", Level::Problem, "several directories"),
        (Some((1, 7)), path, &[], "hosts", Level::Problem, "no hosts.toml names the mirror"),
        (Some((1, 7)), path, &[("a", Some(OURS))], "hosts", Level::Warning, "registries without a directory"),
        (Some((1, 7)), path, &[default[0], ("a", None)], "hosts", Level::Warning, "not asked through the mirror: a,"),
        (Some((1, 7)), path, &[default[0], ("a", Some(&second))], "hosts", Level::Warning, "before the mirror"),
        (Some((1, 7)), path, &[("_default", Some(&narrowed))], "hosts", Level::Problem, "resolve"),
        (Some((1, 7)), path, &[default[0], ("a", Some("x = "))], "hosts", Level::Problem, "line 1"),
        (Some((1, 7)), mirrors, &default, "old-style", Level::Problem, "/f:2"),
        (Some((1, 7)), "version = 2\ndisabled_plugins = ['cri']\n", &default, "cri", Level::Warning, "/f:2"),
        (Some((2, 4)), "version = 4\n[grpc]\naddress = 'x'\n", &default, "ignored", Level::Warning, "/f:2: [grpc]"),
        (Some((2, 0)), &path.replace('2', "3"), &default, "ignored", Level::Warning, "version 3"),
        (None, path, &default, "containerd", Level::Warning, "--containerd-version"),
    ] {
        expect(&containerd::mirror(&facts(release, text, hosts)), check, level, part);
    }
    let broken = Containerd { configuration: Err("/f:1: not TOML".into()), ..facts(None, "", &[]) };
    expect(&containerd::mirror(&broken), "configuration", Level::Problem, "/f:1");
    let absent = Containerd { installed: false, ..facts(None, "", &[]) };
    expect(&containerd::mirror(&absent), "containerd", Level::Ok, "not installed");
}

#[test]
fn what_silently_switches_lazy_start_off_is_found() {
    let mut config = Config::new(vec![("/f".into(), Some("version = 4\n".into()))], Some((2, 4))).unwrap();
    crate::setup::lazy::write(&mut config, "/run/darter/layers".as_ref(), None).unwrap();
    let set_up = config.files[0].document.text().to_owned();
    let judged = |text: &str| lazy::start(&facts(Some((2, 4)), text, &[]), &kernel());
    let right = judged(&set_up);
    assert!(right.iter().all(|finding| finding.level == Level::Ok), "{right:?}");
    expect(&right, "by hand", Level::Ok, "--local");

    let images = "[plugins.'io.containerd.cri.v1.images']\n";
    let erofs = "[plugins.'io.containerd.snapshotter.v1.erofs']\n";
    for (table, key, level) in [
        (images, "use_local_image_pull = true", Level::Warning),
        (images, "discard_unpacked_layers = true", Level::Warning),
        (images, "disable_snapshot_annotations = false", Level::Warning),
        (images, "max_concurrent_downloads = 8", Level::Warning),
        (images, "registry.configs.a.auth.username = 'x'", Level::Warning),
        (erofs, "enable_fsverity = true", Level::Problem),
        (erofs, "dmverity_mode = 'on'", Level::Problem),
        ("version = 4\n", "disabled_plugins = ['io.containerd.snapshotter.v1.erofs']", Level::Problem),
        ("version = 4\n", "disabled_plugins = ['io.containerd.transfer.v1.local']", Level::Problem),
        ("version = 4\n", "disabled_plugins = ['io.containerd.differ.v1.erofs']", Level::Warning),
    ] {
        let found = judged(&set_up.replace(table, &format!("{table}{key}\n")));
        let name = key.split([' ', '.']).next().unwrap();
        let name = if name == "registry" { "configs" } else { name };
        let part = if name == "disabled_plugins" { "is disabled" } else { name };
        expect(&found, "switched off", level, part);
    }
    for key in ["use_local_image_pull = false", "max_concurrent_downloads = 3", "disable_snapshot_annotations = true"] {
        let found = judged(&set_up.replace(images, &format!("{images}{key}\n")));
        assert!(of(&found, "switched off").is_none(), "{key}: {found:?}");
    }
    let walking = set_up.replace("differ = \"walking\"", "differ = \"other\"");
    expect(&judged(&walking), "unpack_config", Level::Warning, "walking");
    let bare = Containerd { mkfs: None, ..facts(Some((2, 4)), &walking, &[]) };
    expect(&lazy::start(&bare, &kernel()), "unpack_config", Level::Problem, "--lazy");
    let unused = set_up.replace("[plugins.'io.containerd.cri.v1.images']\n  snapshotter = \"erofs\"\n", "");
    expect(&judged(&unused), "snapshotter", Level::Warning, "--runtime-handler");
    let missing = Containerd { missing: vec!["/run/darter/layers".into()], ..facts(Some((2, 4)), &set_up, &[]) };
    expect(&lazy::start(&missing, &kernel()), "directory", Level::Warning, "is not there");
    expect(&judged("version = 4\n"), "directory", Level::Warning, "--lazy");
}

#[test]
fn before_containerd_2_4_a_proxy_snapshotter_is_looked_for() {
    let place = SnapshotterPaths { address: "/run/x.sock".as_ref(), root: "/r".as_ref() };
    let set_up = |text: &str, release| {
        let mut config = Config::new(vec![("/f".into(), Some(text.to_owned()))], Some(release)).unwrap();
        crate::setup::proxy::write(&mut config, place, None).unwrap();
        config.files[0].document.text().to_owned()
    };
    for (text, release) in [("version = 2\n", (1, 7)), ("version = 3\n", (2, 2))] {
        let text = set_up(text, release);
        let right = lazy::start(&facts(Some(release), &text, &[]), &kernel());
        assert!(right.iter().all(|finding| finding.level == Level::Ok), "{right:?}");
        expect(&right, "snapshotter", Level::Ok, "/run/x.sock");
        let by_ctr =
            if release < (2, 0) { "ctr images pull downloads everything" } else { "ctr images pull is refused" };
        expect(&right, "by hand", Level::Ok, by_ctr);
        for (kind, level, part) in [
            (io::ErrorKind::ConnectionRefused, Level::Problem, "refused"),
            (io::ErrorKind::NotFound, Level::Problem, "not found"),
            (io::ErrorKind::PermissionDenied, Level::Warning, "only root may ask"),
        ] {
            let answer = SocketState::from(Err(kind.into()));
            let silent = Containerd { snapshotter: Some(answer), ..facts(Some(release), &text, &[]) };
            expect(&lazy::start(&silent, &kernel()), "snapshotter", level, part);
        }
        let unused = text.replace("snapshotter = \"darter\"", "");
        expect(&lazy::start(&facts(Some(release), &unused, &[]), &kernel()), "used", Level::Warning, "--lazy");
        let old = Kernel { release: (6, 1), ..kernel() };
        expect(&lazy::start(&facts(Some(release), &text, &[]), &old), "erofs", Level::Problem, "512");
    }
    let transfer = set_up("version = 3\n", (2, 2)).replace("disable_snapshot_annotations = false", "");
    expect(&lazy::start(&facts(Some((2, 2)), &transfer, &[]), &kernel()), "annotations", Level::Problem, "unpack");
    let none = lazy::start(&facts(Some((1, 7)), "version = 2\n", &[]), &kernel());
    expect(&none, "containerd", Level::Warning, "--lazy");
}

#[test]
fn docker_and_podman_are_judged_by_their_own_files() {
    let docker = |text: &str| engines::docker(&Docker { installed: true, text: Some(text.to_owned()) }, MIRROR);
    expect(&docker("{\"registry-mirrors\": [\"http://127.0.0.1:7401/\"]}"), "mirrors", Level::Ok, "");
    expect(
        &docker("{\"registry-mirrors\": [\"http://a\", \"http://127.0.0.1:7401\"]}"),
        "mirrors",
        Level::Warning,
        "first",
    );
    expect(&docker("{}"), "mirrors", Level::Warning, "registry-mirrors");
    expect(&docker("{"), "mirrors", Level::Problem, "not JSON");
    assert!(engines::docker(&Docker::default(), MIRROR).is_empty());

    let podman =
        |text: &str| engines::podman(&Podman { installed: true, files: vec![("/r".into(), text.to_owned())] }, MIRROR);
    let right = "[[registry]]\nlocation = 'ghcr.io'\n[[registry.mirror]]\nlocation = '127.0.0.1:7401/ghcr.io'\ninsecure = true\n";
    expect(&podman(right), "registries.conf", Level::Ok, "ghcr.io");
    expect(&podman(&right.replace("insecure = true", "")), "registries.conf", Level::Warning, "/r:3");
    expect(&podman("unqualified-search-registries = []\n"), "registries.conf", Level::Warning, "127.0.0.1:7401/NAME");
    expect(&podman("x = "), "registries.conf", Level::Problem, "/r: line 1");
    assert!(engines::podman(&Podman::default(), MIRROR).is_empty());
}

#[test]
fn people_read_why_and_what_to_do() {
    let mut findings = Findings::about("kernel");
    findings.ok("a", "it is there");
    findings.problem("b", "it is not there", "load it");
    let text = anstream::adapter::strip_str(&shown(&findings.found, 0, 1)).to_string();
    let said =
        "kernel\n  ok       it is there\n  problem  it is not there\n           load it\n1 problem, 0 warnings\n";
    assert_eq!(text, said);
}
