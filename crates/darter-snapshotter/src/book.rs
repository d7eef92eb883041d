//! The snapshots and mounts on disk: `snapshots.redb`. Blocking.
//!
//! | table | key | value |
//! |---|---|---|
//! | `about` | `format`, `next` | the format of the file; the next number to assign |
//! | `snapshots` | the name | [`Snapshot`] as JSON |
//! | `mounts` | the layer's diff id | [`Mounted`] as JSON |
//!
//! Every answer to containerd is recorded here first. Fields that a newer release adds are skipped; a newer format is refused, since containerd would take all
//! snapshots for lost. A new book is refused, too, if there are snapshots: directories that the book does not know are removed, and that would be everything that containers have
//! written.

use std::path::{Path, PathBuf};

use darter_core::Digest;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::stack::Mounted;
use crate::tree::{Change, Snapshot};

const ABOUT: TableDefinition<'_, &str, u64> = TableDefinition::new("about");
const SNAPSHOTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("snapshots");
const MOUNTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("mounts");

const FORMAT: u64 = 1;
const FORMAT_KEY: &str = "format";
const NEXT_KEY: &str = "next";

/// The database's cache: more than all records of some thousand snapshots.
const CACHE_BYTES: usize = 4 << 20;

/// Why the book can't be used.
#[derive(Debug, Error)]
pub enum BookError {
    /// Another process has it open.
    #[error("{} is in use: another snapshotter runs with this directory", .0.display())]
    InUse(PathBuf),
    /// A newer release wrote it.
    #[error("{} has format {}, and this release knows {FORMAT}: run the release that wrote it, or a newer one", .0.display(), .1)]
    Newer(PathBuf, u64),
    /// It is missing or empty, although there are snapshots.
    #[error(
        "{} is lost, and there are snapshots beside it ({}), which would be removed: put that file back and start again; or, if nothing that containers wrote is needed any more, stop containerd and its containers, and move {} away",
        .0.display(), numbers(.1), .0.with_file_name("snapshots").display()
    )]
    Lost(PathBuf, Vec<u64>),
    /// An entry can't be parsed.
    #[error("{}: {} can't be read: {}", .0.display(), .1, .2)]
    Damaged(PathBuf, String, serde_json::Error),
    /// An error of the disk or the database.
    #[error("can't use {}: {}", .0.display(), .1)]
    Failed(PathBuf, redb::Error),
}

/// The first few numbers of directories, as text.
fn numbers(numbers: &[u64]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<_> = numbers.iter().take(SHOWN).map(u64::to_string).collect();
    let more = numbers.len().saturating_sub(SHOWN);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// The contents of the book.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) snapshots: Vec<(String, Snapshot)>,
    pub(crate) mounts: Vec<(Digest, Mounted)>,
    pub(crate) next: u64,
}

/// A layer that is mounted from now on, or no longer.
pub(crate) type MountChange = (Digest, Option<Mounted>);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    database: Database,
}

