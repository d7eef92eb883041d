//! A seed and nodes as processes: the origin is read once, nodes give to each other, and whoever dies is survived.

use rustix::process::Signal;
use serde_json::Value;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, files_below, free_address, saved, sha256, wait_until};

const MEGABYTE: usize = 1_000_000;

/// A node with a room of its own.
pub(crate) struct Node {
    pub(crate) room: Room,
    pub(crate) daemon: Daemon,
}

impl Node {
    pub(crate) fn join(seed: &str, more: &str) -> Self {
        let room = Room::new();
        let daemon = Daemon::node(&room, seed, more);
        Self { room, daemon }
    }

    pub(crate) fn start_get(&self, url: &str) -> Running {
        Running::start(self.room.darter(&format!("get {url} -o got --json")))
    }

    pub(crate) fn has(&self, bytes: &[u8]) -> bool {
        self.room.read("got") == bytes
    }

    pub(crate) fn status(&self) -> Value {
        self.room.run("status --json").succeeded().json()
    }

    /// How much it holds of the only blob on its way, in bytes.
    fn held(&self) -> u64 {
        self.status()["swarms"][0]["progress"]["held_bytes"].as_u64().unwrap_or_default()
    }

    pub(crate) fn explain(&self, url: &str) -> Value {
        self.room.run(&format!("explain {url} --json")).succeeded().json()
    }

    pub(crate) fn kill(&mut self) {
        self.daemon.process.signal(Signal::KILL);
        self.daemon.process.ended();
    }
}

pub(crate) fn copies(web: &Web, bytes: &[u8]) -> f64 {
    web.sent() as f64 / bytes.len() as f64
}

pub(crate) fn events(explanation: &Value) -> String {
    let events = explanation["events"].as_array().unwrap();
    events.iter().map(|event| event["what"].as_str().unwrap()).collect::<Vec<_>>().join("; ")
}

#[test]
fn the_origin_is_read_once_and_nodes_give_to_each_other() {
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "--upload-limit 6MB/s");
    let nodes: Vec<_> = (0..3).map(|_| Node::join(&seed.listen, "")).collect();
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    let mut from_peers = 0;
    for (get, node) in gets.into_iter().zip(&nodes) {
        let told = get.end().succeeded().json();
        assert!(node.has(&bytes));
        assert_eq!(told["traffic"]["from_origin"], 0, "{}", events(&node.explain(&web.url)));
        let [seeds, peers] = ["from_seed", "from_peers"].map(|giver| told["traffic"][giver].as_u64().unwrap());
        assert_eq!(seeds + peers, bytes.len() as u64, "every piece is counted once: {told}");
        from_peers += peers;
    }
    assert_eq!(web.sent(), bytes.len() as u64, "the origin was read once");
    let sent = seed_room.run("status --json").succeeded().json()["traffic"]["to_peers"].as_u64().unwrap();
    // Three copies are wanted. The seed need not send more than one, but gives again what members that are short of time are
    // late to confirm.
    assert!(sent < 2 * bytes.len() as u64, "the seed sent {sent} bytes");
    assert!(from_peers > bytes.len() as u64, "peers gave {from_peers} bytes");
}

