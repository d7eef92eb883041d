//! The parts of an image that its first starter touched are there for the second one before it asks.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use darter_agent::options::{Amount, Role};
use darter_agent::{Access, Agent, Download, Options};
use darter_api::client::Client;
use darter_api::{GetRequest, LayerRequest, socket_path};
use darter_core::source::Credentials;
use darter_core::{ByteRange, PieceIndex};

use crate::expanded::{node, registry_with, seed};
use crate::registries::options;
use crate::registry::Registry;
use crate::tar::{file, tar};

const WITHIN: Duration = Duration::from_secs(60);

/// A layer in which a start reads here and there.
async fn layer() -> (Registry, LayerRequest) {
    let content: Vec<u8> = (0..12_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    registry_with(&tar([file("large", &content)])).await
}

/// The ranges that a start reads, in its order: none beside another.
fn reads() -> Vec<ByteRange> {
    let starts = (0..20_u64).map(|number| (number * 37 % 47) * (256 << 10) + 4096);
    starts.map(|start| ByteRange::new(start, start + 5000)).collect()
}

async fn open(agent: &Agent, layer: &LayerRequest) -> Download {
    agent.expanded(layer, Credentials::none(), Access::Asked, WITHIN).await.unwrap()
}

/// Reads as a program does, one after the other; how many reads had to wait.
async fn start(agent: &Agent, download: &Download) -> u64 {
    let before = agent.metrics().part_reads_waited.get();
    for range in reads() {
        assert!(download.part(range, WITHIN).await.unwrap().is_some(), "{range}");
    }
    agent.metrics().part_reads_waited.get() - before
}

/// The pieces that a start touches: nothing less can be had.
fn touched(download: &Download) -> BTreeSet<u32> {
    reads().into_iter().flat_map(|range| download.piece_length().pieces_of(range)).collect()
}

/// Their bytes.
fn touched_bytes(download: &Download) -> u64 {
    let (pieces, length) = (download.piece_length(), download.length().unwrap());
    touched(download).into_iter().map(|piece| pieces.range(PieceIndex(piece), length).len()).sum()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waits = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, waits).await.unwrap_or_else(|_| panic!("{what}"));
}

/// The same of one that fetches what others touched, once that is all here.
async fn start_with_profile(agent: &Agent, download: &Download) -> u64 {
    let wanted = touched_bytes(download);
    let starting = async {
        until("all is fetched", async || agent.metrics().profile_fetched_bytes.get() >= wanted).await;
        start(agent, download).await
    };
    tokio::select! {
        waited = starting => waited,
        () = download.fetch_first_touches() => panic!("it ended"),
    }
}

/// The bytes that came from agents, as they crossed the wire.
fn came(agent: &Agent) -> u64 {
    let traffic = agent.status().traffic;
    traffic.from_seed + traffic.from_peers
}

/// How many profiles an agent has written down.
fn profiles_in(data_dir: &Path) -> usize {
    let names = std::fs::read_dir(data_dir.join("profiles")).unwrap().map(|entry| entry.unwrap().file_name());
    // One that is being written has another name.
    names.filter(|name| !name.to_string_lossy().ends_with(".new")).count()
}

