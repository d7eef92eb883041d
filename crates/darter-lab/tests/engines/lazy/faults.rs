//! Agent, keeper, seed and engine are killed at random moments under programs whose every byte is read and compared.
//!
//! `DARTER_LAB_ROUNDS` is how many rounds there are, `DARTER_LAB_SEED` what all chances come from. Round N of a seed is the same in every run, as far as the
//! machine lets it.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::made::drawn;
use darter_lab::{Agent, Host, Registry};

use super::reading::Outcome;
use super::stand::Known;
use super::victims::{Node, Victim, Way};
use crate::lazy::can_mount;
use crate::world::World;

/// All of the image takes some three seconds.
const RATE: &str = "100mbit";
/// The latest moment at which somebody is killed, in milliseconds after the first read began.
const LATEST: u64 = 3000;
/// The longest time for which somebody is gone, in milliseconds: less than reads wait.
const LONGEST: u64 = 3000;
/// The most often that one is killed in a round whose end costs no reader anything.
const MOST_OFTEN: u64 = 3;
/// How long reads, and new containers, may take that have nothing in their way any more.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// When the rest of what is open comes.
const FILLS: [&str; 3] = ["idle", "always", "never"];
/// Rounds where nobody says how many: each victim once, and each way.
const ROUNDS: u64 = 5;
/// Hosts of one switch, but for the first two.
const MAX_ROUNDS: u64 = 250;

/// The outcome of a round.
struct Round {
    way: Way,
    victim: Victim,
    kills: u64,
    outcome: Outcome,
    /// From the last deed to the start of the next container.
    again: Duration,
}

/// A number out of the environment.
fn number(name: &str, usual: u64, most: u64) -> Result<u64> {
    let Some(given) = env::var_os(name) else { return Ok(usual) };
    let given = given.to_str().and_then(|given| given.parse().ok());
    given.filter(|given| *given <= most).with_context(|| format!("{name} is a number up to {most}"))
}

/// The chances of a round.
struct Draws {
    state: u64,
}

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(1);
        drawn(self.state) % limit
    }
}

pub(crate) fn no_byte_is_wrong_whoever_is_killed(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let (rounds, chance) = (number("DARTER_LAB_ROUNDS", ROUNDS, MAX_ROUNDS)?, number("DARTER_LAB_SEED", 1, u64::MAX)?);
    let known = Known::make()?;
    let [origin, seed_host] = world.hosts(["registry", "seed"], "1gbit")?;
    let registry = Registry::public(&origin, &known.storage)?;
    let mut seed = Agent::seed(&seed_host, &registry.url())?;
    let mut done: BTreeMap<(Way, Victim), Vec<Round>> = BTreeMap::new();
    for number in 0..rounds {
        let draws = Draws { state: drawn(chance ^ number << 32) };
        let round =
            play(world, &known, &registry, &mut seed, number, draws).with_context(|| format!("round {number}"))?;
        eprintln!(
            "  round {number}, {}: {} killed {} times, {} blocks right, {} reads failed, started again after {:.1} s",
            round.way,
            round.victim,
            round.kills,
            round.outcome.right,
            round.outcome.errors,
            round.again.as_secs_f64()
        );
        done.entry((round.way, round.victim)).or_default().push(round);
    }
    for ((way, victim), rounds) in done {
        let errors: usize = rounds.iter().map(|round| round.outcome.errors).sum();
        let mut again: Vec<_> = rounds.iter().map(|round| round.again).collect();
        again.sort_unstable();
        eprintln!(
            "  {way}, {victim}: {} rounds, {errors} reads failed, no byte wrong, started again after {:.1} s (median), {:.1} s at most",
            rounds.len(),
            again[again.len() / 2].as_secs_f64(),
            again[again.len() - 1].as_secs_f64()
        );
    }
    Ok(())
}

fn play(
    world: &World,
    known: &Known,
    registry: &Registry,
    seed: &mut Agent<'_>,
    number: u64,
    mut draws: Draws,
) -> Result<Round> {
    let way = Way::ALL[number as usize % Way::ALL.len()];
    let victim = way.victims()[number as usize % way.victims().len()];
    let [host] = world.hosts([&format!("node-{number}")], RATE)?;
    let played = play_on(&host, way, victim, known, registry, seed, number, &mut draws);
    let played = played.with_context(|| format!("{way}, {victim} killed"))?;
    let directory = host.directory().to_path_buf();
    drop(host);
    // A hundred rounds would fill the disk; what a process that just died still holds goes with the network.
    let _ = fs::remove_dir_all(directory);
    Ok(played)
}

#[allow(clippy::too_many_arguments, reason = "a round is what all of them come to")]
fn play_on(
    host: &Host,
    way: Way,
    victim: Victim,
    known: &Known,
    registry: &Registry,
    seed: &mut Agent<'_>,
    number: u64,
    draws: &mut Draws,
) -> Result<Round> {
    let fill = FILLS[draws.below(FILLS.len() as u64) as usize];
    let mut node = Node::start(way, host, known, seed.host(), registry.authority(), &["--lazy-fill", fill])?;
    node.pull(known)?;
    let reading = node.begin(known, draws.below(u64::MAX), fill)?;
    let kills = if victim.takes_mounts_along() { 1 } else { 1 + draws.below(MOST_OFTEN) };
    let clock = SystemClock::start();
    let mut deed = clock.now();
    for _ in 0..kills {
        thread::sleep(Duration::from_millis(draws.below(LATEST / kills)));
        deed = clock.now();
        node.kill(victim, Duration::from_millis(draws.below(LONGEST)), seed)?;
    }
    let took = || clock.now().since(deed);
    let (again, outcome) = if victim.takes_mounts_along() {
        // Mounts of what was not whole are lost; whoever reads them hears so, and what the keeper gave before stays right.
        reading.outcome()?;
        let again = node.again(known, number, took)?;
        (again, reading.end(RECOVERY_TIMEOUT)?)
    } else {
        let outcome = reading.finish(RECOVERY_TIMEOUT)?;
        ensure!(outcome.errors == 0, "{} reads failed", outcome.errors);
        let again = node.again(known, number, took)?;
        (again, outcome)
    };
    Ok(Round { way, victim, kills, outcome, again })
}
