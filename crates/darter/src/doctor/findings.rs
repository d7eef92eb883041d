//! Findings: the results of checks, each with what to do about it.

use serde::Serialize;

/// The level of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    /// Something is slow or limited.
    Warning,
    /// Something does not work.
    Problem,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) area: &'static str,
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) text: String,
    /// What to do about it.
    pub(super) todo: Option<String>,
}

/// The findings about one area, in the order in which they were made.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) area: &'static str,
    pub(super) found: Vec<Finding>,
}

impl Findings {
    pub(super) fn about(area: &'static str) -> Self {
        Self { area, found: Vec::new() }
    }

    pub(super) fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(Level::Ok, check, text.into(), None);
    }

    pub(super) fn warning(&mut self, check: &'static str, text: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Warning, check, text.into(), Some(todo.into()));
    }

    pub(super) fn problem(&mut self, check: &'static str, text: impl Into<String>, todo: impl Into<String>) {
        self.add(Level::Problem, check, text.into(), Some(todo.into()));
    }

    fn add(&mut self, level: Level, check: &'static str, text: String, todo: Option<String>) {
        self.found.push(Finding { area: self.area, check, level, text, todo });
    }
}
