//! The mounted file: reads that wait, with a limit; connections to an agent that come and go; content that turned out wrong.
//!
//! A read is answered, in this order: from fresh pieces of the agent's file; by the agent, which fetches and verifies; without an agent,
//! while there is none or it can't have the bytes, from pieces whose hashes it told before, verified here. Else the read waits until its
//! limit. So a mount outlives its agent and its origin as far as it has come, and all of it once it is whole.
//!
//! Invariants:
//! - one mount is one content: a connection to another blob, or of another length, is not used;
//! - bytes of the agent's file go out only if the agent vouched for them by this connection, or if they match a hash that it told. A page of
//!   zeros is compared with the hash in any case: the file may have got a hole there;
//! - once the content is found to be wrong nothing is read any more.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::{ByteRange, Clock, PieceHash};
use parking_lot::Mutex;
use rustix::fs::{Advice, fadvise};
use tokio::sync::{Notify, Semaphore, watch};

use crate::ahead::Ahead;
use crate::fill::{Fill, Rest, Step};
use crate::kept::{Kept, Proof, may_have_a_hole};
use crate::limits::{Limits, Pauses};
use crate::supply::{Content, End, Given, Refusal, Supplier, Supply};

/// Before a question that was refused is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// How long fetching ahead may take.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Ranges that are fetched ahead at a time.
const MAX_AHEAD: usize = 16;

/// How often to look whether all of the file is there.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How much of a whole file's hashes is asked for at a time.
const HASHED_STEP: u64 = 32 << 20;

/// A connection that lasted for so long was a good one.
const GOOD_AFTER: Duration = Duration::from_secs(5);

/// How long the comparison of a piece may hold up a new connection.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(5);

const OTHER: &str = "the content is another one at its origin by now; unmount it, and mount what is there";

/// A page of memory: reads of the file begin and end where one does, so that a hole is seen whole.
const PAGE: u64 = 4096;

/// How a file is read.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long a read waits before it fails.
    pub limit: Duration,
    /// When the rest is fetched.
    pub fill: Fill,
    /// Whether the content has to have a digest.
    pub has_digest: bool,
}

/// How a mount is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// An agent answers.
    Open,
    /// None does, or it can't have the content: why. What was read before can be read.
    Waiting(String),
    /// The content is another one at its origin by now: what was read before can be read, nothing else.
    Changed(String),
    /// The content is not what its digest says: nothing can be read.
    Tainted(String),
}

/// A mount at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// How it is.
    pub condition: Condition,
    /// Bytes here, when last told.
    pub held: u64,
    /// Whether that is all, and was checked.
    pub whole: bool,
    /// Whether all of it can be read without an agent.
    pub alone: bool,
    /// Reads that wait now.
    pub waiting: usize,
}

/// A read that failed: EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread;

#[derive(Clone)]
enum Link {
    Up(Arc<dyn Supply>),
    Down(Condition),
}

/// See the module's text.
pub struct MountedFile {
    content: Content,
    settings: Settings,
    clock: Arc<dyn Clock>,
    ahead: Mutex<Ahead>,
    limits: Mutex<Limits>,
    kept: Mutex<Kept>,
    /// The agent's file that was named last.
    file: Mutex<Option<Arc<File>>>,
    link: watch::Sender<Link>,
    held: Mutex<(u64, bool)>,
    waiting: AtomicUsize,
    /// Somebody begins to wait.
    begins: Notify,
    /// An agent told of other content under the same name.
    contradicted: Notify,
    fetches: Arc<Semaphore>,
}

/// Counts a read that waits.
struct Waits<'a>(&'a MountedFile);

impl<'a> Waits<'a> {
    fn begin(file: &'a MountedFile) -> Self {
        file.waiting.fetch_add(1, Ordering::Relaxed);
        file.begins.notify_waiters();
        Self(file)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MountedFile {
    /// A file whose content was opened by this connection. Needs [`MountedFile::keep`] to run, too.
    pub fn new(content: Content, supply: Arc<dyn Supply>, settings: Settings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            ahead: Mutex::new(Ahead::new(content.length)),
            limits: Mutex::new(Limits::new(settings.limit)),
            kept: Mutex::new(Kept::new(content.pieces, content.length)),
            file: Mutex::new(None),
            link: watch::channel(Link::Up(supply)).0,
            held: Mutex::new((0, false)),
            waiting: AtomicUsize::new(0),
            begins: Notify::new(),
            contradicted: Notify::new(),
            fetches: Arc::new(Semaphore::new(MAX_AHEAD)),
            content,
            settings,
            clock,
        })
    }