#[test]
fn a_node_that_joins_half_way_gets_the_held_part_at_once() {
    let bytes = content(12 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let early = Node::join(&seed.listen, "");
    let get = early.start_get(&web.url);
    wait_until("half is read", || web.sent() >= bytes.len() as u64 / 2);
    let late = Node::join(&seed.listen, "");
    let late_get = late.start_get(&web.url);
    wait_until("the late one has what there is, before the origin is read out", || {
        late.held() > bytes.len() as u64 / 3
    });
    web.let_go();
    get.end().succeeded();
    late_get.end().succeeded();
    assert!(early.has(&bytes) && late.has(&bytes));
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn without_a_seed_a_node_reads_the_origin_itself() {
    let bytes = content(3 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let node = Node::join(&free_address(), "");
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&bytes));
    let explanation = node.explain(&web.url);
    assert_eq!(explanation["traffic"]["from_origin"], bytes.len() as u64);
    assert!(events(&explanation).contains("no seed is connected"), "{explanation}");
}

#[test]
fn the_seed_dies_and_the_members_finish_with_one_of_them_reading_on() {
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let seed_room = Room::new();
    let mut seed = Daemon::start(&seed_room, "");
    let nodes: Vec<_> = (0..3).map(|_| Node::join(&seed.listen, "")).collect();
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    // Each of the two others and the seed.
    wait_until("what was read is passed on, and all have met", || {
        nodes.iter().all(|node| node.held() > bytes.len() as u64 / 3 && node.status()["swarms"][0]["members"] == 3)
    });
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    web.let_go();
    let mut readers = 0;
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
        let explanation = node.explain(&web.url);
        assert!(events(&explanation).contains("lost the lead"), "{explanation}");
        readers += u32::from(explanation["traffic"]["from_origin"].as_u64().unwrap() > 0);
    }
    assert_eq!(readers, 1, "one member reads the rest for all");
    // Only pieces that the dead seed alone had, or that were on their way to it, are read again.
    let copies = copies(&web, &bytes);
    assert!(copies < 1.3, "{copies} copies were read");
}

#[test]
fn a_seed_that_comes_back_leads_again() {
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 3);
    let (seed_room, listen) = (Room::new(), free_address());
    let mut seed = Daemon::listening_on(&listen, &seed_room, "seed");
    let nodes: Vec<_> = (0..2).map(|_| Node::join(&listen, "")).collect();
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    wait_until("both have some of it", || nodes.iter().all(|node| node.held() > 0));
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    let _seed = Daemon::listening_on(&listen, &seed_room, "seed");
    for node in &nodes {
        wait_until("the seed leads again", || events(&node.explain(&web.url)).contains("leads again"));
    }
    web.let_go();
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
    }
    let copies = copies(&web, &bytes);
    assert!(copies < 1.5, "{copies} copies were read");
}

#[test]
fn a_peer_dies_and_nobody_else_notices() {
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() * 3 / 4);
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "--upload-limit 8MB/s");
    let mut nodes: Vec<_> = (0..3).map(|_| Node::join(&seed.listen, "")).collect();
    let mut gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    wait_until("the victim has given something", || nodes[2].status()["traffic"]["to_peers"].as_u64().unwrap() > 0);
    nodes[2].kill();
    web.let_go();
    let victim = gets.pop().unwrap();
    assert_ne!(victim.end().code, Some(0));
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
    }
    assert_eq!(web.sent(), bytes.len() as u64, "the origin was read once");
}

