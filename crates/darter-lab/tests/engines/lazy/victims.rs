//! The ways in which content is read before it has come, and the processes that are killed under it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_lab::engine::{Proxied, Route};
use darter_lab::lazy::LazyNode;
use darter_lab::lazy::node::{agent, agent_with};
use darter_lab::{Agent, Host, Process, Snapshotter};

use super::reading::{How, Reading, Seen, read_everything_by};
use super::stand::{BLOB, Known, SLEEP, data_of, kill_keeper};

/// How long anything may take that has nothing in its way.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Before what failed is tried again: the next keeper may not be there yet.
const PAUSE: Duration = Duration::from_millis(200);

/// The process, or the pair of them, that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Agent,
    Keeper,
    Both,
    Seed,
    /// containerd, with the snapshotter where there is one.
    Engine,
}

impl Victim {
    /// True if what was not whole is lost with it.
    pub(super) fn takes_mounts_along(self) -> bool {
        matches!(self, Self::Keeper | Self::Both)
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "the agent",
            Self::Keeper => "the keeper",
            Self::Both => "agent and keeper",
            Self::Seed => "the seed",
            Self::Engine => "the engine",
        })
    }
}

/// A way to open what has not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// A container of containerd 2.4, out of the directory of layers.
    Directory,
    /// A container of an older containerd, by Darter's snapshotter.
    Snapshotter,
    /// A file, by `darter mount`.
    File,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Directory, Self::Snapshotter, Self::File];

    /// The victims that there are in this way.
    pub(super) fn victims(self) -> &'static [Victim] {
        const ALL: [Victim; 5] = [Victim::Agent, Victim::Keeper, Victim::Both, Victim::Seed, Victim::Engine];
        match self {
            Self::Directory | Self::Snapshotter => &ALL,
            Self::File => &ALL[..4],
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Snapshotter => "snapshotter",
            Self::File => "file",
        })
    }
}

/// A host and its processes. Fields are dropped in order: the process that mounts before the one that gives, and last the one that holds the mounts.
pub(super) enum Node<'host> {
    Directory(Box<LazyNode<'host>>),
    Snapshotter {
        engine: Box<Proxied<'host>>,
        snapshotter: Box<Snapshotter<'host>>,
        agent: Box<Agent<'host>>,
        layers: PathBuf,
        _anchor: Process,
    },
    File {
        agent: Box<Agent<'host>>,
        anchor: Process,
        directory: PathBuf,
        url: String,
    },
}

impl<'host> Node<'host> {
    /// Starts them on a host.
    pub(super) fn start(
        way: Way,
        host: &'host Host,
        known: &Known,
        seed: &Host,
        registry: &str,
        flags: &[&str],
    ) -> Result<Self> {
        Ok(match way {
            Way::Directory => Self::Directory(Box::new(LazyNode::start_with(host, seed, registry, flags)?)),
            Way::Snapshotter => {
                let anchor = host.hold_mounts()?;
                let (agent, layers) = agent_with(host, seed, registry, &anchor, flags)?;
                let snapshotter = Box::new(Snapshotter::among(&agent, &layers, anchor.id())?);
                let engine = Proxied::start(host, &Route::mirrored(registry), &snapshotter, anchor.id())?;
                Self::Snapshotter {
                    engine: Box::new(engine),
                    snapshotter,
                    agent: Box::new(agent),
                    layers,
                    _anchor: anchor,
                }
            }
            Way::File => {
                let anchor = host.hold_mounts()?;
                let (agent, _) = agent(host, seed, registry, &anchor)?;
                let directory = host.make_directory("mounted")?;
                Self::File { agent: Box::new(agent), anchor, directory, url: known.blob_url(registry) }
            }
        })
    }

    /// Fetches what a program needs before it can start.
    pub(super) fn pull(&self, known: &Known) -> Result<()> {
        match self {
            Self::Directory(node) => node.pull(&known.reference()),
            Self::Snapshotter { engine, .. } => engine.pull(&known.reference()),
            Self::File { .. } => Ok(()),
        }
    }

