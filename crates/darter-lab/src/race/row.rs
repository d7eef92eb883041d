//! Results of races: a row each, medians of several, and the table.

use anyhow::Result;
use darter_scenario::Goal;
use darter_scenario::Scenario;
use serde_json::{Value, json};

use crate::race::kind::MethodKind;
use crate::table::{self, median};

/// Above this busy share of the machine a ratio to T* says more about the machine than about the method.
pub const BUSY: f64 = 0.7;

/// The result of one race, or the medians of several.
#[derive(Clone, Debug)]
pub struct Row {
    /// The scenario's name.
    pub scenario: String,
    /// The method.
    pub kind: MethodKind,
    /// Races behind this row.
    pub runs: usize,
    /// T*, in seconds; 0 where no cable is shaped.
    pub bound: f64,
    /// Bytes that every node wants.
    pub size: u64,
    /// Nodes that were to finish.
    pub wanted: usize,
    /// When each that did was done, in seconds after the start, ascending.
    pub finished: Vec<f64>,
    /// Each one's own time over its own bound, ascending.
    pub own_ratios: Vec<f64>,
    /// Nodes that have every file with the right digest.
    pub right: usize,
    /// Copies read from the origin.
    pub origin_copies: f64,
    /// Copies that left the seed's cable, with headers: about 1.4 % more than content, since segments cross it in bundles.
    pub seed_copies: f64,
    /// Copies that came over a node's cable on average, with headers.
    pub received_per_node: f64,
    /// Copies that crossed into the second rack, with headers.
    pub link_copies: Option<f64>,
    /// CPU seconds, user and system, of all processes of the method, for each gigabyte delivered.
    pub cpu_per_gb: f64,
    /// Most bytes resident in any one process.
    pub peak_memory: u64,
    /// Share of the machine's CPU that was busy.
    pub busy: f64,
    /// Worst of the ratios of those nodes whose cables are like the others'.
    pub others_ratio: Option<f64>,
    /// Seconds from when the slowest node held all until it had handed all to its engine.
    pub lag: Option<f64>,
    /// When the last was done, over when the last of those was that pulled from the registry in the same turn.
    pub over_direct: Option<f64>,
    /// Bytes held over time, for each node.
    pub curves: Vec<Vec<(f64, f64)>>,
    /// The scenario's goal.
    pub goal: Goal,
}

impl Row {
    /// A row without results.
    pub fn new(scenario: &Scenario, kind: MethodKind) -> Result<Self> {
        Ok(Self {
            scenario: scenario.name.clone(),
            kind,
            runs: 1,
            bound: scenario.bound()?,
            size: scenario.size(),
            wanted: 0,
            finished: Vec::new(),
            own_ratios: Vec::new(),
            right: 0,
            origin_copies: 0.0,
            seed_copies: 0.0,
            received_per_node: 0.0,
            link_copies: None,
            cpu_per_gb: 0.0,
            peak_memory: 0,
            busy: 0.0,
            others_ratio: None,
            lag: None,
            over_direct: None,
            curves: Vec::new(),
            goal: scenario.goal.clone(),
        })
    }

    /// True if every node that was to finish did so, with the right bytes.
    pub fn is_sound(&self) -> bool {
        self.finished.len() == self.wanted && self.right == self.wanted
    }

    /// When the last node was done; `None` when one never was.
    pub fn last(&self) -> Option<f64> {
        self.finished.last().copied().filter(|_| self.finished.len() == self.wanted)
    }

    /// When the middle one of those who finished was done.
    pub fn median(&self) -> Option<f64> {
        self.rank(0.5)
    }

