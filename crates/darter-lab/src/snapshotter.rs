//! `darter snapshotter` on a host.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::Agent;
use crate::netns::Host;
use crate::place::darter_binary;
use crate::process::{Process, wait_until};

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running snapshotter, or one that was killed.
#[derive(Debug)]
pub struct Snapshotter<'host> {
    host: &'host Host,
    root: PathBuf,
    socket: PathBuf,
    /// The directory of layers, and a process among whose mounts it is seen.
    layers: Option<(PathBuf, u32)>,
    /// The agent's data directory.
    data: PathBuf,
    process: Process,
}

impl<'host> Snapshotter<'host> {
    /// Starts one that finds no agent, and unpacks everything.
    pub fn alone(host: &'host Host) -> Result<Self> {
        let data = host.make_directory("no-agent")?;
        Self::begin(host, data, None)
    }

    /// Starts one beside an agent that shows layers in this directory.
    pub fn beside(agent: &Agent<'host>, layers: &Path) -> Result<Self> {
        Self::among(agent, layers, agent.process_id().context("the agent runs")?)
    }

    /// Starts one among the mounts of this process, which may outlive the agent.
    pub fn among(agent: &Agent<'host>, layers: &Path, process: u32) -> Result<Self> {
        Self::begin(agent.host(), agent.data().to_owned(), Some((layers.to_owned(), process)))
    }

    fn begin(host: &'host Host, data: PathBuf, layers: Option<(PathBuf, u32)>) -> Result<Self> {
        let root = host.make_directory("snapshotter")?;
        let socket = root.join("sock");
        let process = start(host, &root, &socket, layers.as_ref(), &data)?;
        Ok(Self { host, root, socket, layers, data, process })
    }

    /// Ends it as a crash would, and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.process.kill();
        self.process = start(self.host, &self.root, &self.socket, self.layers.as_ref(), &self.data)?;
        Ok(())
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its snapshots.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Its process's id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Its log.
    pub fn log(&self) -> Result<String> {
        self.process.errors()
    }

    /// The layers that are mounted now: how many times each place is in the kernel's list.
    pub fn mounted(&self) -> Result<Vec<String>> {
        let list = fs::read_to_string(format!("/proc/{}/mountinfo", self.process.id())).context("read its mounts")?;
        let below = format!("{}/", self.root.join("layers").display());
        let points = list.lines().filter_map(|line| line.split(' ').nth(4));
        let mut places: Vec<_> = points.filter(|point| point.starts_with(&below)).map(str::to_owned).collect();
        places.sort();
        Ok(places)
    }
}

fn start(host: &Host, root: &Path, socket: &Path, layers: Option<&(PathBuf, u32)>, data: &Path) -> Result<Process> {
    let binary = darter_binary()?;
    let mut command = match layers {
        Some((_, process)) => host.command_beside(*process, binary),
        None => host.command(binary),
    };
    // The machine's own settings are none of the laboratory's business.
    command.env("DARTER_CONFIG", "").env("DARTER_DATA_DIR", data);
    command.arg("snapshotter").arg("--root").arg(root).arg("--address").arg(socket).arg("--data-dir").arg(data);
    if let Some((layers, _)) = layers {
        command.arg("--layers").arg(layers);
    }
    let process = host.spawn("darter-snapshotter", &mut command)?;
    wait_until("the snapshotter to answer", START_TIMEOUT, || Ok(UnixStream::connect(socket).is_ok()))
        .with_context(|| process.tail())?;
    Ok(process)
}
