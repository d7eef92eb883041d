//! BitTorrent clients: libtorrent through its Python binding, and aria2. Their seed has the content from the start.
//!
//! Torrents have pieces of 256 KiB, as Darter's content has at these sizes. libtorrent's peers are told of each other; aria2 asks
//! a tracker, since it has no other way of being told.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Host;
use crate::process::{Process, wait_until};
use crate::race::course::{START_TIMEOUT, Testbed};
use crate::race::method::{Look, Method, is_right, written};

const SCRIPT: &str = include_str!("torrent.py");
const TRACKER_PORT: u16 = 6969;
/// How long a seed may take to check its files, which for many of them is several rounds of the script.
const SEED_CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Which client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// libtorrent, with or without settings for a fast local network.
    Libtorrent {
        /// With settings.
        tuned: bool,
    },
    /// aria2.
    Aria2,
}

/// A seed and peers.
pub(crate) struct Torrent<'c> {
    course: &'c Testbed<'c>,
    client: Client,
    script: PathBuf,
    torrent: PathBuf,
    /// Not one of the method's processes: hosts have one anyway.
    _tracker: Process,
    seed: Option<Process>,
    nodes: Vec<Option<Process>>,
}

impl<'c> Torrent<'c> {
    pub(crate) fn start(course: &'c Testbed<'c>, client: Client) -> Result<Self> {
        let script = course.directory().join("torrent.py");
        fs::write(&script, SCRIPT).with_context(|| format!("write {}", script.display()))?;
        let torrent = course.directory().join("content.torrent");
        let tracker_url = format!("http://{}:{TRACKER_PORT}/announce", course.origin.address());
        let mut make = python(&course.origin, &script);
        make.arg("make").arg(course.content.directory()).arg(&tracker_url).arg(&torrent);
        course.origin.run("make-torrent", &mut make, START_TIMEOUT)?;
        let mut tracker = course
            .origin
            .spawn("tracker", python(&course.origin, &script).args(["track", &TRACKER_PORT.to_string()]))?;
        tracker.wait_for_port(TRACKER_PORT, START_TIMEOUT)?;

        let nodes = course.nodes.iter().map(|_| None).collect();
        let mut race = Self { course, client, script, torrent, _tracker: tracker, seed: None, nodes };
        let own = course.seed.directory().join("content");
        symlink(course.content.directory(), &own).with_context(|| format!("link {}", own.display()))?;
        race.seed = Some(race.spawn(&course.seed, true)?);
        wait_for(&course.seed, "done", SEED_CHECK_TIMEOUT)?;
        if matches!(client, Client::Libtorrent { .. }) {
            // The clients wait for a file before they know their torrent, so that starting Python is not measured.
            for (number, host) in course.nodes.iter().enumerate() {
                race.nodes[number] = Some(race.spawn(host, false)?);
            }
            for host in &course.nodes {
                wait_for(host, "done.ready", START_TIMEOUT)?;
            }
        }
        Ok(race)
    }

    fn spawn(&self, host: &Host, is_seed: bool) -> Result<Process> {
        let done = host.directory().join("done");
        match self.client {
            Client::Libtorrent { tuned } => {
                let mut command = python(host, &self.script);
                command.arg("peer").arg(&self.torrent).arg(host.directory()).arg(&done);
                command.arg(if is_seed { PathBuf::from("-") } else { host.directory().join("go") });
                command.arg(host.address().to_string()).arg(if tuned { "tuned" } else { "default" });
                if !is_seed {
                    let others = self.course.nodes.iter().chain([&self.course.seed]);
                    command.args(others.map(Host::address).filter(|it| *it != host.address()).map(|it| it.to_string()));
                }
                host.spawn("libtorrent", &mut command)
            }
            Client::Aria2 => {
                let hook = host.directory().join("completed.sh");
                fs::write(&hook, format!("#!/bin/sh\n: > {}\n", done.display()))?;
                fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
                let mut command = host.command("aria2c");
                command.args([
                    "--no-conf",
                    "--quiet",
                    "--file-allocation=none",
                    "--seed-ratio=0.0",
                    "--seed-time=99999",
                ]);
                command.args(["--enable-dht=false", "--enable-peer-exchange=false", "--bt-enable-lpd=false"]);
                command.args(["--bt-tracker-interval=1", "--listen-port=6881", "--follow-torrent=mem"]);
                command.arg(format!("--dir={}", host.directory().display()));
                command.arg(format!("--on-bt-download-complete={}", hook.display()));
                if is_seed {
                    command.arg("--check-integrity=true");
                    // aria2 calls no hook for a seed that had everything.
                    fs::write(&done, "")?;
                }
                let mut process = host.spawn("aria2", command.arg(&self.torrent))?;
                if is_seed {
                    process.wait_for_port(6881, START_TIMEOUT)?;
                    std::thread::sleep(Duration::from_secs(2));
                }
                Ok(process)
            }
        }
    }
}

impl Method for Torrent<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let host = &self.course.nodes[node];
        if self.client == Client::Aria2 {
            self.nodes[node] = Some(self.spawn(host, false)?);
            return Ok(());
        }
        fs::write(host.directory().join("go"), "").with_context(|| format!("let {} go", host.name()))
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let directory = self.course.nodes[node].directory();
        let done = directory.join("done").exists();
        let held = if done { self.course.scenario.size() } else { written(&directory.join("content")) };
        Ok(Some(Look { held, done, seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        self.nodes.iter().chain([&self.seed]).flatten().map(Process::id).collect()
    }

    fn kill(&mut self, node: Option<usize>) {
        match node {
            Some(node) => self.nodes[node] = None,
            None => self.seed = None,
        }
    }

    fn origin_sent(&self) -> Result<u64> {
        Ok(0)
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        let directory = self.course.nodes[node].directory().join("content");
        let patience = Duration::from_secs(20);
        // A download that a client calls done may still be on its way to the file.
        let mut right = false;
        let _ = wait_until("the files to be written", patience, || {
            right = is_right(self.course, &directory)?;
            Ok(right)
        });
        Ok(right)
    }

    fn looks_disturb(&self) -> bool {
        false
    }
}

/// Debian's Python, which has Debian's libtorrent, whatever else is in PATH.
fn python(host: &Host, script: &Path) -> Command {
    let mut command = host.command("/usr/bin/python3");
    command.arg(script);
    command
}

fn wait_for(host: &Host, file: &str, patience: Duration) -> Result<()> {
    let path = host.directory().join(file);
    wait_until(&format!("{} to be ready", host.name()), patience, || Ok(path.exists()))
}