#[test]
fn a_node_that_is_killed_goes_on_from_its_pieces() {
    let bytes = content(24 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(bytes.len() / 2);
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let mut node = Node::join(&seed.listen, "");
    let get = node.start_get(&web.url);
    // All but the piece that is under way.
    wait_until("what came is saved", || saved(&node.room.data_dir()) > bytes.len() as u64 * 7 / 16);
    node.kill();
    assert_ne!(get.end().code, Some(0));
    web.let_go();
    node.daemon = Daemon::node(&node.room, &seed.listen, "");
    let told = node.start_get(&web.url).end().succeeded().json();
    assert!(node.has(&bytes));
    let moved = told["traffic"]["from_seed"].as_u64().unwrap();
    assert!(moved < bytes.len() as u64 * 6 / 10, "{moved} bytes came again");
    assert!(events(&node.explain(&web.url)).contains("resumed with"));
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn a_seed_that_lost_its_disk_takes_no_nodes_word_for_what_the_pieces_are_and_reads_them_once() {
    let bytes = content(6 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let (first_room, listen) = (Room::new(), free_address());
    let mut seed = Daemon::listening_on(&listen, &first_room, "seed");
    let holder = Node::join(&listen, "");
    let line = format!("{} --digest {}", web.url, sha256(&bytes));
    holder.start_get(&line).end().succeeded();
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    let second_room = Room::new();
    let _seed = Daemon::listening_on(&listen, &second_room, "seed");
    let second = second_room.run("status --json").succeeded().json()["node"].clone();
    wait_until("the holder is back", || {
        let known = holder.status()["seeds"][0].clone();
        known["up"] == true && known["node"] == second
    });
    // It said what it holds before it asks, on the same connection.
    holder.start_get(&line).end().succeeded();
    let newcomer = Node::join(&listen, "");
    newcomer.start_get(&line).end().succeeded();
    assert!(newcomer.has(&bytes));
    // And perhaps a sample, which shows that the origin gives the same to this caller.
    let again = web.sent() - bytes.len() as u64;
    assert!(again <= bytes.len() as u64 + 1024, "it is read once for all: {again}");
    let explanation = second_room.run(&format!("explain {} --json", sha256(&bytes))).succeeded().json();
    assert!(events(&explanation).contains("1 nodes say that they hold it"), "{explanation}");
}

#[test]
fn a_changed_origin_is_a_new_blob() {
    let (old, new) = (content(2 * MEGABYTE), content(3 * MEGABYTE).split_off(MEGABYTE / 2));
    let web = Web::serve(old.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let node = Node::join(&seed.listen, "");
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&old));
    node.start_get(&web.url).end().succeeded();
    assert_eq!(web.sent(), old.len() as u64, "unchanged: asked, not read");
    assert!(web.heads().iter().any(|head| head.to_lowercase().contains("if-none-match")));
    web.change_to(new.clone());
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&new));
    assert_eq!(web.sent(), (old.len() + new.len()) as u64);
}

#[test]
fn an_origin_that_tells_nothing_is_served_right() {
    let bytes = content(5 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.tell_nothing();
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let nodes: Vec<_> = (0..2).map(|_| Node::join(&seed.listen, "")).collect();
    for node in &nodes {
        node.start_get(&web.url).end().succeeded();
        assert!(node.has(&bytes));
    }
    // Nothing tells whether it is still the same: each use reads it.
    assert_eq!(web.sent(), 2 * bytes.len() as u64);
}

#[test]
fn nobody_gets_what_their_credentials_do_not_open() {
    let bytes = content(2 * MEGABYTE);
    let web = Web::requiring(bytes.clone(), "Authorization: Bearer right");
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let nodes: Vec<_> = (0..2).map(|_| Node::join(&seed.listen, "")).collect();
    let get = |node: &Node, header: &str| {
        let mut command = node.room.darter(&format!("get {} -o got", web.url));
        command.args(["--header", header]);
        Running::start(command).end()
    };
    get(&nodes[0], "Authorization: Bearer right").succeeded();
    // Both the seed and this very node have it by now.
    for node in &nodes {
        assert_eq!(get(node, "Authorization: Bearer wrong").code, Some(1));
    }
    assert!(!nodes[1].room.path("out/got").exists());
    get(&nodes[1], "Authorization: Bearer right").succeeded();
    assert!(nodes[1].has(&bytes));
    assert_eq!(web.sent(), bytes.len() as u64);
}

#[test]
fn a_bit_that_flips_on_a_disk_is_found_before_it_is_served() {
    let bytes = content(4 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    let node = Node::join(&seed.listen, "");
    node.start_get(&web.url).end().succeeded();
    let mut files = files_below(&node.room.data_dir()).into_iter();
    let data = files.find(|path| path.extension().is_some_and(|extension| extension == "data")).unwrap();
    let mut damaged = std::fs::read(&data).unwrap();
    damaged[MEGABYTE] ^= 1;
    std::fs::write(&data, damaged).unwrap();
    node.start_get(&web.url).end().succeeded();
    assert!(node.has(&bytes));
}
