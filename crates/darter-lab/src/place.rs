//! The laboratory's directories, and the `darter` binary that belongs to this build.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

/// The longest run directory in which the engines' unix sockets still fit: a socket's path has room for 107 bytes.
const MAX_RUN_DIRECTORY: usize = 60;

/// Cargo's directory for this build's profile, such as `target/debug`.
pub fn profile_directory() -> Result<PathBuf> {
    let executable = env::current_exe().context("find this program's own path")?;
    executable
        .ancestors()
        .skip(1)
        .find(|directory| !directory.ends_with("deps") && !directory.ends_with("examples"))
        .map(Path::to_path_buf)
        .context("this program does not lie in a cargo target directory")
}

/// The directory in which images are kept from one run to the next: `DARTER_LAB_CACHE`, or `lab` in cargo's target directory.
pub fn cache_directory() -> Result<PathBuf> {
    let directory = match env::var_os("DARTER_LAB_CACHE") {
        Some(directory) => PathBuf::from(directory),
        None => profile_directory()?.parent().context("cargo's profile directory has a parent")?.join("lab"),
    };
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    directory.canonicalize().with_context(|| format!("resolve {}", directory.display()))
}

/// The directory of files that runs throw away: `runs` in the cache, or the system's temporary directory when that path is too
/// long for the unix sockets below it.
pub(crate) fn runs_directory() -> Result<PathBuf> {
    let preferred = cache_directory()?.join("runs");
    let fits = preferred.as_os_str().len() <= MAX_RUN_DIRECTORY - "/1234567-99".len();
    let directory = if fits { preferred } else { env::temp_dir().join("darter-lab") };
    fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
    Ok(directory)
}

/// The `darter` binary of this build: `DARTER_LAB_BINARY`, or the one in this profile's directory, built first when it is
/// missing or older than the workspace's sources.
pub fn darter_binary() -> Result<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(|| find_or_build().map_err(|error| format!("{error:#}"))).clone().map_err(anyhow::Error::msg)
}

fn find_or_build() -> Result<PathBuf> {
    if let Some(binary) = env::var_os("DARTER_LAB_BINARY") {
        let binary = PathBuf::from(binary);
        ensure!(binary.is_file(), "DARTER_LAB_BINARY names {}, which is not a file", binary.display());
        return Ok(binary);
    }
    let directory = profile_directory()?;
    let binary = directory.join("darter");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if modified(&binary).is_some_and(|built| newest_source(&workspace) <= built) {
        return Ok(binary);
    }
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(&workspace).args(["build", "--quiet", "--package", "darter"]);
    build.arg("--target-dir").arg(directory.parent().context("a profile directory has a parent")?);
    if directory.ends_with("release") {
        build.arg("--release");
    }
    ensure!(build.status().context("start cargo")?.success(), "cargo build --package darter failed");
    ensure!(binary.is_file(), "cargo build --package darter left no {}", binary.display());
    Ok(binary)
}

/// When a source of the binary changed last. The laboratory itself is no part of the binary.
fn newest_source(workspace: &Path) -> SystemTime {
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut pending = vec![workspace.join("Cargo.lock"), workspace.join("Cargo.toml")];
    for entry in fs::read_dir(workspace.join("crates")).into_iter().flatten().flatten() {
        if entry.file_name() != "darter-lab" {
            pending.push(entry.path().join("src"));
        }
    }
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if let Some(time) = modified(&path) {
            newest = newest.max(time);
        }
    }
    newest
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}
