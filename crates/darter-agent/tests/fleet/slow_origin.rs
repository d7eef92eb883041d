//! An honest seed whose origin is slow, or fails. Agents as they are, over memory and in virtual time.

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use darter_agent::options::Role;
use darter_agent::{Agent, Options};
use darter_core::{PieceLength, Rate, Source};
use darter_origin::{Body, ErrorKind, MemOrigin, OriginError};
use darter_wire::MemNetwork;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::in_memory::{self, Altered, Virtual};
use crate::origin::read;

/// For how long nothing may come of what one lead does.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Each part of a chunk takes so long. Four parts are no more than a piece.
const PART: Duration = Duration::from_secs(25);

/// For how long the origin answers 502, in virtual time.
const OUTAGE: Duration = Duration::from_secs(3);

const SEED: u8 = 8;

const LENGTH: usize = 300_000;

/// The same bytes in parts, each after a pause.
fn slowly(body: Body) -> Body {
    let parts = body.flat_map(|chunk| {
        let mut parts = Vec::new();
        match chunk {
            Ok(mut chunk) => {
                let most = chunk.len().div_ceil(4);
                while !chunk.is_empty() {
                    parts.push(Ok(chunk.split_to(most.min(chunk.len()))));
                }
            }
            Err(error) => parts.push(Err(error)),
        }
        stream::iter(parts)
    });
    let late = |part| async move {
        sleep(PART).await;
        part
    };
    parts.then(late).boxed()
}

/// `most` bytes at most, and then an error.
fn broken_off(mut most: usize, body: Body) -> Body {
    let some = body.map_ok(move |mut chunk| {
        let given = chunk.split_to(most.min(chunk.len()));
        most -= given.len();
        given
    });
    let failure = OriginError::new(ErrorKind::Status(502), "bad gateway");
    let given = some.take_while(|chunk| ready(chunk.as_ref().is_ok_and(|chunk| !chunk.is_empty())));
    given.chain(stream::once(ready(Err(failure)))).boxed()
}

fn content() -> Vec<u8> {
    (0..LENGTH).map(|at| (at * 31 + at / 251) as u8).collect()
}

fn file() -> Source {
    Source::from_url("http://origin.lab/file".parse().unwrap(), &[], None).0
}

