//! An origin that gives bytes out by ticks, as much to each connection, and behaves in one of many ways. Agents that are to find out what
//! connections get go by its time, too: on a busy machine its ticks are slower, and what it gives in one is the same.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use darter_agent::{Agent, Options};
use darter_api::Span;
use darter_core::{Clock, Moment, Source, SystemClock};
use futures_util::{StreamExt as _, stream};
use http::header::RANGE;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

pub(super) const MIB: u64 = 1 << 20;
/// How many ticks a second has, on a machine that has nothing else to do.
pub(super) const TICKS: u64 = 250;
pub(super) const TICK: Duration = Duration::from_millis(1000 / TICKS);

/// How long a pause it asks for.
const PAUSE: Duration = Duration::from_secs(1);

/// More than any test here has, in one tick.
pub(super) const UNLIMITED: u64 = 1 << 40;

/// The origin's answer to a request for a range, and to the n-th one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Serves,
    /// It answers with everything.
    Ignores,
    /// It asks for a pause while two answers are being read.
    Limits,
    /// It sends nothing after some bytes, to the second one.
    Stalls,
    /// It breaks off after some bytes, the second one.
    Breaks,
    /// It has another version from the second one on.
    Changes,
    /// It has two servers with tags of their own for the same bytes.
    Replicas,
    /// It says that there is no such range, to the second one.
    Unsatisfiable,
    /// It answers the third connection at a time with 503.
    Overloads,
    /// It breaks the third connection at a time off.
    Resets,
    /// It breaks every answer off after two megabytes.
    Cuts,
    /// It takes the credentials for the first few only.
    Expires,
    /// It breaks off what it sends once several connections read, and refuses ranges from then on.
    Denies,
    /// It breaks off what it sends once several connections read, and then asks for a pause of a second once.
    Pauses,
}

impl Does {
    /// Three stretches, two trials, and the rest; and as many again, for a busy machine where several connections are tried for longer.
    pub(super) const EXPIRES_AFTER: usize = 12;

    /// True if it changes its mind once several connections read.
    const fn turns(self) -> bool {
        matches!(self, Self::Denies | Self::Pauses)
    }
}

pub(super) struct Store {
    pub(super) url: String,
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) content: Bytes,
    /// The next version, once there is one: then what is sent of the former one is broken off.
    next: Mutex<Option<Bytes>>,
    /// Bytes that one answer, and all of them together, get in a tick.
    each: AtomicU64,
    all: u64,
    does: Does,
    /// Sent with each answer that begins with the first byte.
    declared: Option<String>,
    ticks: watch::Receiver<u64>,
    pub(super) open: AtomicUsize,
    most_open: AtomicUsize,
    given: AtomicU64,
    pub(super) refused: AtomicUsize,
    /// In which tick it changed its mind.
    turned: AtomicU64,
    /// Until when it asks for a pause, once it did: a pause is no matter of ticks.
    pauses_until: OnceLock<Instant>,
    pub(super) ranges: Mutex<Vec<(u64, u64)>>,
    pub(super) credentials: Mutex<Vec<Option<String>>>,
}

impl Store {
    pub(super) async fn start(length: u64, each: u64, all: u64, does: Does) -> Self {
        Self::start_declaring(length, each, all, does, |_| None).await
    }

