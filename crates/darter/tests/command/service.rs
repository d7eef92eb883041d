//! A daemon as a service: what systemd hears, what a reload takes, who may use its socket, and where it may listen.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixDatagram;

use rustix::fs::{CWD, FileType, Mode};
use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, free_address, wait_until};

#[test]
fn systemd_hears_of_each_step_and_a_reload_takes_what_can_change() {
    let room = Room::new();
    let socket = UnixDatagram::bind(room.path("notify")).unwrap();
    let file = room.path("darter.toml");
    let (listen, local) = (free_address(), free_address());
    let configure = |more: &str| {
        std::fs::write(&file, format!("listen = \"{listen}\"\nlocal = \"{local}\"\n{more}")).unwrap();
    };
    configure("upload-limit = \"1MB/s\"\n");
    let mut command = room.darter(&format!("seed --config {}", file.display()));
    command.env("NOTIFY_SOCKET", room.path("notify")).env("WATCHDOG_USEC", "100000");
    command.stderr(std::fs::File::create(room.path("log")).unwrap());
    let mut daemon = Running::start(command);
    let log = || std::fs::read_to_string(room.path("log")).unwrap();
    // The messages that came up to one that begins with `word`.
    let heard = |word: &str| {
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).unwrap();
            all.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
            if all.last().unwrap().starts_with(word) {
                return all;
            }
        }
    };
    assert!(heard("READY=1\nSTATUS=").len() == 1, "it is the first word");
    heard("WATCHDOG=1\n");
    assert_eq!(room.run("status").code, Some(0), "ready is ready");

    configure("upload-limit = \"2MB/s\"\nlabel = [\"rack=7\"]\nlog = \"debug\"\nquota = \"123MB\"\n");
    daemon.signal(Signal::HUP);
    heard("RELOADING=1\nMONOTONIC_USEC=");
    heard("READY=1\n");
    wait_until("it says what it took", || log().contains("the configuration was read again"));
    assert!(log().contains("after a restart") && log().contains("label"), "{}", log());

    let quota = room.run("status --json").succeeded().json()["store"]["quota"].clone();
    assert_eq!(quota, 123_000_000);

    configure("upload-limit = \"fast\"\n");
    daemon.signal(Signal::HUP);
    heard("RELOADING=1\n");
    heard("READY=1\n");
    wait_until("a wrong one is told", || log().contains("not a rate"));
    assert_eq!(room.run("status").code, Some(0), "and changes nothing");

    // One that no agent would start with is as wrong.
    std::fs::write(&file, format!("listen = \"0.0.0.0:1\"\nlocal = \"{local}\"\nquota = \"5MB\"\n")).unwrap();
    daemon.signal(Signal::HUP);
    heard("READY=1\n");
    wait_until("it is told", || log().contains("not listening on 0.0.0.0:1"));
    assert_eq!(room.run("status --json").succeeded().json()["store"]["quota"], 123_000_000);

    daemon.signal(Signal::TERM);
    heard("STOPPING=1\n");
    assert_eq!(daemon.ended().code(), Some(0));
}

/// systemd that stands still, or a manager whose queue others fill, must not keep a daemon from serving, nor be left without its word.
#[test]
fn a_service_manager_that_reads_nothing_yet_hears_later_that_the_daemon_is_ready() {
    let room = Room::new();
    let socket = UnixDatagram::bind(room.path("notify")).unwrap();
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"STATUS=another service\n", room.path("notify")).is_ok() {}
    let mut command = room.darter(&format!("seed --listen {} --local {}", free_address(), free_address()));
    command.env("NOTIFY_SOCKET", room.path("notify")).stderr(std::fs::File::create(room.path("log")).unwrap());
    let mut daemon = Running::start(command);
    let log = || std::fs::read_to_string(room.path("log")).unwrap();
    wait_until("it says that it is not heard", || log().contains("does not read NOTIFY_SOCKET"));
    assert_eq!(room.run("status").code, Some(0), "it serves all the same");
    let mut buffer = [0; 1024];
    loop {
        let length = socket.recv(&mut buffer).unwrap();
        if buffer[..length].starts_with(b"READY=1\n") {
            break;
        }
    }
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0));
}

