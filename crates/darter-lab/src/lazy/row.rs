//! Results of starts: a row for each way, medians of several, and the table.

use serde_json::{Value, json};

use super::course::Way;
use super::{Goal, Start};
use crate::race::row::BUSY;
use crate::table::{self, median};

/// The result of one way, or the medians of several turns.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// How the image came.
    pub method: String,
    /// Turns behind this row.
    pub runs: usize,
    /// Bytes of the image as its layers travel.
    pub image: u64,
    /// Seconds of the pull.
    pub pull: f64,
    /// Seconds from there until the container was ready.
    pub run: f64,
    /// Both.
    pub ready: f64,
    /// Time until ready over that of the best whole pull of the same turn.
    pub over_whole: Option<f64>,
    /// Bytes that came to the host until then, with headers.
    pub came: u64,
    /// Share of the machine's CPU that was busy.
    pub busy: f64,
    /// The goal, of lazy starts.
    pub goal: Option<Goal>,
}

impl Row {
    /// A row without results.
    pub(super) fn new(start: &Start, method: &str, image: u64) -> Self {
        let goal = (method == Way::Lazy.name()).then_some(start.goal);
        Self { scenario: start.name.clone(), method: method.to_owned(), runs: 1, image, goal, ..Self::default() }
    }

    fn missed(&self) -> Option<Vec<String>> {
        self.goal?.missed(self)
    }

    /// The median of each value on its own.
    pub fn medians(rows: &[Self]) -> Option<Self> {
        let mut middle = rows.first()?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| median(rows.iter().map(value).collect());
        middle.runs = rows.len();
        middle.pull = of(&|row| row.pull);
        middle.run = of(&|row| row.run);
        middle.ready = of(&|row| row.ready);
        middle.over_whole = middle.over_whole.map(|_| of(&|row| row.over_whole.unwrap_or(f64::INFINITY)));
        middle.came = of(&|row| row.came as f64) as u64;
        middle.busy = of(&|row| row.busy);
        Some(middle)
    }

    /// For programs. Seconds, bytes and ratios.
    pub fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "method": self.method,
            "runs": self.runs,
            "image_bytes": self.image,
            "pull_seconds": self.pull,
            "run_seconds": self.run,
            "ready_seconds": self.ready,
            "ready_over_whole": self.over_whole,
            "came_bytes": self.came,
            "busy": self.busy,
            "goal": self.goal.map(Goal::text),
            "goal_met": self.missed().map(|missed| missed.is_empty()),
            "goal_missed": self.missed(),
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.scenario.clone(),
            self.method.clone(),
            self.runs.to_string(),
            format!("{:.1}", self.image as f64 / 1e6),
            format!("{:.2}", self.pull),
            format!("{:.2}", self.run),
            format!("{:.2}", self.ready),
            self.over_whole.map_or_else(|| "-".to_owned(), |over| format!("{over:.3}")),
            format!("{:.1}", self.came as f64 / 1e6),
            format!("{:.2}{}", self.busy, if self.busy > BUSY { "!" } else { "" }),
            table::verdict(self.missed().as_deref()),
        ]
    }
}

const HEADS: [&str; 11] =
    ["scenario", "method", "runs", "image MB", "pull s", "run s", "ready s", "ready/whole", "came MB", "busy", "goal"];

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
    fn goals_are_judged_by_medians_and_are_of_lazy_starts() {
        let text = "kind = \"lazy\"\nabout = \"x\"\nimage = \"tool\"\nrate = \"200mbit\"\ndelay_milliseconds = 20\n\
                    goal = { ready_over_whole = 0.1 }";
        let start = Start::parse("tool", text).unwrap();
        let row = |over| Row { over_whole: Some(over), ..Row::new(&start, Way::Lazy.name(), 1) };
        assert_eq!(Row::medians(&[row(0.3), row(0.05), row(0.07)]).unwrap().missed(), Some(Vec::new()));
        assert_eq!(row(0.2).missed(), Some(vec!["ready/whole 0.20 > 0.1".to_owned()]));
        assert_eq!(Row::new(&start, Way::Direct.name(), 1).missed(), None);
        let bars = |text: &str| text.matches('|').count();
        assert_eq!(bars(&super::text(&row(0.2))), bars(heads().lines().next().unwrap()));
    }
}
