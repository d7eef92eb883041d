//! Leads that fall silent: a seed, the node that leads in its place, just when it has taken over, and the seed that comes back, just when it leads again. Their connections stay,
//! and nothing passes on them, as when a host is cut off. In memory and in virtual time.

use std::time::Duration;

use darter_agent::options::Role;
use darter_swarm::Leader;
use darter_swarm::leadership::trace::{Decided, TraceInput};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};

use crate::stories::cables::ORIGIN;
use crate::stories::world::{Content, SEED, World, fetches, ip};

const NODES: std::ops::RangeInclusive<u8> = 1..=5;

/// Twelve seconds of the seed's cable.
const LENGTH: usize = 12_000_000;

/// A silent connection is given up after five seconds; and a lead that is looked for meanwhile may be silent, too.
const AT_LAST: Duration = Duration::from_secs(60);

async fn world() -> (World, Content) {
    let mut world = World::new();
    world.starts(SEED, |options| (options.role, options.upload_limit) = (Role::Seed, "1MB/s".parse().ok())).await;
    for host in NODES {
        world.starts(host, |options| options.upload_limit = "1MB/s".parse().ok()).await;
    }
    let content = world.publish("model", LENGTH);
    (world, content)
}

impl World {
    /// Nothing passes between a host and the others any more, or does again.
    fn silence(&self, host: u8, is_silent: bool) {
        for other in (SEED..=*NODES.end()).filter(|other| *other != host) {
            if is_silent {
                self.cuts.cut(ip(host), ip(other));
            } else {
                self.cuts.heal(ip(host), ip(other));
            }
        }
    }

    /// Waits until one of the nodes leads.
    async fn stand_in(&self) -> u8 {
        loop {
            if let Some(host) = NODES.into_iter().find(|host| self.leader(*host) == Leader::Me) {
                return host;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The lead, as a host sees it.
    fn leader(&self, host: u8) -> Leader {
        let agent = self.agent(host);
        let trace = agent.status().swarms.first().and_then(|swarm| agent.decisions(swarm.blob));
        let leader =
            trace.iter().flat_map(|trace| trace.decisions.iter().rev()).find_map(|(heard, decided)| match heard {
                TraceInput::Leads(leader) => Some(*leader),
                TraceInput::Lost(..) if *decided == Decided::Whether(true) => Some(Leader::Nobody),
                _ => None,
            });
        leader.unwrap_or(Leader::Nobody)
    }

    fn copies(&self, content: &Content) -> f64 {
        self.origin.bytes_read(&content.source) as f64 / LENGTH as f64
    }
}

/// All nodes fetch the content while hosts are silenced, `after` so many milliseconds; none may wait. Returns how many copies the origin gave.
async fn all_end(world: &World, content: &Content, after: u64, silenced: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    let fetching = NODES.map(|host| fetches(world.agent(host).clone(), content.clone(), 0));
    let ending = async { tokio::join!(join_all(fetching), silenced) };
    let (fetched, ()) = timeout(AT_LAST, ending).await.unwrap_or_else(|_| panic!("{after} ms: somebody waits"));
    assert_eq!(fetched, vec![Ok(()); 5], "{after} ms");
    let copies = world.copies(content);
    println!("{after} ms: {:?}, {copies:.2} copies", begun.elapsed());
    copies
}

#[tokio::test(start_paused = true)]
async fn one_that_falls_silent_as_soon_as_it_leads_in_the_seeds_place_keeps_nobody_waiting() {
    for after in [0, 50, 400, 2000] {
        let (world, content) = world().await;
        let silenced = async {
            sleep(Duration::from_secs(3)).await;
            world.silence(SEED, true);
            let stand_in = world.stand_in().await;
            sleep(Duration::from_millis(after)).await;
            world.silence(stand_in, true);
        };
        let copies = all_end(&world, &content, after, silenced).await;
        // The seed's, and what each of the two that led lacked.
        assert!(copies <= 3.0, "{after} ms: {copies:.2} copies");
    }
}

#[tokio::test(start_paused = true)]
async fn a_seed_that_comes_back_and_falls_silent_as_soon_as_it_leads_again_keeps_nobody_waiting() {
    for after in [0, 50, 400, 2000] {
        let (world, content) = world().await;
        // Otherwise the stand-in would have everything before the seed is back.
        world.cables.rate(ORIGIN, [1e6; 2]);
        let silenced = async {
            sleep(Duration::from_secs(2)).await;
            world.silence(SEED, true);
            let stand_in = world.stand_in().await;
            world.silence(SEED, false);
            let leads_again = async {
                while !matches!(world.leader(stand_in), Leader::Node(_)) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            timeout(AT_LAST / 2, leads_again).await.unwrap_or_else(|_| panic!("{after} ms: no seed leads again"));
            let says_that_it_leads = world.agent(stand_in).status().swarms.iter().any(|swarm| swarm.leads);
            assert!(!says_that_it_leads, "{after} ms: the stand-in follows");
            sleep(Duration::from_millis(after)).await;
            world.silence(SEED, true);
        };
        let copies = all_end(&world, &content, after, silenced).await;
        assert!(copies <= 2.2, "{after} ms: {copies:.2} copies");
    }
}

/// What a seed that stands still for so long costs, after a third of the time, for origins of several rates.
#[tokio::test(start_paused = true)]
#[ignore = "prints figures"]
async fn figures() {
    for (origin, standing) in
        [1.5e6, 4e6, f64::INFINITY].into_iter().flat_map(|rate| [0, 3, 7, 15, 600].map(|for_s| (rate, for_s)))
    {
        let (world, content) = world().await;
        world.cables.rate(ORIGIN, [origin; 2]);
        let begun = Instant::now();
        let fetching = NODES.map(|host| fetches(world.agent(host).clone(), content.clone(), 0));
        let held = std::cell::Cell::new(0.0);
        let silenced = async {
            sleep(Duration::from_secs(4)).await;
            if standing > 0 {
                world.silence(SEED, true);
                held.set(world.copies(&content));
                sleep(Duration::from_secs(standing)).await;
                world.silence(SEED, false);
            }
        };
        let ending = async {
            tokio::select! {
                fetched = join_all(fetching) => fetched,
                () = async { silenced.await; std::future::pending().await } => unreachable!(),
            }
        };
        let fetched = timeout(AT_LAST, ending).await.expect("nobody waits");
        assert_eq!(fetched, vec![Ok(()); 5]);
        println!(
            "origin {origin}, {standing} s: {:?}, {:.2} copies before, {:.2} in all",
            begun.elapsed(),
            held.get(),
            world.copies(&content)
        );
    }
}
