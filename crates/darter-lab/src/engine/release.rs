//! The containerd release that fetches a layer by several ranges at a time and mounts layers that have not come, and the program that asks it as
//! a kubelet does, built from their sources once: distributions have older ones.
//!
//! Cached below the laboratory's cache by its version. Building takes Go and its module proxy, and a minute or two.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::needs;
use crate::place::cache_directory;
use crate::process::Process;

pub(super) const MODULE: &str = "github.com/containerd/containerd/v2";
pub(super) const VERSION: &str = "v2.4.2";
/// The release of Go that the module wants.
const GO: (u32, u32) = (1, 26);
/// Parts that are left out: file systems that are not used here, and traces.
const WITHOUT: &str = "no_btrfs,no_devmapper,no_zfs,no_aufs,no_tracing";
const PROGRAMS: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
/// The program that asks containerd as a kubelet does.
const CRI_MODULE: &str = "sigs.k8s.io/cri-tools";
const CRI_VERSION: &str = "v1.34.0";
const CRI_PROGRAM: &str = "crictl";
/// How long fetching and building may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);

/// The things that this machine lacks to build it, in words for people.
pub fn lacking() -> Option<String> {
    if built().is_ok_and(|directory| directory.is_dir()) {
        return None;
    }
    lacking_go()
}

/// The things that this machine lacks to build anything written in Go, in words for people.
pub(super) fn lacking_go() -> Option<String> {
    let wanted = format!("needs Go {}.{} to build containerd {VERSION}", GO.0, GO.1);
    let Some(go) = needs::find("go") else { return Some(wanted) };
    let output = Command::new(go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout);
    (!is_new_enough(version.trim())).then(|| format!("{wanted}, and has {}", version.trim()))
}

/// The directory of its programs, built first when they aren't there. Runs that start together wait for one build.
pub(super) fn programs() -> Result<PathBuf> {
    let paths: Vec<_> = PROGRAMS.iter().map(|program| format!("{MODULE}/cmd/{program}")).collect();
    built_once("containerd", &built()?, &Commands { module: MODULE, version: VERSION, paths })
}

/// The program `crictl`, built first when it isn't there.
pub(super) fn crictl() -> Result<PathBuf> {
    let paths = vec![format!("{CRI_MODULE}/cmd/{CRI_PROGRAM}")];
    let directory = cache_directory()?.join(format!("{CRI_PROGRAM}-{CRI_VERSION}"));
    let directory = built_once(CRI_PROGRAM, &directory, &Commands { module: CRI_MODULE, version: CRI_VERSION, paths })?;
    Ok(directory.join(CRI_PROGRAM))
}

fn built() -> Result<PathBuf> {
    // One without a kubelet's questions was called by the version alone.
    Ok(cache_directory()?.join(format!("containerd-{VERSION}-cri")))
}

/// Commands of a module.
struct Commands {
    module: &'static str,
    version: &'static str,
    paths: Vec<String>,
}

fn built_once(name: &str, directory: &Path, commands: &Commands) -> Result<PathBuf> {
    once(name, directory, |work, programs| build(work, programs, commands))
}

/// A directory of programs, built first when it isn't there. `build` is given a directory to work in, and one for the programs. Runs that start
/// together wait for one build.
pub(super) fn once(name: &str, directory: &Path, build: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let cache = cache_directory()?;
    let lock = File::create(cache.join(format!("{name}.lock")))
        .with_context(|| format!("create the lock of {name}'s build"))?;
    lock.lock().with_context(|| format!("wait for another run to build {name}"))?;
    if !directory.is_dir() {
        eprintln!("building {name} in {} (once; a minute or two)", directory.display());
        let work = tempfile::tempdir_in(&cache).context("create a directory to build in")?;
        let programs = work.path().join("programs");
        fs::create_dir(&programs).with_context(|| format!("create {}", programs.display()))?;
        build(work.path(), &programs).with_context(|| format!("build {name}"))?;
        fs::rename(&programs, directory).with_context(|| format!("name {}", directory.display()))?;
    }
    Ok(directory.to_path_buf())
}

fn build(work: &Path, programs: &Path, Commands { module, version, paths }: &Commands) -> Result<()> {
    let source = work.join("source");
    fs::create_dir(&source).with_context(|| format!("create {}", source.display()))?;
    // Commands that nothing here imports: named so that the module's own requirements are written down for them.
    let imports: String = paths.iter().map(|path| format!("import _ {path:?}\n")).collect();
    fs::write(source.join("tools.go"), format!("//go:build tools\n\npackage tools\n\n{imports}"))
        .context("write tools.go")?;
    let go = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("go");
        command.current_dir(&source).env("GOFLAGS", "-buildvcs=false").env("CGO_ENABLED", "0").args(arguments);
        Process::spawn(&mut command, name, work)?.finish(BUILD_TIMEOUT)
    };
    go("init", &["mod", "init", "tools"])?;
    go("get", &["get", &format!("{module}@{version}")])?;
    go("tidy", &["mod", "tidy", "-e"])?;
    let output = format!("{}/", programs.display());
    let mut arguments = vec!["build", "-tags", WITHOUT, "-ldflags", "-s -w", "-o", &output];
    arguments.extend(paths.iter().map(String::as_str));
    go("build", &arguments)?;
    for path in paths {
        let program = path.rsplit('/').next().unwrap_or_default();
        ensure!(programs.join(program).is_file(), "go build left no {program}");
    }
    Ok(())
}

/// True if `go1.26.8` is new enough.
fn is_new_enough(version: &str) -> bool {
    let mut numbers =
        version.trim_start_matches("go").split(['.', 'r', 'b', '-', ' ']).map_while(|part| part.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    found >= GO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_of_go_is_told_by_its_first_two_numbers() {
        for new in ["go1.26", "go1.26.8", "go1.27rc1", "go1.30.1", "go2.0"] {
            assert!(is_new_enough(new), "{new}");
        }
        for old in ["go1.25.9", "go1.9", "devel", ""] {
            assert!(!is_new_enough(old), "{old}");
        }
    }
}
