//! The goal of a race, in numbers, and whether it was reached.

use serde::{Deserialize, Serialize};

/// Upper limits; what is not given is not asked for. Also the same figures as a run reached them: what is not given is unknown then.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// Own time over own bound of each node whose cable is like the others'.
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
            self.checks(&Self::default()).iter().map(|(what, limit, _)| format!("{what} <= {limit}")).collect();
        limits.join(", ")
    }

    /// These goals without those for figures that are not known of a run that reached others.
    #[must_use]
    pub fn known_to(&self, reached: &Self) -> Self {
        Self {
            last_over_bound: reached.last_over_bound.and(self.last_over_bound),
            last_after_bound: reached.last_after_bound.and(self.last_after_bound),
            last_over_median: reached.last_over_median.and(self.last_over_median),
            own_over_bound: reached.own_over_bound.and(self.own_over_bound),
            others_over_bound: reached.others_over_bound.and(self.others_over_bound),
            last_over_direct: reached.last_over_direct.and(self.last_over_direct),
            lag_over_bound: reached.lag_over_bound.and(self.lag_over_bound),
            origin_copies: reached.origin_copies.and(self.origin_copies),
            seed_copies: reached.seed_copies.and(self.seed_copies),
            link_copies: reached.link_copies.and(self.link_copies),
            cpu_per_gb: reached.cpu_per_gb.and(self.cpu_per_gb),
        }
    }

    /// The parts of the goal that a run misses that reached these figures, such as `last/T* 1.07 > 1.05`; `None` where
    /// there is no goal.
    pub fn missed(&self, reached: &Self) -> Option<Vec<String>> {
        let checks = self.checks(reached);
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

    fn checks(&self, reached: &Self) -> Vec<Check> {
        let all = [
            ("last/T*", self.last_over_bound, reached.last_over_bound),
            ("last-T* s", self.last_after_bound, reached.last_after_bound),
            ("last/median", self.last_over_median, reached.last_over_median),
            ("worst own", self.own_over_bound, reached.own_over_bound),
            ("others' worst own", self.others_over_bound, reached.others_over_bound),
            ("last/direct", self.last_over_direct, reached.last_over_direct),
            ("lag/T*", self.lag_over_bound, reached.lag_over_bound),
            ("origin", self.origin_copies, reached.origin_copies),
            ("seed", self.seed_copies, reached.seed_copies),
            ("link", self.link_copies, reached.link_copies),
            ("CPU s/GB", self.cpu_per_gb, reached.cpu_per_gb),
        ];
        all.into_iter().filter_map(|(what, limit, reached)| Some((what, limit?, reached))).collect()
    }
}
