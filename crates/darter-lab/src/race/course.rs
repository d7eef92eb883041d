//! The hosts of a scenario with their cables, and nginx on those that serve files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use darter_scenario::Scenario;

use crate::netns::{Host, Network, Rack};
use crate::process::Process;
use crate::race::content::{Content, memory_directory};

/// How long anything may take to start.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);
/// nginx's port.
pub(crate) const HTTP_PORT: u16 = 80;
/// Segments that a host's TCP hands on together: 23 kB, 4 ms of the slowest cable in use.
const MIN_SEGMENTS: u32 = 16;

/// Hosts with shaped cables. Fields are dropped in order: hosts before their network.
#[derive(Debug)]
pub struct Testbed<'a> {
    /// The race.
    pub scenario: &'a Scenario,
    /// The bytes.
    pub content: &'a Content,
    /// The host with the origin.
    pub origin: Host,
    /// The host with the seed.
    pub seed: Host,
    /// Those who want the content.
    pub nodes: Vec<Host>,
    /// The second rack, if there is one.
    pub rack: Option<Rack>,
    network: Network,
}

impl<'a> Testbed<'a> {
    /// Sets the hosts up.
    pub fn build(scenario: &'a Scenario, content: &'a Content) -> Result<Self> {
        let network = Network::below(&memory_directory()?)?;
        let rack = match &scenario.rack {
            Some(link) => Some(network.rack("b", link.rate.parse()?)?),
            None => None,
        };
        let origin = network.host("origin")?;
        origin.shape(scenario.origin_link()?)?;
        let seed = network.host("seed")?;
        seed.shape(scenario.seed_link()?)?;
        let mut nodes = Vec::new();
        for node in 0..scenario.nodes as usize {
            let name = format!("node-{}", node + 1);
            let host = match &rack {
                Some(rack) if scenario.is_in_second_rack(node) => network.host_in(rack, &name)?,
                _ => network.host(&name)?,
            };
            host.shape(scenario.node_link(node)?)?;
            nodes.push(host);
        }
        for host in nodes.iter().chain([&origin, &seed]) {
            host.set_least_segments(MIN_SEGMENTS)?;
        }
        Ok(Self { scenario, content, origin, seed, nodes, rack, network })
    }

    /// The directory of the hosts' directories.
    pub fn directory(&self) -> &Path {
        self.network.directory()
    }
}

/// nginx that serves the content on a host.
#[derive(Debug)]
pub struct Nginx {
    /// The server.
    pub process: Process,
    url: String,
    log: PathBuf,
}

impl Nginx {
    /// Starts it: one process, sendfile, and a log line with the bytes of each answer.
    pub fn start(host: &Host, content: &Content) -> Result<Self> {
        let directory = host.make_directory("nginx")?;
        let log = directory.join("bytes.log");
        let configuration = directory.join("nginx.conf");
        let place = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("  {kind}_temp_path {place}/{kind};\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid {place}/nginx.pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n{temporary}  log_format bytes '$body_bytes_sent';\n  access_log {} bytes;\n\
             sendfile on;\n  tcp_nopush on;\n  keepalive_requests 1000000;\n  server {{ listen {HTTP_PORT}; root {}; }}\n}}\n",
            log.display(),
            content.directory().display(),
        );
        fs::write(&configuration, text).with_context(|| format!("write {}", configuration.display()))?;
        let mut command = host.command("nginx");
        command.arg("-p").arg(&directory).arg("-e").arg(directory.join("error.log")).arg("-c").arg(&configuration);
        let mut process = host.spawn("nginx", &mut command)?;
        process.wait_for_port(HTTP_PORT, START_TIMEOUT)?;
        Ok(Self { process, url: format!("http://{}", host.address()), log })
    }

    /// The URL of `file`.
    pub fn url(&self, file: &str) -> String {
        format!("{}/{file}", self.url)
    }

    /// Content bytes that it has sent in answers that are over.
    pub fn sent(&self) -> Result<u64> {
        let text = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        text.lines().map(|line| line.trim().parse::<u64>().context("read nginx's log")).sum()
    }
}
