//! Darter's agents on hosts, driven by the flags and commands that a person uses.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::netns::Host;
use crate::place::darter_binary;
use crate::process::Process;
use crate::registry;

/// The address on which an agent listens for engines of its own host.
pub const LOCAL: &str = "127.0.0.1:7401";
/// The port of [`LOCAL`].
pub const LOCAL_PORT: u16 = 7401;
/// The port where an agent listens for peers.
pub const PEER_PORT: u16 = 7400;
/// How long an agent may take to start, to end, or to answer.
const AGENT_TIMEOUT: Duration = Duration::from_secs(60);

/// An agent on a host: a seed or a node, running or not.
#[derive(Debug)]
pub struct Agent<'host> {
    host: &'host Host,
    binary: PathBuf,
    arguments: Vec<String>,
    data: PathBuf,
    /// The core that it is kept on, if on one.
    core: Option<usize>,
    /// The process among whose mounts it runs, if not among its own.
    beside: Option<u32>,
    process: Option<Process>,
}

impl<'host> Agent<'host> {
    /// Starts a seed that reads the registry at this URL.
    pub fn seed(host: &'host Host, registry_url: &str) -> Result<Self> {
        Self::seed_with(host, registry_url, &[])
    }

    /// Starts it with these flags besides.
    pub fn seed_with(host: &'host Host, registry_url: &str, flags: &[&str]) -> Result<Self> {
        Self::launch(host, registry_url, ["seed"].iter().chain(flags).map(|&flag| flag.to_owned()).collect())
    }

    /// Starts a node that joins this seed, and reads the registry at this URL when it must.
    pub fn node(host: &'host Host, registry_url: &str, seed: &Host) -> Result<Self> {
        Self::node_with(host, registry_url, seed, &[])
    }

    /// Starts it with these flags besides.
    pub fn node_with(host: &'host Host, registry_url: &str, seed: &Host, flags: &[&str]) -> Result<Self> {
        let join = format!("{}:{PEER_PORT}", seed.address());
        let mut arguments = vec!["node".to_owned(), "--join".to_owned(), join];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        Self::launch(host, registry_url, arguments)
    }

    /// Starts a node among the mounts of the process `beside`: an agent that is started again sees the directory of layers that is kept there.
    pub fn node_beside(
        host: &'host Host,
        registry_url: &str,
        seed: &Host,
        beside: u32,
        flags: &[&str],
    ) -> Result<Self> {
        let join = format!("{}:{PEER_PORT}", seed.address());
        let mut arguments: Vec<_> = ["node", "--join", &join].iter().chain(flags).map(ToString::to_string).collect();
        arguments.extend(["--upstream".to_owned(), format!("{}={registry_url}", registry::NAME)]);
        let agent = Self { beside: Some(beside), ..Self::unstarted(host, "darter", usual(host, arguments))? };
        agent.started()
    }

    /// Starts an agent with this command and these flags, which say what its registries are, too.
    pub fn custom(host: &'host Host, arguments: &[&str]) -> Result<Self> {
        Self::with_arguments(host, arguments.iter().map(|&argument| argument.to_owned()).collect())
    }

    fn launch(host: &'host Host, registry_url: &str, mut arguments: Vec<String>) -> Result<Self> {
        arguments.extend(["--upstream".to_owned(), format!("{}={registry_url}", registry::NAME)]);
        Self::with_arguments(host, arguments)
    }

    /// Starts an agent with this command and these flags, besides those that say where it listens.
    pub fn with_arguments(host: &'host Host, arguments: Vec<String>) -> Result<Self> {
        Self::unstarted(host, "darter", usual(host, arguments))?.started()
    }

    /// Starts an agent on a loopback address of the host and on one core, so that several fit on a host.
    pub fn on_loopback(host: &'host Host, address: Ipv4Addr, core: usize, mut arguments: Vec<String>) -> Result<Self> {
        arguments.extend(["--listen".to_owned(), format!("{address}:{PEER_PORT}")]);
        arguments.extend(["--local".to_owned(), format!("{address}:{LOCAL_PORT}")]);
        Self { core: Some(core), ..Self::unstarted(host, &format!("darter-{address}"), arguments)? }.started()
    }

