//! Darter's agents: a seed and nodes as users start them, asked for the content through their administration sockets.
//!
//! The seed starts cold and reads the origin during the race, unless the scenario says that it is warm, while the seeds of other
//! methods have the content from the start. Content is asked for with its digest, as an image's layers are: so the seed computes SHA-256 of the whole, and with
//! `--verify-whole` every node does. A node is done when it says that it holds everything and has checked the whole, at the moment that it names itself
//! by a clock that began with its transfer; when that was is told by the lab's own clock.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use darter_core::{Clock, Digest, Moment, SystemClock};
use serde_json::{Value, json};

use crate::cluster::{Agent, PEER_PORT};
use crate::process::wait_until;
use crate::race::course::{Course, Nginx, START_TIMEOUT};
use crate::race::method::{Look, Method};

/// How long an agent may take to answer.
const AGENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a seed may take to read a file from the origin.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(600);
/// The header of an answer that names its blob.
const BLOB_HEADER: &str = "darter-blob";

/// The fleet, and the origin that its seed reads.
pub(crate) struct Darter<'c> {
    course: &'c Course<'c>,
    clock: SystemClock,
    origin: Nginx,
    seed: Agent<'c>,
    nodes: Vec<Node<'c>>,
}

struct Node<'c> {
    agent: Agent<'c>,
    began: Moment,
    wanted: Vec<Wanted>,
}

/// A blob that a node was asked for.
enum Wanted {
    /// Asked for; the agent has not answered yet.
    Asked(JoinHandle<Result<String>>),
    /// On its way. The agent's clock for it began this many seconds after the node, as far as answers have told.
    Coming { blob: String, zero: Option<f64>, held: u64 },
    /// Held and checked, this long after the node began.
    Held { seconds: f64 },
}

impl<'c> Darter<'c> {
    /// Starts them, the nodes with these flags besides.
    pub(crate) fn start(course: &'c Course<'c>, flags: &[&str]) -> Result<Self> {
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
            nodes.push(Node { agent, began: Moment::ZERO, wanted: Vec::new() });
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
            let blob = get(&socket, &self.origin.url(file), *digest)?;
            let is_complete = || Ok(ask(&socket, &format!("/v1/progress?blob={blob}"))?["complete"] == true);
            wait_until(&format!("the seed to hold {file}"), WARM_UP_TIMEOUT, is_complete)?;
        }
        Ok(())
    }

    /// Where a file is.
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
            let asking = thread::spawn(move || get(&socket, &url, digest));
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
            let progress = ask(socket, &format!("/v1/progress?blob={blob}"))?;
            *held = progress["held_bytes"].as_u64().unwrap_or(*held);
            let elapsed = progress["elapsed"].as_f64().context("progress tells the time it took")?;
            let seen = now();
            if progress["complete"] == true {
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
        // Its socket comes a moment after its ports.
        let Ok(status) = ask(&socket, "/v1/status") else { return Ok(false) };
        Ok(status["seeds"].as_array().is_some_and(|seeds| seeds.iter().all(|seed| seed["up"] == true)))
    })
}

/// Lets an agent fetch a URL's content, which must have this digest; gives the blob's id.
pub(crate) fn get(socket: &Path, url: &str, digest: Digest) -> Result<String> {
    let request = json!({ "url": url, "digest": digest.to_string() }).to_string();
    let head = exchange(socket, "POST", "/v1/get", &request, false)?;
    let blob = head.lines().find_map(|line| line.strip_prefix(BLOB_HEADER)?.strip_prefix(':'));
    Ok(blob.with_context(|| format!("the agent answered {head}"))?.trim().to_owned())
}

/// What an agent answers to a GET on its socket.
pub(crate) fn ask(socket: &Path, path: &str) -> Result<Value> {
    let answer = exchange(socket, "GET", path, "", true)?;
    serde_json::from_str(&answer).with_context(|| format!("the agent answered {path} with {answer}"))
}

/// One request on a connection of its own; gives the answer's body, or its head only.
fn exchange(socket: &Path, method: &str, path: &str, body: &str, wants_body: bool) -> Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(AGENT_ANSWER_TIMEOUT))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: darter\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let split = |answer: &[u8]| answer.windows(4).position(|window| window == b"\r\n\r\n");
    while wants_body || split(&answer).is_none() {
        match stream.read(&mut buffer)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    let end = split(&answer).with_context(|| format!("the agent broke off its answer to {path}"))?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let rest = String::from_utf8_lossy(&answer[end + 4..]).into_owned();
    ensure!(head.starts_with("HTTP/1.1 200"), "the agent answered {path} with {head}\n{rest}");
    Ok(if wants_body { rest } else { head })
}
