//! The kernel's end of an image: each layer's file mounted as EROFS, and overlayfs over them, read-only. Blocking, and for root alone.
//!
//! Nothing in an image is believed to be this host's: its setuid files and device nodes mean nothing here.
//!
//! The lowest directories are taken out of the file system's tree as soon as the overlay stands on them: it keeps them, and all of it ends
//! with the one mount that people see.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use darter_mount::erofs::{self, INERT};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, unmount};

use super::unmount::unmount as take_away;

/// Layers that the kernel stacks, at most.
const MAX_LAYERS: usize = 500;

/// Refuses what can be refused before anybody is asked.
pub(super) fn check() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may mount an image: run this with sudo. Users can mount a single file (darter mount URL DIR)");
    }
    // A module is loaded by the first mount.
    Ok(())
}

/// A directory with a mount in it that goes when this is dropped, unless it is gone by then.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Mounts the files, the lowest first, below `work` and all of them together at `dir`.
pub(super) fn mount_all(files: &[PathBuf], work: &Path, dir: &Path) -> anyhow::Result<()> {
    if files.len() > MAX_LAYERS {
        bail!(
            "the image has {} layers, and the kernel stacks {MAX_LAYERS} at most: pull it with a container engine instead",
            files.len()
        );
    }
    if let [only] = files {
        return Ok(erofs::mount(only, dir, INERT)?);
    }
    let mut below = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let layer = work.join(number.to_string());
        std::fs::create_dir_all(&layer).with_context(|| format!("can't make {}", layer.display()))?;
        erofs::mount(file, &layer, INERT)?;
        below.push(Below(layer));
    }
    // The names are relative, since a mount's options may have a page.
    let lower: Vec<_> = (0..files.len()).rev().map(|number| number.to_string()).collect();
    let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":")))?;
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    std::env::set_current_dir(work).with_context(|| format!("can't enter {}", work.display()))?;
    let mounted = mount("darter", dir, "overlay", INERT, Some(options.as_c_str()));
    let _ = std::env::set_current_dir(here);
    match mounted {
        Ok(()) => Ok(()),
        Err(Errno::NODEV) => bail!("this kernel has no overlayfs: load it with `modprobe overlay`"),
        Err(error) => {
            let why = format!("can't mount the image's {} layers at {}", files.len(), dir.display());
            Err(io::Error::from(error)).context(why)
        }
    }
}

/// Takes an image away that was mounted.
pub(super) fn away(dir: &Path) {
    if let Err(error) = take_away(dir, true) {
        tracing::warn!(error = %format!("{error:#}"), "can't unmount the image");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_told_that_this_is_roots() {
        let is_root = rustix::process::geteuid().is_root();
        let told = check().map_err(|error| error.to_string());
        assert!(told.is_ok() == is_root && told.err().is_none_or(|told| told.contains("root")));
    }
}
