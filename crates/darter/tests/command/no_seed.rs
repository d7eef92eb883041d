//! Nodes without a seed: they know each other, choose who reads the origin, and share. And fleets in which something is
//! amiss: agents of other versions, with the same id, behind names, or standing still.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, free_address, sha256, wait_until};
use crate::swarm::{Node, copies, events};

const MEGABYTE: usize = 1_000_000;

impl Node {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.room.path("seed.log")).unwrap()
    }

    /// The local port's answer to a GET.
    pub(crate) fn local(&self, path: &str) -> String {
        let address = self.status()["local"].as_str().unwrap().to_owned();
        local(&address, path)
    }

    /// True if it is connected with `count` other agents.
    pub(crate) fn has_peers(&self, count: usize) -> bool {
        self.status()["peers"].as_array().unwrap().len() == count
    }
}

fn local(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Nodes that join the first of them, and know each other.
fn nodes_alone(count: usize) -> Vec<Node> {
    let (room, first) = (Room::new(), free_address());
    // The first has nobody to join but itself.
    let daemon = Daemon::listening_on(&first, &room, &format!("node --join {first}"));
    let mut nodes = vec![Node { room, daemon }];
    nodes.extend((1..count).map(|_| Node::join(&first, "")));
    for node in &nodes {
        wait_until("all know each other", || node.has_peers(count - 1));
    }
    nodes
}

#[test]
fn a_node_whose_seed_is_dead_pulls_from_the_nodes_that_hold_it_all() {
    let bytes = content(12 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let (seed_room, listen) = (Room::new(), free_address());
    let mut seed = Daemon::listening_on(&listen, &seed_room, "seed");
    let holders = [Node::join(&listen, ""), Node::join(&listen, "")];
    for holder in &holders {
        holder.start_get(&web.url).end().succeeded();
    }
    // It has nothing to do with them as long as there is a seed.
    let mut late = Node::join(&listen, "--download-limit 12MB/s");
    assert!(late.local("/healthz?verbose").contains("seeds connected: 1"));
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    wait_until("the loss of the last seed is told", || late.local("/healthz?verbose").contains("seeds connected: 0 ("));
    assert!(late.local("/metrics").contains("darter_last_seed_lost_total 1"));
    assert!(late.local("/metrics").contains("darter_seeds_connected 0"));
    assert!(late.log().contains("WARN") && late.log().contains("the last seed is gone"), "{}", late.log());

    let told = late.start_get(&web.url).end().succeeded().json();
    assert!(late.has(&bytes));
    assert_eq!(web.sent(), bytes.len() as u64, "two nodes hold it: the origin is not read again");
    assert_eq!(told["traffic"]["from_peers"], bytes.len() as u64, "{}", events(&late.explain(&web.url)));
    let gave = |node: &Node| node.status()["traffic"]["to_peers"].as_u64().unwrap();
    let shares = [gave(&holders[0]), gave(&holders[1])];
    assert!(shares.iter().all(|share| *share > 0), "both give: {shares:?}");

    // Its list of other agents outlives it; that is written within some seconds.
    let second = content(3 * MEGABYTE).split_off(MEGABYTE);
    let digest = sha256(&second);
    let other = Web::serve(second.clone());
    let line = format!("{} --digest {digest}", other.url);
    holders[0].start_get(&line).end().succeeded();
    wait_until("the others are remembered", || {
        std::fs::read_to_string(late.room.data_dir().join("peers"))
            .is_ok_and(|text| text.contains(&holders[0].daemon.listen))
    });
    late.kill();
    late.daemon = Daemon::node(&late.room, &listen, "");
    late.start_get(&line).end().succeeded();
    assert!(late.has(&second));
    assert_eq!(other.sent(), second.len() as u64);
}

#[test]
fn a_fleet_without_any_seed_reads_an_origin_once() {
    let bytes = content(16 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let nodes = nodes_alone(4);
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
        assert!(!node.log().contains("the last seed is gone"), "there was none to lose");
    }
    assert_eq!(web.sent(), bytes.len() as u64, "one of them read it for all");
    // A node that asks later gets the content from those that have it.
    let late = Node::join(&nodes[2].daemon.listen, "");
    late.start_get(&web.url).end().succeeded();
    assert!(late.has(&bytes));
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn a_node_that_knows_only_another_node_finds_the_seed_behind_it_or_goes_through_that_node() {
    for reachable in [true, false] {
        let bytes = content(4 * MEGABYTE);
        let web = Web::serve(bytes.clone());
        let seed_room = Room::new();
        // The advertised address leads nowhere, as behind a firewall that lets only some nodes through.
        let seed = Daemon::start(&seed_room, if reachable { "" } else { "--advertise 127.0.0.1:1" });
        let near = Node::join(&seed.listen, "");
        let far = Node::join(&near.daemon.listen, "");
        far.start_get(&web.url).end().succeeded();
        assert!(far.has(&bytes));
        assert_eq!(far.status()["traffic"]["from_origin"], 0, "{}", events(&far.explain(&web.url)));
        let seed_read = seed_room.run("status --json").succeeded().json()["traffic"]["from_origin"].clone();
        assert_eq!(seed_read, bytes.len() as u64, "the seed reads it for all");
        assert_eq!(web.sent(), bytes.len() as u64);
        let peers = far.status()["peers"].as_array().unwrap().clone();
        assert_eq!(peers.iter().any(|peer| peer["seed"] == true), reachable, "{peers:?}");
    }
}

#[test]
fn without_a_seed_nobody_gets_what_their_credentials_do_not_open() {
    let bytes = content(2 * MEGABYTE);
    let web = Web::requiring(bytes.clone(), "Authorization: Bearer right");
    let nodes = nodes_alone(3);
    let get = |node: &Node, header: &str| {
        let mut command = node.room.darter(&format!("get {} -o got", web.url));
        command.args(["--header", header]);
        Running::start(command).end()
    };
    get(&nodes[0], "Authorization: Bearer right").succeeded();
    for node in &nodes {
        assert_eq!(get(node, "Authorization: Bearer wrong").code, Some(1));
    }
    assert!(!nodes[1].room.path("out/got").exists() && !nodes[2].room.path("out/got").exists());
    get(&nodes[1], "Authorization: Bearer right").succeeded();
    assert!(nodes[1].has(&bytes));
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn the_node_that_leads_dies_and_another_one_reads_on() {
    let bytes = content(16 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let mut nodes = nodes_alone(4);
    let mut gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    wait_until("all have some of it", || {
        nodes.iter().all(|node| node.status()["swarms"][0]["progress"]["held"].as_u64().unwrap_or_default() > 0)
    });
    let leads = |node: &Node| node.status()["traffic"]["from_origin"].as_u64().unwrap() > 0;
    let lead = nodes.iter().position(leads).unwrap();
    nodes[lead].kill();
    web.let_go();
    drop(gets.remove(lead));
    nodes.remove(lead);
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
    }
    assert!(copies(&web, &bytes) < 1.5, "{} copies were read", copies(&web, &bytes));
}

#[test]
fn a_seed_that_stands_still_holds_nobody_up() {
    let bytes = content(3 * MEGABYTE);
    let webs: Vec<_> = (0..5).map(|_| Web::serve(bytes.clone())).collect();
    let (seed_room, other_room, still, well) = (Room::new(), Room::new(), free_address(), free_address());
    let mut seed = Daemon::listening_on(&still, &seed_room, "seed");
    let _other = Daemon::listening_on(&well, &other_room, "seed");
    let node = Node::join(&still, &format!("--join {well}"));
    seed.process.signal(Signal::STOP);
    // It asks both, one blob after the other, whichever comes first.
    for web in &webs[1..] {
        assert!(node.local("/healthz").ends_with("ok\n"));
        node.start_get(&web.url).end().succeeded();
        assert!(node.has(&bytes));
    }
    // A node that starts now is told nothing by it, and serves its host all the same.
    let late = Node::join(&still, "");
    assert!(late.local("/healthz").ends_with("ok\n"));
    late.start_get(&webs[0].url).end().succeeded();
    assert!(late.has(&bytes));
    seed.process.signal(Signal::CONT);
}

#[test]
fn a_seed_that_swallows_packets_keeps_no_node_from_its_host() {
    // Its queue of connections is full, so that the kernel drops every further attempt.
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
    let address: std::net::SocketAddr = free_address().parse().unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let _queued: Vec<_> = (0..3)
        .map(|_| thread::spawn(move || TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1))))
        .collect();
    let node = Node::join(&address.to_string(), "");
    assert!(node.local("/healthz").ends_with("ok\n"));
    assert_eq!(node.status()["seeds"][0]["up"], false);
}

#[test]
fn status_and_doctor_say_why_a_seed_is_not_connected() {
    let room = Room::new();
    let _node = Daemon::node(&room, "127.0.0.1:1", "");
    let why = "127.0.0.1:1 does not answer: cannot connect to 127.0.0.1:1: Connection refused";
    wait_until("the seed was tried", || room.run("status").succeeded().text().contains(why));
    assert!(room.run("status --json").json()["seeds"][0]["reason"].as_str().unwrap().contains("refused"));
    let doctor = room.run("doctor");
    assert!(doctor.text().contains("no seed answers (127.0.0.1:1: cannot connect"), "{}", doctor.text());
}

#[test]
fn a_seed_of_another_version_is_told_once_and_gone_around() {
    let bytes = content(MEGABYTE);
    let (web, other) = (Web::serve(bytes.clone()), Web::serve(bytes.clone()));
    // It says which version it speaks, and hangs up.
    let listener = TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"DRTR\x09\x01\0\0");
        }
    });
    let node = Node::join(&address, "");
    wait_until("it is told", || node.log().contains("speaks version 9"));
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&bytes));
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let both = Node::join(&address, &format!("--join {}", seed.listen));
    both.start_get(&other.url).end().succeeded();
    assert_eq!(both.status()["traffic"]["from_origin"], 0, "the other seed is used");
    assert_eq!(node.log().matches("speaks version 9").count(), 1, "{}", node.log());
}

