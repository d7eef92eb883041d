//! Peers that say they hold a blob and don't give it, or do other things that nobody should, each in its way, among agents: nobody waits for
//! them for long, and nobody is deceived.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | those that hold and don't give, over memory in virtual time, and over sockets |
//! | `cost` | what liars cost the others |
//! | `lie` | what each does |
//! | `peer` | how it answers and gives |
//! | `pull` | a fleet with liars, over memory and in virtual time |
//! | `saying` | what it says and does unasked |

mod cost;
mod lie;
mod peer;
mod pull;
mod saying;

use std::sync::Arc;
use std::time::Duration;

use darter_agent::options::Role as AgentRole;
use darter_agent::{Agent, Options};
use darter_core::Rate;
use darter_wire::TcpTransport;
use futures_util::StreamExt as _;
use futures_util::future::join_all;

use self::lie::Lie;
use self::peer::Liar;
use self::pull::{Pulled, most_copies, pull};
use crate::origin::{Answer, Origin, read};
use crate::seed;

/// In virtual time: far more than a fleet without liars takes, and less than one of them took.
const SOON: Duration = Duration::from_secs(25);

/// Over sockets: long, on the busiest machine.
const AT_LAST: Duration = Duration::from_secs(120);

#[test]
fn each_liar_has_a_twin_in_the_simulator() {
    for lie in [&Lie::HOLDERS[..], &Lie::READERS, &Lie::GIVERS, &Lie::NUISANCES, &Lie::TAKERS].concat() {
        assert!(lie.simulated().parse::<darter_scenario::Lie>().is_ok(), "{lie:?}");
    }
}

fn content(length: u32) -> Vec<u8> {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// The seed, if any, besides honest nodes and liars.
#[derive(Clone, Copy, Debug)]
enum Above {
    /// A seed that has everything.
    Full,
    /// A seed that reads the origin.
    Empty,
    /// Nobody.
    Nobody,
}

/// An agent whose links are not much faster than those of a small cloud machine.
fn options(dir: &std::path::Path, name: &str, join: Vec<String>) -> Options {
    let rate = Rate::from_bytes_per_second(24_000_000);
    let origin_patience = Duration::from_secs(30);
    Options { upload_limit: rate, origin_patience, ..seed::node(&dir.join(name), join) }
}

/// Three nodes of a seed that reads the origin pull a blob at once over sockets in the company of these liars.
async fn pull_over_sockets(lies: &[Lie]) {
    let content = Arc::new(content(8 << 20));
    let served = Arc::clone(&content);
    let origin = Origin::start(move |_, _| Answer::of(&served)).await;
    let source = origin.blob(&content);
    let dir = tempfile::tempdir().unwrap();
    let first = Options { role: AgentRole::Seed, ..options(dir.path(), "first", Vec::new()) };
    let first = Agent::start(first).await.unwrap();
    let address = first.status().listen.unwrap();
    let mut agents = Vec::new();
    for node in 0..3 {
        agents.push(Agent::start(options(dir.path(), &node.to_string(), vec![address.clone()])).await.unwrap());
    }
    let mut liars = Vec::new();
    for (number, lie) in (1..).zip(lies) {
        let tcp = (TcpTransport::default(), "127.0.0.1:0");
        liars.push(Liar::start(number, *lie, source.clone(), Arc::clone(&content), tcp, &address).await);
    }
    // All know each other, the liars among them.
    let connected = async {
        while agents.iter().any(|agent| agent.status().peers.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(AT_LAST, connected).await.expect("they meet");
    let pulls = agents.iter().map(|agent| tokio::time::timeout(AT_LAST, read(agent, &source)));
    for got in join_all(pulls).await {
        let got = got.unwrap_or_else(|_| panic!("{lies:?} stopped one"));
        assert!(got.unwrap_or_else(|error| panic!("{lies:?}: {error}")) == **content);
    }
    liars.iter().for_each(|liar| liar.vanish());
    join_all(agents.iter().chain([&first]).map(Agent::drain)).await;
}

/// So many nodes pull a blob at once in the company of these liars, in virtual time.
async fn each(above: Above, nodes: u8, lies: impl Iterator<Item = Vec<Lie>>) {
    for lies in lies {
        let Pulled { last, copies, .. } = pull(above, nodes, 8 << 20, &lies).await;
        println!("{above:?} {lies:?}: {last:?}, {copies:.2} copies");
        assert!(last <= SOON, "{above:?}, {nodes} nodes, {lies:?}: {last:?}");
        assert!(copies <= most_copies(above), "{above:?}, {nodes} nodes, {lies:?}: {copies:.2} copies");
    }
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_any_kind_among_three_nodes_of_a_seed_that_has_it_all_stops_nobody() {
    each(Above::Full, 3, Lie::HOLDERS.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_any_kind_among_three_nodes_of_a_seed_that_reads_the_origin_stops_nobody() {
    each(Above::Empty, 3, Lie::HOLDERS.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(start_paused = true)]
async fn one_liar_of_any_kind_among_three_nodes_without_a_seed_stops_nobody() {
    each(Above::Nobody, 3, Lie::HOLDERS.iter().map(|lie| vec![*lie])).await;
}

#[tokio::test(start_paused = true)]
async fn two_liars_among_eight_and_four_among_three_stop_nobody() {
    let pairs = Lie::HOLDERS.chunks(2).map(<[Lie]>::to_vec);
    each(Above::Empty, 6, pairs).await;
    let fours = [Lie::Silent, Lie::Bytes, Lie::Refuses, Lie::Absurd].map(|lie| vec![lie; 4]);
    each(Above::Full, 3, fours.into_iter()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_sockets_liars_of_any_kind_stop_nobody_either() {
    // Some at a time: an ordinary user has a thousand descriptors.
    let pulls = Lie::HOLDERS.chunks(2).map(pull_over_sockets);
    futures_util::stream::iter(pulls).buffer_unordered(2).collect::<Vec<()>>().await;
}
