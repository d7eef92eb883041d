//! A blob's bytes on their way to an engine: from the agent, and from the upstream where the agent is not first.
//!
//! ```text
//!              fails, or stands still                  slice done, and the agent has what follows
//!   Agent ─────────────────────────────► Upstream ─────────────────────────────► Agent …
//!   (waits as long as the blob moves)    (a slice at a time)
//! ```
//!
//! An engine that has got its headers waits for the body, so the agent is waited for as long as the blob moves. When
//! nothing of the blob comes for [`STILL`], or the agent fails, bytes come from the upstream with the caller's own
//! credentials, and the agent is gone back to as soon as it has what follows. A range that the agent could only give
//! after all that lies before it begins with the upstream (see [`crate::mirror::ahead`]).
//!
//! What comes from the upstream is not stored here. A blob that comes from it alone is compared with its digest, and its
//! last bytes are held back for that; of other bytes the engine checks the whole, as it does with a registry. Two failures are no reason to go on, since they cast doubt on what was sent already:
//! content that is not what its digest says, and a blob that was withdrawn. Nor is an upstream that limits requests
//! asked again past the agent. Then, and when nobody can go on, the connection breaks off, so that the engine sees an
//! incomplete body.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, DigestHasher, Source};
use darter_origin::ErrorKind;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::FetchError;
use crate::local::Body;
use crate::local::outlet::Outlet;
use crate::metrics::Fallback;
use crate::mirror::rescue::{Rescue, count, to_body};
use crate::mirror::{Blob, Blobs, Nearness, Part};

/// How long nothing of a blob may come before the upstream is asked. Engines wait far longer for a body.
const STILL: Duration = Duration::from_secs(15);

/// Pauses between tries to go on, when both the upstream and the agent have failed.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Blobs that stand still and are read past the agent, at most at a time: more would keep a slow upstream from giving
/// anybody a whole blob.
pub(crate) const MAX_AROUND: usize = 4;

/// What a flow begins with.
pub(crate) struct Start {
    /// The agent's blob, if it opened it; dropping it ends the interest in it.
    pub(crate) blob: Option<Box<dyn Blob>>,
    /// The agent's bytes, unless the upstream begins.
    pub(crate) parts: Option<BoxStream<'static, Result<Part, FetchError>>>,
    /// The first of them, if they are there.
    pub(crate) first: Option<Part>,
    /// The upstream's bytes of the first slice, if it begins.
    pub(crate) slice: Option<Slice>,
    /// Offset of the first byte.
    pub(crate) at: u64,
    /// One past the last byte, if known.
    pub(crate) end: Option<u64>,
    /// Whether the upstream is to give all of the blob.
    pub(crate) whole: bool,
    /// Whether the range is no part of a reading of everything.
    pub(crate) lone: bool,
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
    /// What the agent gave and the connection has not been given yet.
    given: Option<Part>,
    outlet: Outlet,
    at: u64,
    end: Option<u64>,
    lone: bool,
    /// Bytes of the blob that were here when they were last looked at.
    held: u64,
    /// Tries to go on since the last byte.
    tries: usize,
    rescue: Rescue,
    reopen: Reopen,
    around: Arc<Semaphore>,
    copy: Option<Copy>,
}

/// The upstream's own copy of the whole blob, as far as it has come.
struct Copy {
    hasher: DigestHasher,
    /// What came last.
    held: Option<Bytes>,
}

