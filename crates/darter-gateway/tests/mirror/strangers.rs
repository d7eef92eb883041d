//! A stranger's registry and its effect on others: one that is slow, or never gets to an end, keeps nobody from the same digest of another,
//! and a second registry behind the host of one that is known is a stranger. With real agents, since they decide.

use std::path::Path;
use std::time::Duration;

use darter_agent::Agent;
use darter_agent::options::{Options, Role, UpstreamOption};
use http::StatusCode;

use crate::provenance::{ALICE, World, get, options, world};
use crate::registry::Registry;

/// Longer than any test runs.
const EVER: Duration = Duration::from_secs(100_000);
const SOON: Duration = Duration::from_secs(60);

async fn seed_and_node(directory: &Path, world: &World) -> [Agent; 2] {
    // Nobody waits for the stranger at the end, either.
    let of = |role, name, join| Options {
        lazy: None,
        drain_timeout: Duration::ZERO,
        ..options(role, &directory.join(name), join, &world.lab, &world.stranger)
    };
    let seed = darter_gateway::start(of(Role::Seed, "seed", Vec::new())).await.unwrap();
    let join = vec![seed.status().listen.unwrap()];
    [seed, darter_gateway::start(of(Role::Node, "node", join)).await.unwrap()]
}

fn blob_gets(registry: &Registry) -> usize {
    let state = registry.state.lock();
    state.seen.iter().filter(|seen| seen.line.starts_with("GET") && seen.line.contains("/blobs/")).count()
}

/// The bytes that an agent's mirror gave past the agent, as its metrics have it.
async fn fallbacks(agent: &Agent) -> String {
    let (_, metrics) = get(agent, None, "/metrics").await;
    let metrics = String::from_utf8(metrics.unwrap()).unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with("darter_mirror_fallbacks_total{"));
    lines.filter(|line| !line.ends_with(" 0")).collect()
}

/// While somebody waits for what the stranger claims to have, alice pulls the same digest from the registry that has it: on the
/// seed, and on a node, which asks the seed.
async fn keeps_nobody_waiting(world: World) {
    for asked_by in 0..2 {
        let directory = tempfile::tempdir().unwrap();
        let agents = seed_and_node(directory.path(), &world).await;
        let [_, theirs] = world.paths(&world.stranger.name());
        world.stranger.asked();
        let waits = get(&agents[asked_by], None, &theirs);
        let others = async {
            while blob_gets(&world.stranger) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            for agent in &agents {
                world.pull(agent).await;
            }
        };
        let pulled = tokio::time::timeout(SOON, async {
            tokio::select! {
                () = others => {}
                () = async { drop(waits.await); std::future::pending().await } => {}
            }
        });
        pulled.await.expect("alice waits for a stranger");
        for agent in agents.iter().rev() {
            // A caller that waits long enough is served past the agent.
            assert_eq!(fallbacks(agent).await, "", "alice waits for a stranger");
            agent.drain().await;
        }
    }
}

#[tokio::test]
async fn a_stranger_who_answers_slowly_keeps_nobody_from_the_same_digest() {
    let world = world().await;
    world.stranger.state.lock().slow_blobs = EVER;
    keeps_nobody_waiting(world).await;
}

#[tokio::test]
async fn a_strangers_unfinished_transfer_keeps_nobody_from_the_same_digest() {
    let world = world().await;
    {
        let mut state = world.stranger.state.lock();
        (state.says_yes, state.blobs_stop_after) = (false, Some(100_000));
    }
    world.stranger.put_image("private/app", Some("1"), &world.layer);
    keeps_nobody_waiting(world).await;
}

/// Two registries behind one host, by the paths of their base addresses.
fn at_path(mut upstream: UpstreamOption, name: &str, path: &str) -> UpstreamOption {
    upstream.name = name.to_owned();
    upstream.urls.iter_mut().for_each(|url| url.set_path(path));
    upstream
}

#[tokio::test]
async fn another_base_path_of_a_host_is_another_registry() {
    let world = world().await;
    let (_, [_, digest]) = world.lab.put_image("a/private/app", Some("1"), &world.layer);
    world.lab.allow(ALICE, "a/private/app");
    // The other one's operator says yes to everybody.
    world.lab.allow("", "b/private/app");
    world.lab.state.lock().says_yes = true;
    let directory = tempfile::tempdir().unwrap();
    let mut of_seed = options(Role::Seed, &directory.path().join("seed"), Vec::new(), &world.lab, &world.stranger);
    let lab = of_seed.upstreams.remove(0);
    of_seed.upstreams.push(at_path(lab.clone(), "lab", "/a/"));
    let seed = darter_gateway::start(of_seed).await.unwrap();
    let alices = format!("/v2/private/app/blobs/{digest}?ns=lab");
    assert_eq!(get(&seed, Some(ALICE), &alices).await, (StatusCode::OK, Some(world.layer.clone())));
    let join = vec![seed.status().listen.unwrap()];
    let mut of_node = options(Role::Node, &directory.path().join("node"), join, &world.lab, &world.stranger);
    of_node.upstreams = vec![at_path(lab.clone(), "lab", "/a/"), at_path(lab, "other", "/b/")];
    let node = darter_gateway::start(of_node).await.unwrap();
    let (status, body) = get(&node, None, &format!("/v2/private/app/blobs/{digest}?ns=other")).await;
    assert!(!status.is_success() && body.is_none_or(|body| body.len() < 1000), "{status}");
    node.drain().await;
    seed.drain().await;
}
