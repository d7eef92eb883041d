//! What a race is about, as a file: hosts, links, content, arrivals and deaths; the bound that follows from it; and what is aimed at.
//!
//! The laboratory plays it with real agents on shaped links, the simulator in virtual time. Neither needs the other.
//!
//! | file | what lives there |
//! |---|---|
//! | [`race`] | [`Scenario`]: hosts, links, content and events of a race, and its bound T* |
//! | [`goal`] | [`Goal`]: what it aims at, in numbers |
//!
//! Non-goals: the laboratory's measurements of what one host does, which lie beside the races; how anything is played.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub mod goal;
pub mod race;

pub use goal::Goal;
pub use race::{Link, Scenario};

/// Where the tree's scenarios are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darter-lab/scenarios")
}

/// Name and text of a scenario or measurement: a file's path, or the name of one in the tree.
///
/// # Errors
/// For a file that can't be read.
pub fn read(name: &str) -> Result<(String, String)> {
    let path = if name.ends_with(".toml") { PathBuf::from(name) } else { directory().join(format!("{name}.toml")) };
    let text = fs::read_to_string(&path)
        .with_context(|| format!("can't read {}; `cargo lab` without arguments lists the scenarios", path.display()))?;
    Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text))
}

/// Whether a text is of a measurement of what one host does, and so of no race.
///
/// # Errors
/// For a text that is no TOML.
pub fn is_bench(text: &str) -> Result<bool> {
    Ok(toml::from_str::<toml::Table>(text)?.contains_key("kind"))
}
