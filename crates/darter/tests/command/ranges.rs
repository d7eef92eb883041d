//! `darter get --range`: progress, hosts without a seed or a daemon, and a lead that dies half-way.

use std::fs::File;
use std::process::Stdio;

use rustix::process::Signal;

use crate::support::web::Web;
use crate::support::{Daemon, Room, Running, content, free_address, wait_until};
use crate::swarm::{Node, events};
use crate::top::{read_until, terminal};

const MEGABYTE: usize = 1_000_000;

/// The bytes of `--range 20000000-27999999`.
const RANGE: std::ops::Range<usize> = 20_000_000..28_000_000;

fn get(room: &Room, web: &Web) -> std::process::Command {
    room.darter(&format!("get {} --range {}-{} -o part --json", web.url, RANGE.start, RANGE.end - 1))
}

#[test]
fn progress_is_that_of_the_range_with_a_daemon_and_without() {
    for has_daemon in [true, false] {
        let bytes = content(40 * MEGABYTE);
        let web = Web::serve(bytes.clone());
        web.hold_at(5 * MEGABYTE);
        let room = Room::new();
        let _daemon = has_daemon.then(|| Daemon::start(&room, ""));
        let (mut screen, program): (File, File) = terminal();
        let mut command = get(&room, &web);
        command.env("TERM", "xterm").env("LANG", "C.UTF-8").stderr(Stdio::from(program));
        let process = Running::start(command);
        // Some megabytes of it, as far as its pieces are whole and come in order.
        read_until(&mut screen, " MB of 8.00 MB");
        web.let_go();
        process.end().succeeded();
        assert!(room.read("part") == bytes[RANGE]);
    }
}

#[test]
fn a_node_alone_reads_a_range_of_the_origin_and_no_more() {
    let bytes = content(40 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let node = Node::join(&free_address(), "");
    Running::start(get(&node.room, &web)).end().succeeded();
    assert!(node.room.read("part") == bytes[RANGE]);
    let most = RANGE.len() as u64 + 2_000_000;
    assert!(web.sent() < most, "{} bytes were read", web.sent());
}

/// The seed keeps nothing of it but 32 MiB in memory, and lets go what one node has though the other one never asks for it: else each window would stay
/// until its time is over.
#[test]
fn parts_of_what_does_not_fit_come_to_several_nodes_at_once() {
    let bytes = content(160 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    let seed_room = Room::new();
    let seed = Daemon::start(&seed_room, "--quota 1MB");
    let halves = [0..80 * MEGABYTE, 80 * MEGABYTE..160 * MEGABYTE];
    let nodes = halves.clone().map(|_| Node::join(&seed.listen, "--quota 1MB"));
    let gets: Vec<_> = nodes
        .iter()
        .zip(&halves)
        .map(|(node, half)| {
            let line = format!("get {} --range {}-{} -o part -q", web.url, half.start, half.end - 1);
            Running::start(node.room.darter(&line))
        })
        .collect();
    for get in gets {
        get.end().succeeded();
    }
    for (node, half) in nodes.iter().zip(halves) {
        assert!(node.room.read("part") == bytes[half], "each has its own half");
    }
    let told = events(&seed_room.run(&format!("explain {} --json", web.url)).succeeded().json());
    assert!(told.contains("were dropped"), "{told}");
    let most = bytes.len() as u64 / 4 * 6;
    assert!(web.sent() < most, "{} bytes were read", web.sent());
}

#[test]
fn a_range_goes_on_when_the_lead_dies_half_way() {
    let bytes = content(40 * MEGABYTE);
    let web = Web::serve(bytes.clone());
    web.hold_at(4 * MEGABYTE);
    let seed_room = Room::new();
    let mut seed = Daemon::start(&seed_room, "");
    let nodes = [Node::join(&seed.listen, ""), Node::join(&seed.listen, "")];
    let gets: Vec<_> = nodes.iter().map(|node| Running::start(get(&node.room, &web))).collect();
    let held = |node: &Node| node.status()["swarms"][0]["progress"]["held_bytes"].as_u64().unwrap_or_default();
    wait_until("some of it is passed on", || nodes.iter().all(|node| held(node) > 2_000_000));
    seed.process.signal(Signal::KILL);
    seed.process.ended();
    web.let_go();
    for (get, node) in gets.into_iter().zip(&nodes) {
        get.end().succeeded();
        assert!(node.room.read("part") == bytes[RANGE]);
        let explanation = node.explain(&web.url);
        assert!(events(&explanation).contains("lost the lead"), "{explanation}");
    }
    // Neither of the two reads again what the other one holds.
    let most = RANGE.len() as u64 + 5_000_000;
    assert!(web.sent() < most, "{} bytes were read", web.sent());
}
