//! Registries that hang, in every way there is: engines go round a mirror only when it answers, so each request is answered
//! in time, and the answer says what was waited for. Times are a tenth of the real ones.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_core::Digest;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::world::{GRANT_TTL, Got, World, content, world_with};

const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How a server keeps who asks it waiting.
#[derive(Clone, Debug)]
enum Way {
    /// It accepts the connection and says nothing.
    Silent,
    /// It drops what would make a connection.
    BlackHole,
    HalfAHeader,
    /// It sends a body byte by byte, and never all of it.
    ByteByByte,
    StopsMidway,
    /// It refuses, and the text of the refusal never comes.
    Refuses,
    /// It leads to another that says nothing.
    Redirects(SocketAddr),
    /// Its token service says nothing.
    WantsAToken(SocketAddr),
}

struct Hanging {
    address: SocketAddr,
    /// The host that an error has to name.
    culprit: String,
    _queue: Vec<TcpStream>,
}

impl Hanging {
    async fn start(way: Way) -> Self {
        if matches!(way, Way::BlackHole) {
            return Self::black_hole().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let culprit = match &way {
            Way::Redirects(to) => to.to_string(),
            Way::WantsAToken(at) => format!("the token service http://{at}/token"),
            _ => address.to_string(),
        };
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(hang(socket, way.clone()));
            }
        });
        Self { address, culprit, _queue: Vec::new() }
    }

    /// A listener that accepts nobody, and whose queue is full.
    async fn black_hole() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let _listener = listener;
            std::future::pending::<()>().await;
        });
        let mut queue = Vec::new();
        while let Ok(waits) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            queue.push(waits.unwrap());
        }
        Self { address, culprit: address.to_string(), _queue: queue }
    }
}

async fn hang(mut socket: TcpStream, way: Way) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let last = "Connection: close\r\nContent-Length: 0\r\n";
    let head = match &way {
        Way::Silent | Way::BlackHole => String::new(),
        Way::HalfAHeader => "HTTP/1.1 200 OK\r\nContent-Le".into(),
        Way::ByteByByte | Way::StopsMidway => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{".into(),
        Way::Refuses => "HTTP/1.1 404 Not Found\r\nContent-Length: 1000\r\n\r\n{".into(),
        Way::Redirects(to) => format!("HTTP/1.1 307 To\r\n{last}Location: http://{to}/there\r\n\r\n"),
        Way::WantsAToken(at) => {
            format!("HTTP/1.1 401 Who\r\n{last}WWW-Authenticate: Bearer realm=\"http://{at}/token\"\r\n\r\n")
        }
    };
    let _ = socket.write_all(head.as_bytes()).await;
    while matches!(way, Way::ByteByByte) && socket.write_all(b" ").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::future::pending::<()>().await;
}

async fn world_behind(registry: Option<SocketAddr>) -> World {
    world_that_waits(registry, ANSWER_TIMEOUT).await
}

async fn world_that_waits(registry: Option<SocketAddr>, answer_timeout: Duration) -> World {
    world_with(|options, _| {
        options.answer_timeout = answer_timeout;
        options.stall_timeout = STALL_TIMEOUT;
        if let Some(registry) = registry {
            options.default_upstream = Some(registry.to_string());
        }
    })
    .await
}

/// Waits for an answer that comes long before an engine would give up, on a machine that has other things to do.
async fn in_time<T>(answer: impl Future<Output = T>) -> T {
    tokio::time::timeout(ANSWER_TIMEOUT * 8, answer).await.expect("it is not answered in time")
}

/// Everything that is asked of a registry.
fn questions() -> Vec<(Method, String, Option<&'static str>)> {
    let digest = Digest::sha256(b"absent");
    let manifests = ["latest".to_owned(), digest.to_string()].map(|it| format!("/v2/app/manifests/{it}"));
    let blob = format!("/v2/app/blobs/{digest}");
    let lists = ["tags/list".to_owned(), "tags/list?n=5&last=b".to_owned(), format!("referrers/{digest}")];
    let mut questions = Vec::new();
    for path in manifests.into_iter().chain([blob.clone()]).chain(lists.map(|it| format!("/v2/app/{it}"))) {
        questions.extend([Method::GET, Method::HEAD].map(|method| (method, path.clone(), None)));
    }
    questions.push((Method::GET, blob, Some("bytes=10-19")));
    questions
}

