//! One download without a daemon. The final name shows the right bytes or nothing.

mod interrupted;
mod several;

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Outcome, Room, Running, content, free_address, saved, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;

#[test]
fn the_right_bytes_under_the_name_in_the_url() {
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE + 17));
    let web = Web::serve(bytes.clone());
    let outcome = room.run(&format!("get {} -v", web.url)).succeeded();
    assert!(outcome.out.is_empty(), "standard output is for data");
    assert!(outcome.err.contains("downloading in this process"), "{}", outcome.err);
    assert_eq!(room.files(), ["file.bin"]);
    assert!(room.read("file.bin") == bytes);
    assert_eq!(web.sent(), bytes.len() as u64, "the origin is read once");
}

#[test]
fn sizes_at_the_edges() {
    for length in [0, 1, 262_144, 262_145] {
        let (room, bytes) = (Room::new(), content(length));
        let web = Web::serve(bytes.clone());
        room.run(&format!("get {} -o out", web.url)).succeeded();
        assert!(room.read("out") == bytes, "{length} bytes");
        assert_eq!(saved(&room.data_dir()), 0, "{length} bytes: none is kept besides, however soon they came");
    }
}

#[test]
fn into_a_pipe() {
    let (room, bytes) = (Room::new(), content(2 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let outcome = room.run(&format!("get {} -o -", web.url)).succeeded();
    assert!(outcome.out == bytes);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn a_range_is_just_these_bytes_and_moves_the_pieces_that_it_touches() {
    let (room, bytes) = (Room::new(), content(40 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let outcome = room.run(&format!("get {} --range 20000000-20999999 -o part --json", web.url)).succeeded();
    assert!(room.read("part") == bytes[20_000_000..21_000_000]);
    let report = outcome.json();
    assert_eq!((&report["bytes"], &report["range"]["first"]), (&1_000_000.into(), &20_000_000.into()));
    assert_eq!((&report["range"]["last"], &report["range"]["of"]), (&20_999_999.into(), &(40 * MEGABYTE).into()));
    assert!(web.sent() < 2_000_000, "{} bytes were read", web.sent());
    assert_eq!(report["resumed_bytes"], 0);
    let end = room.run(&format!("get {} --range -51 -o -", web.url)).succeeded();
    assert!(end.out == bytes[40 * MEGABYTE - 51..]);
    let rest = room.run(&format!("get {} --range 39999000- -o -", web.url)).succeeded();
    assert!(rest.out == bytes[39_999_000..]);
    // A cached part is not taken for the whole.
    room.run(&format!("get {} -o part", web.url)).succeeded();
    assert!(room.read("part") == bytes);
}

#[test]
fn a_range_that_the_content_has_not_is_an_error_and_one_that_is_none_is_wrong_usage() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes);
    let past = room.run(&format!("get {} --range 1000000- -o part", web.url));
    past.failed_with(1, &["range starts past the end of the blob (1000000 bytes)"]);
    let backwards = room.run(&format!("get {} --range 9-5 -o part", web.url));
    assert_eq!(backwards.code, Some(2));
    assert!(backwards.err.contains("the last byte, 5, comes before the first, 9"), "{}", backwards.err);
    let digest = room.run(&format!("get {} --range 0-5 --digest {} -o part", web.url, sha256(b"")));
    digest.failed_with(2, &["--digest is of the whole content", "leave out --digest"]);
    let help = room.run("get --help").succeeded().text().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("--digest is refused here"), "{help}");
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn into_a_pipe_that_closes_early() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let mut process = Running::start(room.darter(&format!("get {} -o -", web.url)));
    assert!(process.read_stdout(1000) == bytes[..1000]);
    process.close_stdout();
    assert_eq!(process.ended().code(), Some(0));
}

/// A named pipe is one as much as standard output is.
#[test]
fn into_a_named_pipe_that_closes_early() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let pipe = room.path("out/pipe");
    std::fs::create_dir_all(room.path("out")).unwrap();
    let started = |line: &str| {
        let get = Running::start(room.darter(line));
        let mut reader = std::fs::File::open(&pipe).unwrap();
        let mut beginning = vec![0; 1000];
        std::io::Read::read_exact(&mut reader, &mut beginning).unwrap();
        assert!(beginning == bytes[..1000]);
        get
    };
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let told = started(&format!("get {} -o pipe", web.url)).end().succeeded();
    assert_eq!((told.text(), told.err.contains("error")), ("", false), "{}", told.err);
    let told = started(&format!("get {} -o pipe --json", web.url)).end().succeeded().json();
    assert!(told["error"].as_str().unwrap().contains("closed"), "{told}");
    // The others of a list come, and decide how it ends.
    let list = |rest: &str| std::fs::write(room.path("list"), format!("{} pipe\n{rest}", web.url)).unwrap();
    list(&format!("{}?2 file\n", web.url));
    let told = started(&format!("get -i {}", room.path("list").display())).end().succeeded();
    assert!(!told.err.contains("error"), "{}", told.err);
    assert!(room.read("file") == bytes);
    list(&format!("http://{}/other none\n", web.address));
    let told = started(&format!("get -i {}", room.path("list").display())).end();
    assert_eq!(told.code, Some(1));
    assert!(told.err.contains("HTTP 404 Not Found") && told.err.contains("1 of 2 downloads failed"), "{}", told.err);
}

#[test]
fn a_file_url() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    std::fs::write(room.path("source"), &bytes).unwrap();
    room.run(&format!("get file://{} -o copy", room.path("source").display())).succeeded();
    assert!(room.read("copy") == bytes);
}

