//! The administration socket: HTTP with JSON over unix sockets, `DATA_DIR/darter.sock` and those of `--socket`, for the
//! `darter` command. Routes and types are in [`darter_api`]; `handover` passes a blob's file to a program, `parts` passes ranges of one to a mount,
//! `layers` says which layers of images can be mounted.
//!
//! A socket's mode says who may open it: its owner (0600), or also a group (0660, `--socket-group`). Root and the agent's own
//! user may do everything; members of the group may download and look, but change nothing.

mod handover;
mod layers;
mod parts;
mod profiles;

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRef, FromRequestParts, Path as UrlPath, Query, Request, State};
use axum::http::request::Parts as Head;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use darter_agent::{Access, Agent, FetchError, Handing, MIN_DIGITS, Phase, StartError};
use darter_api::handover::{ORDER_HEADER, Order, PROTOCOL, READY, Sender};
use darter_api::headers::{
    BLOB_HEADER, CHANGED_TRAILER, DISPOSITION_HEADER, ERROR_TRAILER, FAULT_TRAILER, LENGTH_HEADER, MODIFIED_HEADER,
    PIECES_HEADER, RANGE_HEADER, RETRY_AFTER_TRAILER, RETRY_TRAILER, TOUCHES_HEADER, TRAFFIC_HEADER,
};
use darter_api::{BlobRequest, GetRequest, LayerRequest, Problem, Waiting};
use darter_core::fault::advice;
use darter_core::source::Credentials;
use darter_core::{Blame, Blamed as _, BlobId, Fault, Retry, Source, in_full};
use darter_store::threads;
use darter_wire::descriptors::AcceptFailures;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};

use crate::local_socket::{NotMade, listen_at};
use crate::mirror::{Mirror, Rewrites};

/// How long a program waits for the first bytes of an expanded layer, which the lead may have to read and expand first.
const LAYER_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a program waits for the first bytes of a registry's blob.
const BLOB_TIMEOUT: Duration = Duration::from_secs(120);

/// Most bytes of an error message that are passed on.
const MAX_REFUSAL: usize = 16 << 10;

const TRAILERS: &str = "darter-error, darter-changed, darter-fault, darter-retry, darter-retry-after";

/// Binds a socket that its owner and `group` may open.
pub(crate) async fn bind(path: &Path, group: Option<u32>) -> Result<UnixListener, StartError> {
    let made = {
        let path = path.to_owned();
        threads::run(move || make(&path, group)).await?
    };
    UnixListener::from_std(made).map_err(|error| not_made(path, advice(&error), Some(error)))
}

fn not_made(path: &Path, reason: &str, source: Option<io::Error>) -> StartError {
    StartError::File {
        path: path.display().to_string(),
        reason: format!("can't make the administration socket: {reason}"),
        source,
    }
}

/// Makes the socket of [`bind`]. Blocking: whether another daemon answers there is asked of it, and the rest is disk work.
fn make(path: &Path, group: Option<u32>) -> Result<std::os::unix::net::UnixListener, StartError> {
    threads::enter("admin::make");
    let failed = |reason: &str, source: Option<io::Error>| not_made(path, reason, source);
    let listener = listen_at(path).map_err(|error| {
        let reason = error.to_string();
        match error {
            NotMade::Taken => failed("another daemon answers there; stop it, or give another --socket", None),
            NotMade::TooLong(source) => {
                failed("its path is too long, give a shorter --data-dir or --socket", Some(source))
            }
            NotMade::NotASocket => failed(&reason, None),
            NotMade::Refused(source) => failed(&reason, Some(source)),
        }
    })?;
    if let Some(group) = group {
        // The group is set before its rights, so that no other group gets them.
        let for_group = || std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660));
        std::os::unix::fs::chown(path, None, Some(group)).and_then(|()| for_group()).map_err(|error| {
            let reason = format!("can't give it to the group {group} (--socket-group), be a member of it, or root");
            failed(&reason, Some(error))
        })?;
    }
    Ok(listener)
}

