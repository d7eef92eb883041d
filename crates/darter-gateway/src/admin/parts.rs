//! Gives a mount parts of a blob as it asks for them, as [`parts`](darter_api::parts) has it.
//!
//! Questions are answered side by side, up to [`MAX_OPEN`]: past that, nothing more is read of the connection until one is answered.
//! While the connection lasts the blob is in use. It ends when the mount goes away, when nothing more can be had of the blob, and
//! when the agent drains: the mount comes again to whoever runs next.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use darter_agent::{Agent, Download, FetchError, Held, Phase};
use darter_api::Problem;
use darter_api::parts::{Ask, Frames, MAX_PART, Part, Told, hashes_told, receive};
use darter_core::{Blame, Blamed as _, ByteRange, Fault, PieceHash, Retry, in_full};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Questions that are being answered at a time.
const MAX_OPEN: usize = 128;

/// Questions that were read and are not being answered yet.
const MAX_READ: usize = 8;

/// What became of a question.
enum Answer {
    Held(Held, Vec<PieceHash>),
    Here(Vec<PieceHash>),
    Late,
    Failed(Problem),
}

type Answering = BoxFuture<'static, (u64, Answer)>;

/// Answers until one of the two ends.
pub(crate) async fn serve(stream: UnixStream, download: Download, agent: Agent) -> io::Result<()> {
    let stream = Arc::new(stream);
    let frames = Frames::over(Arc::clone(&stream));
    let (read, asks) = mpsc::channel(MAX_READ);
    // A frame that is read by half must not be given up.
    let reading = tokio::spawn(async move {
        while let Ok((ask, _)) = receive::<Ask>(&stream).await {
            if read.send(ask).await.is_err() {
                return;
            }
        }
    });
    let result = answer_all(frames, asks, &Arc::new(download), &agent).await;
    reading.abort();
    result
}

async fn answer_all(
    mut frames: Frames,
    mut asks: mpsc::Receiver<Ask>,
    download: &Arc<Download>,
    agent: &Agent,
) -> io::Result<()> {
    let _kept = download.keep_open();
    let mut phases = agent.phases();
    let mut draining = pin!(async move {
        // An agent that is gone drains no more.
        let _ = phases.wait_for(|phase| !matches!(phase, Phase::Starting | Phase::Ready)).await;
    });
    let mut ended = pin!(download.ended());
    let mut answering = FuturesUnordered::<Answering>::new();
    loop {
        tokio::select! {
            ask = asks.recv(), if answering.len() < MAX_OPEN => match ask {
                Some(Ask::Progress { id }) => {
                    let progress = download.progress();
                    let told = Told::Progress { id, held_bytes: progress.held_bytes, whole: progress.complete };
                    frames.send(&told).await?;
                }
                Some(Ask::Everything) => download.want_everything(),
                Some(ask) => answering.extend(answer(Arc::clone(download), ask)),
                None => return Ok(()),
            },
            Some((id, answer)) = answering.next(), if !answering.is_empty() => send(&mut frames, id, answer).await?,
            error = &mut ended => {
                agent.failed(&error);
                return over(&mut frames, &error).await;
            }
            () = &mut draining => return over(&mut frames, &FetchError::Draining).await,
        }
    }
}

async fn over(frames: &mut Frames, error: &FetchError) -> io::Result<()> {
    let wrong = matches!(error, FetchError::WrongDigest { .. });
    frames.send(&Told::Over { problem: problem(error), wrong }).await
}

fn answer(download: Arc<Download>, ask: Ask) -> Option<Answering> {
    let (Ask::Read(part) | Ask::Fetch(part)) = ask else { return None };
    Some(Box::pin(async move {
        let range = part.range();
        if range.len() > MAX_PART {
            let blame = Blame::new(Fault::User, Retry::Never);
            return (part.id, Answer::Failed(Problem::new(format!("more than {MAX_PART} bytes at a time"), blame)));
        }
        let answered = match ask {
            Ask::Fetch(_) => fetched(&download, range, part).await,
            _ => {
                let held = download.part(range, part.within()).await;
                held.map(|held| held.map_or(Answer::Late, |held| Answer::Held(held, hashes(&download, range))))
            }
        };
        (part.id, answered.unwrap_or_else(|error| Answer::Failed(problem(&error))))
    }))
}

async fn fetched(download: &Download, range: ByteRange, part: Part) -> Result<Answer, FetchError> {
    let came = download.fetch_ahead(range, part.within()).await?;
    Ok(if came { Answer::Here(hashes(download, range)) } else { Answer::Late })
}

/// None where one is not known, which is lost at this moment.
fn hashes(download: &Download, range: ByteRange) -> Vec<PieceHash> {
    download.hashes(range).unwrap_or_default()
}

async fn send(frames: &mut Frames, id: u64, answer: Answer) -> io::Result<()> {
    match answer {
        Answer::Held(Held::File(file), hashes) => {
            if frames.send_file(&file).await? {
                return frames.send(&Told::Here { id, hashes: hashes_told(&hashes) }).await;
            }
            // No descriptor is left for another, for now.
            let problem = Problem::new("no file descriptor is left", Blame::new(Fault::Ourselves, Retry::Later(None)));
            frames.send(&Told::Failed { id, problem }).await
        }
        Answer::Here(hashes) => frames.send(&Told::Here { id, hashes: hashes_told(&hashes) }).await,
        Answer::Held(Held::Bytes(bytes), _) => frames.send_bytes(id, &bytes).await,
        Answer::Late => frames.send(&Told::Late { id }).await,
        Answer::Failed(problem) => frames.send(&Told::Failed { id, problem }).await,
    }
}

fn problem(error: &FetchError) -> Problem {
    Problem::new(in_full(error).to_string(), error.blame())
}