#[test]
fn two_agents_with_one_id_are_told_by_name() {
    let bytes = content(MEGABYTE);
    let web = Web::serve(bytes.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let first = Node::join(&seed.listen, "");
    wait_until("the first is connected", || first.has_peers(1));
    let second_room = Room::new();
    std::fs::create_dir_all(second_room.data_dir()).unwrap();
    for file in ["node-id", "node-machine"] {
        // A machine without an id has no second file.
        let _ = std::fs::copy(first.room.data_dir().join(file), second_room.data_dir().join(file));
    }
    let daemon = Daemon::node(&second_room, &seed.listen, "");
    let second = Node { room: second_room, daemon };
    let id = first.status()["node"].as_str().unwrap().to_owned();
    assert_eq!(second.status()["node"], id.as_str());
    wait_until("both are told", || {
        [&first, &second].iter().all(|node| node.log().contains("another agent has the id"))
    });
    assert!(first.log().contains(&second.daemon.listen), "{}", first.log());
    assert!(second.log().contains(&first.daemon.listen), "{}", second.log());
    let seed_log = std::fs::read_to_string(seed_room.path("seed.log")).unwrap();
    assert!(seed_log.contains("two agents have one id") && seed_log.contains(&id), "{seed_log}");
    // Neither hangs.
    for node in [&first, &second] {
        node.start_get(&web.url).end().succeeded();
        assert!(node.has(&bytes));
    }
}

#[test]
fn a_node_with_the_id_of_its_seed_goes_on_without_it_and_both_say_so() {
    let bytes = content(MEGABYTE);
    let web = Web::serve(bytes.clone());
    let (seed_room, room) = (Room::new(), Room::new());
    let seed = Daemon::start(&seed_room, "");
    std::fs::create_dir_all(room.data_dir()).unwrap();
    for file in ["node-id", "node-machine"] {
        let _ = std::fs::copy(seed_room.data_dir().join(file), room.data_dir().join(file));
    }
    let daemon = Daemon::node(&room, &seed.listen, "");
    let node = Node { room, daemon };
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&bytes));
    assert!(node.log().contains("two agents with one id"), "{}", node.log());
    let seed_log = std::fs::read_to_string(seed_room.path("seed.log")).unwrap();
    assert!(seed_log.contains("another agent has the id of this one"), "{seed_log}");
}

