//! The mounted file: reads that wait, with a limit; connections to an agent that come and go (`file/keeping.rs`); content that turned out wrong.
//!
//! A read is answered, in this order: from pieces of the agent's file that the agent confirmed on this connection, and fresh ones; by the agent, which fetches and verifies; without an agent,
//! if there is none or it can't have the bytes, from pieces whose hashes it sent before, verified here. Else the read waits until its
//! limit. So a mount outlives its agent and its origin for the parts that were fetched, and completely once it is complete.
//!
//! Invariants:
//! - one mount has one content: a connection to another blob, or of another length, is not used;
//! - bytes of the agent's file are passed on only if the agent confirmed them in this file, or if they match a hash that it sent. A page of zeros
//!   is compared with the hash in any case, since the file may have got a hole there: once while its piece is fresh. A later change by the disk
//!   itself is not noticed while that connection exists;
//! - what could be read without an agent can be read whichever agent answers: another agent may have less, and be slower;
//! - what was read stays in one page cache ([`Pages`]), and is dropped from the agent's file only if the mounted file's keeps it;
//! - once the content is found to be wrong, all reads fail.

mod keeping;

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, Clock, PieceHash, Rate};
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};

use crate::ahead::Ahead;
use crate::asker::Asker;
use crate::files::Files;
use crate::fill::Fill;
use crate::kept::{Kept, PAGE, PieceCheck, zero_pages};
use crate::limits::Limits;
use crate::session::Threads;
use crate::supply::{Content, Given, Refusal, Supply};
use crate::touches::Touches;
use crate::waits::Waits;

/// The pause before a refused request is repeated.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// An agent that has the bytes answers within this time; after it, the file checks whether it can do without the agent.
const MOMENT: Duration = Duration::from_millis(50);

/// How many reads are compared with their pieces' hashes at a time.
const MAX_PROVEN: usize = 4;

/// How long prefetching a range may take.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// How many ranges are prefetched at a time.
const MAX_AHEAD: usize = 16;

/// How often to check whether the whole file is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Which page cache keeps what was read. Only one does, so that it is not in memory twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// The mounted file's.
    Mounted,
    /// That of the agent's file: the mounted file is read past its own.
    Stored,
}

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a read waits before it fails.
    pub limit: Duration,
    /// When the rest is fetched.
    pub fill: Fill,
    /// Limits the rate at which the rest is fetched.
    pub fill_rate: Option<Rate>,
    /// True if the content must have a certain digest.
    pub has_digest: bool,
    /// Which page cache keeps what was read.
    pub pages: Pages,
}

impl Settings {
    /// The settings for a layer of an image, which has a digest, and is read by file systems with their own page cache.
    pub const fn of_layer(limit: Duration, fill: Fill, fill_rate: Option<Rate>) -> Self {
        Self { limit, fill, fill_rate, has_digest: true, pages: Pages::Stored }
    }
}

/// The condition of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// An agent answers.
    Open,
    /// No agent answers, or it can't have the content, for this reason. Bytes that were read before can be read.
    Waiting(String),
    /// The content has changed at its origin: only bytes that were read before can be read.
    Changed(String),
    /// The content does not match its digest: nothing can be read.
    Tainted(String),
}

/// The state of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// How it is.
    pub condition: Condition,
    /// How many bytes are here, as last reported.
    pub held: u64,
    /// True if the content is complete and checked.
    pub whole: bool,
    /// True if all of it can be read without an agent.
    pub alone: bool,
    /// How many reads wait now.
    pub waiting: usize,
}

/// A read has failed: EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread;

#[derive(Clone)]
enum Link {
    Up(Arc<dyn Supply>),
    Down(Condition),
}

