//! A registry that is nothing but nginx on files, agents that read it, and a client on a node's host.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use darter_core::{Clock, Digest, SystemClock};

use crate::cluster::{Agent, LOCAL_PORT};
use crate::getter::Getter;
use crate::netns::Host;
use crate::race::account::{Ledger, MachineTime};
use crate::race::content::Content;
use crate::registry;

/// The repository that the content lies in.
pub(crate) const REPOSITORY: &str = "app";

/// The address of a host's own mirror.
pub(crate) const fn mirror() -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), LOCAL_PORT)
}

/// The flags that make a registry's name known, and nothing else.
pub(crate) fn upstream(url: &str) -> [String; 2] {
    ["--upstream".to_owned(), format!("{}={url}", registry::NAME)]
}

/// The mirror's path for `rest` of the repository.
pub(crate) fn mirrored(rest: &str) -> String {
    format!("/v2/{}/{REPOSITORY}/{rest}", registry::NAME)
}

/// Lets the client of an agent know the manifest, as every pull begins: after that the mirror need not ask the registry who
/// may read the blobs.
pub(crate) fn open_repository(getter: &mut Getter, manifest: &Digest) -> Result<()> {
    getter.get(&mirrored(&format!("manifests/{manifest}")), |_| {}).context("read the manifest").map(drop)
}

/// The result of reading all files.
pub(crate) struct Taken {
    pub(crate) seconds: f64,
    pub(crate) busy: f64,
    pub(crate) ledger: Ledger,
}

/// Reads every file `rounds` times over one connection from a host, one after another, while the CPU of `processes` is
/// counted.
pub(crate) fn read_all(
    host: &Host,
    address: SocketAddr,
    paths: &[String],
    rounds: u32,
    processes: &[u32],
) -> Result<Taken> {
    host.enter(|| {
        let mut getter = Getter::connect(address)?;
        let clock = SystemClock::start();
        let machine = MachineTime::now()?;
        let mut ledger = Ledger::open(processes);
        let start = clock.now();
        for _ in 0..rounds {
            for path in paths {
                getter.get(path, |_| {})?;
            }
        }
        let seconds = clock.now().since(start).as_secs_f64();
        ledger.look(processes);
        Ok(Taken { seconds, busy: MachineTime::now()?.busy_since(machine), ledger })
    })
}

/// How many files have the right digest.
pub(crate) fn count_right(host: &Host, address: SocketAddr, paths: &[String], content: &Content) -> Result<u64> {
    host.enter(|| {
        let mut getter = Getter::connect(address)?;
        let mut right = 0;
        for (path, (_, digest)) in paths.iter().zip(&content.files) {
            let mut hasher = digest.hasher();
            getter.get(path, |part| hasher.update(part))?;
            right += u64::from(hasher.finish() == *digest);
        }
        Ok(right)
    })
}

/// An agent's counter, as it stands in its metrics.
pub(crate) fn counter(getter: &mut Getter, name: &str) -> Result<f64> {
    let text = getter.text("/metrics")?;
    let values = text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' ')).map(|(_, value)| value);
    let mut sum = None;
    for value in values {
        sum = Some(sum.unwrap_or(0.0) + value.parse::<f64>()?);
    }
    sum.with_context(|| format!("the agent does not count {name}"))
}

/// The process of an agent that runs.
pub(crate) fn process_of(agent: &Agent<'_>) -> Result<u32> {
    agent.process_id().with_context(|| format!("no agent runs on {}", agent.host().name()))
}
