//! A blob's bytes on their way to an engine: from the agent, and from the upstream where the agent is not first.
//!
//! ```text
//!            fails, or stands still                  slice done, and the agent has what follows
//!   Opening ─► Agent ─────────────────────────────► Upstream ─────────────────────────────► Agent …
//!              (waits as long as the blob moves)    (a slice at a time)
//! ```
//!
//! An engine that has got its headers waits for the body, so the agent is waited for as long as the blob moves and what follows
//! is still to be read. When nothing of the blob comes for [`STILL`], or nothing for this engine although others may have what
//! follows (a holder keeps it to itself, say), or the agent fails, bytes come from the upstream with the caller's own
//! credentials, and the agent is gone back to as soon as it has what follows. The second time that is not waited for as long. A
//! range that the agent could only give after all that lies before it, since the agent that reads the origin can't jump, begins with the
//! upstream (see [`crate::mirror::ahead`]).
//!
//! A body that stands still ends after `stall_timeout`, whether the agent or the upstream gives it; the upstream was asked before that. Time in which an
//! origin asked to be let alone does not count.
//!
//! Bytes from the upstream are not stored here. A blob that comes from it alone is compared with its digest, and its last bytes are
//! held back for that; of other bytes the engine checks the whole, as it does with a registry. Two failures are no reason to go on, since
//! they cast doubt on what was sent already: content that is not what its digest says, and a blob whose transfer was ended. Nor is an
//! upstream that limits requests asked again past the agent. Then, and when nobody can go on, the connection breaks off, so that the engine
//! sees an incomplete body.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_agent::FetchError;
use darter_core::source::Credentials;
use darter_core::{Blamed as _, ByteRange, DigestHasher, Fault, Source, in_full};
use darter_metrics::{Failed, Fallback};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::body::Body;
use crate::mirror::rescue::{Rescue, count, to_body};
use crate::mirror::{Blob, Blobs, Nearness, Part};
use crate::outlet::Outlet;

/// Bytes that the agent is waited for, even by an engine that jumps ahead: it reads them in a moment.
pub(super) const NEAR: u64 = 256 << 10;

/// How long nothing of a blob may come before the upstream is asked. Engines wait far longer for a body.
const STILL: Duration = Duration::from_secs(15);

/// A body that stood still before is waited for the less long, by this.
const IMPATIENCE: u32 = 8;

/// Pauses between tries to go on, when both the upstream and the agent have failed; the last one again and again, for as long as a
/// blob may stand still before the upstream is asked.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Blobs that stand still and are read past the agent, at most at a time: more would keep a slow upstream from giving
/// anybody a whole blob.
pub(crate) const MAX_AROUND: usize = 4;

/// The state in which a flow begins.
pub(crate) struct Start {
    pub(crate) giver: Giver,
    /// The agent's blob, if it opened it; dropping it ends the interest in it.
    pub(crate) blob: Option<Box<dyn Blob>>,
    /// The agent's first bytes, if they are there.
    pub(crate) first: Option<Part>,
    /// Offset of the first byte.
    pub(crate) at: u64,
    /// One past the last byte, if known.
    pub(crate) end: Option<u64>,
    /// The blob's length, as the engine was told.
    pub(crate) length: Option<u64>,
    /// True if the upstream is to give all of the blob.
    pub(crate) whole: bool,
    /// True if the range is no part of a reading of everything.
    pub(crate) lone: bool,
}

/// What a flow needs besides its blob.
pub(crate) struct Rest {
    pub(crate) rescue: Rescue,
    pub(crate) reopen: Reopen,
    pub(crate) outlet: Outlet,
    pub(crate) around: Arc<Semaphore>,
    /// How long it may stand still; zero: for ever.
    pub(crate) stall_timeout: Duration,
}

