//! What a race is to reach, in numbers, and whether it did.

use serde::Deserialize;

use crate::race::row::Row;

/// Upper limits; what is not given is not asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// When the last node is done, over T*.
    pub last_over_bound: Option<f64>,
    /// Seconds after T* at which the last node is done.
    pub last_after_bound: Option<f64>,
    /// When the last node is done, over when the middle one is: no straggler.
    pub last_over_median: Option<f64>,
    /// Every node's own time over its own bound.
    pub own_over_bound: Option<f64>,
    /// The same, of the nodes whose cables are like the others'.
    pub others_over_bound: Option<f64>,
    /// When the last node is done, over when the last was that pulled from the registry, in the same turn.
    pub last_over_direct: Option<f64>,
    /// Seconds from when a node held all until it had handed all to its engine, over T*.
    pub lag_over_bound: Option<f64>,
    /// Copies read from the origin.
    pub origin_copies: Option<f64>,
    /// Copies sent by the seed.
    pub seed_copies: Option<f64>,
    /// Copies that cross into the second rack.
    pub link_copies: Option<f64>,
    /// CPU seconds for each gigabyte delivered.
    pub cpu_per_gb: Option<f64>,
}

/// One limit: what it is about, what it is, and what was reached.
type Check = (&'static str, f64, Option<f64>);

impl Goal {
    /// For people, such as `last/T* <= 1.05, seed <= 1.03`.
    pub fn text(&self) -> String {
        let limits: Vec<String> =
            self.checks(None).iter().map(|(what, limit, _)| format!("{what} <= {limit}")).collect();
        limits.join(", ")
    }

    /// What a row misses, such as `last/T* 1.07 > 1.05`; `None` where nothing was aimed at.
    pub fn missed(&self, row: &Row) -> Option<Vec<String>> {
        let checks = self.checks(Some(row));
        if checks.is_empty() {
            return None;
        }
        let mut missed = Vec::new();
        for (what, limit, reached) in checks {
            match reached {
                Some(reached) if reached <= limit => {}
                Some(reached) => missed.push(format!("{what} {reached:.2} > {limit}")),
                None => missed.push(format!("{what} unknown")),
            }
        }
        Some(missed)
    }

    fn checks(&self, row: Option<&Row>) -> Vec<Check> {
        let last = row.and_then(Row::last);
        let median = row.and_then(Row::median);
        let over = |base: Option<f64>| Some(last? / base?);
        let bound = row.map(|row| row.bound).filter(|bound| *bound > 0.0);
        let all = [
            ("last/T*", self.last_over_bound, over(bound)),
            ("last-T* s", self.last_after_bound, row.and_then(|row| Some(last? - row.bound))),
            ("last/median", self.last_over_median, over(median)),
            ("worst own", self.own_over_bound, row.and_then(|row| row.own_ratios.last().copied())),
            ("others' worst own", self.others_over_bound, row.and_then(|row| row.others_ratio)),
            ("last/direct", self.last_over_direct, row.and_then(|row| row.over_direct)),
            ("lag/T*", self.lag_over_bound, row.and_then(|row| Some(row.lag? / bound?))),
            ("origin", self.origin_copies, row.map(|row| row.origin_copies)),
            ("seed", self.seed_copies, row.map(|row| row.seed_copies)),
            ("link", self.link_copies, row.and_then(|row| row.link_copies)),
            ("CPU s/GB", self.cpu_per_gb, row.map(|row| row.cpu_per_gb)),
        ];
        all.into_iter().filter_map(|(what, limit, reached)| Some((what, limit?, reached))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::race::Scenario;
    use crate::race::method::Kind;

    #[test]
    fn what_is_missed_is_said_and_what_is_not_asked_for_is_not() {
        let scenario = Scenario::open("gate").unwrap();
        let mut row = Row::new(&scenario, Kind::Darter).unwrap();
        row.wanted = 1;
        row.finished = vec![row.bound * 1.04];
        row.seed_copies = 1.0301;
        assert_eq!(row.missed(), Some(vec!["seed 1.03 > 1.03".to_owned()]));
        row.seed_copies = 1.02;
        row.cpu_per_gb = 1e9;
        assert_eq!(row.missed(), Some(Vec::new()));
        row.finished.clear();
        assert_eq!(row.missed(), Some(vec!["last/T* unknown".to_owned()]));
        assert_eq!(Goal::default().missed(&row), None);
        assert_eq!(scenario.goal.text(), "last/T* <= 1.05, seed <= 1.03");
    }
}
