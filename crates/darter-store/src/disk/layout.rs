//! The files of a store on disk: their names, and the order in which they are written. `disk.rs` documents the layout.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::sync::Arc;

use darter_core::{BlobId, in_full};

use crate::backend::SaveError;
use crate::dir::{Access, Dir};
use crate::disk::trash::Trash;
use crate::error::{Result, StoreError};
use crate::medium::{FileMedium, Medium as _};
use crate::sidecar::{Sidecar, SidecarError};
use crate::space::Space;

const DATA: &str = "data";
const SIDECAR: &str = "piece";
const NEW_SIDECAR: &str = "piece.new";
/// The extension to which a newer version's file of a blob, or one that can't be read, is renamed when this version stores the blob again.
const NEWER_DATA: &str = "newer-data";
const NEWER_SIDECAR: &str = "newer-piece";

/// The directories of one store.
pub(super) struct Layout {
    blobs: Dir,
    trash: Arc<Trash>,
}

/// The result of reading a sidecar.
enum SidecarFound {
    Sidecar(Box<Sidecar>),
    /// A newer version of Darter wrote it. It is left alone.
    Newer(u8),
    /// It can't be read, so it is unknown which version wrote it. It is left alone.
    Kept,
    /// It is missing or damaged.
    Unusable,
}

/// Blobs of a newer version of Darter that a scan found. They are reported in one warning, since there may be thousands.
#[derive(Default)]
struct Newer {
    blobs: Vec<BlobId>,
    /// The file of the first one, and the version of its layout, if known.
    example: Option<(PathBuf, Option<u8>)>,
}

impl Newer {
    fn add(&mut self, blob: BlobId, shard: &Dir, file: &str, version: Option<u8>) {
        self.blobs.push(blob);
        self.example.get_or_insert_with(|| (shard.path_of(file), version));
    }

    fn tell(&self) {
        let Some((example, version)) = &self.example else { return };
        tracing::warn!(
            blobs = self.blobs.len(),
            example = %example.display(),
            version,
            "blobs that a newer version of Darter stored are left alone, and are there again once it runs: until then they are \
             fetched anew where they are wanted"
        );
    }
}

impl Layout {
    /// Creates the directories in `dir`.
    pub(super) fn new(dir: &Dir) -> Result<Self> {
        let sub = |name| dir.sub(name).map_err(StoreError::io("open", &dir.path_of(name)));
        let trash = Arc::new(Trash::in_dir(sub("trash")?));
        Ok(Self { blobs: sub("blobs")?, trash })
    }

    /// Deletes the files of removed blobs.
    pub(super) fn empty_trash(&self) {
        for name in names_of(&self.trash.dir) {
            clear(&self.trash.dir, &name);
        }
    }

    /// Reads every sidecar, and deletes damaged files and leftovers. A file that can't be read or deleted is left alone, and does not keep
    /// the others from being read. Also returns the blobs that a newer version of Darter stored.
    pub(super) fn scan(&self) -> Result<(Vec<Sidecar>, Vec<BlobId>)> {
        let (mut found, mut newer) = (Vec::new(), Newer::default());
        for name in list(&self.blobs)? {
            let shard = match self.blobs.find_sub(&name) {
                Ok(Some(shard)) => shard,
                Ok(None) => continue,
                Err(error) => {
                    unreadable(&self.blobs, &name, &error);
                    continue;
                }
            };
            let files: BTreeSet<String> = names_of(&shard).into_iter().collect();
            for file in &files {
                match name_of(&name, file) {
                    None => left_alone(&shard, file),
                    Some((blob, SIDECAR)) => found.extend(self.found(blob, &shard, &mut newer)),
                    Some((_, NEW_SIDECAR)) => clear(&shard, file),
                    Some((blob, DATA)) if is_described_otherwise(&files, blob) => newer.add(blob, &shard, file, None),
                    Some((blob, DATA)) if !files.contains(&file_name(blob, SIDECAR)) => {
                        tracing::warn!(path = %shard.path_of(file).display(), "bytes without a sidecar are deleted");
                        clear(&shard, file);
                    }
                    Some(_) => {}
                }
            }
        }
        newer.tell();
        Ok((found, newer.blobs))
    }

