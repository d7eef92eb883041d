//! The parts that every mount of a layer reads are there before the layers of an image are mounted, one after the other: in memory and in virtual
//! time.

use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Access, Agent, Download, MountRoom};
use darter_api::LayerRequest;
use darter_core::source::Credentials;
use darter_core::{BlobId, ByteRange, Digest, Source};
use darter_image::metadata_start;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::stories::world::{SEED, World};
use crate::tar::{file, tar};

const WITHIN: Duration = Duration::from_secs(60);
/// Layers that are fetched whole, of two pieces and of four, and one that is not.
const SMALL: u32 = 900 << 10;
const FOUR: u32 = 1600 << 10;
const LARGE: u32 = 6 << 20;

/// A layer at the origin, with a file of `length` bytes.
fn publish(world: &World, number: u32, length: u32) -> (LayerRequest, Vec<u8>) {
    let content: Vec<u8> = (0..length).map(|at| ((at + number).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let bytes = tar([file("content", &content)]);
    let digest = Digest::sha256(&bytes);
    let registry = "https://origin.lab/".parse().unwrap();
    let repository = "app".to_owned();
    world.origin.put(&Source::Registry { registry, repository: repository.clone(), digest }, bytes.clone());
    let (size, media_type) = (Some(bytes.len() as u64), None);
    let layer =
        LayerRequest { registry: "origin.lab".to_owned(), repository, digest, size, media_type, diff_id: digest };
    (layer, bytes)
}

async fn open(agent: &Agent, layers: &[(LayerRequest, Vec<u8>)]) -> Vec<Download> {
    let opened = layers
        .iter()
        .map(async |(layer, _)| agent.expanded(layer, Credentials::none(), Access::Granted, WITHIN).await.unwrap());
    join_all(opened).await
}

/// Reads what a mount reads of each, one after the other; how many reads had to wait.
async fn mount(agent: &Agent, downloads: &[Download], layers: &[(LayerRequest, Vec<u8>)]) -> u64 {
    let before = agent.metrics().part_reads_waited.get();
    for (download, (_, tar)) in downloads.iter().zip(layers) {
        let (length, metadata) = (download.length().unwrap(), metadata_start(tar.len() as u64));
        for range in [ByteRange::new(1024, 1152), ByteRange::new(metadata, length)] {
            assert!(download.part(range, WITHIN).await.unwrap().is_some());
        }
    }
    agent.metrics().part_reads_waited.get() - before
}

fn fetch_for_mount(agent: &Agent, blobs: &[BlobId]) {
    agent.fetch_for_mount(blobs, &mut MountRoom::for_image());
}

fn held(downloads: &[Download]) -> u64 {
    downloads.iter().map(|download| download.progress().held_bytes).sum()
}

fn came(agent: &Agent) -> u64 {
    let traffic = agent.status().traffic;
    traffic.from_seed + traffic.from_peers
}

/// A seed that has layers of these lengths, and their layers.
async fn world_with(lengths: impl Iterator<Item = u32>) -> (World, Vec<(LayerRequest, Vec<u8>)>) {
    let mut world = World::new();
    world.starts(SEED, |_| {}).await;
    let layers: Vec<_> = (0..).zip(lengths).map(|(number, length)| publish(&world, number, length)).collect();
    let _ = open(world.agent(SEED), &layers).await;
    (world, layers)
}

#[tokio::test(start_paused = true)]
async fn thirty_three_small_layers_come_whole_side_by_side_and_none_of_their_mounts_waits() {
    let (mut world, layers) = world_with(std::iter::repeat_n(SMALL, 33)).await;
    world.starts(2, |_| {}).await;
    let agent = world.agent(2);
    let opened = open(agent, &layers).await;
    let blobs: Vec<_> = opened.iter().map(Download::blob).collect();
    fetch_for_mount(agent, &blobs);
    let length: u64 = opened.iter().map(|download| download.length().unwrap()).sum();
    while held(&opened) < length {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(mount(agent, &opened, &layers).await, 0);
    assert_eq!(came(agent), length, "and nothing twice");
    // They are whole, and so are links for the engine.
    while agent.list().await.unwrap().iter().any(|row| !row.complete) {
        sleep(Duration::from_millis(10)).await;
    }

    // Nobody who has only opened them has anything: that each mount waits is what is measured.
    world.starts(3, |_| {}).await;
    let agent = world.agent(3);
    let opened = open(agent, &layers).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!((held(&opened), mount(agent, &opened, &layers).await), (0, 66));
}

#[tokio::test(start_paused = true)]
async fn of_a_large_layer_its_two_ends_come_and_of_one_whose_first_touches_are_known_nothing_else() {
    let (mut world, layers) = world_with([LARGE, FOUR].into_iter()).await;
    // Somebody reads the middle of the small one.
    world.starts(2, |_| {}).await;
    let first = open(world.agent(2), &layers).await;
    let touched = ByteRange::new(1, 2);
    assert!(first[1].part(touched, WITHIN).await.unwrap().is_some());
    first[1].touched(&[touched]);
    let known = async |agent: &Agent| agent.layer_profile(layers[1].0.diff_id).await.unwrap().is_some();
    while !known(world.agent(SEED)).await {
        sleep(Duration::from_millis(10)).await;
    }
    world.starts(3, |_| {}).await;
    let agent = world.agent(3);
    let opened = open(agent, &layers).await;
    let blobs: Vec<_> = opened.iter().map(Download::blob).collect();
    fetch_for_mount(agent, &blobs);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(mount(agent, &opened, &layers).await, 0);
    let pieces = opened[0].piece_length().bytes();
    for one in opened.chunks(1) {
        assert!(held(one) <= 2 * pieces && held(one) < one[0].length().unwrap(), "{}", held(one));
    }
    assert_eq!(came(agent), held(&opened));
}

/// A seed that has all of a layer has looked through its metadata.
#[tokio::test(start_paused = true)]
async fn whether_layers_name_all_of_their_directories_is_known_before_anything_of_them_has_come() {
    let (mut world, layers) = world_with([LARGE, FOUR].into_iter()).await;
    // The first to ask may be let in before the seed has looked; it looks for itself.
    world.starts(2, |_| {}).await;
    let agent = world.agent(2);
    let opened = open(agent, &layers).await;
    let blobs: Vec<_> = opened.iter().map(Download::blob).collect();
    assert_eq!(agent.misfit(&blobs, WITHIN).await.unwrap(), None);
    world.starts(3, |_| {}).await;
    let agent = world.agent(3);
    let opened = open(agent, &layers).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(agent.misfit(&blobs, WITHIN).await.unwrap(), None);
    assert_eq!(held(&opened), 0);
}

/// It let the node in before it had anything of the layers.
#[tokio::test(start_paused = true)]
async fn a_seed_that_has_just_made_layers_says_whether_they_name_all_of_their_directories() {
    let mut world = World::new();
    world.starts(SEED, |_| {}).await;
    let layers: Vec<_> = (0..).zip([LARGE, FOUR]).map(|(number, length)| publish(&world, number, length)).collect();
    world.starts(2, |_| {}).await;
    let agent = world.agent(2);
    let opened = open(agent, &layers).await;
    for opened in &opened {
        assert!(agent.names_all(opened.blob(), WITHIN).await, "nobody looks at what the node has of it");
    }
}

/// Nothing would show that it lies.
#[tokio::test(start_paused = true)]
async fn a_node_that_leads_is_not_believed_that_layers_name_all_of_their_directories() {
    let mut world = World::new();
    world.starts(SEED, |options| options.role = Role::Node).await;
    let layers: Vec<_> = (0..).zip([LARGE, FOUR]).map(|(number, length)| publish(&world, number, length)).collect();
    let _ = open(world.agent(SEED), &layers).await;
    while world.agent(SEED).list().await.unwrap().iter().any(|row| !row.complete) {
        sleep(Duration::from_millis(10)).await;
    }
    world.starts(2, |_| {}).await;
    let agent = world.agent(2);
    let opened = open(agent, &layers).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((held(&opened), came(agent)), (0, 0));
    let blobs: Vec<_> = opened.iter().map(Download::blob).collect();
    assert!(!agent.names_all(blobs[1], Duration::from_secs(5)).await);
    assert_eq!(agent.misfit(&blobs, WITHIN).await.unwrap(), None);
    assert!(held(&opened) > 0 && came(agent) == held(&opened), "it looks for itself");
}
