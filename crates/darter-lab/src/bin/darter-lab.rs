//! `cargo lab`: races Darter against others over shaped links in network namespaces, and measures what one host does. See
//! [`darter_lab::race`] and [`darter_lab::bench`].

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::{CommandFactory as _, Parser, Subcommand};
use darter_lab::bench::{self, Bench};
use darter_lab::engine::release;
use darter_lab::lazy::{self, Start, Way};
use darter_lab::plan::Plan;
use darter_lab::race::content::Content;
use darter_lab::race::kind::MethodKind;
use darter_lab::race::relay::Relay;
use darter_lab::race::{Row, Scenario, plot, race, row};
use darter_lab::read::{self, Read};

/// KiB of each blob in the race that warms caches up and is not counted.
const WARM_UP_KIB: u64 = 1024;

/// Races Darter against others over shaped links, on hosts in network namespaces, and prints one table row for each method; or
/// measures what one host does (hit, tiny, pair).
///
/// Needs root. Columns of races: T* is the bound in seconds; first, median, p99 and last are finishers, in seconds; worst own is a node's own
/// time over its own bound; /direct is last over that of direct-pull in the same turn; lag is seconds from when an agent held
/// all until it had handed all to its engine, at the slowest node; origin, seed and link are copies read from the origin, sent by the seed, and crossing into the
/// second rack; in/node is copies received by a node, all three as cables count them, with some headers; CPU is user and system of all the method's processes for each gigabyte
/// delivered; busy is the machine's share of busy CPU, marked when it is over 0.7, where ratios to T* mean little; right is
/// nodes whose every file has the right SHA-256; goal is what the scenario's goal was missed by, of Darter.
///
/// Columns of starts of containers (lazy-…): pull s until the program that pulls has ended, run s from there until the container is ready (it has printed what it is to print,
/// or listens), ready s both; ready/whole is that over the faster whole pull of the same turn; came MB came to the host until then; /touched is that over the
/// bytes of the layers that starts touch; /local is ready s, without the time in which these bytes (fewer if they came packed) pass the cable, over a start with everything on the local disk; seed is
/// what the seed sent over what is touched, where eight start at once.
///
/// Columns of reads (lazy-read): MB/s in order and the median time of a block of 4 KiB in no order, from cold page caches, each also as a part of what the
/// file system below gives (1.00 is as good).
///
/// Columns of measurements: ms/file is wall time; +ms/file is that above the time of nginx; CPU s/GB is user and system of the process that
/// serves (in a pair, that fetches), seed s/GB of its seed; CPU/plain is CPU per gigabyte over nginx's; trips/file is questions
/// for which the node waited for its seed; msgs/file is control messages of both; the rest is as in races.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab")]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    part: Option<LabCommand>,
    /// Scenarios to run, by name or as a .toml file; without any, the help and the list of them. Each kind has its own table
    scenarios: Vec<String>,
    /// Run these methods in races (measurements have their own): darter, darter-verify-whole, darter-get, darter-link and darter-stdout (from the command to the whole file),
    /// darter-pull, direct-pull and spegel-pull (containerds that pull and unpack an image), libtorrent, libtorrent-tuned, aria2, nginx,
    /// chain (what the bytes alone take) [default: darter; where the content is an image, direct-pull and darter-pull]
    #[arg(long, value_delimiter = ',')]
    method: Vec<MethodKind>,
    /// Start containers in these ways (lazy-…): direct-pull, darter-pull, darter-converted (the same with the snapshotter of lazy starts, which has to convert the image), darter-first (the first ever pull: no seed has anything), darter-late (the same with a --lazy-wait of a second, so that it downloads the image), darter-lazy, darter-second (another host, once the fleet knows what the first start touched),
    /// darter-eight (eight hosts at once), stargz and soci (other snapshotters, built once, with images converted once) [default: as the scenario says]
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    way: Vec<Way>,
    /// Run every method in races that the scenario suits; spegel-pull only where Spegel is in the PATH. Starts of containers: stargz and soci, too,
    /// where they can be built
    #[arg(long, conflicts_with_all = ["method", "way"])]
    compare: bool,
    /// Print medians of this many races or measurements; the methods of a scenario take turns
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Print one JSON object a line instead of a table
    #[arg(long)]
    json: bool,
    /// Draw every node's progress over time, of each method's last race
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

