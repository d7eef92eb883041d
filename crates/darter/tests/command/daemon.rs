//! A daemon's life, and the commands that talk to it.

use std::io::{Read as _, Write as _};

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, free_address, saved, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;

#[test]
fn get_goes_through_the_daemon_and_says_so() {
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "");
    let outcome = room.run(&format!("get {} -v", web.url)).succeeded();
    let socket = room.data_dir().join("darter.sock").display().to_string();
    assert!(outcome.err.contains(&format!("using the daemon at {socket}")), "{}", outcome.err);
    assert!(room.read("file.bin") == bytes);

    let told = room.run(&format!("get {} -o again --json", web.url)).succeeded().json();
    assert_eq!(told["daemon"], socket);
    assert_eq!(told["digest"], sha256(&bytes));
    assert!(room.read("again") == bytes);
    assert_eq!(web.sent(), bytes.len() as u64, "the second came from the store");

    let told = room.run(&format!("get {} -o alone --no-daemon --json", web.url)).succeeded().json();
    assert_eq!(told["resumed_bytes"], 0, "{told}");
    assert_eq!((&told["daemon"], &told["placed"]), (&serde_json::Value::Null, &"moved".into()));
    assert!(room.read("alone") == bytes);
    wait_until("the daemon's copy is there and no other", || {
        (3..4).contains(&(saved(&room.data_dir()) / MEGABYTE as u64))
    });
}

/// The account of a get is its own: what came for it, and what was here before.
#[test]
fn a_get_of_what_is_here_says_that_nothing_came_for_it() {
    let room = Room::new();
    // The smaller one is whole before its download is open.
    for length in [3 * MEGABYTE, 1000] {
        let web = Web::serve(content(length));
        let mut daemon = Daemon::start(&room, "");
        let account = |more: &str| {
            let told = room.run(&format!("get {} -o file --json{more}", web.url)).succeeded().json();
            std::fs::remove_file(room.path("out/file")).unwrap();
            let traffic = &told["traffic"];
            let number = |value: &serde_json::Value| value.as_u64().unwrap();
            [&traffic["from_origin_bytes"], &traffic["to_local_bytes"], &told["resumed_bytes"]].map(number)
        };
        let all = length as u64;
        assert_eq!(account(""), [all, all, 0], "{length}");
        for _ in 0..2 {
            assert_eq!(account(""), [0, all, all], "{length}");
        }
        assert_eq!(account(" --range 100-199"), [0, 100, 100], "{length}");
        daemon.process.signal(Signal::TERM);
        daemon.process.ended();
        let _daemon = Daemon::start(&room, "");
        assert_eq!(account(""), [0, all, all], "{length}, after a restart");
    }
}

#[test]
fn a_daemons_file_is_handed_over_and_shared_where_that_can_be() {
    use std::os::unix::fs::MetadataExt as _;
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "");
    let told = room.run(&format!("get {} --link --json", web.url)).succeeded().json();
    assert!(room.read("file.bin") == bytes);
    let links = std::fs::metadata(room.path("out/file.bin")).unwrap().nlink();
    assert!(told["placed"] == "reflink" || (told["placed"] == "hardlink" && links == 2), "{told} {links}");
    // A hard link is the store's file: a get to the same name replaces it, and does not write into the store.
    let told = room.run(&format!("get {}?2 -o file.bin --json", web.url)).succeeded().json();
    assert_ne!(told["placed"], "hardlink");
    room.run(&format!("get {} -o again", web.url)).succeeded();
    assert!(room.read("again") == bytes);
    // Into a pipe it goes, too.
    assert!(room.run(&format!("get {} -o -", web.url)).succeeded().out == bytes);
}

