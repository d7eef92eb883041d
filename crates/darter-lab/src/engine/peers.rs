//! Other lazy snapshotters, built from their sources once, as the [release] of containerd is: stargz-snapshotter's library has no program in the
//! module proxy, so that a few lines of Go make one of it; soci-snapshotter's programs are a module of their own, and need a C compiler and zlib.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::release;
use crate::needs;
use crate::place::cache_directory;
use crate::process::Process;

/// The source of two programs on top of stargz-snapshotter's library: one serves snapshots, one converts a layer.
const STARGZ: &str = include_str!("stargz.go");
const STARGZ_MODULE: &str = "github.com/containerd/stargz-snapshotter@v0.19.1";
const SOCI_MODULE: &str = "github.com/awslabs/soci-snapshotter";
const SOCI_VERSION: &str = "v0.16.1";
/// The module of its programs has no releases.
const SOCI_PROGRAMS: &str = "github.com/awslabs/soci-snapshotter/cmd@v0.0.0-20260930233240-61147fe7c929";
/// How long fetching and building may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1200);

/// Another lazy snapshotter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// stargz-snapshotter, with layers converted to eStargz.
    Stargz,
    /// soci-snapshotter, with an index beside the layers as they are.
    Soci,
}

impl Peer {
    /// Its name, as in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stargz => "stargz",
            Self::Soci => "soci",
        }
    }

    /// The things that this machine lacks to build it, in words for people.
    pub fn lacking(self) -> Option<String> {
        if self.directory().is_ok_and(|directory| directory.is_dir()) {
            return None;
        }
        let lacks = || match self {
            Self::Stargz => None,
            Self::Soci if needs::find("cc").is_none() => Some("needs a C compiler".to_owned()),
            Self::Soci => {
                let has_zlib = Path::new("/usr/include/zlib.h").is_file();
                (!has_zlib).then(|| "needs zlib's headers (on Debian: zlib1g-dev)".to_owned())
            }
        };
        let lack = release::lacking_go().or_else(lacks)?;
        Some(format!("{} {lack}", self.name()))
    }

    /// The directory of its programs, built first when they aren't there. Runs that start together wait for one build.
    pub(super) fn programs(self) -> Result<PathBuf> {
        release::once(self.name(), &self.directory()?, |work, programs| self.build(work, programs))
    }

    fn directory(self) -> Result<PathBuf> {
        let version = match self {
            Self::Stargz => STARGZ_MODULE.rsplit('@').next().unwrap_or_default(),
            Self::Soci => SOCI_VERSION,
        };
        Ok(cache_directory()?.join(format!("{}-{version}", self.name())))
    }

    /// The program that serves snapshots, and the one that converts images.
    pub(crate) fn program(self, converts: bool) -> Result<PathBuf> {
        Ok(self.programs()?.join(match (self, converts) {
            (Self::Stargz, _) => "stargz",
            (Self::Soci, true) => "soci",
            (Self::Soci, false) => "soci-snapshotter-grpc",
        }))
    }

    fn build(self, work: &Path, programs: &Path) -> Result<()> {
        let source = work.join("source");
        fs::create_dir(&source).with_context(|| format!("create {}", source.display()))?;
        let go = |name: &str, arguments: &[&str]| {
            let mut command = Command::new("go");
            command.current_dir(&source).env("GOFLAGS", "-buildvcs=false").args(arguments);
            Process::spawn(&mut command, name, work)?.finish(BUILD_TIMEOUT)
        };
        go("init", &["mod", "init", self.name()])?;
        let output = programs.display().to_string();
        let build = ["build", "-ldflags", "-s -w", "-o", &output];
        match self {
            Self::Stargz => {
                fs::write(source.join("main.go"), STARGZ).context("write main.go")?;
                go("get", &["get", STARGZ_MODULE])?;
                go("tidy", &["mod", "tidy"])?;
                go("build", &[&build[..], &["."]].concat())?;
            }
            Self::Soci => {
                let paths = ["soci", "soci-snapshotter-grpc"].map(|program| format!("{SOCI_MODULE}/cmd/{program}"));
                let imports: String = paths.iter().map(|path| format!("import _ {path:?}\n")).collect();
                fs::write(source.join("tools.go"), format!("//go:build tools\n\npackage tools\n\n{imports}"))
                    .context("write tools.go")?;
                // The module of the programs wants the library from beside it.
                go("edit", &["mod", "edit", "-replace", &format!("{SOCI_MODULE}={SOCI_MODULE}@{SOCI_VERSION}")])?;
                go("get", &["get", SOCI_PROGRAMS])?;
                go("tidy", &["mod", "tidy", "-e"])?;
                go("build", &[&build[..], &paths.each_ref().map(String::as_str)].concat())?;
            }
        }
        let names: &[&str] = match self {
            Self::Stargz => &["stargz"],
            Self::Soci => &["soci", "soci-snapshotter-grpc"],
        };
        for name in names {
            ensure!(programs.join(name).is_file(), "go build left no {name}");
        }
        Ok(())
    }
}
