//! Where scenarios lie, and how one is found by its name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

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
