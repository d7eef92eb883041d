//! The lock by which one process at a time has a store. The kernel releases it however the process ends. Only the owner can open the file, since
//! every user who can open a file can lock it.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::dir::Dir;
use crate::error::{Result, StoreError};

const NAME: &str = "lock";

/// A lock, which is released when this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the store in `dir`; the error names the process that has it.
    pub(super) fn take(dir: &Dir) -> Result<Self> {
        let (file, path) = open(dir)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::sign(file, &path),
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked { pid: holder(&file), path }),
            Err(refusal) => Err(StoreError::io("lock", &path)(refusal.into())),
        }
    }

    fn sign(mut file: File, path: &Path) -> Result<Self> {
        file.set_len(0).map_err(StoreError::io("write", path))?;
        write!(file, "{}", std::process::id()).map_err(StoreError::io("write", path))?;
        Ok(Self { file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // To close the file is not enough: a child that is being started just now has it open, too, until it is another program.
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

fn open(dir: &Dir) -> Result<(File, PathBuf)> {
    let path = dir.path_of(NAME);
    let file = dir.open_or_create(NAME).map_err(StoreError::io("open", &path))?;
    Ok((file, path))
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_let_go_although_a_child_that_is_being_started_has_its_file() {
        let made = tempfile::tempdir().unwrap();
        let dir = Dir::open(made.path()).unwrap();
        let lock = Lock::take(&dir).unwrap();
        let of_child = lock.file.try_clone().unwrap();
        assert!(
            matches!(Lock::take(&dir), Err(StoreError::Locked { pid: Some(pid), .. }) if pid == std::process::id())
        );
        drop(lock);
        Lock::take(&dir).unwrap();
        drop(of_child);
    }
}
