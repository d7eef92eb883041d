//! The kernel mounts of an image: each layer's file as EROFS, and overlayfs over them, read-only. Blocking; only root may do this.
//!
//! Setuid files and device nodes of an image have no effect on this host (`nosuid`, `nodev`).
//!
//! The layers' mount points are detached from the file system's tree as soon as the overlay is mounted: the overlay keeps them alive, and all of them
//! end with the one mount that users see.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use darter_mount::erofs::{self, INERT};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount, unmount};

use super::unmount::unmount as take_away;

/// Most layers that the kernel can stack.
const MAX_LAYERS: usize = 500;

/// Refuses what can be refused before any server is asked.
pub(super) fn check() -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may mount an image: run this with sudo. Users can mount a single file (darter mount URL DIR)");
    }
    // Missing kernel modules are no reason to refuse: the first mount loads them.
    Ok(())
}

/// A directory with a mount in it, which is unmounted when this is dropped, unless that was done before.
struct Below(PathBuf);

impl Drop for Below {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// Mounts the files, given the lowest first, below `work`, and the overlay of all of them at `dir`.
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
    // Relative names are short: a mount's options must fit into a page.
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

/// Unmounts an image.
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
