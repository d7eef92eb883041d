//! `cargo lab` itself: a small race and small measurements, on a machine that may be busy with other things.

use anyhow::{Context, Result, ensure};
use darter_lab::bench::{self, Bench};
use darter_lab::race::content::Content;
use darter_lab::race::kind::MethodKind;
use darter_lab::race::{Scenario, plot, race, row};

use crate::world::World;

/// The victim needs more than a second to be done, and is killed at its beginning.
const SCENARIO: &str = r#"
about = "three nodes in two racks; one is killed"
size_kib = 2048
blobs = 2
nodes = 3
rate = "25mbit"
seed_rate = "25mbit"
origin_rate = "50mbit"
rack = { rate = "25mbit" }
events = [{ at = "10%", kill = 1 }]
goal = { last_over_bound = 1000.0, seed_copies = 0.5 }
"#;

pub(crate) fn a_small_race_gives_a_sane_row(_world: &World) -> Result<()> {
    let scenario = Scenario::parse("small", SCENARIO)?;
    let content = Content::of(&scenario)?;
    let result = race(&scenario, &content, MethodKind::Darter)?;
    ensure!(result.wanted == 2 && result.is_sound(), "a node is missing, or has wrong bytes: {}", result.json());
    let last = result.last().context("the last node was done")?;
    ensure!(last >= result.bound * 0.98, "{last} s is faster than the cables allow: {} s", result.bound);
    ensure!((0.99..1.01).contains(&result.origin_copies), "the origin was not read once: {}", result.json());
    ensure!(result.seed_copies > 0.9, "the seed sent less than there is: {}", result.json());
    ensure!(
        result.link_copies.is_some_and(|copies| copies > 0.9),
        "nothing came to the second rack: {}",
        result.json()
    );
    ensure!(result.cpu_per_gb > 0.0 && result.peak_memory > 1 << 20, "nothing was counted: {}", result.json());
    let missed = result.missed().context("the race has a goal")?;
    ensure!(missed.len() == 1 && missed[0].starts_with("seed "), "the goal was judged wrong: {missed:?}");
    ensure!(row::text(&result).contains("2/2") && plot::svg(&[result]).contains("<polyline"), "a row can't be shown");
    Ok(())
}

/// Layers that are there one after the other, so that there is a last one.
const IMAGE: &str = r#"
about = "two engines pull a small image"
size_kib = 1024
blobs = 3
layers = true
nodes = 2
rate = "50mbit"
seed_rate = "50mbit"
origin_rate = "50mbit"
goal = { lag_over_bound = 1000.0, origin_copies = 1.1 }
"#;

pub(crate) fn engines_unpack_what_they_pulled(_world: &World) -> Result<()> {
    let scenario = Scenario::parse("image", IMAGE)?;
    let content = Content::of(&scenario)?;
    for (kind, copies) in [(MethodKind::DirectPull, 2.0), (MethodKind::DarterPull, 1.0)] {
        let result = race(&scenario, &content, kind)?;
        ensure!(result.wanted == 2 && result.is_sound(), "an engine lacks files: {}", result.json());
        let read = result.origin_copies;
        ensure!((copies - 0.01..copies + 0.1).contains(&read), "{kind} read {read} copies of the registry");
        ensure!(result.lag.is_some() == kind.is_darter(), "the lag is that of agents: {}", result.json());
        ensure!(result.missed() == kind.is_darter().then(Vec::new), "the goal was judged wrong: {}", result.json());
    }
    Ok(())
}

/// Measures in small, and gives the rows.
fn measured(kind: &str, files: u32, size_kib: u64) -> Result<Vec<bench::Row>> {
    let text = format!("kind = \"{kind}\"\nabout = \"small\"\nfiles = {files}\nsize_kib = {size_kib}\nrounds = 1");
    let bench = Bench::parse("small", &text)?;
    let rows = bench.run(&bench.content()?)?;
    for row in &rows {
        ensure!(row.wanted == u64::from(files) && row.is_sound(), "wrong bytes: {}", row.json());
        ensure!(bench::row::text(row).contains(&row.method), "a row can't be shown: {}", row.json());
    }
    Ok(rows)
}

pub(crate) fn a_local_hit_goes_out_by_sendfile(_world: &World) -> Result<()> {
    // The measurement itself makes sure of sendfile.
    let rows = measured("hit", 1, 32 * 1024)?;
    ensure!(rows.len() == 2 && rows[1].cpu_over_plain.is_some(), "hit has not both rows");
    Ok(())
}

pub(crate) fn a_tiny_file_takes_one_question_to_the_seed(_world: &World) -> Result<()> {
    let rows = measured("tiny", 20, 16)?;
    ensure!(rows.len() == 3, "tiny has not all rows");
    for row in &rows[1..] {
        // A busy machine may be too slow for one of them, and then asks a second question.
        let trips = row.round_trips.context("no round trips were counted")?;
        ensure!((1.0..1.5).contains(&trips), "{trips} round trips for a file: {}", row.json());
    }
    Ok(())
}

pub(crate) fn a_pair_moves_a_blob_from_store_to_store(_world: &World) -> Result<()> {
    let rows = measured("pair", 1, 32 * 1024)?;
    ensure!(rows.len() == 2 && rows.iter().all(|row| row.seed_cpu.is_some()), "pair has not both rows");
    Ok(())
}
