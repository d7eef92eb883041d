//! The index: when blobs were used, and what was last read from sources. It is in `index.redb`, and written in batches, since each commit costs an `fsync`.
//!
//! | table | key | value |
//! |---|---|---|
//! | `uses` | 32 bytes: the blob's id | two numbers of 8 bytes: order of use, seconds since 1970 |
//! | `sources` | 32 bytes: the source's key | [`SourceRecord`] in postcard's encoding, fields in order; older releases wrote all but the last field |
//!
//! Everything here can be rebuilt: a damaged index is replaced by an empty one.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darter_core::{BlobId, Version};
use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use crate::backend::LastUse;
use crate::dir::{Access, Dir};
use crate::error::{Result, StoreError};
use crate::store::SourceRecord;

const USES: TableDefinition<'_, [u8; 32], (u64, u64)> = TableDefinition::new("uses");
const SOURCES: TableDefinition<'_, [u8; 32], &[u8]> = TableDefinition::new("sources");

const NAME: &str = "index.redb";
/// The size of the database's cache in bytes: far more than an index of some thousand small rows needs.
const CACHE_BYTES: usize = 1 << 20;

pub(super) struct Index {
    database: Database,
    path: PathBuf,
    pending: Mutex<Pending>,
    /// The changes that a commit is writing. Set and cleared under the lock of `pending`, so that each record is found in one of
    /// the two, or in the database.
    writing: Mutex<Arc<Pending>>,
}

/// The changes of the next commit: first removals, then new records.
#[derive(Clone, Default)]
struct Pending {
    gone: HashSet<BlobId>,
    uses: HashMap<BlobId, LastUse>,
    sources: HashMap<BlobId, SourceRecord>,
}

impl Pending {
    /// Puts back changes that could not be written, unless there are newer ones.
    fn put_back(&mut self, unwritten: Self) {
        let gone_since = std::mem::take(&mut self.gone);
        for (blob, last_use) in unwritten.uses {
            if !gone_since.contains(&blob) {
                self.uses.entry(blob).or_insert(last_use);
            }
        }
        for (key, record) in unwritten.sources {
            if !gone_since.contains(&record.blob) {
                self.sources.entry(key).or_insert(record);
            }
        }
        self.gone = unwritten.gone;
        self.gone.extend(gone_since);
    }
}

impl Index {
    /// Opens the index, or begins an empty one if it is missing or can't be used. Also returns true if an unusable index was set aside. Forgets all
    /// blobs except the `existing` ones.
    pub(super) fn open(dir: &Dir, existing: &HashSet<BlobId>) -> Result<(Self, bool)> {
        let path = dir.path_of(NAME);
        let (database, set_aside) = match open_checked(dir, existing) {
            Ok(database) => (database, false),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                let aside = StoreError::io("set aside", &path);
                // A second name of a file that may be another program's.
                let is_anothers = dir.open_linked(NAME, Access::Read).is_ok_and(|(_, links)| links > 1);
                let kept = match is_anothers {
                    true => dir.remove(NAME).map(|_| None),
                    // It may be a newer version's. A link's target is left alone.
                    false => dir.set_aside(NAME, "unread").map(Some),
                };
                let kept = kept.map_err(aside)?;
                tracing::warn!(path = %path.display(), error, kept, "the index can't be used and is begun anew");
                (open_checked(dir, existing).map_err(index_error(&path))?, kept.is_some())
            }
        };
        Ok((Self { database, path, pending: Mutex::default(), writing: Mutex::default() }, set_aside))
    }

    pub(super) fn last_uses(&self) -> Result<HashMap<BlobId, LastUse>> {
        self.read_uses().map_err(index_error(&self.path))
    }

    pub(super) fn note_use(&self, blob: BlobId, last_use: LastUse) {
        self.pending.lock().uses.insert(blob, last_use);
    }

    pub(super) fn forget(&self, blob: BlobId) {
        let mut pending = self.pending.lock();
        pending.uses.remove(&blob);
        pending.sources.retain(|_, record| record.blob != blob);
        pending.gone.insert(blob);
    }

    pub(super) fn remember(&self, key: BlobId, record: SourceRecord) {
        self.pending.lock().sources.insert(key, record);
    }

    pub(super) fn recall(&self, key: BlobId) -> Result<Option<SourceRecord>> {
        {
            let pending = self.pending.lock();
            if let Some(record) = pending.sources.get(&key) {
                return Ok(Some(record.clone()));
            }
            // A commit takes as long as the disk wants.
            if let Some(record) = self.writing.lock().sources.get(&key) {
                return Ok(Some(record.clone()).filter(|record| !pending.gone.contains(&record.blob)));
            }
        }
        let record = self.read_source(key).map_err(index_error(&self.path))?;
        let pending = self.pending.lock();
        let writing = self.writing.lock();
        let is_gone = |blob: &BlobId| pending.gone.contains(blob) || writing.gone.contains(blob);
        Ok(record.filter(|record| !is_gone(&record.blob)))
    }

    /// Writes all changes in one durable transaction, if there are any.
    pub(super) fn commit(&self) -> Result<()> {
        let pending = {
            let mut pending = self.pending.lock();
            if pending.gone.is_empty() && pending.uses.is_empty() && pending.sources.is_empty() {
                return Ok(());
            }
            let taken = Arc::new(std::mem::take(&mut *pending));
            *self.writing.lock() = Arc::clone(&taken);
            taken
        };
        let written = self.write(&pending).map_err(index_error(&self.path));
        let mut next = self.pending.lock();
        if written.is_err() {
            next.put_back(Pending::clone(&pending));
        }
        *self.writing.lock() = Arc::default();
        written
    }

    fn write(&self, pending: &Pending) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut uses = transaction.open_table(USES)?;
            let mut sources = transaction.open_table(SOURCES)?;
            for blob in &pending.gone {
                uses.remove(blob.0)?;
            }
            if !pending.gone.is_empty() {
                // Records of a newer version stay.
                sources.retain(|_, value| decode(value).is_none_or(|record| !pending.gone.contains(&record.blob)))?;
            }
            for (blob, last_use) in &pending.uses {
                uses.insert(blob.0, (last_use.order, last_use.at))?;
            }
            for (key, record) in &pending.sources {
                let value = postcard::to_stdvec(record).expect("strings and numbers always encode");
                sources.insert(key.0, value.as_slice())?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn read_uses(&self) -> Result<HashMap<BlobId, LastUse>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(USES)?;
        let mut uses = HashMap::new();
        for row in table.iter()? {
            let (blob, value) = row?;
            let (order, at) = value.value();
            uses.insert(BlobId(blob.value()), LastUse { order, at });
        }
        Ok(uses)
    }

    fn read_source(&self, key: BlobId) -> Result<Option<SourceRecord>, redb::Error> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(SOURCES)?;
        let row = table.get(key.0)?;
        Ok(row.and_then(|value| decode(value.value())))
    }
}

