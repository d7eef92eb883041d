//! Runs as SVG: completion curves, time over the number of nodes, and how far readers in order are behind.

use std::fmt::Write as _;
use std::time::Duration;

use darter_plot::Panel;

use crate::report::Report;
use crate::scenario::Scenario;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 40.0;
/// Nodes that are drawn one by one; more would be one grey area.
const MAX_CURVES: usize = 16;
/// Points on the curve; more than a screen shows.
const STEPS: u32 = 200;

/// Draws when which part of the nodes had finished; a dashed line marks the least time.
pub fn completion(report: &Report, least: Duration) -> String {
    let least = least.as_secs_f64().max(1e-9);
    let last = (report.quantile(1.0).as_secs_f64() / least).max(1.0) * 1.05;
    let x = |over: f64| MARGIN + over / last * (WIDTH - 2.0 * MARGIN);
    let y = |part: f64| HEIGHT - MARGIN - part * (HEIGHT - 2.0 * MARGIN);
    let (left, right, top, bottom, bound) = (x(0.0), x(last), y(1.0), y(0.0), x(1.0));
    let mut points = format!("{left:.1},{bottom:.1}");
    for step in 0..=STEPS {
        let part = f64::from(step) / f64::from(STEPS);
        let over = report.quantile(part).as_secs_f64() / least;
        let _ = write!(points, " {:.1},{:.1}", x(over), y(part));
    }
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<path d="M{left:.1} {top:.1}V{bottom:.1}H{right:.1}" fill="none" stroke="black"/>
<path d="M{bound:.1} {top:.1}V{bottom:.1}" stroke="gray" stroke-dasharray="4"/>
<polyline points="{points}" fill="none" stroke="#1f6feb" stroke-width="2"/>
<text x="{bound:.1}" y="{label:.1}" text-anchor="middle">least time</text>
<text x="{right:.1}" y="{label:.1}" text-anchor="end">{last:.2} times that</text>
<text x="4" y="{top:.1}">all</text>
</svg>
"##,
        label = HEIGHT - MARGIN / 2.0,
    )
}

/// Draws what nodes hold over time, and below it how much of that is of use to a reader in order.
pub fn prefixes(report: &Report, scenario: &Scenario) -> String {
    let panel = |title: &str, value: fn(&(u32, u32)) -> u32| {
        let bytes = |pieces: u32| f64::from(pieces) * scenario.piece_bytes as f64;
        let curve = |node: usize| {
            let points = report.samples.iter().filter_map(|(at, held)| Some((at.as_secs_f64(), held.get(node)?)));
            points.map(|(at, held)| (at, bytes(value(held)))).collect()
        };
        let shown = (1..scenario.nodes.len()).take(MAX_CURVES);
        let bound = scenario.least_time().as_secs_f64();
        Panel {
            title: title.to_owned(),
            size: scenario.bytes(),
            bound,
            curves: shown.map(curve).collect(),
            marks: Vec::new(),
        }
    };
    darter_plot::svg(&[
        panel("received", |(held, _)| *held),
        panel("received without a gap from the first byte on", |(_, prefix)| *prefix),
    ])
}

/// Draws the median, the 99th percentile and the last over the number of nodes, on a logarithmic scale.
pub fn growth(runs: &[(usize, Duration, Report)]) -> String {
    let logs: Vec<f64> = runs.iter().map(|(nodes, ..)| (*nodes as f64).max(1.0).log10()).collect();
    let (from, to) = logs.iter().fold((f64::MAX, f64::MIN), |(from, to), log| (from.min(*log), to.max(*log)));
    let over =
        |run: &(usize, Duration, Report), part| run.2.quantile(part).as_secs_f64() / run.1.as_secs_f64().max(1e-9);
    let most = runs.iter().map(|run| over(run, 1.0)).fold(1.1, f64::max);
    let x = |log: f64| MARGIN + (log - from) / (to - from).max(1e-9) * (WIDTH - 2.0 * MARGIN);
    let y = |over: f64| HEIGHT - MARGIN - (over - 1.0) / (most - 1.0) * (HEIGHT - 2.0 * MARGIN);
    let mut inside = String::new();
    for (name, part, colour) in [("median", 0.5, "#1a7f37"), ("p99", 0.99, "#1f6feb"), ("last", 1.0, "#cf222e")] {
        let mut points = String::new();
        for (run, log) in runs.iter().zip(&logs) {
            let _ = write!(points, "{:.1},{:.1} ", x(*log), y(over(run, part)));
        }
        let Some(run) = runs.last() else { continue };
        let _ = writeln!(
            inside,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            x(to) + 4.0,
            y(over(run, part)),
        );
    }
    for (run, log) in runs.iter().zip(&logs) {
        let below = HEIGHT - MARGIN / 2.0;
        let _ = writeln!(inside, "<text x=\"{:.1}\" y=\"{below:.1}\" text-anchor=\"middle\">{}</text>", x(*log), run.0);
    }
    let mut level = 1.0;
    while level <= most {
        let _ = writeln!(inside, "<text x=\"4\" y=\"{:.1}\">{level:.2}</text>", y(level) + 4.0);
        level += if most < 1.4 { 0.05 } else { 0.25 };
    }
    let (left, right, top, bottom) = (x(from), x(to), y(most), y(1.0));
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>
<path d="M{left:.1} {top:.1}V{bottom:.1}H{right:.1}" fill="none" stroke="black"/>
<text x="{left:.1}" y="20">time over the least time possible, by number of nodes</text>
{inside}</svg>
"##
    )
}
