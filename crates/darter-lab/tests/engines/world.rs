//! The start of every scenario, and the checks at its end.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use darter_core::{Digest, Rate};
use darter_lab::engine::Containerd;
use darter_lab::oci::digest_of;
use darter_lab::process::wait_until;
use darter_lab::{Agent, Host, Image, Images, Link, Network};
use serde_json::Value;

/// The laboratory's images, and a network without hosts.
pub(crate) struct World {
    pub(crate) shelf: Images,
    pub(crate) network: Network,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { shelf: Images::open()?, network: Network::new()? })
    }

    /// Plugs in hosts with cables of this speed both ways.
    pub(crate) fn hosts<const N: usize>(&self, names: [&str; N], rate: &str) -> Result<[Host; N]> {
        let link = Link::symmetric(rate.parse::<Rate>()?);
        let mut hosts = Vec::new();
        for name in names {
            let host = self.network.host(name)?;
            host.shape(link)?;
            hosts.push(host);
        }
        hosts.try_into().ok().context("as many hosts as names")
    }

    /// The ends of the agents' logs, for a person who looks for the cause of a failure.
    pub(crate) fn agents_logs(&self) -> String {
        let mut text = String::new();
        for host in fs::read_dir(self.network.directory()).into_iter().flatten().flatten() {
            for log in fs::read_dir(host.path().join("logs")).into_iter().flatten().flatten() {
                let path = log.path();
                if path.to_string_lossy().ends_with("-darter.err") {
                    let content = fs::read_to_string(&path).unwrap_or_default();
                    let lines: Vec<_> = content.lines().collect();
                    let last = &lines[lines.len().saturating_sub(40)..];
                    text.push_str(&format!("--- {}\n{}\n", path.display(), last.join("\n")));
                }
            }
        }
        text
    }
}

/// How long anything may take that a scenario waits for.
const SCENARIO_TIMEOUT: Duration = Duration::from_secs(120);

/// Waits until a host has received this many bytes over its cable: its pull is under way.
pub(crate) fn wait_for_bytes(host: &Host, bytes: u64) -> Result<()> {
    wait_until(&format!("{} to receive {bytes} bytes", host.name()), SCENARIO_TIMEOUT, || {
        Ok(host.traffic()?.received >= bytes)
    })
}

/// Waits until an agent counts bytes from where `from` says.
pub(crate) fn wait_until_came(agent: &Agent<'_>, what: &str, from: impl Fn(&Came) -> u64) -> Result<()> {
    wait_until(&format!("{} to have bytes from {what}", agent.host().name()), SCENARIO_TIMEOUT, || {
        Ok(from(&Came::to(agent)?) > 0)
    })
}

/// Waits until a good part of some blob would survive its agent: until a sidecar, whose layout `darter-store` tells, says that
/// pieces are held.
pub(crate) fn wait_until_saved(agent: &Agent<'_>) -> Result<()> {
    /// More than a configuration has.
    const MANY: u32 = 16;
    wait_until(&format!("{} to save pieces", agent.host().name()), SCENARIO_TIMEOUT, || {
        for directory in fs::read_dir(agent.data().join("blobs"))?.flatten() {
            for file in fs::read_dir(directory.path())?
                .flatten()
                .filter(|file| file.path().extension() == Some("piece".as_ref()))
            {
                // It may be put away or replaced just now.
                let bytes = fs::read(file.path()).unwrap_or_default();
                let Some(words) = bytes.get(60..64) else { continue };
                let words = u32::from_le_bytes(words.try_into()?) as usize;
                let held = &bytes[bytes.len() - 32 - 8 * words..bytes.len() - 32];
                if held.iter().map(|byte| byte.count_ones()).sum::<u32>() >= MANY {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    })
}

/// An error unless containerd holds every blob of an image with the right bytes.
pub(crate) fn ensure_held(engine: &Containerd<'_>, image: &Image) -> Result<()> {
    for digest in image.index.iter().chain([&image.manifest]).chain(&image.blobs()) {
        let found = digest_of(&engine.blob(digest))?;
        ensure!(found == *digest, "containerd keeps {found} under the name {digest}");
    }
    Ok(())
}

/// An image's layers with their sizes.
pub(crate) fn sizes(image: &Image) -> Vec<(&Digest, u64)> {
    image.layers.iter().map(|layer| (&layer.digest, layer.size)).collect()
}

/// Bytes by where they came from, as an agent tells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Came {
    pub(crate) from_origin: u64,
    pub(crate) from_seed: u64,
    pub(crate) from_peers: u64,
}

impl Came {
    /// From wherever.
    pub(crate) fn all(self) -> u64 {
        self.from_origin + self.from_seed + self.from_peers
    }

    /// Reads `traffic` of a status or an explanation.
    pub(crate) fn of(answer: &Value) -> Result<Self> {
        let field =
            |name: &str| answer["traffic"][name].as_u64().with_context(|| format!("no traffic.{name} in {answer}"));
        Ok(Self {
            from_origin: field("from_origin")?,
            from_seed: field("from_seed")?,
            from_peers: field("from_peers")?,
        })
    }

    /// For everything that an agent moved since it started.
    pub(crate) fn to(agent: &Agent<'_>) -> Result<Self> {
        Self::of(&agent.ask(&["status"])?)
    }

    /// For one blob on an agent.
    pub(crate) fn to_blob(agent: &Agent<'_>, digest: &Digest) -> Result<Self> {
        Self::of(&agent.ask(&["explain", &digest.to_string()])?)
    }
}