/// It would hold up the start, and a reload for ever.
#[test]
fn a_pipe_in_the_place_of_a_file_that_is_configured_is_told_at_once() {
    let room = Room::new();
    let (pipe, file) = (room.path("pipe"), room.path("darter.toml"));
    let make_pipe = |path: &std::path::Path| {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    };
    make_pipe(&pipe);
    let shown = pipe.display();
    for named in [
        format!("--config {shown}"),
        format!("--origin-ca {shown}"),
        format!("--login a.example=me --password-file a.example={shown}"),
    ] {
        let line = format!("seed --log off --listen 127.0.0.1:1 --local 127.0.0.1:1 {named}");
        room.run(&line).failed_with(2, &["it is a pipe, not a file"]);
    }

    let text = format!("listen = \"{}\"\nlocal = \"{}\"\n", free_address(), free_address());
    std::fs::write(&file, text).unwrap();
    let mut command = room.darter(&format!("seed --config {}", file.display()));
    command.stderr(std::fs::File::create(room.path("log")).unwrap());
    let mut daemon = Running::start(command);
    wait_until("it is up", || room.run("status").code == Some(0));
    std::fs::remove_file(&file).unwrap();
    make_pipe(&file);
    daemon.signal(Signal::HUP);
    let log = || std::fs::read_to_string(room.path("log")).unwrap();
    wait_until("it is told", || log().contains("it is a pipe, not a file"));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn peers_beyond_this_host_only_with_insecure() {
    let room = Room::new();
    let local = free_address();
    for line in ["seed", "up --listen 0.0.0.0:1", "node --join a:1 --listen [::]:1"] {
        room.run(&format!("{line} --log off --local {local}")).failed_with(2, &["--insecure", "not encrypted"]);
    }
}

/// The agent's own list of layers, say, is a file `layers` in its data directory.
#[test]
fn layers_are_mounted_neither_in_the_data_directory_nor_over_it() {
    let room = Room::new();
    std::fs::create_dir_all(room.path("data")).unwrap();
    for dir in ["data/layers", "data", ".", "./data/../data/new/layers"] {
        let (dir, data) = (room.path(dir), room.path("data"));
        let line = format!("up --listen {} --local {} --log off", free_address(), free_address());
        let line = format!("{line} --data-dir {} --lazy-dir {}", data.display(), dir.display());
        room.run(&line).failed_with(2, &["--lazy-dir", "/run/darter/layers"]);
    }
}

#[test]
fn a_daemons_socket_elsewhere_and_for_a_group() {
    let (room, other, bytes) = (Room::new(), Room::new(), content(1_000_000));
    let web = Web::serve(bytes.clone());
    let socket = room.path("run/darter.sock");
    let group = std::fs::metadata(room.path("")).unwrap().gid();
    let _daemon = Daemon::start(&room, &format!("--socket {} --socket-group {group}", socket.display()));
    for path in [socket.clone(), room.data_dir().join("darter.sock")] {
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o660, group), "{}", path.display());
    }
    let told = other.run(&format!("get {} --socket {} --json", web.url, socket.display())).succeeded().json();
    assert_eq!(told["daemon"], socket.display().to_string());
    assert!(other.read("file.bin") == bytes);
    assert!(!other.data_dir().exists(), "nothing is kept by whoever asks a daemon");

    let told = other.run(&format!("get {} -o alone", web.url)).succeeded();
    assert!(told.err.contains("without a daemon: no daemon at "), "{}", told.err);
}

/// The system's file is optional: whoever can't read it goes on without it, and says so; but to lose it is no change of mind.
#[test]
fn the_systems_file_is_missed_by_an_agent_that_had_it_and_named_by_one_that_may_not_read_it() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounts");
    }
    let room = Room::new();
    let file = room.path("etc/darter/darter.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "quota = \"123MB\"\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let behind = |more: &str, line: &str| {
        let mount = format!("mount --bind {} /etc && exec {more} \"$@\"", room.path("etc").display());
        let mut command =
            room.darter_by(&["unshare", "--mount", "--propagation", "private", "sh", "-c", &mount, "-"], line);
        command.env_remove("DARTER_CONFIG");
        command
    };
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let told = crate::support::Outcome::of(behind(user, "config").output().unwrap()).succeeded();
    assert!(told.err.contains("/etc/darter/darter.toml can't be read"), "{}", told.err);
    assert!(!told.text().contains("123MB"));

    let mut command = behind("", &format!("seed --listen {} --local {}", free_address(), free_address()));
    command.stderr(std::fs::File::create(room.path("log")).unwrap());
    let mut daemon = Running::start(command);
    wait_until("it is up", || room.run("status").code == Some(0));
    let quota = || room.run("status --json").succeeded().json()["store"]["quota"].clone();
    assert_eq!(quota(), 123_000_000);
    std::fs::remove_file(&file).unwrap();
    daemon.signal(Signal::HUP);
    let log = || std::fs::read_to_string(room.path("log")).unwrap();
    wait_until("it misses the file", || log().contains("does not exist any more"));
    assert_eq!(quota(), 123_000_000);
}

/// A container whose root can't be written to, with a volume for the data.
#[test]
fn a_socket_that_nobody_asked_for_is_no_reason_not_to_start() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: mounts");
    }
    let room = Room::new();
    let mounts = "mount -t tmpfs none /var/lib && mount -t tmpfs -o ro none /run && exec \"$@\"";
    let line = format!("seed --listen {} --local {}", free_address(), free_address());
    let mut command =
        room.darter_by(&["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, "-"], &line);
    command.env_remove("DARTER_DATA_DIR").stderr(std::fs::File::create(room.path("log")).unwrap());
    let mut daemon = Running::start(command);
    let log = || std::fs::read_to_string(room.path("log")).unwrap();
    wait_until("it is ready, or has ended", || log().contains(" ready ") || !daemon.runs());
    assert!(log().contains(" ready ") && log().contains("/run/darter/darter.sock"), "{}", log());
}
