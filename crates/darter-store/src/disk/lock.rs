//! One process a store: a lock that the kernel lets go of however the process ends.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Result, StoreError};

/// A held lock; let go when dropped.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of the store in `dir` or says who has it.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let (file, path) = open(dir)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Self::sign(file, &path),
            Err(Errno::WOULDBLOCK) => Err(StoreError::Locked { pid: holder(&file), path }),
            Err(refusal) => Err(StoreError::io("lock", &path)(refusal.into())),
        }
    }

    /// Takes the lock of the store in `dir`; when somebody has it, calls `waiting` and waits.
    pub(super) fn wait(dir: &Path, waiting: impl FnOnce(Option<u32>)) -> Result<Self> {
        let (file, path) = open(dir)?;
        // Any other refusal comes again below.
        if flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            waiting(holder(&file));
        }
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Self::sign(file, &path),
                Err(Errno::INTR) => {}
                Err(refusal) => return Err(StoreError::io("lock", &path)(refusal.into())),
            }
        }
    }

    fn sign(mut file: File, path: &Path) -> Result<Self> {
        file.set_len(0).map_err(StoreError::io("write", path))?;
        write!(file, "{}", std::process::id()).map_err(StoreError::io("write", path))?;
        Ok(Self { _file: file })
    }
}

fn open(dir: &Path) -> Result<(File, PathBuf)> {
    std::fs::create_dir_all(dir).map_err(StoreError::io("make", dir))?;
    let path = dir.join("lock");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    Ok((file.map_err(StoreError::io("open", &path))?, path))
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