    /// Creates an empty data file.
    pub(super) fn create(&self, blob: BlobId) -> Result<FileMedium> {
        let (shard, name) = (self.shard(blob)?, file_name(blob, DATA));
        if matches!(read_sidecar(blob, &shard), SidecarFound::Kept | SidecarFound::Newer(_)) {
            set_aside(&shard, blob, &[(DATA, NEWER_DATA), (SIDECAR, NEWER_SIDECAR)])?;
        }
        let made = shard.create(&name).or_else(|_| {
            // Something that is no file.
            set_aside(&shard, blob, &[(DATA, NEWER_DATA)]).map_err(io::Error::other)?;
            shard.create(&name)
        });
        Ok(FileMedium::new(made.map_err(StoreError::io("create", &shard.path_of(&name)))?, &shard, &name))
    }

    /// Reads a blob's sidecar and opens its data file; `None` if one of them is missing or can't be used.
    pub(super) fn load(&self, blob: BlobId) -> Result<Option<(Sidecar, FileMedium)>> {
        let shard = self.shard(blob)?;
        let sidecar = match read_sidecar(blob, &shard) {
            SidecarFound::Sidecar(sidecar) => sidecar,
            SidecarFound::Unusable => return Ok(None),
            SidecarFound::Kept | SidecarFound::Newer(_) => {
                // At once: what is of no use here is removed by its name.
                set_aside(&shard, blob, &[(DATA, NEWER_DATA), (SIDECAR, NEWER_SIDECAR)])?;
                return Ok(None);
            }
        };
        let name = file_name(blob, DATA);
        let opened = shard.open_linked(&name, Access::Write).and_then(|(file, links)| {
            if links == 1 {
                return Ok(FileMedium::new(file, &shard, &name));
            }
            // Another program made a second name for the bytes, and expects them to stay.
            let (file, _) = shard.open_linked(&name, Access::Read)?;
            Ok(FileMedium::linked(file, shard.clone(), name.clone(), self.trash.clone()))
        });
        match opened {
            Ok(medium) => Ok(Some((*sidecar, medium))),
            Err(refusal) if is_unusable(&refusal) => {
                let path = shard.path_of(&name);
                tracing::warn!(path = %path.display(), error = %refusal, "the bytes of a blob are gone");
                Ok(None)
            }
            Err(refusal) => Err(StoreError::io("open", &shard.path_of(&name))(refusal)),
        }
    }

    /// Makes the bytes durable, then replaces the sidecar.
    pub(super) fn save(&self, sidecar: &Sidecar, medium: &FileMedium) -> Result<(), SaveError> {
        medium.sync().map_err(StoreError::io("sync", medium.path())).map_err(SaveError::Bytes)?;
        let shard = self.shard(sidecar.id).map_err(SaveError::Sidecar)?;
        let (name, fresh) = (file_name(sidecar.id, SIDECAR), file_name(sidecar.id, NEW_SIDECAR));
        let written = shard.replace(&name, &fresh, &[&sidecar.encode()], true);
        written.map_err(StoreError::io("write", &shard.path_of(&name))).map_err(SaveError::Sidecar)
    }

    /// Deletes the sidecar and moves the bytes to the trash.
    pub(super) fn remove(&self, blob: BlobId) -> Result<Option<String>> {
        let (shard, name, trash) = (self.shard(blob)?, file_name(blob, DATA), self.trash.name());
        delete(&shard, &file_name(blob, SIDECAR))?;
        match shard.rename(&name, &self.trash.dir, &trash) {
            Ok(()) => Ok(Some(trash)),
            Err(refusal) if refusal.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(refusal) => Err(StoreError::io("remove", &shard.path_of(&name))(refusal)),
        }
    }