/// The giver of the next bytes.
pub(crate) enum Giver {
    /// Not known yet: the agent's blob is being opened.
    Opening(Opening),
    Agent(BoxStream<'static, Result<Part, FetchError>>),
    Upstream(Slice),
    /// Nothing more comes.
    Nobody,
}

/// The agent opens a blob.
pub(crate) fn opening(blob: impl Future<Output = Result<Box<dyn Blob>, FetchError>> + Send + 'static) -> Giver {
    Giver::Opening(Box::pin(async move { blob.await.map(Opened::Blob) }))
}

/// Finds out who gives.
pub(crate) type Opening = BoxFuture<'static, Result<Opened, FetchError>>;

/// The giver that was found.
pub(crate) enum Opened {
    /// The agent, this blob.
    Blob(Box<dyn Blob>),
    /// The agent, the blob that it opened before.
    Before,
    Upstream(Slice),
}

impl Start {
    /// With these bytes to be sent; of all, if `None`.
    pub(crate) fn of(sent: Option<ByteRange>) -> Self {
        let (at, end) = (sent.map_or(0, ByteRange::start), sent.map(ByteRange::end));
        Self { giver: Giver::Nobody, blob: None, first: None, at, end, length: None, whole: false, lone: false }
    }
}

/// Bytes that come from the upstream.
pub(crate) struct Slice {
    pub(crate) body: darter_origin::Body,
    /// Kept while it is read.
    pub(crate) _permit: Option<OwnedSemaphorePermit>,
}

/// How to open the blob again.
#[derive(Clone)]
pub(crate) struct Reopen {
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) source: Source,
    pub(crate) credentials: Credentials,
}

struct Flow {
    giver: Giver,
    blob: Option<Box<dyn Blob>>,
    /// Bytes that the agent gave and the connection has not been given yet.
    given: Option<Part>,
    outlet: Outlet,
    at: u64,
    end: Option<u64>,
    lone: bool,
    length: Option<u64>,
    /// Bytes of the blob that were here when they were last looked at.
    held: u64,
    /// Since when the next byte is waited for.
    waits: Instant,
    /// When a byte was last given, or the blob last moved.
    moved: Instant,
    /// How often the upstream stepped in for an agent that stood still.
    stood_still: u32,
    /// When the upstream was last asked in vain.
    in_vain: Option<Instant>,
    /// Tries to go on since the last byte.
    tries: usize,
    rescue: Rescue,
    reopen: Reopen,
    around: Arc<Semaphore>,
    stall_timeout: Option<Duration>,
    copy: Option<UpstreamCopy>,
}

/// The upstream's own copy of the whole blob, as far as it has come.
struct UpstreamCopy {
    hasher: DigestHasher,
    /// The bytes that came last.
    held: Option<Bytes>,
}

