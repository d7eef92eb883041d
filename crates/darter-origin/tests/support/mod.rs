//! Shared by the tests: an HTTP server that keeps an account and misbehaves on demand, and a clock set by hand.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Clock, Moment, Source};
use darter_origin::{HttpClient, HttpConfig, OriginError, Reading};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use url::Url;

pub mod files;

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
    pub version: http::Version,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// An answer, well-behaved or not.
pub struct Reply {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: Sent,
}

/// How a body goes out.
pub enum Sent {
    /// Whole, with its length.
    Whole(Bytes),
    /// In chunks, without a length.
    Chunked(Bytes),
    /// Announced in full; then the connection breaks after this many bytes.
    Cut(Bytes, usize),
    /// Announced in full; then silence after this many bytes.
    Hanging(Bytes, usize),
    /// Not even a status.
    Nothing,
    /// The same, and the connection stays open.
    Never,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status: StatusCode::from_u16(status).unwrap(), headers: Vec::new(), body: Sent::Whole(Bytes::new()) }
    }

    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self { body: Sent::Whole(bytes.into()), ..Self::status(200) }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn sent(mut self, body: Sent) -> Self {
        self.body = body;
        self
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;
type Account = Arc<Mutex<Vec<Seen>>>;

/// A server on a port of its own; gone when dropped.
pub struct Server {
    pub address: SocketAddr,
    scheme: &'static str,
    account: Account,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub async fn start(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_as("http", None, Arc::new(handler)).await
    }

    /// The same at another of this host's addresses.
    pub async fn start_at(ip: IpAddr, handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_on(ip, "http", None, Arc::new(handler)).await
    }

    /// The same with the test authority's certificate.
    pub async fn start_tls(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_as("https", Some(tls_acceptor(&[], false)), Arc::new(handler)).await
    }

    /// The same for clients that show a certificate of the test's authority for clients.
    pub async fn start_tls_for_known(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_as("https", Some(tls_acceptor(&[], true)), Arc::new(handler)).await
    }

    /// The same for clients that speak HTTP/2.
    pub async fn start_http2(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_as("https", Some(tls_acceptor(&[b"h2"], false)), Arc::new(handler)).await
    }

    async fn start_as(scheme: &'static str, tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), scheme, tls, handler).await
    }

    async fn start_on(ip: IpAddr, scheme: &'static str, tls: Option<TlsAcceptor>, handler: Handler) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let account = Account::default();
        let kept = account.clone();
        let task = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (tls, handler, account) = (tls.clone(), handler.clone(), kept.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(socket, handler, account, false).await,
                        Some(tls) => {
                            // A client that does not trust the certificate leaves during the handshake.
                            if let Ok(socket) = tls.accept(socket).await {
                                let http2 = socket.get_ref().1.alpn_protocol() == Some(b"h2");
                                serve(socket, handler, account, http2).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, scheme, account, task }
    }

    pub fn url(&self, path: &str) -> Url {
        format!("{}://{}{path}", self.scheme, self.address).parse().unwrap()
    }

    /// As `localhost`, which is another host than `127.0.0.1` to code that keeps credentials apart.
    pub fn url_by_name(&self, path: &str) -> Url {
        format!("{}://localhost:{}{path}", self.scheme, self.address.port()).parse().unwrap()
    }

    pub fn source(&self, path: &str) -> Source {
        Source::from_url(self.url(path), &[], None).0
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.account.lock().clone()
    }

    /// How many requests had this path.
    pub fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path == path).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    handler: Handler,
    account: Account,
    http2: bool,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (handler, account) = (handler.clone(), account.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
            let seen = Seen {
                method: head.method,
                path: head.uri.path().to_owned(),
                query: head.uri.query().unwrap_or_default().to_owned(),
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
                version: head.version,
            };
            let reply = handler(&seen);
            account.lock().push(seen.clone());
            if matches!(reply.body, Sent::Never) {
                std::future::pending::<()>().await;
            }
            answer(reply, &seen)
        }
    });
    if http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        return;
    }
    // A connection that breaks off is what some tests are about.
    let _ = hyper::server::conn::http1::Builder::new()
        .max_headers(500)
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

