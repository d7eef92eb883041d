//! The live picture: a line for each member, which shows how much it holds of each part of the file. If standard error is no terminal, one summary line per second
//! is printed.

use std::time::Duration;

use darter_api::Progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::{output, units};

/// How often the picture is drawn.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// The width of a map in characters: together with the rest of the line it fits into 80 columns.
const MAP_WIDTH: usize = 48;

/// The characters for a share, from none to all, in the steps of [`Progress::map`].
const SHADES: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The content of one line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    /// How much of each part of the file is held, from 0 to 8.
    pub(super) map: Vec<u8>,
    /// Bytes held.
    pub(super) held: u64,
    /// Bytes per second, received.
    pub(super) rate: u64,
}

impl Row {
    /// A row for an agent, from its status.
    pub(super) fn of_progress(progress: &Progress) -> Self {
        let map = progress.map.bytes().map(|digit| digit.wrapping_sub(b'0').min(8)).collect();
        Self { map, held: progress.held_bytes, rate: if progress.complete { 0 } else { progress.rate } }
    }

    /// A row for a download that receives the file in order.
    pub(super) fn in_order(held: u64, length: u64, rate: u64) -> Self {
        let eighths = (held * MAP_WIDTH as u64 * 8).checked_div(length).unwrap_or(0);
        let map = (0..MAP_WIDTH as u64).map(|cell| eighths.saturating_sub(cell * 8).min(8) as u8).collect();
        Self { map, held, rate }
    }

    fn text(&self, length: u64) -> String {
        let percent = units::percent(self.held, length);
        let rate = if self.rate == 0 { String::new() } else { units::rate(self.rate) };
        format!("{} {percent:>3} %  {rate:>10}", drawn(&self.map))
    }
}

/// A map, reduced to the width that fits; each character shows the mean of its parts.
fn drawn(map: &[u8]) -> String {
    let cell = |at: usize| {
        if map.is_empty() {
            return SHADES[0];
        }
        let from = at * map.len() / MAP_WIDTH;
        let to = ((at + 1) * map.len()).div_ceil(MAP_WIDTH).clamp(from + 1, map.len());
        let part = &map[from..to];
        let sum: usize = part.iter().map(|share| usize::from(*share)).sum();
        SHADES[sum / part.len()]
    };
    (0..MAP_WIDTH).map(cell).collect()
}

/// All lines.
pub(super) struct Picture {
    lines: Vec<ProgressBar>,
    /// Keeps the lines together on the screen.
    _all: MultiProgress,
    length: u64,
    started: Instant,
    /// Used without a terminal: the second in which the last line was written.
    last_line: Option<u64>,
    /// For each member, how many bytes it held over time: pairs of seconds since the start, and bytes.
    curves: Vec<Vec<(f64, f64)>>,
}

impl Picture {
    /// A picture of these members. Draws nothing if `quiet` is true.
    pub(super) fn new(names: &[String], length: u64, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let all = MultiProgress::with_draw_target(target);
        let style = ProgressStyle::with_template("{prefix:<9}{msg}").expect("the template is well formed");
        let lines = names.iter().map(|name| {
            let line = all.add(ProgressBar::new(length).with_style(style.clone()).with_prefix(name.clone()));
            line.set_message(Row::default().text(length));
            line
        });
        let lines: Vec<_> = lines.collect();
        let no_screen = all.is_hidden() && !quiet;
        let curves = vec![vec![(0.0, 0.0)]; lines.len()];
        Self { lines, _all: all, length, started: Instant::now(), last_line: no_screen.then_some(0), curves }
    }

    /// Draws the rows, one for each member.
    pub(super) fn draw(&mut self, rows: &[Row]) {
        for (line, row) in self.lines.iter().zip(rows) {
            line.set_message(row.text(self.length));
        }
        let seconds = self.started.elapsed().as_secs_f64();
        for (curve, row) in self.curves.iter_mut().zip(rows) {
            // A member that was too busy to answer gets no point.
            if curve.last().is_none_or(|(_, held)| row.held as f64 >= *held) {
                curve.push((seconds, row.held as f64));
            }
        }
        let now = seconds as u64;
        if self.last_line.is_some_and(|last| now > last) {
            self.last_line = Some(now);
            output::complain(&format!("{now:>4} s  {}", summed_up(rows, self.length)));
        }
    }

    /// Leaves the last state on the screen. Returns each member's curve.
    pub(super) fn finish(self) -> Vec<Vec<(f64, f64)>> {
        for line in &self.lines {
            line.abandon();
        }
        self.curves
    }
}

fn summed_up(rows: &[Row], length: u64) -> String {
    let shares = rows.iter().map(|row| units::percent(row.held, length));
    let rate: u64 = rows.iter().map(|row| row.rate).sum();
    let (least, most) = (shares.clone().min().unwrap_or(0), shares.max().unwrap_or(0));
    format!("each has {least}-{most} %, {} altogether", units::rate(rate))
}
