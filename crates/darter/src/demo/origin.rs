//! The origin: an HTTP server in this process that serves a file, or a registry's files, at a limited rate and counts the bytes.
//!
//! It answers with length, entity tag and ranges, as a good web server does, since both the seed and plain clients read
//! it. All connections share one rate limit, as they share a server's link.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use bytes::Bytes;
use darter_core::{Clock as _, Rate, SystemClock};
use darter_swarm::TokenBucket;
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use url::Url;

use super::content::Content;

/// How many bytes are sent, and counted against the rate limit, at once.
const CHUNK: u64 = 64 * 1024;

/// How many bytes may be sent at once after an idle time: a fraction of a second at any rate.
const BURST: u64 = 256 * 1024;

/// The path of the one file.
const FILE: &str = "/content";

/// A running origin. Ends with the process.
#[derive(Debug)]
pub(super) struct DemoOrigin {
    /// The file's address, if the origin serves one file.
    pub(super) url: Url,
    shared: Arc<ServedContent>,
}

/// A file that an origin serves.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) content: Arc<Content>,
    pub(super) media_type: &'static str,
}

#[derive(Debug)]
struct ServedContent {
    /// The files by path.
    files: HashMap<String, Served>,
    bucket: parking_lot::Mutex<TokenBucket>,
    clock: SystemClock,
    sent: AtomicU64,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl DemoOrigin {
    /// Starts an origin with one file, on a free port.
    pub(super) async fn start(content: Arc<Content>, rate: Rate) -> anyhow::Result<Self> {
        let file = Served { content, media_type: "application/octet-stream" };
        Self::serve(HashMap::from([(FILE.to_owned(), file)]), Some(rate)).await
    }

    /// Starts an origin with these files, on a free port.
    pub(super) async fn serve(files: HashMap<String, Served>, rate: Option<Rate>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("can't listen on the loopback interface")?;
        let url = format!("http://{}{FILE}", listener.local_addr()?).parse()?;
        let shared = Arc::new(ServedContent {
            files,
            bucket: parking_lot::Mutex::new(TokenBucket::new(rate, BURST)),
            clock: SystemClock::start(),
            sent: AtomicU64::new(0),
        });
        tokio::spawn(serve(listener, shared.clone()));
        Ok(Self { url, shared })
    }

    /// How many bytes of content were sent so far, to all clients.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Arc<ServedContent>) {
    // Accepting fails only if the process has no descriptors left: then the downloads fail, and the demo with them.
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&shared, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that disconnects is no error.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(shared: &Arc<ServedContent>, request: &Request<Incoming>) -> Response<Body> {
    let answer = Response::builder().header(header::ACCEPT_RANGES, "bytes").header(header::ETAG, "\"demo\"");
    let head_only = request.method() == Method::HEAD;
    let found = shared.files.get(request.uri().path()).filter(|_| head_only || request.method() == Method::GET);
    let Some(Served { content: file, media_type }) = found else {
        return finish(answer.status(StatusCode::NOT_FOUND), nothing());
    };
    let (answer, length) = (answer.header(header::CONTENT_TYPE, *media_type), file.length());
    let asked = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
    let (status, range) = match asked.and_then(|text| byte_range(text, length)) {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        None => (StatusCode::OK, 0..length),
    };
    let mut answer = answer.status(status).header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header(header::CONTENT_RANGE, format!("bytes {}-{}/{length}", range.start, range.end - 1));
    }
    let body = if head_only { nothing() } else { content(shared.clone(), file.clone(), range) };
    finish(answer, body)
}

fn finish(answer: http::response::Builder, body: Body) -> Response<Body> {
    answer.body(body).expect("status and headers are well formed")
}

fn nothing() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The content's bytes, each chunk when the rate limit allows it.
fn content(shared: Arc<ServedContent>, file: Arc<Content>, range: Range<u64>) -> Body {
    let chunks = stream::try_unfold(range.start, move |offset| {
        let (shared, file) = (shared.clone(), file.clone());
        async move {
            if offset >= range.end {
                return Ok(None);
            }
            let count = CHUNK.min(range.end - offset);
            let wait = shared.bucket.lock().take(count, shared.clock.now());
            tokio::time::sleep(wait).await;
            let mut chunk = vec![0; usize::try_from(count).expect("a chunk is small")];
            // The bytes are generated, or a few kilobytes that are mostly in the page cache: not worth a thread.
            file.read_at(offset, &mut chunk)?;
            shared.sent.fetch_add(count, Ordering::Relaxed);
            Ok(Some((Frame::data(Bytes::from(chunk)), offset + count)))
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// Parses `bytes=FIRST-LAST` and `bytes=FIRST-`; any other value is answered with the whole file, as RFC 9110 allows.
pub(super) fn byte_range(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = if last.is_empty() { length } else { last.parse::<u64>().ok()?.checked_add(1)?.min(length) };
    (first < end).then_some(first..end)
}
