//! Files and names of a store on disk, and the order in which they are written. The layout stands in `disk.rs`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use darter_core::BlobId;

use crate::backend::SaveError;
use crate::error::{Result, StoreError};
use crate::medium::{FileMedium, Medium as _};
use crate::sidecar::Sidecar;

const DATA: &str = "data";
const SIDECAR: &str = "piece";
const NEW_SIDECAR: &str = "piece.new";

/// The directories of one store.
pub(super) struct Layout {
    blobs: PathBuf,
    trash: PathBuf,
    /// Names the next file in the trash.
    next_trash: AtomicU64,
}

impl Layout {
    /// Makes the directories, readable by their owner only: blobs may be private.
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let layout = Self { blobs: dir.join("blobs"), trash: dir.join("trash"), next_trash: AtomicU64::new(0) };
        for path in [&layout.blobs, &layout.trash] {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(StoreError::io("make", path))?;
        }
        Ok(layout)
    }

    /// Deletes what removed blobs left.
    pub(super) fn empty_trash(&self) -> Result<()> {
        for entry in fs::read_dir(&self.trash).map_err(StoreError::io("list", &self.trash))? {
            let path = entry.map_err(StoreError::io("list", &self.trash))?.path();
            fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
        }
        Ok(())
    }

    /// Reads every sidecar; deletes what is damaged or left over.
    pub(super) fn scan(&self) -> Result<Vec<Sidecar>> {
        let mut found = Vec::new();
        for shard in list(&self.blobs)? {
            if !shard.is_dir() {
                tracing::warn!(path = %shard.display(), "a foreign file among the blobs is left alone");
                continue;
            }
            for path in list(&shard)? {
                match self.name_of(&path) {
                    None => tracing::warn!(path = %path.display(), "a foreign file among the blobs is left alone"),
                    Some((blob, SIDECAR)) => found.extend(self.found(blob, &path)?),
                    Some((_, NEW_SIDECAR)) => delete(&path)?,
                    Some((blob, _)) if !self.path(blob, SIDECAR).exists() => {
                        tracing::warn!(path = %path.display(), "bytes without a sidecar are deleted");
                        delete(&path)?;
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(found)
    }

    /// Makes an empty data file.
    pub(super) fn create(&self, blob: BlobId) -> Result<FileMedium> {
        let path = self.path(blob, DATA);
        let shard = path.parent().expect("blobs are in shards");
        fs::create_dir_all(shard).map_err(StoreError::io("make", shard))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        Ok(FileMedium::new(file.map_err(StoreError::io("create", &path))?, path))
    }

    /// Reads a blob's sidecar and opens its data; `None` when one of them is missing or damaged.
    pub(super) fn load(&self, blob: BlobId) -> Result<Option<(Sidecar, FileMedium)>> {
        let Some(sidecar) = read_sidecar(blob, &self.path(blob, SIDECAR))? else { return Ok(None) };
        let path = self.path(blob, DATA);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Some((sidecar, FileMedium::new(file, path)))),
            Err(refusal) if refusal.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), "the bytes of a blob are gone");
                Ok(None)
            }
            Err(refusal) => Err(StoreError::io("open", &path)(refusal)),
        }
    }

    /// Makes the bytes durable, then replaces the sidecar.
    pub(super) fn save(&self, sidecar: &Sidecar, medium: &FileMedium) -> Result<(), SaveError> {
        let data = medium.file().expect("a file medium has a file");
        data.sync_data().map_err(StoreError::io("sync", medium.path())).map_err(SaveError::Bytes)?;
        let path = self.path(sidecar.id, SIDECAR);
        let fresh = self.path(sidecar.id, NEW_SIDECAR);
        let written = write_durably(&fresh, &sidecar.encode()).map_err(StoreError::io("write", &fresh));
        let renamed = written.and_then(|()| fs::rename(&fresh, &path).map_err(StoreError::io("replace", &path)));
        renamed.map_err(SaveError::Sidecar)
    }

    /// Deletes the sidecar and moves the bytes to the trash.
    pub(super) fn remove(&self, blob: BlobId) -> Result<Option<PathBuf>> {
        delete(&self.path(blob, SIDECAR))?;
        let path = self.path(blob, DATA);
        let trash = self.trash.join(self.next_trash.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(&path, &trash) {
            Ok(()) => Ok(Some(trash)),
            Err(refusal) if refusal.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(refusal) => Err(StoreError::io("remove", &path)(refusal)),
        }
    }

    /// Bytes free for this user on the file system; `None` when it does not say.
    pub(super) fn free(&self) -> Option<u64> {
        let space = rustix::fs::statvfs(&self.blobs).ok()?;
        Some(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// A sidecar that a scan came upon. Its blob is deleted when it is of no use.
    fn found(&self, blob: BlobId, path: &Path) -> Result<Option<Sidecar>> {
        let sidecar = read_sidecar(blob, path)?;
        let bytes = self.path(blob, DATA);
        if sidecar.is_some() && bytes.exists() {
            return Ok(sidecar);
        }
        tracing::warn!(%blob, "a blob without usable sidecar or bytes is deleted");
        delete(path)?;
        delete(&bytes)?;
        Ok(None)
    }

    fn path(&self, blob: BlobId, extension: &str) -> PathBuf {
        let name = blob.to_string();
        self.blobs.join(&name[..2]).join(format!("{name}.{extension}"))
    }

    /// The blob and the extension that a path stands for, if it is one of ours.
    fn name_of(&self, path: &Path) -> Option<(BlobId, &'static str)> {
        let (stem, extension) = path.file_name()?.to_str()?.split_once('.')?;
        let extension = [DATA, SIDECAR, NEW_SIDECAR].into_iter().find(|known| *known == extension)?;
        let blob = stem.parse().ok()?;
        (self.path(blob, extension) == path).then_some((blob, extension))
    }
}

/// The sidecar at `path`, if it is one of `blob` that can be used.
fn read_sidecar(blob: BlobId, path: &Path) -> Result<Option<Sidecar>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(refusal) if refusal.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(refusal) => return Err(StoreError::io("read", path)(refusal)),
    };
    match Sidecar::decode(&bytes) {
        Ok(sidecar) if sidecar.id == blob => Ok(Some(sidecar)),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "a sidecar is another blob's");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a sidecar can't be used");
            Ok(None)
        }
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
    let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
    paths.map_err(StoreError::io("list", dir))
}

/// Deletes a file; one that is not there is deleted already.
fn delete(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(refusal) if refusal.kind() != io::ErrorKind::NotFound => Err(StoreError::io("delete", path)(refusal)),
        _ => Ok(()),
    }
}
