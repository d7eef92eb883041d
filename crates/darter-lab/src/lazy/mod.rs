//! How long a container takes from the pull to its first useful output, on a node that has nothing: whole pulls beside layers that are mounted before they
//! have come.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Start`]: a scenario, and its goal |
//! | [`node`] | [`LazyNode`]: an agent with a directory of layers, and a containerd that mounts them |
//! | [`content`] | the four kinds of images, and what their containers do |
//! | [`way`] | [`Way`]: how an image comes to a container |
//! | [`course`] | one turn: every way once, on new hosts |
//! | `converted` | images as other snapshotters want them |
//! | [`delay`] | what takes a while before each request reaches the registry |
//! | [`row`] | [`Row`]: what a way came to, medians, and the table |
//!
//! Rows are comparable: every way gets a new host with a cable of the same rate, and so a page cache that has nothing of the image; the same containerd
//! and runc; the same registry behind the same delay. The seed has read everything before, layers and expanded layers, and the registry's and the seed's cables have
//! the node's rate. The first ever pull alone has a seed of its own that has read nothing.

pub mod content;
mod converted;
pub mod course;
pub mod delay;
pub mod node;
pub mod row;
pub mod way;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

pub use self::content::What;
pub use self::node::LazyNode;
pub use self::row::Row;
pub use self::way::Way;
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
    /// The rate of all cables, both ways, such as `200mbit`.
    pub rate: String,
    /// How long each request takes before it reaches the registry.
    pub delay_milliseconds: u64,
    /// The ways that are played where nothing else is asked for.
    #[serde(default = "usual_ways")]
    pub ways: Vec<Way>,
    /// The goals of lazy starts.
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
    /// Most time until ready, over that of the best whole pull of the same turn: of the first start.
    pub ready_over_whole: Option<f64>,
    /// Most time until ready of the first ever pull, of which no seed has anything, over that of the best whole pull of the same turn.
    pub first_over_whole: Option<f64>,
    /// Most seconds of a pull: of the first start.
    pub pull_seconds: Option<f64>,
    /// Most time until ready of the second starter, without that in which the touched bytes, or fewer if they came packed, pass the cable, over that of
    /// a start with everything on the local disk.
    pub ready_over_local: Option<f64>,
    /// Most bytes that came to the second starter until it was ready, over what is touched.
    pub came_over_touched: Option<f64>,
    /// Most bytes that the seed sent while eight started at once, over what is touched.
    pub copies: Option<f64>,
}

/// Names of values in a row, and the most that each may be.
pub(crate) type Limits = Vec<(&'static str, f64)>;

fn usual_ways() -> Vec<Way> {
    Way::USUAL.to_vec()
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
        let all = [Way::First, Way::Lazy, Way::Second, Way::Eight].map(|way| self.of(way));
        Self::text_of(&all.concat())
    }

    fn text_of(limits: &Limits) -> String {
        let limits: Vec<_> = limits.iter().map(|(what, limit)| format!("{what} <= {limit}")).collect();
        limits.join(", ")
    }

    /// The limits of one way.
    fn of(self, way: Way) -> Limits {
        let all = match way {
            Way::First => vec![("first ready/whole", self.first_over_whole)],
            Way::Lazy => vec![("ready/whole", self.ready_over_whole), ("pull s", self.pull_seconds)],
            Way::Second => vec![("ready/local", self.ready_over_local), ("came/touched", self.came_over_touched)],
            Way::Eight => vec![("seed", self.copies)],
            _ => Vec::new(),
        };
        all.into_iter().filter_map(|(what, limit)| Some((what, limit?))).collect()
    }

    /// The parts that a row misses; `None` where there is no goal.
    fn missed(limits: &Limits, row: &Row) -> Option<Vec<String>> {
        if limits.is_empty() {
            return None;
        }
        let reached = |what| match what {
            "pull s" => Some(row.pull),
            "ready/local" => row.over_local,
            "came/touched" => row.over_touched(),
            "seed" => row.copies,
            _ => row.over_whole,
        };
        let missed = limits.iter().filter_map(|&(what, limit)| match reached(what) {
            Some(reached) if reached <= limit => None,
            Some(reached) => Some(format!("{what} {reached:.2} > {limit}")),
            None => Some(format!("{what} unknown")),
        });
        Some(missed.collect())
    }
}
