//! The members of an archive, read from the mounted file of the archive.
//!
//! Bytes that are stored uncompressed are read by range. Deflated ones are inflated: from the place where the last
//! read ended, or from the nearest [copy](darter_archive::inflate) of the decoder, and the latest chunks are kept for a while.
//!
//! Each open member has a place for the decoder that inflated last, so that sequential reads inflate nothing twice, however many members are open; copies use the
//! remaining places, and members that have many copies give some up for those that have few.
//!
//! Invariants: memory is bounded, whatever programs open: `MAX_COPIES` decoders and `MAX_CHUNKS` chunks for all members together, and
//! what one read needs. A read ends within the mount's limit, whatever it waits for, and the next one continues where it was. A member that turned out to be
//! damaged returns errors from then on, except for parts that were read before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use darter_archive::inflate::{CHUNK, COPY, Copies, Damaged, Inflater};
use darter_archive::scan::Scanned;
use darter_archive::tree::{Extent, Zipped};
use darter_archive::{ArchiveError, Body, Contents, Local, NodeId, Scan, Tree};
use darter_core::ByteRange;
use darter_image::tar::Time;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};

use crate::file::{MountedFile, Unread};
use crate::limits::Limits;
use crate::tree::{TreeReader, Unopened};

/// How many decoders are kept, for all members together.
const MAX_COPIES: usize = (96 << 20) / COPY;

/// How many inflated chunks are kept.
const MAX_CHUNKS: usize = 96;

/// How many bytes of compressed data are read at a time.
const DATA_STEP: u64 = 256 << 10;

/// How many bytes of the archive are read at a time otherwise: as many as the kernel reads.
const READ_STEP: u64 = 1 << 20;

/// How much longer than one read several reads of the archive may take together, so that each of them reports its own timeout.
const GRACE: Duration = Duration::from_millis(50);

/// Why an archive can't be scanned.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The archive can't be shown.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Bytes of the archive can't be read.
    #[error("bytes {range} of the archive, which tell of its members, can't be had")]
    Unread {
        /// Which bytes.
        range: ByteRange,
    },
}

/// Scans an archive for its members.
///
/// # Errors
/// [`ScanError`].
pub async fn scan(file: &Arc<MountedFile>, mtime: Time) -> Result<Scanned, ScanError> {
    let mut scan = Scan::new(file.content().length, mtime);
    while let Some(range) = scan.wants() {
        let bytes = exactly(file, range).await.map_err(|Unread| ScanError::Unread { range })?;
        scan.take(&bytes)?;
    }
    Ok(scan.finish()?)
}

/// All bytes of a range of at most [`READ_STEP`] bytes.
async fn exactly(file: &Arc<MountedFile>, range: ByteRange) -> Result<Bytes, Unread> {
    let size = u32::try_from(range.len()).map_err(|_| Unread)?;
    let bytes = file.read(range.start(), size).await?;
    if bytes.len() as u64 == range.len() { Ok(bytes) } else { Err(Unread) }
}

/// See the module's documentation.
pub struct Archive {
    tree: Arc<Tree>,
    file: Arc<MountedFile>,
    opened: Mutex<HashMap<NodeId, Opened>>,
    chunks: Mutex<Chunks>,
    copies: Arc<Semaphore>,
}

/// A zip's member that is open.
struct Opened {
    users: usize,
    member: Arc<Member>,
}

struct Member {
    zipped: Zipped,
    size: u64,
    /// The range of its data in the archive.
    data: ByteRange,
    /// The decoder that inflated last, if there is a place for it. Locked during inflating.
    last: AsyncMutex<Option<Inflater>>,
    /// The place for it; `None` for a member of only one chunk.
    place: Option<OwnedSemaphorePermit>,
    copies: Mutex<Copies<OwnedSemaphorePermit>>,
    limits: Mutex<Limits>,
}

/// The latest inflated chunks, by their member and index.
#[derive(Default)]
struct Chunks(HashMap<(NodeId, u64), (u64, Bytes)>, u64);

impl Chunks {
    fn get(&mut self, key: (NodeId, u64)) -> Option<Bytes> {
        self.1 += 1;
        let (used, bytes) = self.0.get_mut(&key)?;
        *used = self.1;
        Some(bytes.clone())
    }

    fn put(&mut self, key: (NodeId, u64), bytes: Bytes) {
        self.1 += 1;
        self.0.insert(key, (self.1, bytes));
        if self.0.len() > MAX_CHUNKS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (used, _))| *used).map(|(key, _)| *key)
        {
            self.0.remove(&oldest);
        }
    }
}

impl Archive {
    /// The archive in this file, with these members.
    pub fn new(tree: Arc<Tree>, file: Arc<MountedFile>) -> Self {
        Self::with_places(tree, file, MAX_COPIES)
    }

