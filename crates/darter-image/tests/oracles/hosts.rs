//! Abilities of this host: a kernel that mounts EROFS, and programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::support::expand;

/// Says why something is left out.
pub(crate) fn leave_out(what: &str) {
    eprintln!("left out: {what}");
}

/// Says why something that root of a continuous integration has to do is left out; there it is a failure, as a lack is in the laboratory.
fn leave_out_elsewhere(what: &str) {
    let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true" || value == "1");
    assert!(!(in_ci && rustix::process::geteuid().is_root()), "this test can't run, and has to: {what}");
    leave_out(what);
}

/// The release of Go that containerd wants. Distributions have older ones: without it the comparison is left out anywhere, as the laboratory's scenarios are.
const GO: (u32, u32) = (1, 26);

/// True if this host has that release of Go.
fn has_go() -> bool {
    let told = run(Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local")).unwrap_or_default();
    let mut numbers = told.trim().trim_start_matches("go").split('.').map_while(|number| number.parse().ok());
    let has = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if has < GO {
        leave_out(&format!("Go {}.{} is not installed: {:?}", GO.0, GO.1, told.trim()));
    }
    has >= GO
}

/// True if this host has `program`.
pub(crate) fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let is_there = found.is_ok();
    if !is_there {
        leave_out(&format!("{program} is not installed"));
    }
    is_there
}

/// True if layers can be mounted and owners given.
pub(crate) fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        leave_out("only root mounts");
        return false;
    }
    let image = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(image.path(), expand(&[]).unwrap()).unwrap();
    // A container's root may not, and a kernel may lack EROFS.
    Mounted::tried(image.path()).inspect_err(|told| leave_out_elsewhere(told)).is_ok()
}

/// Runs a command; what it says if it fails.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr) + &text(&output.stdout)) }
}

/// A file system that is mounted until this is dropped.
pub(crate) struct Mounted {
    pub(crate) at: TempDir,
}

impl Mounted {
    pub(crate) fn new(image: &Path) -> Self {
        Self::tried(image).unwrap_or_else(|told| panic!("{told}"))
    }

    fn tried(image: &Path) -> Result<Self, String> {
        let at = TempDir::new().unwrap();
        let mount =
            |options: &str| run(Command::new("mount").args(["-t", "erofs", "-o", options]).arg(image).arg(at.path()));
        // Before Linux 6.12 a file needs a loop device.
        mount("ro").or_else(|_| mount("ro,loop"))?;
        Ok(Self { at })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(self.at.path()));
    }
}

/// The program that shows what containerd does, built once; `None` without Go, or without the modules.
pub(crate) fn oracle() -> Option<&'static Path> {
    static ORACLE: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let built = ORACLE.get_or_init(|| {
        if !has_go() {
            return None;
        }
        let room = TempDir::new().unwrap();
        std::fs::write(room.path().join("main.go"), include_str!("oracle.go")).unwrap();
        let containerd = "github.com/containerd/containerd/v2/pkg/archive@v2.4.2";
        for arguments in [
            ["mod", "init", "oracle"].as_slice(),
            &["get", "github.com/containerd/containerd/v2@v2.4.2", containerd, "github.com/erofs/go-erofs@v0.3.1"],
            &["build", "-o", "oracle", "."],
        ] {
            if let Err(error) = run(Command::new("go").args(arguments).current_dir(room.path())) {
                leave_out_elsewhere(&format!("go {}: {error}", arguments.join(" ")));
                return None;
            }
        }
        let program = room.path().join("oracle");
        Some((room, program))
    });
    built.as_ref().map(|(_, program)| program.as_path())
}