#[test]
fn an_old_file_is_replaced_only_by_a_right_one() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    std::fs::create_dir_all(room.path("out")).unwrap();
    std::fs::write(room.path("out/file.bin"), "old").unwrap();
    let wrong = sha256(b"something else");
    room.run(&format!("get {} --digest {wrong}", web.url)).failed_with(1, &["wrong content"]);
    assert_eq!(room.read("file.bin"), b"old");
    room.run(&format!("get {} --digest {}", web.url, sha256(&bytes))).succeeded();
    assert!(room.read("file.bin") == bytes);
    assert_eq!(room.files(), ["file.bin"]);
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let room = Room::new();
    let web = Web::serve(content(MEGABYTE));
    let wrong = sha256(b"something else");
    room.run(&format!("get {} --digest {wrong}", web.url)).failed_with(1, &["wrong content", &wrong]);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn what_is_not_there_and_who_does_not_answer() {
    let room = Room::new();
    let web = Web::serve(content(1000));
    room.run(&format!("get http://{}/other", web.address)).failed_with(1, &["HTTP 404 Not Found: check the address"]);
    let nobody = free_address();
    room.run(&format!("get http://{nobody}/x")).failed_with(75, &[&nobody, "Connection refused"]);
    // No name server has to be asked for a label that is too long.
    let unknown = "x".repeat(64);
    room.run(&format!("get http://{unknown}/x")).failed_with(1, &[&unknown, "DNS"]);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn a_full_device_is_told() {
    let room = Room::new();
    let web = Web::serve(content(MEGABYTE));
    room.run(&format!("get {} -q -o /dev/full", web.url)).failed_with(1, &["can't write /dev/full", "No space left"]);
    for line in [&format!("get {} -q -o -", web.url), "config"] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let outcome = Outcome::of(room.darter(line).stdout(full).output().unwrap());
        outcome.failed_with(1, &["can't write to standard output", "No space left"]);
    }
}

/// A proxy that will never do is told from one that may be there again in a while.
#[test]
fn a_proxy_that_can_not_be_used_is_no_failure_for_now() {
    let (room, unknown, nobody) = (Room::new(), "x".repeat(64), free_address());
    let by = |proxy: &str| {
        let mut command = room.darter("get http://files.example/x --origin-patience 1s");
        command.env_remove("HTTP_PROXY").env_remove("NO_PROXY").envs([("http_proxy", proxy), ("no_proxy", "")]);
        Outcome::of(command.output().unwrap())
    };
    by(&format!("http://{unknown}:3128")).failed_with(1, &["proxy", &unknown]);
    for scheme in ["socks5", "socks5h", "socks4"] {
        let proxy = format!("{scheme}://{nobody}");
        by(&proxy).failed_with(1, &[&proxy, "SOCKS is not spoken", "NO_PROXY"]);
    }
    by(&format!("http://{nobody}")).failed_with(75, &["no connection to the proxy", &nobody]);
}

#[test]
fn headers_reach_the_origin() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::requiring(bytes.clone(), "x-token: t 1");
    room.run(&format!("get {}", web.url)).failed_with(1, &["credentials"]);
    assert_eq!(room.files(), [""; 0]);
    let mut command = room.darter(&format!("get {}", web.url));
    command.args(["-H", "X-Token: t 1", "--header", "accept: x/y"]);
    Outcome::of(command.output().unwrap()).succeeded();
    assert!(room.read("file.bin") == bytes);
    assert!(web.heads().iter().any(|head| head.to_lowercase().contains("\r\naccept: x/y\r\n")));
}

