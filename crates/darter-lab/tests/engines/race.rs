//! `cargo lab` itself: a small race, on a machine that may be busy with other things.

use anyhow::{Context, Result, ensure};
use darter_lab::race::content::Content;
use darter_lab::race::method::Kind;
use darter_lab::race::{Scenario, plot, race, row};

use crate::world::World;

const SCENARIO: &str = r#"
about = "three nodes in two racks; one is killed"
goal = "all others get the right bytes"
size_kib = 2048
blobs = 2
nodes = 3
rate = "50mbit"
seed_rate = "50mbit"
origin_rate = "100mbit"
rack = { rate = "50mbit" }
kill = [{ node = 1, at = 0.3 }]
"#;

pub(crate) fn a_small_race_gives_a_sane_row(_world: &World) -> Result<()> {
    let scenario = Scenario::parse("small", SCENARIO)?;
    let content = Content::generate(scenario.blobs, scenario.blob_size())?;
    let result = race(&scenario, &content, Kind::Darter)?;
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
    ensure!(row::text(&result).contains("2/2") && plot::svg(&[result]).contains("<polyline"), "a row can't be shown");
    Ok(())
}
