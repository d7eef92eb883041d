//! Fleets in which something is amiss: a seed that can't do what it is asked, addresses to join where somebody else lives,
//! and nodes that find nobody.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread;

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Daemon, Room, content, free_address, saved, sha256, wait_until};
use crate::swarm::{Node, events};

const MEGABYTE: usize = 1_000_000;

/// Somebody who is no agent: says this to whoever connects, and listens on.
fn somebody_else(says: &'static [u8]) -> String {
    let listener = TcpListener::bind(free_address()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.write_all(says);
                let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.read(&mut [0; 4096]));
            });
        }
    });
    address
}

/// It used to be read by each of them.
#[test]
fn what_a_connected_seed_can_not_read_is_read_once_by_a_node_for_all() {
    let bytes = content(4 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let (seed_room, listen) = (Room::new(), free_address());
    // A proxy that is away, as where the seed has no route to this origin.
    let away = [("http_proxy", "http://127.0.0.1:1"), ("no_proxy", "")];
    let _seed = Daemon::listening_with(&listen, &seed_room, "seed", &away);
    let nodes: Vec<_> = (0..4).map(|_| Node::join(&listen, "")).collect();
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&web.url)).collect();
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
    }
    assert_eq!(web.sent(), bytes.len() as u64);
    let told: Vec<_> = nodes.iter().map(|node| events(&node.explain(&web.url))).collect();
    assert_eq!(told.iter().filter(|told| told.contains("reading the origin from here")).count(), 1, "{told:?}");
    assert_eq!(told.iter().filter(|told| told.contains("no seed could take it on")).count(), 3, "{told:?}");
}

#[test]
fn somebody_else_at_an_address_to_join_ends_no_start_beside_a_seed_and_is_told_once() {
    let bytes = content(MEGABYTE);
    let web = Web::serve(bytes.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "");
    for says in ["SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", "", "DRTR"] {
        let stranger = somebody_else(says.as_bytes());
        let node = Node::join(&stranger, &format!("--join {}", seed.listen));
        node.start_get(&web.url).end().succeeded();
        assert!(node.has(&bytes), "{says:?}");
        assert_eq!(node.status()["traffic"]["from_origin"], 0, "{says:?}");
        let told = || node.log().matches(&format!("seed=\"{stranger}\"")).count();
        wait_until("it is told", || told() > 0);
        // It is tried again several times meanwhile.
        thread::sleep(std::time::Duration::from_secs(1));
        assert_eq!(told(), 1, "{}", node.log());
    }
    // Alone, it is a mistake.
    let (room, stranger) = (Room::new(), somebody_else(b"SSH-2.0-OpenSSH_9.9\r\n"));
    let line = format!("node --join {stranger} --listen {} --local {} --insecure", free_address(), free_address());
    let ended = room.run(&line);
    assert!(ended.code == Some(1) && ended.err.contains("is not Darter"), "{}", ended.err);
}

#[test]
fn a_node_that_finds_nobody_says_so_and_shares_once_somebody_meets_it() {
    let bytes = content(MEGABYTE);
    let (web, other) = (Web::serve(bytes.clone()), Web::serve(bytes.clone()));
    let (seed_room, listen) = (Room::new(), free_address());
    let mut seed = Daemon::listening_on(&listen, &seed_room, "seed");
    let holder = Node::join(&listen, "");
    holder.start_get(&web.url).end().succeeded();
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    let lonely = Node::join(&listen, "");
    wait_until("it says so", || lonely.log().contains("no other agent can be reached"));
    assert!(lonely.log().contains("--join") && lonely.log().contains(&listen), "{}", lonely.log());
    assert!(lonely.local("/healthz?verbose").contains("no other agent can be reached"));
    // Nothing tells it of the others; its host is served all the same.
    lonely.start_get(&web.url).end().succeeded();
    assert!(lonely.has(&bytes));
    let _third = Node::join(&lonely.daemon.listen, &format!("--join {}", holder.daemon.listen));
    wait_until("it knows both", || lonely.has_peers(2));
    wait_until("it is not alone", || !lonely.local("/healthz?verbose").contains("no other agent can be reached"));
    holder.start_get(&other.url).end().succeeded();
    lonely.start_get(&other.url).end().succeeded();
    assert_eq!(other.sent(), bytes.len() as u64);
    assert_eq!(lonely.log().matches("no other agent can be reached").count(), 1);
}

/// It died in the middle, and nodes went on without it. It takes nobody's word for what it lacks, and reads no more than that.
#[test]
fn a_seed_that_comes_back_with_a_part_reads_of_the_origin_only_what_it_lacks() {
    let bytes = content(12 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let line = format!("{} --digest {}", web.url, sha256(&bytes));
    web.hold_at(bytes.len() / 2);
    let (seed_room, listen) = (Room::new(), free_address());
    let mut seed = Daemon::listening_on(&listen, &seed_room, "seed");
    let nodes: Vec<_> = (0..2).map(|_| Node::join(&listen, "")).collect();
    let gets: Vec<_> = nodes.iter().map(|node| node.start_get(&line)).collect();
    wait_until("the seed has nearly all of what it was given on its disk", || {
        saved(&seed_room.data_dir()) > 5 * MEGABYTE as u64
    });
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    web.let_go();
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.has(&bytes));
    }
    let sent = web.sent();
    let _seed = Daemon::listening_on(&listen, &seed_room, "seed");
    wait_until("the nodes are back", || {
        nodes.iter().all(|node| node.local("/healthz?verbose").contains("seeds connected: 1"))
    });
    let late = Node::join(&listen, "");
    late.start_get(&line).end().succeeded();
    assert!(late.has(&bytes));
    let read_again = web.sent() - sent;
    assert!(read_again <= bytes.len() as u64 * 5 / 8, "{read_again} {}", events(&late.explain(&web.url)));
}