/// Commands with which the laboratory starts itself.
#[derive(Debug, Subcommand)]
enum LabCommand {
    /// One link of a chain, on its host
    #[command(hide = true)]
    Relay(Relay),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.part {
        Some(LabCommand::Relay(relay)) => relay.run().map(|()| true),
        None => work(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("some nodes did not finish, or hold wrong bytes");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives whether everything that was to arrive did, with the right bytes.
fn work(arguments: &Arguments) -> Result<bool> {
    if arguments.scenarios.is_empty() || arguments.scenarios == ["help"] {
        Arguments::command().print_long_help()?;
        println!("\nScenarios:");
        for plan in Plan::all()? {
            let (name, about, goal) = plan.describe();
            println!("  {name:<12} {about}; goal: {goal}");
        }
        return Ok(true);
    }
    ensure!(arguments.runs > 0, "--runs 0 leaves nothing to show");
    let (mut races, mut starts, mut reads, mut benches) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in &arguments.scenarios {
        match Plan::open(name)? {
            Plan::Race(scenario) => races.push(*scenario),
            Plan::Start(start) => starts.push(start),
            Plan::Read(read) => reads.push(read),
            Plan::Bench(bench) => benches.push(bench),
        }
    }
    if let Some(lacks) = (!benches.is_empty()).then_some(MethodKind::Darter).and_then(MethodKind::lacking) {
        bail!("{lacks}");
    }
    let races =
        races.into_iter().map(|scenario| Ok((methods(arguments, &scenario)?, scenario))).collect::<Result<Vec<_>>>()?;
    if let Some(lacks) = (!starts.is_empty() || !reads.is_empty()).then(release::lacking).flatten() {
        bail!("{lacks}");
    }
    start_all(arguments, &starts)?;
    read_all(arguments, &reads)?;
    let sound = measure_all(arguments, &benches)?;
    Ok(race_all(arguments, &races)? && sound)
}

/// The methods that race over a scenario, in their turns; an error when one was asked for that can't.
fn methods(arguments: &Arguments, scenario: &Scenario) -> Result<Vec<MethodKind>> {
    let asked = match () {
        () if arguments.compare => MethodKind::ALL.to_vec(),
        () if !arguments.method.is_empty() => arguments.method.clone(),
        () if scenario.layers => vec![MethodKind::DirectPull, MethodKind::DarterPull],
        () => vec![MethodKind::Darter],
    };
    let mut kinds = Vec::new();
    for kind in asked {
        let lacks = || if kind.is_pull() && scenario.built_engine { release::lacking() } else { None };
        match kind.unfit(scenario) {
            Some(reason) if arguments.compare => eprintln!("{}: without {kind}: {reason}", scenario.name),
            Some(reason) => bail!("{} is not for {kind}: {reason}", scenario.name),
            None => match kind.lacking().or_else(lacks) {
                Some(lacks) if arguments.compare && kind == MethodKind::SpegelPull => eprintln!("{lacks}; without it"),
                Some(lacks) => bail!("{lacks}"),
                None => kinds.push(kind),
            },
        }
    }
    Ok(kinds)
}

fn measure_all(arguments: &Arguments, benches: &[Bench]) -> Result<bool> {
    let mut sound = true;
    if !arguments.json && !benches.is_empty() {
        println!("{}", bench::row::heads());
    }
    for bench in benches {
        let content = bench.content()?;
        let mut columns: Vec<Vec<bench::Row>> = Vec::new();
        for number in 1..=arguments.runs {
            let rows = bench
                .run(&content)
                .with_context(|| format!("{}, measurement {number} of {}", bench.name, arguments.runs))?;
            columns.resize(rows.len(), Vec::new());
            for (column, row) in columns.iter_mut().zip(rows) {
                if arguments.runs > 1 {
                    eprintln!("{}", bench::row::text(&row));
                }
                column.push(row);
            }
        }
        for column in &columns {
            let middle = bench::Row::medians(column).context("there was no measurement")?;
            sound &= middle.is_sound();
            if arguments.json {
                println!("{}", middle.json());
            } else {
                println!("{}", bench::row::text(&middle));
            }
        }
    }
    Ok(sound)
}

/// The ways of a scenario, in their turns; an error when one was asked for that this machine can't.
fn ways(arguments: &Arguments, start: &Start) -> Result<Vec<Way>> {
    let mut asked = if arguments.way.is_empty() { start.ways.clone() } else { arguments.way.clone() };
    if arguments.compare {
        let others = Way::ASKED.into_iter().filter(|way| matches!(way, Way::Peer(_)));
        asked.extend(others.filter(|way| {
            let lacking = way.lacking();
            if let Some(lacks) = &lacking {
                eprintln!("{}: without {way}: {lacks}", start.name);
            }
            lacking.is_none()
        }));
    }
    if let Some(lacks) = asked.iter().find_map(|way| way.lacking()) {
        bail!("{lacks}");
    }
    let mut ways = Way::ASKED.to_vec();
    ways.retain(|way| asked.contains(way));
    Ok(ways)
}

/// Every turn of these scenarios; a container that is not ready is an error.
fn start_all(arguments: &Arguments, starts: &[Start]) -> Result<()> {
    if !arguments.json && !starts.is_empty() {
        println!("{}", lazy::row::heads());
    }
    for start in starts {
        let ways = ways(arguments, start)?;
        let content = start.image.content()?;
        let mut columns: Vec<Vec<lazy::Row>> = Vec::new();
        for number in 1..=arguments.runs {
            let rows = start
                .run(&content, &ways)
                .with_context(|| format!("{}, turn {number} of {}", start.name, arguments.runs))?;
            columns.resize(rows.len(), Vec::new());
            for (column, row) in columns.iter_mut().zip(rows) {
                if arguments.runs > 1 {
                    eprintln!("{}", lazy::row::text(&row));
                }
                column.push(row);
            }
        }
        for column in &columns {
            let middle = lazy::Row::medians(column).context("there was no turn")?;
            if arguments.json {
                println!("{}", middle.json());
            } else {
                println!("{}", lazy::row::text(&middle));
            }
        }
    }
    Ok(())
}

/// Every turn of these scenarios.
fn read_all(arguments: &Arguments, reads: &[Read]) -> Result<()> {
    if !arguments.json && !reads.is_empty() {
        println!("{}", read::row::heads());
    }
    for read in reads {
        let content = read.content()?;
        let mut columns: Vec<Vec<read::Row>> = Vec::new();
        for number in 1..=arguments.runs {
            let rows =
                read.run(&content).with_context(|| format!("{}, turn {number} of {}", read.name, arguments.runs))?;
            columns.resize(rows.len(), Vec::new());
            for (column, row) in columns.iter_mut().zip(rows) {
                if arguments.runs > 1 {
                    eprintln!("{}", read::row::text(&row));
                }
                column.push(row);
            }
        }
        for column in &columns {
            let middle = read::Row::medians(column).context("there was no turn")?;
            if arguments.json {
                println!("{}", middle.json());
            } else {
                println!("{}", read::row::text(&middle));
            }
        }
    }
    Ok(())
}

fn race_all(arguments: &Arguments, races: &[(Vec<MethodKind>, Scenario)]) -> Result<bool> {
    let (mut sound, mut drawn) = (true, Vec::new());
    if !arguments.json && !races.is_empty() {
        println!("{}", row::heads());
    }
    for (kinds, scenario) in races {
        for &kind in kinds {
            warm_up(scenario, kind)?;
        }
        let content = Content::of(scenario)?;
        let mut columns: Vec<Vec<Row>> = vec![Vec::new(); kinds.len()];
        for number in 1..=arguments.runs {
            let mut turn = Vec::new();
            for &kind in kinds {
                let row = race(scenario, &content, kind)
                    .with_context(|| format!("{}, {kind}, race {number} of {}", scenario.name, arguments.runs))?;
                turn.push(row);
            }
            let direct = turn.iter().find(|row| row.kind == MethodKind::DirectPull).and_then(Row::last);
            for (mut row, column) in turn.into_iter().zip(&mut columns) {
                row.over_direct = row.last().zip(direct).map(|(last, direct)| last / direct);
                if arguments.runs > 1 {
                    eprintln!("{}", row::text(&row));
                }
                column.push(row);
            }
        }
        for mut rows in columns {
            let middle = Row::medians(&rows).context("there was no race")?;
            sound &= middle.is_sound();
            if arguments.json {
                println!("{}", middle.json());
            } else {
                println!("{}", row::text(&middle));
            }
            drawn.extend(rows.pop());
        }
    }
    if let Some(file) = &arguments.plot {
        fs::write(file, plot::svg(&drawn)).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(sound)
}

/// A short race on the same hosts, so that programs and libraries are in memory when it counts.
fn warm_up(scenario: &Scenario, kind: MethodKind) -> Result<()> {
    let mut short = scenario.clone();
    short.size_kib = WARM_UP_KIB.min(scenario.size_kib);
    short.blobs = 1;
    short.events.clear();
    short.arrive_every = 0.0;
    let content = Content::of(&short)?;
    race(&short, &content, kind).with_context(|| format!("warm up {kind}")).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_told_apart_from_a_scenario() {
        let relay = ["lab", "relay", "--list", "l", "--directory", "d", "--from", "10.77.0.2:7500"];
        assert!(matches!(Arguments::try_parse_from(relay).unwrap().part, Some(LabCommand::Relay(_))));
        let scenario = Arguments::try_parse_from(["lab", "gate", "--method", "chain,darter"]).unwrap();
        assert!(scenario.part.is_none());
        assert_eq!(scenario.method, [MethodKind::Chain, MethodKind::Darter]);
    }

    #[test]
    fn a_chain_is_not_raced_where_somebody_is_killed_and_engines_pull_images_alone() {
        let unfit = |kind: MethodKind, name| kind.unfit(&Scenario::open(name).unwrap()).is_some();
        assert!(
            !unfit(MethodKind::Chain, "gate")
                && !unfit(MethodKind::Darter, "killed")
                && unfit(MethodKind::Chain, "killed")
        );
        assert!(
            !unfit(MethodKind::DarterPull, "pull")
                && !unfit(MethodKind::DarterGet, "pull")
                && unfit(MethodKind::DarterPull, "gate")
        );
    }
}