async fn are_connected(nodes: &[Agent]) {
    while nodes.iter().any(|node| node.status().peers.is_empty()) {
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_an_honest_seed_whose_origin_takes_longer_for_a_piece_than_a_blob_may_stand_still() {
    let (network, origin, dir) = (MemNetwork::new(), MemOrigin::new(), TempDir::new().unwrap());
    let (content, source) = (content(), file());
    origin.put(&source, content.clone());
    let clock = Virtual(Instant::now());
    let mut agents = Vec::new();
    for host in [SEED, 1, 2, 3] {
        let role = if host == SEED { Role::Seed } else { Role::Node };
        let options = in_memory::options(host, [SEED], dir.path());
        let options = Options { role, stall_timeout: STALL_TIMEOUT, ..options };
        let origin = Altered { origin: origin.clone(), body: slowly };
        agents.push(in_memory::start(host, options, &network, origin, clock).await);
    }
    are_connected(&agents[1..]).await;
    let before = Instant::now();
    for pulled in join_all(agents[1..].iter().map(|node| read(node, &source))).await {
        assert!(pulled.unwrap() == content);
    }
    assert!(before.elapsed() > 3 * STALL_TIMEOUT, "the origin is slow");
    assert_eq!(origin.bytes_read(&source), LENGTH as u64, "some left the seed, and read the origin themselves");
    join_all(agents.iter().map(Agent::drain)).await;
}

/// Nodes used to leave such a seed out for five minutes, and to read the origin past it.
#[tokio::test(start_paused = true)]
async fn an_honest_seed_that_gives_up_before_anybody_has_a_piece_is_asked_again() {
    let (network, dir) = (MemNetwork::new(), TempDir::new().unwrap());
    let (content, source) = (content(), file());
    let clock = Virtual(Instant::now());
    let origins = [MemOrigin::new(), MemOrigin::new()];
    origins.iter().for_each(|origin| origin.put(&source, content.clone()));
    let [of_seed, of_nodes] = origins;
    let seed = Options {
        role: Role::Seed,
        origin_patience: OUTAGE * 2 / 3,
        // The first piece is on its way until the seed has given up.
        upload_limit: Some(Rate::from_bytes_per_second(20_000).unwrap()),
        ..in_memory::options(SEED, [], dir.path())
    };
    let (began, reads) = (Instant::now(), AtomicUsize::new(0));
    let failing = move |body| match reads.fetch_add(1, Ordering::Relaxed) {
        _ if began.elapsed() >= OUTAGE => body,
        0 => broken_off(PieceLength::for_blob(LENGTH as u64).bytes() as usize, body),
        _ => broken_off(0, body),
    };
    let failing = Altered { origin: of_seed.clone(), body: failing };
    let seed = in_memory::start(SEED, seed, &network, failing, clock).await;
    let mut nodes = Vec::new();
    for host in 1..=3 {
        let options = in_memory::options(host, [SEED], dir.path());
        nodes.push(in_memory::start(host, options, &network, of_nodes.clone(), clock).await);
    }
    are_connected(&nodes).await;
    for pulled in join_all(nodes.iter().map(|node| read(node, &source))).await {
        assert!(pulled.unwrap() == content);
    }
    assert!(of_seed.bytes_read(&source) > LENGTH as u64, "it gave up");
    assert_eq!(of_nodes.bytes_read(&source), 0, "some read past the seed");
    join_all(nodes.iter().chain([&seed]).map(Agent::drain)).await;
}

/// A seed that gives up twice in a short time, of which nobody has a piece, is left out for five minutes, as it may lie. When its origin fails a
/// node as well, that node knows that it was true.
#[tokio::test(start_paused = true)]
async fn an_honest_seed_that_gave_up_twice_is_asked_again_once_the_origin_failed_a_node_too() {
    let outage = OUTAGE * 20;
    let (network, dir) = (MemNetwork::new(), TempDir::new().unwrap());
    let (content, source) = (content(), file());
    let clock = Virtual(Instant::now());
    let origins = [MemOrigin::new(), MemOrigin::new()];
    origins.iter().for_each(|origin| origin.put(&source, content.clone()));
    let [of_seed, of_node] = origins;
    let began = Instant::now();
    let first_piece = PieceLength::for_blob(LENGTH as u64).bytes() as usize;
    let failing = |first| {
        let reads = AtomicUsize::new(0);
        move |body| match reads.fetch_add(1, Ordering::Relaxed) {
            _ if began.elapsed() >= outage => body,
            0 => broken_off(first, body),
            _ => broken_off(0, body),
        }
    };
    let patience = OUTAGE * 2 / 3;
    let seed = Options {
        role: Role::Seed,
        origin_patience: patience,
        upload_limit: Some(Rate::from_bytes_per_second(20_000).unwrap()),
        ..in_memory::options(SEED, [], dir.path())
    };
    let origin = Altered { origin: of_seed.clone(), body: failing(first_piece) };
    let seed = in_memory::start(SEED, seed, &network, origin, clock).await;
    let options = Options { origin_patience: patience, ..in_memory::options(1, [SEED], dir.path()) };
    let origin = Altered { origin: of_node.clone(), body: failing(0) };
    let node = in_memory::start(1, options, &network, origin, clock).await;
    are_connected(std::slice::from_ref(&node)).await;
    let failed = read(&node, &source).await;
    assert!(failed.is_err() && began.elapsed() < outage, "nobody has it to give: {:?}", began.elapsed());
    let read_by_node = of_node.bytes_read(&source);
    assert!(read_by_node > 0, "it tried the origin itself");
    sleep(outage).await;
    assert!(read(&node, &source).await.unwrap() == content);
    assert_eq!(of_node.bytes_read(&source), read_by_node, "it reads past a seed that was right");
    join_all([&node, &seed].map(Agent::drain)).await;
}
