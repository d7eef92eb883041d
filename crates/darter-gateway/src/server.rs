//! The local port: one HTTP/1.1 server for the programs of this host. The metrics port is the same without the mirror.
//!
//! | path | answer |
//! |---|---|
//! | `/v2/…` | the registry [`Mirror`] |
//! | `/metrics` | [`Metrics`] for Prometheus |
//! | `/healthz` | 200 `ok`, or 503 `draining`; with `?verbose`, also the state of the connection with the fleet |
//! | `/readyz` | 200 `ready`, or 503 with what the agent waits for |
//! | `/` | a description of this port |
//!
//! The `guard` decides which requests are answered: those of programs on this host, and none of web pages.
//!
//! Bodies stream: a chunk is produced only when the connection has room for it, so a slow reader costs no memory. Ranges of files
//! are sent without copying them, through each connection's `outlet`. The number of connections is limited; idle connections
//! make room for others (`seats`). A client may close its sending side after its request (`half_closed`).
//!
//! Draining has two steps, so that load balancers and probes notice it first: `/healthz` changes as soon as the agent
//! drains; [`LocalPort::drain`] stops accepting, lets answers in progress end, and closes the remaining connections after a time.

mod guard;
mod half_closed;
mod plain;
mod seats;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_agent::Phase;
use darter_core::in_full;
use darter_metrics::Metrics;
use darter_wire::descriptors::AcceptFailures;
use http::header::{ACCEPT, ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::guard::Guard;
use self::half_closed::HalfClosed;
use self::seats::{Seat, Seats};
use crate::body::{Body, empty, full};
use crate::mirror::Mirror;
use crate::outlet::{Outlet, OutletStream};

const ABOUT: &str = "This is Darter's port for programs on this host.\n\n\
    /v2/       registry mirror (OCI distribution, pull only)\n\
    /metrics   numbers for Prometheus\n\
    /healthz   whether the agent lives (?verbose: how it stands with the fleet)\n\
    /readyz    whether the agent takes new requests\n";

/// The local port, while it is served.
#[derive(Debug)]
pub struct LocalPort {
    address: SocketAddr,
    services: Arc<Services>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Services {
    /// `None` on the metrics port.
    mirror: Option<Arc<Mirror>>,
    metrics: Arc<Metrics>,
    guard: Guard,
    /// The phase of the agent: starting, running, draining.
    phases: watch::Receiver<Phase>,
}

impl LocalPort {
    /// Serves connections of `listener` in the background, until drained; without a `mirror`, as the metrics port. `names` are names by which
    /// programs reach the port, besides those of loopback; `phases` are the agent's.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn serve(
        listener: TcpListener,
        mirror: Option<Arc<Mirror>>,
        metrics: Arc<Metrics>,
        names: Vec<String>,
        phases: watch::Receiver<Phase>,
    ) -> io::Result<Self> {
        let guard = Guard::new(names);
        let port = Self {
            address: listener.local_addr()?,
            services: Arc::new(Services { mirror, metrics, guard, phases }),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (services, stop, cut) = (Arc::clone(&port.services), port.stop.clone(), port.cut.clone());
        port.tasks.spawn(accept(listener, services, stop, cut, port.tasks.clone()));
        Ok(port)
    }

    /// The address of the port.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the agent closes its ports, and drains within the time that the agent gives.
    pub async fn until_closed(self) {
        let mut phases = self.services.phases.clone();
        // Without an agent, there is nothing to serve.
        let closing = phases.wait_for(|phase| phase.closes_within().is_some()).await;
        let within = closing.ok().and_then(|phase| phase.closes_within());
        self.drain(within.unwrap_or_default()).await;
    }

    /// Stops accepting, and returns when every answer in progress is sent, or after `timeout`, when the other connections are closed.
    pub async fn drain(&self, timeout: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(timeout, self.tasks.wait()).await.is_err() {
            tracing::warn!(connections = self.tasks.len(), "local port: closing connections that did not end in time");
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

impl Drop for LocalPort {
    fn drop(&mut self) {
        self.stop.cancel();
        self.cut.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    services: Arc<Services>,
    stop: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
) {
    let seats = Seats::new();
    let mut failures = AcceptFailures::new("the local port");
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failures.succeeded();
                let seat = tokio::select! {
                    () = stop.cancelled() => return,
                    seat = seats.seat() => seat,
                };
                tasks.spawn(connection(stream, Arc::clone(&services), seat, stop.clone(), cut.clone()));
            }
            Err(error) => tokio::time::sleep(failures.failed(&error)).await,
        }
    }
}

async fn connection(
    stream: TcpStream,
    services: Arc<Services>,
    seat: Arc<Seat>,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "local port: no TCP_NODELAY");
    }
    let address = stream.local_addr().ok().map(|address| address.ip());
    let outlet = Outlet::default();
    let stream = OutletStream::new(stream, outlet.clone(), services.metrics.local_sendfile_bytes.clone());
    let stream = HalfClosed::new(stream, Arc::clone(&seat));
    let answered = Arc::clone(&seat);
    let service = service_fn(|mut request: Request<Incoming>| {
        let services = Arc::clone(&services);
        request.extensions_mut().insert(outlet.clone());
        let busy = answered.request();
        async move {
            // What it takes to ask an upstream is large, and would be so for each connection.
            let answer = Box::pin(services.answer(request, address)).await;
            Ok::<_, Infallible>(answer.map(|body| {
                // The connection is busy until the body ends.
                let keep = move |error| {
                    let _ = &busy;
                    error
                };
                body.map_err(keep).boxed_unsync()
            }))
        }
    });
    let connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = seat.leave.cancelled(), if !stopping => {
                // A connection without any request has nothing to finish.
                if seat.is_fresh() {
                    return;
                }
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = cut.cancelled() => return,
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %in_full(&error), "local port: a connection broke");
    }
}

