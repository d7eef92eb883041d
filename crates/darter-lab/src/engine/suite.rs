//! containerd's own suite for snapshotters, built from its source once. It asks any snapshots service over its socket, and mounts what it is told to.
//!
//! Cached below the laboratory's cache by its version. Building takes what [`release`](super::release) does.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::release::{MODULE, VERSION};
use crate::netns::Host;
use crate::place::cache_directory;
use crate::process::Process;

/// How long fetching and building may take.
const BUILD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the suite may take: half a minute on an idle machine.
const SUITE_TIMEOUT: Duration = Duration::from_secs(300);

/// A test that asks the service at `$SNAPSHOTTER`. The suite knows of `overlayfs` that a directory of a lower layer can't be renamed on all kernels.
const TEST: &str = r#"package suite

import (
	"context"
	"os"
	"testing"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	_ "github.com/containerd/containerd/v2/pkg/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

func TestSnapshotter(t *testing.T) {
	testsuite.SnapshotterSuite(t, "overlayfs", func(context.Context, string) (snapshots.Snapshotter, func() error, error) {
		conn, err := grpc.NewClient("unix://"+os.Getenv("SNAPSHOTTER"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, nil, err
		}
		return proxy.NewSnapshotter(api.NewSnapshotsClient(conn), "darter"), conn.Close, nil
	})
}
"#;

/// Runs the suite against the service at `socket`, among the mounts of the process `beside` that serves it: the names of the tests that passed.
pub fn run(host: &Host, socket: &Path, beside: u32) -> Result<Vec<String>> {
    let program = program()?;
    let directory = host.make_directory("suite")?;
    let mut command = host.command_beside(beside, program);
    command.args(["-test.root", "-test.v", "-test.timeout", &format!("{}s", SUITE_TIMEOUT.as_secs())]);
    command.env("SNAPSHOTTER", socket).env("TMPDIR", &directory).current_dir(&directory);
    let told = host.run("snapshots-suite", &mut command, SUITE_TIMEOUT)?;
    let passed =
        |line: &str| line.trim().strip_prefix("--- PASS: TestSnapshotter/")?.split(' ').next().map(str::to_owned);
    Ok(told.lines().filter_map(passed).collect())
}

/// The suite's program, built first when it isn't there. Runs that start together wait for one build.
fn program() -> Result<PathBuf> {
    let cache = cache_directory()?;
    let program = cache.join(format!("snapshots-suite-{VERSION}"));
    let lock = File::create(cache.join("snapshots-suite.lock")).context("create the lock of the suite's build")?;
    lock.lock().context("wait for another run to build the suite")?;
    if !program.is_file() {
        eprintln!("building containerd's suite for snapshotters in {} (once; a minute or two)", cache.display());
        build(&cache, &program).with_context(|| format!("build the suite of containerd {VERSION}"))?;
    }
    Ok(program)
}

fn build(cache: &Path, program: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(cache).context("create a directory to build in")?;
    let source = work.path().join("source");
    fs::create_dir(&source).with_context(|| format!("create {}", source.display()))?;
    fs::write(source.join("suite_test.go"), TEST).context("write suite_test.go")?;
    let go = |name: &str, arguments: &[&str]| {
        let mut command = Command::new("go");
        command.current_dir(&source).env("GOFLAGS", "-buildvcs=false").env("CGO_ENABLED", "0").args(arguments);
        Process::spawn(&mut command, name, work.path())?.finish(BUILD_TIMEOUT)
    };
    go("init", &["mod", "init", "suite"])?;
    go("get", &["get", &format!("{MODULE}@{VERSION}")])?;
    go("tidy", &["mod", "tidy"])?;
    let built = work.path().join("suite");
    go("build", &["test", "-c", "-ldflags", "-s -w", "-o", &built.display().to_string(), "."])?;
    ensure!(built.is_file(), "go test -c left no program");
    fs::rename(&built, program).with_context(|| format!("name {}", program.display()))
}