/// The daemon may be upgraded before those who use it: a client that knows nothing of orders and digests is given its parts in
/// order, in the frames that it knows.
#[test]
fn a_client_of_the_release_before_is_served() {
    use std::io::{Read as _, Write as _};
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "");
    for _ in 0..2 {
        let mut stream = std::os::unix::net::UnixStream::connect(room.data_dir().join("darter.sock")).unwrap();
        let body = format!("{{\"url\":\"{}\",\"headers\":[],\"digest\":null}}", web.url);
        let head = "POST /v1/get HTTP/1.1\r\nhost: darter\r\ncontent-type: application/json\r\nconnection: upgrade\r\n\
                    upgrade: darter-file\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101") && !head.contains("darter-order"), "{head}");
        stream.write_all(b"+").unwrap();
        let (mut frames, mut at) = (Vec::new(), 0);
        // The descriptor is lost on who reads in this way; its frame is not.
        stream.read_to_end(&mut frames).unwrap();
        let numbers = |frame: &[u8]| [1, 9].map(|from| u64::from_le_bytes(frame[from..from + 8].try_into().unwrap()));
        let frames: Vec<_> = frames.chunks(17).map(|frame| (frame[0], numbers(frame))).collect();
        for (kind, [a, b]) in &frames {
            match kind {
                1 => {}
                2 => {
                    assert_eq!(*a, at, "{frames:?}");
                    at = *b;
                }
                4 => assert_eq!((*a, *b), (at, 0), "{frames:?}"),
                _ => panic!("{frames:?}"),
            }
        }
        assert_eq!((frames.last().unwrap().0, at), (4, bytes.len() as u64));
    }
}