    pub(super) async fn start_declaring(
        length: u64,
        each: u64,
        all: u64,
        does: Does,
        declared: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Self {
        let words = (0..length / 4).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes());
        let content: Bytes = words.flatten().collect::<Vec<u8>>().into();
        let (tick, ticks) = watch::channel(0);
        tokio::spawn(async move {
            let mut every = tokio::time::interval(TICK);
            every.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !tick.is_closed() {
                every.tick().await;
                tick.send_modify(|tick| *tick += 1);
            }
        });
        let declared = declared(&content);
        let (open, most_open, given, refused, turned) = Default::default();
        let (ranges, credentials) = Default::default();
        let shared = Shared {
            content,
            next: Mutex::default(),
            each: AtomicU64::new((each / TICKS).max(1)),
            all: (all / TICKS).max(1),
            does,
            declared,
            ticks,
            open,
            most_open,
            given,
            refused,
            turned,
            pauses_until: OnceLock::new(),
            ranges,
            credentials,
        };
        let shared = Arc::new(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let routes = axum::Router::new().route("/file", get(answer)).with_state(Arc::clone(&shared));
        // As servers of files do: what a tick gives leaves in it.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { url, shared }
    }

    pub(super) fn source(&self) -> Source {
        Source::from_url(self.url.parse().unwrap(), &[], None).0
    }

    pub(super) fn ticks(&self) -> u64 {
        *self.shared.ticks.borrow()
    }

    /// An agent that goes by the origin's time.
    pub(super) async fn agent(&self, options: Options) -> Agent {
        Agent::builder(options).clock(self.clock()).start().await.unwrap()
    }

    pub(super) fn clock(&self) -> impl Clock + use<> {
        Ticks { ticks: self.shared.ticks.clone(), dates: SystemClock::start() }
    }

    pub(super) fn given(&self) -> u64 {
        self.shared.given.load(Ordering::Relaxed)
    }

    /// There is another version from now on.
    pub(super) fn change(&self, next: impl Into<Bytes>) {
        *self.shared.next.lock() = Some(next.into());
    }

    /// Sets the bytes that one answer gets in a second from now on.
    pub(super) fn give_each(&self, bytes: u64) {
        self.shared.each.store((bytes / TICKS).max(1), Ordering::Relaxed);
    }

    pub(super) fn requests(&self) -> usize {
        self.shared.credentials.lock().len()
    }

    pub(super) fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::Relaxed)
    }

    /// Reads it as containerd does, by `connections` ranges of `step` bytes at a time; returns the ticks that this takes.
    pub(super) async fn read_directly(&self, step: u64, connections: usize) -> u64 {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let (before, length) = (self.ticks(), self.shared.content.len() as u64);
        let parts = (0..length.div_ceil(step)).map(|nth| {
            let range = format!("bytes={}-{}", nth * step, ((nth + 1) * step).min(length) - 1);
            let request = client.get(&self.url).header(RANGE, range);
            async move { request.send().await.unwrap().bytes().await.unwrap().len() as u64 }
        });
        let read: Vec<u64> = stream::iter(parts).buffer_unordered(connections).collect().await;
        assert_eq!(read.iter().sum::<u64>(), length);
        self.ticks() - before
    }
}

impl Shared {
    /// True if the second has not passed for which it asks for a pause.
    fn pauses(&self) -> bool {
        Instant::now() < *self.pauses_until.get_or_init(|| Instant::now() + PAUSE)
    }

    /// The tick in which it changed its mind, or will.
    pub(super) fn turned(&self) -> u64 {
        self.turned.load(Ordering::Relaxed)
    }
}

/// The origin's time.
struct Ticks {
    ticks: watch::Receiver<u64>,
    dates: SystemClock,
}

impl Clock for Ticks {
    fn now(&self) -> Moment {
        Moment::from_micros(*self.ticks.borrow() * TICK.as_micros() as u64)
    }

    fn unix(&self) -> u64 {
        self.dates.unix()
    }
}

/// One answer that is being read.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn status(status: StatusCode) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

