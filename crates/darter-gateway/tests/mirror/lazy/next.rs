//! Layers that the agent before gave, as the next one on this host knows them.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_snapshots_name_is_known_to_the_next_agent_and_what_was_never_given_is_told() {
    let world = World::new().await;
    let [base, top] = world.private();
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    for tar in [&base, &top] {
        let _ = found(&agent, id(tar)).await;
    }
    let other = Digest::sha256(b"other");
    let name = async |agent: &Agent, named: Vec<Digest>| {
        client(agent).name_layers(Namer::Snapshotter, &NamedLayers { named }).await.unwrap()
    };
    assert_eq!(name(&agent, vec![id(&base), other]).await.unknown, [other]);
    agent.drain().await;
    let list = || std::fs::read_to_string(world.dir.path().join("data/layers")).unwrap();
    drop(agent);
    assert_eq!(list().matches("\"named\":true").count(), 1, "{}", list());
    let agent = world.agent(|_| ()).await;
    assert!(name(&agent, Vec::new()).await.unknown.is_empty());
    agent.drain().await;
    assert_eq!(list().matches("\"named\":false").count(), 1, "{}", list());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_was_opened_is_found_by_the_next_agent_too_without_the_registry_and_is_not_removed() {
    let world = World::new().await;
    let tar = tar_of("kept");
    world.image(&world.lab, "app", &[&tar], &[id(&tar)]);
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "app").await, 200);
    let layer = found(&agent, id(&tar)).await;
    assert!(opens(&agent, layer.clone()).await);
    // An engine that was told of a whole file opens it past the agent.
    let unopened = tar_of("unopened");
    world.image(&world.lab, "other", &[&unopened], &[id(&unopened)]);
    assert_eq!(pull(&agent, ALICE, "lab", "other").await, 200);
    let _ = found(&agent, id(&unopened)).await;
    agent.drain().await;
    drop(agent);
    let World { lab, stranger, dir } = world;
    let after = World { lab: Registry::start().await, stranger, dir };
    lab.stop().await;
    let agent = after.agent(|options| options.upstreams.clear()).await;
    let again = found(&agent, id(&tar)).await;
    assert_eq!((again.layer, again.length_bytes, again.headers), (layer.layer, layer.length_bytes, Vec::new()));
    let _ = found(&agent, id(&unopened)).await;
    let blobs = agent.list().await.unwrap();
    let kept = blobs.iter().find(|row| row.length == Some(layer.length_bytes)).unwrap();
    assert!(!kept.pinned);
    let refused = agent.remove(&kept.blob.to_string()).await.unwrap_err().to_string();
    assert!(refused.contains("in use"), "{refused}");
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_in_use_that_is_not_here_is_given_with_the_credentials_of_its_latest_pull_and_not_without_any() {
    let world = World::new().await;
    let [base, _] = world.private();
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    assert!(opens(&agent, found(&agent, id(&base)).await).await);
    agent.drain().await;
    drop(agent);
    // The next agent has the list alone.
    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(other.path().join("data")).unwrap();
    std::fs::copy(world.dir.path().join("data/layers"), other.path().join("data/layers")).unwrap();
    let world = World { dir: other, ..world };
    let agent = world.agent(|_| ()).await;
    assert!(misses(&agent, id(&base)).await, "nobody could read it");
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    let again = found(&agent, id(&base)).await;
    assert!(again.headers.iter().any(|(_, value)| value == ALICE), "{:?}", again.headers);
    assert!(opens(&agent, again).await);
    agent.drain().await;
}
