//! One download without a daemon. The final name shows the right bytes or nothing.

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Room, Running, content, free_address, saved, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;

#[test]
fn the_right_bytes_under_the_name_in_the_url() {
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE + 17));
    let web = Web::serve(bytes.clone());
    let outcome = room.run(&format!("get {} -v", web.url)).succeeded();
    assert!(outcome.out.is_empty(), "standard output is for data");
    assert!(outcome.err.contains("downloading by myself"), "{}", outcome.err);
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
fn into_a_pipe_that_closes_early() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let mut process = Running::start(room.darter(&format!("get {} -o -", web.url)));
    assert!(process.read_stdout(1000) == bytes[..1000]);
    process.close_stdout();
    assert_eq!(process.ended().code(), Some(0));
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
    room.run(&format!("get http://{nobody}/x")).failed_with(1, &[&nobody]);
    room.run("get http://no-such-host.invalid/x").failed_with(1, &["no-such-host.invalid"]);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn a_full_device_is_told() {
    let room = Room::new();
    let web = Web::serve(content(MEGABYTE));
    room.run(&format!("get {} -q -o /dev/full", web.url)).failed_with(1, &["can't write /dev/full", "No space left"]);
}

#[test]
fn headers_reach_the_origin() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::requiring(bytes.clone(), "x-token: t 1");
    room.run(&format!("get {}", web.url)).failed_with(1, &["credentials"]);
    assert_eq!(room.files(), [""; 0]);
    let mut command = room.darter(&format!("get {}", web.url));
    command.args(["-H", "X-Token: t 1", "--header", "accept: x/y"]);
    crate::support::Outcome::of(command.output().unwrap()).succeeded();
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
fn killed_and_asked_again_it_reads_only_what_is_missing() {
    let (room, bytes) = (Room::new(), content(16 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let mut process = Running::start(room.darter(&format!("get {}", web.url)));
    // All but the piece that is under way.
    wait_until("what came is saved", || saved(&room.data_dir()) > bytes.len() as u64 * 7 / 16);
    process.signal(Signal::KILL);
    process.ended();
    assert!(!room.files().contains(&"file.bin".to_owned()), "no half file under the final name");
    web.let_go();
    let outcome = room.run(&format!("get {} -v", web.url)).succeeded();
    assert!(outcome.err.contains("resumed: "), "{}", outcome.err);
    assert!(room.read("file.bin") == bytes);
    let copies = web.sent() as f64 / bytes.len() as f64;
    assert!(copies < 1.1, "{copies} copies were read");
}

#[test]
fn interrupted_it_leaves_no_file_and_resumes() {
    let (room, bytes) = (Room::new(), content(16 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let mut process = Running::start(room.darter(&format!("get {}", web.url)));
    wait_until("what came is saved", || saved(&room.data_dir()) > bytes.len() as u64 * 7 / 16);
    process.signal(Signal::INT);
    process.end().failed_with(1, &["interrupted"]);
    assert_eq!(room.files(), [""; 0]);
    web.let_go();
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    let copies = web.sent() as f64 / bytes.len() as f64;
    assert!(copies < 1.1, "{copies} copies were read");
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
fn two_at_once_wait_for_each_other() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(MEGABYTE);
    let first = Running::start(room.darter(&format!("get {} -o first", web.url)));
    wait_until("the first reads", || web.sent() > 0);
    let mut second = room.darter(&format!("get {} -o second", web.url));
    second.stderr(std::fs::File::create(room.path("second.err")).unwrap());
    let second = Running::start(second);
    wait_until("the second says that it waits", || {
        std::fs::read_to_string(room.path("second.err")).unwrap().contains("waiting")
    });
    web.let_go();
    first.end().succeeded();
    second.end().succeeded();
    assert!(room.read("first") == bytes && room.read("second") == bytes);
}
