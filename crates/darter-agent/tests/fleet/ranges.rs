//! Parts of content that nobody has: what is read of the origin is what somebody waits for, and it is read once for all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use darter_agent::options::Role;
use darter_agent::{Agent, Download, FetchError, Nearness, Options};
use darter_api::Span;
use darter_core::source::Credentials;
use darter_core::{ByteRange, Source};
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use http::header::RANGE;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::registry::Registry;
use crate::{registries, seed};

const MIB: u64 = 1 << 20;

/// The bytes that the origin sends at a time.
const CHUNK: u64 = 64 << 10;

/// The byte at a place of every file here.
fn byte_at(place: u64) -> u8 {
    (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn bytes_at(range: ByteRange) -> Vec<u8> {
    (range.start()..range.end()).map(byte_at).collect()
}

/// A web server with a file too large to be kept, that counts the bytes which it is asked for.
struct Origin {
    url: String,
    asked: Arc<Asked>,
}

struct Asked {
    length: u64,
    ranges: Ranges,
    /// The part that each request was answered with.
    answers: Mutex<Vec<ByteRange>>,
    /// Bytes that were taken of the answers, with what lies in the sockets.
    given: Mutex<u64>,
    open: watch::Receiver<bool>,
}

/// The origin's answer to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ranges {
    Served,
    Ignored,
    /// By this status.
    Refused(u16),
    /// They are never answered.
    Silent,
}

impl Origin {
    async fn start(length: u64) -> Self {
        Self::start_with(length, Ranges::Served, watch::channel(true).1).await
    }

    /// One that may serve no ranges, and sends nothing while the gate is closed.
    async fn start_with(length: u64, ranges: Ranges, open: watch::Receiver<bool>) -> Self {
        let (answers, given) = Default::default();
        let asked = Arc::new(Asked { length, ranges, answers, given, open });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let routes = axum::Router::new().route("/file", get(answer)).with_state(Arc::clone(&asked));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, asked }
    }

    fn source(&self) -> Source {
        Source::from_url(self.url.parse().unwrap(), &[], None).0
    }

    fn given(&self) -> u64 {
        *self.asked.given.lock()
    }

    /// How many requests there were for more than a sample.
    fn reads(&self) -> usize {
        self.asked.answers.lock().iter().filter(|range| range.len() > 1024).count()
    }
}

async fn answer(State(asked): State<Arc<Asked>>, method: Method, headers: HeaderMap) -> Response {
    let whole = ByteRange::new(0, asked.length);
    let span = headers.get(RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.parse::<Span>().ok());
    if let (Ranges::Refused(status), true) = (asked.ranges, span.is_some() && method == Method::GET) {
        return Response::builder().status(status).body(Body::empty()).unwrap();
    }
    if asked.ranges == Ranges::Silent && span.is_some() && method == Method::GET {
        std::future::pending::<()>().await;
    }
    let part = span.filter(|_| asked.ranges == Ranges::Served).map(|span| span.of(asked.length).unwrap());
    let range = part.unwrap_or(whole);
    if method == Method::GET {
        asked.answers.lock().push(range);
    }
    let mut response = Response::builder().header(header::ETAG, "\"1\"").header(header::CONTENT_LENGTH, range.len());
    if part.is_some() {
        let told = format!("bytes {}-{}/{}", range.start(), range.end() - 1, asked.length);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, told);
    }
    let chunks = stream::unfold((range.start(), asked), move |(at, asked)| async move {
        let end = (at + CHUNK).min(range.end());
        if at == end {
            return None;
        }
        let _ = asked.open.clone().wait_for(|open| *open).await;
        *asked.given.lock() += end - at;
        let bytes = Bytes::from(bytes_at(ByteRange::new(at, end)));
        Some((Ok::<_, std::convert::Infallible>(bytes), (end, asked)))
    });
    response.body(Body::from_stream(chunks)).unwrap()
}

struct Fleet {
    seed: Agent,
    nodes: Vec<Agent>,
    _directory: TempDir,
}