    /// Deletes what [`remove`](Self::remove) moved to the trash.
    pub(super) fn dispose(&self, trash: &str) {
        if let Err(error) = self.trash.dir.remove(trash) {
            let path = self.trash.dir.path_of(trash);
            tracing::warn!(path = %path.display(), %error, "could not delete a removed blob's bytes");
        }
    }

    /// The path of a blob's bytes, whether or not it exists.
    pub(super) fn path(&self, blob: BlobId) -> PathBuf {
        self.blobs.path_of(&shard_name(blob)).join(file_name(blob, DATA))
    }

    /// The size and free space of the file system; `None` if they can't be asked.
    pub(super) fn space(&self) -> Option<Space> {
        self.blobs.space().ok()
    }

    /// Reads a sidecar for the scan. Deletes the blob if the sidecar can't be used.
    fn found(&self, blob: BlobId, shard: &Dir, newer: &mut Newer) -> Option<Sidecar> {
        let found = read_sidecar(blob, shard);
        let name = file_name(blob, DATA);
        let has_bytes = match shard.look(&name) {
            Ok(look) => look.is_some(),
            Err(error) => {
                unreadable(shard, &name, &error);
                return None;
            }
        };
        match found {
            SidecarFound::Sidecar(sidecar) if has_bytes => return Some(*sidecar),
            SidecarFound::Newer(version) => {
                newer.add(blob, shard, &file_name(blob, SIDECAR), Some(version));
                return None;
            }
            SidecarFound::Kept => return None,
            SidecarFound::Sidecar(_) | SidecarFound::Unusable => {}
        }
        tracing::warn!(%blob, "a blob without usable sidecar or bytes is deleted");
        clear(shard, &file_name(blob, SIDECAR));
        clear(shard, &name);
        None
    }

    fn shard(&self, blob: BlobId) -> Result<Dir> {
        let name = shard_name(blob);
        // Without asking to make it where it exists: a file system that hangs would not even refuse.
        let found = self.blobs.find_sub(&name).transpose().unwrap_or_else(|| self.blobs.sub(&name));
        found.map_err(StoreError::io("open", &self.blobs.path_of(&name)))
    }
}

fn shard_name(blob: BlobId) -> String {
    blob.to_string()[..2].to_owned()
}

fn file_name(blob: BlobId, extension: &str) -> String {
    format!("{blob}.{extension}")
}

/// The blob in a file's name and the kind of the file, as an extension without a number, if it is a name of a store's file in the directory where it belongs.
fn name_of(shard: &str, name: &str) -> Option<(BlobId, &'static str)> {
    let (stem, extension) = name.split_once('.')?;
    let known = [DATA, SIDECAR, NEW_SIDECAR, NEWER_DATA, NEWER_SIDECAR];
    let kind = known.into_iter().find(|known| is_kind(extension, known))?;
    let blob = stem.parse().ok()?;
    (shard_name(blob) == shard && file_name(blob, extension) == name).then_some((blob, kind))
}

/// True if this is the extension of such a file, or the numbered one of a further file that was set aside.
fn is_kind(extension: &str, kind: &str) -> bool {
    let number = extension.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
    let is_numbered =
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit()));
    extension == kind || (is_numbered && [NEWER_DATA, NEWER_SIDECAR].contains(&kind))
}

/// True if a blob has no sidecar, but a file with an unknown extension, which may be a newer version's sidecar.
fn is_described_otherwise(files: &BTreeSet<String>, blob: BlobId) -> bool {
    let known = [DATA, NEW_SIDECAR, NEWER_DATA, NEWER_SIDECAR];
    let stem = file_name(blob, "");
    let extensions = files.range(stem.clone()..).map_while(|file| file.strip_prefix(stem.as_str()));
    !files.contains(&file_name(blob, SIDECAR))
        && extensions.into_iter().any(|extension| known.iter().all(|known| !extension.starts_with(known)))
}