#[test]
fn json_for_programs() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let told = room.run(&format!("get {} --json", web.url)).succeeded();
    assert_eq!(told.err, "");
    let told = told.json();
    assert_eq!(told["url"], web.url);
    assert!(told["file"].as_str().unwrap().ends_with("file.bin"));
    assert_eq!(told["bytes"], bytes.len());
    assert_eq!(told["digest"], sha256(&bytes));
    assert_eq!(told["blob"].as_str().unwrap().len(), 64);
    assert!(told["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(told["traffic"]["from_origin"], bytes.len());
    assert!(told["daemon"].is_null());

    let told = room.run(&format!("get http://{}/other --json", web.address));
    assert_eq!((told.code, told.err.as_str()), (Some(1), ""));
    assert!(told.json()["error"].as_str().unwrap().contains("HTTP 404 Not Found"));
}

#[test]
fn the_content_stays_in_the_store_only_if_asked() {
    let (room, bytes) = (Room::new(), content(2 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    room.run(&format!("get {} -o a", web.url)).succeeded();
    room.run(&format!("get {} -o b --keep", web.url)).succeeded();
    assert_eq!(web.sent(), 2 * bytes.len() as u64, "nothing was kept by the first");
    room.run(&format!("get {} -o c", web.url)).succeeded();
    assert_eq!(web.sent(), 2 * bytes.len() as u64, "the second kept it");
    assert!(room.read("c") == bytes);
}

#[test]
fn a_file_that_is_right_already_is_not_read_again() {
    let (room, bytes) = (Room::new(), content(2 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let digest = sha256(&bytes);
    let told = room.run(&format!("get {} --json", web.url)).succeeded().json();
    assert_eq!((&told["placed"], &told["digest"]), (&"moved".into(), &digest.clone().into()));
    let asked = web.heads().len();
    let told = room.run(&format!("get {} --digest {digest}", web.url)).succeeded();
    assert!(told.err.contains("file.bin: has the right content already"), "{}", told.err);
    assert_eq!(web.heads().len(), asked, "its digest says so");

    web.hold_at(bytes.len() + MEGABYTE);
    let told = room.run(&format!("get {} --json", web.url)).succeeded().json();
    if told["placed"] == "kept" {
        assert!(web.sent() < 2 * bytes.len() as u64, "the origin's validators say so");
    }
    web.let_go();
    let fresh = content(MEGABYTE);
    web.change_to(fresh.clone());
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == fresh);
}

#[test]
fn the_origin_may_name_and_date_the_file() {
    let room = Room::new();
    let web = Web::serve(content(1000));
    web.tell("Content-Disposition: attachment; filename=\"../../na\u{ef}ve\"; filename*=UTF-8''..%2Fna%C3%AFve.txt");
    web.tell("Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT");
    room.run(&format!("get -J {} --mtime", web.url)).succeeded();
    assert_eq!(room.files(), ["naïve.txt"]);
    let modified = std::fs::metadata(room.path("out/naïve.txt")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_000_000_000);
    room.run(&format!("get {}", web.url)).succeeded();
    assert_eq!(room.files(), ["file.bin", "naïve.txt"], "only where it is asked for");
}

#[test]
fn a_file_that_is_right_already_gets_the_date_that_is_asked_for() {
    let (room, bytes) = (Room::new(), content(1000));
    let web = Web::serve(bytes.clone());
    web.tell("Last-Modified: Sun, 09 Sep 2001 01:46:40 GMT");
    let seconds = |name: &str| {
        let modified = std::fs::metadata(room.path("out").join(name)).unwrap().modified().unwrap();
        modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
    };
    let digest = sha256(&bytes);
    for (name, more) in [("a", String::new()), ("b", format!("--digest {digest}"))] {
        let get = |more: &str| room.run(&format!("get {} -o {name} --json {more}", web.url)).succeeded().json();
        get("");
        assert_ne!(seconds(name), 1_000_000_000);
        let told = get(&format!("--mtime {more}"));
        assert_eq!(seconds(name), 1_000_000_000, "{told}");
        if told["placed"] == "kept" {
            assert_eq!(get("")["placed"], "kept", "it is known again with that date");
        }
    }
}

/// Runs a command in this room behind others, by a shell in a mount namespace of its own; `None` where that is not permitted.
fn run_behind(room: &Room, before: &str, line: &str) -> Option<Outcome> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let before = format!("{before} \"$@\"");
    let unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c", &before, "-"];
    Some(Outcome::of(room.darter_by(&unshare, line).output().unwrap()))
}

#[test]
fn what_can_not_be_replaced_is_written_to() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let at = |name: &str| room.path("out").join(name);
    for (what, before, name) in [
        ("a file that a container was given", "mount --bind real mounted &&", "mounted"),
        ("another's file, where root may give none away", "chown 12:34 real && setpriv --bounding-set -chown", "real"),
    ] {
        std::fs::create_dir_all(room.path("out")).unwrap();
        std::fs::write(at("real"), "old").unwrap();
        std::fs::write(at("mounted"), "").unwrap();
        let inode = std::fs::metadata(at("real")).unwrap().ino();
        let Some(outcome) = run_behind(&room, before, &format!("get {} -o {name}", web.url)) else {
            return eprintln!("skipped: mounts, and gives files to another user");
        };
        outcome.succeeded();
        assert!(room.read("real") == bytes, "{what}");
        assert_eq!(std::fs::metadata(at("real")).unwrap().ino(), inode, "{what}");
        assert_eq!(room.files(), ["mounted", "real"], "{what}");
    }
}

#[test]
fn nobody_who_hears_it_is_no_reason_to_fail() {
    let (room, bytes) = (Room::new(), content(1000));
    let web = Web::serve(bytes.clone());
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = room.darter(&format!("get {}", web.url));
    assert_eq!(command.stderr(full()).status().unwrap().code(), Some(0));
    assert!(room.read("file.bin") == bytes);
    let mut command = room.darter("get ftp://host/file");
    assert_eq!(command.stderr(full()).status().unwrap().code(), Some(2));
    let mut command = room.darter(&format!("get http://{}/other", web.address));
    assert_eq!(command.stderr(full()).status().unwrap().code(), Some(1));
}

#[test]
fn wrong_usage_is_told_in_json_too() {
    let room = Room::new();
    let missing = room.path("missing.toml");
    for (line, said) in [
        ("get --json ftp://host/file".to_owned(), "can't read ftp: URLs"),
        ("get http://host/file --json --no-such-flag".to_owned(), "--no-such-flag"),
        ("get --json".to_owned(), "URL"),
        (format!("config --json --config {}", missing.display()), "missing.toml"),
        ("ls --json --config=".to_owned() + missing.to_str().unwrap(), "missing.toml"),
    ] {
        let told = room.run(&line);
        assert_eq!((told.code, told.err.as_str()), (Some(2), ""), "{line}");
        assert!(told.json()["error"].as_str().unwrap().contains(said), "{line}: {}", told.text());
    }
    assert!(room.run("get --json --help").succeeded().text().contains("Usage:"));
}

#[test]
fn standard_output_by_its_other_name_goes_on_where_it_is() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let mut command = room.darter(&format!("get {} -o /dev/stdout -q", web.url));
    std::fs::write(room.path("out/log"), "before ").unwrap();
    command.stdout(std::fs::File::options().append(true).open(room.path("out/log")).unwrap());
    assert!(command.status().unwrap().success());
    let written = room.read("log");
    assert!(written.starts_with(b"before ") && written[7..] == bytes, "{} bytes", written.len());
}

#[test]
fn credentials_come_from_files_and_the_environment() {
    let room = Room::new();
    let web = Web::requiring(content(1000), "authorization: Basic YW5uOnNlY3JldA==");
    room.run(&format!("get {}", web.url)).failed_with(1, &["credentials"]);
    let secret = "Authorization: Basic YW5uOnNlY3JldA==";
    std::fs::write(room.path("headers"), format!("# mine\n{secret}\n")).unwrap();
    std::fs::write(room.path("netrc"), "machine 127.0.0.1 login ann password secret\n").unwrap();
    room.run(&format!("get {} -o a -H @{}", web.url, room.path("headers").display())).succeeded();
    room.run(&format!("get {} -o b --netrc-file {}", web.url, room.path("netrc").display())).succeeded();
    let mut by_variable = room.darter(&format!("get {} -o c", web.url));
    by_variable.env("DARTER_HEADER", secret);
    Outcome::of(by_variable.output().unwrap()).succeeded();
    let mut by_home = room.darter(&format!("get {} -o d --netrc", web.url));
    by_home.env("NETRC", room.path("netrc"));
    Outcome::of(by_home.output().unwrap()).succeeded();
    assert_eq!(room.files(), ["a", "b", "c", "d"]);
}

#[test]
fn content_that_changes_meanwhile_is_begun_anew_in_the_same_run() {
    let (old, new) = (content(4 * MEGABYTE), content(5 * MEGABYTE).split_off(MEGABYTE / 2));
    let room = Room::new();
    let web = Web::serve(old.clone());
    web.hold_at(old.len() / 2);
    // Its own patience, since a busy machine may take longer than that of the other tests.
    let process = Running::start(room.darter(&format!("get {} --origin-patience 1m", web.url)));
    wait_until("it has begun", || saved(&room.data_dir()) > MEGABYTE as u64);
    web.change_to(new.clone());
    web.break_off();
    web.let_go();
    let outcome = process.end().succeeded();
    assert!(outcome.err.contains("changed while it was read"), "{}", outcome.err);
    assert!(room.read("file.bin") == new);
    assert_eq!(room.files(), ["file.bin"]);
}

/// `--signed-parameter` names what signs addresses at an object store that nobody knows.
#[test]
fn a_configured_signature_is_no_part_of_a_name() {
    let (room, bytes) = (Room::new(), crate::support::content(300_000));
    let web = Web::serve(bytes.clone());
    let daemon = crate::support::Daemon::start(&room, "--signed-parameter ticket");
    for ticket in ["first-secret", "second-secret"] {
        room.run(&format!("get {}?ticket={ticket}&part=1 -o copy", web.url)).succeeded();
        assert_eq!(room.read("copy"), bytes);
    }
    let rows = room.run("ls --json").succeeded().json();
    let names: Vec<_> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, [format!("{}?part=1", web.url)], "one object, one name");
    drop(daemon);
    let log = std::fs::read_to_string(room.path("seed.log")).unwrap();
    assert!(!log.contains("-secret"), "{log}");
}

