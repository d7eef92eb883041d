//! The writing thread: takes content as it arrives, puts it into its place, and checks it.
//!
//! Invariant: a sink is committed only once it has all of the content and the content was checked. A download that fails or is dropped leaves
//! nothing behind.

use std::path::Path;

use anyhow::Context as _;
use darter_api::handover::Anew;
use darter_core::{Blame, BlobId, Digest, Fault, Retry};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;

use super::backend::Given;
use super::check::Check;
use super::sink::{Placed, Sink, Wishes};
use super::target::Target;
use crate::failure::Failure;

/// How many chunks go to the writing thread together, so that it is woken once for all of them. A chunk in memory is at most a piece, and at most as many wait as
/// are being written, so this bounds memory to a few megabytes.
const TOGETHER: usize = 8;

pub(super) struct Written {
    pub(super) placed: Placed,
    pub(super) blob: BlobId,
    pub(super) bytes: u64,
    /// The content's digest, if one is known.
    pub(super) digest: Option<Digest>,
}

/// Passes the content to a thread that puts it into its place. If the content fails, or this future is dropped, the
/// thread finds its queue closed before the end and drops the sink uncommitted.
pub(super) async fn write_all(
    content: BoxStream<'static, anyhow::Result<Given>>,
    target: Target,
    first: Wishes,
    wishes: impl Fn(Anew) -> Wishes,
    mut check: Check,
) -> anyhow::Result<Written> {
    let (sender, mut queue) = mpsc::channel::<Vec<Next>>(1);
    let writer = tokio::task::spawn_blocking(move || -> anyhow::Result<Written> {
        let (mut blob, mut expected) = (first.blob, first.length);
        let mut sink = Sink::open(&target, first)?;
        let mut ready = Vec::new().into_iter();
        while let Some(next) = ready.next().or_else(|| {
            ready = queue.blocking_recv()?.into_iter();
            ready.next()
        }) {
            match next {
                Next::Given(Given::Chunk(chunk)) => {
                    let seen = (check.is_hashing() && !matches!(sink, Sink::File(_))).then_some(&mut check);
                    match seen {
                        Some(check) => sink.take(&chunk, Some(&mut |bytes| check.see(bytes)))?,
                        None => sink.take(&chunk, None)?,
                    }
                    if check.is_hashing()
                        && let Some(file) = sink.readable()
                    {
                        check.replaced(chunk.range().start());
                        check.catch_up(file, sink.prefix()).context("can't read what was written")?;
                    }
                }
                Next::Anew(wishes) => {
                    (blob, expected) = (wishes.blob, wishes.length);
                    check.replaced(0);
                    sink.start_over(wishes)?;
                }
                Next::Given(Given::Whole { length, checked }) => {
                    let missing = sink.has_all_of(length).err().map(|bytes| (bytes, length));
                    let wrong = expected.filter(|expected| *expected != length).map(|expected| (length, expected));
                    if let Some((bytes, length)) = missing.or(wrong) {
                        return Err(cut_off(&format!("the content ended after {bytes} of {length} bytes")));
                    }
                    let digest = check.conclude(length, &checked, sink.readable())?;
                    return Ok(Written { placed: sink.commit()?, blob, bytes: length, digest });
                }
                Next::Given(Given::Anew(_)) => {}
            }
        }
        // The sender reports the reason.
        Err(cut_off("the content ended before its end"))
    });
    let mut failed = None;
    let mut content = content.ready_chunks(TOGETHER);
    while let Some(together) = content.next().await {
        let mut next = Vec::with_capacity(together.len());
        for given in together {
            match given {
                Ok(Given::Anew(anew)) => next.push(Next::Anew(wishes(anew))),
                Ok(given) => next.push(Next::Given(given)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        // If the writer has gone, it has failed, and its result says why.
        if (!next.is_empty() && sender.send(next).await.is_err()) || failed.is_some() {
            break;
        }
    }
    drop(sender);
    // Also after a failure: the partial result must be gone before the error is reported.
    let written = writer.await.context("the writing thread failed")?;
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

/// The error for content that ended too early. The store keeps what has arrived.
pub(super) fn cut_off(text: &str) -> anyhow::Error {
    let blame = Blame::new(Fault::Network, Retry::Later(None));
    Failure::Judged { text: format!("{text}; run the command again to get the rest"), blame }.into()
}

/// One message to the writing thread.
pub(super) enum Next {
    Given(Given),
    /// All earlier bytes are void; describes the content that follows.
    Anew(Wishes),
}

/// The length of the target's file, if the file has this digest now.
pub(super) async fn has_digest(target: Target, digest: Digest) -> anyhow::Result<Option<u64>> {
    let Target::File(file) = target else { return Ok(None) };
    if file.old.is_none() {
        return Ok(None);
    }
    let hashed = tokio::task::spawn_blocking(move || hash_file(&file.path, digest));
    // A file that can't be read is treated as if its digest did not match.
    Ok(hashed.await?.ok().filter(|(found, _)| *found == digest).map(|(_, bytes)| bytes))
}

pub(super) fn hash_file(path: &Path, like: Digest) -> std::io::Result<(Digest, u64)> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer, mut bytes) = (like.hasher(), vec![0; 1 << 20], 0);
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok((hasher.finish(), bytes)),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}
