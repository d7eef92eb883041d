//! From a seed's store into a node's, over loopback: each verified, each on a core of its own, all files in memory. The clock runs from
//! the request to the node until it holds and has checked everything.

use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::{Clock, SystemClock};

use crate::bench::fleet::process_of;
use crate::bench::{Bench, Row};
use crate::cluster::{Agent, PEER_PORT};
use crate::netns::Network;
use crate::oci::digest_of;
use crate::race::account::{Ledger, MachineTime};
use crate::race::content::{Content, memory_directory};
use crate::race::course::Nginx;
use crate::race::darter::meet_seed;
use crate::reserve::Reserve;
use crate::socket;

const SEED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How often is looked whether the node is done.
const GLANCE: Duration = Duration::from_millis(10);
/// A node that needs longer is given up.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Measures a node as it is, and one that computes the SHA-256 of the whole by itself.
pub(crate) fn run(bench: &Bench, content: &Content) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (method, flags) in [("darter", &[][..]), ("darter-verify-whole", &["--verify-whole"])] {
        rows.push(measure(bench, content, method, flags)?);
    }
    Ok(rows)
}

fn measure(bench: &Bench, content: &Content, method: &str, flags: &[&str]) -> Result<Row> {
    let network = Network::below(&memory_directory()?)?;
    let host = network.host("both")?;
    let origin = Nginx::start(&host, content)?;
    let last_core = thread::available_parallelism().map_or(1, usize::from) - 1;
    let seed = Agent::on_loopback(&host, SEED, 0, vec!["seed".to_owned()])?;
    let mut arguments = vec!["node".to_owned(), "--join".to_owned(), format!("{SEED}:{PEER_PORT}")];
    arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
    let node = Agent::on_loopback(&host, NODE, last_core, arguments)?;
    meet_seed(&node)?;
    fetch(&seed.socket(), &origin, content)?;

    drop(Reserve::gather(bench.size_kib * 1024 * u64::from(bench.files))?);
    let processes = [process_of(&node)?, process_of(&seed)?];
    let clock = SystemClock::start();
    let machine = MachineTime::now()?;
    let mut ledger = Ledger::open(&processes);
    let start = clock.now();
    fetch(&node.socket(), &origin, content)?;
    let mut row = Row::new(bench, method);
    row.seconds = clock.now().since(start).as_secs_f64();
    ledger.look(&processes);
    row.busy = MachineTime::now()?.busy_since(machine);
    row.cpu = ledger.cpu_of(processes[0]);
    row.seed_cpu = Some(ledger.cpu_of(processes[1]));
    row.peak_memory = ledger.peak();
    // Only of the node as users have it.
    row.goal = flags.is_empty().then(|| bench.goal.clone());
    for (name, digest) in &content.files {
        let copy = host.directory().join(name);
        let output = copy.to_str().context("a copy's path is text")?;
        let digest_text = digest.to_string();
        node.ask(&["get", &origin.url(name), "--digest", &digest_text, "--output", output, "--quiet"])?;
        row.right += u64::from(digest_of(&copy)? == *digest);
        std::fs::remove_file(&copy)?;
    }
    Ok(row)
}

/// Lets an agent fetch all files, and waits until it has.
fn fetch(at: &Path, origin: &Nginx, content: &Content) -> Result<()> {
    let clock = SystemClock::start();
    let mut blobs = Vec::new();
    for (name, digest) in &content.files {
        blobs.push(socket::get(at, &origin.url(name), *digest)?);
    }
    for blob in blobs {
        while !socket::progress(at, blob)?.complete {
            ensure!(clock.now().since(darter_core::Moment::ZERO) < GIVE_UP, "{blob} did not arrive");
            thread::sleep(GLANCE);
        }
    }
    Ok(())
}