/// A unix socket whose failures to accept are logged once each.
struct PatientListener {
    listener: UnixListener,
    failures: AcceptFailures,
}

impl PatientListener {
    const fn new(listener: UnixListener) -> Self {
        Self { listener, failures: AcceptFailures::new("the administration socket") }
    }
}

impl axum::serve::Listener for PatientListener {
    type Io = UnixStream;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.failures.succeeded();
                    return accepted;
                }
                Err(error) => tokio::time::sleep(self.failures.failed(&error)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The user that opened a connection.
#[derive(Clone, Copy, Debug)]
struct Caller {
    /// `None` if the kernel does not know it.
    user: Option<u32>,
}

impl Connected<IncomingStream<'_, PatientListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, PatientListener>) -> Self {
        Self { user: stream.io().peer_cred().ok().map(|peer| peer.uid()) }
    }
}

/// True if a user that could open the socket may make this request.
fn may(user: Option<u32>, agent: u32, method: &Method, path: &str) -> bool {
    is_trusted(user, agent) || method == Method::GET || matches!(path, "/v1/get" | "/v1/parts" | "/v1/waiting")
}

/// True if `user` is root, or the user that the agent runs as.
fn is_trusted(user: Option<u32>, agent: u32) -> bool {
    user.is_some_and(|user| user == 0 || user == agent)
}

impl Caller {
    fn is_trusted(self) -> bool {
        is_trusted(self.user, rustix::process::geteuid().as_raw())
    }
}

async fn guard(ConnectInfo(caller): ConnectInfo<Caller>, request: Request, next: Next) -> Response {
    let agent = rustix::process::geteuid().as_raw();
    if may(caller.user, agent, request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    problem(StatusCode::FORBIDDEN, "only root and the user that the daemon runs as may change what it keeps")
}

/// Serves a socket until the agent stops; answers under way are finished.
pub(crate) async fn serve(agent: Agent, mirror: Option<Arc<Mirror>>, listener: UnixListener, path: PathBuf) {
    let mut phases = agent.phases();
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/blobs", get(blobs))
        .route("/v1/blobs/{name}", delete(remove))
        .route("/v1/blobs/{name}/pin", put(pin).delete(unpin))
        .route("/v1/explain", get(explain))
        .route("/v1/get", post(download))
        .route("/v1/parts", post(open_parts))
        .route("/v1/layers", put(layers::name))
        .route("/v1/layers/engine", put(layers::name_for_engine))
        .route("/v1/layers/changes", post(layers::watch))
        .route("/v1/layers/{diff_id}", post(layers::look_up))
        .route("/v1/chains/{chain_id}", post(layers::look_up_chain))
        .route("/v1/layers/{diff_id}/profile", get(profiles::profile).put(profiles::pin).delete(profiles::unpin))
        .route("/v1/waiting", post(waiting))
        .route("/v1/progress", get(progress))
        .route("/v1/top", get(top))
        .layer(middleware::from_fn(guard))
        .layer(middleware::map_response(as_problem))
        .with_state(Served { agent, mirror })
        .into_make_service_with_connect_info::<Caller>();
    let stopped = async move {
        // If the sender has gone, the agent has, too: stop.
        let _ = phases.wait_for(|phase| *phase == Phase::Stopped).await;
        // It is no error if the file was removed before.
        let _ = threads::run(move || std::fs::remove_file(&path)).await;
    };
    if let Err(error) = axum::serve(PatientListener::new(listener), routes).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the administration socket failed");
    }
}

/// What the handlers of requests work on.
#[derive(Clone)]
struct Served {
    agent: Agent,
    /// `None` if the agent has no mirror.
    mirror: Option<Arc<Mirror>>,
}

impl FromRef<Served> for Agent {
    fn from_ref(served: &Served) -> Self {
        served.agent.clone()
    }
}