/// See the module's documentation.
pub struct MountedFile {
    content: Content,
    settings: Settings,
    clock: Arc<dyn Clock>,
    ahead: Mutex<Ahead>,
    touches: Mutex<Touches>,
    limits: Mutex<Limits>,
    kept: Mutex<Kept>,
    /// Locked before `kept` if both are.
    files: Mutex<Files>,
    link: watch::Sender<Link>,
    held: Mutex<(u64, bool)>,
    waiting: AtomicUsize,
    waits: Waits,
    /// Notified when a read begins to wait.
    begins: Notify,
    /// Notified when an agent reports other content under the same name.
    contradicted: Notify,
    fetches: Arc<Semaphore>,
    proving: Arc<Semaphore>,
}

/// Receives the result of a read.
type Reply = Box<dyn FnOnce(Result<&[u8], Unread>) + Send>;

thread_local! {
    /// A thread's buffer for reads: allocating one for each read would take longer than the read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The agent's file, with bytes that the agent confirmed.
struct AtHand {
    file: Arc<File>,
    /// True if its pages should stay in memory.
    is_fresh: bool,
}

/// Counts a read that waits, until dropped.
struct WaitingRead<'a>(&'a MountedFile);

impl<'a> WaitingRead<'a> {
    fn begin(file: &'a MountedFile) -> Self {
        file.waiting.fetch_add(1, Ordering::SeqCst);
        file.waits.begin();
        file.begins.notify_waiters();
        Self(file)
    }
}

impl Drop for WaitingRead<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        self.0.waits.end(self.0.clock.now());
    }
}

impl MountedFile {
    /// A file whose content was opened on this connection. [`MountedFile::keep`] has to run, too.
    pub fn new(content: Content, supply: Arc<dyn Supply>, settings: Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::among(content, supply, settings, clock, Waits::new())
    }

    /// A file among several, whose content was opened on this connection: with a fill of idle, while a program waits for another of these files, the rest of this
    /// one is not fetched. All of them have the same clock.
    pub fn among(
        content: Content,
        supply: Arc<dyn Supply>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        waits: Waits,
    ) -> Arc<Self> {
        Arc::new(Self {
            ahead: Mutex::new(Ahead::new(content.length)),
            touches: Mutex::new(Touches::new(content.pieces, content.length, clock.now())),
            limits: Mutex::new(Limits::new(settings.limit)),
            kept: Mutex::new(Kept::new(content.pieces, content.length)),
            files: Mutex::default(),
            link: watch::channel(Link::Up(supply)).0,
            held: Mutex::new((0, false)),
            waiting: AtomicUsize::new(0),
            waits,
            begins: Notify::new(),
            contradicted: Notify::new(),
            fetches: Arc::new(Semaphore::new(MAX_AHEAD)),
            proving: Arc::new(Semaphore::new(MAX_PROVEN)),
            content,
            settings,
            clock,
        })
    }

