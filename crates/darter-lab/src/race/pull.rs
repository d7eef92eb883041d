//! An image that real containerds pull and unpack: by way of their host's agent, straight from the registry, or by way of Spegel.
//!
//! The origin's host has Debian's docker-registry, each node a containerd of its own. A node is done when the program that pulls has
//! ended, which is when every layer is unpacked. CPU is that of engines, agents and registry alike: a machine that does all of them
//! has that much less for the rest.
//!
//! Agents start without content, and so do the engines. Spegel gives on what its own containerd holds whole; whoever has it in
//! the PATH can race it.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cluster::Agent;
use crate::engine::{Build, Containerd, NAMESPACE, Route};
use crate::netns::Host;
use crate::oci::digest_of;
use crate::process::{Process, wait_until};
use crate::race::account::has_ended;
use crate::race::course::{START_TIMEOUT, Testbed};
use crate::race::darter::meet_seed;
use crate::race::layers::Layers;
use crate::race::method::{Look, Method};
use crate::registry::{NAME, Registry};

/// The address on which Spegel listens for its host's engine, and its port for other Spegels.
const SPEGEL: &str = "127.0.0.1:5000";
const SPEGEL_PORT: u16 = 5000;
/// The port on which the first Spegel tells the others whom to meet.
const MEETING_PORT: u16 = 5002;

/// How content gets to the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through the agent of the engine's host.
    Darter,
    /// From the registry.
    Direct,
    /// Through Spegel on the engine's host.
    Spegel,
}

/// The registry, the engines, and what stands between them.
pub(crate) struct Pull<'c> {
    layers: &'c Layers,
    registry: Registry,
    nodes: Vec<PullNode<'c>>,
    seed: Option<Agent<'c>>,
}

/// Fields are dropped in order: who pulls before who is asked.
struct PullNode<'c> {
    pull: Option<Process>,
    engine: Containerd<'c>,
    mirror: Mirror<'c>,
}

enum Mirror<'c> {
    None,
    Agent(Agent<'c>),
    Spegel(Process),
}

impl<'c> Pull<'c> {
    pub(crate) fn start(course: &'c Testbed<'c>, way: Way) -> Result<Self> {
        let layers =
            course.content.layers.as_ref().context("the scenario has no layers, and engines pull nothing else")?;
        let registry = Registry::public(&course.origin, &course.content.storage())?;
        let seed = match way {
            Way::Darter => Some(Agent::seed(&course.seed, &registry.url())?),
            _ => None,
        };
        let build = if course.scenario.built_engine { Build::Release { ranges: None } } else { Build::Packaged };
        let mut nodes = Vec::new();
        for host in &course.nodes {
            let route = match way {
                Way::Darter => Route::mirrored(registry.authority()),
                Way::Direct => Route::direct(registry.authority()),
                Way::Spegel => Route::by_way_of(SPEGEL, registry.authority()),
            };
            let engine = Containerd::start_build(host, &route, build)?;
            let mirror = match way {
                Way::Darter => {
                    Mirror::Agent(Agent::node_with(host, &registry.url(), &course.seed, &["--log-format", "json"])?)
                }
                Way::Direct => Mirror::None,
                Way::Spegel => Mirror::Spegel(start_spegel(host, &engine, &course.nodes[0])?),
            };
            nodes.push(PullNode { pull: None, engine, mirror });
        }
        for (node, host) in nodes.iter().zip(&course.nodes) {
            match &node.mirror {
                Mirror::None => {}
                Mirror::Agent(agent) => meet_seed(agent)?,
                Mirror::Spegel(_) => meet_spegels(host)?,
            }
        }
        Ok(Self { layers, registry, nodes, seed })
    }
}

impl Method for Pull<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let node = &mut self.nodes[node];
        node.pull = Some(node.engine.pull(&self.layers.image.reference(NAME))?);
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let node = &mut self.nodes[node];
        let content = node.engine.content();
        let held = bytes_below(&content.join("blobs")) + bytes_below(&content.join("ingest"));
        // Not waited for before the end: what the kernel knows of its CPU time goes with it.
        let ended = node.pull.as_ref().is_some_and(|pull| has_ended(pull.id()));
        if let Some(pull) = node.pull.as_mut().filter(|_| ended && !holds(&node.engine, self.layers)) {
            pull.finish(START_TIMEOUT).context("pull an image")?;
        }
        Ok(Some(Look { held: held.min(self.layers.image.size()), done: ended, seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.registry.process_id()];
        all.extend(self.seed.as_ref().and_then(Agent::process_id));
        for node in &self.nodes {
            all.extend(node.pull.as_ref().map(Process::id));
            all.push(node.engine.process_id());
            match &node.mirror {
                Mirror::None => {}
                Mirror::Agent(agent) => all.extend(agent.process_id()),
                Mirror::Spegel(process) => all.push(process.id()),
            }
        }
        all
    }

    fn kill(&mut self, node: Option<usize>) {
        let agent = match node {
            Some(node) => match &mut self.nodes[node].mirror {
                Mirror::Agent(agent) => Some(agent),
                _ => None,
            },
            None => self.seed.as_mut(),
        };
        if let Some(agent) = agent {
            agent.kill();
        }
    }

    fn origin_sent(&self) -> Result<u64> {
        Ok(self.registry.access_log()?.blob_reads().values().map(|reads| reads.bytes).sum())
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        let engine = &self.nodes[node].engine;
        for digest in [self.layers.image.manifest].iter().chain(&self.layers.image.blobs()) {
            let path = engine.blob(digest);
            if !path.is_file() || digest_of(&path)? != *digest {
                return Ok(false);
            }
        }
        Ok(bytes_below(&engine.snapshots()) == self.layers.unpacked)
    }

    fn looks_disturb(&self) -> bool {
        false
    }

    fn lag(&self) -> Result<Option<f64>> {
        let mut worst: Option<f64> = None;
        for node in &self.nodes {
            if let Mirror::Agent(agent) = &node.mirror {
                worst = lag_of(&agent.log()?).map(|lag| worst.map_or(lag, |worst| worst.max(lag))).or(worst);
            }
        }
        Ok(worst)
    }
}