    /// What is mounted.
    pub const fn content(&self) -> &Content {
        &self.content
    }

    /// How it is now.
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
        Glance { condition, held, whole, alone: self.is_alone(), waiting: self.waiting.load(Ordering::Relaxed) }
    }

    /// Whether every piece's hash is known, and the file that they are in.
    fn is_alone(&self) -> bool {
        self.kept.lock().knows_all() && self.file.lock().is_some()
    }

    /// Reads `size` bytes from `offset` on, as far as there are such.
    ///
    /// # Errors
    /// [`Unread`] when they can't be had within the limit.
    pub async fn read(self: &Arc<Self>, offset: u64, size: u32) -> Result<Bytes, Unread> {
        let range = ByteRange::new(offset, offset.saturating_add(size.into())).clamp_to(self.content.length);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if self.is_tainted() {
            return Err(Unread);
        }
        let ahead = self.ahead.lock().read(range);
        if self.kept.lock().is_fresh(range)
            && let Some(bytes) = self.vouched(range).await
        {
            self.fetch_ahead(ahead);
            return Ok(bytes);
        }
        let patience = self.limits.lock().patience(range, self.clock.now());
        let _waits = Waits::begin(self);
        let mut reading = std::pin::pin!(tokio::time::timeout(patience, self.wait_for(range, patience)));
        // What is waited for is asked for first.
        let first = begun(reading.as_mut()).await;
        self.fetch_ahead(ahead);
        let read = match first {
            Some(read) => read,
            None => reading.await,
        };
        let read = read.unwrap_or(Err(Unread));
        if read.is_err() {
            self.limits.lock().failed(range, patience, self.clock.now());
        }
        read
    }

    async fn wait_for(&self, range: ByteRange, patience: Duration) -> Result<Bytes, Unread> {
        let mut links = self.link.subscribe();
        let pieces = self.kept.lock().whole_pieces(range);
        loop {
            let link = links.borrow_and_update().clone();
            match link {
                Link::Up(supply) => match supply.read(pieces, patience).await {
                    Ok(Given::File(file, hashes)) => {
                        if self.came(file, pieces, &hashes)
                            && let Some(bytes) = self.vouched(range).await
                        {
                            return Ok(bytes);
                        }
                    }
                    Ok(Given::Bytes(bytes)) => return cut(&bytes, pieces, range),
                    Err(Refusal::Late) => return Err(Unread),
                    Err(Refusal::Now(reason)) => {
                        tracing::debug!(reason, %range, "a read was refused");
                        if let Some(bytes) = self.proven(range).await {
                            return Ok(bytes);
                        }
                    }
                },
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

    /// Learns hashes; false if they are of other content, and then that is the end of this connection.
    fn learn(&self, range: ByteRange, hashes: &[PieceHash]) -> bool {
        let is_same = self.kept.lock().learn(range, hashes);
        if !is_same {
            self.contradicted.notify_one();
        }
        is_same
    }

    /// The agent vouches for these pieces; false if they are of other content.
    fn came(&self, file: Arc<File>, pieces: ByteRange, hashes: &[PieceHash]) -> bool {
        if !self.learn(pieces, hashes) {
            return false;
        }
        let mut now = self.file.lock();
        let mut kept = self.kept.lock();
        if !now.as_ref().is_some_and(|known| Arc::ptr_eq(known, &file)) {
            kept.another_file();
            *now = Some(Arc::clone(&file));
        }
        let dropped = kept.came(pieces);
        drop((now, kept));
        if !dropped.is_empty() {
            // Nobody waits for it. What is not on the disk yet stays.
            tokio::task::spawn_blocking(move || {
                for range in dropped {
                    let length = std::num::NonZero::new(range.len());
                    let _ = fadvise(&file, range.start(), length, Advice::DontNeed);
                }
            });
        }
        true
    }

    /// The bytes of pieces that the agent vouched for.
    async fn vouched(&self, range: ByteRange) -> Option<Bytes> {
        let file = self.file.lock().clone()?;
        let pages = ByteRange::new(range.start() / PAGE * PAGE, range.end().div_ceil(PAGE) * PAGE);
        let pages = pages.clamp_to(self.content.length);
        let bytes = tokio::task::spawn_blocking(move || read_exact(&file, pages)).await.ok()??;
        if may_have_a_hole(&bytes) {
            return self.proven(range).await;
        }
        cut(&bytes.into(), pages, range).ok()
    }

    /// The bytes of pieces whose hashes are known, verified.
    async fn proven(&self, range: ByteRange) -> Option<Bytes> {
        let file = self.file.lock().clone()?;
        let proofs = self.kept.lock().proofs(range)?;
        tokio::task::spawn_blocking(move || verified(&file, range, &proofs)).await.ok()?
    }

    fn fetch_ahead(self: &Arc<Self>, range: Option<ByteRange>) {
        let Some(range) = range else { return };
        // More than so many is a reader that is not waited for any more, or an agent that gives nothing.
        let Ok(permit) = Arc::clone(&self.fetches).try_acquire_owned() else { return };
        let file = Arc::clone(self);
        tokio::spawn(async move {
            let _permit = permit;
            let link = file.link.borrow().clone();
            if let Link::Up(supply) = link
                && let Ok(hashes) = supply.fetch(range, AHEAD_TIMEOUT).await
            {
                file.learn(range, &hashes);
            }
        });
    }

    /// Keeps a connection to an agent: opens another one when one ends. Returns when that is of no use any more: the content is another
    /// one at its origin, or was found to be wrong.
    pub async fn keep(&self, supplier: &dyn Supplier) -> Condition {
        let mut pauses = Pauses::default();
        let mut rest = Rest::new(self.content.length, self.clock.now());
        loop {
            let link = self.link.borrow().clone();
            let Link::Up(supply) = link else { unreachable!("a connection was opened") };
            let since = self.clock.now();
            let end = tokio::select! {
                end = supply.ended() => end,
                () = self.contradicted.notified() => End::Changed(OTHER.to_owned()),
                never = self.fill(&*supply, &mut rest) => match never {},
            };
            drop(supply);
            let reason = match end {
                End::Wrong(reason) => return self.ends(Condition::Tainted(reason)),
                // With a digest, it is what was read that was found to be of no one version.
                End::Changed(reason) if self.settings.has_digest => {
                    let reason = format!("what was read can't be of the content with its digest: {reason}");
                    return self.ends(Condition::Tainted(reason));
                }
                End::Changed(reason) => return self.ends(Condition::Changed(reason)),
                End::Gone(reason) => reason,
            };
            tracing::info!(reason, "the connection to the agent ended");
            self.link.send_replace(Link::Down(Condition::Waiting(reason)));
            if self.clock.now().since(since) > GOOD_AFTER {
                pauses.reset();
            }
            loop {
                self.pause(&mut pauses).await;
                match supplier.open().await {
                    Ok((content, supply)) if self.is_same(&content, &*supply).await => {
                        self.link.send_replace(Link::Up(supply));
                        break;
                    }
                    Ok(_) => return self.ends(Condition::Changed(OTHER.to_owned())),
                    Err(reason) => {
                        self.link.send_replace(Link::Down(Condition::Waiting(reason)));
                    }
                }
            }
            rest.begin_anew();
        }
    }

    /// Whether a connection is about the content that is mounted. One piece that is known is asked for in any case: an origin may send other bytes
    /// under the same name.
    async fn is_same(&self, content: &Content, supply: &dyn Supply) -> bool {
        let is_called_so = (content.blob, content.length) == (self.content.blob, self.content.length);
        if !is_called_so {
            return false;
        }
        if content.pieces != self.kept.lock().pieces() {
            // What is known is about other pieces.
            *self.kept.lock() = Kept::new(content.pieces, content.length);
        }
        let known = self.kept.lock().first_known();
        match known {
            Some(known) => match tokio::time::timeout(COMPARE_TIMEOUT, supply.fetch(known, COMPARE_TIMEOUT)).await {
                Ok(Ok(hashes)) => self.kept.lock().learn(known, &hashes),
                // Whatever comes later is compared, too.
                Ok(Err(_)) | Err(_) => true,
            },
            None => true,
        }
    }

    fn ends(&self, condition: Condition) -> Condition {
        self.link.send_replace(Link::Down(condition.clone()));
        condition
    }

    async fn pause(&self, pauses: &mut Pauses) {
        let waits = self.waiting.load(Ordering::Relaxed) > 0;
        let pause = pauses.next(waits);
        let begins = self.begins.notified();
        if tokio::time::timeout(pause, begins).await.is_ok() {
            // Somebody waits now.
            tokio::time::sleep(pause.min(RETRY_PAUSE)).await;
        }
    }

    /// Fetches the rest as it is to be, and learns what is needed to go on without an agent once all is there.
    async fn fill(&self, supply: &dyn Supply, rest: &mut Rest) -> std::convert::Infallible {
        if self.settings.fill == Fill::Always {
            supply.everything().await;
        }
        let mut fills = self.settings.fill == Fill::Idle;
        loop {
            let pause = match fills.then(|| rest.next(self.waiting.load(Ordering::Relaxed), self.clock.now())) {
                None => LOOK_EVERY,
                Some(Step::Wait(pause)) => pause,
                Some(Step::Fetch(step)) => match supply.fetch(step, AHEAD_TIMEOUT).await {
                    Ok(hashes) => {
                        self.learn(step, &hashes);
                        rest.fetched(step);
                        continue;
                    }
                    Err(_) => LOOK_EVERY,
                },
                Some(Step::Done) => {
                    // The whole is checked, and others are told of it.
                    supply.everything().await;
                    fills = false;
                    LOOK_EVERY
                }
            };
            tokio::time::sleep(pause).await;
            let progress = supply.progress().await;
            if let Some(progress) = progress {
                *self.held.lock() = progress;
            }
            if progress.is_some_and(|(_, whole)| whole) && !self.is_alone() {
                self.learn_all(supply).await;
            }
        }
    }

    /// Learns all hashes of a file that is whole, and which file it is.
    async fn learn_all(&self, supply: &dyn Supply) {
        let mut at = 0;
        while at < self.content.length {
            let step = ByteRange::new(at, at + HASHED_STEP).clamp_to(self.content.length);
            let Ok(hashes) = supply.fetch(step, AHEAD_TIMEOUT).await else { return };
            self.learn(step, &hashes);
            at = step.end();
        }
        if self.file.lock().is_none() && self.content.length > 0 {
            let first = self.kept.lock().whole_pieces(ByteRange::new(0, 1));
            if let Ok(Given::File(file, hashes)) = supply.read(first, AHEAD_TIMEOUT).await {
                self.came(file, first, &hashes);
            }
        }
    }
}

/// Lets a future begin; its result if it has one at once.
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

/// The bytes of `range` if every piece that it touches is what it must be.
fn verified(file: &File, range: ByteRange, proofs: &[Proof]) -> Option<Bytes> {
    let mut all = Vec::with_capacity(usize::try_from(range.len()).ok()?);
    for proof in proofs {
        let piece = read_exact(file, proof.range)?;
        if !proof.matches(&piece) {
            return None;
        }
        let part = ByteRange::new(range.start().max(proof.range.start()), range.end().min(proof.range.end()));
        all.extend_from_slice(&cut(&piece.into(), proof.range, part).ok()?);
    }
    Some(all.into())
}

/// The bytes of `part` out of those of `whole`.
fn cut(bytes: &Bytes, whole: ByteRange, part: ByteRange) -> Result<Bytes, Unread> {
    let place = |at: u64| at.checked_sub(whole.start()).and_then(|at| usize::try_from(at).ok()).ok_or(Unread);
    let (from, to) = (place(part.start())?, place(part.end())?);
    if to > bytes.len() { Err(Unread) } else { Ok(bytes.slice(from..to)) }
}

#[cfg(test)]
mod tests;