    /// The mounted content.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// How long a read may wait.
    pub(crate) const fn limit(&self) -> Duration {
        self.settings.limit
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// How many bytes are here, as last reported.
    pub fn held(&self) -> u64 {
        self.held.lock().0
    }

    /// True if the content is complete and checked, as last reported.
    pub fn is_whole(&self) -> bool {
        self.held.lock().1
    }

    /// The current state.
    pub async fn glance(&self) -> Glance {
        let link = self.link.borrow().clone();
        let condition = match link {
            Link::Up(supply) => {
                if let Ok(Some(progress)) = tokio::time::timeout(LOOK_EVERY, supply.progress()).await {
                    *self.held.lock() = progress;
                }
                Condition::Open
            }
            Link::Down(condition) => condition,
        };
        let (held, whole) = *self.held.lock();
        Glance { condition, held, whole, alone: self.is_alone(), waiting: self.waiting.load(Ordering::SeqCst) }
    }

    /// True if every piece's hash is known, and a file with all pieces.
    fn is_alone(&self) -> bool {
        self.files.lock().one_is_whole() && self.kept.lock().knows_all()
    }

    /// Reads `size` bytes from `offset` on, as far as they exist, and passes them to `reply`. Bytes that are here are read on the calling thread, which takes the kernel's requests and may wait for the
    /// disk; for others, a task of the runtime waits. Fails as soon as `asker`, the reading thread, is killed, if the kernel can't end it sooner.
    pub(crate) fn answer(
        self: &Arc<Self>,
        threads: &Threads,
        asker: Option<Asker>,
        offset: u64,
        size: u32,
        reply: impl FnOnce(Result<&[u8], Unread>) + Send + 'static,
    ) {
        let file = Arc::clone(self);
        let runtime = threads.runtime.clone();
        let Some((range, ahead)) = self.noted(offset, size) else {
            runtime.spawn(async move { reply(file.read(offset, size).await.as_deref().map_err(|error| *error)) });
            return;
        };
        let wait = move |file: Arc<Self>, reply: Reply| async move {
            let killed = async {
                match asker {
                    Some(asker) => asker.killed().await,
                    None => std::future::pending().await,
                }
            };
            let read = tokio::select! {
                read = file.wait(range, ahead) => read,
                () = killed => Err(Unread),
            };
            reply(read.as_deref().map_err(|error| *error));
        };
        let Some(at_hand) = self.at_hand(range) else {
            runtime.spawn(wait(file, Box::new(reply)));
            return;
        };
        let handle = runtime.clone();
        let take = move |file: &Arc<Self>| {
            let mut reply = Some(reply);
            let _ = file.take(&at_hand, range, |bytes| reply.take().map(|reply| reply(Ok(bytes))));
            match reply {
                None => file.fetch_ahead(&handle, ahead),
                Some(reply) => drop(handle.spawn(wait(Arc::clone(file), Box::new(reply)))),
            }
        };
        match threads.may_wait() {
            Some(_waits) => take(self),
            None => drop(runtime.spawn_blocking(move || take(&file))),
        }
    }

    /// Reads `size` bytes from `offset` on, as far as they exist.
    ///
    /// # Errors
    /// [`Unread`] if they can't be had within the limit.
    pub async fn read(self: &Arc<Self>, offset: u64, size: u32) -> Result<Bytes, Unread> {
        let Some((range, ahead)) = self.noted(offset, size) else {
            return if self.is_tainted() { Err(Unread) } else { Ok(Bytes::new()) };
        };
        if let Some(at_hand) = self.at_hand(range)
            && let Some(bytes) = self.taken(at_hand, range).await
        {
            self.fetch_ahead(&Handle::current(), ahead);
            return Ok(bytes);
        }
        self.wait(range, ahead).await
    }

    /// Notes a read of these bytes, as far as they exist. Returns their range, and the range to be prefetched. `None` if they do not exist, or nothing may be
    /// read any more.
    fn noted(&self, offset: u64, size: u32) -> Option<(ByteRange, Option<ByteRange>)> {
        let range = ByteRange::new(offset, offset.saturating_add(size.into())).clamp_to(self.content.length);
        if range.is_empty() || self.is_tainted() {
            return None;
        }
        self.touches.lock().read(range, self.clock.now());
        Some((range, self.ahead.lock().read(range)))
    }

    /// Waits for bytes that are not here.
    async fn wait(self: &Arc<Self>, range: ByteRange, ahead: Option<ByteRange>) -> Result<Bytes, Unread> {
        let patience = self.limits.lock().patience(range, self.clock.now());
        let _waits = WaitingRead::begin(self);
        let mut reading = std::pin::pin!(tokio::time::timeout(patience, self.wait_for(range, patience)));
        // The bytes for which a reader waits are requested first.
        let first = begun(reading.as_mut()).await;
        self.fetch_ahead(&Handle::current(), ahead);
        let read = match first {
            Some(read) => read,
            None => reading.await,
        };
        let read =
            read.unwrap_or(Err(Unread)).and_then(|bytes| if self.is_tainted() { Err(Unread) } else { Ok(bytes) });
        if read.is_err() {
            self.limits.lock().failed(range, patience, self.clock.now());
        }
        read
    }

    async fn wait_for(self: &Arc<Self>, range: ByteRange, patience: Duration) -> Result<Bytes, Unread> {
        let mut links = self.link.subscribe();
        let pieces = self.kept.lock().whole_pieces(range);
        loop {
            let link = links.borrow_and_update().clone();
            match link {
                Link::Up(supply) => {
                    let mut asking = std::pin::pin!(supply.read(pieces, patience));
                    let answer = match tokio::time::timeout(MOMENT, asking.as_mut()).await {
                        Ok(answer) => answer,
                        Err(_) => match self.proven(range).await {
                            Some(bytes) => return Ok(bytes),
                            None => asking.await,
                        },
                    };
                    match answer {
                        Ok(Given::File(file, hashes)) => {
                            if self.came(&supply, &file, pieces, &hashes)
                                && let Some(bytes) = self.taken(AtHand { file, is_fresh: true }, range).await
                            {
                                return Ok(bytes);
                            }
                        }
                        Ok(Given::Bytes(bytes)) => return cut(&bytes, pieces, range),
                        Err(Refusal::Late) => return self.proven(range).await.ok_or(Unread),
                        Err(Refusal::Now(reason)) => {
                            tracing::debug!(reason, %range, "a read was refused");
                            if let Some(bytes) = self.proven(range).await {
                                return Ok(bytes);
                            }
                        }
                    }
                }
                Link::Down(Condition::Tainted(_)) => return Err(Unread),
                Link::Down(condition) => {
                    if let Some(bytes) = self.proven(range).await {
                        return Ok(bytes);
                    }
                    if matches!(condition, Condition::Changed(_)) || links.changed().await.is_err() {
                        return Err(Unread);
                    }
                    continue;
                }
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    fn is_tainted(&self) -> bool {
        matches!(&*self.link.borrow(), Link::Down(Condition::Tainted(_)))
    }

    /// Learns hashes. Returns false if they are of other content: then this connection ends.
    fn learn(&self, range: ByteRange, hashes: &[PieceHash]) -> bool {
        let is_same = self.kept.lock().learn(range, hashes);
        if !is_same {
            self.contradicted.notify_one();
        }
        is_same
    }

    /// The agent confirms these pieces. Returns false if they are of other content, or if its connection has ended: then the confirmation may be outdated.
    fn came(&self, by: &Arc<dyn Supply>, file: &Arc<File>, pieces: ByteRange, hashes: &[PieceHash]) -> bool {
        if !self.learn(pieces, hashes) {
            return false;
        }
        let mut files = self.files.lock();
        let mut kept = self.kept.lock();
        // A later connection is noted in `kept` before it is in `link`.
        if !matches!(&*self.link.borrow(), Link::Up(now) if Arc::ptr_eq(now, by)) {
            return false;
        }
        if files.named(file) {
            kept.another_file();
        }
        let dropped = kept.came(pieces);
        drop((files, kept));
        if !dropped.is_empty() && self.settings.pages == Pages::Mounted {
            let file = Arc::clone(file);
            // Nothing waits for this. Bytes that are not on the disk yet stay in memory.
            tokio::task::spawn_blocking(move || {
                for range in dropped {
                    let length = std::num::NonZero::new(range.len());
                    let _ = fadvise(&file, range.start(), length, Advice::DontNeed);
                }
            });
        }
        true
    }

    /// The file with these bytes, if the agent confirmed them recently, or on the present connection.
    fn at_hand(&self, range: ByteRange) -> Option<AtHand> {
        let is_up = matches!(&*self.link.borrow(), Link::Up(_));
        let files = self.files.lock();
        let kept = self.kept.lock();
        let is_fresh = kept.is_fresh(range);
        let file = files.now().filter(|_| is_fresh || (is_up && kept.is_vouched(range)))?;
        Some(AtHand { file, is_fresh })
    }

    /// Reads bytes that are here, and passes them to `give`. `None`, without calling it, if there may be a hole. Blocking.
    fn take<T>(&self, at_hand: &AtHand, range: ByteRange, give: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let pages = ByteRange::new(range.start() / PAGE * PAGE, range.end().div_ceil(PAGE) * PAGE);
        let pages = pages.clamp_to(self.content.length);
        let place = |at: u64| usize::try_from(at - pages.start()).ok();
        let (length, from, to) = (place(pages.end())?, place(range.start())?, place(range.end())?);
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < length {
                buffer.resize(length, 0);
            }
            let bytes = &mut buffer[..length];
            at_hand.file.read_exact_at(bytes, pages.start()).ok()?;
            if !at_hand.is_fresh && self.settings.pages == Pages::Mounted {
                let _ = fadvise(&at_hand.file, pages.start(), std::num::NonZero::new(pages.len()), Advice::DontNeed);
            }
            if !self.kept.lock().are_zeros(zero_pages(pages.start(), bytes)) {
                return None;
            }
            Some(give(&bytes[from..to]))
        })
    }

    /// Reads bytes that are here, or verifies them if there may be a hole.
    async fn taken(self: &Arc<Self>, at_hand: AtHand, range: ByteRange) -> Option<Bytes> {
        let file = Arc::clone(self);
        let taken =
            tokio::task::spawn_blocking(move || file.take(&at_hand, range, Bytes::copy_from_slice)).await.ok()?;
        match taken {
            Some(bytes) => Some(bytes),
            None => self.proven(range).await,
        }
    }

    /// Reads and verifies the bytes of pieces whose hashes are known.
    async fn proven(&self, range: ByteRange) -> Option<Bytes> {
        let files = self.files.lock().all();
        let proofs = self.kept.lock().proofs(range)?;
        let permit = Arc::clone(&self.proving).acquire_owned().await.ok()?;
        let verifying = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            verified(&files, range, &proofs)
        });
        let (bytes, zeros) = verifying.await.ok()??;
        self.kept.lock().learn_zeros(zeros);
        Some(bytes)
    }

