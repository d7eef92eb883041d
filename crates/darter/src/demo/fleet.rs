//! The seed and the nodes: this same program, once for each, with ordinary flags.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use darter_api::Client;
use darter_core::Rate;
use futures_util::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

/// How long a member may take to start and to meet its seed.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a member may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// One agent.
#[derive(Debug)]
pub(super) struct DemoAgent {
    /// `seed`, or `node 3`.
    pub(super) name: String,
    /// A client of its administration socket.
    pub(super) client: Client,
    log: PathBuf,
    child: Child,
}

/// The settings of the agents.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// The upload limit and the download limit of each agent.
    pub(super) rate: Rate,
    /// The seed's download limit, if it has one.
    pub(super) seed_receives: Option<Rate>,
    /// A registry: `NAME=URL`.
    pub(super) upstream: Option<String>,
}

/// All agents. Dropping this kills them.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) seed: DemoAgent,
    pub(super) nodes: Vec<DemoAgent>,
}

impl Fleet {
    /// Starts a seed and its nodes in `room`; returns when all are connected.
    pub(super) async fn start(count: u16, rate: Rate, room: &Path) -> anyhow::Result<Self> {
        Self::start_with(count, &Orders { rate, seed_receives: Some(rate), upstream: None }, room).await
    }

    /// Starts a seed and its nodes in `room` with these settings; returns when all are connected.
    pub(super) async fn start_with(count: u16, orders: &Orders, room: &Path) -> anyhow::Result<Self> {
        let mut seed = DemoAgent::spawn("seed", orders, room, None)?;
        let seed_address = seed.wait_until_ready().await?;
        let mut nodes = Vec::new();
        for number in 1..=count {
            nodes.push(DemoAgent::spawn(&format!("node {number}"), orders, room, Some(&seed_address))?);
        }
        try_join_all(nodes.iter_mut().map(DemoAgent::wait_until_ready)).await?;
        Ok(Self { seed, nodes })
    }

    /// The seed and the nodes.
    pub(super) fn members(&self) -> impl Iterator<Item = &DemoAgent> {
        std::iter::once(&self.seed).chain(&self.nodes)
    }

    /// How many CPU seconds all of them have used.
    pub(super) async fn cpu(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for member in self.members() {
            sum += member.client.status().await?.cpu;
        }
        Ok(sum)
    }

    /// Stops all agents; those that do not stop in time are killed.
    pub(super) async fn stop(self) {
        let mut members: Vec<DemoAgent> = self.nodes.into_iter().chain([self.seed]).collect();
        for member in &members {
            let pid = member.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
            if let Some(pid) = pid {
                // If the process has ended already, there is nothing to stop.
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let all_ended = async {
            for member in &mut members {
                let _ = member.child.wait().await;
            }
        };
        // A member that does not end in time is killed when `members` is dropped.
        let _ = tokio::time::timeout(STOP_TIMEOUT, all_ended).await;
    }
}

impl DemoAgent {
    fn spawn(name: &str, orders: &Orders, room: &Path, seed: Option<&str>) -> anyhow::Result<Self> {
        let dir = directory(room, name);
        let log = dir.with_extension("log");
        // In bytes: `Display` would round the rate.
        let exactly = |rate: Rate| format!("{}B/s", rate.bytes_per_second());
        let receives = if seed.is_some() { Some(orders.rate) } else { orders.seed_receives };
        let mut command = darter()?;
        command.arg(if seed.is_some() { "node" } else { "seed" });
        command.arg("--data-dir").arg(&dir);
        // The system chooses the ports: one that was chosen here might be taken before the agent listens.
        command.args(["--listen", "127.0.0.1:0", "--local", "127.0.0.1:0"]);
        command.args(["--upload-limit", &exactly(orders.rate), "--reserve", "0", "--insecure"]);
        if let Some(rate) = receives {
            command.args(["--download-limit", &exactly(rate)]);
        }
        if let Some(upstream) = &orders.upstream {
            command.args(["--upstream", upstream]);
        }
        if let Some(seed) = seed {
            command.args(["--join", seed]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .with_context(|| format!("can't start {name}"))?;
        Ok(Self { name: name.to_owned(), client: Client::at(darter_api::socket_path(&dir)), log, child })
    }

    /// Waits until the agent answers and is connected with its seeds. Returns its peer address.
    async fn wait_until_ready(&mut self) -> anyhow::Result<String> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.last_words());
            }
            if let Ok(status) = self.client.status().await
                && status.seeds.iter().all(|seed| seed.up)
            {
                return status.listen.with_context(|| format!("{} listens nowhere", self.name));
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("{} did not become ready in time: {}", self.name, self.last_words());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The last lines of its log.
    fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

/// The data directory of the agent `name`, which also has its socket.
pub(super) fn directory(room: &Path, name: &str) -> PathBuf {
    room.join(name.replace(' ', "-"))
}

/// Unmounts a mount that uses the agent with this data directory. Needed also if the demo is interrupted: a mount outlives the program that made it.
pub(super) fn unmount(dir: &Path, data: &Path) {
    let Ok(mut command) = darter() else { return };
    let command = command.as_std_mut();
    command.args(["unmount", "--lazy"]).arg(dir).arg("--data-dir").arg(data);
    let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// A command that runs this program, without the settings in the user's environment.
pub(super) fn darter() -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("can't find the program's own file")?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DARTER_") {
            command.env_remove(name);
        }
    }
    command.kill_on_drop(true);
    Ok(command)
}
