//! `darter-sim`: swarms in virtual time, and how near they come to the least time possible.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use darter_scenario::Scenario as Race;
use darter_sim::options::FleetOptions;
use darter_sim::{Fleet, Report, Scenario, lab, plot};
use darter_swarm::Tuning;
use serde_json::{Map, Value};

/// Simulates one blob's way to a fleet and compares it with the least time possible.
#[derive(Debug, Parser)]
#[command(name = "cargo sim", bin_name = "cargo sim", version)]
struct Options {
    /// Scenarios of `cargo lab`, by name or as a .toml file, instead of a fleet of equal nodes
    lab: Vec<String>,
    /// How many nodes want the blob; several numbers, with commas, make a table.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    nodes: Vec<usize>,
    #[command(flatten)]
    fleet: FleetOptions,
    /// How long a node gathers news for the lead before it tells, in milliseconds, instead of what agents do.
    #[arg(long)]
    tell_lead: Option<u64>,
    /// Another value for a constant: in_all, in_all_large (in a swarm too large for a full mesh), per_holder, asks, neighbours, few_members,
    /// neighbours_inside and neighbours_outside where there are several racks, one_in_beyond, slow_percent, slow_delivery, reader_lag in bytes, reader_lag_part, reader_near, reader_window, reader_window_large, common_holders, common_holders_in_small, common_pauses, ask_late and tell_few in milliseconds, or tell_each in microseconds. For networks: unsent,
    /// window or grain in bytes, queue in microseconds, begun (0 or 1).
    #[arg(long = "set", value_name = "NAME=NUMBER")]
    set: Vec<String>,
    /// Runs each scenario of the laboratory with this many numbers from --seed on, and prints the median and the worst.
    #[arg(long, default_value_t = 1)]
    draws: u64,
    /// Prints JSON, an object a line.
    #[arg(long)]
    json: bool,
    /// Draws the part of nodes that finished over time; for several numbers of nodes, time over their number.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Draws what the first nodes hold over time, and how much of that has no gap before it.
    #[arg(long, value_name = "FILE.svg")]
    plot_prefix: Option<PathBuf>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.lab.is_empty() { fleets(&options) } else { labs(&options) }
}

fn labs(options: &Options) -> Result<()> {
    if options.draws > 1 {
        println!("{}", lab::draw_heads());
    } else {
        println!("{}", lab::heads());
    }
    for name in &options.lab {
        let lab = Race::open(name)?;
        let mut scenario = lab::scenario(&lab)?;
        scenario.seed = options.fleet.seed;
        if options.fleet.read {
            scenario.read_in_order();
        }
        adjust(&mut scenario, options)?;
        if options.draws > 1 {
            println!("{}", lab::draws(&lab, &scenario, options.draws)?);
        } else {
            println!("{}", lab::row(&lab, &scenario, &Fleet::new(&scenario).run())?);
        }
    }
    Ok(())
}

