//! Plain downloads: nginx on the seed's host, one curl for each node.

use anyhow::{Context, Result};

use crate::process::Process;
use crate::race::account::has_ended;
use crate::race::course::{Nginx, Testbed};
use crate::race::method::{Look, Method, judge, written};

/// nginx and its downloaders.
pub(crate) struct Plain<'c> {
    course: &'c Testbed<'c>,
    server: Option<Nginx>,
    downloads: Vec<Option<Process>>,
}

impl<'c> Plain<'c> {
    pub(crate) fn start(course: &'c Testbed<'c>) -> Result<Self> {
        let server = Some(Nginx::start(&course.seed, course.content)?);
        Ok(Self { course, server, downloads: course.nodes.iter().map(|_| None).collect() })
    }
}

impl Method for Plain<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let host = &self.course.nodes[node];
        let directory = host.make_directory("content")?;
        let mut curl = host.command("curl");
        curl.args(["--silent", "--fail", "--parallel", "--parallel-max", "8", "--remote-name-all"]);
        curl.arg("--output-dir").arg(directory);
        let server = self.server.as_ref().context("the server was killed before a node began")?;
        curl.args(self.course.content.files.iter().map(|(name, _)| server.url(name)));
        self.downloads[node] = Some(host.spawn("curl", &mut curl)?);
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let held = written(&self.course.nodes[node].directory().join("content"));
        // Not waited for before the end: what the kernel knows of its CPU time goes with it.
        let ended = self.downloads[node].as_ref().is_some_and(|process| has_ended(process.id()));
        Ok(Some(Look { held, done: ended && held >= self.course.scenario.size(), seconds: None }))
    }

    fn processes(&self) -> Vec<u32> {
        let server = self.server.iter().map(|server| server.process.id());
        server.chain(self.downloads.iter().flatten().map(Process::id)).collect()
    }

    fn kill(&mut self, node: Option<usize>) {
        match node {
            Some(node) => self.downloads[node] = None,
            None => self.server = None,
        }
    }

    fn origin_sent(&self) -> Result<u64> {
        // The server plays the seed's part here.
        Ok(0)
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        judge(self.course, node)
    }

    fn looks_disturb(&self) -> bool {
        false
    }
}