enum Giver {
    Agent(BoxStream<'static, Result<Part, FetchError>>),
    Upstream(Slice),
    /// Nothing more comes.
    Nobody,
}

impl Flow {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            // What the agent gives was checked.
            if matches!(self.giver, Giver::Agent(_))
                && let Some(held) = self.copy.take().and_then(|copy| copy.held)
            {
                return Some(Ok(held));
            }
            if let Some(part) = self.given.take() {
                return Some(self.hand_on(part));
            }
            let went_on = match &mut self.giver {
                Giver::Nobody => return self.end_of_copy(),
                Giver::Agent(parts) => match tokio::time::timeout(STILL, parts.next()).await {
                    Ok(Some(Ok(part))) => {
                        self.given = Some(part);
                        Ok(())
                    }
                    Ok(None) if self.end.is_none_or(|end| self.at >= end) => return None,
                    Ok(short) => self.go_on(short.and_then(Result::err)).await,
                    Err(_) => {
                        self.go_around().await;
                        Ok(())
                    }
                },
                Giver::Upstream(slice) => match slice.body.next().await {
                    Some(Ok(bytes)) => {
                        count(&self.rescue.metrics, &bytes);
                        self.at += bytes.len() as u64;
                        self.tries = 0;
                        let Some(copy) = &mut self.copy else { return Some(Ok(bytes)) };
                        copy.hasher.update(&bytes);
                        match copy.held.replace(bytes) {
                            Some(before) => return Some(Ok(before)),
                            None => Ok(()),
                        }
                    }
                    Some(Err(error)) => self.go_on(Some(error.into())).await,
                    None => {
                        self.slice_done().await;
                        Ok(())
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

    /// Nothing came for a while. A blob that moves is waited for; else the upstream gives a slice, if not too many do.
    async fn go_around(&mut self) {
        let held = self.held_now();
        if held != std::mem::replace(&mut self.held, held) {
            return;
        }
        let Some(end) = self.end else { return };
        let Ok(permit) = Arc::clone(&self.around).try_acquire_owned() else { return };
        match self.rescue.slice(self.at, end).await {
            Ok(body) => {
                let path = &self.rescue.path;
                tracing::warn!(path, at = self.at, "a blob stands still; reading on from the upstream");
                self.rescue.metrics.mirror_fallback(Fallback::Resumed);
                self.giver = Giver::Upstream(Slice { body, _permit: Some(permit) });
            }
            Err(error) => tracing::info!(path = self.rescue.path, %error, "a blob stands still at the upstream, too"),
        }
    }

    /// The upstream gave what it was asked for: the agent goes on, or the upstream does if the agent is still far.
    async fn slice_done(&mut self) {
        self.held = self.held_now();
        let rest = self.end.filter(|end| self.at < *end);
        let (Some(blob), Some(end)) = (&self.blob, rest) else {
            self.giver = Giver::Nobody;
            return;
        };
        let far = matches!(blob.nearness(self.at), Nearness::After(_));
        if far && let Ok(body) = self.rescue.slice(self.at, end).await {
            if let Giver::Upstream(slice) = &mut self.giver {
                slice.body = body;
            }
            return;
        }
        self.giver = Giver::Agent(parts_of(&**blob, ByteRange::new(self.at, end), self.lone));
    }

    fn held_now(&self) -> u64 {
        self.blob.as_ref().map_or(0, |blob| blob.held())
    }

    /// Goes on after whoever gave failed (`None`: ended short).
    async fn go_on(&mut self, error: Option<FetchError>) -> io::Result<()> {
        let at = self.at;
        match &error {
            Some(error @ (FetchError::WrongDigest { .. } | FetchError::Withdrawn { .. })) => {
                tracing::warn!(path = self.rescue.path, at, %error, "the agent took a blob back; breaking off");
                if matches!(error, FetchError::WrongDigest { .. }) {
                    self.rescue.wrong.note(&self.rescue.scope, self.rescue.digest);
                }
                return Err(self.cut(io::Error::other(error.clone())));
            }
            Some(error) => tracing::warn!(path = self.rescue.path, at, %error, "a blob failed half-way; going on"),
            None => tracing::warn!(path = self.rescue.path, at, "a blob ended short; going on"),
        }
        let limited = matches!(&error, Some(FetchError::Origin(failure)) if matches!(failure.kind, ErrorKind::RateLimited { .. }));
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
            let Some(pause) = PAUSES.get(self.tries) else {
                tracing::warn!(path = self.rescue.path, at, error = %refused, "nobody can go on; breaking off");
                return Err(self.cut(refused));
            };
            self.tries += 1;
            tokio::time::sleep(*pause).await;
            let Reopen { blobs, source, credentials } = self.reopen.clone();
            if let (Some(end), Ok(blob)) = (self.end, blobs.open(source, credentials).await) {
                self.giver = Giver::Agent(parts_of(&*blob, ByteRange::new(self.at, end), self.lone));
                self.blob = Some(blob);
                return Ok(());
            }
        }
    }

    fn cut(&mut self, error: io::Error) -> io::Error {
        self.rescue.metrics.mirror_fallback(Fallback::Cut);
        self.giver = Giver::Nobody;
        self.copy = None;
        error
    }
}

/// The agent's bytes of a range.
pub(crate) fn parts_of(blob: &dyn Blob, range: ByteRange, lone: bool) -> BoxStream<'static, Result<Part, FetchError>> {
    if lone { blob.lone_parts(range) } else { blob.parts(Some(range)) }
}

/// The body of a blob that the agent has opened.
pub(crate) fn body(start: Start, rescue: Rescue, reopen: Reopen, outlet: Outlet, around: Arc<Semaphore>) -> Body {
    let Start { blob, parts, first, slice, at, end, whole, lone } = start;
    let giver = match (parts, slice) {
        (Some(parts), _) => Giver::Agent(parts),
        (None, Some(slice)) => Giver::Upstream(slice),
        (None, None) => Giver::Nobody,
    };
    let held = blob.as_ref().map_or(0, |blob| blob.held());
    let copy = whole.then(|| Copy { hasher: rescue.digest.hasher(), held: None });
    let flow = Flow { giver, blob, given: first, outlet, at, end, lone, held, tries: 0, rescue, reopen, around, copy };
    to_body(stream::unfold(flow, |mut flow| async move { Some((flow.next().await?, flow)) }))
}
