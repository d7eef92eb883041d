//! The origin: an HTTP server in this process that gives out a file, or what a registry has, at a limited rate and counts the bytes.
//!
//! It answers as a good web server would (length, entity tag, ranges), because the seed and plain clients both read
//! it. The budget is one for all connections, as a server's link is.

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

/// The bytes that are sent and paid for at once.
const CHUNK: u64 = 64 * 1024;

/// How much may pass at once after idle time: a fraction of a second at any rate.
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

/// A thing that an origin has.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) content: Arc<Content>,
    pub(super) media_type: &'static str,
}

#[derive(Debug)]
struct ServedContent {
    /// By their paths.
    files: HashMap<String, Served>,
    bucket: parking_lot::Mutex<TokenBucket>,
    clock: SystemClock,
    sent: AtomicU64,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

impl DemoOrigin {
    /// Starts one on a free port that has one file.
    pub(super) async fn start(content: Arc<Content>, rate: Rate) -> anyhow::Result<Self> {
        let file = Served { content, media_type: "application/octet-stream" };
        Self::serve(HashMap::from([(FILE.to_owned(), file)]), Some(rate)).await
    }

    /// Starts one on a free port that has these files.
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

    /// Content bytes given out so far, to everybody.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Arc<ServedContent>) {
    // Accepting fails only when the process is out of descriptors: then the demo fails with its downloads.
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&shared, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is no event.
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

/// The content's bytes, each chunk when the budget lets it pass.
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
            // Generated, or a few kilobytes that are mostly in the page cache: not worth a thread.
            file.read_at(offset, &mut chunk)?;
            shared.sent.fetch_add(count, Ordering::Relaxed);
            Ok(Some((Frame::data(Bytes::from(chunk)), offset + count)))
        }
    });
    StreamBody::new(chunks).boxed_unsync()
}

/// `bytes=FIRST-LAST` and `bytes=FIRST-`; anything else is answered in full, as RFC 9110 allows.
pub(super) fn byte_range(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = if last.is_empty() { length } else { last.parse::<u64>().ok()?.checked_add(1)?.min(length) };
    (first < end).then_some(first..end)
}
