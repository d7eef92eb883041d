//! Agents that start the same image at the same moment: each waits for one piece after the other, and all of them for the same. In memory, over
//! cables, in virtual time.

use std::time::Duration;

use darter_agent::{Agent, Download};
use darter_core::source::Credentials;
use darter_core::{ByteRange, PieceIndex, Source};
use darter_scenario::Lie;
use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use crate::stories::world::{Content, SEED, World, fetches, ip};

const LENGTH: u64 = 32 << 20;

/// Bytes that a cable carries in a second: one that is alone takes 0.84 s, as a container does. A wait for a starter in vain is 150 ms: compared with
/// a start of 0.17 s that would be as long as the start.
const RATE: f64 = 5e6;

const WITHIN: Duration = Duration::from_secs(60);

/// The ranges that a program reads, in its order: in 32 pieces, none beside the one before it.
fn reads(download: &Download) -> Vec<ByteRange> {
    let piece = download.piece_length().bytes();
    let pieces = LENGTH / piece;
    assert!(pieces >= 64, "{pieces}");
    (0..32).map(|number| (number * 37 % pieces) * piece + 100).map(|at| ByteRange::new(at, at + 5000)).collect()
}

/// A seed that has the whole blob, and `nodes` nodes that have joined.
async fn world(nodes: u8) -> (World, Content) {
    let mut world = World::new();
    for host in 0..=nodes {
        world.cables.rate(ip(host), [RATE; 2]);
    }
    world.starts(SEED, |_| {}).await;
    let content = world.publish("layer", LENGTH as usize);
    fetches(world.agent(SEED).clone(), content.clone(), 0).await.unwrap();
    for host in 1..=nodes {
        world.starts(host, |_| {}).await;
    }
    (world, content)
}

async fn open(agent: &Agent, content: &Content) -> Download {
    agent.open_parts(content.source.clone(), Credentials::none()).await.unwrap()
}

/// The bytes of the pieces that a start touches: nothing less can be had.
fn touched(download: &Download) -> u64 {
    let pieces = download.piece_length();
    let numbers: std::collections::BTreeSet<u32> =
        reads(download).into_iter().flat_map(|range| pieces.pieces_of(range)).collect();
    numbers.into_iter().map(|piece| pieces.range(PieceIndex(piece), LENGTH).len()).sum()
}

/// Opens and reads, as a program does, one range after the other; what comes later is not what is measured.
async fn start(agent: &Agent, content: &Content) -> (u64, Instant) {
    let download = open(agent, content).await;
    for range in reads(&download) {
        download.ensure(range, WITHIN).await.unwrap_or_else(|error| panic!("{range}: {error}"));
    }
    (touched(&download), Instant::now())
}

/// The same of one that knows the list from the start, and asks for all of it without hurry.
async fn start_listed(agent: &Agent, content: &Content) -> (u64, Instant) {
    let download = open(agent, content).await;
    let ahead = join_all(reads(&download).into_iter().map(|range| download.fetch_ahead(range, WITHIN)));
    let reading = async {
        for range in reads(&download) {
            download.ensure(range, WITHIN).await.unwrap_or_else(|error| panic!("{range}: {error}"));
        }
        Instant::now()
    };
    let (fetched, done) = tokio::join!(ahead, reading);
    assert!(fetched.into_iter().all(|fetched| fetched.is_ok_and(|is_here| is_here)));
    (touched(&download), done)
}

/// Copies that the seed sent of what was touched, and how long the last honest one took, in times of what one alone would need. Those of these
/// hosts lie.
async fn started<S: AsyncFn(&Agent, &Content) -> (u64, Instant)>(
    nodes: u8,
    liars: &[(u8, Lie)],
    start: S,
) -> (f64, f64) {
    let (world, content) = world(nodes).await;
    for (host, how) in liars {
        let blob = darter_core::source::blob_of(&content.source.digest().unwrap());
        world.cables.lie(ip(*host), *how, blob, darter_core::PieceLength::for_blob(LENGTH).count(LENGTH));
    }
    let sent = || world.agent(SEED).status().traffic.to_peers;
    let (before, begun) = (sent(), Instant::now());
    let lies = |host: &u8| liars.iter().any(|(liar, _)| liar == host);
    let all = join_all((1..=nodes).filter(|host| !lies(host)).map(|host| start(world.agent(host), &content)));
    let others = async {
        let others = (1..=nodes).filter(lies).map(|host| timeout(WITHIN, start(world.agent(host), &content)));
        join_all(others).await;
    };
    let done = async {
        tokio::select! {
            done = all => done,
            () = async { others.await; std::future::pending().await } => unreachable!(),
        }
    };
    let done = timeout(WITHIN * 4, done).await.expect("nobody waits for ever");
    let touched = done[0].0;
    let last = done.iter().map(|(_, done)| *done - begun).max().unwrap();
    ((sent() - before) as f64 / touched as f64, last.as_secs_f64() / (touched as f64 / RATE))
}

