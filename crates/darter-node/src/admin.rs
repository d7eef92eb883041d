//! The administration socket: HTTP with JSON over a unix socket, `DATA_DIR/darter.sock`, for the `darter` command.
//! Routes and types are in [`crate::api`]. Whoever may open the socket (its owner, by file mode 0600) may do all of it.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use darter_core::{BlobId, Source};
use futures_util::StreamExt as _;
use http_body::Frame;
use http_body_util::StreamBody;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::agent::Agent;
use crate::api::{GetRequest, Problem};
use crate::error::{FetchError, StartError};

/// The header of a download's answer that names its blob.
pub const BLOB_HEADER: &str = "darter-blob";

/// The header that tells a download's length in bytes, if it is known.
pub const LENGTH_HEADER: &str = "darter-length";

/// The trailer that tells why a download ended before its end.
pub const ERROR_TRAILER: &str = "darter-error";

/// Where the socket of a data directory is.
pub fn socket_path(data_dir: &Path) -> PathBuf {
    data_dir.join("darter.sock")
}

/// Binds the socket. The caller holds the data directory's lock, so a socket found there belongs to a process that
/// ended without removing it.
pub(crate) fn bind(data_dir: &Path) -> Result<UnixListener, StartError> {
    let path = socket_path(data_dir);
    let failed = |error: io::Error| StartError::File {
        path: path.display().to_string(),
        reason: format!(
            "can't make the administration socket: {error} (the path may be too long: try another --data-dir)"
        ),
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves the socket until `stop` turns true; answers under way are finished.
pub(crate) async fn serve(agent: Agent, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let routes = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/blobs", get(blobs))
        .route("/v1/blobs/{name}", delete(remove))
        .route("/v1/explain", get(explain))
        .route("/v1/get", post(download))
        .route("/v1/progress", get(progress))
        .route("/v1/top", get(top))
        .with_state(agent);
    let stopped = async move {
        // The sender going away means the agent is gone: stop, too.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "the administration socket failed");
    }
}

async fn status(State(agent): State<Agent>) -> Response {
    Json(agent.status()).into_response()
}

async fn blobs(State(agent): State<Agent>) -> Response {
    agent.list().await.map_or_else(|error| failed(&error), |rows| Json(rows).into_response())
}

async fn remove(State(agent): State<Agent>, UrlPath(name): UrlPath<String>) -> Response {
    match agent.remove(&name).await {
        Ok(Some(_)) => StatusCode::NO_CONTENT.into_response(),
        Ok(None) => unknown(&name),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
struct ByName {
    name: String,
}

async fn explain(State(agent): State<Agent>, Query(query): Query<ByName>) -> Response {
    match agent.explain(&query.name).await {
        Some(explanation) => Json(explanation).into_response(),
        None => unknown(&query.name),
    }
}

#[derive(Deserialize)]
struct ByBlob {
    blob: String,
}

async fn progress(State(agent): State<Agent>, Query(query): Query<ByBlob>) -> Response {
    match query.blob.parse::<BlobId>().ok().and_then(|blob| agent.progress(blob)) {
        Some(progress) => Json(progress).into_response(),
        None => unknown(&query.blob),
    }
}

#[derive(Deserialize)]
struct MaybeNamed {
    name: Option<String>,
}

async fn top(State(agent): State<Agent>, Query(query): Query<MaybeNamed>) -> Response {
    agent.top(query.name.as_deref()).await.map_or_else(|error| failed(&error), |top| Json(top).into_response())
}

async fn download(State(agent): State<Agent>, Json(request): Json<GetRequest>) -> Response {
    let url = match request.url.parse() {
        Ok(url) => url,
        Err(error) => {
            let text = format!("not a URL: {:?} ({error}); write for example https://host/path", request.url);
            return problem(StatusCode::BAD_REQUEST, text);
        }
    };
    let (source, credentials) = Source::from_url(url, &request.headers, request.digest);
    let download = match agent.open(source, credentials).await {
        Ok(download) => download,
        Err(error) => return failed(&error),
    };
    let mut response = Response::builder()
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::TRAILER, ERROR_TRAILER)
        .header(BLOB_HEADER, download.blob().to_string());
    if let Some(length) = download.length() {
        response = response.header(LENGTH_HEADER, length);
    }
    // An error half-way goes into a trailer, so that whoever reads learns the reason and not only that it broke.
    let frames = download.stream(None).map(|bytes| {
        Ok::<_, Infallible>(match bytes {
            Ok(bytes) => Frame::data(bytes),
            Err(error) => Frame::trailers(error_trailer(&error)),
        })
    });
    response.body(Body::new(StreamBody::new(frames))).expect("headers of digits and letters")
}

fn error_trailer(error: &FetchError) -> HeaderMap {
    let line = error.to_string().replace(['\r', '\n'], " ");
    let value = HeaderValue::from_bytes(line.as_bytes())
        .unwrap_or_else(|_| HeaderValue::from_static("the download failed; the agent's log says why"));
    HeaderMap::from_iter([(HeaderName::from_static(ERROR_TRAILER), value)])
}

fn unknown(name: &str) -> Response {
    problem(StatusCode::NOT_FOUND, format!("no such blob on this host: {name}; `darter ls` lists those that are"))
}

fn failed(error: &FetchError) -> Response {
    problem(StatusCode::from_u16(error.http_status()).expect("a status that exists"), error.to_string())
}

fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}
