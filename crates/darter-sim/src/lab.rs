//! Scenarios of `darter-scenario`, those of the laboratory among them, as scenarios of the simulator: what others play, too.
//!
//! Cables carry 1448 bytes of content in a frame of 1514, as the lab counts T*. The seed reads the origin over its own cable. Control
//! messages wait behind data in the shapers' queues; how long, and what sockets hold, was measured in the gate (`ss -tinm` and
//! `tc -s qdisc` on three nodes, see `docs/notes/simulated-sockets.md`). Not simulated: processors that are busy, and the time of joining.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_core::{PieceLength, Place, Rate};
use darter_scenario::{Goal, Scenario as Race};

use crate::Fleet;
use crate::report::Report;
use crate::scenario::{Network, NodeSpec, Scenario, SharedLink};

/// The shaped cables of the lab. A node's queue held 350–400 KB at 200 Mbit/s, about 15 ms.
const NETWORK: Network = Network {
    latency: Duration::from_micros(100),
    rack_latency: Duration::ZERO,
    zone_latency: Duration::ZERO,
    queue: Duration::from_millis(15),
    grain: None,
    unsent: None,
    window: 256 << 10,
    tells_begun: false,
};

/// A lab scenario for the simulator.
///
/// # Errors
/// For several blobs, which the simulator doesn't have, and for what can't be read.
pub fn scenario(lab: &Race) -> Result<Scenario> {
    ensure!(lab.blobs == 1, "{} has {} blobs, and the simulator runs one", lab.name, lab.blobs);
    let piece = PieceLength::for_blob(lab.size());
    let place = |second: bool| Place { rack: if second { "b" } else { "a" }.to_owned(), ..Place::default() };
    let rate = |rate: Option<Rate>| carried(rate.context("a cable has a rate")?);
    let seed = lab.seed_link()?;
    let mut nodes = vec![NodeSpec {
        place: place(false),
        up: rate(seed.up)?,
        down: rate(seed.down)?,
        joins: Some(Duration::ZERO),
        holds: lab.warm,
    }];
    for node in 0..lab.nodes as usize {
        let cable = lab.node_link(node)?;
        nodes.push(NodeSpec {
            place: place(lab.is_in_second_rack(node)),
            up: rate(cable.up)?,
            down: rate(cable.down)?,
            joins: Some(lab.arrival(node)?),
            holds: false,
        });
    }
    let links = lab.rack.iter().map(|link| {
        let rate = carried(link.rate.parse()?)?;
        Ok(SharedLink { place: place(true), rate })
    });
    let origin = rate(lab.origin_link()?.up)?.min(rate(seed.down)?);
    Ok(Scenario {
        nodes,
        events: lab.timeline()?,
        links: links.collect::<Result<_>>()?,
        origin: Some(origin),
        network: NETWORK,
        ..Scenario::equal(0, piece.count(lab.size()), piece.bytes(), origin)
    })
}

/// Content that a cable of this rate carries.
fn carried(rate: Rate) -> Result<Rate> {
    let bytes = rate.bytes_per_second() as f64 * 1448.0 / 1514.0;
    Rate::from_bytes_per_second(bytes as u64).context("a cable's rate is not zero")
}

/// The head of the table of [`row`], in Markdown: the lab's columns, as far as they exist here.
pub fn heads() -> String {
    let heads = "| scenario | T* | first | median | p99 | last | last/T* | worst own | origin | seed | link | in/node | lag, MiB | done | goal |";
    let columns = heads.matches('|').count() - 1;
    format!("{heads}\n|{}", " --- |".repeat(columns))
}

/// The most that nodes held behind the first piece that they lacked, in MiB.
pub fn lag_mib(scenario: &Scenario, report: &Report) -> f64 {
    report.lag_quantile(1.0, scenario.pieces) * scenario.bytes() as f64 / f64::from(1 << 20)
}

/// The head of the table of [`draws`].
pub fn draw_heads() -> &'static str {
    "\
| scenario | runs | last/T*, median | least | 90 % | most | seed | lag, MiB, median | most | unfinished |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
}