async fn ask(world: &World, (method, path, range): (Method, String, Option<&str>)) -> (String, Got) {
    let what = format!("{method} {path} {range:?}");
    let mut asked = world.client.request(method, world.url(&path));
    if let Some(range) = range {
        asked = asked.header("range", range);
    }
    let response = in_time(asked.send()).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    // A body that began is another matter.
    let body = if status.is_success() { Bytes::new() } else { response.bytes().await.unwrap() };
    (what, Got { status, headers, body })
}

#[tokio::test]
async fn whatever_is_asked_of_a_registry_that_hangs_in_any_way_is_answered_and_says_who_hangs() {
    let silent = Hanging::start(Way::Silent).await;
    let ways = [
        Way::Silent,
        Way::BlackHole,
        Way::HalfAHeader,
        Way::ByteByByte,
        Way::StopsMidway,
        Way::Redirects(silent.address),
        Way::WantsAToken(silent.address),
    ];
    // One after the other, and each with more time: on a busy machine a redirect takes long to be followed, too, and only then the other host is the
    // one that hangs.
    for way in ways {
        let registry = Hanging::start(way.clone()).await;
        let world = world_that_waits(Some(registry.address), ANSWER_TIMEOUT * 2).await;
        assert_eq!(in_time(world.get("/v2/")).await.status, 200, "{way:?}");
        for (what, got) in join_all(questions().into_iter().map(|question| ask(&world, question))).await {
            // Of blobs, and for a HEAD, the header says all there is to say.
            let said = matches!(way, Way::ByteByByte | Way::StopsMidway);
            if said && got.status.is_success() && (what.starts_with("HEAD") || what.contains("/blobs/")) {
                continue;
            }
            assert_eq!(got.status, StatusCode::GATEWAY_TIMEOUT, "{what} of {way:?}: {got:?}");
            if !what.starts_with("HEAD") {
                let text = String::from_utf8_lossy(&got.body);
                assert!(text.contains(&registry.culprit), "{what} of {way:?}: {text}");
            }
        }
    }
}

/// Status and headers decide what an engine does next.
#[tokio::test]
async fn a_refusal_whose_text_does_not_come_is_a_refusal_all_the_same() {
    let registry = Hanging::start(Way::Refuses).await;
    let world = world_behind(Some(registry.address)).await;
    for (what, got) in join_all(questions().into_iter().map(|question| ask(&world, question))).await {
        assert_eq!(got.status, StatusCode::NOT_FOUND, "{what}: {got:?}");
    }
}

/// A blob whose manifest was pulled a moment ago, and that the agent does not open until it is told to.
async fn slow_blob(length: usize) -> (World, Vec<u8>, String) {
    let world = world_behind(None).await;
    let bytes = content(length);
    let (_, [_, layer]) = world.registry.put_image("app", Some("1"), &bytes);
    world.agent.hold(bytes.clone());
    assert_eq!(world.get("/v2/app/manifests/1").await.status, 200);
    world.agent.0.lock().shut = true;
    (world, bytes, format!("/v2/app/blobs/{layer}"))
}

#[tokio::test]
async fn an_origin_that_is_slow_to_its_first_byte_is_waited_for_behind_the_headers() {
    let (world, bytes, path) = slow_blob(10_000).await;
    let headers = in_time(world.client.get(world.url(&path)).send()).await.unwrap();
    assert_eq!((headers.status().as_u16(), headers.content_length()), (200, Some(10_000)));
    let part = in_time(world.client.get(world.url(&path)).header("range", "bytes=-10").send()).await.unwrap();
    assert_eq!(
        (part.status().as_u16(), part.headers()["content-range"].as_bytes()),
        (206, &b"bytes 9990-9999/10000"[..])
    );
    // Longer than any answer may take to begin.
    tokio::time::sleep(ANSWER_TIMEOUT * 13 / 10).await;
    world.registry.asked();
    world.agent.0.lock().shut = false;
    assert!(headers.bytes().await.unwrap() == bytes);
    assert!(part.bytes().await.unwrap() == bytes[9990..]);
    assert!(!world.registry.asked().iter().any(|line| line.starts_with("GET")), "the agent reads it once");
    let wrong = world.send(Method::GET, &path, &[("range", "bytes=10000-")]).await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
}

