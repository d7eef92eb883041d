//! A real Debian root file system, and layers of really installed software on top.
//!
//! The base is what `mmdebstrap` makes of the machine's own apt sources (no mirror is named here). Each further layer is the
//! upper directory of an overlay in which `apt-get install` ran, its whiteouts rewritten as the OCI's layer format
//! has them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;

/// How long installing may take before it counts as stuck: it fetches packages.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(600);

/// Runs apt in an overlay over finished layers; $1: lower directories, $2: upper, $3: work, $4: mount point, rest: packages.
const INSTALL: &str = r#"
lower=$1 upper=$2 work=$3 root=$4; shift 4
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
export DEBIAN_FRONTEND=noninteractive
chroot "$root" apt-get update -q
chroot "$root" apt-get install -q -y --no-install-recommends "$@"
chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root"/tmp/*
: > "$root/etc/resolv.conf"
"#;

/// Builds layers below one directory, each on all earlier ones.
#[derive(Debug)]
pub struct Builder {
    directory: PathBuf,
    layers: Vec<PathBuf>,
}

impl Builder {
    /// Makes the base layer: the smallest Debian of the machine's own release that has apt.
    pub fn debootstrap(directory: &Path) -> Result<Self> {
        let base = directory.join("base");
        let sources = directory.join("sources.list");
        fs::write(&sources, apt_sources()?).with_context(|| format!("write {}", sources.display()))?;
        let mut command = Command::new("mmdebstrap");
        command.args(["--variant=minbase", "--mode=root", "--format=directory"]);
        command.arg(release()?).arg(&base).arg(&sources);
        Process::spawn(&mut command, "mmdebstrap", directory)?.finish(INSTALL_TIMEOUT)?;
        Ok(Self { directory: directory.to_path_buf(), layers: vec![base] })
    }

    /// Installs packages in a new layer.
    pub fn install(&mut self, packages: &[&str]) -> Result<()> {
        let layer = self.directory.join(format!("layer{}", self.layers.len()));
        let [upper, work, root] = ["upper", "work", "root"].map(|name| layer.join(name));
        for directory in [&upper, &work, &root] {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        let lower: Vec<_> = self.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-euc", INSTALL, "sh"]);
        command.arg(lower.join(":")).arg(&upper).arg(&work).arg(&root).args(packages);
        Process::spawn(&mut command, &format!("install{}", self.layers.len()), &self.directory)?
            .finish(INSTALL_TIMEOUT)?;
        self.layers.push(upper);
        Ok(())
    }

    /// Gives the layers' directories, lowest first, ready for [`Tar::of`].
    pub fn finish(self) -> Result<Vec<PathBuf>> {
        for layer in &self.layers[1..] {
            rewrite_whiteouts(layer)?;
        }
        Ok(self.layers)
    }
}

/// A directory as a stream of tar, without what a container mounts anyway.
#[derive(Debug)]
pub struct Tar {
    child: Child,
    stream: ChildStdout,
}

impl Tar {
    /// Starts packing `directory`.
    pub fn of(directory: &Path) -> Result<Self> {
        let mut child = Command::new("tar")
            .arg("--directory")
            .arg(directory)
            .args(["--numeric-owner", "--sort=name", "--exclude=./dev/*", "--exclude=./proc/*", "--create", "."])
            .stdout(Stdio::piped())
            .spawn()
            .context("start tar")?;
        let stream = child.stdout.take().context("tar has a standard output")?;
        Ok(Self { child, stream })
    }
}

impl Read for Tar {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer)?;
        if read == 0 && !buffer.is_empty() && !self.child.wait()?.success() {
            return Err(std::io::Error::other("tar failed"));
        }
        Ok(read)
    }
}

impl Drop for Tar {
    fn drop(&mut self) {
        // The child has ended already unless its reader gave up.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Debian's code name of this machine's release.
fn release() -> Result<String> {
    os_release("VERSION_CODENAME")
}

fn os_release(key: &str) -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
        .with_context(|| format!("/etc/os-release has no {key}"))
}

/// The distribution's own sources as apt is configured here, in the one-line form; foreign repositories are left out.
fn apt_sources() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)", "Created-By: Packages"])
        .output()
        .context("start apt-get")?;
    let sources = distribution_sources(&String::from_utf8_lossy(&output.stdout), &os_release("ID")?);
    ensure!(!sources.is_empty(), "apt knows no repository of the distribution; run apt-get update first");
    Ok(sources)
}

fn distribution_sources(targets: &str, distribution: &str) -> String {
    let mut sources = String::new();
    for line in targets.lines() {
        let fields: Vec<_> = line.split('|').collect();
        if let [origin, uri, release, component] = fields[..]
            && origin.eq_ignore_ascii_case(distribution)
        {
            sources.push_str(&format!("deb {uri} {release} {component}\n"));
        }
    }
    sources
}

/// Turns overlayfs's marks of removal (a character device 0/0, an opaque directory) into those of OCI layers.
fn rewrite_whiteouts(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        let data = path.symlink_metadata().with_context(|| format!("look at {}", path.display()))?;
        if data.is_dir() {
            if is_opaque(&path) {
                mark(&path.join(".wh..wh..opq"))?;
            }
            rewrite_whiteouts(&path)?;
        } else if data.file_type().is_char_device() && data.rdev() == 0 {
            let name = path.file_name().context("a directory's entry has a name")?.to_string_lossy().into_owned();
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
            mark(&directory.join(format!(".wh.{name}")))?;
        }
    }
    Ok(())
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(directory, "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y")
}

fn mark(path: &Path) -> Result<()> {
    File::create(path).and_then(|mut file| file.flush()).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_distributions_own_repositories_are_taken() {
        let targets = "Debian|http://mirror.test/debian/|trixie|main\n\
                       Somebody|http://other.test/|nodistro|main\n\
                       Debian|http://mirror.test/security/|trixie-security|main\n";
        assert_eq!(
            distribution_sources(targets, "debian"),
            "deb http://mirror.test/debian/ trixie main\ndeb http://mirror.test/security/ trixie-security main\n"
        );
    }
}