/// So many runs of a scenario that differ by chance alone, as a row.
///
/// # Errors
/// For what can't be read.
pub fn draws(lab: &Race, scenario: &Scenario, count: u64) -> Result<String> {
    let (mut lasts, mut copies, mut lags, mut unfinished) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let mut scenario = scenario.clone();
    for _ in 0..count {
        let report = Fleet::new(&scenario).run();
        let reached = reached(lab, &scenario, &report)?;
        lasts.extend(reached.last_over_bound);
        copies.extend(reached.seed_copies);
        lags.push(lag_mib(&scenario, &report));
        unfinished += report.unfinished.len();
        scenario.seed += 1;
    }
    for list in [&mut lasts, &mut copies, &mut lags] {
        list.sort_by(f64::total_cmp);
    }
    let at = |list: &[f64], part: f64| list[(part * (list.len() - 1) as f64).round() as usize];
    Ok(format!(
        "| {} | {count} | {:.3} | {:.3} | {:.3} | {:.3} | {:.3} | {:.1} | {:.1} | {unfinished} |",
        lab.name,
        at(&lasts, 0.5),
        at(&lasts, 0.0),
        at(&lasts, 0.9),
        at(&lasts, 1.0),
        at(&copies, 0.5),
        at(&lags, 0.5),
        at(&lags, 1.0),
    ))
}

/// One run's row. Times are seconds since the start of the first node, copies are content without headers.
///
/// # Errors
/// For what can't be read.
pub fn row(lab: &Race, scenario: &Scenario, report: &Report) -> Result<String> {
    let mut ends = Vec::new();
    let mut worst: f64 = 0.0;
    for (node, took) in report.finished.iter().skip(1).enumerate() {
        let Some(took) = took.map(|took| took.as_secs_f64()) else { continue };
        ends.push(lab.arrival(node)?.as_secs_f64() + took);
        worst = worst.max(took / lab.own_bound(node)?);
    }
    ends.sort_by(f64::total_cmp);
    let (bound, last) = (lab.bound()?, report.last.as_secs_f64());
    let rank =
        |part: f64| ends.get(((ends.len() as f64 * part).ceil() as usize).saturating_sub(1)).copied().unwrap_or(0.0);
    let copies = |pieces: u64| pieces as f64 / f64::from(scenario.pieces);
    let link = report.crossings.iter().find(|(rack, _)| rack == "b").map(|(_, pieces)| copies(*pieces));
    let received = copies(report.sent_pieces) / f64::from(lab.nodes);
    let reached = reached(lab, scenario, report)?;
    let goal = lab.goal.known_to(&reached);
    let goal = goal.missed(&reached).map(|missed| if missed.is_empty() { "met".to_owned() } else { missed.join(", ") });
    let (done, missing) = (ends.len(), report.unfinished.len());
    Ok(format!(
        "| {} | {bound:.2} | {:.2} | {:.2} | {:.2} | {last:.2} | {:.3} | {worst:.3} | {:.2} | {:.3} | {} | {received:.3} | {:.1} | {done}/{} | {} |",
        lab.name,
        rank(0.0),
        rank(0.5),
        rank(0.99),
        last / bound,
        copies(report.origin_pieces),
        copies(report.seed_pieces),
        lab.rack.as_ref().and(link).map_or_else(|| "-".to_owned(), |copies| format!("{copies:.3}")),
        lag_mib(scenario, report),
        done + missing,
        goal.unwrap_or_else(|| "-".to_owned()),
    ))
}

/// The figures of a run that scenarios have goals for, as far as the simulator knows.
///
/// # Errors
/// For what can't be read.
pub fn reached(lab: &Race, scenario: &Scenario, report: &Report) -> Result<Goal> {
    let copies = |pieces: u64| Some(pieces as f64 / f64::from(scenario.pieces));
    let (bound, last) = (lab.bound()?, report.last.as_secs_f64());
    let median = report.quantile(0.5).as_secs_f64();
    Ok(Goal {
        last_over_bound: Some(last / bound),
        last_after_bound: Some(last - bound),
        last_over_median: Some(last / median),
        origin_copies: copies(report.origin_pieces),
        seed_copies: copies(report.seed_pieces),
        ..Goal::default()
    })
}