fn answer(reply: Reply, seen: &Seen) -> Result<Response<BoxBody<Bytes, std::io::Error>>, std::io::Error> {
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    let broken = || std::io::Error::other("as the test asked");
    let length = match &reply.body {
        Sent::Whole(bytes) | Sent::Cut(bytes, _) | Sent::Hanging(bytes, _) => Some(bytes.len()),
        Sent::Chunked(_) | Sent::Nothing | Sent::Never => None,
    };
    if let Some(length) = length
        && reply.status != StatusCode::NOT_MODIFIED
    {
        response = response.header("content-length", length);
    }
    let body = match reply.body {
        Sent::Nothing | Sent::Never => return Err(broken()),
        _ if seen.method == Method::HEAD => Full::default().map_err(|error| match error {}).boxed(),
        Sent::Whole(bytes) => Full::new(bytes).map_err(|error: Infallible| match error {}).boxed(),
        Sent::Chunked(bytes) => {
            let chunks: Vec<_> = bytes.chunks(10_000).map(|chunk| Ok(Frame::data(bytes.slice_ref(chunk)))).collect();
            BodyExt::boxed(StreamBody::new(stream::iter(chunks)))
        }
        Sent::Cut(bytes, at) => {
            // The first part must be on its way before the connection breaks.
            let end = stream::once(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Err(broken())
            });
            let first = stream::iter([Ok(Frame::data(bytes.slice(..at)))]);
            BodyExt::boxed(StreamBody::new(first.chain(end)))
        }
        Sent::Hanging(bytes, at) => {
            let first = stream::iter([Ok(Frame::data(bytes.slice(..at)))]);
            BodyExt::boxed(StreamBody::new(first.chain(stream::pending())))
        }
    };
    Ok(response.body(body).unwrap())
}

pub fn tls_acceptor(protocols: &[&[u8]], for_known: bool) -> TlsAcceptor {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let certificate = CertificateDer::from_pem_slice(include_bytes!("tls/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if for_known {
        let mut known = rustls::RootCertStore::empty();
        known.add(CertificateDer::from_pem_slice(include_bytes!("tls/client-ca.pem")).unwrap()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(known), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Options for tests: no proxy, and little patience.
pub fn quick() -> HttpConfig {
    HttpConfig {
        connect_timeout: Duration::from_millis(500),
        first_byte_timeout: Duration::from_millis(300),
        stall_timeout: Duration::from_millis(300),
        proxy_from_environment: false,
        ..HttpConfig::default()
    }
}

/// The certificates of the tests.
pub fn certificate(name: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/support/tls", name].iter().collect()
}

/// A client with ordinary patience, for tests that don't wait for it to end.
pub fn client() -> HttpClient {
    HttpClient::new(&HttpConfig { proxy_from_environment: false, ..HttpConfig::default() }).unwrap()
}

/// A clock that moves when told.
#[derive(Default)]
pub struct HandClock(AtomicU64);

impl HandClock {
    pub fn advance(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        Moment::from_micros(self.0.load(Ordering::Relaxed))
    }

    fn unix(&self) -> u64 {
        self.0.load(Ordering::Relaxed) / 1_000_000
    }
}

pub fn none() -> Credentials {
    Credentials::none()
}

pub fn bringing(name: &str, value: &str) -> Credentials {
    Credentials { headers: vec![(name.to_owned(), value.to_owned())] }
}

pub fn range(start: u64, end: u64) -> Option<ByteRange> {
    Some(ByteRange::new(start, end))
}

/// Content without repetition, so that a byte at the wrong place is a wrong byte.
pub fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// All bytes of a reading.
pub async fn take(mut reading: Reading) -> Result<Vec<u8>, OriginError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = reading.body.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}