    fn rank(&self, share: f64) -> Option<f64> {
        let index = ((self.finished.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.finished.get(index).copied()
    }

    /// When the last was done, over T*, where there is one.
    pub fn last_over_bound(&self) -> Option<f64> {
        self.last().filter(|_| self.bound > 0.0).map(|last| last / self.bound)
    }

    /// The parts of the scenario's goal that were missed; `None` where there is none, or for others' methods.
    pub fn missed(&self) -> Option<Vec<String>> {
        self.goal.missed(&self.reached()).filter(|_| self.kind.is_darter())
    }

    /// The figures that were reached, by the names of goals.
    fn reached(&self) -> Goal {
        let (last, bound) = (self.last(), Some(self.bound).filter(|bound| *bound > 0.0));
        let over = |base: Option<f64>| Some(last? / base?);
        Goal {
            last_over_bound: over(bound),
            last_after_bound: last.map(|last| last - self.bound),
            last_over_median: over(self.median()),
            own_over_bound: self.own_ratios.last().copied(),
            others_over_bound: self.others_ratio,
            last_over_direct: self.over_direct,
            lag_over_bound: self.lag.zip(bound).map(|(lag, bound)| lag / bound),
            origin_copies: Some(self.origin_copies),
            seed_copies: Some(self.seed_copies),
            link_copies: self.link_copies,
            cpu_per_gb: Some(self.cpu_per_gb),
        }
    }

    /// The median of each value on its own. Unsound races stay visible: the least count of nodes done and right.
    pub fn medians(rows: &[Self]) -> Option<Self> {
        let mut middle = rows.get(rows.len() / 2)?.clone();
        let of = |value: &dyn Fn(&Self) -> f64| median(rows.iter().map(value).collect());
        middle.runs = rows.len();
        let done = rows.iter().map(|row| row.finished.len()).min()?;
        middle.finished = (0..done).map(|rank| of(&|row| row.finished[rank])).collect();
        let own = rows.iter().map(|row| row.own_ratios.len()).min()?;
        middle.own_ratios = (0..own).map(|rank| of(&|row| row.own_ratios[rank])).collect();
        middle.right = rows.iter().map(|row| row.right).min()?;
        middle.origin_copies = of(&|row| row.origin_copies);
        middle.seed_copies = of(&|row| row.seed_copies);
        middle.received_per_node = of(&|row| row.received_per_node);
        middle.link_copies = middle.link_copies.map(|_| of(&|row| row.link_copies.unwrap_or_default()));
        middle.cpu_per_gb = of(&|row| row.cpu_per_gb);
        middle.peak_memory = of(&|row| row.peak_memory as f64) as u64;
        middle.busy = of(&|row| row.busy);
        middle.others_ratio = middle.others_ratio.map(|_| of(&|row| row.others_ratio.unwrap_or(f64::INFINITY)));
        let each = |value: &dyn Fn(&Self) -> Option<f64>| {
            Some(median(rows.iter().map(value).collect::<Option<Vec<_>>>()?)).filter(|value| !value.is_nan())
        };
        middle.lag = each(&|row| row.lag);
        middle.over_direct = each(&|row| row.over_direct);
        Some(middle)
    }

    /// For programs. Seconds, bytes and ratios.
    pub fn json(&self) -> Value {
        json!({
            "scenario": self.scenario,
            "method": self.kind.to_string(),
            "runs": self.runs,
            "bound": self.bound,
            "size": self.size,
            "nodes_wanted": self.wanted,
            "nodes_right": self.right,
            "finished": self.finished,
            "last_over_bound": self.last_over_bound(),
            "last_over_direct": self.over_direct,
            "lag": self.lag,
            "own_ratios": self.own_ratios,
            "origin_copies": self.origin_copies,
            "seed_copies": self.seed_copies,
            "received_per_node": self.received_per_node,
            "link_copies": self.link_copies,
            "cpu_seconds_per_gb": self.cpu_per_gb,
            "peak_memory": self.peak_memory,
            "busy": self.busy,
            "cpu_in_the_way": self.busy > BUSY,
            "others_worst_own": self.others_ratio,
            "goal": self.goal.text(),
            "goal_met": self.missed().map(|missed| missed.is_empty()),
            "goal_missed": self.missed(),
        })
    }

    fn cells(&self) -> Vec<String> {
        let time = |seconds: Option<f64>| seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.2}"));
        let some = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let bounded = |value: Option<f64>| if self.bound > 0.0 { time(value) } else { "-".to_owned() };
        vec![
            self.scenario.clone(),
            self.kind.to_string(),
            self.runs.to_string(),
            bounded(Some(self.bound)),
            time(self.finished.first().copied()),
            time(self.median()),
            time(self.rank(0.99)),
            time(self.last()),
            bounded(self.last_over_bound()),
            some(self.over_direct),
            some(self.lag),
            bounded(self.own_ratios.last().copied()),
            format!("{:.2}", self.origin_copies),
            format!("{:.2}", self.seed_copies),
            some(self.link_copies),
            format!("{:.2}", self.received_per_node),
            format!("{:.2}", self.cpu_per_gb),
            format!("{:.0}", self.peak_memory as f64 / 1e6),
            format!("{:.2}{}", self.busy, if self.busy > BUSY { "!" } else { "" }),
            format!("{}/{}", self.right, self.wanted),
            table::verdict(self.missed().as_deref()),
        ]
    }
}

const HEADS: [&str; 21] = [
    "scenario",
    "method",
    "runs",
    "T*",
    "first",
    "median",
    "p99",
    "last",
    "last/T*",
    "/direct",
    "lag",
    "worst own",
    "origin",
    "seed",
    "link",
    "in/node",
    "CPU s/GB",
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
    fn what_is_missed_is_said_and_what_is_not_asked_for_is_not() {
        let scenario = Scenario::open("gate").unwrap();
        let mut row = Row::new(&scenario, MethodKind::Darter).unwrap();
        row.wanted = 1;
        row.finished = vec![row.bound * 1.04];
        row.seed_copies = 1.0301;
        assert_eq!(row.missed(), Some(vec!["seed 1.03 > 1.03".to_owned()]));
        row.seed_copies = 1.02;
        row.cpu_per_gb = 1e9;
        assert_eq!(row.missed(), Some(Vec::new()));
        row.finished.clear();
        assert_eq!(row.missed(), Some(vec!["last/T* unknown".to_owned()]));
        assert_eq!(Goal::default().missed(&row.reached()), None);
        assert_eq!(scenario.goal.text(), "last/T* <= 1.05, seed <= 1.03");
    }

    #[test]
    fn medians_hide_no_failure() {
        let scenario = Scenario::open("gate").unwrap();
        let row = |last: f64, right: usize| {
            let mut row = Row::new(&scenario, MethodKind::Darter).unwrap();
            row.wanted = 2;
            row.finished = vec![1.0, last];
            row.own_ratios = row.finished.clone();
            row.right = right;
            row
        };
        let middle = Row::medians(&[row(9.0, 2), row(2.0, 2), row(3.0, 2)]).unwrap();
        assert_eq!((middle.runs, middle.last(), middle.is_sound()), (3, Some(3.0), true));
        assert!(!Row::medians(&[row(2.0, 2), row(2.0, 1), row(2.0, 2)]).unwrap().is_sound());
        let mut lost = row(2.0, 2);
        lost.finished.pop();
        assert_eq!(Row::medians(&[lost, row(2.0, 2)]).unwrap().last(), None);
    }

    #[test]
    fn lines_have_as_many_cells_as_heads() {
        let row = Row::new(&Scenario::open("gate").unwrap(), MethodKind::Nginx).unwrap();
        let bars = |text: &str| text.matches('|').count();
        assert_eq!(bars(&text(&row)), bars(heads().lines().next().unwrap()));
    }
}