impl FromRef<Served> for Option<Arc<Mirror>> {
    fn from_ref(served: &Served) -> Self {
        served.mirror.clone()
    }
}

async fn status(State(agent): State<Agent>) -> Response {
    told(&agent.status())
}

async fn blobs(State(agent): State<Agent>) -> Response {
    agent.list().await.map_or_else(|error| failed(&agent, &error), |rows| told(&rows))
}

async fn remove(State(agent): State<Agent>, UrlPath(name): UrlPath<String>) -> Response {
    match agent.remove(&name).await {
        Ok(None) => unknown(&name),
        Ok(Some(_)) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failed(&agent, &error),
    }
}

async fn pin(State(agent): State<Agent>, UrlPath(name): UrlPath<String>) -> Response {
    set_pinned(&agent, &name, true).await
}

async fn unpin(State(agent): State<Agent>, UrlPath(name): UrlPath<String>) -> Response {
    set_pinned(&agent, &name, false).await
}

async fn set_pinned(agent: &Agent, name: &str, pinned: bool) -> Response {
    match agent.pin(name, pinned).await {
        Ok(pinned) if pinned.is_empty() => unknown(name),
        Ok(_) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => failed(agent, &error),
    }
}

#[derive(Deserialize)]
struct ByName {
    name: String,
}

async fn explain(State(agent): State<Agent>, Query(query): Query<ByName>) -> Response {
    match agent.explain_named(&query.name).await {
        Ok(Some(explained)) => told(&explained),
        Ok(None) => unknown(&query.name),
        Err(error) => failed(&agent, &error),
    }
}

#[derive(Deserialize)]
struct ByBlob {
    blob: String,
}

async fn progress(State(agent): State<Agent>, Query(query): Query<ByBlob>) -> Response {
    match query.blob.parse::<BlobId>().ok().and_then(|blob| agent.progress(blob)) {
        Some(progress) => told(&progress),
        None => unknown(&query.blob),
    }
}

#[derive(Deserialize)]
struct MaybeNamed {
    name: Option<String>,
}

async fn top(State(agent): State<Agent>, Query(query): Query<MaybeNamed>) -> Response {
    agent.top(query.name.as_deref()).await.map_or_else(|error| failed(&agent, &error), |top| told(&top))
}

/// A caller's request to switch protocols and be given the blob's file, or ranges of it: see [`handover`](darter_api::handover) and
/// [`parts`](darter_api::parts).
struct Upgrade {
    to: Option<OnUpgrade>,
    /// The order in which the caller wants the ranges, if it says so.
    order: Option<Order>,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Head, _: &S) -> Result<Self, Infallible> {
        let protocols = [PROTOCOL, darter_api::parts::PROTOCOL, darter_api::changes::PROTOCOL];
        let wanted =
            head.headers.get(header::UPGRADE).is_some_and(|value| protocols.iter().any(|known| value == known));
        let order = head.headers.get(ORDER_HEADER).and_then(|value| Order::named(value.as_bytes()));
        Ok(Self { to: head.extensions.remove::<OnUpgrade>().filter(|_| wanted), order })
    }
}

