//! A layer in the form that the kernel mounts: read and expanded once for the fleet, given to whoever may read the layer itself, and to
//! nobody else.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use darter_agent::options::{Amount, LoginOption, Role};
use darter_agent::{Access, Agent, FetchError, Options};
use darter_api::{BlobRequest, LayerRequest};
use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, Digest, in_full};
use darter_image::{Expander, metadata_start};
use darter_origin::ErrorKind;
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;

use crate::registries::{get, options};
use crate::registry::Registry;
use crate::tar::{Entry, dir, entry, file, hardlink, symlink, tar};

mod forged;
mod reading;
mod rights;

use self::reading::{most_of, so_many_hold_some};

const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";
pub(crate) const WITHIN: Duration = Duration::from_secs(60);

/// A tar of several pieces, compressed or not.
fn some_tar() -> Vec<u8> {
    let mixed = |at: u64| {
        let mixed = (at ^ (at >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    };
    let content: Vec<u8> = (0..4_u64 << 17).flat_map(|at| mixed(at.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    tar([
        dir("usr/"),
        file("usr/large", &content),
        file("usr/small", "a few bytes"),
        symlink("usr/link", "small"),
        hardlink("usr/again", "usr/small"),
    ])
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The file that a tar becomes.
pub(crate) fn expanded(tar: &[u8]) -> Vec<u8> {
    let mut expander = Expander::new();
    expander.push(tar).unwrap();
    let made = expander.finish(&Digest::sha256(tar)).unwrap();
    let mut bytes = [&made.superblock[..], tar].concat();
    bytes.resize(metadata_start(made.tar_length) as usize, 0);
    bytes.extend_from_slice(&made.metadata);
    bytes
}

pub(crate) fn request(registry: &Registry, stored: Digest, size: usize, tar: &[u8]) -> LayerRequest {
    LayerRequest {
        registry: registry.name(),
        repository: "lab/app".into(),
        digest: stored,
        size: Some(size as u64),
        media_type: Some("application/vnd.oci.image.layer.v1.tar+gzip".into()),
        diff_id: Digest::sha256(tar),
    }
}

/// A registry with a tar as a gzip layer.
pub(crate) async fn registry_with(tar: &[u8]) -> (Registry, LayerRequest) {
    let registry = Registry::start().await;
    let stored = gzip(tar);
    let digest = registry.put_blob("lab/app", &stored);
    let layer = request(&registry, digest, stored.len(), tar);
    (registry, layer)
}

pub(crate) async fn seed(directory: &Path, registry: &Registry) -> Agent {
    let options = Options { role: Role::Seed, ..options(directory, "seed", registry) };
    darter_gateway::start(options).await.unwrap()
}

pub(crate) async fn node(directory: &Path, name: &str, registry: &Registry, seeds: &[&Agent]) -> Agent {
    let join = seeds.iter().map(|seed| seed.status().listen.unwrap()).collect();
    darter_gateway::start(Options { join, ..options(directory, name, registry) }).await.unwrap()
}

pub(crate) async fn open(agent: &Agent, layer: &LayerRequest) -> Result<darter_agent::Download, FetchError> {
    agent.expanded(layer, Credentials::none(), Access::Asked, WITHIN).await
}

/// All bytes of it, as a reader of parts gets them.
pub(crate) async fn read(agent: &Agent, layer: &LayerRequest) -> Result<Vec<u8>, FetchError> {
    let download = open(agent, layer).await?;
    let all = ByteRange::new(0, download.length().unwrap());
    download.ensure(all, WITHIN).await?;
    let chunks: Vec<bytes::Bytes> = download.bytes_of(all).try_collect().await?;
    Ok(chunks.concat())
}

/// How often a blob was read of the registry since the last call.
fn reads(registry: &Registry, digest: Digest) -> usize {
    registry.asked().iter().filter(|line| line.starts_with("GET") && line.contains(&digest.to_string())).count()
}

fn kind(error: &FetchError) -> Option<&ErrorKind> {
    let FetchError::Origin(failure) = error else { return None };
    Some(&failure.kind)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_nodes_read_one_expanded_layer_and_the_registry_gives_it_once() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let seed = seed(directory.path(), &registry).await;
    let nodes = join_all(
        (0..8).map(async |number: u32| node(directory.path(), &number.to_string(), &registry, &[&seed]).await),
    )
    .await;
    let file = expanded(&tar);
    for read in join_all(nodes.iter().map(|node| read(node, &layer))).await {
        assert!(read.unwrap() == file);
    }
    assert_eq!(reads(&registry, layer.digest), 1);
    // A plain file on each of them, and nothing else; nobody but the seed has decompressed anything.
    let rows = nodes[0].list().await.unwrap();
    let [row] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((row.length, row.complete), (Some(file.len() as u64), true));
    assert!(row.name.contains(&layer.diff_id.to_string()), "{}", row.name);
    let counted = |agent: &Agent| agent.metrics().expanded_layers.get();
    assert_eq!((counted(&seed), nodes.iter().map(counted).sum::<u64>()), (1, 0));
    assert!(
        !std::fs::read_dir(directory.path().join("seed"))
            .unwrap()
            .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with("expanding") })
    );
    let told = format!("{:?}", seed.explain(&row.blob.to_string()).await.unwrap());
    assert!(told.contains("expanded here") && told.contains(&layer.digest.to_string()), "{told}");

    // Another compression of it, and after a restart: the same blob, which is here.
    let stored = zstd::bulk::compress(&tar, 1).unwrap();
    let other = request(&registry, registry.put_blob("lab/app", &stored), stored.len(), &tar);
    assert!(read(&nodes[1], &other).await.unwrap() == file);
    assert_eq!(nodes[1].list().await.unwrap().len(), 1);
    assert_eq!(reads(&registry, other.digest), 1, "that it has this tar in it has to be seen");
    seed.drain().await;
    drop(seed);
    let seed = self::seed(directory.path(), &registry).await;
    let late = node(directory.path(), "late", &registry, &[&seed]).await;
    assert!(read(&late, &layer).await.unwrap() == file);
    assert!(read(&late, &other).await.unwrap() == file);
    assert_eq!(reads(&registry, layer.digest) + reads(&registry, other.digest), 0);
    join_all(nodes.iter().chain([&seed, &late]).map(Agent::drain)).await;
}

/// An image may have it several times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tar_under_several_compressions_is_opened_at_one_time() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, gzipped) = registry_with(&tar).await;
    let [zstd, plain] = [zstd::bulk::compress(&tar, 1).unwrap(), tar.clone()]
        .map(|stored| request(&registry, registry.put_blob("lab/app", &stored), stored.len(), &tar));
    let seed = seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    let file = expanded(&tar);
    for agent in [&node, &seed] {
        for got in join_all([&gzipped, &zstd, &plain].map(|layer| read(agent, layer))).await {
            assert!(got.unwrap() == file);
        }
    }
    join_all([&node, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_such_layer_is_refused_with_the_reason_and_read_once() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = registry_with(&some_tar()).await;
    let seed = seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;

    let other_tar = LayerRequest { diff_id: Digest::sha256(b"another tar"), ..layer.clone() };
    let linked = tar([Entry { link: "/etc/none".into(), ..entry(b'1', "link") }]);
    let packed = gzip(&linked);
    let unexpressible = request(&registry, registry.put_blob("lab/app", &packed), packed.len(), &linked);
    let named = Digest::sha256(b"what the registry says");
    let stored = gzip(b"what it sends");
    registry.put_blob_as("lab/app", named, &stored);
    let lie = request(&registry, named, stored.len(), b"what it sends");
    let cases = [
        (&other_tar, ErrorKind::Unmountable, vec![layer.diff_id.to_string(), other_tar.diff_id.to_string()]),
        (&unexpressible, ErrorKind::Unmountable, vec!["link: hard link to /etc/none".into(), "ordinary way".into()]),
    ];
    for (layer, expected, words) in cases {
        for agent in [&node, &seed, &node] {
            let error = read(agent, layer).await.unwrap_err();
            assert_eq!(kind(&error), Some(&expected), "{error:?}");
            let told = in_full(&error).to_string();
            assert!(words.iter().all(|word| told.contains(word)), "{told}");
            assert_eq!((error.http_status().as_u16(), error.blame().is_final()), (422, true));
        }
        assert_eq!(reads(&registry, layer.digest), 1, "nobody reads it again to be told the same");
    }
    let error = read(&seed, &lie).await.unwrap_err();
    let told = in_full(&error).to_string();
    assert!(told.contains(&Digest::sha256(&stored).to_string()) && told.contains(&named.to_string()), "{told}");
    // A body that a proxy cut, a bit that flipped, and a page in the layer's place say nothing of the layer.
    let good = gzip(&tar([file("good", [7; 300_000])]));
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 0x10;
    for (number, came) in [&good[..good.len() - 20], &flipped, b"<html>log in</html>"].into_iter().enumerate() {
        let packed = gzip(&tar([file("good", [number as u8; 300_000])]));
        let named = Digest::sha256(&packed);
        registry.put_blob_as("lab/app", named, came);
        let damaged = request(&registry, named, came.len(), b"its tar");
        let error = read(&seed, &damaged).await.unwrap_err();
        let told = in_full(&error).to_string();
        assert!(told.contains(&Digest::sha256(came).to_string()) && told.contains(&named.to_string()), "{told}");
        assert!(kind(&error) != Some(&ErrorKind::Unmountable) && !error.blame().is_final(), "{error:?}");
    }
    // An encrypted layer, or one of another kind, is refused before anybody is asked for it.
    registry.asked();
    for media_type in
        ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/vnd.oci.image.layer.v1.tar+xz"]
    {
        let layer = LayerRequest { media_type: Some(media_type.into()), ..layer.clone() };
        assert_eq!(kind(&open(&node, &layer).await.err().unwrap()), Some(&ErrorKind::Unmountable));
    }
    assert_eq!(registry.asked(), [""; 0]);
    // And the right one is given all the same.
    assert!(read(&node, &layer).await.unwrap() == expanded(&some_tar()));
    join_all([&node, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_without_room_leaves_a_layer_to_others_and_reads_it_no_more_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let quota = Some(Amount::Bytes(1 << 20));
    let small = Options { role: Role::Seed, quota, ..options(directory.path(), "seed", &registry) };
    let seed = darter_gateway::start(small).await.unwrap();
    for _ in 0..5 {
        let error = read(&seed, &layer).await.map(drop).unwrap_err();
        let told = in_full(&error).to_string();
        assert!(told.contains("no room to expand") && told.contains("--quota"), "{told}");
    }
    assert_eq!(reads(&registry, layer.digest), 1);
    assert!(seed.list().await.unwrap().iter().all(|row| row.held == 0), "{:?}", seed.list().await);
    // The nodes have room: one of them expands it, and the other gets it from there.
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    assert!(read(&first, &layer).await.unwrap() == expanded(&tar));
    let second = node(directory.path(), "second", &registry, &[&seed, &first]).await;
    assert!(read(&second, &layer).await.unwrap() == expanded(&tar));
    assert_eq!(reads(&registry, layer.digest), 1);
    join_all([&first, &second, &seed].map(Agent::drain)).await;
}

/// Whichever of them hashing names to read a layer: others are asked where it has no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_room_read_a_layer_through_memory_as_long_as_anybody_has_room_to_expand_it() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let layers: Vec<(Vec<u8>, LayerRequest)> = (1..=4_u8)
        .map(|number| {
            let content: Vec<u8> = (0..1_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
            let tar = tar([file("number", [number]), file("usr/large", &content)]);
            let stored = gzip(&tar);
            let layer = request(&registry, registry.put_blob("lab/app", &stored), stored.len(), &tar);
            (tar, layer)
        })
        .collect();
    let full = |name: &str, role, join| {
        let quota = Some(Amount::Bytes(100_000));
        darter_gateway::start(Options { role, quota, join, ..options(directory.path(), name, &registry) })
    };
    let seed = full("seed", Role::Seed, Vec::new()).await.unwrap();
    let listen = |agent: &Agent| agent.status().listen.unwrap();
    let roomy = node(directory.path(), "roomy", &registry, &[&seed]).await;
    let first = full("first", Role::Node, vec![listen(&seed), listen(&roomy)]).await.unwrap();
    let second = full("second", Role::Node, vec![listen(&seed), listen(&roomy)]).await.unwrap();
    for (tar, layer) in &layers {
        for agent in [&first, &second] {
            assert!(read(agent, layer).await.unwrap() == expanded(tar));
        }
    }
    join_all([&first, &second, &roomy, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_passes_through_memory_is_given_for_every_repository_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.put_blob("lab/other", &gzip(&tar));
    let other = LayerRequest { repository: "lab/other".into(), ..layer.clone() };
    let seed = seed(directory.path(), &registry).await;
    let join = vec![seed.status().listen.unwrap()];
    let full = Options { quota: Some(Amount::Bytes(100_000)), join, ..options(directory.path(), "node", &registry) };
    let node = darter_gateway::start(full).await.unwrap();
    let file = expanded(&tar);
    let kept = open(&node, &layer).await.unwrap();
    for layer in [&other, &layer] {
        assert!(read(&node, layer).await.unwrap() == file);
    }
    drop(kept);
    join_all([&node, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_of_two_repositories_of_a_registry_that_is_not_trusted_is_given_on_nodes_for_both() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.put_blob("lab/other", &gzip(&tar));
    let other = LayerRequest { repository: "lab/other".into(), ..layer.clone() };
    let untrusting = |name: &str, role, join| {
        let plain_http = vec![registry.name()];
        let own = options(directory.path(), name, &registry);
        darter_gateway::start(Options { role, join, default_upstream: None, plain_http, ..own })
    };
    let seed = untrusting("seed", Role::Seed, Vec::new()).await.unwrap();
    let join = || vec![seed.status().listen.unwrap()];
    let first = untrusting("first", Role::Node, join()).await.unwrap();
    let second = untrusting("second", Role::Node, join()).await.unwrap();
    // The first one takes all of it, the second one what it reads.
    let file = expanded(&tar);
    assert!(read(&first, &layer).await.unwrap() == file);
    let part = open(&second, &layer).await.unwrap();
    part.ensure(ByteRange::new(0, 10), WITHIN).await.unwrap();
    registry.asked();
    for node in [&first, &second] {
        assert!(read(node, &other).await.unwrap() == file);
    }
    assert_eq!(reads(&registry, layer.digest), 1, "it has to deliver it from there, once");
    drop(part);
    join_all([&first, &second, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_of_a_layer_is_read_than_its_manifest_says() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let seed = seed(directory.path(), &registry).await;
    // The agent that reads it hears what the manifest says from the one whose host has that.
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    for (agent, part) in [(&node, 3), (&seed, 2)] {
        let size = layer.size.unwrap() / part;
        let error = read(agent, &LayerRequest { size: Some(size), ..layer.clone() }).await.map(drop).unwrap_err();
        let told = in_full(&error).to_string();
        assert!(told.contains(&format!("{size} bytes that its manifest says")), "{told}");
    }
    // One that says it right is not refused for that.
    assert!(read(&node, &layer).await.unwrap() == expanded(&tar));
    join_all([&node, &seed].map(Agent::drain)).await;
}

/// In a swarm of 64 and more, members ask each other for hashes; and the first one is not known before all of the layer was read. How often the
/// registry is read is not looked at: on a busy machine nodes don't wait for the seed's answer, and read by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_swarm_takes_what_its_lead_has_read_before_the_first_hash_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.state.lock().blobs_stop_after = Some(most_of(&layer));
    let seed = seed(directory.path(), &registry).await;
    let mut nodes = Vec::new();
    for number in 0..70 {
        nodes.push(node(directory.path(), &number.to_string(), &registry, &[&seed]).await);
    }
    // The registry stands still from the first of these on: on a busy machine the nodes' starts take longer than it may.
    let reading: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (reader, layer) = (node.clone(), layer.clone());
            tokio::spawn(async move { read(&reader, &layer).await })
        })
        .collect();
    // On a busy machine not all of them have begun before the seed has waited for the registry long enough.
    so_many_hold_some(&nodes.iter().collect::<Vec<_>>(), 20).await;
    registry.go_on();
    let file = expanded(&tar);
    for got in join_all(reading).await {
        assert!(got.unwrap().unwrap() == file);
    }
    join_all(nodes.iter().chain([&seed]).map(Agent::drain)).await;
}

/// kraken#208: the registry may be away by the time that others want it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expanded_layer_outlasts_its_registry_and_its_seed() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let seed = seed(directory.path(), &registry).await;
    let first = node(directory.path(), "first", &registry, &[&seed]).await;
    let second = node(directory.path(), "second", &registry, &[&seed, &first]).await;
    let file = expanded(&tar);
    assert!(read(&first, &layer).await.unwrap() == file);
    seed.drain().await;
    drop(seed);
    registry.asked();
    let got = second.expanded(&layer, Credentials::none(), Access::Granted, WITHIN).await.unwrap();
    let all = ByteRange::new(0, got.length().unwrap());
    got.ensure(all, WITHIN).await.unwrap();
    let chunks: Vec<bytes::Bytes> = got.bytes_of(all).try_collect().await.unwrap();
    assert!(chunks.concat() == file);
    assert_eq!(reads(&registry, layer.digest), 0, "a node holds it");
    join_all([&first, &second].map(Agent::drain)).await;
}

/// Fetches a layer step by step, as a mount does that is to be whole in the end, and waits until it is.
async fn fill(agent: &Agent, layer: &LayerRequest) {
    const STEP: u64 = 1 << 20;
    let download = open(agent, layer).await.unwrap();
    let (_kept, length) = (download.keep_open(), download.length().unwrap());
    let first_touches = async {
        download.fetch_first_touches().await;
        std::future::pending::<()>().await;
    };
    let steps = async {
        let mut at = 0;
        while at < length {
            let step = ByteRange::new(at, at + STEP).clamp_to(length);
            match download.fetch_ahead(step, WITHIN).await.unwrap() {
                true => at = step.end(),
                false => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        download.want_everything();
        while !download.progress().complete {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = first_touches => {}
        () = steps => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_that_are_filled_while_programs_read_them_become_whole() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::start().await;
    let layers = [1, 2].map(|number| {
        let tar = tar([file("number", [number]), file("usr/large", some_tar())]);
        let stored = gzip(&tar);
        (request(&registry, registry.put_blob("lab/app", &stored), stored.len(), &tar), expanded(&tar))
    });
    let seed = seed(directory.path(), &registry).await;
    let names = ["one", "two", "three"];
    let nodes = join_all(names.map(async |name| node(directory.path(), name, &registry, &[&seed]).await)).await;
    let mounts = nodes.iter().flat_map(|node| layers.iter().map(move |layer| (node, layer)));
    let filled = join_all(mounts.map(async |(node, (layer, file))| {
        let reader = async {
            let download = open(node, layer).await.unwrap();
            for at in [3 << 20, 5, 2 << 20, 1 << 20] {
                let range = ByteRange::new(at, at + 4096);
                download.ensure(range, WITHIN).await.unwrap();
                let got: Vec<bytes::Bytes> = download.bytes_of(range).try_collect().await.unwrap();
                assert!(got.concat() == file[at as usize..][..4096]);
            }
            download.touched(&[ByteRange::new(1 << 20, 2 << 20)]);
        };
        tokio::join!(fill(node, layer), reader);
    }));
    tokio::time::timeout(WITHIN, filled).await.expect("the layers become whole");
    join_all(nodes.iter().chain([&seed]).map(Agent::drain)).await;
}

/// A layer that a seed's login opens is open to the programs of its fleet, expanded as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeds_login_reads_a_layer_for_its_nodes() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    registry.allow(ALICE, "lab/app");
    let login = LoginOption { registry: registry.name(), username: "alice".to_owned(), password: "secret".to_owned() };
    let options = Options { role: Role::Seed, logins: vec![login], ..options(directory.path(), "seed", &registry) };
    let seed = darter_gateway::start(options).await.unwrap();
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    assert!(read(&node, &layer).await.unwrap() == expanded(&tar));
    join_all([&node, &seed].map(Agent::drain)).await;
}
