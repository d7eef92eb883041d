//! HTTP/2 servers that do what no library's does on demand: their frames are written by hand.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use darter_core::Source;
use darter_origin::{HttpClient, HttpConfig, HttpOrigin, Origin as _};
use support::{certificate, none, take, tls_acceptor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Kinds of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const HTTP_1_1_REQUIRED: [u8; 4] = [0, 0, 0, 13];
/// `:status: 200` in the static table.
const STATUS_200: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Serves a connection by HTTP/2: `answer` gives the frames for a request's stream, or `None` for silence from then on.
async fn by_http2(mut socket: impl AsyncRead + AsyncWrite + Unpin, answer: impl Fn(u32) -> Option<Vec<u8>>) {
    let mut preface = [0; 24];
    let _ = socket.read_exact(&mut preface).await;
    let _ = socket.write_all(&frame(SETTINGS, 0, 0, &[])).await;
    let mut silent = false;
    let mut head = [0; 9];
    while socket.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        if socket.read_exact(&mut payload).await.is_err() {
            return;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let out = match (head[3], head[4]) {
            _ if silent => None,
            (SETTINGS, 0) => Some(frame(SETTINGS, ACK, 0, &[])),
            (PING, 0) => Some(frame(PING, ACK, 0, &payload)),
            (HEADERS, _) => {
                let answer = answer(stream);
                silent = answer.is_none();
                answer
            }
            _ => None,
        };
        let _ = socket.write_all(&out.unwrap_or_default()).await;
    }
}

/// Serves one request by HTTP/1.1.
async fn by_http1(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && socket.read_buf(&mut request).await.is_ok_and(|read| read > 0) {}
    let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    let _ = socket.shutdown().await;
}

async fn listening() -> (TcpListener, Source) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/x", listener.local_addr().unwrap());
    (listener, Source::from_url(url.parse().unwrap(), &[], None).0)
}

fn origin(ping_timeout: Duration) -> HttpOrigin {
    let config = HttpConfig {
        ping_timeout,
        first_byte_timeout: Duration::from_secs(20),
        extra_ca: Some(certificate("ca.pem")),
        proxy_from_environment: false,
        ..HttpConfig::default()
    };
    HttpOrigin::new(HttpClient::new(&config).unwrap())
}

async fn read(origin: &HttpOrigin, source: &Source) -> Vec<u8> {
    take(origin.read(source, &none(), None, None).await.unwrap()).await.unwrap()
}

// curl/curl#3308 (a server that asks for a client certificate, or NTLM, at one path).
#[tokio::test]
async fn a_server_that_wants_http1_is_asked_by_that_from_then_on() {
    let (listener, source) = listening().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&refused);
    tokio::spawn(async move {
        let acceptor = tls_acceptor(&[b"h2", b"http/1.1"], false);
        loop {
            let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let socket = acceptor.accept(socket).await.unwrap();
                if socket.get_ref().1.alpn_protocol() != Some(b"h2") {
                    return by_http1(socket).await;
                }
                let refuse = |stream| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Some(frame(RST_STREAM, 0, stream, &HTTP_1_1_REQUIRED))
                };
                by_http2(socket, refuse).await;
            });
        }
    });
    let origin = origin(Duration::from_secs(5));
    for _ in 0..2 {
        assert_eq!(read(&origin, &source).await, b"ok");
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1);
}

// golang/go#36026, kubernetes#87615: all requests share the connection, and wait for it.
#[tokio::test]
async fn a_connection_that_is_silently_dead_is_left_for_another() {
    let (listener, source) = listening().await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        let acceptor = tls_acceptor(&[b"h2"], false);
        loop {
            let acceptor = acceptor.clone();
            let (socket, _) = listener.accept().await.unwrap();
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            tokio::spawn(async move {
                let socket = acceptor.accept(socket).await.unwrap();
                let answer = |stream| {
                    let headers = frame(HEADERS, END_HEADERS, stream, STATUS_200);
                    (!first || stream == 1).then(|| [headers, frame(DATA, END_STREAM, stream, b"ok")].concat())
                };
                by_http2(socket, answer).await;
            });
        }
    });
    let origin = origin(Duration::from_millis(200));
    for _ in 0..3 {
        assert_eq!(read(&origin, &source).await, b"ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}
