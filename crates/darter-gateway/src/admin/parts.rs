//! Sends a mount the ranges of a blob that it asks for, with the frames of [`parts`](darter_api::parts).
//!
//! Up to [`MAX_OPEN`] questions are answered concurrently; beyond that, nothing more is read from the connection until one is answered. A
//! mount that does not read its answers is disconnected.
//! The blob is in use as long as the connection exists. The connection ends when the mount closes it, when no more of the blob can be had,
//! and when the agent drains: the mount then connects to the next agent.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use darter_agent::{Agent, Download, FetchError, HeldPart, Phase};
use darter_api::Problem;
use darter_api::parts::{Ask, Frames, MAX_PART, PartAsk, PartReply, hashes_told, max_read, receive};
use darter_core::{Blame, Blamed as _, ByteRange, Fault, PieceHash, PieceLength, Retry, in_full};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Most questions that are being answered at a time.
const MAX_OPEN: usize = 128;

/// Most questions that were read and are not yet being answered.
const MAX_READ: usize = 8;

/// How long a mount may take to read one answer. Ranges that are sent from memory count against the limit until then.
const SEND_TIMEOUT: Duration = Duration::from_secs(20);

/// How a mount's question is answered.
enum PartOutcome {
    Held(HeldPart, Vec<PieceHash>),
    Here(Vec<PieceHash>),
    Late,
    Failed(Problem),
}

type Answering = BoxFuture<'static, (u64, PartOutcome)>;

/// Answers questions until the mount or the agent ends.
///
/// If a mount connects `again`, no profile is fetched for it: its first connection did that.
pub(crate) async fn serve(stream: UnixStream, download: Download, agent: Agent, again: bool) -> io::Result<()> {
    let stream = Arc::new(stream);
    let frames = Frames::over(Arc::clone(&stream));
    let (read, asks) = mpsc::channel(MAX_READ);
    // A frame that was read half-way must not be dropped: a task of its own reads.
    let _reading = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok((ask, _)) = receive::<Ask>(&stream).await {
            if read.send(ask).await.is_err() {
                return;
            }
        }
    }));
    answer_all(frames, asks, &Arc::new(download), &agent, again).await
}

async fn answer_all(
    mut frames: Frames,
    mut asks: mpsc::Receiver<Ask>,
    download: &Arc<Download>,
    agent: &Agent,
    again: bool,
) -> io::Result<()> {
    let _kept = download.keep_open();
    let mut phases = agent.phases();
    let mut draining = pin!(async move {
        // If the sender has gone, the agent has, too.
        let _ = phases.wait_for(|phase| !matches!(phase, Phase::Starting | Phase::Ready)).await;
    });
    let mut ended = pin!(download.ended());
    let mut answering = FuturesUnordered::<Answering>::new();
    // This ends with the mount.
    let first_touches = async {
        if !again {
            download.fetch_first_touches().await;
        }
    };
    let mut first_touches = pin!(first_touches.fuse());
    loop {
        tokio::select! {
            ask = asks.recv(), if answering.len() < MAX_OPEN => match ask {
                Some(Ask::Progress { id }) => {
                    let progress = download.progress();
                    let told = PartReply::Progress { id, held_bytes: progress.held_bytes, whole: progress.complete };
                    in_time(frames.send(&told)).await?;
                }
                Some(Ask::Everything) => download.want_everything(),
                Some(Ask::Touched { ranges }) => {
                    let bytes = ranges.into_iter().filter(|(start, end)| start < end);
                    let ranges: Vec<_> = bytes.map(|(start, end)| ByteRange::new(start, end)).collect();
                    download.touched(&ranges);
                }
                Some(ask) => answering.extend(answer(Arc::clone(download), ask)),
                None => return Ok(()),
            },
            Some((id, answer)) = answering.next(), if !answering.is_empty() => {
                in_time(send(&mut frames, id, answer)).await?;
            }
            error = &mut ended => {
                agent.failed(&error);
                return over(&mut frames, &error).await;
            }
            () = &mut first_touches => {}
            () = &mut draining => return over(&mut frames, &FetchError::Draining).await,
        }
    }
}

async fn over(frames: &mut Frames, error: &FetchError) -> io::Result<()> {
    let wrong = matches!(error, FetchError::WrongDigest { .. });
    in_time(frames.send(&PartReply::Over { problem: problem(error), wrong })).await
}

