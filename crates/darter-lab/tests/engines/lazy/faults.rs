//! Agent, keeper and seed are killed at random moments under a container whose every byte is read and compared.
//!
//! `DARTER_LAB_ROUNDS` is how many rounds there are. Round N is the same in every run, as far as the machine lets it.

use std::env;
use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::lazy::LazyNode;
use darter_lab::made::drawn;
use darter_lab::{Agent, Registry};

use super::reading::{Outcome, Reading, read_everything};
use super::stand::{Known, SLEEP, data_of, kill_keeper};
use crate::lazy::can_mount;
use crate::world::World;

/// All of the image takes some three seconds.
const RATE: &str = "100mbit";
/// The latest moment at which somebody is killed, in milliseconds after the first read began.
const LATEST: u64 = 3000;
/// The longest time for which somebody is gone, in milliseconds: less than reads wait.
const LONGEST: u64 = 3000;
/// How long reads, and new containers, may take that have nothing in their way any more.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);
/// Hosts of one switch, but for the first two.
const MAX_ROUNDS: u64 = 250;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Keeper,
    Both,
    Seed,
}

impl Victim {
    const ALL: [Self; 4] = [Self::Agent, Self::Keeper, Self::Both, Self::Seed];
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "the agent",
            Self::Keeper => "the keeper",
            Self::Both => "agent and keeper",
            Self::Seed => "the seed",
        })
    }
}

/// What a round came to.
struct Round {
    victim: Victim,
    outcome: Outcome,
    /// From the deed to the end of the first new container.
    again: Duration,
}

fn rounds() -> Result<u64> {
    let Some(rounds) = env::var_os("DARTER_LAB_ROUNDS") else { return Ok(Victim::ALL.len() as u64) };
    let rounds = rounds.to_str().and_then(|rounds| rounds.parse().ok());
    rounds.filter(|rounds| (1..=MAX_ROUNDS).contains(rounds)).context("DARTER_LAB_ROUNDS is a number up to 250")
}

pub(crate) fn no_byte_is_wrong_whoever_is_killed(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let known = Known::make()?;
    let [origin, seed_host] = world.hosts(["registry", "seed"], "1gbit")?;
    let registry = Registry::public(&origin, &known.storage)?;
    let mut seed = Agent::seed(&seed_host, &registry.url())?;
    let mut done = Vec::new();
    for number in 0..rounds()? {
        let round = play(world, &known, &registry, &mut seed, number).with_context(|| format!("round {number}"))?;
        eprintln!(
            "  round {number}: {} killed, {} blocks right, {} reads failed, a new container after {:.1} s",
            round.victim,
            round.outcome.right,
            round.outcome.errors,
            round.again.as_secs_f64()
        );
        done.push(round);
    }
    for victim in Victim::ALL {
        let rounds: Vec<_> = done.iter().filter(|round| round.victim == victim).collect();
        let errors: usize = rounds.iter().map(|round| round.outcome.errors).sum();
        let longest = rounds.iter().map(|round| round.again).max().unwrap_or_default().as_secs_f64();
        eprintln!(
            "  {victim}: {} rounds, {errors} reads failed, no byte wrong, new containers within {longest:.1} s",
            rounds.len()
        );
    }
    Ok(())
}

fn play(world: &World, known: &Known, registry: &Registry, seed: &mut Agent<'_>, number: u64) -> Result<Round> {
    let [host] = world.hosts([&format!("node-{number}")], RATE)?;
    let mut node = LazyNode::start(&host, seed.host(), registry.authority())?;
    let reference = known.reference();
    node.pull(&reference)?;
    let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
    let reading = Reading::begin(&known.truth, &data_of(container)?, number)?;

    let victim = Victim::ALL[(number % Victim::ALL.len() as u64) as usize];
    thread::sleep(Duration::from_millis(drawn(2 * number) % LATEST));
    let pause = Duration::from_millis(drawn(2 * number + 1) % LONGEST);
    let clock = SystemClock::start();
    let deed = clock.now();
    match victim {
        Victim::Agent => {
            node.agent.kill();
            thread::sleep(pause);
            node.agent.start()?;
        }
        Victim::Keeper => kill_keeper(&node)?,
        Victim::Both => {
            node.agent.kill();
            kill_keeper(&node)?;
            thread::sleep(pause);
            node.agent.start()?;
        }
        Victim::Seed => {
            seed.kill();
            thread::sleep(pause);
            seed.start()?;
        }
    }
    let outcome = match victim {
        Victim::Agent | Victim::Seed => {
            let outcome = reading.finish(RECOVERY_TIMEOUT)?;
            ensure!(outcome.errors == 0, "{} reads failed when {victim} was killed", outcome.errors);
            outcome
        }
        // Mounts of layers that were not whole are lost.
        Victim::Keeper | Victim::Both => reading.outcome()?,
    };
    let again = loop {
        match node.engine.begin_run(&reference, &["/bin/id"])?.finish(RECOVERY_TIMEOUT) {
            Ok(_) => break clock.now().since(deed),
            Err(error) if clock.now().since(deed) > RECOVERY_TIMEOUT => return Err(error),
            // The next keeper is not there yet.
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    };
    let container = node.engine.start_container(&reference, "again", &SLEEP)?;
    read_everything(&known.truth, &data_of(container)?, !number, RECOVERY_TIMEOUT).context("a new container")?;
    let outcome = Outcome { errors: reading.outcome()?.errors, ..outcome };
    drop((reading, node));
    let directory = host.directory().to_path_buf();
    drop(host);
    // A hundred rounds would fill the disk; what a process that just died still holds goes with the network.
    let _ = fs::remove_dir_all(directory);
    Ok(Round { victim, outcome, again })
}