async fn download(State(agent): State<Agent>, upgrade: Upgrade, Json(request): Json<GetRequest>) -> Response {
    let (source, credentials) = match source_of(&agent, &request) {
        Ok(named) => named,
        Err(refusal) => return refusal,
    };
    let disposition = if request.disposition { agent.disposition(&source, &credentials).await } else { None };
    let opened = match request.range {
        Some(span) => agent.open_span(source, credentials, span).await.map(|(download, range)| (download, Some(range))),
        None => agent.open(source, credentials).await.map(|download| (download, None)),
    };
    let (download, range) = match opened {
        Ok(opened) => opened,
        Err(error) => return failed(&agent, &error),
    };
    let before = serde_json::to_string(&download.traffic_before()).expect("numbers are JSON");
    let mut response =
        Response::builder().header(BLOB_HEADER, download.blob().to_string()).header(TRAFFIC_HEADER, before);
    if let Some(length) = download.length() {
        response = response.header(LENGTH_HEADER, length);
        if let Some(range) = range {
            response = response.header(RANGE_HEADER, format!("{}-{}/{length}", range.start(), range.end() - 1));
        }
    }
    let texts = [(MODIFIED_HEADER, download.version().last_modified), (DISPOSITION_HEADER, disposition)];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
            response = response.header(name, value);
        }
    }
    if let (Upgrade { to: Some(upgrade), order }, None) = (upgrade, range) {
        // Reading begins here, so that a daemon that shuts down waits for this download.
        let failing = agent.clone();
        let parts = download.hand_on(order.unwrap_or(Order::InOrder));
        let parts = parts.inspect_err(move |error| failing.failed(error)).boxed();
        agent.background(hand_over(upgrade, parts, order.is_some()));
        let mut switching = response.status(StatusCode::SWITCHING_PROTOCOLS);
        if let Some(order) = order {
            switching = switching.header(ORDER_HEADER, order.name());
        }
        let headers = switching.header(header::CONNECTION, "upgrade").header(header::UPGRADE, PROTOCOL);
        return headers.body(Body::empty()).expect("headers of digits and letters");
    }
    // An error half-way goes into a trailer, so that the reader learns the reason and not only that the body is incomplete.
    let bytes = range.map_or_else(|| download.stream(None), |range| download.bytes_of(range));
    let frames = bytes.map(move |bytes| {
        Ok::<_, Infallible>(match bytes {
            Ok(bytes) => Frame::data(bytes),
            Err(error) => {
                agent.failed(&error);
                Frame::trailers(error_trailer(&error))
            }
        })
    });
    let response = response.header(header::CONTENT_TYPE, "application/octet-stream").header(header::TRAILER, TRAILERS);
    response.body(Body::new(StreamBody::new(frames))).expect("headers of digits and letters")
}

/// The source that a request names, and the credentials for it.
#[expect(clippy::result_large_err, reason = "the refusal is answered at once")]
fn source_of(agent: &Agent, request: &GetRequest) -> Result<(Source, Credentials), Response> {
    let url = request.url.parse().map_err(|error| {
        let text = format!("not a URL: {:?} ({error}); write for example https://host/path", request.url);
        problem(StatusCode::BAD_REQUEST, &text)
    })?;
    Ok(Source::from_signed_url(url, &request.headers, request.digest, agent.signed_parameters()))
}

/// Translates a layer's repository to its name at the registry: programs send the name that they use at the mirror.
fn at_its_registry(agent: &Agent, layer: LayerRequest) -> LayerRequest {
    let rewrites = Rewrites::from(agent.options().upstreams.as_slice());
    let repository = rewrites.apply(&layer.registry, layer.repository.clone());
    LayerRequest { repository, ..layer }
}

/// A layer as its caller describes it. A length would show that a registry's answer is about this layer, and so open what is here; only a trusted caller's
/// length is taken.
fn as_believed(layer: &LayerRequest, is_trusted: bool) -> LayerRequest {
    LayerRequest { size: layer.size.filter(|_| is_trusted), ..layer.clone() }
}

