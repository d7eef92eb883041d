//! How long a container takes from the pull to its first useful output, on a node that has nothing: whole pulls beside layers that are mounted before they
//! have come.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Start`]: a scenario, and its goal |
//! | [`node`] | [`LazyNode`]: an agent with a directory of layers, and a containerd that mounts them |
//! | [`content`] | the four kinds of images, and what their containers do |
//! | [`course`] | one turn: every way once, on new hosts |
//! | [`delay`] | what takes a while before each request reaches the registry |
//! | [`row`] | [`Row`]: what a way came to, medians, and the table |
//!
//! What makes rows comparable: every way gets a new host with a cable of the same rate, and so a page cache that has nothing of the image; the same containerd
//! and runc; the same registry behind the same delay. The seed has read everything before, layers and expanded layers, and the registry's and the seed's cables have
//! the node's rate.

pub mod content;
pub mod course;
pub mod delay;
pub mod node;
pub mod row;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

pub use self::content::What;
pub use self::node::LazyNode;
pub use self::row::Row;
use crate::link::Link;

/// A scenario. Every field without a default must be given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// That it is one of these.
    pub kind: Kind,
    /// The claim that it shows, in one line.
    pub about: String,
    /// The image, and what its container does.
    pub image: What,
    /// Of all cables, both ways, such as `200mbit`.
    pub rate: String,
    /// How long each request takes before it reaches the registry.
    pub delay_milliseconds: u64,
    /// The goal of [`Way::Lazy`](course::Way::Lazy).
    #[serde(default)]
    pub goal: Goal,
}

/// The kind of these scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The only one.
    Lazy,
}

/// Limits; what is not given is not asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// Most time until ready, over that of the best whole pull of the same turn.
    pub ready_over_whole: Option<f64>,
    /// Most seconds of a pull.
    pub pull_seconds: Option<f64>,
}

impl Start {
    /// Reads a scenario's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut start: Self = toml::from_str(text)?;
        name.clone_into(&mut start.name);
        ensure!(!start.about.is_empty(), "a scenario says what it is about");
        start.link()?;
        Ok(start)
    }

    /// The cable of every host.
    fn link(&self) -> Result<Link> {
        Ok(Link::symmetric(self.rate.parse().context("the rate of the cables")?))
    }
}

impl Goal {
    /// For people, such as `ready/whole <= 0.1`.
    pub fn text(self) -> String {
        let limits: Vec<_> = self.limits().into_iter().map(|(what, limit)| format!("{what} <= {limit}")).collect();
        limits.join(", ")
    }

    fn limits(self) -> Vec<(&'static str, f64)> {
        let all = [("ready/whole", self.ready_over_whole), ("pull s", self.pull_seconds)];
        all.into_iter().filter_map(|(what, limit)| Some((what, limit?))).collect()
    }

    /// The parts that a row misses; `None` where there is no goal.
    fn missed(self, row: &Row) -> Option<Vec<String>> {
        let limits = self.limits();
        if limits.is_empty() {
            return None;
        }
        let reached = |what| if what == "pull s" { Some(row.pull) } else { row.over_whole };
        let missed = limits.into_iter().filter_map(|(what, limit)| match reached(what) {
            Some(reached) if reached <= limit => None,
            Some(reached) => Some(format!("{what} {reached:.2} > {limit}")),
            None => Some(format!("{what} unknown")),
        });
        Some(missed.collect())
    }
}
