//! All nodes are asked for the file at the same time, each through its own socket. A node is done when it holds the whole file and has
//! checked it. The nodes' outputs are read and hashed only afterwards, so that hashing does not slow down nine processes on few
//! cores.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use darter_api::Client;
use darter_api::GetRequest;
use darter_core::{BlobId, Digest, DigestHasher};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use super::content::Content;
use super::finish::Finish;
use super::fleet::{DemoAgent, Fleet};
use super::origin::DemoOrigin;
use super::picture::{Picture, Row, TICK};

/// How often a node is asked whether it is done.
const POLL: Duration = Duration::from_millis(100);

/// The result of the swarm.
#[derive(Debug)]
pub(super) struct SwarmRun {
    /// When each node held everything, and whether its output is right.
    pub(super) finishes: Vec<Finish>,
    /// How many bytes the origin sent.
    pub(super) from_origin: u64,
    /// How many bytes the seed sent.
    pub(super) from_seed: u64,
    /// CPU seconds of seed and nodes.
    pub(super) cpu: f64,
    /// For each node, how many bytes it held over time: pairs of seconds since the start, and bytes.
    pub(super) curves: Vec<Vec<(f64, f64)>>,
}

/// Runs the downloads and draws them.
pub(super) async fn run(
    fleet: &Fleet,
    origin: &DemoOrigin,
    content: &Content,
    digest: Digest,
    quiet: bool,
) -> anyhow::Result<SwarmRun> {
    let names: Vec<String> = fleet.members().map(|member| member.name.clone()).collect();
    let mut picture = Picture::new(&names, content.length(), quiet);
    let cpu_before = fleet.cpu().await?;
    let blob = Arc::new(OnceLock::new());
    let mut downloads = JoinSet::new();
    for node in &fleet.nodes {
        let (client, name) = (node.client.clone(), node.name.clone());
        let (url, blob) = (origin.url.to_string(), blob.clone());
        downloads.spawn(async move {
            let seconds = hold(&client, url, &blob).await.with_context(|| format!("{name} failed"))?;
            anyhow::Ok((client, name, seconds))
        });
    }
    let mut ticks = tokio::time::interval(TICK);
    let mut holders = Vec::new();
    while holders.len() < fleet.nodes.len() {
        tokio::select! {
            finished = downloads.join_next() => match finished {
                Some(holder) => holders.push(holder??),
                None => bail!("a download ended without a result"),
            },
            _ = ticks.tick() => picture.draw(&rows(fleet, blob.get()).await),
        }
    }
    picture.draw(&rows(fleet, blob.get()).await);
    // The first curve is the seed's.
    let curves = picture.finish().split_off(1);
    let (from_origin, cpu) = (origin.sent(), fleet.cpu().await? - cpu_before);
    let from_seed = fleet.seed.client.status().await?.traffic.to_peers;
    let mut finishes = Vec::new();
    for (client, name, seconds) in holders {
        let got = read(&client, origin.url.to_string()).await.with_context(|| format!("{name} failed"))?;
        finishes.push(Finish { seconds, right: got == digest });
    }
    Ok(SwarmRun { finishes, from_origin, from_seed, cpu, curves })
}

async fn rows(fleet: &Fleet, blob: Option<&BlobId>) -> Vec<Row> {
    let row = |member: &'_ DemoAgent| {
        let client = member.client.clone();
        async move {
            let blob = blob?;
            // If a member is busy, it may be missing from one picture.
            let progress = tokio::time::timeout(Duration::from_secs(1), client.progress(*blob)).await.ok()?.ok()?;
            Some(Row::of_progress(&progress))
        }
    };
    join_all(fleet.members().map(row)).await.into_iter().map(Option::unwrap_or_default).collect()
}

/// Asks a node for the file and waits until it holds all of it. Returns how many seconds that took by the node's clock.
async fn hold(client: &Client, url: String, blob: &OnceLock<BlobId>) -> anyhow::Result<f64> {
    let answer = client.get_bytes(&GetRequest::of(url, Vec::new())).await?;
    let id = answer.headers().get(darter_api::headers::BLOB_HEADER).and_then(|id| id.to_str().ok()?.parse().ok());
    let id = id.context("the node's answer names no blob")?;
    blob.get_or_init(|| id);
    // The answer is not read: the node goes on without a reader.
    drop(answer);
    loop {
        let progress = client.progress(id).await?;
        if progress.complete {
            return Ok(progress.elapsed);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Hashes a node's output.
async fn read(client: &Client, url: String) -> anyhow::Result<Digest> {
    let answer = client.get_bytes(&GetRequest::of(url, Vec::new())).await?;
    let mut body = answer.into_body();
    let mut hasher = DigestHasher::sha256();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hasher.update(data);
        }
    }
    Ok(hasher.finish())
}