impl Fleet {
    async fn start(nodes: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let seed = Options { role: Role::Seed, ..seed::node(&directory.path().join("seed"), Vec::new()) };
        let seed = darter_gateway::start(seed).await.unwrap();
        let mut fleet = Self { seed, nodes: Vec::new(), _directory: directory };
        for _ in 0..nodes {
            fleet.grow().await;
        }
        fleet
    }

    async fn grow(&mut self) -> Agent {
        let directory = self._directory.path().join(self.nodes.len().to_string());
        let join = vec![self.seed.status().listen.unwrap()];
        let node = darter_gateway::start(seed::node(Path::new(&directory), join)).await.unwrap();
        self.nodes.push(node.clone());
        node
    }

    async fn drain(self) {
        for agent in self.nodes.into_iter().chain([self.seed]) {
            agent.drain().await;
        }
    }
}

async fn open(agent: &Agent, origin: &Origin) -> Download {
    agent.open_parts(origin.source(), Credentials::none()).await.unwrap()
}

/// Reads a range and compares it.
async fn check(download: &Download, range: ByteRange) {
    let reading = async {
        let (mut bytes, mut at) = (download.bytes_of(range), range.start());
        while let Some(bytes) = bytes.next().await {
            let bytes = bytes.unwrap();
            assert!(bytes.iter().zip(at..).all(|(byte, at)| *byte == byte_at(at)), "from {at} on");
            at += bytes.len() as u64;
        }
        assert_eq!(at, range.end());
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("an end");
}

async fn check_whole(agent: &Agent, origin: &Origin) {
    let download = agent.open(origin.source(), Credentials::none()).await.unwrap();
    let (mut bytes, mut at) = (download.stream(None), 0);
    while let Some(bytes) = bytes.next().await {
        let bytes = bytes.unwrap();
        assert!(bytes.iter().zip(at..).all(|(byte, at)| *byte == byte_at(at)), "from {at} on");
        at += bytes.len() as u64;
    }
    assert_eq!(at, origin.asked.length);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_middle_of_a_cold_file_is_there_after_reading_as_much_of_the_origin() {
    let origin = Origin::start(1024 * MIB).await;
    let mut fleet = Fleet::start(2).await;
    // Not at a piece's beginning: two pieces are touched.
    let middle = ByteRange::new(512 * MIB + 1000, 513 * MIB + 1000);
    let download = open(&fleet.nodes[0], &origin).await;
    check(&download, middle).await;
    let read = origin.given();
    assert!(read <= 2 * MIB + CHUNK, "{read} bytes were read for one megabyte");
    // A newcomer then has it from the fleet, piece by piece checked.
    check(&open(&fleet.nodes[1], &origin).await, middle).await;
    check(&open(&fleet.seed, &origin).await, ByteRange::new(513 * MIB, 513 * MIB + 10)).await;
    // The end of the file, of which the last piece is no longer held back.
    check(&download, ByteRange::new(1024 * MIB - 51, 1024 * MIB)).await;
    assert!(origin.given() <= read + MIB + 3 * CHUNK, "{} bytes", origin.given());
    let newcomer = fleet.grow().await;
    check(&open(&newcomer, &origin).await, middle).await;
    assert!(origin.given() <= read + MIB + 4 * CHUNK, "{} bytes", origin.given());
    let held: Vec<u64> = fleet.nodes[0].list().await.unwrap().iter().map(|row| row.held).collect();
    assert_eq!(held, [3 * MIB], "nothing else was fetched");
    fleet.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_read_different_parts_at_once_read_the_origin_once_in_all() {
    const PART: u64 = 6 * MIB + 12_345;
    let origin = Origin::start(8 * PART).await;
    let fleet = Fleet::start(8).await;
    let reading = fleet.nodes.iter().zip(0..).map(async |(node, nth)| {
        let part = ByteRange::new(nth * PART, (nth + 1) * PART);
        check(&open(node, &origin).await, part).await;
    });
    join_all(reading).await;
    // Samples, and what was in the sockets when a part was had already.
    let most = 8 * PART + 16 * CHUNK;
    assert!(origin.given() <= most, "{} of {most} bytes", origin.given());
    // All of it is in the fleet: who wants everything gets it there.
    let everything = check_whole(&fleet.nodes[3], &origin);
    tokio::time::timeout(Duration::from_secs(60), everything).await.expect("an end");
    assert!(origin.given() <= most + 8 * CHUNK, "{} of {most} bytes", origin.given());
    fleet.drain().await;
}

/// More nodes than a lead tells hashes by itself: whoever waits for a piece is told its hash all the same, with the lead's signature, and
/// those who come to want everything learn the hashes behind gaps from holders of their pieces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_large_swarm_who_waits_for_a_range_is_told_its_hashes() {
    const LENGTH: u64 = 12 * MIB;
    let origin = Origin::start(LENGTH).await;
    let fleet = Fleet::start(66).await;
    let opened = join_all(fleet.nodes.iter().map(|node| open(node, &origin))).await;
    let part = |nth: u64| ByteRange::new((6 + nth % 4) * MIB + 1000, (7 + nth % 4) * MIB);
    join_all(opened.iter().zip(0..).map(async |(download, nth)| check(download, part(nth)).await)).await;
    assert!(origin.given() <= 4 * MIB + 80 * CHUNK, "{} bytes were read for four megabytes", origin.given());
    let everything = join_all(fleet.nodes[..8].iter().map(|node| check_whole(node, &origin)));
    tokio::time::timeout(Duration::from_secs(120), everything).await.expect("an end");
    assert!(origin.given() <= LENGTH + 120 * CHUNK, "{} bytes", origin.given());
    fleet.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_origin_without_ranges_is_read_from_its_first_byte_and_explain_says_so() {
    let origin = Origin::start_with(9 * MIB, Ranges::Ignored, watch::channel(true).1).await;
    let fleet = Fleet::start(1).await;
    check(&open(&fleet.nodes[0], &origin).await, ByteRange::new(5 * MIB, 6 * MIB)).await;
    check_whole(&fleet.nodes[0], &origin).await;
    assert_eq!(origin.reads(), 1);
    // The users of the node ask there, and see why they wait.
    for agent in [&fleet.seed, &fleet.nodes[0]] {
        let explained = agent.explain(&origin.url).await.unwrap();
        let says = |text: &str| explained.events.iter().any(|event| event.what.contains(text));
        assert!(says("serves no ranges") && says("from the first byte"), "{:?}", explained.events);
    }
    fleet.drain().await;
}

/// The mirror then takes the bytes from the registry at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_told_that_what_it_waits_for_comes_after_all_that_stands_before_it() {
    let (gate, open_gate) = watch::channel(true);
    let origin = Origin::start_with(1024 * MIB, Ranges::Ignored, open_gate).await;
    let fleet = Fleet::start(1).await;
    let download = open(&fleet.nodes[0], &origin).await;
    gate.send(false).unwrap();
    let told = async {
        while download.nearness(1000 * MIB, true) == Nearness::Within {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("the seed knows it");
    let nearness = download.nearness(1000 * MIB, true);
    assert!(matches!(nearness, Nearness::After(_)), "{nearness:?}");
    gate.send(true).unwrap();
    fleet.drain().await;
}

/// Stores whose addresses are signed for a plain GET, and caches that know no ranges, refuse them in one way or another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_what_an_origin_gives_as_a_whole_alone_is_waited_for() {
    let refused = [400, 403, 416, 500, 501, 502, 503, 504].map(Ranges::Refused);
    for ranges in refused.into_iter().chain([Ranges::Silent]) {
        let origin = Origin::start_with(9 * MIB, ranges, watch::channel(true).1).await;
        let fleet = Fleet::start(1).await;
        check(&open(&fleet.nodes[0], &origin).await, ByteRange::new(5 * MIB, 6 * MIB)).await;
        assert_eq!(origin.reads(), 1, "{ranges:?}");
        fleet.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_had_in_time_is_an_error_and_comes_later() {
    let (gate, open_gate) = watch::channel(false);
    let origin = Origin::start_with(64 * MIB, Ranges::Served, open_gate).await;
    let fleet = Fleet::start(1).await;
    gate.send(true).unwrap();
    let download = open(&fleet.nodes[0], &origin).await;
    gate.send(false).unwrap();
    let range = ByteRange::new(20 * MIB, 21 * MIB);
    let late = download.ensure(range, Duration::from_millis(300)).await;
    assert!(matches!(late, Err(FetchError::Stalled { .. })), "{late:?}");
    gate.send(true).unwrap();
    download.ensure(range, Duration::from_secs(60)).await.unwrap();
    let before = origin.given();
    check(&download, range).await;
    assert_eq!(origin.given(), before, "it is here");
    // As far as there are such bytes.
    download.ensure(ByteRange::new(64 * MIB - 1, u64::MAX), Duration::from_secs(60)).await.unwrap();
    let past = fleet.nodes[0].open_span(origin.source(), Credentials::none(), "67108864-".parse().unwrap()).await;
    assert!(matches!(past, Err(FetchError::Range { length }) if length == 64 * MIB));
    fleet.drain().await;
}

/// A lazy snapshotter on a host where nobody has the layer, nor anywhere else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_range_of_a_cold_layer_moves_the_pieces_that_it_touches() {
    const LENGTH: usize = 20_000_000;
    let directory = TempDir::new().unwrap();
    let registry = Registry::start().await;
    let content: Vec<u8> =
        (0..LENGTH as u32 / 4).flat_map(|at| (at.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
    let path = format!("/v2/lab/app/blobs/{}", registry.put_blob("lab/app", &content));
    let seed = Options { role: Role::Seed, ..registries::options(directory.path(), "seed", &registry) };
    let seed = darter_gateway::start(seed).await.unwrap();
    let join = vec![seed.status().listen.unwrap()];
    let mut nodes = Vec::new();
    for name in ["one", "other"] {
        let options = Options { join: join.clone(), ..registries::options(directory.path(), name, &registry) };
        nodes.push(darter_gateway::start(options).await.unwrap());
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for node in &nodes {
        for (range, expected) in
            [("bytes=-51", LENGTH - 51..LENGTH), ("bytes=12000001-13000000", 12_000_001..13_000_001)]
        {
            let url = format!("http://{}{path}", node.status().local.unwrap());
            let response = client.get(url).header(RANGE, range).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
            assert!(response.bytes().await.unwrap() == content[expected], "{range}");
        }
    }
    let reads = || {
        let seen = std::mem::take(&mut registry.state.lock().seen);
        let asked = seen.iter().filter(|seen| seen.line.starts_with("GET /v2/lab/app/blobs/"));
        let asked = asked.map(|seen| seen.headers.get(RANGE).map_or("bytes=0-", |range| range.to_str().unwrap()));
        let asked: Vec<_> = asked.map(str::to_owned).collect();
        let spans = asked.iter().map(|asked| asked.strip_prefix("bytes=").unwrap().parse::<Span>().unwrap());
        (spans.map(|span| span.of(LENGTH as u64).unwrap().len()).sum::<u64>(), asked)
    };
    let (read, asked) = reads();
    assert!(read < 1_500_000, "{read} bytes were read for 1 MB and a footer: {asked:?}");
    // A reader of everything then is given those, and has the rest read.
    let url = format!("http://{}{path}", nodes[0].status().local.unwrap());
    assert!(client.get(url).send().await.unwrap().bytes().await.unwrap() == content);
    let (rest, asked_then) = reads();
    let in_all = read + rest;
    assert!(in_all < LENGTH as u64 + 10_000, "{in_all} bytes were asked for: {asked:?}, then {asked_then:?}");
    for agent in nodes.into_iter().chain([seed]) {
        agent.drain().await;
    }
}
