//! `darter-sim`: one swarm in virtual time, and how near it came to the least time possible.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use darter_core::Rate;
use darter_sim::{Fleet, Scenario, plot};

/// Simulates one blob's way to a fleet and compares it with the least time possible.
#[derive(Debug, Parser)]
#[command(name = "darter-sim", version)]
struct Options {
    /// How many nodes want the blob.
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// How many pieces the blob has.
    #[arg(long, default_value_t = 1024)]
    pieces: u32,
    /// Bytes in each piece.
    #[arg(long, default_value_t = 1 << 20)]
    piece_bytes: u64,
    /// Rate of each node, up and down.
    #[arg(long, default_value = "125MB/s")]
    rate: Rate,
    /// Rate of the seed; a node's rate if not given.
    #[arg(long)]
    seed_rate: Option<Rate>,
    /// Rate of the origin; without it the seed holds the blob from the start.
    #[arg(long)]
    origin_rate: Option<Rate>,
    /// Time of a message from node to node, in microseconds.
    #[arg(long, default_value_t = 200)]
    latency: u64,
    /// How long a node gathers news for the lead before it tells, in milliseconds.
    #[arg(long, default_value_t = 10)]
    tell_lead: u64,
    /// Spreads the nodes over so many racks; the seed stands in the first.
    #[arg(long, default_value_t = 1)]
    racks: usize,
    /// Whence all randomness comes: the same number gives the same run.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Draws the part of nodes that finished over time.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let mut scenario = Scenario::equal(options.nodes, options.pieces, options.piece_bytes, options.rate);
    scenario.nodes[0].up = options.seed_rate.unwrap_or(options.rate);
    scenario.origin = options.origin_rate;
    scenario.latency = Duration::from_micros(options.latency);
    scenario.tell_lead_pause = Duration::from_millis(options.tell_lead);
    scenario.seed = options.seed;
    for (index, node) in scenario.nodes.iter_mut().enumerate().filter(|_| options.racks > 1) {
        node.place.rack = format!("r{}", index % options.racks);
    }
    let least = scenario.least_time().as_secs_f64();
    let report = Fleet::new(&scenario).run();
    let over = |part| report.quantile(part).as_secs_f64() / least;
    let copies = |pieces: u64| pieces as f64 / f64::from(scenario.pieces.max(1));
    let crossed: u64 = report.crossings.iter().map(|(_, pieces)| pieces).sum();
    if let Some(file) = &options.plot {
        std::fs::write(file, plot::completion(&report, scenario.least_time()))?;
    }
    let finished = report.finished.iter().flatten().count();
    let rows = [
        ("nodes", options.nodes as f64),
        ("finished", finished as f64),
        ("least_seconds", least),
        ("p50_over_least", over(0.5)),
        ("p99_over_least", over(0.99)),
        ("last_over_least", over(1.0)),
        ("seed_copies", copies(report.seed_pieces)),
        ("origin_copies", copies(report.origin_pieces)),
        ("cross_zone_copies", copies(crossed)),
        ("duplicates_over_size", copies(report.duplicates) / options.nodes.max(1) as f64),
        ("tracker_messages_per_second", report.tracker_messages as f64 / report.ended.as_secs_f64().max(1e-9)),
        ("peak_memory_mb", peak_memory_mb()),
        ("events", report.events as f64),
    ];
    if options.json {
        let object: serde_json::Map<_, _> =
            rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        println!("{}", serde_json::Value::Object(object));
        return Ok(());
    }
    for (key, value) in rows {
        println!("{key:<28} {value:.3}");
    }
    Ok(())
}

/// The most memory that the simulator had so far; zero where the system doesn't tell.
fn peak_memory_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1e3
}