/// Opens a blob for a program that reads ranges of it.
async fn open_parts(
    State(Served { agent, mirror }): State<Served>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    upgrade: Upgrade,
    Json(request): Json<GetRequest>,
) -> Response {
    let Some(upgrade) = upgrade.to else {
        return problem(StatusCode::UPGRADE_REQUIRED, "send Connection: upgrade and Upgrade: darter-parts");
    };
    let (source, credentials) = match source_of(&agent, &request) {
        Ok(named) => named,
        Err(refusal) => return refusal,
    };
    let opened = async {
        // The mirror, if it has given out the layer that is opened.
        let mut given = None;
        let download = match &request.layer {
            Some(layer) => {
                given = mirror.filter(|mirror| mirror.may_open(layer, &credentials, caller.is_trusted()));
                let access = if given.is_some() { Access::Granted } else { Access::Asked };
                let layer = at_its_registry(&agent, as_believed(layer, caller.is_trusted()));
                agent.expanded(&layer, credentials, access, LAYER_TIMEOUT).await?
            }
            None => match &request.blob {
                Some(blob) => {
                    let rewrites = Rewrites::from(agent.options().upstreams.as_slice());
                    let repository = rewrites.apply(&blob.registry, blob.repository.clone());
                    let blob = BlobRequest { repository, ..blob.clone() };
                    agent.registry_blob(&blob, credentials, BLOB_TIMEOUT).await?
                }
                None => agent.open_parts(source, credentials).await?,
            },
        };
        let length = download.length_when_known().await?;
        if let (Some(mirror), Some(layer)) = (given, &request.layer) {
            agent.background(mirror.layer_opened(layer.diff_id));
        }
        Ok((download, length))
    };
    let (download, length) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return failed(&agent, &error),
    };
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, darter_api::parts::PROTOCOL)
        .header(BLOB_HEADER, download.blob().to_string())
        .header(LENGTH_HEADER, length)
        .header(PIECES_HEADER, u16::from(download.piece_length().log2()));
    let modified = download.version().last_modified;
    if let Some(value) = modified.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok()) {
        response = response.header(MODIFIED_HEADER, value);
    }
    if !agent.keeps_profiles() {
        response = response.header(TOUCHES_HEADER, "none");
    }
    let serving = agent.clone();
    agent.background(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(connection) = upgrade::downcast::<TokioIo<UnixStream>>(upgraded) else {
            tracing::error!("a connection of another kind was upgraded");
            return;
        };
        // The mount sends nothing before this answer.
        if let Err(error) = parts::serve(connection.io.into_inner(), download, serving, request.again).await {
            tracing::debug!(%error, "a mount closed its connection");
        }
    });
    response.body(Body::empty()).expect("headers of digits and letters")
}

/// The origin that an equal download is waiting for, which has not begun yet; `null` if it does not wait.
async fn waiting(State(agent): State<Agent>, Json(request): Json<GetRequest>) -> Response {
    let Ok(url) = request.url.parse() else { return told(&None::<Waiting>) };
    let (source, _) = Source::from_signed_url(url, &request.headers, request.digest, agent.signed_parameters());
    told(&agent.waiting(&source))
}

/// Sends a download over the upgraded connection. It ends when the caller closes the connection.
async fn hand_over(upgrade: OnUpgrade, parts: BoxStream<'static, Result<Handing, FetchError>>, tells: bool) {
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(connection) = upgrade::downcast::<TokioIo<UnixStream>>(upgraded) else {
        tracing::error!("a connection of another kind was upgraded");
        return;
    };
    let mut stream = connection.io.into_inner();
    let ready = match connection.read_buf.first() {
        Some(byte) => *byte,
        None => match stream.read_u8().await {
            Ok(byte) => byte,
            Err(_) => return,
        },
    };
    if ready != READY {
        return;
    }
    if let Err(error) = handover::send(Sender::new(stream, tells), parts).await {
        tracing::debug!(%error, "a program that was given a file closed its connection");
    }
}

fn error_trailer(error: &FetchError) -> HeaderMap {
    let line = in_full(error).to_string().replace(['\r', '\n'], " ");
    let value = HeaderValue::from_bytes(line.as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("the download failed; the agent's log says why"));
    let Blame { fault, retry } = error.blame();
    let named = HeaderName::from_static;
    let mut trailers = HeaderMap::from_iter([
        (named(ERROR_TRAILER), value),
        (named(FAULT_TRAILER), HeaderValue::from_static(fault.name())),
        (named(RETRY_TRAILER), HeaderValue::from_static(retry.name())),
    ]);
    trailers.extend(retry.after().map(|wait| (named(RETRY_AFTER_TRAILER), wait.as_secs().into())));
    trailers.extend(error.is_changed().then(|| (named(CHANGED_TRAILER), HeaderValue::from_static("1"))));
    trailers
}