#[test]
fn digests_are_those_that_the_daemon_checked_and_are_computed_again_only_if_asked() {
    let (room, bytes) = (Room::new(), content(3 * MEGABYTE));
    let (right, wrong) = (sha256(&bytes), sha256(b"something else"));
    let web = Web::serve(bytes.clone());
    let _daemon = Daemon::start(&room, "");
    for more in ["", " --verify-whole", " --sync", &format!(" --digest {right}")] {
        let told = room.run(&format!("get {} -o copy --json{more}", web.url)).succeeded().json();
        assert_eq!(told["digest"], right, "{more}");
        assert!(room.read("copy") == bytes);
        std::fs::remove_file(room.path("out/copy")).unwrap();
    }
    for more in ["", " --verify-whole"] {
        room.run(&format!("get {} -o copy --digest {wrong}{more}", web.url)).failed_with(1, &["wrong content"]);
        room.run(&format!("get {} -o - --digest {wrong}{more}", web.url)).failed_with(1, &["wrong content"]);
    }
    let whole = room.run(&format!("get {} -o - --verify-whole --digest {right}", web.url)).succeeded();
    assert!(whole.out == bytes);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn a_get_whose_daemon_is_stopped_says_what_is_kept_and_how_to_go_on() {
    let (room, bytes) = (Room::new(), content(8 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let mut daemon = Daemon::start(&room, "--drain-timeout 0s");
    let get = Running::start(room.darter(&format!("get {}", web.url)));
    wait_until("half of it is saved", || saved(&room.data_dir()) > 3 * MEGABYTE as u64);
    daemon.process.signal(Signal::TERM);
    let told =
        ["the daemon was stopped before the download finished (", " of 8.0 MB are kept", "run the same command again"];
    get.end().failed_with(75, &told);
    drop(daemon);
    web.let_go();
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
}

/// journald, a container's runtime and a file take no more when their disk hangs.
#[test]
fn a_log_that_nobody_takes_holds_up_nothing() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let web = Web::serve(bytes.clone());
    let (listen, local) = (free_address(), free_address());
    let mut command = room.darter(&format!("seed --listen {listen} --local {local} --log trace"));
    let (unread, place) = std::os::unix::net::UnixStream::pair().unwrap();
    command.stderr(std::process::Stdio::from(std::os::fd::OwnedFd::from(place)));
    let mut daemon = Running::start(command);
    wait_until("it answers", || room.run("status").code == Some(0));
    // Each is told in a line: far more than any pipe takes.
    for _ in 0..3000 {
        let mut stranger = std::net::TcpStream::connect(&listen).unwrap();
        stranger.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let read = stranger.read(&mut [0; 64]).map_err(|error| error.kind());
        assert_ne!(read, Err(std::io::ErrorKind::WouldBlock), "it is turned away, or reset");
    }
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().code(), Some(0));
    drop(unread);
}

#[test]
fn a_daemon_passes_on_what_the_origin_says() {
    let room = Room::new();
    let web = Web::requiring(content(1000), "x-token: t");
    let _daemon = Daemon::start(&room, "");
    room.run(&format!("get {}", web.url)).failed_with(1, &["credentials"]);
    let wrong = sha256(b"something else");
    let mut command = room.darter(&format!("get {} --digest {wrong}", web.url));
    command.args(["-H", "x-token: t"]);
    crate::support::Outcome::of(command.output().unwrap()).failed_with(1, &["wrong content"]);
    let nobody = free_address();
    room.run(&format!("get http://{nobody}/x"))
        .failed_with(75, &[&nobody, "check the host name", "Connection refused"]);
    assert_eq!(room.files(), [""; 0]);
}

#[test]
fn what_is_here_where_it_came_from_and_away_with_it() {
    let (room, bytes) = (Room::new(), content(2 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    let daemon = Daemon::start(&room, "--label rack=7 --quota 1GB");
    let blob = room.run(&format!("get {} --json", web.url)).succeeded().json()["blob"].as_str().unwrap().to_owned();

    let status = room.run("status --json").succeeded().json();
    assert_eq!((&status["role"], &status["listen"]), (&"seed".into(), &daemon.listen.as_str().into()));
    assert_eq!((&status["labels"]["rack"], &status["store"]["quota"]), (&"7".into(), &1_000_000_000.into()));
    assert_eq!(status["traffic"]["from_origin"], bytes.len());
    assert!(room.run("status").succeeded().text().contains("rack=7"));

    let list = room.run("ls --json").succeeded().json();
    assert_eq!((&list[0]["blob"], &list[0]["complete"]), (&blob.clone().into(), &true.into()));
    assert!(room.run("ls").succeeded().text().contains(&web.url));

    for name in [&blob[..8], &blob, &web.url] {
        let told = room.run(&format!("explain {name} --json")).succeeded().json();
        assert_eq!(told["blob"], blob, "{name}");
        assert_eq!(told["traffic"]["from_origin"], bytes.len());
        assert_eq!(told["ranges"][0]["from"]["kind"], "origin");
    }
    assert!(room.run(&format!("explain {}", web.url)).succeeded().text().contains("origin"));
    room.run("explain http://never/asked").failed_with(1, &["http://never/asked"]);

    room.run(&format!("rm {}", &blob[..8])).succeeded();
    assert_eq!(room.run("ls --json").succeeded().json(), serde_json::json!([]));
    room.run(&format!("rm {blob}")).failed_with(1, &[]);
    room.run(&format!("get {} -o again", web.url)).succeeded();
    assert_eq!(web.sent(), 2 * bytes.len() as u64, "removed is read anew");
}

#[test]
fn sigterm_lets_a_transfer_end() {
    let (room, bytes) = (Room::new(), content(6 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 3);
    let mut daemon = Daemon::start(&room, "");
    let get = Running::start(room.darter(&format!("get {}", web.url)));
    wait_until("a third is read", || web.sent() >= bytes.len() as u64 / 3);
    daemon.process.signal(Signal::TERM);
    wait_until("it drains", || std::fs::read_to_string(room.path("seed.log")).unwrap().contains("shutting down"));
    web.let_go();
    get.end().succeeded();
    assert!(room.read("file.bin") == bytes);
    assert_eq!(daemon.process.ended().code(), Some(0));
    room.run("status").failed_with(1, &["no daemon"]);
    // Nothing of the old one is in the way of a new one, which still has the content.
    let _daemon = Daemon::start(&room, "");
    room.run(&format!("get {} -o again", web.url)).succeeded();
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn a_second_signal_ends_the_wait() {
    let (room, bytes) = (Room::new(), content(40 * MEGABYTE));
    let web = Web::serve(bytes);
    web.hold_at(MEGABYTE);
    let mut daemon = Daemon::start(&room, "--drain-timeout 1h");
    let _get = Running::start(room.darter(&format!("get {}", web.url)));
    wait_until("it reads", || web.sent() > 0);
    daemon.process.signal(Signal::TERM);
    wait_until("it drains", || std::fs::read_to_string(room.path("seed.log")).unwrap().contains("shutting down"));
    assert!(daemon.process.runs());
    daemon.process.signal(Signal::INT);
    assert_eq!(daemon.process.ended().code(), Some(1));
}

#[test]
fn a_daemon_that_is_killed_leaves_no_half_file_and_keeps_its_pieces() {
    let (room, bytes) = (Room::new(), content(16 * MEGABYTE));
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let mut daemon = Daemon::start(&room, "");
    let get = Running::start(room.darter(&format!("get {}", web.url)));
    // All but the piece that is under way.
    wait_until("what came is saved", || saved(&room.data_dir()) > bytes.len() as u64 * 7 / 16);
    daemon.process.signal(Signal::KILL);
    daemon.process.ended();
    get.end().failed_with(75, &["run the command again"]);
    assert_eq!(room.files(), [""; 0]);
    web.let_go();
    let _daemon = Daemon::start(&room, "");
    room.run(&format!("get {}", web.url)).succeeded();
    assert!(room.read("file.bin") == bytes);
    let copies = web.sent() as f64 / bytes.len() as f64;
    assert!(copies < 1.1, "{copies} copies were read");
}

#[test]
fn a_taken_port_is_told_with_its_flag() {
    let (room, other) = (Room::new(), Room::new());
    let daemon = Daemon::start(&room, "");
    let listen = &daemon.listen;
    let free = free_address();
    other
        .run(&format!("seed --log off --insecure --listen {listen} --local {free}"))
        .failed_with(1, &[listen, "--listen"]);
    other
        .run(&format!("seed --log off --insecure --listen {free} --local {listen}"))
        .failed_with(1, &[listen, "--local"]);
}

#[test]
fn a_data_directory_in_use_is_told() {
    let room = Room::new();
    let _daemon = Daemon::start(&room, "");
    let (listen, local) = (free_address(), free_address());
    room.run(&format!("seed --log off --insecure --listen {listen} --local {local}"))
        .failed_with(1, &[room.data_dir().to_str().unwrap()]);
}

#[test]
fn joining_something_else_is_told() {
    let room = Room::new();
    // As sshd and mail servers do; one that waits to be spoken to can't be told from an agent that stands still.
    let listener = std::net::TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = std::io::Write::write_all(&mut stream, b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    let (listen, local) = (free_address(), free_address());
    room.run(&format!("node --log off --insecure --listen {listen} --local {local} --join {address}"))
        .failed_with(1, &["join", &address]);
}

/// A server that asks to be let alone for a while, and then gives the content.
fn busy_at_first(content: Vec<u8>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let head = match number {
                0 => "503 Service Unavailable\r\nRetry-After: 4\r\nContent-Length: 0".to_owned(),
                _ => format!("200 OK\r\nContent-Length: {}", content.len()),
            };
            let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
            if number > 0 {
                let _ = stream.write_all(&content);
            }
        }
    });
    host
}

#[test]
fn a_get_says_that_the_daemon_waits_for_an_origin() {
    let (room, bytes) = (Room::new(), content(MEGABYTE));
    let _daemon = Daemon::start(&room, "--origin-patience 1m");
    let host = busy_at_first(bytes.clone());
    let told = room.run(&format!("get http://{host}/a")).succeeded();
    for part in [&format!("waiting for origin {host}: "), "HTTP 503 Service Unavailable", "retrying in "] {
        assert!(told.err.contains(part), "{part:?} is not in {:?}", told.err);
    }
    assert_eq!(told.err.matches("waiting for origin").count(), 1, "{}", told.err);
    assert!(room.read("a") == bytes);
    // As JSON for programs, and not at all with --quiet.
    let told = room.run(&format!("get http://{}/b --json", busy_at_first(bytes.clone()))).succeeded();
    let event: serde_json::Value = serde_json::from_str(told.err.lines().next().unwrap()).unwrap();
    assert_eq!(event["event"], "waiting");
    assert!(event["waiting"]["reason"].as_str().unwrap().contains("HTTP 503"), "{event}");
    assert_eq!(told.json()["bytes"], bytes.len());
    let told = room.run(&format!("get http://{}/c --quiet", busy_at_first(bytes))).succeeded();
    assert_eq!(told.err, "");
}

#[test]
fn a_daemon_that_stands_still_is_said_to_not_answer_and_waited_for() {
    let (room, bytes) = (Room::new(), content(100_000));
    let web = Web::serve(bytes.clone());
    let mut daemon = Daemon::start(&room, "");
    daemon.process.signal(Signal::STOP);
    let lines = ["status".to_owned(), format!("get {}", web.url)];
    let asking = lines.map(|line| {
        let mut command = room.darter(&line);
        let log = room.path(line.split(' ').next().unwrap());
        command.stderr(std::fs::File::create(&log).unwrap());
        (Running::start(command), log)
    });
    let told = |log: &std::path::Path| std::fs::read_to_string(log).unwrap().contains("has not answered for 5 s");
    wait_until("both say so", || asking.iter().all(|(_, log)| told(log)));
    daemon.process.signal(Signal::CONT);
    for (asked, _) in asking {
        asked.end().succeeded();
    }
    assert!(room.read("file.bin") == bytes);
}
