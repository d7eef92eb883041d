//! More nodes than a lead tells the hashes itself.

use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use darter_agent::options::Role;
use darter_agent::{Agent, Download, Options};
use darter_core::Source;
use darter_core::source::Credentials;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use crate::seed;

/// A few more than `Tuning::few_members`.
const NODES: usize = 72;
/// The bytes that the origin sends at a time: a piece.
const CHUNK: usize = 128 << 10;
const CHUNKS: usize = 24;
/// So many it sends before the swarm is large.
const FIRST: usize = 4;

/// An origin that sends a few pieces, and the others when it is told to. Gives the file's URL.
async fn patient_origin(may_go_on: watch::Receiver<bool>) -> String {
    let answer = move || {
        let may_go_on = may_go_on.clone();
        async move {
            let chunks = stream::iter(0..CHUNKS).then(move |at| {
                let mut may_go_on = may_go_on.clone();
                async move {
                    if at >= FIRST {
                        may_go_on.wait_for(|may| *may).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Ok::<_, Infallible>(Bytes::from(vec![at as u8; CHUNK]))
                }
            });
            let response = Response::builder().header("etag", "\"1\"").header("content-length", CHUNKS * CHUNK);
            response.body(Body::from_stream(chunks)).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/file", get(answer))).await });
    url
}

async fn agent(directory: &Path, name: usize, join: &[String]) -> Agent {
    let role = if join.is_empty() { Role::Seed } else { Role::Node };
    let local = Some(([127, 0, 0, 1], 0).into());
    let options = Options { role, local, ..seed::node(&directory.join(name.to_string()), join.to_vec()) };
    darter_gateway::start(options).await.unwrap()
}

/// How many hashes an agent told others.
const SENT: &str = "darter_hashes_sent_total";

/// One of an agent's counters.
async fn counted(agent: &Agent, name: &str) -> u64 {
    let url = format!("http://{}/metrics", agent.status().local.unwrap());
    let text = reqwest::get(url).await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// Agents that fetch the origin's file from a lead.
struct Swarm {
    source: Source,
    lead: Agent,
    nodes: Vec<Agent>,
    downloads: Vec<Download>,
    /// Lets the origin send more than its first pieces.
    go_on: watch::Sender<bool>,
}

impl Swarm {
    /// With everybody let in: it is large before most of the hashes are known. The lead is on a runtime of its own.
    async fn start(directory: &Path, leads: &Handle) -> Self {
        let (go_on, may_go_on) = watch::channel(false);
        let (source, _) = Source::from_url(patient_origin(may_go_on).await.parse().unwrap(), &[], None);
        let at = directory.to_owned();
        let lead = leads.spawn(async move { agent(&at, 0, &[]).await }).await.unwrap();
        let join = [lead.status().listen.unwrap()];
        let (mut nodes, mut downloads) = (Vec::new(), Vec::new());
        for name in 1..=NODES {
            let node = agent(directory, name, &join).await;
            downloads.push(node.open(source.clone(), Credentials::default()).await.unwrap());
            nodes.push(node);
        }
        Self { source, lead, nodes, downloads, go_on }
    }

    async fn everybody_has_everything(&self) {
        let all = futures_util::future::join_all(self.downloads.iter().map(check));
        tokio::time::timeout(Duration::from_secs(120), all).await.expect("everybody learns every hash");
    }

    async fn told_by_each(&self) -> Vec<u64> {
        let mut told = Vec::new();
        for node in &self.nodes {
            told.push(counted(node, SENT).await);
        }
        told
    }

    async fn drain(self) {
        for agent in self.nodes {
            agent.drain().await;
        }
    }
}

/// Reads a download to its end.
async fn check(download: &Download) {
    let mut stream = download.stream(None);
    let mut at = 0;
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.unwrap();
        assert!(bytes.iter().zip(at..).all(|(byte, at)| *byte == (at / CHUNK) as u8));
        at += bytes.len();
    }
    assert_eq!(at, CHUNKS * CHUNK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_large_swarm_tell_each_other_the_hashes() {
    let directory = tempfile::tempdir().unwrap();
    let swarm = Swarm::start(directory.path(), &Handle::current()).await;
    swarm.go_on.send(true).unwrap();
    swarm.everybody_has_everything().await;
    let by_lead = counted(&swarm.lead, SENT).await;
    let by_members: u64 = swarm.told_by_each().await.iter().sum();
    let all = (NODES * CHUNKS) as u64;
    assert!(by_members > all / 4, "members tell each other: {by_members} of {all}");
    assert!(by_lead < all * 3 / 4, "the lead does not tell everybody everything: {by_lead} of {all}");

    let newcomer = agent(directory.path(), NODES + 1, &[swarm.lead.status().listen.unwrap()]).await;
    let download = newcomer.open(swarm.source.clone(), Credentials::default()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), check(&download)).await.expect("who comes late is told, too");
    newcomer.drain().await;
    swarm.lead.clone().drain().await;
    swarm.drain().await;
}

#[test]
fn when_the_lead_of_a_large_swarm_dies_the_next_one_vouches_for_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let [members, leads] = [(); 2].map(|()| Runtime::new().unwrap());
    let swarm = members.block_on(Swarm::start(directory.path(), leads.handle()));
    // It dies before it could tell most of the hashes.
    leads.shutdown_background();
    swarm.go_on.send(true).unwrap();
    members.block_on(async {
        swarm.everybody_has_everything().await;
        let mut told = swarm.told_by_each().await;
        told.sort_unstable();
        // The lead that told most is the one now.
        let lead = told.pop().unwrap();
        let by_others: u64 = told.iter().sum();
        // On a busy machine members are asked late, and several may lead for a while.
        assert!(by_others > (NODES * CHUNKS) as u64 / 8, "{by_others} beside {lead} of the lead");
        swarm.drain().await;
    });
}
