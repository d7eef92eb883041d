//! How fast a container reads what is on its host already: from layers that are not whole yet, from whole ones, and beside the file system below and overlayfs.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Read`]: a scenario, and its goal |
//! | [`stage`] | [`Stage`]: what is between a reader and the disk |
//! | [`reader`] | one file, read in order and in blocks of 4 KiB, from a cold page cache |
//! | [`course`] | one turn: every stage, several rounds each |
//! | [`row`] | [`Row`]: what a stage came to, medians, and the table |
//!
//! Rows are comparable: the same file of random bytes on the same disk, and before each round every page cache that may have something of it (that of the
//! mounted layer, of the file of FUSE below it, of the store's file) forgets it.

pub mod course;
pub mod reader;
pub mod row;
pub mod stage;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

pub use self::row::Row;
pub use self::stage::Stage;
use crate::link::Link;

/// A scenario. Every field without a default must be given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// Marks the file as a scenario of reading.
    pub kind: Kind,
    /// The claim that it shows, in one line.
    pub about: String,
    /// The rate of all cables, both ways, such as `1gbit`.
    pub rate: String,
    /// How often each stage is read in a turn.
    pub rounds: usize,
    /// The goal.
    #[serde(default)]
    pub goal: Goal,
}

/// The kind of these scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The only one.
    Read,
}

/// Limits, of the speed and of the latency alike; what is not given is not asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// Least speed, as a part of the native one, while a layer is not whole.
    pub filling: Option<f64>,
    /// Least speed, as a part of the native one, once a layer is whole and mounted anew.
    pub whole: Option<f64>,
}

impl Read {
    /// Reads a scenario's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut read: Self = toml::from_str(text)?;
        name.clone_into(&mut read.name);
        ensure!(!read.about.is_empty(), "a scenario says what it is about");
        ensure!(read.rounds > 0, "without rounds nothing is read");
        read.link()?;
        Ok(read)
    }

    /// The cable of every host.
    fn link(&self) -> Result<Link> {
        Ok(Link::symmetric(self.rate.parse().context("the rate of the cables")?))
    }
}

impl Goal {
    /// For people.
    pub fn text(self) -> String {
        let all = [("while filling", self.filling), ("once whole", self.whole)];
        let limits: Vec<_> =
            all.iter().filter_map(|(when, limit)| Some(format!("{when} >= {} of native", (*limit)?))).collect();
        limits.join(", ")
    }

    /// The least part of native that a stage is to reach.
    fn of(self, stage: Stage) -> Option<f64> {
        match stage {
            Stage::Filling => self.filling,
            Stage::Renewed | Stage::Own => self.whole,
            Stage::Native | Stage::Overlay | Stage::Whole => None,
        }
    }
}