/// Opens a database, checks all its pages, and removes records of blobs that do not exist.
fn open_checked(dir: &Dir, existing: &HashSet<BlobId>) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    // Without the check a damaged file may be found out by a panic later.
    builder.set_check_integrity_on_open(true);
    let file = dir.open_or_create(NAME).map_err(redb::Error::Io)?;
    let database = builder.create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(USES)?.retain(|blob, _| existing.contains(&BlobId(blob)))?;
    transaction
        .open_table(SOURCES)?
        // Records of a newer version stay.
        .retain(|_, value| decode(value).is_none_or(|record| existing.contains(&record.blob)))?;
    transaction.commit()?;
    Ok(database)
}

/// Decodes a record. `None` if it can't be read: then the origin is asked again.
fn decode(value: &[u8]) -> Option<SourceRecord> {
    let older = || {
        let (blob, version, checked): (BlobId, Version, u64) = postcard::from_bytes(value).ok()?;
        Some(SourceRecord { blob, version, checked, fetched: None })
    };
    postcard::from_bytes(value).ok().or_else(older)
}

fn index_error(path: &Path) -> impl FnOnce(redb::Error) -> StoreError {
    let path = path.to_owned();
    |source| StoreError::Index { path, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use darter_core::Fetched;

    use super::*;

    /// A source that is forgotten for the moment of a commit is read from its origin once more.
    #[test]
    fn what_was_remembered_is_recalled_while_it_is_being_written() {
        let directory = tempfile::tempdir().unwrap();
        let (index, _) = Index::open(&Dir::open(directory.path()).unwrap(), &HashSet::new()).unwrap();
        let record = |number: u8| SourceRecord {
            blob: BlobId([number; 32]),
            version: Version::default(),
            checked: 1,
            fetched: None,
        };
        std::thread::scope(|scope| {
            let (begun, ends) = std::sync::mpsc::channel::<()>();
            let index = &index;
            scope.spawn(move || {
                while ends.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                    index.commit().unwrap();
                }
            });
            for number in 0..200 {
                index.remember(BlobId([number; 32]), record(number));
                for _ in 0..50 {
                    assert_eq!(index.recall(BlobId([number; 32])).unwrap(), Some(record(number)), "{number}");
                }
                if number % 3 == 0 {
                    index.forget(BlobId([number; 32]));
                    for _ in 0..50 {
                        assert_eq!(index.recall(BlobId([number; 32])).unwrap(), None, "{number}");
                    }
                }
            }
            drop(begun);
        });
    }

    #[test]
    fn what_an_older_release_remembered_is_read_and_it_reads_what_this_one_remembers() {
        let (blob, version, checked) = (BlobId([7; 32]), Version { length: Some(9), ..Version::default() }, 3);
        let older = postcard::to_stdvec(&(blob, &version, checked)).unwrap();
        let record = SourceRecord { blob, version, checked, fetched: None };
        assert_eq!(decode(&older), Some(record.clone()));
        let fetched = Some(Fetched { by: [1; 32], shown: None });
        let newer = postcard::to_stdvec(&SourceRecord { fetched, ..record.clone() }).unwrap();
        assert_eq!(decode(&newer), Some(SourceRecord { fetched, ..record.clone() }));
        let read: (BlobId, Version, u64) = postcard::from_bytes(&newer).unwrap();
        assert_eq!(read, (record.blob, record.version, record.checked));
    }

    #[test]
    fn what_could_not_be_written_is_kept_unless_something_newer_was_noted() {
        let blob = |number| BlobId([number; 32]);
        let last_use = |order| LastUse { order, at: 0 };
        let record =
            |number| SourceRecord { blob: blob(number), version: Version::default(), checked: 1, fetched: None };
        let pending = |gone: &[u8], uses: &[(u8, u64)], sources: &[(u8, u8)]| Pending {
            gone: gone.iter().copied().map(blob).collect(),
            uses: uses.iter().map(|(number, order)| (blob(*number), last_use(*order))).collect(),
            sources: sources.iter().map(|(key, number)| (blob(*key), record(*number))).collect(),
        };
        let mut next = pending(&[2], &[(1, 5)], &[(9, 3)]);
        next.put_back(pending(&[4], &[(1, 3), (2, 1), (3, 2)], &[(8, 2), (9, 1), (10, 1)]));
        let expected = pending(&[2, 4], &[(1, 5), (3, 2)], &[(9, 3), (10, 1)]);
        assert_eq!((next.gone, next.uses, next.sources), (expected.gone, expected.uses, expected.sources));
    }
}