    fn with_places(tree: Arc<Tree>, file: Arc<MountedFile>, places: usize) -> Self {
        let copies = Arc::new(Semaphore::new(places));
        Self { tree, file, opened: Mutex::default(), chunks: Mutex::default(), copies }
    }

    fn contents(&self, file: NodeId) -> Option<(&Contents, u64)> {
        match &self.tree.get(file)?.body {
            Body::File { size, contents } | Body::SymlinkIn { size, contents } => Some((contents, *size)),
            _ => None,
        }
    }

    fn member(&self, file: NodeId) -> Option<Arc<Member>> {
        Some(Arc::clone(&self.opened.lock().get(&file)?.member))
    }

    /// Reads a member's local header, which says where its data is.
    async fn locate(&self, zipped: Zipped, size: u64) -> Result<Member, Unread> {
        let local = Local::of(zipped);
        let data = local.data(&exactly(&self.file, local.range()).await?);
        let data = data.map_err(|error| {
            tracing::warn!(%error, "a member of the archive can't be read");
            Unread
        })?;
        let place = if zipped.deflated && size > CHUNK { self.place(0) } else { None };
        let limits = Mutex::new(Limits::new(self.file.limit()));
        let copies = Mutex::new(Copies::of(size));
        Ok(Member { zipped, size, data, last: AsyncMutex::default(), place, copies, limits })
    }

    /// A place for one more decoder of a member that `has` this many copies. If none is free, takes one from the member with the
    /// most copies, if that has more than twice as many.
    fn place(&self, has: usize) -> Option<OwnedSemaphorePermit> {
        let free = || Arc::clone(&self.copies).try_acquire_owned().ok();
        free().or_else(|| {
            let members: Vec<_> = self.opened.lock().values().map(|opened| Arc::clone(&opened.member)).collect();
            let most = members.iter().max_by_key(|member| member.copies.lock().len())?;
            let mut copies = most.copies.lock();
            if copies.len() > 2 * has {
                copies.thin();
            }
            drop(copies);
            free()
        })
    }

    /// Bytes of the archive, in any number.
    async fn stored(&self, range: ByteRange) -> Result<Bytes, Unread> {
        if range.len() <= READ_STEP {
            return exactly(&self.file, range).await;
        }
        let (mut all, mut at) = (BytesMut::new(), range.start());
        while at < range.end() {
            let end = (at + READ_STEP).min(range.end());
            all.extend_from_slice(&exactly(&self.file, ByteRange::new(at, end)).await?);
            at = end;
        }
        Ok(all.freeze())
    }

    async fn sparse(&self, extents: &[Extent], range: ByteRange) -> Result<Bytes, Unread> {
        // A hole consists of zeros in the file itself.
        let mut all = BytesMut::zeroed(usize::try_from(range.len()).map_err(|_| Unread)?);
        let first = extents.partition_point(|extent| extent.offset + extent.length <= range.start());
        for extent in extents[first..].iter().take_while(|extent| extent.offset < range.end()) {
            let begin = range.start().max(extent.offset);
            let end = range.end().min(extent.offset + extent.length);
            let at = extent.at + (begin - extent.offset);
            let bytes = self.stored(ByteRange::new(at, at + (end - begin))).await?;
            let place = usize::try_from(begin - range.start()).map_err(|_| Unread)?;
            all[place..place + bytes.len()].copy_from_slice(&bytes);
        }
        Ok(all.freeze())
    }

    /// Inflated bytes, within the time limit of one read.
    async fn inflated(&self, file: NodeId, member: &Member, range: ByteRange) -> Result<Bytes, Unread> {
        let patience = member.limits.lock().patience(range, self.file.clock().now());
        match tokio::time::timeout(patience, self.inflate(file, member, range)).await {
            Ok(read) => read,
            Err(_) => {
                member.limits.lock().failed(range, patience, self.file.clock().now());
                Err(Unread)
            }
        }
    }

    async fn inflate(&self, file: NodeId, member: &Member, range: ByteRange) -> Result<Bytes, Unread> {
        let mut all = BytesMut::new();
        let mut at = range.start();
        while at < range.end() {
            let number = at / CHUNK;
            let chunk = self.chunk(file, member, number).await?;
            let from = usize::try_from(at - number * CHUNK).map_err(|_| Unread)?;
            let to = usize::try_from(range.end() - number * CHUNK).map_err(|_| Unread)?.min(chunk.len());
            if from >= to {
                return Err(Unread);
            }
            if at == range.start() && (to - from) as u64 == range.len() {
                return Ok(chunk.slice(from..to));
            }
            all.extend_from_slice(&chunk[from..to]);
            at += (to - from) as u64;
        }
        Ok(all.freeze())
    }

