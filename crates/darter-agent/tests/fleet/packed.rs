//! Pieces of expanded layers go packed where the wire is slower than packing, to agents that take them so, and to no others.

use std::sync::Arc;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{BlobId, NodeId, PieceIndex, PieceLength, Rate};
use darter_wire::{
    Answer, BufferPool, ConnectionKind, DataClient, PieceData, Receiving, Request, Role as WireRole, TcpTransport,
    Unlimited, Unpacker, Wanted, preface,
};

use crate::expanded::{WITHIN, expanded, node, open, read, registry_with};
use crate::registries::options;
use crate::registry::Registry;
use crate::seed;
use crate::tar::{dir, file, tar};

mod broken;

/// Pieces of a blob whose length was not known when it was begun.
const PIECE: usize = PieceLength::UNKNOWN_BLOB.bytes() as usize;

/// A tar of text, which shrinks to a third or less.
fn text() -> Vec<u8> {
    let word = |at: u32| format!("word{} ", at.wrapping_mul(2_654_435_761) >> 22).into_bytes();
    let content: Vec<u8> = (0..).flat_map(word).take(20 * PIECE).collect();
    tar([dir("usr/"), file("usr/text", &content)])
}

/// A seed that sends no more than this in a second.
async fn seed_of(directory: &std::path::Path, registry: &Registry, limit: Option<u64>) -> Agent {
    let upload_limit = limit.and_then(Rate::from_bytes_per_second);
    let options = Options { role: Role::Seed, upload_limit, ..options(directory, "seed", registry) };
    darter_gateway::start(options).await.unwrap()
}

fn sent(agent: &Agent) -> u64 {
    agent.status().traffic.to_peers
}

/// The bytes of packed pieces that went out: as they crossed the wire, and before.
fn packed(agent: &Agent) -> (u64, u64) {
    let metrics = agent.metrics().encode();
    let count = |name: &str| {
        let name = format!("darter_{name}_bytes_total{{direction=\"sent\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
    };
    (count("packed"), count("packed_plain"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_slow_wire_a_layer_comes_packed_and_both_ends_count_what_crossed_it() {
    let directory = tempfile::tempdir().unwrap();
    let tar = text();
    let file = expanded(&tar);
    let (registry, layer) = registry_with(&tar).await;
    let seed = seed_of(directory.path(), &registry, Some(4_000_000)).await;
    let one = node(directory.path(), "one", &registry, &[&seed]).await;
    assert!(read(&one, &layer).await.unwrap() == file);
    let (wire, plain) = packed(&seed);
    assert!(plain > file.len() as u64 / 2 && wire < plain / 2, "{wire} for {plain}");
    let blob = open(&one, &layer).await.unwrap().blob().to_string();
    // What is counted as sent is what crossed the wire, and what came is as much. A piece that was asked for twice may have come twice, and the
    // last one is counted once all of it was handed over, which its receiver may see first.
    let begun = tokio::time::Instant::now();
    loop {
        let given = seed.explain(&blob).await.unwrap().traffic.to_peers;
        let ((wire, plain), sent, came) = (packed(&seed), sent(&seed), one.status().traffic.from_seed);
        assert!(wire < plain / 2, "{wire} for {plain}");
        if given >= file.len() as u64 && sent + plain == given + wire && came == sent {
            break;
        }
        assert!(begun.elapsed() < WITHIN, "{given} given, {plain} of it packed as {wire}: {sent} sent, {came} came");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let told = one.explain(&blob).await.unwrap().traffic;
    assert_eq!(told.from_seed, file.len() as u64, "of a blob, its own bytes are told");
}

/// Requests of one connection for pieces from the first on, which take packed ones or not: how many came packed.
async fn fetch(seed: &Agent, blob: BlobId, file: &[u8], takes_packed: bool) -> usize {
    let address = seed.status().listen.unwrap();
    let me = seed::hello(NodeId([7; 16]), WireRole::Node, "");
    let stream = preface::open(&TcpTransport::default(), &address, ConnectionKind::Data, &me).await.unwrap().stream;
    let receiving = Receiving { budget: Arc::new(Unlimited), buffers: BufferPool::default() };
    let (client, mut answers) = DataClient::start(stream, receiving);
    let mut came_packed = 0;
    for (index, expected) in (0..).zip(file.chunks(PIECE)).take(12) {
        let wanted = Wanted::Piece(PieceIndex(index));
        client.request(Request { id: index, blob, wanted, urgent: false, takes_packed }, PIECE as u32).unwrap();
        let answer = answers.recv().await.unwrap();
        let Some(Answer::Data { data, .. }) = answer else { panic!("{answer:?}") };
        came_packed += usize::from(matches!(data, PieceData::Packed(_)));
        assert!(*data.unpack(&mut Unpacker::default()).unwrap() == *expected, "piece {index}");
    }
    came_packed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_requester_that_does_not_say_that_it_takes_packed_pieces_gets_none() {
    let directory = tempfile::tempdir().unwrap();
    let tar = text();
    let file = expanded(&tar);
    let (registry, layer) = registry_with(&tar).await;
    let seed = seed_of(directory.path(), &registry, Some(4_000_000)).await;
    let download = open(&seed, &layer).await.unwrap();
    download.ensure(darter_core::ByteRange::new(0, file.len() as u64), WITHIN).await.unwrap();
    assert_eq!(fetch(&seed, download.blob(), &file, false).await, 0);
    assert_eq!(packed(&seed), (0, 0));
    let packed = fetch(&seed, download.blob(), &file, true).await;
    assert!(packed > 6, "{packed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_whose_operator_wants_none_neither_sends_nor_gets_packed_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let tar = text();
    let file = expanded(&tar);
    let (registry, layer) = registry_with(&tar).await;
    let plain = |name: &str| Options { packed: false, ..options(directory.path(), name, &registry) };
    let upload_limit = Rate::from_bytes_per_second(8_000_000);
    for packs in [true, false] {
        let name = format!("seed {packs}");
        let limited = Options { role: Role::Seed, upload_limit, packed: packs, ..plain(&name) };
        let seed = darter_gateway::start(limited).await.unwrap();
        let join = vec![seed.status().listen.unwrap()];
        // One of the two wants none.
        let node = Options { join, packed: !packs, ..plain(&format!("node {packs}")) };
        let node = darter_gateway::start(node).await.unwrap();
        assert!(read(&node, &layer).await.unwrap() == file);
        assert_eq!((packed(&seed), sent(&seed)), ((0, 0), file.len() as u64));
    }
}
