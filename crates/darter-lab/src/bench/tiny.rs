//! Many small files through a node's mirror, one after another on one connection, as a client that waits for each.
//!
//! The base is the same client, on the same host, that reads the same files in the same way from the origin's nginx. The time that a file
//! takes beyond that is Darter's own. Three rows: the origin itself; a node whose seed has nothing yet (*cold*), so that each file crosses
//! origin, seed and node; and a second node, whose seed has everything (*seeded*).

use std::net::SocketAddr;

use anyhow::Result;

use crate::bench::fleet::{self, counter, mirror, mirrored, process_of};
use crate::bench::{Bench, Row};
use crate::cluster::{Agent, PEER_PORT};
use crate::getter::Getter;
use crate::netns::{Host, Network};
use crate::race::content::{Content, memory_directory};
use crate::race::course::{HTTP_PORT, Nginx};
use crate::race::darter::meet_seed;

/// Measures the origin and then two nodes.
pub(crate) fn run(bench: &Bench, content: &Content) -> Result<Vec<Row>> {
    let manifest = content.as_registry(fleet::REPOSITORY)?;
    let network = Network::below(&memory_directory()?)?;
    let [origin, seed_host, first, second] =
        [network.host("origin")?, network.host("seed")?, network.host("first")?, network.host("second")?];
    let nginx = Nginx::start(&origin, content)?;
    let url = format!("http://{}", origin.address());
    let address = SocketAddr::from((origin.address(), HTTP_PORT));
    let at_origin: Vec<String> =
        content.files.iter().map(|(_, digest)| format!("/v2/{}/blobs/{digest}", fleet::REPOSITORY)).collect();
    let right = fleet::count_right(&first, address, &at_origin, content)?;
    let taken = fleet::read_all(&first, address, &at_origin, bench.rounds, &[nginx.process.id()])?;
    let mut plain = Row::new(bench, "nginx");
    plain.take(&taken);
    plain.right = right;

    let flags = fleet::upstream(&url);
    let seed = Agent::with_arguments(&seed_host, [vec!["seed".to_owned()], flags.to_vec()].concat())?;
    let mut rows = vec![plain];
    for (host, method) in [(&first, "darter-cold"), (&second, "darter-seeded")] {
        let join = ["node".to_owned(), "--join".to_owned(), format!("{}:{PEER_PORT}", seed_host.address())];
        let node = Agent::with_arguments(host, [&join[..], &flags[..]].concat())?;
        meet_seed(&node)?;
        host.enter(|| fleet::open_repository(&mut Getter::connect(mirror())?, &manifest))?;
        let row = measure(bench, content, (host, &node, &seed), method, rows[0].ms_per_file())?;
        rows.push(row);
    }
    Ok(rows)
}

fn measure(
    bench: &Bench,
    content: &Content,
    (host, node, seed): (&Host, &Agent<'_>, &Agent<'_>),
    method: &str,
    plain_ms: f64,
) -> Result<Row> {
    let paths: Vec<String> = content.files.iter().map(|(_, digest)| mirrored(&format!("blobs/{digest}"))).collect();
    let counters = || {
        host.enter(|| {
            let mut getter = Getter::connect(mirror())?;
            Ok([
                counter(&mut getter, "darter_round_trips_total")?,
                counter(&mut getter, "darter_control_messages_total")?,
            ])
        })
    };
    let mut row = Row::new(bench, method);
    let before = counters()?;
    let taken = fleet::read_all(host, mirror(), &paths, bench.rounds, &[process_of(node)?, process_of(seed)?])?;
    let after = counters()?;
    row.take(&taken);
    row.cpu = taken.ledger.cpu_of(process_of(node)?);
    row.seed_cpu = Some(taken.ledger.cpu_of(process_of(seed)?));
    row.right = fleet::count_right(host, mirror(), &paths, content)?;
    row.over_plain_ms = Some(row.ms_per_file() - plain_ms);
    row.round_trips = Some((after[0] - before[0]) / row.files as f64);
    row.messages = Some((after[1] - before[1]) / row.files as f64);
    row.goal = Some(bench.goal.clone());
    Ok(row)
}
