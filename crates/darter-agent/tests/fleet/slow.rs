//! Registries that are slow to the first byte of a blob, or never send it, behind a seed and without one. Times are a tenth of
//! the real ones.

use std::path::Path;
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::Rate;
use futures_util::future::join_all;

use crate::registries::options;
use crate::registry::Registry;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const STALL_TIMEOUT: Duration = Duration::from_secs(3);
static LAYER: [u8; 300_000] = [7; 300_000];

/// A seed, and a node that knows it.
async fn agents(directory: &Path, registry: &Registry) -> [Agent; 2] {
    let (answer_timeout, stall_timeout) = (ANSWER_TIMEOUT, STALL_TIMEOUT);
    let of = |name| Options { answer_timeout, stall_timeout, ..options(directory, name, registry) };
    let seed = darter_gateway::start(Options { role: Role::Seed, ..of("seed") }).await.unwrap();
    let join = vec![seed.status().listen.unwrap()];
    let node = darter_gateway::start(Options { join, ..of("node") }).await.unwrap();
    [seed, node]
}

/// An answer that has begun, in time.
async fn begun(agent: &Agent, path: &str) -> reqwest::Response {
    let url = format!("http://{}{path}", agent.status().local.unwrap());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = tokio::time::timeout(ANSWER_TIMEOUT * 8, client.get(url).send()).await;
    answer.expect("it is not answered in time").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_first_byte_takes_longer_than_any_answer_may_is_read_once_behind_the_headers() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let agents = agents(directory.path(), &registry).await;
    let (_, [_, layer]) = registry.put_image("app", Some("1"), &LAYER);
    registry.state.lock().slow_blobs = ANSWER_TIMEOUT * 3 / 2;
    let pulls = agents.each_ref().map(async |agent| {
        assert_eq!(begun(agent, "/v2/app/manifests/1").await.status(), 200);
        let blob = begun(agent, &format!("/v2/app/blobs/{layer}")).await;
        assert_eq!((blob.status().as_u16(), blob.content_length()), (200, Some(LAYER.len() as u64)));
        assert!(blob.bytes().await.unwrap() == LAYER[..]);
    });
    join_all(pulls).await;
    let reads = registry.asked().iter().filter(|line| **line == format!("GET /v2/app/blobs/{layer}")).count();
    assert_eq!(reads, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_never_begins_is_cut_off_with_the_stall_timeout_and_a_registry_that_says_nothing_is_an_error() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let agents = agents(directory.path(), &registry).await;
    let (_, [config, layer]) = registry.put_image("app", Some("1"), &LAYER);
    registry.state.lock().slow_blobs = Duration::from_secs(10_000);
    let pulls = agents.each_ref().map(async |agent| {
        assert_eq!(begun(agent, "/v2/app/manifests/1").await.status(), 200);
        let blob = begun(agent, &format!("/v2/app/blobs/{layer}")).await;
        assert_eq!(blob.status(), 200, "the registry says that it has it");
        let body = tokio::time::timeout(STALL_TIMEOUT * 4, blob.bytes()).await.expect("it never ends");
        assert!(body.is_err(), "it is visibly cut off");
    });
    join_all(pulls).await;
    registry.state.lock().hangs = true;
    let answers = agents.each_ref().map(async |agent| {
        let answer = begun(agent, &format!("/v2/app/blobs/{config}")).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    });
    for (status, text) in join_all(answers).await {
        assert!(matches!(status, 502 | 504) && text.contains(&registry.name()), "{status} {text}");
    }
}

/// containerd from 2.1 on asks for a layer by several ranges at once, far ahead of what is being read. They wait for it, longer than a
/// blob may stand still, as long as it comes: bytes past the agent would cost the registry a copy for each host.
#[tokio::test(flavor = "multi_thread")]
async fn an_engines_ranges_far_ahead_wait_for_a_blob_that_moves_and_cost_the_registry_nothing() {
    const STEP: usize = 3_000_000;
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let content: Vec<u8> = (0..STEP as u32).flat_map(u32::to_le_bytes).collect();
    let path = format!("/v2/app/blobs/{}", registry.put_blob("app", &content));
    // The last range waits for more than four times as long as a blob may stand still.
    let origin_limit = Some(Rate::from_bytes_per_second(2_000_000).unwrap());
    let of = |name| Options { stall_timeout: Duration::from_secs(2), ..options(directory.path(), name, &registry) };
    let seed = darter_gateway::start(Options { role: Role::Seed, origin_limit, ..of("seed") }).await.unwrap();
    let join = vec![seed.status().listen.unwrap()];
    let nodes = [
        darter_gateway::start(Options { join: join.clone(), ..of("0") }).await.unwrap(),
        darter_gateway::start(Options { join, ..of("1") }).await.unwrap(),
    ];
    let steps = nodes.iter().flat_map(|node| (0..4).map(move |step| (node, step)));
    join_all(steps.map(async |(node, step)| {
        // An engine begins with the first one, and names no last byte.
        tokio::time::sleep(Duration::from_millis(50) * step).await;
        let start = step as usize * STEP;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", node.status().local.unwrap());
        let mut got = client.get(url).header("range", format!("bytes={start}-")).send().await.unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < STEP {
            bytes.extend_from_slice(&got.chunk().await.unwrap().expect("it ends before its step does"));
        }
        assert!(bytes[..STEP] == content[start..start + STEP], "from {start} on");
    }))
    .await;
    assert_eq!(registry.asked().iter().filter(|line| line.starts_with("GET")).count(), 1, "the seed's own read");
}