/// Starts a Spegel that meets the others by way of the first node's.
fn start_spegel(host: &Host, engine: &Containerd<'_>, first: &Host) -> Result<Process> {
    let mut command = host.command("spegel");
    command.args(["registry", "--containerd-namespace", NAMESPACE, "--bootstrap-kind", "http"]);
    command.arg("--containerd-sock").arg(engine.socket()).arg("--containerd-content-path").arg(engine.content());
    command.args(["--registry-addr", &format!("0.0.0.0:{SPEGEL_PORT}")]);
    command.args(["--router-addr", &format!("{}:5001", host.address())]);
    command.args(["--http-bootstrap-addr", &format!("0.0.0.0:{MEETING_PORT}")]);
    command.args(["--http-bootstrap-peer", &format!("http://{}:{MEETING_PORT}", first.address())]);
    let mut process = host.spawn("spegel", &mut command)?;
    process.wait_for_port(SPEGEL_PORT, START_TIMEOUT)?;
    Ok(process)
}

/// Waits until the Spegel of a host knows others.
fn meet_spegels(host: &Host) -> Result<()> {
    wait_until(&format!("Spegel on {} to meet others", host.name()), START_TIMEOUT, || {
        let mut command = host.command("curl");
        command.args(["--silent", "--fail", "--output", "/dev/null", &format!("http://{SPEGEL}/readyz")]);
        Ok(host.run("curl-readyz", &mut command, START_TIMEOUT).is_ok())
    })
}

/// True if an engine has every layer.
fn holds(engine: &Containerd<'_>, layers: &Layers) -> bool {
    layers.image.layers.iter().all(|layer| engine.blob(&layer.digest).is_file())
}

/// Seconds from the last blob of which an agent had everything to the end of its last answer to the engine, as its log tells.
fn lag_of(log: &str) -> Option<f64> {
    let (mut complete, mut answered) = (None, None);
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let at = line["timestamp"].as_str().and_then(seconds_of_day);
        match line["fields"]["message"].as_str() {
            Some("complete") => complete = at.or(complete),
            Some("mirror request") if line["fields"]["path"].as_str().is_some_and(|path| path.contains("/blobs/")) => {
                answered = at.or(answered);
            }
            _ => {}
        }
    }
    const DAY: f64 = 86_400.0;
    let lag = (answered? - complete?).rem_euclid(DAY);
    // The answer may be over first: the agent counts what it was still to write down.
    Some(if lag > DAY / 2.0 { 0.0 } else { lag })
}

/// The seconds since midnight in `2026-11-28T13:20:56.123456Z`.
fn seconds_of_day(timestamp: &str) -> Option<f64> {
    let (_, time) = timestamp.trim_end_matches('Z').split_once('T')?;
    time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// Bytes of all regular files below a directory; of none, where it is not there.
pub(super) fn bytes_below(directory: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        // The file may be renamed just now.
        let Ok(data) = entry.metadata() else { continue };
        bytes += if data.is_dir() { bytes_below(&entry.path()) } else { data.len() };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_that_of_the_last_answer_behind_the_last_whole_blob() {
        let line = |time: &str, message: &str, path: &str| {
            let fields = serde_json::json!({ "message": message, "path": path });
            serde_json::json!({ "timestamp": format!("2026-11-28T{time}Z"), "fields": fields }).to_string()
        };
        let log = [
            line("23:59:58.5", "complete", ""),
            line("23:59:59.0", "mirror request", "/v2/app/blobs/sha256:00"),
            line("23:59:59.5", "complete", ""),
            line("00:00:01.75", "mirror request", "/v2/app/blobs/sha256:01"),
            line("00:00:09.0", "mirror request", "/v2/app/manifests/1"),
        ];
        assert_eq!(lag_of(&log.join("\n")), Some(2.25));
        assert_eq!(lag_of(&log[..2].join("\n")), Some(0.5));
        assert_eq!(lag_of(&log[1..3].join("\n")), Some(0.0));
        assert_eq!(lag_of(&log[..1].join("\n")), None);
    }
}
