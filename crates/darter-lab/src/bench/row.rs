//! Results of measurements: a row for each method, medians of several, and the table.
//!
//! In a circle with `bench`, on purpose: a row knows what is aimed at, and a goal what a row misses.

use serde_json::{Value, json};

use crate::bench::fleet::Taken;
use crate::bench::{Bench, Goal};
use crate::race::row::BUSY;
use crate::table::{self, median};

/// The result of one method, or the medians of several measurements.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The server.
    pub method: String,
    /// Measurements behind this row.
    pub runs: usize,
    /// Files read.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// CPU seconds, user and system, of the process that served, or in a pair of the one that fetched.
    pub cpu: f64,
    /// CPU seconds of the seed, if there was one.
    pub seed_cpu: Option<f64>,
    /// CPU per gigabyte over nginx's.
    pub cpu_over_plain: Option<f64>,
    /// Milliseconds per file above what nginx takes.
    pub over_plain_ms: Option<f64>,
    /// Questions per file that the node waited for its seed to answer.
    pub round_trips: Option<f64>,
    /// Control messages per file between node and seed, both ways.
    pub messages: Option<f64>,
    /// Most bytes resident in any one process.
    pub peak_memory: u64,
    /// Share of the machine's CPU that was busy.
    pub busy: f64,
    /// Files with the right digest, of those that were to have it.
    pub right: u64,
    /// The nodes that were to have the content.
    pub wanted: u64,
    /// Darter's goal.
    pub goal: Option<Goal>,
}

impl Row {
    /// A row without results.
    pub(crate) fn new(bench: &Bench, method: &str) -> Self {
        let (files, size) = (u64::from(bench.files * bench.rounds), bench.size_kib * 1024);
        Self {
            scenario: bench.name.clone(),
            method: method.to_owned(),
            runs: 1,
            files,
            bytes: files * size,
            wanted: u64::from(bench.files),
            ..Self::default()
        }
    }

    /// Takes over what a reading came to.
    pub(crate) fn take(&mut self, taken: &Taken) {
        self.seconds = taken.seconds;
        self.busy = taken.busy;
        self.cpu = taken.ledger.cpu();
        self.peak_memory = taken.ledger.peak();
    }

    /// True if all files had the right digests.
    pub fn is_sound(&self) -> bool {
        self.right == self.wanted
    }

    /// Gigabytes a second.
    pub fn gb_per_second(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.seconds
    }

    /// CPU seconds per gigabyte of the process that served or fetched.
    pub fn cpu_per_gb(&self) -> f64 {
        self.cpu / (self.bytes as f64 / 1e9)
    }

    /// Milliseconds per file.
    pub fn ms_per_file(&self) -> f64 {
        self.seconds * 1e3 / self.files as f64
    }

    fn missed(&self) -> Option<Vec<String>> {
        self.goal.as_ref()?.missed(self)
    }

    /// The median of each value on its own; the least count of right files.
    pub fn medians(rows: &[Self]) -> Option<Self> {
        let mut middle = rows.first()?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| median(rows.iter().map(value).collect());
        let maybe = |has: Option<f64>, value: &dyn Fn(&Self) -> Option<f64>| {
            has.map(|_| of(&|row| value(row).unwrap_or(f64::INFINITY)))
        };
        middle.runs = rows.len();
        middle.seconds = of(&|row| row.seconds);
        middle.cpu = of(&|row| row.cpu);
        middle.seed_cpu = maybe(middle.seed_cpu, &|row| row.seed_cpu);
        middle.cpu_over_plain = maybe(middle.cpu_over_plain, &|row| row.cpu_over_plain);
        middle.over_plain_ms = maybe(middle.over_plain_ms, &|row| row.over_plain_ms);
        middle.round_trips = maybe(middle.round_trips, &|row| row.round_trips);
        middle.messages = maybe(middle.messages, &|row| row.messages);
        middle.peak_memory = of(&|row| row.peak_memory as f64) as u64;
        middle.busy = of(&|row| row.busy);
        middle.right = rows.iter().map(|row| row.right).min()?;
        Some(middle)
    }

