//! `darter get`: one URL into one file.
//!
//! | file | what lives there |
//! |---|---|
//! | `get/target.rs` | where the content goes, and how it gets its final name |
//! | `get/backend.rs` | the daemon, or an agent in this process |
//! | `get/bar.rs` | progress for people |
//!
//! Invariant: the final name never shows a wrong or half file. Content goes into a hidden file beside it, which is
//! made durable and renamed once its length and digests have been checked, and removed when anything fails.
//!
//! Resuming is the store's: it keeps verified pieces, so asking again fetches only what is missing.

mod backend;
mod bar;
mod target;

#[cfg(test)]
mod tests;

use std::io::Write as _;

use bytes::Bytes;
use darter_core::{BlobId, Digest, DigestHasher};
use darter_node::api::Traffic;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::backend::{Backend, Opened};
use self::bar::Bar;
use self::target::{Sink, Target};
use crate::cli::GetArgs;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{output, units};

/// Chunks on their way to the writing thread. A chunk is a piece at most, so this bounds memory to a few megabytes.
const CHUNKS_IN_FLIGHT: usize = 4;

/// What a download came to: the JSON of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    url: String,
    /// The final name; `None` for standard output.
    file: Option<String>,
    bytes: u64,
    /// SHA-256 of what was written, whatever algorithm `--digest` asked for.
    digest: Digest,
    blob: BlobId,
    seconds: f64,
    traffic: Traffic,
    /// Bytes that were here from an earlier attempt.
    resumed: u64,
    /// The daemon's socket; `None` when this process did the work.
    daemon: Option<String>,
}

/// Downloads one URL.
pub(crate) async fn run(args: &GetArgs) -> anyhow::Result<()> {
    let target = Target::choose(&args.url, args.output.as_deref())?;
    if args.json && matches!(target, Target::Stdout) {
        return Err(Failure::Usage("--json and -o - both want standard output; give -o FILE".to_owned()).into());
    }
    let mut signals = Signals::catch()?;
    let backend = tokio::select! {
        backend = Backend::choose(args) => backend?,
        () = signals.next() => return Err(Failure::Interrupted.into()),
    };
    let result = tokio::select! {
        result = download(args, &backend, &target) => result,
        () = signals.next() => Err(Failure::Interrupted.into()),
    };
    let spent = result.as_ref().ok().filter(|_| !args.keep).map(|report| report.blob);
    tokio::select! {
        () = backend.close(spent) => {}
        () = signals.next() => {}
    }
    tell(args, &result?)
}

async fn download(args: &GetArgs, backend: &Backend, target: &Target) -> anyhow::Result<Report> {
    let started = Instant::now();
    let Opened { blob, length, content, watch } = backend.open(args).await?;
    let resumed = watch.progress().await.map_or(0, |progress| already_here(&progress));
    if args.log.verbose > 0 && resumed > 0 {
        anstream::eprintln!("resumed: {} already here", units::size(resumed));
    }
    let sink = Sink::open(target)?;
    let bar = Bar::new(length, args.quiet);
    let written = tokio::select! {
        written = write_all(content, sink, args.digest) => written,
        never = bar.follow(&watch) => match never {},
    };
    bar.finish();
    let Written { sink, bytes, digest, asked } = written?;
    check(length, bytes, args.digest, asked)?;
    tokio::task::spawn_blocking(move || sink.commit()).await??;
    Ok(Report {
        url: args.url.to_string(),
        file: target.path().map(|path| path.display().to_string()),
        bytes,
        digest,
        blob,
        seconds: started.elapsed().as_secs_f64(),
        traffic: watch.progress().await.map(|progress| progress.traffic).unwrap_or_default(),
        resumed,
        daemon: backend.socket().map(|socket| socket.display().to_string()),
    })
}

/// Bytes held that nobody gave in this transfer.
fn already_here(progress: &darter_node::api::Progress) -> u64 {
    let Traffic { from_origin, from_seed, from_peers, .. } = progress.traffic;
    progress.held_bytes.saturating_sub(from_origin + from_seed + from_peers)
}

struct Written {
    sink: Sink,
    bytes: u64,
    digest: Digest,
    /// The digest by the algorithm that the user asked for.
    asked: Option<Digest>,
}

/// Hands the content to a thread that hashes and writes it. When the content fails, or this future is dropped, the
/// thread finds its queue closed and drops the sink uncommitted.
async fn write_all(
    mut content: BoxStream<'static, anyhow::Result<Bytes>>,
    mut sink: Sink,
    expected: Option<Digest>,
) -> anyhow::Result<Written> {
    let (chunks, mut queue) = mpsc::channel::<Bytes>(CHUNKS_IN_FLIGHT);
    let writer = tokio::task::spawn_blocking(move || -> anyhow::Result<Written> {
        let mut hasher = DigestHasher::sha256();
        // SHA-256 is computed anyway.
        let mut other = expected.filter(|digest| digest.algorithm() != "sha256").map(|digest| digest.hasher());
        let mut bytes = 0;
        while let Some(chunk) = queue.blocking_recv() {
            sink.write_all(&chunk).map_err(|error| sink.explain(error))?;
            hasher.update(&chunk);
            if let Some(other) = &mut other {
                other.update(&chunk);
            }
            bytes += chunk.len() as u64;
        }
        let digest = hasher.finish();
        let asked = expected.map(|_| other.map_or(digest, DigestHasher::finish));
        Ok(Written { sink, bytes, digest, asked })
    });
    let mut failed = None;
    while let Some(chunk) = content.next().await {
        match chunk {
            Ok(chunk) => {
                if chunks.send(chunk).await.is_err() {
                    // The writer has failed, and knows why.
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(chunks);
    // Also after a failure: what was written is gone before anybody is told.
    let written = writer.await?;
    match failed {
        Some(error) => Err(error),
        None => written,
    }
}

fn check(length: Option<u64>, bytes: u64, expected: Option<Digest>, got: Option<Digest>) -> anyhow::Result<()> {
    if let Some(length) = length.filter(|length| *length != bytes) {
        anyhow::bail!("the content ended after {bytes} of {length} bytes; ask again to get the rest");
    }
    match (expected, got) {
        (Some(expected), Some(got)) if expected != got => {
            anyhow::bail!("wrong content: expected {expected}, got {got}; nothing was kept")
        }
        _ => Ok(()),
    }
}

fn tell(args: &GetArgs, report: &Report) -> anyhow::Result<()> {
    if args.log.verbose > 0 {
        anstream::eprintln!("received {}", crate::show::received(&report.traffic));
    }
    if args.json {
        return output::json(report);
    }
    if let Some(file) = report.file.as_ref().filter(|_| !args.quiet) {
        let rate = units::rate((report.bytes as f64 / report.seconds.max(1e-3)) as u64);
        let (size, seconds) = (units::size(report.bytes), units::seconds(report.seconds));
        anstream::eprintln!("{file}: {size} in {seconds}, {rate}");
    }
    Ok(())
}
