//! Darter's agents: a seed and nodes as users start them, asked for the content through their administration sockets.
//!
//! The seed starts cold and reads the origin during the race, unless the scenario says that it is warm, while the seeds of other
//! methods have the content from the start. Content is asked for with its digest, as an image's layers are: so the seed computes SHA-256 of the whole, and with
//! `--verify-whole` every node does. A node is done when it says that it holds everything and has checked the whole, at the moment that it names itself
//! by a clock that began with its transfer; when that was is told by the lab's own clock.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use darter_core::{BlobId, Clock, Moment, SystemClock};

use crate::cluster::{Agent, PEER_PORT};
use crate::process::wait_until;
use crate::race::course::{Nginx, START_TIMEOUT, Testbed};
use crate::race::method::{Look, Method};
use crate::socket;

/// How long a seed may take to read a file from the origin.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(600);

/// The fleet, and the origin that its seed reads.
pub(crate) struct Darter<'c> {
    course: &'c Testbed<'c>,
    clock: SystemClock,
    origin: Nginx,
    seed: Agent<'c>,
    nodes: Vec<GetNode<'c>>,
}

struct GetNode<'c> {
    agent: Agent<'c>,
    began: Moment,
    wanted: Vec<Wanted>,
}

/// A blob that a node was asked for.
enum Wanted {
    /// Asked for; the agent has not answered yet.
    Asked(JoinHandle<Result<BlobId>>),
    /// On its way. The agent's clock for it began this many seconds after the node, as far as answers have told.
    Coming { blob: BlobId, zero: Option<f64>, held: u64 },
    /// Held and checked, this long after the node began.
    Held { seconds: f64 },
}

impl<'c> Darter<'c> {
    /// Starts them, the nodes with these flags besides.
    pub(crate) fn start(course: &'c Testbed<'c>, flags: &[&str]) -> Result<Self> {
        let origin = Nginx::start(&course.origin, course.content)?;
        let place = |second: bool| match &course.rack {
            Some(_) => vec!["--label".to_owned(), format!("rack={}", if second { "b" } else { "a" })],
            None => Vec::new(),
        };
        let seed = Agent::with_arguments(&course.seed, [vec!["seed".to_owned()], place(false)].concat())?;
        let join = ["node".to_owned(), "--join".to_owned(), format!("{}:{PEER_PORT}", course.seed.address())];
        let mut nodes = Vec::new();
        for (number, host) in course.nodes.iter().enumerate() {
            let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
            let arguments = [join.to_vec(), place(course.scenario.is_in_second_rack(number)), flags].concat();
            let agent = Agent::with_arguments(host, arguments)?;
            nodes.push(GetNode { agent, began: Moment::ZERO, wanted: Vec::new() });
        }
        for node in &nodes {
            meet_seed(&node.agent)?;
        }
        let darter = Self { course, clock: SystemClock::start(), origin, seed, nodes };
        if course.scenario.warm {
            darter.warm_seed()?;
        }
        Ok(darter)
    }

    /// Has the seed read everything.
    fn warm_seed(&self) -> Result<()> {
        let socket = self.seed.socket();
        for (file, digest) in &self.course.content.files {
            let blob = socket::get(&socket, &self.origin.url(file), *digest)?;
            let is_complete = || Ok(socket::progress(&socket, blob)?.complete);
            wait_until(&format!("the seed to hold {file}"), WARM_UP_TIMEOUT, is_complete)?;
        }
        Ok(())
    }

    /// The URL of `file`.
    pub(crate) fn url(&self, file: &str) -> String {
        self.origin.url(file)
    }

    /// The program on a node's host, as a user of its agent starts it.
    pub(crate) fn command(&self, node: usize) -> Command {
        self.nodes[node].agent.darter()
    }
}