    async fn chunk(&self, file: NodeId, member: &Member, number: u64) -> Result<Bytes, Unread> {
        let known = self.chunks.lock().get((file, number));
        if let Some(chunk) = known {
            return Ok(chunk);
        }
        let mut last = member.last.lock().await;
        // Another reader may have inflated this chunk meanwhile.
        let known = self.chunks.lock().get((file, number));
        if let Some(chunk) = known {
            return Ok(chunk);
        }
        let begin = number * CHUNK;
        let copy = member.copies.lock().nearest(begin).cloned();
        let mut inflater = match (last.take().filter(|last| last.given() <= begin), copy) {
            (Some(last), copy) if copy.as_ref().is_none_or(|copy| copy.given() <= last.given()) => last,
            (_, Some(copy)) => copy,
            (_, None) => Inflater::new(member.size, member.zipped.crc),
        };
        loop {
            let this = inflater.given() / CHUNK;
            if member.place.is_some() {
                // If a reader gives up waiting, the inflater stays where it was.
                *last = Some(inflater.clone());
            }
            let (next, chunk) = self.next_chunk(inflater, member).await?;
            inflater = next;
            self.keep(&inflater, member);
            self.chunks.lock().put((file, this), chunk.clone());
            if this == number {
                *last = member.place.is_some().then_some(inflater);
                return Ok(chunk);
            }
        }
    }

    /// Keeps a copy of the decoder if one is wanted here, and there is a place for it.
    fn keep(&self, inflater: &Inflater, member: &Member) {
        let copies = member.copies.lock();
        let (is_wanted, has) = (copies.wants(inflater), copies.len());
        drop(copies);
        if is_wanted && let Some(place) = self.place(has) {
            member.copies.lock().keep(inflater, || Some(place));
        }
    }

    /// Inflates the next chunk.
    async fn next_chunk(&self, mut inflater: Inflater, member: &Member) -> Result<(Inflater, Bytes), Unread> {
        let mut out = Vec::with_capacity(CHUNK as usize);
        loop {
            let at = member.data.start() + inflater.taken();
            let range = ByteRange::new(at, at + DATA_STEP).clamp_to(member.data.end());
            let data = if range.is_empty() { Bytes::new() } else { exactly(&self.file, range).await? };
            let is_all = range.end() >= member.data.end();
            // This takes milliseconds, during which it must not occupy a worker.
            let working = tokio::task::spawn_blocking(move || {
                let done = inflater.inflate(&data, is_all, &mut out);
                (inflater, out, done)
            });
            let done: Result<(usize, bool), Damaged>;
            (inflater, out, done) = working.await.map_err(|_| Unread)?;
            match done {
                Ok((_, false)) => return Ok((inflater, out.into())),
                Ok((_, true)) => {}
                Err(error) => {
                    tracing::warn!(%error, header = member.zipped.header, "a member of the archive can't be read");
                    return Err(Unread);
                }
            }
        }
    }
}

#[async_trait]
impl TreeReader for Archive {
    async fn open(&self, file: NodeId) -> Result<(), Unopened> {
        match self.contents(file) {
            Some((Contents::Zipped(zipped), size)) => {
                let known = self.member(file);
                let member = match known {
                    Some(member) => member,
                    None => Arc::new(self.locate(**zipped, size).await.map_err(|Unread| Unopened::Unread)?),
                };
                match self.opened.lock().entry(file) {
                    Entry::Occupied(mut there) => there.get_mut().users += 1,
                    Entry::Vacant(place) => {
                        place.insert(Opened { users: 1, member });
                    }
                }
                Ok(())
            }
            Some((Contents::Stored(_) | Contents::Sparse(_), _)) => Ok(()),
            Some((Contents::Unreadable(_), _)) => Err(Unopened::Unsupported),
            Some((Contents::Whole(_), _)) | None => Err(Unopened::Unread),
        }
    }

    async fn read(&self, file: NodeId, range: ByteRange) -> Result<Bytes, Unread> {
        match self.contents(file).ok_or(Unread)?.0 {
            Contents::Stored(at) => self.stored(ByteRange::new(at + range.start(), at + range.end())).await,
            Contents::Sparse(extents) => {
                let limit = self.file.limit() + GRACE;
                tokio::time::timeout(limit, self.sparse(extents, range)).await.map_err(|_| Unread)?
            }
            Contents::Zipped(zipped) => {
                let member = self.member(file).ok_or(Unread)?;
                if zipped.deflated {
                    return self.inflated(file, &member, range).await;
                }
                let at = member.data.start();
                self.stored(ByteRange::new(at + range.start(), at + range.end())).await
            }
            Contents::Whole(_) | Contents::Unreadable(_) => Err(Unread),
        }
    }

    fn release(&self, file: NodeId) {
        let mut opened = self.opened.lock();
        if let Entry::Occupied(mut there) = opened.entry(file) {
            there.get_mut().users -= 1;
            if there.get().users == 0 {
                there.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
