//! Results of starts: a row for each way, medians of several, and the table.

use serde_json::{Value, json};

use super::way::Way;
use super::{Goal, Limits, Start};
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
    /// Bytes that came to the host until then, with headers; the mean of several hosts.
    pub came: u64,
    /// Bytes of the layers that starts touch, as the fleet knew before a start that was given a list of them, else after it.
    pub touched: Option<u64>,
    /// Bytes that the seed sent until the last of several hosts was ready, over what is touched.
    pub copies: Option<f64>,
    /// Time until ready without that in which the touched bytes, or fewer if they came packed, pass the cable, over that of a start with everything
    /// on the local disk.
    pub over_local: Option<f64>,
    /// Share of the machine's CPU that was busy.
    pub busy: f64,
    /// The goals of this way; empty where there are none.
    pub limits: Limits,
}

impl Row {
    /// A row without results.
    pub(super) fn new(start: &Start, way: Way, image: u64) -> Self {
        let (scenario, method) = (start.name.clone(), way.name().to_owned());
        Self { scenario, method, runs: 1, image, limits: start.goal.of(way), ..Self::default() }
    }

    /// Bytes that came until ready, over what is touched.
    pub fn over_touched(&self) -> Option<f64> {
        Some(self.came as f64 / self.touched? as f64)
    }

    fn missed(&self) -> Option<Vec<String>> {
        Goal::missed(&self.limits, self)
    }

    /// The median of each value on its own.
    pub fn medians(rows: &[Self]) -> Option<Self> {
        let mut middle = rows.first()?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| median(rows.iter().map(value).collect());
        middle.runs = rows.len();
        middle.pull = of(&|row| row.pull);
        middle.run = of(&|row| row.run);
        middle.ready = of(&|row| row.ready);
        let of_some = |value: &dyn Fn(&Self) -> Option<f64>| {
            let known: Vec<_> = rows.iter().filter_map(value).collect();
            (known.len() == rows.len()).then(|| median(known))
        };
        middle.touched = of_some(&|row| row.touched.map(|bytes| bytes as f64)).map(|bytes| bytes as u64);
        middle.over_whole = of_some(&|row| row.over_whole);
        middle.copies = of_some(&|row| row.copies);
        middle.over_local = of_some(&|row| row.over_local);
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
            "touched_bytes": self.touched,
            "came_over_touched": self.over_touched(),
            "seed_copies": self.copies,
            "ready_over_local": self.over_local,
            "busy": self.busy,
            "goal": (!self.limits.is_empty()).then(|| Goal::text_of(&self.limits)),
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
            optional(self.over_whole, 3),
            format!("{:.1}", self.came as f64 / 1e6),
            optional(self.over_touched(), 2),
            optional(self.over_local, 2),
            optional(self.copies, 2),
            format!("{:.2}{}", self.busy, if self.busy > BUSY { "!" } else { "" }),
            table::verdict(self.missed().as_deref()),
        ]
    }
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

const HEADS: [&str; 14] = [
    "scenario",
    "method",
    "runs",
    "image MB",
    "pull s",
    "run s",
    "ready s",
    "ready/whole",
    "came MB",
    "/touched",
    "/local",
    "seed",
    "busy",
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

    fn row(way: Way) -> Row {
        let text = "kind = \"lazy\"\nabout = \"x\"\nimage = \"tool\"\nrate = \"200mbit\"\ndelay_milliseconds = 20\n\
                    goal = { ready_over_whole = 0.1, ready_over_local = 1.15, came_over_touched = 1.1, copies = 1.1 }";
        Row::new(&Start::parse("tool", text).unwrap(), way, 1)
    }

    #[test]
    fn goals_are_judged_by_medians_and_are_of_lazy_starts() {
        let over = |over| Row { over_whole: Some(over), ..row(Way::Lazy) };
        assert_eq!(Row::medians(&[over(0.3), over(0.05), over(0.07)]).unwrap().missed(), Some(Vec::new()));
        assert_eq!(over(0.2).missed(), Some(vec!["ready/whole 0.20 > 0.1".to_owned()]));
        assert_eq!(row(Way::Direct).missed(), None);
        let bars = |text: &str| text.matches('|').count();
        assert_eq!(bars(&super::text(&over(0.2))), bars(heads().lines().next().unwrap()));
    }

    #[test]
    fn the_second_starter_and_eight_at_once_have_goals_of_their_own() {
        let second = Row { over_local: Some(1.1), came: 13, touched: Some(10), ..row(Way::Second) };
        assert_eq!(second.missed(), Some(vec!["came/touched 1.30 > 1.1".to_owned()]));
        assert_eq!(Row { over_local: Some(1.2), came: 11, ..second }.missed().unwrap(), ["ready/local 1.20 > 1.15"]);
        assert_eq!(row(Way::Eight).missed().unwrap(), ["seed unknown"]);
        assert_eq!(Row { copies: Some(1.0), ..row(Way::Eight) }.missed(), Some(Vec::new()));
    }
}