    fn fetch_ahead(self: &Arc<Self>, runtime: &Handle, range: Option<ByteRange>) {
        let Some(range) = range else { return };
        // The range is here, and was confirmed on this connection.
        if self.kept.lock().is_vouched(range) {
            return;
        }
        // If all permits are taken, readers have stopped waiting for the data, or the agent delivers nothing.
        let Ok(permit) = Arc::clone(&self.fetches).try_acquire_owned() else { return };
        let file = Arc::clone(self);
        runtime.spawn(async move {
            let _permit = permit;
            let link = file.link.borrow().clone();
            if let Link::Up(supply) = link
                && let Ok(hashes) = supply.fetch(range, AHEAD_TIMEOUT).await
            {
                file.learn(range, &hashes);
            }
        });
    }
}

/// Polls a future once. Returns its result if it has one at once.
async fn begun<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

fn read_exact(file: &File, range: ByteRange) -> Option<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.len()).ok()?];
    file.read_exact_at(&mut bytes, range.start()).ok()?;
    Some(bytes)
}

/// The bytes of `range` if every piece that it touches matches its hash in one of the files; and which pages of these pieces are
/// zeros.
fn verified(files: &[Arc<File>], range: ByteRange, proofs: &[PieceCheck]) -> Option<(Bytes, Vec<u64>)> {
    let mut all = Vec::with_capacity(usize::try_from(range.len()).ok()?);
    let mut zeros = Vec::new();
    for proof in proofs {
        let mut found = files.iter().filter_map(|file| read_exact(file, proof.range));
        let piece = found.find(|piece| proof.matches(piece))?;
        zeros.extend(zero_pages(proof.range.start(), &piece));
        let part = ByteRange::new(range.start().max(proof.range.start()), range.end().min(proof.range.end()));
        all.extend_from_slice(&cut(&piece.into(), proof.range, part).ok()?);
    }
    Some((all.into(), zeros))
}

/// The bytes of `part` from those of `whole`.
fn cut(bytes: &Bytes, whole: ByteRange, part: ByteRange) -> Result<Bytes, Unread> {
    let place = |at: u64| at.checked_sub(whole.start()).and_then(|at| usize::try_from(at).ok()).ok_or(Unread);
    let (from, to) = (place(part.start())?, place(part.end())?);
    if to > bytes.len() { Err(Unread) } else { Ok(bytes.slice(from..to)) }
}

#[cfg(test)]
mod tests;
