//! A blob that the host's own store has, read again and again from its mirror; and the same file from nginx on the same
//! host, with sendfile. One connection, the same client, over loopback.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use crate::bench::fleet::{self, mirror, mirrored, process_of};
use crate::bench::{Bench, Row};
use crate::cluster::Agent;
use crate::getter::Getter;
use crate::netns::Network;
use crate::race::content::{Content, memory_directory};
use crate::race::course::{HTTP_PORT, Nginx};

/// Measures nginx and then Darter.
pub(crate) fn run(bench: &Bench, content: &Content) -> Result<Vec<Row>> {
    let manifest = content.as_registry(fleet::REPOSITORY)?;
    let network = Network::below(&memory_directory()?)?;
    let host = network.host("node")?;
    let nginx = Nginx::start(&host, content)?;
    let served_by_nginx = SocketAddr::from(([127, 0, 0, 1], HTTP_PORT));
    let paths: Vec<String> = content.files.iter().map(|(name, _)| format!("/{name}")).collect();
    fleet::read_all(&host, served_by_nginx, &paths, 1, &[])?;
    let taken = fleet::read_all(&host, served_by_nginx, &paths, bench.rounds, &[nginx.process.id()])?;
    let mut plain = Row::new(bench, "nginx");
    plain.take(&taken);
    plain.right = fleet::count_right(&host, served_by_nginx, &paths, content)?;

    let url = format!("http://{}", host.address());
    let agent = Agent::with_arguments(&host, [vec!["seed".to_owned()], fleet::upstream(&url).to_vec()].concat())?;
    let paths: Vec<String> = content.files.iter().map(|(_, digest)| mirrored(&format!("blobs/{digest}"))).collect();
    // The first reading is the miss that fills the store.
    host.enter(|| fleet::open_repository(&mut Getter::connect(mirror())?, &manifest))?;
    let right = fleet::count_right(&host, mirror(), &paths, content)?;
    let taken = fleet::read_all(&host, mirror(), &paths, bench.rounds, &[process_of(&agent)?])?;
    let mut darter = Row::new(bench, "darter");
    darter.take(&taken);
    darter.right = right.min(fleet::count_right(&host, mirror(), &paths, content)?);
    darter.cpu_over_plain = Some(darter.cpu_per_gb() / plain.cpu_per_gb());
    darter.goal = Some(bench.goal.clone());
    let sent = host.enter(|| fleet::counter(&mut Getter::connect(mirror())?, "darter_local_sendfile_bytes_total"))?;
    ensure!(sent >= darter.bytes as f64, "only {sent} bytes went out by sendfile: something of it is broken");
    Ok(vec![plain, darter])
}