async fn known(agent: &Agent, layer: &LayerRequest) -> Option<u64> {
    agent.layer_profile(layer.diff_id).await.unwrap().map(|profile| profile.bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_starter_finds_what_the_first_one_touched_and_gets_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let seed = seed(directory.path(), &registry).await;
    let start_node = async |name: &str| node(directory.path(), name, &registry, &[&seed]).await;
    let (first, early) = (start_node("first").await, start_node("early").await);
    // The fleet has it: whoever opens it first of all gets it while it is expanded.
    let pulled = start_node("pulled").await;
    let _kept = open(&pulled, &layer).await;
    until("the seed has it", async || seed.list().await.unwrap().iter().any(|row| row.complete)).await;
    // One that has opened it already hears of it later; nothing is known yet.
    let opened_early = open(&early, &layer).await;
    let opened = open(&first, &layer).await;
    let misses = touched(&opened).len() as u64;
    assert!(misses > 10);
    assert_eq!(start(&first, &opened).await, misses, "the first one waits for everything");
    let touched = touched_bytes(&opened);
    let ranges = reads();
    // Said once: its lead is told as soon as it wants to know, however early that was.
    opened.touched(&ranges);
    until("the lead knows", async || known(&seed, &layer).await == Some(touched)).await;
    until("members are told", async || known(&early, &layer).await == Some(touched)).await;

    let late = start_node("late").await;
    let opened_late = open(&late, &layer).await;
    for (agent, download) in [(&early, &opened_early), (&late, &opened_late)] {
        assert_eq!(start_with_profile(agent, download).await, 0, "all was there");
        let moved = came(agent);
        assert!(moved * 10 <= touched * 11, "{moved} of {touched} bytes that were touched");
        let (metrics, fetched) = (agent.metrics(), touched);
        assert_eq!((metrics.profile_hit_bytes.get(), metrics.profile_fetched_bytes.get()), (fetched, fetched));
        assert_eq!(metrics.profile_unread_bytes.get(), 0);
    }
    // Without, each read waits.
    let without = start_node("without").await;
    let opened_without = open(&without, &layer).await;
    assert_eq!(start(&without, &opened_without).await, misses);
    for agent in [&pulled, &first, &early, &late, &without, &seed] {
        agent.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_known_outlives_the_lead_and_a_pinned_list_is_what_others_get() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let seed = seed(directory.path(), &registry).await;
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    assert!(!seed.pin_layer_profile(layer.diff_id, None).await.unwrap(), "nothing of it is here");
    let opened = open(&first, &layer).await;
    let (touched, ranges) = (touched_bytes(&opened), reads());
    opened.touched(&ranges);
    until("the lead knows", async || known(&seed, &layer).await == Some(touched)).await;
    until("the seed has written it down", async || profiles_in(&directory.path().join("seed")) == 1).await;
    drop(opened);
    seed.drain().await;
    drop(seed);
    first.drain().await;

    let seed = self::seed(directory.path(), &registry).await;
    assert_eq!(known(&seed, &layer).await, Some(touched), "it was kept");
    let late = node(directory.path(), "late", &registry, &[&seed]).await;
    let opened = open(&late, &layer).await;
    assert_eq!(start_with_profile(&late, &opened).await, 0);

    // Somebody knows better.
    let pinned = [ByteRange::new(1 << 20, (1 << 20) + 1)];
    assert!(seed.pin_layer_profile(layer.diff_id, Some(&pinned)).await.unwrap());
    let piece = opened.piece_length().bytes();
    until("members are told", async || known(&late, &layer).await == Some(piece)).await;
    opened.touched(&ranges);
    let told = async || seed.layer_profile(layer.diff_id).await.unwrap().unwrap();
    until("it is heard all the same", async || told().await.starts == 2).await;
    assert!(told().await.pinned && told().await.bytes == piece, "and changes nothing");
    assert!(seed.pin_layer_profile(layer.diff_id, None).await.unwrap());
    assert_eq!(known(&seed, &layer).await, Some(touched));
    // It goes with the blob.
    let kept = directory.path().join("seed");
    assert_eq!(profiles_in(&kept), 1);
    drop(opened);
    late.drain().await;
    let blob = seed.list().await.unwrap()[0].blob.to_string();
    until("it is removed", async || seed.remove(&blob).await.is_ok()).await;
    assert_eq!((known(&seed, &layer).await, profiles_in(&kept)), (None, 0));
    seed.drain().await;
}

/// A program reads on past what is listed only if its start takes another way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_fetched_ahead_beside_the_list_until_a_program_waits_for_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let seed = seed(directory.path(), &registry).await;
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    let opened = open(&first, &layer).await;
    let piece = opened.piece_length().bytes();
    let of = |number: u64| ByteRange::new(number * piece, (number + 1) * piece);
    opened.touched(&[of(2), of(5)]);
    until("the lead knows", async || known(&seed, &layer).await == Some(2 * piece)).await;
    let late = node(directory.path(), "late", &registry, &[&seed]).await;
    let opened = open(&late, &layer).await;
    let began = tokio::time::Instant::now();
    let reading = async {
        until("all is fetched", async || late.metrics().profile_fetched_bytes.get() >= 2 * piece).await;
        assert!(opened.part(of(2), WITHIN).await.unwrap().is_some());
        let is_fetched = opened.fetch_ahead(of(3), WITHIN).await.unwrap();
        // On a busy machine so much time may have passed that the list does not count any more.
        assert!(!is_fetched || began.elapsed() > Duration::from_secs(4), "others did not touch it");
        assert!(opened.part(of(9), WITHIN).await.unwrap().is_some());
        assert!(opened.fetch_ahead(of(10), WITHIN).await.unwrap(), "it takes another way");
    };
    tokio::select! {
        () = reading => {}
        () = opened.fetch_first_touches() => panic!("it ended"),
    }
    drop(opened);
    for agent in [&first, &late, &seed] {
        agent.drain().await;
    }
}

/// As `darter up` on one host: whoever starts something there leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_knows_what_its_own_programs_touch() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let options = Options { role: Role::Seed, ..options(Path::new(directory.path()), "alone", &registry) };
    let alone = darter_gateway::start(options).await.unwrap();
    let opened = open(&alone, &layer).await;
    opened.touched(&reads());
    assert_eq!(known(&alone, &layer).await, Some(touched_bytes(&opened)));
    drop(opened);
    alone.drain().await;
}

