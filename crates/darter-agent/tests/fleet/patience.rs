//! Origins that fail and come back: what a download bears, and what it costs the origin.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use darter_agent::{Agent, Options};
use darter_core::Source;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::seed;
use crate::web::{Reply, Web};

/// Long enough for two pieces, and not a multiple of anything.
const LENGTH: usize = 400_321;

/// The ways of an origin.
#[derive(Clone, Copy)]
enum Does {
    /// Breaks off each answer after so many bytes.
    Cuts(usize),
    /// Refuses connections for a while after this many bytes of the first answer.
    LeavesAfter(usize),
    /// Answers 503.
    Fails,
    /// Takes its time to the first byte.
    Thinks,
}

/// A web server with one resource, an entity tag and ranges.
struct Origin {
    source: Source,
    requests: Arc<AtomicUsize>,
}

fn content() -> Vec<u8> {
    (0..LENGTH as u32).map(|at| (at * 31 + at / 251) as u8).collect()
}

impl Origin {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
                answer(socket, does, first).await;
                if first && matches!(does, Does::LeavesAfter(_)) {
                    drop(listener);
                    tokio::time::sleep(Duration::from_millis(1500)).await;
                    listener = TcpListener::bind(address).await.unwrap();
                }
            }
        });
        let (source, _) = Source::from_url(format!("http://{address}/file").parse().unwrap(), &[], None);
        Self { source, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Answers one request, and ends the connection.
async fn answer(socket: TcpStream, does: Does, first: bool) {
    let mut socket = BufReader::new(socket);
    let mut start = None;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.unwrap() == 0 {
            return;
        }
        let lower = line.to_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            start = Some(range.split('-').next().unwrap().parse::<usize>().unwrap());
        }
        if line == "\r\n" {
            break;
        }
    }
    let bytes = content();
    let from = start.unwrap_or(0);
    let status = match (does, start) {
        (Does::Fails, _) => "503 Service Unavailable\r\nContent-Length: 0".to_owned(),
        (_, Some(start)) => format!(
            "206 Partial Content\r\nContent-Range: bytes {start}-{}/{LENGTH}\r\nContent-Length: {}",
            LENGTH - 1,
            LENGTH - start
        ),
        (_, None) => format!("200 OK\r\nAccept-Ranges: bytes\r\nContent-Length: {LENGTH}"),
    };
    let head = format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\nConnection: close\r\n\r\n");
    let until = match does {
        Does::Cuts(after) => from + after,
        Does::LeavesAfter(after) if first => from + after,
        Does::LeavesAfter(_) | Does::Thinks => LENGTH,
        Does::Fails => from,
    };
    if matches!(does, Does::Thinks) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // An agent that is satisfied may leave.
    let _ = socket.write_all(head.as_bytes()).await;
    let _ = socket.write_all(&bytes[from..until.clamp(from, LENGTH)]).await;
    let _ = socket.shutdown().await;
}

fn options(directory: &Path, patience: Duration) -> Options {
    let role = darter_agent::options::Role::Seed;
    Options { role, origin_patience: patience, ..seed::node(directory, Vec::new()) }
}

async fn read(agent: &Agent, source: &Source) -> Result<Vec<u8>, String> {
    let download = agent.open(source.clone(), Default::default()).await.map_err(|error| error.to_string())?;
    let mut stream = download.stream(None);
    let mut read = Vec::new();
    while let Some(bytes) = stream.next().await {
        read.extend_from_slice(&bytes.map_err(|error| error.to_string())?);
    }
    Ok(read)
}

#[tokio::test]
async fn an_origin_that_cuts_off_each_answer_gets_to_its_end() {
    let origin = Origin::start(Does::Cuts(50_000)).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(options(directory.path(), Duration::from_secs(30))).await.unwrap();
    assert!(read(&agent, &origin.source).await.unwrap() == content());
    // Each answer was used to its last byte.
    assert_eq!(origin.requests(), LENGTH.div_ceil(50_000));
    agent.drain().await;
}

#[tokio::test]
async fn an_origin_that_is_away_for_a_while_is_waited_for() {
    let origin = Origin::start(Does::LeavesAfter(300_000)).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(options(directory.path(), Duration::from_secs(30))).await.unwrap();
    assert!(read(&agent, &origin.source).await.unwrap() == content());
    assert_eq!(origin.requests(), 2);
    agent.drain().await;
}

#[tokio::test]
async fn who_waits_for_an_origin_that_fails_costs_it_nothing_more() {
    let origin = Origin::start(Does::Fails).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(options(directory.path(), Duration::from_secs(1))).await.unwrap();
    assert!(read(&agent, &origin.source).await.unwrap_err().contains("503"));
    let alone = origin.requests();
    assert!(alone > 1, "it is tried again");
    for read in join_all((0..8).map(|_| read(&agent, &origin.source))).await {
        assert!(read.unwrap_err().contains("503"));
    }
    let together = origin.requests() - alone;
    assert!(together < alone * 3, "{together} requests for eight, {alone} for one");
    agent.drain().await;
}

#[tokio::test]
async fn an_origin_that_takes_its_time_is_asked_once_for_all_who_wait() {
    let origin = Origin::start(Does::Thinks).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(options(directory.path(), Duration::from_secs(30))).await.unwrap();
    for read in join_all((0..8).map(|_| read(&agent, &origin.source))).await {
        assert!(read.unwrap() == content());
    }
    assert_eq!(origin.requests(), 1);
    agent.drain().await;
}

#[tokio::test]
async fn an_origin_that_always_breaks_off_at_one_byte_gets_an_end() {
    // Without validators nothing can be read on from the middle.
    let web = Web::start(|_| Reply::ok(&content()).cut(100_000)).await;
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(options(directory.path(), Duration::from_millis(1500))).await.unwrap();
    let (source, _) = Source::from_url(web.url("/x").parse().unwrap(), &[], None);
    let error = read(&agent, &source).await.unwrap_err();
    assert!(error.contains("ended before its end"), "{error}");
    assert!(web.reads("/x") < 20, "{} reads", web.reads("/x"));
}
