//! The directories of scenarios, and how one is found by its name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The directory of the laboratory's scenarios.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darter-lab/scenarios")
}

/// The directory of the scenarios that only virtual time can play.
pub fn fleets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fleets")
}

/// Name and text of a scenario or measurement: a file's path, or the name of one in the tree.
///
/// # Errors
/// For a file that can't be read.
pub fn read(name: &str) -> Result<(String, String)> {
    let file = format!("{name}.toml");
    let path = match name.ends_with(".toml") {
        true => PathBuf::from(name),
        false => Some(fleets().join(&file)).filter(|path| path.exists()).unwrap_or_else(|| directory().join(&file)),
    };
    let text = fs::read_to_string(&path).with_context(|| {
        let path = path.display();
        format!("can't read {path}; `cargo lab` without arguments lists scenarios, more are in crates/darter-scenario/fleets")
    })?;
    Ok((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), text))
}

/// True if a text is of a measurement of what one host does, and so of no race.
///
/// # Errors
/// For a text that is no TOML.
pub fn is_bench(text: &str) -> Result<bool> {
    Ok(toml::from_str::<toml::Table>(text)?.contains_key("kind"))
}
