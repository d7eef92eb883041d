//! The files that secrets belong into: which of them are missing, and writing those.
//!
//! Invariants: only this user can read a file before anything is written into it; existing files are never changed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use darter_origin::settings;

use crate::cli::upstream::Secret;
use crate::failure::Failure;

/// The files that do not exist or do not hold their secrets.
pub(crate) fn not_there(secrets: &[Secret]) -> Vec<&Path> {
    let is_there = |secret: &Secret| first_line(&secret.file).is_ok_and(|line| line == secret.line);
    secrets.iter().filter(|secret| !is_there(secret)).map(|secret| secret.file.as_path()).collect()
}

/// Writes the secrets whose files do not exist.
pub(crate) fn write(directory: &Path, secrets: &[Secret]) -> Result<(), Failure> {
    let failed = |path: &Path, error: std::io::Error| {
        Failure::Usage(format!("can't write {}: {error} (give --write-secrets another directory)", path.display()))
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|error| failed(directory, error))?;
    for secret in secrets {
        let path = &secret.file;
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let written = file.write_all(format!("{}\n", secret.line).as_bytes()).and_then(|()| file.sync_all());
                written.map_err(|error| failed(path, error))?;
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !first_line(path).is_ok_and(|line| line == secret.line) {
                    return Err(Failure::Usage(format!(
                        "{} exists already, with other contents: move it away, or give --write-secrets another \
                         directory",
                        path.display()
                    )));
                }
            }
            Err(error) => return Err(failed(path, error)),
        }
    }
    Ok(())
}

fn first_line(path: &Path) -> std::io::Result<String> {
    let text = settings::read_text(path)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
