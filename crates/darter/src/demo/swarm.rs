//! All nodes are asked for the file at once, each through its own socket.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use darter_core::{BlobId, Digest, DigestHasher};
use darter_node::api::GetRequest;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::content::Content;
use super::fleet::{Fleet, Member};
use super::origin::Origin;
use super::picture::{Picture, Row, TICK};
use super::result::Finish;
use crate::client::Client;

/// What the swarm came to.
#[derive(Debug)]
pub(super) struct SwarmRun {
    /// When each node had given out its last byte.
    pub(super) finishes: Vec<Finish>,
    /// Bytes that the origin gave out.
    pub(super) from_origin: u64,
    /// Bytes that the seed sent.
    pub(super) from_seed: u64,
    /// CPU seconds of seed and nodes.
    pub(super) cpu: f64,
}

/// Runs the downloads and draws them.
pub(super) async fn run(
    fleet: &Fleet,
    origin: &Origin,
    content: &Content,
    digest: Digest,
    quiet: bool,
) -> anyhow::Result<SwarmRun> {
    let names: Vec<String> = fleet.members().map(|member| member.name.clone()).collect();
    let mut picture = Picture::new(&names, content.length(), quiet);
    let cpu_before = fleet.cpu().await?;
    let blob = Arc::new(OnceLock::new());
    let started = Instant::now();
    let mut downloads = JoinSet::new();
    for node in &fleet.nodes {
        let (client, name) = (node.client.clone(), node.name.clone());
        let (url, blob) = (origin.url.to_string(), blob.clone());
        downloads.spawn(async move {
            let got = download(&client, url, &blob).await.with_context(|| format!("{name} failed"))?;
            anyhow::Ok(Finish { seconds: started.elapsed().as_secs_f64(), right: got == digest })
        });
    }
    let mut ticks = tokio::time::interval(TICK);
    let mut finishes = Vec::new();
    while finishes.len() < fleet.nodes.len() {
        tokio::select! {
            finished = downloads.join_next() => match finished {
                Some(finish) => finishes.push(finish??),
                None => bail!("a download ended without a result"),
            },
            _ = ticks.tick() => picture.draw(&rows(fleet, blob.get()).await),
        }
    }
    picture.draw(&rows(fleet, blob.get()).await);
    picture.finish();
    Ok(SwarmRun {
        finishes,
        from_origin: origin.sent(),
        from_seed: fleet.seed.client.status().await?.traffic.to_peers,
        cpu: fleet.cpu().await? - cpu_before,
    })
}

async fn rows(fleet: &Fleet, blob: Option<&BlobId>) -> Vec<Row> {
    let row = |member: &'_ Member| {
        let client = member.client.clone();
        async move {
            let blob = blob?;
            // A busy member may miss a frame of the picture.
            let progress = tokio::time::timeout(Duration::from_secs(1), client.progress(*blob)).await.ok()?.ok()?;
            Some(Row::of_progress(&progress))
        }
    };
    join_all(fleet.members().map(row)).await.into_iter().map(Option::unwrap_or_default).collect()
}

/// Downloads through a node, and hashes what comes out of it.
async fn download(client: &Client, url: String, blob: &OnceLock<BlobId>) -> anyhow::Result<Digest> {
    let answer = client.get(&GetRequest { url, headers: Vec::new(), digest: None }).await?;
    if let Some(id) =
        answer.headers().get(darter_node::admin::BLOB_HEADER).and_then(|id| id.to_str().ok()?.parse().ok())
    {
        blob.get_or_init(|| id);
    }
    let mut body = answer.into_body();
    let mut hasher = DigestHasher::sha256();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hasher.update(data);
        }
    }
    Ok(hasher.finish())
}