/// Fails if `sending` takes too long: after half a frame, nothing else can be sent.
async fn in_time(sending: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    tokio::time::timeout(SEND_TIMEOUT, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Why a question is malformed; `None` if it is not.
fn nonsense(ask: &Ask, range: ByteRange, length: Option<u64>, pieces: PieceLength) -> Option<String> {
    let most = if matches!(ask, Ask::Read(_)) { max_read(pieces) } else { MAX_PART };
    if range.is_empty() {
        Some("no bytes are asked for: end has to be greater than start".to_owned())
    } else if let Some(length) = length.filter(|length| range.end() > *length) {
        Some(format!("the blob has {length} bytes, and {range} goes past them"))
    } else if range.len() > most {
        Some(format!("more than {most} bytes at a time"))
    } else {
        None
    }
}

fn answer(download: Arc<Download>, ask: Ask) -> Option<Answering> {
    let (Ask::Read(part) | Ask::Fetch(part)) = ask else { return None };
    Some(Box::pin(async move {
        let range = part.range();
        if let Some(reason) = nonsense(&ask, range, download.length(), download.piece_length()) {
            let blame = Blame::new(Fault::User, Retry::Never);
            return (part.id, PartOutcome::Failed(Problem::new(reason, blame)));
        }
        let answered = match ask {
            Ask::Fetch(_) => fetched(&download, range, part).await,
            _ => {
                let held = download.part(range, part.within()).await;
                held.map(|held| {
                    held.map_or(PartOutcome::Late, |held| PartOutcome::Held(held, hashes(&download, range)))
                })
            }
        };
        (part.id, answered.unwrap_or_else(|error| PartOutcome::Failed(problem(&error))))
    }))
}

async fn fetched(download: &Download, range: ByteRange, part: PartAsk) -> Result<PartOutcome, FetchError> {
    let came = download.fetch_ahead(range, part.within()).await?;
    Ok(if came { PartOutcome::Here(hashes(download, range)) } else { PartOutcome::Late })
}

/// The hashes of the pieces in `range`. Empty if one is unknown, because it was lost at this moment.
fn hashes(download: &Download, range: ByteRange) -> Vec<PieceHash> {
    download.hashes(range).unwrap_or_default()
}

async fn send(frames: &mut Frames, id: u64, answer: PartOutcome) -> io::Result<()> {
    match answer {
        PartOutcome::Held(HeldPart::File(file), hashes) => {
            if frames.send_file(&file).await? {
                return frames.send(&PartReply::Here { id, hashes: hashes_told(&hashes) }).await;
            }
            // The descriptor limit is reached, for now.
            let problem = Problem::new("no file descriptor is left", Blame::new(Fault::Ourselves, Retry::Later(None)));
            frames.send(&PartReply::Failed { id, problem }).await
        }
        PartOutcome::Here(hashes) => frames.send(&PartReply::Here { id, hashes: hashes_told(&hashes) }).await,
        PartOutcome::Held(HeldPart::Bytes(bytes), _) => frames.send_bytes(id, &bytes).await,
        PartOutcome::Late => frames.send(&PartReply::Late { id }).await,
        PartOutcome::Failed(problem) => frames.send(&PartReply::Failed { id, problem }).await,
    }
}

fn problem(error: &FetchError) -> Problem {
    Problem::new(in_full(error).to_string(), error.blame())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_bytes_past_the_end_or_too_long_are_refused_before_anything_else() {
        let pieces = PieceLength::from_log2(20).unwrap();
        let length = 1 << 40;
        let refused = |make: fn(PartAsk) -> Ask, start, end| {
            let part = PartAsk { id: 1, start, end, within_ms: 1 };
            nonsense(&make(part), part.range(), Some(length), pieces)
        };
        for make in [Ask::Read as fn(PartAsk) -> Ask, Ask::Fetch] {
            for (start, end) in
                [(1 << 60, (1 << 60) + 1), (u64::MAX, u64::MAX), (7, 7), (9, 3), (0, u64::MAX), (5, length + 1)]
            {
                assert!(refused(make, start, end).is_some(), "{start}..{end}");
            }
            assert_eq!(refused(make, 0, 3 << 20), None);
            assert_eq!(refused(make, length - 1, length), None);
        }
        assert_eq!(refused(Ask::Fetch, 0, MAX_PART), None);
        assert!(refused(Ask::Fetch, 0, MAX_PART + 1).is_some() && refused(Ask::Read, 0, MAX_PART).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_mount_that_does_not_take_its_answer_is_given_up() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut frames = Frames::over(Arc::new(ours));
        let answer = PartOutcome::Held(HeldPart::Bytes(vec![1; 8 << 20].into()), Vec::new());
        let sent = in_time(send(&mut frames, 1, answer)).await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
