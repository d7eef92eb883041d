//! The members of an archive, out of the mounted file that it is.
//!
//! Bytes that stand in the archive as they are, are read there by range. Deflated ones are inflated: from the place on where the last
//! read ended, or from the nearest [copy](darter_archive::inflate) of the decoder, and what was inflated last is kept for a while.
//!
//! Invariants: memory is bounded, whatever programs open: [`MAX_COPIES`] decoders and [`MAX_CHUNKS`] chunks for all members together, and
//! what one read needs. A member that turned out to be damaged is an error from then on, as far as it was not read before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

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
use crate::tree::{Reader, Unopened};

/// Decoders that are kept, of all members together.
const MAX_COPIES: usize = (96 << 20) / COPY;

/// Inflated chunks that are kept.
const MAX_CHUNKS: usize = 96;

/// How much compressed data is read at a time.
const DATA_STEP: u64 = 256 << 10;

/// How much is read of the archive at a time otherwise: as the kernel reads.
const READ_STEP: u64 = 1 << 20;

/// Why an archive can't be looked through.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It can't be shown.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its bytes can't be had.
    #[error("bytes {range} of the archive, which tell of its members, can't be had")]
    Unread {
        /// Which.
        range: ByteRange,
    },
}

/// Looks through an archive.
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

/// All bytes of a range that is no longer than [`READ_STEP`].
async fn exactly(file: &Arc<MountedFile>, range: ByteRange) -> Result<Bytes, Unread> {
    let size = u32::try_from(range.len()).map_err(|_| Unread)?;
    let bytes = file.read(range.start(), size).await?;
    if bytes.len() as u64 == range.len() { Ok(bytes) } else { Err(Unread) }
}

/// See the module's text.
pub struct Archive {
    tree: Arc<Tree>,
    file: Arc<MountedFile>,
    opened: Mutex<HashMap<NodeId, Opened>>,
    chunks: Mutex<Chunks>,
    copies: Arc<Semaphore>,
}

/// A zip's member that somebody has open.
struct Opened {
    users: usize,
    member: Arc<Member>,
}

struct Member {
    zipped: Zipped,
    size: u64,
    /// Where its data is.
    data: ByteRange,
    inflating: AsyncMutex<Inflating>,
}

/// The decoders of a member.
struct Inflating {
    /// The one that inflated last.
    last: Option<(Inflater, OwnedSemaphorePermit)>,
    copies: Copies<OwnedSemaphorePermit>,
}

/// Chunks that were inflated last: of which member, and which of its chunks.
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
    /// The archive that this file is, with these members.
    pub fn new(tree: Arc<Tree>, file: Arc<MountedFile>) -> Self {
        let copies = Arc::new(Semaphore::new(MAX_COPIES));
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

    /// Reads a member's own header, which says where its data is.
    async fn locate(&self, zipped: Zipped, size: u64) -> Result<Member, Unread> {
        let local = Local::of(zipped);
        let data = local.data(&exactly(&self.file, local.range()).await?);
        let data = data.map_err(|error| {
            tracing::warn!(%error, "a member of the archive can't be read");
            Unread
        })?;
        let inflating = AsyncMutex::new(Inflating { last: None, copies: Copies::of(size) });
        Ok(Member { zipped, size, data, inflating })
    }

    /// Bytes of the archive, however many.
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
        // A hole is zeros in the file itself.
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

    async fn inflated(&self, file: NodeId, member: &Member, range: ByteRange) -> Result<Bytes, Unread> {
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
        let mut inflating = member.inflating.lock().await;
        // Somebody else may have waited for it, too.
        let known = self.chunks.lock().get((file, number));
        if let Some(chunk) = known {
            return Ok(chunk);
        }
        let begin = number * CHUNK;
        let copy = inflating.copies.nearest(begin).cloned();
        let last = inflating.last.take().filter(|(last, _)| last.given() <= begin);
        let (mut inflater, mut permit) = match (last, copy) {
            (Some((last, permit)), copy) if copy.as_ref().is_none_or(|copy| copy.given() <= last.given()) => {
                (last, Some(permit))
            }
            (last, Some(copy)) => (copy, last.map(|(_, permit)| permit)),
            (last, None) => (Inflater::new(member.size, member.zipped.crc), last.map(|(_, permit)| permit)),
        };
        loop {
            let this = inflater.given() / CHUNK;
            let (next, chunk) = self.next_chunk(inflater, member).await?;
            inflater = next;
            inflating.copies.keep(&inflater, || Arc::clone(&self.copies).try_acquire_owned().ok());
            self.chunks.lock().put((file, this), chunk.clone());
            if this == number {
                permit = permit.or_else(|| Arc::clone(&self.copies).try_acquire_owned().ok());
                // Without room for it, the next read begins at a copy.
                inflating.last = permit.map(|permit| (inflater, permit));
                return Ok(chunk);
            }
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
            // Milliseconds of work, which keep no worker from others' requests.
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
impl Reader for Archive {
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
            Contents::Sparse(extents) => self.sparse(extents, range).await,
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
