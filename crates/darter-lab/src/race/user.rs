//! The user's own download: agents as in [`darter`](super::darter), and on each node a `darter get` that is done when its file is.
//!
//! The time is that from the start of the program to its end, and its CPU time counts with the agents'. Other methods write their files
//! themselves, so that this one compares with them.

use anyhow::{Context, Result};

use crate::process::Process;
use crate::race::account::has_ended;
use crate::race::course::Testbed;
use crate::race::darter::Darter;
use crate::race::method::{Look, Method, judge, written};

/// The target of `darter get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file, which it makes in whatever order bytes come.
    File,
    /// A file that is the agent's own, linked.
    Link,
    /// Its standard output, in order.
    Output,
}

/// The agents, and a program for each file that a node wants.
pub(crate) struct User<'c> {
    course: &'c Testbed<'c>,
    agents: Darter<'c>,
    target: Target,
    gets: Vec<Vec<Process>>,
}

impl<'c> User<'c> {
    pub(crate) fn start(course: &'c Testbed<'c>, target: Target) -> Result<Self> {
        let gets = course.nodes.iter().map(|_| Vec::new()).collect();
        Ok(Self { course, agents: Darter::start(course, &[])?, target, gets })
    }
}

impl Method for User<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let host = &self.course.nodes[node];
        let directory = host.make_directory("content")?;
        for (file, digest) in &self.course.content.files {
            let mut command = self.agents.command(node);
            command.args(["get", "--quiet", "--digest", &digest.to_string(), &self.agents.url(file)]);
            command.args((self.target == Target::Link).then_some("--link")).arg("--output");
            let process = match self.target {
                Target::File | Target::Link => host.spawn(&format!("get-{file}"), command.arg(directory.join(file)))?,
                Target::Output => Process::spawn_into(command.arg("-"), file, &directory, host.directory())?,
            };
            self.gets[node].push(process);
        }
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let held = written(&self.course.nodes[node].directory().join("content"));
        // Not waited for before the end: what the kernel knows of their CPU time goes with them.
        let ended = self.gets[node].iter().all(|get| has_ended(get.id()));
        Ok(Some(Look { held, done: ended && held >= self.course.scenario.size(), seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        let gets = self.gets.iter().flatten().map(Process::id);
        self.agents.processes().into_iter().chain(gets).collect()
    }

    fn kill(&mut self, node: Option<usize>) {
        self.agents.kill(node);
    }

    fn origin_sent(&self) -> Result<u64> {
        self.agents.origin_sent()
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        judge(self.course, node).context("judge what get wrote")
    }

    fn looks_disturb(&self) -> bool {
        false
    }
}