    /// For programs. Seconds, bytes and ratios.
    pub fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "method": self.method,
            "runs": self.runs,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "gb_per_second": self.gb_per_second(),
            "ms_per_file": self.ms_per_file(),
            "over_plain_ms": self.over_plain_ms,
            "cpu_seconds": self.cpu,
            "cpu_seconds_per_gb": self.cpu_per_gb(),
            "seed_cpu_seconds": self.seed_cpu,
            "cpu_over_plain": self.cpu_over_plain,
            "round_trips_per_file": self.round_trips,
            "control_messages_per_file": self.messages,
            "peak_memory": self.peak_memory,
            "busy": self.busy,
            "files_wanted": self.wanted,
            "files_right": self.right,
            "goal": self.goal.as_ref().map(Goal::text),
            "goal_met": self.missed().map(|missed| missed.is_empty()),
            "goal_missed": self.missed(),
        })
    }

    fn cells(&self) -> Vec<String> {
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        vec![
            self.scenario.clone(),
            self.method.clone(),
            self.runs.to_string(),
            self.files.to_string(),
            format!("{:.2}", self.bytes as f64 / 1e9),
            format!("{:.2}", self.seconds),
            format!("{:.2}", self.gb_per_second()),
            format!("{:.2}", self.ms_per_file()),
            or_dash(self.over_plain_ms),
            format!("{:.3}", self.cpu_per_gb()),
            self.seed_cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.3}", cpu / (self.bytes as f64 / 1e9))),
            format!("{:.2}", self.cpu * 1e3 / self.files as f64),
            or_dash(self.cpu_over_plain),
            or_dash(self.round_trips),
            or_dash(self.messages),
            format!("{:.0}", self.peak_memory as f64 / 1e6),
            format!("{:.2}{}", self.busy, if self.busy > BUSY { "!" } else { "" }),
            format!("{}/{}", self.right, self.wanted),
            table::verdict(self.missed().as_deref()),
        ]
    }
}

const HEADS: [&str; 19] = [
    "scenario",
    "method",
    "runs",
    "files",
    "GB",
    "seconds",
    "GB/s",
    "ms/file",
    "+ms/file",
    "CPU s/GB",
    "seed s/GB",
    "CPU ms/file",
    "CPU/plain",
    "trips/file",
    "msgs/file",
    "peak MB",
    "busy",
    "right",
    "goal",
];

/// The table's two head lines, in Markdown.
pub fn heads() -> String {
    table::heads(&HEADS)
}

/// One row's line, in Markdown.
pub fn text(row: &Row) -> String {
    table::line(&HEADS, &row.cells())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_hide_no_failure_and_goals_are_judged_by_them() {
        let text = "kind = \"tiny\"\nabout = \"x\"\nsize_kib = 1\nfiles = 2\ngoal = { over_plain_ms = 3.0 }";
        let bench = Bench::parse("small", text).unwrap();
        let row = |over: f64, right| {
            let row = Row::new(&bench, "darter");
            Row { over_plain_ms: Some(over), seconds: 1.0, right, goal: Some(bench.goal.clone()), ..row }
        };
        let middle = Row::medians(&[row(9.0, 2), row(2.0, 2), row(2.5, 1)]).unwrap();
        assert_eq!((middle.runs, middle.over_plain_ms, middle.is_sound()), (3, Some(2.5), false));
        assert_eq!(middle.missed(), Some(Vec::new()));
        assert_eq!(row(3.5, 2).missed(), Some(vec!["+ms/file 3.50 > 3".to_owned()]));
        let bars = |text: &str| text.matches('|').count();
        assert_eq!(bars(&super::text(&middle)), bars(heads().lines().next().unwrap()));
    }
}