#[test]
fn a_node_that_is_restarted_is_no_twin_of_itself() {
    let (seed_room, listen) = (Room::new(), free_address());
    let _seed = Daemon::listening_on(&listen, &seed_room, "seed");
    let mut node = Node::join(&listen, "");
    for _ in 0..2 {
        node.kill();
        node.daemon = Daemon::node(&node.room, &listen, "");
        wait_until("it is connected again", || node.has_peers(1));
    }
    let seed_log = std::fs::read_to_string(seed_room.path("seed.log")).unwrap();
    assert!(!seed_log.contains("two agents"), "{seed_log}");
}

#[test]
fn an_agent_that_is_named_among_those_to_join_skips_itself() {
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let (room, me) = (Room::new(), free_address());
    let daemon = Daemon::listening_on(&me, &room, &format!("node --join {me} --join {}", seed.listen));
    let node = Node { room, daemon };
    wait_until("it has the seed", || node.has_peers(1));
    let rows = node.status()["seeds"].as_array().unwrap().clone();
    assert_eq!(rows.len(), 1, "itself is no seed of its own: {rows:?}");
    assert_eq!(rows[0]["up"], true);
}

/// Two seeds and the node itself behind one name, as behind a Kubernetes service without an address of its own: all joined the
/// same seed. The name is known to the node alone, by a mount of its own; where that is not permitted, the test is skipped.
#[test]
fn a_name_to_join_means_all_its_addresses() {
    let own_mounts = |command: &str| {
        let mut unshare = std::process::Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount", "sh", "-c", command]);
        unshare
    };
    if !own_mounts("mount --bind /etc/hosts /etc/hosts").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounts of a process's own are not permitted here");
        return;
    }
    let room = Room::new();
    let address = free_address();
    let (host, port) = address.rsplit_once(':').unwrap();
    // Three hosts of this process's own, at one port.
    let own = host.splitn(3, '.').last().unwrap();
    let hosts = [16, 17, 18].map(|net| format!("127.{net}.{own}"));
    let listen = hosts.clone().map(|host| format!("{host}:{port}"));
    let names = |hosts: &[&String]| hosts.iter().map(|host| format!("{host} seeds\n")).collect::<String>();
    let file = room.path("hosts");
    let rooms = [Room::new(), Room::new()];
    let _first = Daemon::listening_on(&listen[0], &rooms[0], "seed");
    std::fs::write(&file, names(&[&hosts[0], &hosts[2]])).unwrap();
    let darter = env!("CARGO_BIN_EXE_darter");
    let line = format!(
        "mount --bind {hosts} /etc/hosts && exec {darter} node --data-dir {data} --join seeds:{port} --listen {me} \
         --local {local} --insecure",
        hosts = file.display(),
        data = room.data_dir().display(),
        me = listen[2],
        local = free_address(),
    );
    let mut command = own_mounts(&line);
    command.stderr(std::fs::File::create(room.path("seed.log")).unwrap());
    let process = Running::start(command);
    let node = Node { daemon: Daemon { process, listen: listen[2].clone() }, room };
    wait_until("it answers", || node.room.run("status").code == Some(0));
    wait_until("it has the first seed", || node.has_peers(1));
    let _second = Daemon::listening_on(&listen[1], &rooms[1], "seed");
    std::fs::write(&file, names(&[&hosts[0], &hosts[1], &hosts[2]])).unwrap();
    wait_until("it has both", || node.has_peers(2));
    let rows = node.status()["seeds"].as_array().unwrap().clone();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["up"] == true), "{rows:?}");
    assert!(node.log().contains("skipped"), "{}", node.log());
}
