//! Results of reads: a row for each stage, medians of several, and the table.

use serde_json::{Value, json};

use super::reader::Round;
use super::{Read, Stage};
use crate::table::{self, median};

/// The result of one stage: the median of its rounds, or the medians of several turns.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The stage between the reader and the disk.
    pub stage: Stage,
    /// Turns behind this row.
    pub runs: usize,
    /// Bytes per second, in order.
    pub speed: f64,
    /// Seconds of a block of 4 KiB.
    pub latency: f64,
    /// The speed over the native one.
    pub speed_over_native: Option<f64>,
    /// The native latency over this one: less is worse, as with the speed.
    pub latency_over_native: Option<f64>,
    /// The least that both are to be.
    pub limit: Option<f64>,
}

impl Row {
    pub(super) fn new(read: &Read, stage: Stage, rounds: &[Round]) -> Self {
        Self {
            scenario: read.name.clone(),
            stage,
            runs: 1,
            speed: median(rounds.iter().map(|round| round.speed).collect()),
            latency: median(rounds.iter().map(|round| round.latency.as_secs_f64()).collect()),
            speed_over_native: None,
            latency_over_native: None,
            limit: read.goal.of(stage),
        }
    }

    /// Compares it with the native speed and latency of the same turn.
    pub(super) fn compare(&mut self, (speed, latency): (f64, f64)) {
        self.speed_over_native = Some(self.speed / speed);
        self.latency_over_native = Some(latency / self.latency);
    }

    fn missed(&self) -> Option<Vec<String>> {
        let limit = self.limit?;
        let reached = [("MB/s", self.speed_over_native), ("4 KiB", self.latency_over_native)];
        let missed = reached.into_iter().filter_map(|(what, reached)| match reached {
            Some(reached) if reached >= limit => None,
            Some(reached) => Some(format!("{what} {reached:.2} < {limit}")),
            None => Some(format!("{what} unknown")),
        });
        Some(missed.collect())
    }

    /// The median of each value on its own.
    pub fn medians(rows: &[Self]) -> Option<Self> {
        let mut middle = rows.first()?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| median(rows.iter().map(value).collect());
        let of_some = |value: &dyn Fn(&Self) -> Option<f64>| {
            let known: Vec<_> = rows.iter().filter_map(value).collect();
            (known.len() == rows.len()).then(|| median(known))
        };
        middle.runs = rows.len();
        middle.speed = of(&|row| row.speed);
        middle.latency = of(&|row| row.latency);
        middle.speed_over_native = of_some(&|row| row.speed_over_native);
        middle.latency_over_native = of_some(&|row| row.latency_over_native);
        Some(middle)
    }

    /// For programs. Seconds, bytes and ratios.
    pub fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "stage": self.stage.name(),
            "runs": self.runs,
            "bytes_per_second": self.speed,
            "block_seconds": self.latency,
            "speed_over_native": self.speed_over_native,
            "latency_over_native": self.latency_over_native,
            "goal": self.limit,
            "goal_met": self.missed().map(|missed| missed.is_empty()),
            "goal_missed": self.missed(),
        })
    }

    fn cells(&self) -> Vec<String> {
        let ratio = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        vec![
            self.scenario.clone(),
            self.stage.name().to_owned(),
            self.runs.to_string(),
            format!("{:.0}", self.speed / 1e6),
            ratio(self.speed_over_native),
            format!("{:.0}", self.latency * 1e6),
            ratio(self.latency_over_native),
            table::verdict(self.missed().as_deref()),
        ]
    }
}

const HEADS: [&str; 8] = ["scenario", "stage", "runs", "MB/s", "/native", "4 KiB, us", "/native", "goal"];

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
    use std::time::Duration;

    #[test]
    fn a_stage_is_judged_by_both_its_parts_of_native() {
        let text =
            "kind = \"read\"\nabout = \"x\"\nrate = \"1gbit\"\nrounds = 3\ngoal = { filling = 0.6, whole = 0.9 }";
        let read = Read::parse("read", text).unwrap();
        let round = |speed, micros| Round { speed, latency: Duration::from_micros(micros) };
        let native = (1e9, 100e-6);
        let row = |stage, rounds: &[Round]| {
            let mut row = Row::new(&read, stage, rounds);
            row.compare(native);
            row
        };
        let good = row(Stage::Filling, &[round(7e8, 160), round(6.5e8, 150), round(1e8, 900)]);
        assert_eq!(good.missed(), Some(Vec::new()));
        assert_eq!(row(Stage::Renewed, &[round(9.5e8, 200)]).missed().unwrap(), ["4 KiB 0.50 < 0.9"]);
        assert_eq!(row(Stage::Filling, &[round(5e8, 100)]).missed().unwrap(), ["MB/s 0.50 < 0.6"]);
        assert_eq!(row(Stage::Whole, &[round(1.0, 1)]).missed(), None);
        let bars = |text: &str| text.matches('|').count();
        assert_eq!(bars(&super::text(&good)), bars(heads().lines().next().unwrap()));
    }
}