    fn unstarted(host: &'host Host, directory: &str, mut arguments: Vec<String>) -> Result<Self> {
        arguments.push("--insecure".to_owned());
        // However full the disk is that the laboratory runs on.
        arguments.extend(["--reserve", "0"].map(str::to_owned));
        let data = host.make_directory(directory)?;
        Ok(Self { host, binary: darter_binary()?, arguments, data, core: None, beside: None, process: None })
    }

    fn started(mut self) -> Result<Self> {
        self.start()?;
        Ok(self)
    }

    /// The host it runs on.
    pub fn host(&self) -> &'host Host {
        self.host
    }

    /// Starts it, again with what is in its data directory, and waits until it serves.
    pub fn start(&mut self) -> Result<()> {
        let mut command = match self.core {
            Some(core) => {
                let mut command = self.host.command("taskset");
                command.args(["--cpu-list", &core.to_string()]).arg(&self.binary);
                command.env("DARTER_DATA_DIR", &self.data);
                command
            }
            None => self.darter(),
        };
        command.args(&self.arguments);
        let mut process = self.host.spawn("darter", &mut command)?;
        process.wait_for_port(PEER_PORT, AGENT_TIMEOUT)?;
        process.wait_for_port(LOCAL_PORT, AGENT_TIMEOUT)?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a warning, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Asks it to drain and end; an error when it fails at that or takes too long.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let status = process.terminate(AGENT_TIMEOUT)?;
        ensure!(status.success(), "darter on {} ended with {status}\n{}", self.host.name(), process.tail());
        Ok(())
    }

    /// The id of the agent's process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The agent's log; an error when it does not run.
    pub fn log(&self) -> Result<String> {
        self.process.as_ref().with_context(|| format!("no agent runs on {}", self.host.name()))?.errors()
    }

    /// The agent's data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The agent's administration socket.
    pub fn socket(&self) -> PathBuf {
        darter_api::socket_path(&self.data)
    }

    /// The memory that its process keeps resident; an error when it does not run.
    pub fn memory(&self) -> Result<Memory> {
        let process = self.process.as_ref().with_context(|| format!("no agent runs on {}", self.host.name()))?;
        let path = format!("/proc/{}/status", process.id());
        Memory::parse(&fs::read_to_string(&path).with_context(|| format!("read {path}"))?)
    }

    /// The output of `darter COMMAND… --json` on this host.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = self.darter();
        let text =
            self.host.run(&format!("darter-{}", arguments[0]), command.args(arguments).arg("--json"), AGENT_TIMEOUT)?;
        serde_json::from_str(&text).with_context(|| format!("darter {arguments:?} printed other than JSON: {text}"))
    }

    /// The agent's metrics, as Prometheus reads them.
    pub fn metrics(&self) -> Result<String> {
        let mut command = self.host.command("curl");
        command.args(["--silent", "--show-error", "--fail", &format!("http://{LOCAL}/metrics")]);
        self.host.run("curl-metrics", &mut command, AGENT_TIMEOUT)
    }

    /// The program on this host, as one that goes by way of this agent, and sees the same mounts while that runs; its arguments are still
    /// to be given.
    pub fn darter(&self) -> Command {
        let mut command = match self.process_id().or(self.beside) {
            Some(process) => self.host.command_beside(process, &self.binary),
            None => self.host.command(&self.binary),
        };
        command.env("DARTER_DATA_DIR", &self.data);
        command
    }
}

/// These arguments, and where an agent that has its host for itself listens.
fn usual(host: &Host, mut arguments: Vec<String>) -> Vec<String> {
    arguments.extend(["--listen".to_owned(), format!("{}:{PEER_PORT}", host.address())]);
    arguments.extend(["--local", LOCAL].map(str::to_owned));
    arguments
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most since it started.
    pub peak: u64,
}

impl Memory {
    /// Reads `/proc/PID/status`.
    fn parse(status: &str) -> Result<Self> {
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib =
                line.and_then(|rest| rest.trim().strip_suffix("kB")).with_context(|| format!("no {name} of it"))?;
            Ok(kib.trim().parse::<u64>().context("read a size in kB")? * 1024)
        };
        Ok(Self { now: field("VmRSS:")?, peak: field("VmHWM:")? })
    }
}