impl Flow {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        // How long the connection took for the last bytes is not the blob's affair.
        self.moved = Instant::now();
        self.waits = self.moved;
        loop {
            // The agent's bytes were checked.
            if matches!(self.giver, Giver::Agent(_))
                && let Some(held) = self.copy.take().and_then(|copy| copy.held)
            {
                return Some(Ok(held));
            }
            if let Some(part) = self.given.take() {
                return Some(self.hand_on(part));
            }
            let (look, end) = (self.looks_at(), self.ends_at());
            let went_on = match &mut self.giver {
                Giver::Nobody => return self.end_of_copy(),
                Giver::Opening(opening) => match tokio::time::timeout_at(look, opening).await {
                    Ok(Ok(opened)) => self.begin(opened),
                    Ok(Err(error)) => self.go_on(Some(error)).await,
                    Err(_) => self.stood_still().await,
                },
                Giver::Agent(parts) => match tokio::time::timeout_at(look, parts.next()).await {
                    Ok(Some(Ok(part))) => {
                        self.given = Some(part);
                        Ok(())
                    }
                    Ok(None) if self.end.is_none_or(|end| self.at >= end) => return None,
                    Ok(short) => self.go_on(short.and_then(Result::err)).await,
                    Err(_) => self.stood_still().await,
                },
                Giver::Upstream(slice) => match tokio::time::timeout_at(end, slice.body.next()).await {
                    Ok(Some(Ok(bytes))) => {
                        count(&self.rescue.metrics, &bytes);
                        self.at += bytes.len() as u64;
                        (self.tries, self.moved) = (0, Instant::now());
                        let Some(copy) = &mut self.copy else { return Some(Ok(bytes)) };
                        copy.hasher.update(&bytes);
                        match copy.held.replace(bytes) {
                            Some(before) => return Some(Ok(before)),
                            None => Ok(()),
                        }
                    }
                    Ok(Some(Err(error))) => self.go_on(Some(error.into())).await,
                    Ok(None) => {
                        self.slice_done().await;
                        Ok(())
                    }
                    Err(_) => {
                        let name = self.rescue.upstream.name().to_owned();
                        Err(self.stalled(&name))
                    }
                },
            };
            if let Err(error) = went_on {
                return Some(Err(error));
            }
        }
    }

    /// The last bytes of a copy that is what its digest says.
    fn end_of_copy(&mut self) -> Option<io::Result<Bytes>> {
        let copy = self.copy.take()?;
        let (got, digest) = (copy.hasher.finish(), self.rescue.digest);
        if got == digest {
            return copy.held.map(Ok);
        }
        let text = format!("{} delivered {got} for {digest}", self.rescue.upstream);
        tracing::warn!(path = self.rescue.path, %got, "a registry delivered other content than it was asked for");
        self.rescue.wrong.note(&self.rescue.scope, digest);
        Some(Err(self.cut(io::Error::new(io::ErrorKind::InvalidData, text))))
    }

    /// The part's bytes, or what stands in for the first of them on this connection; the rest comes next.
    fn hand_on(&mut self, part: Part) -> io::Result<Bytes> {
        let bytes = match part {
            Part::Bytes(bytes) => bytes,
            Part::File(mut part) => {
                let bytes = self.outlet.promise(&mut part).map_err(|error| self.cut(error))?;
                if !part.range.is_empty() {
                    self.given = Some(Part::File(part));
                }
                bytes
            }
        };
        self.at += bytes.len() as u64;
        self.tries = 0;
        Ok(bytes)
    }

    /// It is known who gives.
    fn begin(&mut self, opened: Opened) -> io::Result<()> {
        match opened {
            Opened::Upstream(slice) => self.giver = Giver::Upstream(slice),
            Opened::Before => self.giver = self.of_agent(),
            Opened::Blob(blob) => {
                if let (Some(told), Some(length)) = (self.length, blob.length())
                    && told != length
                {
                    let text = format!("the blob has {length} bytes, and was said to have {told}");
                    return Err(self.cut(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                self.held = blob.held();
                self.blob = Some(blob);
                self.giver = self.of_agent();
            }
        }
        Ok(())
    }

    fn of_agent(&self) -> Giver {
        let Some(blob) = &self.blob else { return Giver::Nobody };
        let range = self.end.map(|end| ByteRange::new(self.at, end));
        Giver::Agent(range.map_or_else(|| blob.parts(None), |range| parts_of(&**blob, range, self.lone)))
    }

    /// When to look after a blob of which nothing comes: after [`STILL`], in time to ask the upstream before it has stood
    /// still for too long, and then.
    fn looks_at(&self) -> Instant {
        let (now, still) = (Instant::now(), self.still());
        let at = |waited: Duration| self.moved + waited;
        let times = [Some(at(still)), self.stall_timeout.map(|_| at(self.last_chance())), self.stall_timeout.map(at)];
        times.into_iter().flatten().filter(|time| *time > now).min().unwrap_or(now + still)
    }

    fn ends_at(&self) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.moved + self.stall_timeout.unwrap_or(FAR)
    }

    /// Nothing came for too long.
    fn stalled(&mut self, who: &str) -> io::Error {
        let what = format!("{who} to give {} from byte {} on", self.rescue.digest, self.at);
        let error = FetchError::Stalled { waited: self.moved.elapsed(), what };
        self.rescue.metrics.failed(Failed::Mirror, error.blame().fault);
        tracing::warn!(path = self.rescue.path, error = %in_full(&error), "a blob is stalled; breaking off");
        self.cut(io::Error::other(error))
    }

    fn still(&self) -> Duration {
        let still = self.full_still();
        if self.stood_still > 0 { still / IMPATIENCE } else { still }
    }

    fn full_still(&self) -> Duration {
        self.stall_timeout.map_or(STILL, |stall| STILL.min(stall / 2))
    }

    /// How long a blob may stand still for the upstream still to have time to answer.
    fn last_chance(&self) -> Duration {
        self.stall_timeout.map_or(Duration::MAX, |stall| stall.saturating_sub(self.rescue.wait))
    }

    /// Nothing came for a while. A blob that moves is waited for; else the upstream gives a slice, if not too many do, or there
    /// is no time left for that.
    async fn stood_still(&mut self) -> io::Result<()> {
        let (held, now) = (self.held_now(), Instant::now());
        if held != std::mem::replace(&mut self.held, held) {
            self.moved = now;
            // Others may have what follows and it does not come, while other pieces do.
            let could_come = self.nearness().is_some_and(|it| it == Nearness::Within);
            if !could_come || now - self.waits < self.still() {
                return Ok(());
            }
        }
        let path = &self.rescue.path;
        let waited = now - self.moved;
        let excused = self.blob.as_ref().map_or(Duration::ZERO, |blob| blob.excused());
        if self.stall_timeout.is_some_and(|stall| waited.saturating_sub(excused) >= stall) {
            let who = format!("the fleet or {}", self.rescue.upstream.name());
            return Err(self.stalled(&who));
        }
        if self.in_vain.is_some_and(|asked| now - asked < self.still()) {
            return Ok(());
        }
        let permit = Arc::clone(&self.around).try_acquire_owned().ok();
        if permit.is_none() && waited < self.last_chance() {
            return Ok(());
        }
        let asked = match (self.end, &self.blob) {
            (Some(end), Some(_)) => self.rescue.slice(self.at, end).await,
            // There is no agent to go back to.
            (end, _) => self.rescue.resume(self.at, end).await,
        };
        match asked {
            Ok(body) => {
                tracing::warn!(path, at = self.at, "a blob is stalled; reading on from the upstream");
                self.rescue.metrics.mirror_fallback(Fallback::Resumed);
                self.stood_still += 1;
                self.giver = Giver::Upstream(Slice { body, _permit: permit });
            }
            Err(error) => {
                tracing::info!(path, error = %in_full(&error), "a blob is stalled at the upstream, too");
                self.in_vain = Some(now);
            }
        }
        Ok(())
    }

    /// The upstream gave what it was asked for: the agent goes on, or the upstream does if the agent is still far, or stood still
    /// again when it was gone back to and has not got what follows.
    async fn slice_done(&mut self) {
        self.held = self.held_now();
        let rest = self.end.filter(|end| self.at < *end);
        let (Some(blob), Some(end)) = (&self.blob, rest) else {
            self.giver = Giver::Nobody;
            return;
        };
        let far = match blob.nearness(self.at, self.lone) {
            Nearness::After(before) if before > NEAR => true,
            Nearness::After(_) | Nearness::Within => self.stood_still > 1,
            Nearness::Held => false,
        };
        if far && let Ok(body) = self.rescue.slice(self.at, end).await {
            if let Giver::Upstream(slice) = &mut self.giver {
                slice.body = body;
            }
            return;
        }
        self.giver = Giver::Agent(parts_of(&**blob, ByteRange::new(self.at, end), self.lone));
    }

    /// Until when another try to go on may begin.
    fn may_try(&self) -> bool {
        self.stall_timeout.is_none_or(|stall| self.moved.elapsed() < stall)
    }

    fn nearness(&self) -> Option<Nearness> {
        self.blob.as_ref().map(|blob| blob.nearness(self.at, self.lone))
    }

    fn held_now(&self) -> u64 {
        self.blob.as_ref().map_or(0, |blob| blob.held())
    }

    /// Goes on after the source of the bytes failed (`None`: ended short).
    async fn go_on(&mut self, error: Option<FetchError>) -> io::Result<()> {
        let at = self.at;
        let fault = error.as_ref().map_or(Fault::Ourselves, |error| error.blame().fault);
        self.rescue.metrics.failed(Failed::Mirror, fault);
        match &error {
            Some(error @ (FetchError::WrongDigest { .. } | FetchError::Withdrawn { .. })) => {
                tracing::warn!(path = self.rescue.path, at, error = %in_full(error), "the agent dissolved a blob; breaking off");
                if matches!(error, FetchError::WrongDigest { .. }) {
                    self.rescue.wrong.note(&self.rescue.scope, self.rescue.digest);
                    self.read_by_another();
                }
                return Err(self.cut(io::Error::other(error.clone())));
            }
            Some(error) => {
                tracing::warn!(path = self.rescue.path, at, error = %in_full(error), "a blob failed half-way; going on");
            }
            None => tracing::warn!(path = self.rescue.path, at, "a blob ended short; going on"),
        }
        let asked = self.in_vain.is_some_and(|asked| asked >= self.moved);
        if asked && !self.may_try() {
            let error = error.unwrap_or(FetchError::Silent);
            return Err(self.cut(io::Error::other(error)));
        }
        // A caller that asked too often would ask once more.
        let limited = error.as_ref().is_some_and(|error| error.is_final() && error.blame().may_pass());
        loop {
            let refused = if limited {
                io::Error::other("the upstream limits requests")
            } else {
                match self.rescue.resume(self.at, self.end).await {
                    Ok(body) => {
                        self.rescue.metrics.mirror_fallback(Fallback::Resumed);
                        self.giver = Giver::Upstream(Slice { body, _permit: None });
                        return Ok(());
                    }
                    Err(error) => error,
                }
            };
            let pause = PAUSES[self.tries.min(PAUSES.len() - 1)];
            let has_tries = self.tries < PAUSES.len() && self.may_try();
            if !has_tries && self.moved.elapsed() + pause > self.full_still() {
                tracing::warn!(path = self.rescue.path, at, error = %refused, "neither the agent nor the upstream can go on with a blob; closing the engine's connection");
                return Err(self.cut(refused));
            }
            self.tries += 1;
            tokio::time::sleep(pause).await;
            let Reopen { blobs, source, credentials } = self.reopen.clone();
            if self.end.is_some() {
                let everything = !self.lone;
                self.giver = opening(async move { blobs.open(source, credentials, everything).await });
                return Ok(());
            }
        }
    }

    /// Other content came, and the engine that got a part of it will ask again: another agent reads it meanwhile, once.
    fn read_by_another(&self) {
        let Ok(permit) = Arc::clone(&self.around).try_acquire_owned() else { return };
        let Reopen { blobs, source, credentials } = self.reopen.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(blob) = blobs.open(source, credentials, true).await else { return };
            let mut parts = blob.parts(None);
            while let Some(Ok(_)) = parts.next().await {}
        });
    }

    fn cut(&mut self, error: io::Error) -> io::Error {
        self.rescue.metrics.mirror_fallback(Fallback::Cut);
        self.giver = Giver::Nobody;
        self.copy = None;
        error
    }
}

/// The agent's bytes of a range.
fn parts_of(blob: &dyn Blob, range: ByteRange, lone: bool) -> BoxStream<'static, Result<Part, FetchError>> {
    if lone { blob.lone_parts(range) } else { blob.parts(Some(range)) }
}

/// The body of a blob that the agent has opened.
pub(crate) fn body(start: Start, rest: Rest) -> Body {
    let Start { giver, blob, first, at, end, length, whole, lone } = start;
    let Rest { rescue, reopen, outlet, around, stall_timeout } = rest;
    let held = blob.as_ref().map_or(0, |blob| blob.held());
    let copy = whole.then(|| UpstreamCopy { hasher: rescue.digest.hasher(), held: None });
    let flow = Flow {
        giver,
        blob,
        given: first,
        outlet,
        at,
        end,
        lone,
        length,
        held,
        waits: Instant::now(),
        moved: Instant::now(),
        stood_still: 0,
        in_vain: None,
        tries: 0,
        rescue,
        reopen,
        around,
        stall_timeout: Some(stall_timeout).filter(|limit| !limit.is_zero()),
        copy,
    };
    to_body(stream::unfold(flow, |mut flow| async move { Some((flow.next().await?, flow)) }))
}