fn fleets(options: &Options) -> Result<()> {
    let mut drawn = Vec::new();
    for &nodes in &options.nodes {
        let mut scenario = options.fleet.scenario(nodes);
        adjust(&mut scenario, options)?;
        scenario.sample_every = options.plot_prefix.as_ref().map(|_| scenario.least_time() / 200);
        let report = Fleet::new(&scenario).run();
        if let Some(file) = &options.plot_prefix {
            fs::write(file, plot::prefixes(&report, &scenario)).with_context(|| format!("write {}", file.display()))?;
        }
        let rows = rows(nodes, &scenario, &report);
        if options.json {
            let object: Map<_, _> = rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
            println!("{}", Value::Object(object));
        } else if options.nodes.len() > 1 {
            if drawn.is_empty() {
                println!("{TABLE}");
            }
            println!("{}", line(&rows));
        } else {
            for (key, value) in &rows {
                println!("{key:<28} {value:.3}");
            }
        }
        drawn.push((nodes, scenario.least_time(), report));
    }
    if let Some(file) = &options.plot {
        let picture = match &drawn[..] {
            [(_, least, report)] => plot::completion(report, *least),
            several => plot::growth(several),
        };
        fs::write(file, picture).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// Takes over what the command line says otherwise.
fn adjust(scenario: &mut Scenario, options: &Options) -> Result<()> {
    scenario.tell_lead_pause = options.tell_lead.map(Duration::from_millis);
    for text in &options.set {
        let wrong = || anyhow!("{text:?} is not NAME=NUMBER with a name that --help knows");
        let (name, number) = text.split_once('=').ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let tuning: &mut Tuning = &mut scenario.tuning;
        let network = &mut scenario.network;
        match name {
            "in_all" => (tuning.in_all, tuning.in_all_large) = (number, number),
            "in_all_large" => tuning.in_all_large = number,
            "per_holder" => tuning.per_holder = number,
            "asks" => tuning.asks = number,
            "slow_percent" => tuning.slow_below = f64::from(number) / 100.0,
            "few_members" => tuning.few_members = number,
            "neighbours" => tuning.neighbours = number,
            "reader_lag" => tuning.reader_lag = number.into(),
            "reader_lag_part" => tuning.reader_lag_part = number.max(1),
            "reader_near" => tuning.reader_near = number,
            "reader_window" => (tuning.reader_window, tuning.reader_window_large) = (number, number),
            "reader_window_large" => tuning.reader_window_large = number,
            "unsent" => network.unsent = Some(number),
            "window" => network.window = number.into(),
            "grain" => network.grain = Some(number.into()),
            "queue" => network.queue = Duration::from_micros(number.into()),
            "tell_each" => tuning.tell_each = Duration::from_micros(number.into()),
            "common_holders" => tuning.common_holders = u16::try_from(number).unwrap_or(u16::MAX),
            "common_holders_in_small" => tuning.common_holders_in_small = u16::try_from(number).unwrap_or(u16::MAX),
            "common_pauses" => tuning.common_pauses = number,
            "tell_few" => tuning.tell_few = Duration::from_millis(number.into()),
            "ask_late" => tuning.ask_late = Duration::from_millis(number.into()),
            "slow_delivery" => tuning.slow_delivery = number,
            "neighbours_inside" => tuning.neighbours_inside = number,
            "neighbours_outside" => tuning.neighbours_outside = number,
            "one_in_beyond" => tuning.one_in_beyond = number,
            "begun" => network.tells_begun = number != 0,
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

/// The figures of a run, for people and programs.
fn rows(nodes: usize, scenario: &Scenario, report: &Report) -> [(&'static str, f64); 22] {
    let least = scenario.least_time().as_secs_f64();
    let over = |part| report.quantile(part).as_secs_f64() / least;
    let copies = |pieces: u64| pieces as f64 / f64::from(scenario.wanted().max(1));
    let crossed: u64 = report.crossings.iter().map(|(_, pieces)| pieces).sum();
    let (mean, peak) = report.tracker_rate();
    let hashes = report.lead_hash_bytes as f64 / scenario.bytes().max(1) as f64;
    [
        ("nodes", nodes as f64),
        ("finished", report.finished.iter().flatten().count() as f64),
        ("least_seconds", least),
        ("p50_over_least", over(0.5)),
        ("p99_over_least", over(0.99)),
        ("last_over_least", over(1.0)),
        ("most_lag_over_size", report.lag_quantile(1.0, scenario.pieces)),
        ("most_lag_mib", lab::lag_mib(scenario, report)),
        ("seed_copies", copies(report.seed_pieces) + hashes),
        ("of_which_hashes", hashes),
        ("origin_copies", copies(report.origin_pieces)),
        ("cross_rack_copies", copies(crossed)),
        ("cross_zone_copies", copies(report.zone_crossings)),
        ("duplicates_over_size", copies(report.duplicates) / nodes.max(1) as f64),
        ("tracker_messages_per_second", mean),
        ("tracker_messages_peak", peak),
        ("tracker_answers_per_second", report.tracker_notices as f64 / report.ended.as_secs_f64().max(1e-9)),
        ("tracker_memory_mb", report.tracker_bytes as f64 / 1e6),
        ("virtual_seconds", report.ended.as_secs_f64()),
        ("peak_memory_mb", peak_memory_mb()),
        ("events", report.events as f64),
        ("messages", report.messages as f64),
    ]
}

const TABLE: &str = "\
| nodes | p50 / T* | p99 / T* | last / T* | copies by the seed | received twice | lead hears messages/s, mean | peak | lead's memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |";

fn line(rows: &[(&'static str, f64)]) -> String {
    let of = |name: &str| rows.iter().find(|(key, _)| *key == name).map_or(0.0, |(_, value)| *value);
    format!(
        "| {} | {:.3} | {:.3} | {:.3} | {:.3} | {:.1} % | {:.0} | {:.0} | {:.2} MB |",
        of("nodes"),
        of("p50_over_least"),
        of("p99_over_least"),
        of("last_over_least"),
        of("seed_copies"),
        of("duplicates_over_size") * 100.0,
        of("tracker_messages_per_second"),
        of("tracker_messages_peak"),
        of("tracker_memory_mb"),
    )
}

/// The most memory that the simulator had so far; zero where the system doesn't tell.
fn peak_memory_mb() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1e3
}