/// Decodes the sidecar of `blob`.
fn read_sidecar(blob: BlobId, shard: &Dir) -> SidecarFound {
    let name = file_name(blob, SIDECAR);
    let path = shard.path_of(&name);
    let mut bytes = Vec::new();
    let read = shard.open_linked(&name, Access::Read).and_then(|(mut file, links)| {
        file.read_to_end(&mut bytes)?;
        Ok(links)
    });
    match read {
        Ok(1) => {}
        Ok(links) => {
            tracing::warn!(path = %path.display(), links, "a sidecar with other names (hard links) is not used");
            return SidecarFound::Unusable;
        }
        Err(refusal) if refusal.kind() == io::ErrorKind::NotFound => return SidecarFound::Unusable,
        Err(refusal) => {
            unreadable(shard, &name, &refusal);
            return SidecarFound::Kept;
        }
    }
    match Sidecar::decode(&bytes) {
        Ok(sidecar) if sidecar.id == blob => SidecarFound::Sidecar(Box::new(sidecar)),
        Ok(_) => {
            tracing::warn!(path = %path.display(), "a sidecar is another blob's");
            SidecarFound::Unusable
        }
        Err(SidecarError::Newer(version)) => SidecarFound::Newer(version),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = %in_full(&error), "a sidecar can't be used");
            SidecarFound::Unusable
        }
    }
}

/// Renames the files of a blob so that they are kept. What was set aside before stays: later files get a number.
fn set_aside(shard: &Dir, blob: BlobId, names: &[(&str, &str)]) -> Result<()> {
    let taken = list(shard)?;
    let kept = |to: &str, number: u32| match number {
        1 => file_name(blob, to),
        _ => file_name(blob, &format!("{to}-{number}")),
    };
    let is_free = |number: &u32| names.iter().all(|(_, to)| !taken.contains(&kept(to, *number)));
    let number = (1..).find(is_free).expect("there are fewer files than numbers");
    for (from, to) in names {
        let from = file_name(blob, from);
        match shard.rename(&from, shard, &kept(to, number)) {
            Err(refusal) if refusal.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::io("set aside", &shard.path_of(&from))(refusal));
            }
            _ => {}
        }
    }
    Ok(())
}

/// True if this error means that there is no such file, or that it is not a file that an agent created.
fn is_unusable(refusal: &io::Error) -> bool {
    use io::ErrorKind::{IsADirectory, NotFound, PermissionDenied};
    matches!(refusal.kind(), NotFound | PermissionDenied | IsADirectory)
}

fn left_alone(dir: &Dir, name: &str) {
    let path: PathBuf = dir.path_of(name);
    tracing::warn!(path = %path.display(), "a foreign file among the blobs is left alone");
}

fn list(dir: &Dir) -> Result<Vec<String>> {
    dir.names().map_err(StoreError::io("list", dir.path()))
}

/// The names in a directory; empty if it can't be read.
fn names_of(dir: &Dir) -> Vec<String> {
    dir.names().unwrap_or_else(|error| {
        tracing::warn!(path = %dir.path().display(), %error, "a directory can't be read and is left alone: {ADVICE}");
        Vec::new()
    })
}

/// Deletes a file; leaves it alone if that fails.
fn clear(dir: &Dir, name: &str) {
    if let Err(error) = dir.remove(name) {
        let path = dir.path_of(name);
        tracing::warn!(path = %path.display(), %error, "a leftover can't be deleted and is left alone: remove it");
    }
}

/// Advice about a file that can't be read.
const ADVICE: &str = "let the user that darter runs as read it, or remove it";

fn unreadable(dir: &Dir, name: &str, error: &io::Error) {
    let path = dir.path_of(name);
    tracing::warn!(path = %path.display(), %error, "a stored file can't be read and is left alone: {ADVICE}");
}

/// Deletes a file. It is no error if it does not exist.
fn delete(dir: &Dir, name: &str) -> Result<()> {
    dir.remove(name).map(drop).map_err(StoreError::io("delete", &dir.path_of(name)))
}

#[cfg(test)]
mod tests;
