//! Small images that are made for one scenario: programs of this machine, and files of which every byte is known.
//!
//! A container of one needs nothing else of an image: a program is there with the libraries that the loader finds for it.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use darter_core::Digest;
use serde_json::Value;

use crate::image::{Image, architecture, describe};
use crate::needs;
use crate::oci::{Layer, Layout};
use crate::race::noise::splitmix;
use crate::rootfs::Tar;
use crate::storage::shelve;

/// The one user of these images.
pub const USER: &str = "worker";
/// That user's number.
pub const USER_ID: u32 = 1234;

/// Images of directories, and the storage of a registry that has them.
#[derive(Debug)]
pub struct Workshop {
    directory: PathBuf,
    layout: Layout,
}

impl Workshop {
    /// Makes images below a directory, which is new or empty.
    pub fn new(directory: &Path) -> Result<Self> {
        Ok(Self { directory: directory.to_path_buf(), layout: Layout::create(&directory.join("layout"))? })
    }

    /// The storage of a registry that has the images.
    pub fn storage(&self) -> PathBuf {
        self.directory.join("registry")
    }

    /// Makes a layer of what is in a directory.
    pub fn layer(&self, directory: &Path) -> Result<Layer> {
        self.layout.add_layer(Tar::of(directory)?).with_context(|| format!("make a layer of {}", directory.display()))
    }

    /// Makes a layer of a tar.
    pub fn layer_of(&self, tar: impl Read) -> Result<Layer> {
        self.layout.add_layer(tar)
    }

    /// Makes an image of layers, the lowest first. `name` is repository and tag, `config` is what a container is started with.
    pub fn image(&self, name: &str, layers: &[Layer], config: &Value) -> Result<Image> {
        let manifest = self.layout.add_manifest_with(architecture(), layers, config)?;
        let image = describe(&self.directory.join("layout"), name, None, &manifest, layers.to_vec())?;
        fs::create_dir_all(self.storage()).context("create a registry's storage")?;
        shelve(&self.storage(), &image, |digest: &Digest| self.layout.blob(*digest))?;
        Ok(image)
    }
}

/// Copies programs of this machine into a root directory, with their libraries, and a list of users.
pub fn programs(root: &Path, names: &[&str]) -> Result<()> {
    let etc = root.join("etc");
    fs::create_dir_all(&etc).with_context(|| format!("create {}", etc.display()))?;
    let users = format!("root:x:0:0::/:/bin/sh\n{USER}:x:{USER_ID}:{USER_ID}::/:/bin/sh\n");
    fs::write(etc.join("passwd"), users).context("write a list of users")?;
    fs::write(etc.join("group"), format!("root:x:0:\n{USER}:x:{USER_ID}:\n")).context("write a list of groups")?;
    for name in names {
        let program = needs::find(name).with_context(|| format!("this machine has no program {name}"))?;
        copy(&program, &root.join("bin").join(name))?;
        for library in libraries(&program)? {
            copy(&library, &root.join(library.strip_prefix("/").context("a library's path is absolute")?))?;
        }
    }
    Ok(())
}

/// The loader and the libraries that a program needs.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("start ldd")?;
    ensure!(output.status.success(), "ldd can't tell what {} needs", program.display());
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file is in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    // The bytes behind links: the layer has no other copy.
    fs::copy(from, to).map(drop).with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

/// Writes a file of `length` bytes that no compressor makes smaller; another `number` gives other bytes.
pub fn noise(path: &Path, number: u64, length: u64) -> Result<()> {
    let parent = path.parent().context("a file is in a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut left = length;
    for word in 0.. {
        let bytes = splitmix(number << 40 | word).to_le_bytes();
        let count = left.min(8) as usize;
        if count == 0 {
            break;
        }
        file.write_all(&bytes[..count]).with_context(|| format!("write {}", path.display()))?;
        left -= count as u64;
    }
    file.flush().with_context(|| format!("write {}", path.display()))
}

/// A number without a pattern for each number, the same in every run.
pub fn drawn(number: u64) -> u64 {
    splitmix(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_program_runs_with_nothing_but_what_was_copied() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root runs a program in another root directory");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        programs(root.path(), &["cat"]).unwrap();
        noise(&root.path().join("data/x"), 7, 1001).unwrap();
        let output = Command::new("chroot").arg(root.path()).args(["/bin/cat", "/data/x"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, fs::read(root.path().join("data/x")).unwrap());
        assert_eq!(output.stdout.len(), 1001);
    }

    #[test]
    fn images_of_one_workshop_share_their_layers() {
        let (place, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        noise(&root.path().join("x"), 1, 10).unwrap();
        let workshop = Workshop::new(place.path()).unwrap();
        let layer = workshop.layer(root.path()).unwrap();
        let config = |user: &str| json!({ "User": user, "Cmd": ["/bin/cat"] });
        let one = workshop.image("a/one:1", std::slice::from_ref(&layer), &config("")).unwrap();
        let two = workshop.image("a/two:1", std::slice::from_ref(&layer), &config(USER)).unwrap();
        assert_ne!(one.config, two.config);
        for image in [one, two] {
            for blob in image.blobs() {
                let hex = blob.to_string().replace("sha256:", "");
                let at = workshop.storage().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex);
                assert_eq!(crate::oci::digest_of(&at.join("data")).unwrap(), blob);
            }
        }
    }
}
