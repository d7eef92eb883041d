//! The least that the bytes take: a chain in which each node receives from the one before, checks, writes, and passes
//! on.
//!
//! It is no way of distributing anything, since a single slow or dead link holds up all behind it. It is the yardstick for CPU, as
//! T* is for time: the same bytes over the same cables, every piece checked by the same function, written to a file and sent from it by
//! `sendfile`. Nothing is chosen and nothing said. Of what another method takes, that much is the machine's, the kernel's and the
//! laboratory's.
//!
//! Each node is a process of its own, the laboratory's program again ([`relay`](super::relay)), so this method is for that program only. The
//! source has the content from the start, as other methods' seeds do: what Darter's seed takes to read the origin, to compute SHA-256
//! and to write comes on top.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::process::Process;
use crate::race::account::has_ended;
use crate::race::course::{START_TIMEOUT, Testbed};
use crate::race::method::{Look, Method, judge, written};
use crate::race::relay::Load;

/// The port on which a relay listens.
const PORT: u16 = 7500;
/// The name of the file that lists the content.
const LIST: &str = "load.json";

/// The relays.
pub(crate) struct Chain<'c> {
    course: &'c Testbed<'c>,
    source: Process,
    relays: Vec<Option<Process>>,
}

impl<'c> Chain<'c> {
    pub(crate) fn start(course: &'c Testbed<'c>) -> Result<Self> {
        let list = course.directory().join(LIST);
        let load = Load::of(course.content)?;
        fs::write(&list, serde_json::to_vec(&load)?).with_context(|| format!("write {}", list.display()))?;
        let mut command = course.seed.command(std::env::current_exe().context("find this program")?);
        command.arg("relay").arg("--list").arg(&list).arg("--directory").arg(course.content.directory());
        command.arg("--listen").arg(format!("{}:{PORT}", course.seed.address()));
        let mut source = course.seed.spawn("relay", &mut command)?;
        source.wait_for_port(PORT, START_TIMEOUT)?;
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
        // Every piece is written after it was checked.
        let done = held >= self.course.scenario.size();
        if let Some(relay) = self.relays[node].as_ref().filter(|relay| !done && has_ended(relay.id())) {
            bail!("a chain broke at node {}\n{}", node + 1, relay.tail());
        }
        Ok(Some(Look { held, done, seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        self.relays.iter().flatten().chain([&self.source]).map(Process::id).collect()
    }

    fn kill(&mut self, _: Option<usize>) {
        unreachable!("a chain is not started where somebody is killed");
    }

    fn origin_sent(&self) -> Result<u64> {
        // The source plays the seed's part here.
        Ok(0)
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        judge(self.course, node)
    }

    fn looks_disturb(&self) -> bool {
        false
    }
}