fn told(value: &impl Serialize) -> Response {
    Json(value).into_response()
}

fn unknown(name: &str) -> Response {
    let few_digits = name.len() < MIN_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let advice = if few_digits {
        format!("write at least {MIN_DIGITS} digits of an id or a digest")
    } else {
        "`darter ls` lists those that are".to_owned()
    };
    problem(StatusCode::NOT_FOUND, &format!("no such blob on this host: {name}; {advice}"))
}

fn failed(agent: &Agent, error: &FetchError) -> Response {
    agent.failed(error);
    let told = Problem::new(in_full(error).to_string(), error.blame());
    (error.http_status(), Json(told)).into_response()
}

/// Turns the router's own refusals (no such path, another method, a body or a query that can't be read) into problems.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_told = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if is_told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let said = axum::body::to_bytes(body, MAX_REFUSAL).await.unwrap_or_default();
    let mut refusal = match (status, String::from_utf8_lossy(&said).trim()) {
        (StatusCode::NOT_FOUND, "") => problem(status, "there is no such path: docs/api.md lists all"),
        (StatusCode::METHOD_NOT_ALLOWED, "") => problem(status, "this path needs another method: see the header Allow"),
        (_, "") => problem(status, status.canonical_reason().unwrap_or("refused")),
        (_, said) => problem(status, &said.replace('\n', " ")),
    };
    if let Some(methods) = head.headers.remove(header::ALLOW) {
        refusal.headers_mut().insert(header::ALLOW, methods);
    }
    refusal
}

/// The answer to a request that is malformed, or that this caller may not make.
fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(Problem::new(error, Blame::new(Fault::User, Retry::Never)))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_group_may_download_and_look_and_change_nothing() {
        let (agent, member) = (990, Some(1000));
        for user in [Some(0), Some(agent)] {
            assert!(may(user, agent, &Method::DELETE, "/v1/blobs/x"), "{user:?}");
        }
        assert!(may(member, agent, &Method::POST, "/v1/get"));
        assert!(may(member, agent, &Method::POST, "/v1/parts"));
        assert!(may(member, agent, &Method::GET, "/v1/status"));
        for user in [member, None] {
            assert!(!may(user, agent, &Method::DELETE, "/v1/blobs/x"), "{user:?}");
            assert!(!may(user, agent, &Method::POST, "/v1/anything"), "{user:?}");
            for path in ["/v1/layers/sha256:0", "/v1/chains/sha256:0"] {
                assert!(!may(user, agent, &Method::POST, path), "it tells credentials");
            }
            for path in ["/v1/layers", "/v1/layers/engine"] {
                assert!(!may(user, agent, &Method::PUT, path), "{user:?}");
            }
        }
    }

    #[test]
    fn how_long_a_layer_is_is_believed_of_those_alone_who_may_have_it_anyway() {
        let digest = darter_core::Digest::sha256(b"layer");
        let (registry, repository) = ("lab".to_owned(), "app".to_owned());
        let layer = LayerRequest { registry, repository, digest, size: Some(7), media_type: None, diff_id: digest };
        assert_eq!(as_believed(&layer, true), layer);
        assert_eq!(as_believed(&layer, false), LayerRequest { size: None, ..layer });
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_or_a_groups_and_a_living_daemons_is_left_alone() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("run/darter.sock");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let own = rustix::process::getegid().as_raw();
        let first = bind(&path, None).await.unwrap();
        assert_eq!(mode(), 0o600);
        let told = bind(&path, None).await.unwrap_err().to_string();
        assert!(told.contains("another daemon answers there"), "{told}");
        drop(first);
        let _second = bind(&path, Some(own)).await.unwrap();
        assert_eq!(mode(), 0o660);
    }
}