impl Method for Darter<'_> {
    fn begin(&mut self, node: usize) -> Result<()> {
        let clock = self.clock;
        let node = &mut self.nodes[node];
        node.began = clock.now();
        for (file, digest) in &self.course.content.files {
            let (socket, url, digest) = (node.agent.socket(), self.origin.url(file), *digest);
            // The answer comes when the origin's does, and the others are not to wait for that.
            let asking = thread::spawn(move || socket::get(&socket, &url, digest));
            node.wanted.push(Wanted::Asked(asking));
        }
        Ok(())
    }

    fn look(&mut self, node: usize) -> Result<Option<Look>> {
        let (blob_size, clock) = (self.course.content.size, self.clock);
        let node = &mut self.nodes[node];
        let began = node.began;
        let socket = node.agent.socket();
        for wanted in &mut node.wanted {
            wanted.update(&socket, || clock.now().since(began).as_secs_f64())?;
        }
        let mut look = Look { held: 0, done: true, seconds: Some(0.0) };
        for wanted in &node.wanted {
            match wanted {
                Wanted::Asked(_) => look.done = false,
                Wanted::Coming { held, .. } => {
                    look.done = false;
                    look.held += held;
                }
                Wanted::Held { seconds } => {
                    look.held += blob_size;
                    look.seconds = look.seconds.map(|latest| latest.max(*seconds));
                }
            }
        }
        Ok(Some(look))
    }

    fn processes(&self) -> Vec<u32> {
        let agents = self.nodes.iter().map(|node| &node.agent).chain([&self.seed]);
        agents.filter_map(Agent::process_id).collect()
    }

    fn kill(&mut self, node: Option<usize>) {
        match node {
            Some(node) => self.nodes[node].agent.kill(),
            None => self.seed.kill(),
        }
    }

    fn origin_sent(&self) -> Result<u64> {
        self.origin.sent()
    }

    fn is_right(&mut self, node: usize) -> Result<bool> {
        let agent = &self.nodes[node].agent;
        for (file, digest) in &self.course.content.files {
            let copy = agent.host().directory().join(file);
            let url = self.origin.url(file);
            let output = copy.to_str().context("a copy's path is text")?;
            agent.ask(&["get", &url, "--digest", &digest.to_string(), "--output", output, "--quiet"])?;
            let right = crate::oci::digest_of(&copy)? == *digest;
            fs::remove_file(&copy)?;
            if !right {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn looks_disturb(&self) -> bool {
        true
    }
}

impl Wanted {
    fn update(&mut self, socket: &Path, now: impl Fn() -> f64) -> Result<()> {
        if let Self::Asked(asking) = self
            && asking.is_finished()
        {
            let asking = std::mem::replace(self, Self::Held { seconds: 0.0 });
            let Self::Asked(asking) = asking else { bail!("a wanted blob changed while it was looked at") };
            let Ok(answer) = asking.join() else { bail!("asking an agent panicked") };
            *self = Self::Coming { blob: answer?, zero: None, held: 0 };
        }
        if let Self::Coming { blob, zero, held } = self {
            let progress = socket::progress(socket, *blob)?;
            *held = progress.held_bytes;
            let elapsed = progress.elapsed;
            let seen = now();
            if progress.complete {
                *self = Self::Held { seconds: zero.map_or(seen, |zero| (zero + elapsed).min(seen)) };
            } else {
                // The quickest answer says best when the agent's clock began.
                let told = seen - elapsed;
                *zero = Some(zero.map_or(told, |least| least.min(told)));
            }
        }
        Ok(())
    }
}

/// Waits until an agent has met its seeds.
pub(crate) fn meet_seed(agent: &Agent<'_>) -> Result<()> {
    let socket = agent.socket();
    wait_until(&format!("{} to meet its seed", agent.host().name()), START_TIMEOUT, || {
        // The agent's socket comes a moment after its ports.
        let Ok(status) = socket::status(&socket) else { return Ok(false) };
        Ok(status.seeds.iter().all(|seed| seed.up))
    })
}
