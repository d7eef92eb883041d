//! The comparison: the same number of plain HTTP downloads, at the same time, from the same origin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::bail;
use bytes::Bytes;
use darter_core::{Digest, DigestHasher};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;

use super::content::Content;
use super::finish::Finish;
use super::origin::DemoOrigin;
use super::picture::{Picture, Row, TICK};
use crate::cli::DemoArgs;

/// The result of the plain downloads.
#[derive(Debug)]
pub(super) struct PlainRun {
    pub(super) finishes: Vec<Finish>,
    /// How many bytes the origin sent.
    pub(super) from_origin: u64,
    /// For each download, how many bytes it had over time: pairs of seconds since the start, and bytes.
    pub(super) curves: Vec<Vec<(f64, f64)>>,
}

/// Runs the downloads and draws them.
pub(super) async fn run(
    args: &DemoArgs,
    origin: &DemoOrigin,
    content: &Content,
    digest: Digest,
) -> anyhow::Result<PlainRun> {
    let names: Vec<String> = (1..=args.nodes).map(|number| format!("plain {number}")).collect();
    let mut picture = Picture::new(&names, content.length(), args.json);
    let before = origin.sent();
    let started = Instant::now();
    let received: Vec<Arc<AtomicU64>> = names.iter().map(|_| Arc::default()).collect();
    let mut downloads = JoinSet::new();
    for counter in &received {
        let (url, counter) = (origin.url.clone(), counter.clone());
        downloads.spawn(async move {
            let got = download(&url, &counter).await?;
            anyhow::Ok(Finish { seconds: started.elapsed().as_secs_f64(), right: got == digest })
        });
    }
    let mut ticks = tokio::time::interval(TICK);
    let mut finishes = Vec::new();
    while finishes.len() < names.len() {
        tokio::select! {
            finished = downloads.join_next() => match finished {
                Some(finish) => finishes.push(finish??),
                None => bail!("a download ended without a result"),
            },
            _ = ticks.tick() => picture.draw(&rows(&received, content.length(), started)),
        }
    }
    picture.draw(&rows(&received, content.length(), started));
    Ok(PlainRun { finishes, from_origin: origin.sent() - before, curves: picture.finish() })
}

fn rows(received: &[Arc<AtomicU64>], length: u64, started: Instant) -> Vec<Row> {
    let elapsed = started.elapsed().as_secs_f64().max(1e-3);
    let row = |counter: &Arc<AtomicU64>| {
        let held = counter.load(Ordering::Relaxed);
        let rate = if held == length { 0 } else { (held as f64 / elapsed) as u64 };
        Row::in_order(held, length, rate)
    };
    received.iter().map(row).collect()
}

/// Downloads as any HTTP client would, and hashes the bytes.
async fn download(url: &Url, received: &AtomicU64) -> anyhow::Result<Digest> {
    let host = format!("{}:{}", url.host_str().unwrap_or_default(), url.port().unwrap_or(80));
    let stream = TcpStream::connect(&host).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::builder().uri(url.path()).header(header::HOST, host).body(Empty::<Bytes>::new())?;
    let mut body = sender.send_request(request).await?.into_body();
    let mut hasher = DigestHasher::sha256();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            hasher.update(data);
            received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }
    Ok(hasher.finish())
}
