//! What `cargo lab` can be asked for: files in `scenarios`, each a race or, with a `kind`, a measurement on one host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::race::Scenario;

/// One of the laboratory's files.
#[derive(Clone, Debug)]
pub enum Plan {
    /// A race of many hosts.
    Race(Box<Scenario>),
    /// A measurement of what one host does.
    Bench(Bench),
}

impl Plan {
    /// Reads a plan: a file's path, or the name of one in the tree.
    pub fn open(name: &str) -> Result<Self> {
        let path = if name.ends_with(".toml") { PathBuf::from(name) } else { directory().join(format!("{name}.toml")) };
        let text = fs::read_to_string(&path).with_context(|| {
            format!("can't read {}; `cargo lab` without arguments lists the scenarios", path.display())
        })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::parse(&name, &text).with_context(|| format!("the scenario {}", path.display()))
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let table: toml::Table = toml::from_str(text)?;
        if table.contains_key("kind") {
            return Ok(Self::Bench(Bench::parse(name, text)?));
        }
        Ok(Self::Race(Box::new(Scenario::parse(name, text)?)))
    }

    /// All plans in the tree, races first, by name.
    pub fn all() -> Result<Vec<Self>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory()).context("read the directory of scenarios")? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
            }
        }
        names.sort();
        let mut plans = names.iter().map(|name| Self::open(name)).collect::<Result<Vec<_>>>()?;
        plans.sort_by_key(|plan| matches!(plan, Self::Bench(_)));
        Ok(plans)
    }

    /// Name, what it shows, and what is aimed at, for people.
    pub fn describe(&self) -> (&str, &str, String) {
        match self {
            Self::Race(scenario) => (&scenario.name, &scenario.about, scenario.goal.text()),
            Self::Bench(bench) => (&bench.name, &bench.about, bench.goal.text()),
        }
    }
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
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