    /// Starts what is read, under this name.
    fn open(&self, known: &Known, name: &str, fill: &str) -> Result<Seen> {
        match self {
            Self::Directory(node) => data_of(node.engine.start_container(&known.reference(), name, &SLEEP)?),
            Self::Snapshotter { engine, .. } => data_of(engine.start_container(&known.reference(), name, &SLEEP)?),
            Self::File { agent, anchor, directory, url } => {
                let host = agent.host();
                let mut command = darter(agent, anchor);
                command.args(["mount", url]).arg(directory).args(["--name", BLOB, "--fill", fill]);
                host.run("darter-mount", &mut command, TIMEOUT)?;
                Seen::open(Path::new(&format!("/proc/{}/root{}", anchor.id(), directory.display())))
            }
        }
    }

    /// Starts what is read, and reads it.
    pub(super) fn begin(&self, known: &Known, number: u64, fill: &str) -> Result<Reading> {
        let seen = self.open(known, "reader", fill)?;
        let (how, truth) = self.read_by(known);
        Reading::begin_by(how, truth, &seen, number)
    }

    /// Starts the same again, as often as it takes, and reads all of it: nothing may fail then.
    pub(super) fn again(&self, known: &Known, number: u64, took: impl Fn() -> Duration) -> Result<Duration> {
        if let Self::File { agent, anchor, directory, .. } = self {
            // A mount that is lost is there until somebody takes it away; and programs still have files of it.
            let mut command = darter(agent, anchor);
            agent.host().run("darter-unmount", command.args(["unmount", "--lazy"]).arg(directory), TIMEOUT)?;
        }
        let mut tries = 0;
        let seen = loop {
            match self.open(known, &format!("again-{tries}"), "idle") {
                Ok(seen) => break seen,
                Err(error) if took() > TIMEOUT => return Err(error),
                Err(_) => thread::sleep(PAUSE),
            }
            tries += 1;
        };
        let again = took();
        let (how, truth) = self.read_by(known);
        read_everything_by(how, truth, &seen, !number, TIMEOUT).context("what was started again")?;
        Ok(again)
    }

    fn read_by<'a>(&self, known: &'a Known) -> (How, &'a Path) {
        match self {
            Self::Directory(_) | Self::Snapshotter { .. } => (How::Both, &known.truth),
            Self::File { .. } => (How::Both, &known.blob),
        }
    }

    fn agent_mut(&mut self) -> &mut Agent<'host> {
        match self {
            Self::Directory(node) => &mut node.agent,
            Self::Snapshotter { agent, .. } | Self::File { agent, .. } => agent,
        }
    }

    /// Kills somebody, and starts again for `pause` later whom nobody else starts.
    pub(super) fn kill(&mut self, victim: Victim, pause: Duration, seed: &mut Agent<'_>) -> Result<()> {
        match victim {
            Victim::Agent => {
                self.agent_mut().kill();
                thread::sleep(pause);
                self.agent_mut().start()
            }
            Victim::Keeper => self.kill_keeper(),
            Victim::Both => {
                self.agent_mut().kill();
                self.kill_keeper()?;
                thread::sleep(pause);
                self.agent_mut().start()
            }
            Victim::Seed => {
                seed.kill();
                thread::sleep(pause);
                seed.start()
            }
            Victim::Engine => match self {
                Self::Directory(node) => node.engine.restart(),
                Self::Snapshotter { engine, snapshotter, .. } => {
                    snapshotter.restart()?;
                    engine.restart()
                }
                Self::File { .. } => Ok(()),
            },
        }
    }

    fn kill_keeper(&self) -> Result<()> {
        match self {
            Self::Directory(node) => kill_keeper("lazy-dir", &node.layers),
            Self::Snapshotter { layers, .. } => kill_keeper("lazy-dir", layers),
            Self::File { agent, anchor, directory, .. } => {
                kill_keeper("keep-mount", directory)?;
                let list = agent.host().run("darter-list", darter(agent, anchor).args(["mount", "--list"]), TIMEOUT)?;
                ensure!(list.contains("lost"), "nothing is lost: {list}");
                Ok(())
            }
        }
    }
}

/// The program on an agent's host, among the mounts that a process holds, whether the agent lives or not.
fn darter(agent: &Agent<'_>, anchor: &Process) -> std::process::Command {
    let mut command = agent.host().command_beside(anchor.id(), darter_lab::place::darter_binary().unwrap_or_default());
    command.env("DARTER_DATA_DIR", agent.data());
    command
}
