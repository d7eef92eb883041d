//! A blob's bytes on their way to an engine: from the agent, and from the upstream whenever the agent can't deliver.
//!
//! ```text
//!            fails, or stands still                  slice done, and the agent has what follows
//!   Opening ─► Agent ─────────────────────────────► Upstream ─────────────────────────────► Agent …
//!              (waits as long as the blob moves)    (a slice at a time)
//! ```
//!
//! An engine that has got its headers waits for the body, so the flow waits for the agent as long as the blob makes progress and the bytes that follow
//! have not been read yet. If nothing of the blob arrives for [`STILL`], or nothing for this engine although others may have the bytes that
//! follow (for example because a holder does not send them), or the agent fails, bytes come from the upstream with the caller's own
//! credentials, and the flow returns to the agent as soon as it has what follows. The second time it does not wait as long. A
//! range that the agent could deliver only after everything before it, because the reader of the origin can't jump, begins with the
//! upstream (see [`crate::mirror::ahead`]).
//!
//! A body that stalls ends after `stall_timeout`, whether the agent or the upstream delivers it; the upstream was asked before that. Time in which an
//! origin asked not to be asked does not count.
//!
//! Bytes from the upstream are not stored here. If a blob comes only from the upstream, it is compared with its digest, and its last bytes are
//! held back for that; otherwise the engine checks the whole, as it does with a registry. After two kinds of failure nothing more is sent, since
//! they cast doubt on the bytes that were sent already: content with another digest, and a blob whose transfer was ended. An
//! upstream that limits requests is not asked again without the agent either. Then, and if no source can go on, the connection is closed, so that the engine
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

/// If the requested bytes are at most this far ahead, the flow waits for the agent, even for an engine that jumps: the agent reads them in a moment.
pub(super) const NEAR: u64 = 256 << 10;

/// How long nothing of a blob may arrive before the upstream is asked. Engines wait far longer for a body.
const STILL: Duration = Duration::from_secs(15);

/// If the body has stalled before, the wait is divided by this.
const IMPATIENCE: u32 = 8;

/// Pauses between attempts to go on after both the upstream and the agent have failed. The last one is repeated, until the
/// blob has stalled for so long that the upstream is asked anyway.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Most stalled blobs that are read from upstreams at a time: with more, a slow upstream would deliver no
/// blob completely.
pub(crate) const MAX_AROUND: usize = 4;

/// The state in which a flow begins.
pub(crate) struct Start {
    pub(crate) giver: Giver,
    /// The agent's blob, if it is open; dropping it ends the interest in it.
    pub(crate) blob: Option<Box<dyn Blob>>,
    /// The agent's first bytes, if they are there.
    pub(crate) first: Option<Part>,
    /// Offset of the first byte.
    pub(crate) at: u64,
    /// The offset after the last byte, if known.
    pub(crate) end: Option<u64>,
    /// The length of the blob that the engine was told.
    pub(crate) length: Option<u64>,
    /// True if the upstream is to deliver the whole blob.
    pub(crate) whole: bool,
    /// True if the range is lone: not part of a read of the whole blob.
    pub(crate) lone: bool,
}

/// What a flow needs in addition to its blob.
pub(crate) struct Rest {
    pub(crate) rescue: Rescue,
    pub(crate) reopen: Reopen,
    pub(crate) outlet: Outlet,
    pub(crate) around: Arc<Semaphore>,
    /// How long it may stall; zero for no limit.
    pub(crate) stall_timeout: Duration,
}