#[test]
fn without_a_directory_for_temporary_files_what_is_written_to_waits_beside_it() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    std::fs::create_dir_all(room.path("out")).unwrap();
    std::fs::write(room.path("out/one"), "old").unwrap();
    std::fs::hard_link(room.path("out/one"), room.path("out/two")).unwrap();
    // It does not fit into the store, so it comes as bytes.
    let mut get = room.darter(&format!("get {} -o one --quota 1kB", web.url));
    get.env("TMPDIR", room.path("nowhere"));
    Outcome::of(get.output().unwrap()).succeeded();
    assert!(room.read("two") == bytes);
    assert_eq!(room.files(), ["one", "two"]);
}

/// `ulimit -f`: the default of the signal that goes with it ends a process without a word, a daemon too.
#[test]
fn a_limit_of_file_sizes_is_an_error_and_to_a_daemon_a_blob_that_passes_through() {
    let (room, bytes) = (Room::new(), content(6 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let limited = |line: &str| room.darter_by(&["sh", "-c", "ulimit -f 4096; exec \"$@\"", "-"], line);
    let told = Outcome::of(limited(&format!("get {}", web.url)).output().unwrap());
    assert!(told.code.is_some() && told.err.contains("File too large"), "{told:?}");
    assert_eq!(room.files(), [""; 0]);
    let told = Outcome::of(limited(&format!("get {} -o -", web.url)).output().unwrap());
    assert!(
        told.code == Some(1) && told.err.contains("ulimit -f") && !told.err.contains("free some disk"),
        "{}",
        told.err
    );
    let line = format!("seed --local {} --listen {} --log off", free_address(), free_address());
    let mut daemon = Running::start(limited(&line));
    wait_until("it is up", || room.run("status").code == Some(0));
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    assert!(daemon.runs(), "it goes on");
}

/// `sudo -u` leaves the home of another user, and a container's user of an arbitrary number has `/`.
#[test]
fn a_user_without_a_home_of_their_own_gets_all_the_same() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let open = |path: &str, mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(room.path(path), permissions).unwrap();
    };
    std::fs::create_dir(room.path("tmp")).unwrap();
    open("tmp", 0o1777);
    open("", 0o711);
    let root = rustix::process::geteuid().is_root();
    let user = if root { 65534 } else { rustix::process::geteuid().as_raw() };
    let get = || {
        let user: &[_] = if root { &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] } else { &["env"] };
        let mut command = room.darter_by(user, &format!("get {} -o -", web.url));
        command.env_remove("DARTER_DATA_DIR").env_remove("XDG_DATA_HOME");
        command.env("HOME", "/proc").env("TMPDIR", room.path("tmp"));
        Outcome::of(command.output().unwrap())
    };
    assert!(get().succeeded().out == bytes);
    let kept = format!("tmp/darter-{user}");
    assert_eq!(std::fs::metadata(room.path(&kept)).unwrap().mode() & 0o7777, 0o700);
    // Another user may have made it, to change what is in it.
    open(&kept, 0o777);
    get().failed_with(1, &["/proc/", "--data-dir"]);
}