/// The medians of some such starts: with a list, and with nothing known.
async fn middle(liars: &[(u8, Lie)], draws: usize) -> [(f64, f64); 2] {
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..draws {
        all[0].push(started(8, liars, start_listed).await);
        all[1].push(started(8, liars, start).await);
    }
    all.map(|runs| {
        let (mut copies, mut lasts): (Vec<f64>, Vec<f64>) = runs.into_iter().unzip();
        [&mut copies, &mut lasts].into_iter().for_each(|list| list.sort_by(f64::total_cmp));
        (copies[draws / 2], lasts[draws / 2])
    })
}

#[tokio::test(start_paused = true)]
#[ignore = "prints figures"]
async fn figures() {
    for nodes in [1, 8] {
        let one = started(nodes, &[], start).await;
        let listed = started(nodes, &[], start_listed).await;
        println!("{nodes} nodes: {one:.2?} one after the other, {listed:.2?} with the list");
    }
    let alone = middle(&[], 5).await;
    println!("8 nodes, copies and last: {alone:.2?}");
    for (how, word) in Lie::ALL {
        for liars in [&[(2, how)][..], &[(2, how), (5, how)]] {
            let beside = middle(liars, 3).await;
            let ratios = [0, 1].map(|at| beside[at].1 / alone[at].1);
            println!("{} {word}: {ratios:.2?}, {beside:.2?}", liars.len());
        }
    }
}

/// Sent to each of them, it would be eight copies, and the last one eight times later.
#[tokio::test(start_paused = true)]
async fn the_seed_sends_what_eight_starters_touch_about_once() {
    let (copies, time) = started(8, &[], start_listed).await;
    assert!(copies <= 1.1 && time < 1.7, "{copies} copies, {time}");
    let (copies, time) = started(8, &[], start).await;
    assert!(copies <= 1.1 && time < 4.5, "{copies} copies, {time}, with nothing known");
}

/// It is given a part of the pieces first, since it asks for them like any other.
#[tokio::test(start_paused = true)]
async fn a_starter_that_gives_nothing_stops_no_other() {
    for how in [Lie::Silent, Lie::Refuse] {
        let (copies, time) = started(8, &[(2, how)], start_listed).await;
        assert!(copies < 1.7 && time < 1.9, "{how:?}: {copies} copies, {time}");
        let (copies, time) = started(8, &[(2, how)], start).await;
        assert!(copies < 3.0 && time < 6.0, "{how:?}: {copies} copies, {time}, with nothing known");
    }
}

/// Each program that names an address has its agent ask the seed for it, which may take the agent for one that wants no more than that.
#[tokio::test(start_paused = true)]
async fn one_that_opens_a_part_of_what_another_fetches_on_its_host_holds_nothing_up() {
    let mut world = World::new();
    for host in [SEED, 1] {
        world.cables.rate(ip(host), [RATE; 2]);
    }
    world.starts(SEED, |_| {}).await;
    let bytes = world.publish("layer", LENGTH as usize).bytes;
    let url = "https://origin.lab/file".parse().unwrap();
    let content = Content { source: Source::Url { url, variant: Vec::new(), digest: None }, bytes };
    world.origin.put(&content.source, content.bytes.to_vec());
    fetches(world.agent(SEED).clone(), content.clone(), 0).await.unwrap();
    world.starts(1, |_| {}).await;
    let agent = world.agent(1);
    let opens = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            open(agent, &content).await;
        }
    };
    let begun = Instant::now();
    let (fetched, ()) = tokio::join!(fetches(agent.clone(), content.clone(), 0), opens);
    fetched.unwrap();
    assert_eq!(agent.status().traffic.from_origin, 0, "it was left waiting, and read the origin");
    let time = begun.elapsed().as_secs_f64() / (LENGTH as f64 / RATE);
    assert!(time < 4.0, "{time}");
}