async fn answer(State(shared): State<Arc<Shared>>, method: Method, headers: HeaderMap) -> Response {
    let next = shared.next.lock().clone();
    let (is_next, content) = (next.is_some(), next.unwrap_or_else(|| shared.content.clone()));
    let length = content.len() as u64;
    let span = headers.get(RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.parse::<Span>().ok());
    let mut part = span.map(|span| span.of(length).unwrap());
    let is_sample = part.is_some_and(|part| part.len() <= 1024);
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok().map(str::to_owned));
    let mut etag = if is_next { "\"2\"" } else { "\"1\"" };
    let mut nth = 0;
    if method == Method::GET && !is_sample {
        shared.credentials.lock().push(text("authorization"));
        if let Some(part) = part {
            let mut ranges = shared.ranges.lock();
            ranges.push((part.start(), part.end()));
            nth = ranges.len();
        }
    }
    let (open, turned) = (shared.open.load(Ordering::Relaxed), shared.turned.load(Ordering::Relaxed));
    let began = *shared.ticks.borrow();
    let since = if turned == 0 { None } else { began.checked_sub(turned) };
    let mut stops = None;
    match shared.does {
        Does::Ignores => part = None,
        Does::Changes if nth > 1 => etag = "\"2\"",
        Does::Replicas if nth % 2 == 1 => etag = "\"other replica\"",
        Does::Limits if nth > 0 && open >= 2 => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            let refusal = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header("retry-after", "1");
            return refusal.body(Body::empty()).unwrap();
        }
        Does::Pauses if since.is_some() && shared.pauses() => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            let refusal = Response::builder().status(StatusCode::TOO_MANY_REQUESTS).header("retry-after", "1");
            return refusal.body(Body::empty()).unwrap();
        }
        Does::Denies if nth > 0 && since.is_some() => return status(StatusCode::BAD_REQUEST),
        Does::Unsatisfiable if nth == 2 => return status(StatusCode::RANGE_NOT_SATISFIABLE),
        Does::Overloads if nth > 0 && open >= 2 => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            return status(StatusCode::SERVICE_UNAVAILABLE);
        }
        Does::Expires if shared.credentials.lock().len() > Does::EXPIRES_AFTER => {
            return status(StatusCode::UNAUTHORIZED);
        }
        Does::Stalls | Does::Breaks if nth == 2 => stops = Some(300_000),
        Does::Resets if nth > 0 && open >= 2 => {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            stops = Some(0);
        }
        Does::Cuts => stops = Some(2 * MIB),
        _ => {}
    }
    if text("if-range").is_some_and(|known| known != etag) {
        part = None;
    }
    let (start, end) = part.map_or((0, length), |part| (part.start(), part.end()));
    let mut response = Response::builder().header(header::ETAG, etag).header(header::CONTENT_LENGTH, end - start);
    if let Some(declared) = shared.declared.as_ref().filter(|_| start == 0) {
        response = response.header("repr-digest", declared);
    }
    if part.is_some() {
        let told = format!("bytes {start}-{}/{length}", end - 1);
        response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, told);
    }
    if method != Method::GET {
        return response.body(Body::empty()).unwrap();
    }
    let open = shared.open.fetch_add(1, Ordering::Relaxed) + 1;
    shared.most_open.fetch_max(if is_sample { 0 } else { open }, Ordering::Relaxed);
    if shared.does.turns() && open > 6 && !is_sample {
        let tick = *shared.ticks.borrow();
        let _ = shared.turned.compare_exchange(0, tick + TICKS * 3 / 10, Ordering::Relaxed, Ordering::Relaxed);
    }
    let stops = stops.map(|stops: u64| start + stops);
    let ticks = shared.ticks.clone();
    let chunks = stream::unfold((start, Open(shared), ticks), move |(at, open, mut ticks)| {
        let content = content.clone();
        async move {
            let shared = Arc::clone(&open.0);
            if at >= end {
                return None;
            }
            let broken = |open, ticks| Some((Err(std::io::Error::other("broken off")), (end, open, ticks)));
            if stops.is_some_and(|stops| at >= stops) {
                match shared.does {
                    Does::Stalls => std::future::pending().await,
                    _ => return broken(open, ticks),
                }
            }
            ticks.changed().await.ok()?;
            // An answer that began before it turned, or before the content changed, is broken off.
            let turned = shared.turned.load(Ordering::Relaxed);
            let turns = began < turned && *ticks.borrow() >= turned;
            if !is_sample && (turns || shared.next.lock().is_some() && !is_next) {
                return broken(open, ticks);
            }
            let share = shared.all / shared.open.load(Ordering::Relaxed).max(1) as u64;
            let to = end.min(at + shared.each.load(Ordering::Relaxed).min(share).max(1));
            shared.given.fetch_add(to - at, Ordering::Relaxed);
            let chunk = content.slice(at as usize..to as usize);
            Some((Ok(chunk), (to, open, ticks)))
        }
    });
    response.body(Body::from_stream(chunks)).unwrap()
}
