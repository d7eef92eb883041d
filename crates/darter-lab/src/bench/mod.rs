//! Measurements of what one host does, with real processes, compared with nginx where it can do the same.
//!
//! | file | what lives there |
//! |---|---|
//! | this one | [`Bench`]: a scenario with a `kind`, and its goal |
//! | [`fleet`] | a registry that is nothing but nginx, and agents that read it |
//! | [`hit`] | a blob that the host's own store has, many times |
//! | [`tiny`] | many small files, one after another |
//! | [`pair`] | from one store into another |
//! | [`row`] | [`Row`]: what a measurement came to, medians, and the table |
//!
//! Files lie in memory and cables have no shape, so what is measured is the processes' own work. CPU is user and system
//! time of the named process as the kernel counts it. On loopback and on cables between namespaces the kernel does the receiver's
//! TCP in whichever process sends, in nginx's as in Darter's. Digests are checked when the clock has stopped.

pub mod fleet;
pub mod hit;
pub mod pair;
pub mod row;
pub mod tiny;

use anyhow::{Result, ensure};
use serde::Deserialize;

pub use self::row::Row;
use crate::race::content::Content;

/// A measurement. Every field without a default must be given.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bench {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// Which measurement.
    pub kind: What,
    /// The claim that it shows, in one line.
    pub about: String,
    /// Size of each file in KiB.
    pub size_kib: u64,
    /// How many files.
    #[serde(default = "one")]
    pub files: u32,
    /// How many times all are read.
    #[serde(default = "one")]
    pub rounds: u32,
    /// The goal.
    #[serde(default)]
    pub goal: Goal,
}

/// The measurements there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The mirror gives what its store has.
    Hit,
    /// Many small files through the mirror.
    Tiny,
    /// From a seed's store into a node's.
    Pair,
}

/// Limits; what is not given is not asked for.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Goal {
    /// Most CPU per gigabyte of the process that serves, over nginx's.
    pub cpu_over_plain: Option<f64>,
    /// Most milliseconds per file above what the origin's own nginx takes.
    pub over_plain_ms: Option<f64>,
    /// Most round trips between node and seed per file.
    pub round_trips: Option<f64>,
    /// Least gigabytes a second.
    pub gb_per_second: Option<f64>,
}

const fn one() -> u32 {
    1
}

impl Bench {
    /// Reads a scenario's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut bench: Self = toml::from_str(text)?;
        name.clone_into(&mut bench.name);
        ensure!(bench.size_kib > 0 && bench.files > 0 && bench.rounds > 0, "there is nothing to read");
        Ok(bench)
    }

    /// The files, generated.
    pub fn content(&self) -> Result<Content> {
        Content::generate(self.files, self.size_kib * 1024)
    }

    /// Measures once: a row for each method.
    pub fn run(&self, content: &Content) -> Result<Vec<Row>> {
        match self.kind {
            What::Hit => hit::run(self, content),
            What::Tiny => tiny::run(self, content),
            What::Pair => pair::run(self, content),
        }
    }
}

impl Goal {
    /// For people, such as `CPU/plain <= 1.3`.
    pub fn text(&self) -> String {
        let limits: Vec<String> = self
            .checks(None)
            .iter()
            .map(|check| format!("{} {} {}", check.what, if check.least { ">=" } else { "<=" }, check.limit))
            .collect();
        limits.join(", ")
    }

    /// The parts of the goal that a row misses; `None` where there is no goal.
    fn missed(&self, row: &Row) -> Option<Vec<String>> {
        let checks = self.checks(Some(row));
        if checks.is_empty() {
            return None;
        }
        let mut missed = Vec::new();
        for Check { what, limit, least, reached } in checks {
            match reached {
                Some(reached) if (reached <= limit && !least) || (reached >= limit && least) => {}
                Some(reached) => {
                    missed.push(format!("{what} {reached:.2} {} {limit}", if least { "<" } else { ">" }));
                }
                None => missed.push(format!("{what} unknown")),
            }
        }
        Some(missed)
    }

    fn checks(&self, row: Option<&Row>) -> Vec<Check> {
        let most = |what, limit: Option<f64>, reached| limit.map(|limit| Check { what, limit, least: false, reached });
        let speed = row.map(Row::gb_per_second);
        let all = [
            most("CPU/plain", self.cpu_over_plain, row.and_then(|row| row.cpu_over_plain)),
            most("+ms/file", self.over_plain_ms, row.and_then(|row| row.over_plain_ms)),
            most("trips/file", self.round_trips, row.and_then(|row| row.round_trips)),
            self.gb_per_second.map(|limit| Check { what: "GB/s", limit, least: true, reached: speed }),
        ];
        all.into_iter().flatten().collect()
    }
}

/// One limit: what it is about, what it is (the least or the most), and what was reached.
struct Check {
    what: &'static str,
    limit: f64,
    least: bool,
    reached: Option<f64>,
}