#[tokio::test]
async fn a_registry_that_hangs_after_its_manifest_is_an_error_up_front() {
    let (world, _, path) = slow_blob(10_000).await;
    world.registry.state.lock().hangs = true;
    let got = in_time(world.get(&path)).await;
    assert_eq!(got.error(), (504, "UNAVAILABLE".into()));
    assert!(String::from_utf8_lossy(&got.body).contains(&world.registry.name()), "{got:?}");
}

/// An engine that reads several ranges gives the whole pull up when one of them fails.
#[tokio::test]
async fn who_has_got_a_range_is_served_by_the_upstream_while_the_agent_hangs() {
    let (world, bytes, path) = slow_blob(10_000).await;
    world.agent.0.lock().shut = false;
    let range = async |range: &str| world.send(Method::GET, &path, &[("range", range)]).await;
    assert_eq!(range("bytes=0-9").await.body, &bytes[..10]);
    world.agent.0.lock().shut = true;
    assert_eq!(range("bytes=100-199").await.body, &bytes[100..200]);
    // Nobody else is refused either.
    assert_eq!(world.get(&path).await.body, bytes);
}

#[tokio::test]
async fn a_body_that_never_begins_ends_with_the_stall_timeout() {
    let (world, _, path) = slow_blob(10_000).await;
    let headers = in_time(world.client.get(world.url(&path)).send()).await.unwrap();
    assert_eq!(headers.status(), 200);
    world.registry.state.lock().hangs = true;
    let body = tokio::time::timeout(STALL_TIMEOUT * 4, headers.bytes()).await.expect("it never ends");
    assert!(body.is_err(), "it is visibly cut off");
    assert!(world.counted(r#"darter_mirror_fallbacks_total{result="cut"} 1"#));
}

/// The agent's blob stands still in its middle, and says so at the end; the upstream was asked in vain before that.
#[tokio::test]
async fn a_body_that_stands_still_at_the_agent_and_at_the_upstream_is_cut_off_at_once() {
    let (world, _, path) = slow_blob(10_000).await;
    {
        let mut agent = world.agent.0.lock();
        agent.shut = false;
        agent.gate = Some((5000, Arc::new(Notify::new())));
        agent.stalls_after = Some(STALL_TIMEOUT);
    }
    let headers = in_time(world.client.get(world.url(&path)).send()).await.unwrap();
    world.registry.state.lock().hangs = true;
    let body = tokio::time::timeout(STALL_TIMEOUT * 4, headers.bytes()).await.expect("it never ends");
    assert!(body.is_err());
    let asked = world.registry.asked();
    let resumed = asked.iter().filter(|line| **line == format!("GET {path}")).count();
    assert_eq!(resumed, 1, "{asked:?}");
}

#[tokio::test]
async fn a_blob_of_another_length_than_its_manifest_says_is_never_passed_on_as_if_it_were_whole() {
    let world = world_behind(None).await;
    let layer = world.registry.put_blob("app", b"twelve bytes");
    world.agent.hold(&b"twelve bytes"[..]);
    let manifest = serde_json::json!({ "schemaVersion": 2, "layers": [{ "digest": layer, "size": 7 }] });
    world.registry.put_manifest("app", crate::registry::MANIFEST, manifest.to_string(), Some("1"));
    assert_eq!(world.get("/v2/app/manifests/1").await.status, 200);
    world.clock.pass(GRANT_TTL / 2);
    world.agent.0.lock().shut = true;
    let path = format!("/v2/app/blobs/{layer}");
    let headers = in_time(world.client.get(world.url(&path)).send()).await.unwrap();
    world.agent.0.lock().shut = false;
    assert!(headers.bytes().await.is_err());
}

/// A holder among others that keeps what it was asked for: the rest of the blob comes, and the engine's next byte does not.
#[tokio::test]
async fn a_body_that_stands_still_while_the_blob_moves_goes_on_from_the_upstream_and_is_not_given_up_for_long_at_each_part()
 {
    let (world, bytes, path) = slow_blob(24 << 20).await;
    {
        let mut agent = world.agent.0.lock();
        agent.shut = false;
        agent.known = Some(bytes.len() as u64);
        agent.keeps_from = Some(1 << 20);
    }
    let pull = async { world.client.get(world.url(&path)).send().await.unwrap().bytes().await };
    let body = tokio::time::timeout(STALL_TIMEOUT * 8, pull).await.expect("it never ends").unwrap();
    assert!(body == bytes);
    let asked = world.agent.0.lock().asked.load(std::sync::atomic::Ordering::Relaxed);
    assert!(asked <= 2, "it was gone back to {asked} times, and stood still each time");
}
