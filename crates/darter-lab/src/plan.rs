//! Plans of `cargo lab`: files in `scenarios`, each a race or, with a `kind`, starts of containers, reads in them, or a measurement on one host.

use std::fs;

use anyhow::{Context, Result};
use darter_scenario::Scenario;

use crate::bench::Bench;
use crate::lazy::Start;
use crate::read::Read;

/// The kind of scenarios about starts of containers.
const START: &str = "lazy";
/// The kind of scenarios about reads in them.
const READ: &str = "read";

/// One of the laboratory's files.
#[derive(Clone, Debug)]
pub enum Plan {
    /// A race of many hosts.
    Race(Box<Scenario>),
    /// Starts of containers.
    Start(Start),
    /// Reads in containers.
    Read(Read),
    /// A measurement of what one host does.
    Bench(Bench),
}

impl Plan {
    /// Reads a plan: a file's path, or the name of one in the tree.
    pub fn open(name: &str) -> Result<Self> {
        let (name, text) = darter_scenario::read(name)?;
        Self::parse(&name, &text).with_context(|| format!("the scenario {name}"))
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        match toml::from_str::<toml::Table>(text)?.get("kind").and_then(toml::Value::as_str) {
            Some(START) => return Ok(Self::Start(Start::parse(name, text)?)),
            Some(READ) => return Ok(Self::Read(Read::parse(name, text)?)),
            _ => {}
        }
        if darter_scenario::is_bench(text)? {
            return Ok(Self::Bench(Bench::parse(name, text)?));
        }
        Ok(Self::Race(Box::new(Scenario::parse(name, text)?)))
    }

    /// All plans in the tree, races first, by name.
    pub fn all() -> Result<Vec<Self>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(darter_scenario::directory()).context("read the directory of scenarios")? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        let mut plans = names.iter().map(|name| Self::open(name)).collect::<Result<Vec<_>>>()?;
        plans.sort_by_key(|plan| match plan {
            Self::Race(_) => 0,
            Self::Start(_) => 1,
            Self::Read(_) => 2,
            Self::Bench(_) => 3,
        });
        Ok(plans)
    }

    /// Name, what it shows, and what is aimed at, for people.
    pub fn describe(&self) -> (&str, &str, String) {
        match self {
            Self::Race(scenario) => (&scenario.name, &scenario.about, scenario.goal.text()),
            Self::Start(start) => (&start.name, &start.about, start.goal.text()),
            Self::Read(read) => (&read.name, &read.about, read.goal.text()),
            Self::Bench(bench) => (&bench.name, &bench.about, bench.goal.text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_of_the_tree_can_be_read_and_aims_at_something() {
        let all = Plan::all().unwrap();
        assert!(matches!(all.first(), Some(Plan::Race(_))) && matches!(all.last(), Some(Plan::Bench(_))));
        for plan in &all {
            let (name, about, goal) = plan.describe();
            assert!(!about.is_empty() && !goal.is_empty(), "{name}");
        }
    }
}