impl Services {
    /// Answers one request; `address` is the local address of the connection.
    async fn answer(&self, request: Request<Incoming>, address: Option<IpAddr>) -> Response<Body> {
        let (parts, _) = request.into_parts();
        let path = parts.uri.path();
        if let Err(refusal) = self.guard.check(&parts, address) {
            self.metrics.local_refusal(refusal.reason);
            tracing::info!(path, reason = refusal.text, "refused a request on the local port");
            return text(refusal.status, format!("{}\n", refusal.text), parts.method == Method::HEAD);
        }
        if let Some(mirror) = &self.mirror
            && (path == "/v2" || path.starts_with("/v2/"))
        {
            return mirror.handle(&parts).await;
        }
        let head = parts.method == Method::HEAD;
        if !head && parts.method != Method::GET {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered here\n", head);
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/" => text(StatusCode::OK, ABOUT, head),
            "/healthz" => {
                let (status, word) = match *self.phases.borrow() {
                    Phase::Starting | Phase::Ready => (StatusCode::OK, "ok\n"),
                    Phase::Draining | Phase::Closing(_) | Phase::Stopped => {
                        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
                    }
                };
                let verbose = parts.uri.query().is_some_and(|query| query.split('&').any(|it| it == "verbose"));
                let details = if verbose { self.metrics.health() } else { String::new() };
                text(status, format!("{word}{details}"), head)
            }
            "/readyz" => {
                let (status, word) = match *self.phases.borrow() {
                    Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting: seeds are being reached\n"),
                    Phase::Ready => (StatusCode::OK, "ready\n"),
                    Phase::Draining | Phase::Closing(_) | Phase::Stopped => {
                        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
                    }
                };
                text(status, word, head)
            }
            "/metrics" => {
                let accept = parts.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
                let (encoded, kind) = if plain::wants_openmetrics(accept) {
                    (self.metrics.encode(), darter_metrics::CONTENT_TYPE)
                } else {
                    (plain::of_openmetrics(&self.metrics.encode()), plain::CONTENT_TYPE)
                };
                let mut response = text(StatusCode::OK, encoded, head);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            _ => text(StatusCode::NOT_FOUND, "nothing here: see / for what this port serves\n", head),
        }
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>, head: bool) -> Response<Body> {
    let text = text.into();
    let length = text.len();
    let mut response = Response::new(if head { empty() } else { full(text) });
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    response
}
