//! Fleets in memory, whose story goes on as what they say of themselves goes on: agents as they are, over a network, an origin and stores
//! that touch no socket, in virtual time. A minute's silence takes no longer than it takes to tell. Stories that are told beforehand are
//! in `stories`.

use std::time::Duration;

use darter_gateway::{serve_admin, serve_local, serve_metrics};
use darter_store::{Store as _, threads};
use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::stories::world::{Content, SEED, World, fetches, ip};

/// Long in virtual time.
const AT_LAST: Duration = Duration::from_secs(120);

/// A seed and nodes that join it.
async fn fleet(nodes: impl IntoIterator<Item = u8>) -> World {
    let mut world = World::new();
    world.starts(SEED, |_| {}).await;
    for host in nodes {
        world.starts(host, |_| {}).await;
    }
    world
}

async fn fetch(world: &World, host: u8, content: &Content) {
    let fetched = timeout(AT_LAST, fetches(world.agent(host).clone(), content.clone(), 0)).await.expect("it comes");
    fetched.unwrap_or_else(|error| panic!("host {host}: {error}"));
}

async fn until(world: &World, what: &str, mut is: impl FnMut(&World) -> bool) {
    let met = async {
        while !is(world) {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(AT_LAST, met).await.expect(what);
}

fn peers(world: &World, host: u8) -> usize {
    world.agent(host).status().peers.len()
}

fn has_seed(world: &World, host: u8) -> bool {
    world.agent(host).status().seeds.iter().any(|seed| seed.up)
}

fn read_from_origin(world: &World, host: u8) -> u64 {
    world.agent(host).status().traffic.from_origin
}

#[tokio::test(start_paused = true)]
async fn nodes_join_fetch_by_way_of_each_other_and_leave() {
    let mut world = fleet(2..=5).await;
    let content = world.publish("model", 3_000_000);
    join_all((2..=5).map(|host| fetch(&world, host, &content))).await;
    assert_eq!(world.origin.bytes_read(&content.source), 3_000_000, "read once for all");
    let seed = world.agent(SEED).status().traffic;
    assert!(seed.to_peers < 4 * 3_000_000, "nodes gave pieces to each other, too");
    world.leaves(3).await;
    until(&world, "the seed sees that it left", |world| peers(world, SEED) == 3).await;
    world.starts(6, |_| {}).await;
    fetch(&world, 6, &content).await;
    world.leaves(SEED).await;
    until(&world, "all see that the seed left", |world| [2, 4, 5, 6].iter().all(|host| !has_seed(world, *host))).await;
    let (small, other) = (world.publish("small", 1000), world.publish("other", 2_000_000));
    for host in [2, 4, 5, 6] {
        fetch(&world, host, &small).await;
        fetch(&world, host, &other).await;
    }
    assert_eq!((world.origin.bytes_read(&small.source), world.origin.bytes_read(&other.source)), (1000, 2_000_000));
    for host in [2, 4, 5, 6] {
        world.leaves(host).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_cut_off_from_the_seed_fetches_all_the_same_and_follows_it_again_once_healed() {
    let world = fleet(2..=4).await;
    let contents = ["before", "cut-off", "healed"].map(|name| world.publish(name, 2_000_000));
    fetch(&world, 2, &contents[0]).await;
    assert_eq!(read_from_origin(&world, 2), 0);
    world.cuts.cut(ip(2), ip(SEED));
    // It does not know yet.
    let before = Instant::now();
    tokio::join!(fetch(&world, 2, &contents[1]), fetch(&world, 3, &contents[1]));
    assert!(before.elapsed() > Duration::from_secs(1), "silence was waited for, in virtual time");
    until(&world, "both ends give each other up", |world| !has_seed(world, 2) && peers(world, SEED) == 2).await;
    world.cuts.heal(ip(2), ip(SEED));
    until(&world, "they find each other again", |world| has_seed(world, 2) && peers(world, SEED) == 3).await;
    let read = read_from_origin(&world, 2);
    join_all((2..=4).map(|host| fetch(&world, host, &contents[2]))).await;
    assert_eq!(read_from_origin(&world, 2), read, "it follows the seed");
    assert_eq!(world.origin.bytes_read(&contents[2].source), 2_000_000);
}

#[tokio::test(start_paused = true)]
async fn an_upload_limit_holds_in_virtual_time() {
    let mut world = World::new();
    world.starts(SEED, |options| options.upload_limit = "1MB/s".parse().ok()).await;
    world.starts(2, |_| {}).await;
    let (content, began) = (world.publish("slow", 10_000_000), Instant::now());
    fetch(&world, 2, &content).await;
    let took = began.elapsed().as_secs_f64();
    assert!((9.0..12.0).contains(&took), "{took} s of virtual time");
}

/// A seed without room passes a blob on as fast as its cable is: where members alone read, it waits for no reader of its own host.
#[tokio::test(start_paused = true)]
async fn a_seed_without_room_passes_a_large_blob_on_without_a_pause() {
    // More than two windows of what lies in memory.
    const BYTES: usize = 70_000_000;
    const RATE: f64 = 20e6;
    let world = fleet([2]).await;
    for host in [SEED, 2] {
        world.hosts[&host].store.fill();
        world.cables.rate(ip(host), [RATE; 2]);
    }
    let (content, began) = (world.publish("large", BYTES), Instant::now());
    fetch(&world, 2, &content).await;
    let over_bound = began.elapsed().as_secs_f64() * RATE / BYTES as f64;
    let blob = world.agent(SEED).list().await.unwrap()[0].blob.to_string();
    let events = world.agent(SEED).explain(&blob).await.unwrap().events;
    assert!(events.iter().any(|event| event.what.contains("passes through")), "{events:?}");
    assert_eq!(world.origin.bytes_read(&content.source), BYTES as u64);
    assert!(over_bound < 2.0, "{over_bound} times as long as the cable needs");
}

/// Tasks and open files outlive neither the agents nor the world that they live in.
#[tokio::test(start_paused = true)]
async fn after_a_drain_and_a_drop_no_task_and_no_lock_is_left() {
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mut world = fleet(1..=3).await;
    let content = world.publish("model", 2_000_000);
    join_all((1..=3).map(|host| fetch(&world, host, &content))).await;
    // One leaves while it fetches, one is cut off from it, one just drains.
    let other = world.publish("other", 50_000_000);
    world.cables.rate(ip(SEED), [1e6; 2]);
    let fetching = tokio::spawn(fetches(world.agent(1).clone(), other.clone(), 0));
    sleep(Duration::from_secs(5)).await;
    world.cuts.cut(ip(1), ip(2));
    let stores: Vec<_> = world.hosts.values().map(|host| host.store.clone()).collect();
    for host in 0..=3 {
        world.leaves(host).await;
    }
    assert!(fetching.await.unwrap().is_err(), "it was told");
    for store in stores {
        let in_use = threads::run(move || store.list().into_iter().filter(|blob| blob.in_use).count());
        assert_eq!(in_use.await, 0, "blobs that somebody holds open");
    }
    let left = || tokio::runtime::Handle::current().metrics().num_alive_tasks() - before;
    until(&world, "no task is left", |_| left() == 0).await;
    // The next agents have the directories and the addresses.
    for host in 0..=3 {
        world.starts(host, |_| {}).await;
    }
    drop(world);
}

#[tokio::test]
async fn ports_attach_to_the_handle_of_a_running_agent() {
    let mut world = World::new();
    world.starts(SEED, |_| {}).await;
    let (agent, dir) = (world.agent(SEED), TempDir::new().unwrap());
    assert_eq!(agent.status().local, None);
    let listen = async || tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let observed = listen().await;
    let metrics = observed.local_addr().unwrap();
    serve_local(agent, listen().await).unwrap();
    serve_metrics(agent, observed).unwrap();
    serve_admin(agent, &dir.path().join("darter.sock"), None).await.unwrap();
    let get = async |url: String| reqwest::get(url).await.unwrap().status();
    let local = agent.status().local.unwrap();
    for path in ["readyz", "v2/"] {
        assert_eq!(get(format!("http://{local}/{path}")).await, 200, "{path}");
    }
    assert_eq!(get(format!("http://{metrics}/metrics")).await, 200);
    assert!(tokio::net::UnixStream::connect(dir.path().join("darter.sock")).await.is_ok());
    agent.drain().await;
    assert!(!dir.path().join("darter.sock").exists());
    assert!(reqwest::get(format!("http://{local}/readyz")).await.is_err());
}