/// A mount of which nobody starts anything: its keeper was parted from an agent that was restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn for_a_mount_that_comes_again_nothing_is_fetched_that_others_touched_first() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let seed = seed(directory.path(), &registry).await;
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    let opened = open(&first, &layer).await;
    let touched = touched_bytes(&opened);
    opened.touched(&reads());
    until("the lead knows", async || known(&seed, &layer).await == Some(touched)).await;

    let late = async || node(directory.path(), "late", &registry, &[&seed]).await;
    let request = |again| GetRequest { again, ..GetRequest::of_layer(layer.clone(), Vec::new()) };
    let client = || Client::at(socket_path(&directory.path().join("late")));
    let fetched = |agent: &Agent| agent.metrics().profile_fetched_bytes.get();
    // The first time somebody starts something there.
    let agent = late().await;
    let (_, mount) = client().parts(&request(false)).await.unwrap();
    until("all is fetched", async || fetched(&agent) >= touched).await;
    agent.drain().await;
    drop((agent, mount));

    // The agent has the blob on its disk from before: it is removed, so that it is lacking.
    let agent = late().await;
    let blob = agent.list().await.unwrap()[0].blob.to_string();
    assert!(agent.remove(&blob).await.is_ok());
    let (_, mount) = client().parts(&request(true)).await.unwrap();
    until("it has heard what is touched first", async || known(&agent, &layer).await == Some(touched)).await;
    let reading = open(&agent, &layer).await;
    let range = ByteRange::new(0, 10);
    reading.ensure(range, WITHIN).await.unwrap();
    assert_eq!(fetched(&agent), 0, "a read later nothing else has come");
    assert!(came(&agent) <= 2 * reading.piece_length().bytes(), "{} bytes", came(&agent));
    // Another one that starts it has it all.
    let (_, other) = client().parts(&request(false)).await.unwrap();
    // What is held, since less may have crossed the wire: on a slow one, pieces go packed.
    until("all is fetched", async || fetched(&agent) > 0 && reading.progress().held_bytes >= touched).await;
    drop((mount, other));
    for agent in [&agent, &first, &seed] {
        agent.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_profiles_neither_notes_nor_tells_nor_merges_nor_fetches() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let without = |name: &str, join: Vec<String>, role| Options {
        role,
        join,
        profiles: false,
        ..options(directory.path(), name, &registry)
    };
    let seed = seed(directory.path(), &registry).await;
    let at = |agent: &Agent| vec![agent.status().listen.unwrap()];
    let silent = darter_gateway::start(without("silent", at(&seed), Role::Node)).await.unwrap();
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    let (opened, opened_silent) = (open(&first, &layer).await, open(&silent, &layer).await);
    opened_silent.touched(&reads());
    let touched = touched_bytes(&opened);
    opened.touched(&reads()[..1]);
    until("the lead knows", async || known(&seed, &layer).await.is_some()).await;
    let told = seed.layer_profile(layer.diff_id).await.unwrap().unwrap();
    assert!(told.starts == 1 && told.bytes < touched, "what the silent one read is not told: {told:?}");
    // Nor does it hear of the list, or fetch it: that ends at once.
    opened_silent.fetch_first_touches().await;
    assert_eq!((silent.metrics().profile_fetched_bytes.get(), known(&silent, &layer).await), (0, None));
    assert!(!silent.keeps_profiles() && first.keeps_profiles());

    // As the lead it merges nothing, and says nothing.
    let alone = darter_gateway::start(without("alone", Vec::new(), Role::Seed)).await.unwrap();
    let member = node(directory.path(), "member", &registry, &[&alone]).await;
    let opened_member = open(&member, &layer).await;
    opened_member.touched(&reads());
    opened_member.ensure(reads()[0], WITHIN).await.unwrap();
    assert_eq!((known(&alone, &layer).await, profiles_in(&directory.path().join("alone"))), (None, 0));
    for agent in [&silent, &first, &seed, &member, &alone] {
        agent.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_and_an_explanation_go_when_their_layer_is_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = layer().await;
    let start = async || {
        let quota = Some(Amount::Bytes(20 << 20));
        let options = Options { role: Role::Seed, quota, ..options(directory.path(), "seed", &registry) };
        darter_gateway::start(options).await.unwrap()
    };
    let kept = directory.path().join("seed");
    let seed = start().await;
    let opened = open(&seed, &layer).await;
    opened.ensure(ByteRange::new(0, opened.length().unwrap()), WITHIN).await.unwrap();
    opened.touched(&reads());
    until("it is written down", async || profiles_in(&kept) == 1).await;
    drop(opened);
    seed.drain().await;
    drop(seed);

    // Nobody has it open, and something else takes the room.
    let seed = start().await;
    assert_eq!(profiles_in(&kept), 1);
    let content: Vec<u8> = (0..16_u32 << 20).map(|at| (at.wrapping_mul(2_246_822_519) >> 11) as u8).collect();
    let path = format!("/v2/lab/app/blobs/{}", registry.put_blob("lab/app", &content));
    assert_eq!(crate::registries::get(&seed, &path).await.body.len(), content.len());
    until("it is gone", async || profiles_in(&kept) == 0).await;
    let explanations = || std::fs::read_dir(kept.join("explain")).unwrap().count();
    until("so is its explanation", async || explanations() == 1).await;
    assert_eq!(seed.list().await.unwrap().len(), 1);
    seed.drain().await;
}