impl Book {
    /// Opens the book, or creates it if there are no snapshots: `unpacked` are the numbers of the snapshots' directories.
    pub(crate) fn open(path: &Path, unpacked: &[u64]) -> Result<(Self, Written), BookError> {
        if !unpacked.is_empty() && !path.exists() {
            return Err(BookError::Lost(path.to_owned(), unpacked.to_vec()));
        }
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => BookError::InUse(path.to_owned()),
            error => BookError::Failed(path.to_owned(), error.into()),
        })?;
        let book = Self { path: path.to_owned(), database };
        let written = book.read(unpacked)?;
        Ok((book, written))
    }

    fn failed(&self, error: impl Into<redb::Error>) -> BookError {
        BookError::Failed(self.path.clone(), error.into())
    }

    fn read(&self, unpacked: &[u64]) -> Result<Written, BookError> {
        let failed = |error: redb::Error| self.failed(error);
        let begin = self.database.begin_write().map_err(|error| failed(error.into()))?;
        let format = {
            let mut about = begin.open_table(ABOUT).map_err(|error| failed(error.into()))?;
            let format = about.get(FORMAT_KEY).map_err(|error| failed(error.into()))?.map(|it| it.value());
            if format.is_none() {
                // The file was emptied, or creating it was interrupted.
                if !unpacked.is_empty() {
                    return Err(BookError::Lost(self.path.clone(), unpacked.to_vec()));
                }
                about.insert(FORMAT_KEY, FORMAT).map_err(|error| failed(error.into()))?;
            }
            begin.open_table(SNAPSHOTS).map_err(|error| failed(error.into()))?;
            begin.open_table(MOUNTS).map_err(|error| failed(error.into()))?;
            format.unwrap_or(FORMAT)
        };
        if format > FORMAT {
            return Err(BookError::Newer(self.path.clone(), format));
        }
        begin.commit().map_err(|error| failed(error.into()))?;
        let begin = self.database.begin_read().map_err(|error| failed(error.into()))?;
        let mut written = Written::default();
        let about = begin.open_table(ABOUT).map_err(|error| failed(error.into()))?;
        written.next = about.get(NEXT_KEY).map_err(|error| failed(error.into()))?.map_or(0, |next| next.value());
        let snapshots = begin.open_table(SNAPSHOTS).map_err(|error| failed(error.into()))?;
        for row in snapshots.iter().map_err(|error| failed(error.into()))? {
            let (name, value) = row.map_err(|error| failed(error.into()))?;
            written.snapshots.push((name.value().to_owned(), self.parse(name.value(), value.value())?));
        }
        let mounts = begin.open_table(MOUNTS).map_err(|error| failed(error.into()))?;
        for row in mounts.iter().map_err(|error| failed(error.into()))? {
            let (layer, value) = row.map_err(|error| failed(error.into()))?;
            if let Ok(layer) = layer.value().parse() {
                written.mounts.push((layer, self.parse(&layer.to_string(), value.value())?));
            }
        }
        Ok(written)
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, BookError> {
        serde_json::from_slice(bytes).map_err(|error| BookError::Damaged(self.path.clone(), name.to_owned(), error))
    }

    /// Writes changes, all or none of them. They are on the disk when this returns.
    pub(crate) fn write(&self, change: &Change, mounts: &[MountChange], next: u64) -> Result<(), BookError> {
        self.try_write(change, mounts, next).map_err(|error| self.failed(error))
    }

    fn try_write(&self, change: &Change, mounts: &[MountChange], next: u64) -> Result<(), redb::Error> {
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|error| redb::Error::Io(error.into()));
        let begin = self.database.begin_write()?;
        {
            let mut table = begin.open_table(SNAPSHOTS)?;
            for name in &change.gone {
                table.remove(name.as_str())?;
            }
            for (name, snapshot) in &change.new {
                table.insert(name.as_str(), json(serde_json::to_vec(snapshot))?.as_slice())?;
            }
            let mut table = begin.open_table(MOUNTS)?;
            for (layer, mounted) in mounts {
                match mounted {
                    Some(mounted) => {
                        table.insert(layer.to_string().as_str(), json(serde_json::to_vec(mounted))?.as_slice())?;
                    }
                    None => drop(table.remove(layer.to_string().as_str())?),
                }
            }
            begin.open_table(ABOUT)?.insert(NEXT_KEY, next)?;
        }
        Ok(begin.commit()?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stack::File;
    use crate::tree::{Labels, SnapshotKind, Usage};

    fn snapshot(number: u64) -> Snapshot {
        Snapshot {
            number,
            kind: SnapshotKind::Committed,
            parent: Some("p".to_owned()),
            created: Duration::new(5, 7),
            updated: Duration::new(6, 8),
            labels: Labels::from([("a".to_owned(), "b".to_owned())]),
            usage: Usage { bytes: 3, inodes: 4 },
            lazy: Some(Digest::sha256(b"x")),
        }
    }

    #[test]
    fn what_was_written_down_is_there_again() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("book");
        let layer = Digest::sha256(b"x");
        let mounted = Mounted { place: 8, file: File { device: 1, inode: 2 } };
        let change =
            Change { gone: Vec::new(), new: vec![("a".to_owned(), snapshot(1)), ("b".to_owned(), snapshot(2))] };
        {
            let (book, _) = Book::open(&path, &[]).unwrap();
            book.write(&change, &[(layer, Some(mounted))], 9).unwrap();
            assert!(matches!(Book::open(&path, &[]), Err(BookError::InUse(_))));
        }
        let (book, written) = Book::open(&path, &[]).unwrap();
        assert_eq!(written.snapshots, change.new);
        assert_eq!((written.mounts, written.next), (vec![(layer, mounted)], 9));
        book.write(&Change { gone: vec!["a".to_owned()], new: Vec::new() }, &[(layer, None)], 10).unwrap();
        drop(book);
        let (_, written) = Book::open(&path, &[]).unwrap();
        assert_eq!((written.snapshots.len(), written.mounts.len(), written.next), (1, 0, 10));
    }

    #[test]
    fn no_new_book_is_begun_where_snapshots_are() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("book");
        for _ in 0..2 {
            let Err(lost @ BookError::Lost(..)) = Book::open(&path, &[3, 4, 5, 6, 7, 8]) else { panic!("it is lost") };
            let said = lost.to_string();
            assert!(said.contains("3, 4, 5, 6, 7 and 1 more") && said.contains("put that file back"), "{said}");
            assert!(!path.exists(), "the one that is put back is not in its way");
        }
        std::fs::write(&path, "").unwrap();
        for _ in 0..2 {
            assert!(matches!(Book::open(&path, &[3]), Err(BookError::Lost(..))), "nothing is in it");
        }
        drop(Book::open(&path, &[]).unwrap());
        assert!(Book::open(&path, &[3]).is_ok(), "one that was made but now has its format");
    }

    #[test]
    fn what_a_newer_release_has_written_is_refused_and_its_fields_are_skipped() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("book");
        let (book, _) = Book::open(&path, &[]).unwrap();
        let set = |format: u64| {
            let begin = book.database.begin_write().unwrap();
            begin.open_table(ABOUT).unwrap().insert(FORMAT_KEY, format).unwrap();
            let row =
                br#"{"number":1,"kind":"view","created":{"secs":1,"nanos":0},"updated":{"secs":1,"nanos":0},"new":1}"#;
            begin.open_table(SNAPSHOTS).unwrap().insert("a", row.as_slice()).unwrap();
            begin.commit().unwrap();
        };
        set(1);
        assert_eq!(book.read(&[]).unwrap().snapshots[0].1.kind, SnapshotKind::View);
        set(2);
        assert!(matches!(book.read(&[]), Err(BookError::Newer(_, 2))));
    }
}