/// The source of the next bytes.
pub(crate) enum Giver {
    /// Not known yet: the agent's blob is being opened.
    Opening(Opening),
    Agent(BoxStream<'static, Result<Part, FetchError>>),
    Upstream(Slice),
    /// The body ends here.
    Nobody,
}

/// A source that is still opening the agent's blob.
pub(crate) fn opening(blob: impl Future<Output = Result<Box<dyn Blob>, FetchError>> + Send + 'static) -> Giver {
    Giver::Opening(Box::pin(async move { blob.await.map(Opened::Blob) }))
}

/// A future that finds the source.
pub(crate) type Opening = BoxFuture<'static, Result<Opened, FetchError>>;

/// The source that was found.
pub(crate) enum Opened {
    /// The agent, this blob.
    Blob(Box<dyn Blob>),
    /// The agent, with the blob that it opened before.
    Before,
    Upstream(Slice),
}

impl Start {
    /// A flow that sends the bytes of the range `sent`, or everything if `None`.
    pub(crate) fn of(sent: Option<ByteRange>) -> Self {
        let (at, end) = (sent.map_or(0, ByteRange::start), sent.map(ByteRange::end));
        Self { giver: Giver::Nobody, blob: None, first: None, at, end, length: None, whole: false, lone: false }
    }
}

/// A body from the upstream.
pub(crate) struct Slice {
    pub(crate) body: darter_origin::Body,
    /// Held while the body is read.
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
    /// Bytes from the agent that were not sent yet.
    given: Option<Part>,
    outlet: Outlet,
    at: u64,
    end: Option<u64>,
    lone: bool,
    length: Option<u64>,
    /// How many bytes of the blob were stored when this was last checked.
    held: u64,
    /// Since when the flow waits for the next byte.
    waits: Instant,
    /// When the last byte was sent, or the blob last made progress.
    moved: Instant,
    /// How often the upstream replaced an agent that stalled.
    stood_still: u32,
    /// When the upstream was last asked without success.
    in_vain: Option<Instant>,
    /// Attempts to go on since the last byte.
    tries: usize,
    rescue: Rescue,
    reopen: Reopen,
    around: Arc<Semaphore>,
    stall_timeout: Option<Duration>,
    copy: Option<UpstreamCopy>,
}

/// The upstream's own copy of the whole blob, as far as it has arrived.
struct UpstreamCopy {
    hasher: DigestHasher,
    /// The latest bytes, held back.
    held: Option<Bytes>,
}

impl Flow {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        // Time during which the connection did not take the last bytes must not count as a stall of the blob.
        self.moved = Instant::now();
        self.waits = self.moved;
        loop {
            // The agent's bytes were verified.
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

    /// The bytes that were held back of a copy, if it has the right digest.
    fn end_of_copy(&mut self) -> Option<io::Result<Bytes>> {
        let copy = self.copy.take()?;
        let (got, digest) = (copy.hasher.finish(), self.rescue.digest);
        if got == digest {
            return copy.held.map(Ok);
        }
        let text = format!("{} delivered {got} for {digest}", self.rescue.upstream);
        tracing::warn!(path = self.rescue.path, %got, "a registry delivered content with another digest");
        self.rescue.wrong.note(&self.rescue.scope, digest);
        Some(Err(self.cut(io::Error::new(io::ErrorKind::InvalidData, text))))
    }

    /// The part's bytes, or a placeholder for its first bytes on this connection; the rest follows.
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

    /// Begins with the source that was found.
    fn begin(&mut self, opened: Opened) -> io::Result<()> {
        match opened {
            Opened::Upstream(slice) => self.giver = Giver::Upstream(slice),
            Opened::Before => self.giver = self.of_agent(),
            Opened::Blob(blob) => {
                if let (Some(told), Some(length)) = (self.length, blob.length())
                    && told != length
                {
                    let text = format!("the blob has {length} bytes, but was announced with {told}");
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

    /// When to check a blob of which nothing arrives: after [`STILL`], again while there is time to ask the upstream before the blob
    /// has stalled for too long, and at the limit itself.
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

    /// The error for a blob that stalled for too long.
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

    /// After how long a stall the upstream has to be asked, so that it has time to answer.
    fn last_chance(&self) -> Duration {
        self.stall_timeout.map_or(Duration::MAX, |stall| stall.saturating_sub(self.rescue.wait))
    }

    /// Handles a stall. If the blob makes progress, waits; else reads a slice from the upstream, unless too many blobs are read from there or there
    /// is no time left for it.
    async fn stood_still(&mut self) -> io::Result<()> {
        let (held, now) = (self.held_now(), Instant::now());
        if held != std::mem::replace(&mut self.held, held) {
            self.moved = now;
            // Other pieces arrive, but not the ones that follow here, although others may have them.
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
            // There is no agent to return to.
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

    /// Called when the upstream has sent what it was asked for. Continues with the agent, or with the upstream if the agent is still far from the next byte,
    /// or stalled again after the flow had returned to it and does not have what follows.
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

    /// The earliest time for another attempt to go on.
    fn may_try(&self) -> bool {
        self.stall_timeout.is_none_or(|stall| self.moved.elapsed() < stall)
    }

    fn nearness(&self) -> Option<Nearness> {
        self.blob.as_ref().map(|blob| blob.nearness(self.at, self.lone))
    }

    fn held_now(&self) -> u64 {
        self.blob.as_ref().map_or(0, |blob| blob.held())
    }

    /// Continues after the source of the bytes failed; `error` is `None` if it ended early.
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
        // The caller asked too often; one more request would not help.
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

    /// The content has changed, and the engine that got part of the old content will ask again: asks another agent, once, to read the new content meanwhile.
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

/// The body of a blob that begins with `start`.
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
