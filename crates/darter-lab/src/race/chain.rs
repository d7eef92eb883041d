//! What the bytes alone take: a chain in which each node receives from the one before, checks, writes, and passes on.
//!
//! It is no way of distributing anything, since a single slow or dead link holds up all behind it. It is the yardstick for CPU, as
//! T* is for time: the same bytes over the same cables, every piece checked by the same function, written to a file and sent from it by
//! `sendfile`. Nothing is chosen and nothing said. Of what another method takes, that much is the machine's, the kernel's and the
//! laboratory's.
//!
//! Each node is a process of its own, this program under another name ([`relay`](super::relay)). Its seed has the content from the start.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::race::account::has_ended;
use crate::race::course::Course;
use crate::race::method::{Kind, Look, Method, is_right, written};
use crate::race::relay::Cargo;

/// Where a relay listens.
const PORT: u16 = 7500;
/// What the list of the content is called.
const LIST: &str = "cargo.json";

/// The relays.
pub(crate) struct Chain<'c> {
    course: &'c Course<'c>,
    source: Process,
    relays: Vec<Option<Process>>,
}

impl<'c> Chain<'c> {
    pub(crate) fn start(course: &'c Course<'c>) -> Result<Self> {
        let suits = Kind::Chain.suits(course.scenario);
        ensure!(suits, "a chain does not survive anybody's death: leave chain out of {}", course.scenario.name);
        let list = course.directory().join(LIST);
        let cargo = Cargo::of(course.content)?;
        fs::write(&list, serde_json::to_vec(&cargo)?).with_context(|| format!("write {}", list.display()))?;
        let mut command = course.seed.command(std::env::current_exe().context("find this program")?);
        command.arg("relay").arg("--list").arg(&list).arg("--directory").arg(course.content.directory());
        command.arg("--listen").arg(format!("{}:{PORT}", course.seed.address()));
        let mut source = course.seed.spawn("relay", &mut command)?;
        source.wait_for_port(PORT, super::course::PATIENCE)?;
        Ok(Self { course, source, relays: course.nodes.iter().map(|_| None).collect() })
    }
}

impl Method for Chain<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let host = &self.course.nodes[node];
        let before = node.checked_sub(1).map_or(&self.course.seed, |before| &self.course.nodes[before]);
        let mut command = host.command(std::env::current_exe().context("find this program")?);
        command.arg("relay").arg("--list").arg(self.course.directory().join(LIST));
        command.arg("--directory").arg(host.make_directory("content")?);
        command.arg("--from").arg(format!("{}:{PORT}", before.address()));
        if node + 1 < self.course.nodes.len() {
            command.arg("--listen").arg(format!("{}:{PORT}", host.address()));
        }
        self.relays[node] = Some(host.spawn("relay", &mut command)?);
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let held = written(&self.course.nodes[node].directory().join("content"));
        // Not waited for before the end: what the kernel knows of its CPU time goes with it.
        let ended = self.relays[node].as_ref().is_some_and(|relay| has_ended(relay.id()));
        Ok(Some(Look { held, done: ended && held >= self.course.scenario.size(), seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        self.relays.iter().flatten().chain([&self.source]).map(Process::id).collect()
    }

    fn kill(&mut self, _: Option<usize>) {
        unreachable!("a chain is not started where somebody is killed");
    }

    fn origin_sent(&self) -> Result<u64> {
        // The first relay plays the seed's part here.
        Ok(0)
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        let directory = self.course.nodes[node].directory().join("content");
        let right = is_right(self.course, &directory)?;
        fs::remove_dir_all(directory)?;
        Ok(right)
    }

    fn looks_disturb(&self) -> bool {
        false
    }
}
