//! Downloads that are killed or interrupted, and asked for again.

use super::*;

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
fn interrupted_it_says_what_is_kept_and_dies_of_the_signal() {
    let (room, bytes) = (Room::new(), content(16 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    for (signal, more) in [(Signal::INT, 8 * MEGABYTE), (Signal::TERM, MEGABYTE), (Signal::HUP, MEGABYTE)] {
        let until = web.sent() + more as u64;
        web.hold_at(until.try_into().unwrap());
        // A test that runs in the background of a script or under `nohup` ignores signals, and so would what it starts.
        let line = format!("get {}", web.url);
        let mut process = Running::start(room.darter_by(&["env", "--default-signal=INT,TERM,HUP"], &line));
        wait_until("some is read", || web.sent() >= until);
        wait_until("what came is saved", || saved(&room.data_dir()) > bytes.len() as u64 * 6 / 16);
        process.signal(signal);
        let outcome = process.end();
        assert_eq!(outcome.signal, Some(signal.as_raw()), "a shell's loop ends with it");
        for part in ["interrupted; ", " of 16.0 MB are kept", "run the same command again"] {
            assert!(outcome.err.contains(part), "{part:?} is not in {:?}", outcome.err);
        }
        assert_eq!(room.files(), [""; 0]);
    }
    web.let_go();
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    let copies = web.sent() as f64 / bytes.len() as f64;
    assert!(copies < 1.3, "{copies} copies were read");
    assert_eq!(saved(&room.data_dir()), 0, "no second copy");
}

/// No signal ends the first process of a container that does not want it, and `docker run` passes its exit code on.
#[test]
fn the_first_process_of_a_container_ends_with_the_code_of_the_signal() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: makes a namespace");
    }
    let room = Room::new();
    let web = Web::serve(content(4 * MEGABYTE));
    web.hold_at(2 * MEGABYTE);
    let line = format!("get {}", web.url);
    let mut process = Running::start(room.darter_by(&["unshare", "--pid", "--fork", "--kill-child"], &line));
    wait_until("it has begun", || web.sent() > 0);
    process.signal_child(Signal::TERM);
    assert_eq!(process.ended().code(), Some(128 + 15));
}

/// As shells start jobs in the background of a script.
#[test]
fn an_interrupt_that_it_was_started_to_ignore_is_ignored() {
    let (room, bytes) = (Room::new(), content(4 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(MEGABYTE);
    let get = room.darter(&format!("get {}", web.url));
    let mut deaf = Command::new("env");
    deaf.arg("--ignore-signal=INT").args(get.get_args().skip(1)).current_dir(room.path("out"));
    deaf.envs(get.get_envs().filter_map(|(name, value)| Some((name, value?))));
    deaf.stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = Running::start(deaf);
    wait_until("some is read", || web.sent() >= MEGABYTE as u64);
    process.signal(Signal::INT);
    web.let_go();
    assert_eq!(process.ended().code(), Some(0));
    assert!(room.read("file.bin") == bytes);
}
