//! Says which layers of images can be mounted, with the types of [`layers`](darter_api::layers).

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use darter_api::changes::PROTOCOL;
use darter_api::layers::{BEAT, BESIDE, FoundLayer, LayerAnswer, NamedAnswer, NamedLayers, Namer};
use darter_core::Digest;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, stream};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto::upgrade;
use tokio::net::UnixStream;

use super::{Served, Upgrade, problem};
use crate::mirror::{self, Beside, LayerFound, Mirror};

pub(super) async fn look_up(
    State(mirror): State<Option<Arc<Mirror>>>,
    Path(diff_id): Path<String>,
    uri: Uri,
) -> Response {
    let beside = if uri.query() == Some(BESIDE) { Beside::All } else { Beside::None };
    match diff_id.parse::<Digest>() {
        Ok(diff_id) => told(mirror, move |mirror| async move { mirror.layer(diff_id, beside).await }.boxed()),
        Err(_) => refused("diff id", &diff_id),
    }
}

pub(super) async fn look_up_chain(State(mirror): State<Option<Arc<Mirror>>>, Path(chain): Path<String>) -> Response {
    match chain.parse::<Digest>() {
        Ok(chain) => told(mirror, move |mirror| async move { mirror.uppermost_layer(chain).await }.boxed()),
        Err(_) => refused("chain id", &chain),
    }
}

/// Notifies a client whenever earlier answers about layers may have become wrong.
pub(super) async fn watch(State(Served { agent, mirror }): State<Served>, upgrade: Upgrade) -> Response {
    let Some(upgrade) = upgrade.to else {
        return problem(StatusCode::UPGRADE_REQUIRED, "send Connection: upgrade and Upgrade: darter-changes");
    };
    let Some(mirror) = mirror.filter(|mirror| mirror.has_layers()) else {
        return problem(StatusCode::NOT_FOUND, "this agent has no directory for layers (--lazy-dir)");
    };
    agent.background(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(connection) = upgrade::downcast::<TokioIo<UnixStream>>(upgraded) else {
            tracing::error!("a connection of another kind was upgraded");
            return;
        };
        match connection.io.into_inner().into_std() {
            Ok(connection) => mirror.watch_layers(connection),
            Err(error) => tracing::warn!(%error, "a connection could not be taken over"),
        }
    });
    let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let headers = switching.header(header::CONNECTION, "upgrade").header(header::UPGRADE, PROTOCOL);
    headers.body(Body::empty()).expect("headers of letters")
}

/// Notes which layers the snapshots of Darter's snapshotter name.
pub(super) async fn name(State(mirror): State<Option<Arc<Mirror>>>, Json(told): Json<NamedLayers>) -> Response {
    note_named(mirror, Namer::Snapshotter, told).await
}

/// Notes which layers the snapshots of an engine name.
pub(super) async fn name_for_engine(
    State(mirror): State<Option<Arc<Mirror>>>,
    Json(told): Json<NamedLayers>,
) -> Response {
    note_named(mirror, Namer::Engine, told).await
}

async fn note_named(mirror: Option<Arc<Mirror>>, namer: Namer, told: NamedLayers) -> Response {
    let named = told.named.into_iter().collect();
    let unknown = match mirror {
        Some(mirror) => mirror.layers_named(namer, &named).await,
        None => named.into_iter().collect(),
    };
    Json(NamedAnswer { unknown }).into_response()
}

fn refused(what: &str, text: &str) -> Response {
    let text = format!("not a {what}: {text:?}; write it as an image's configuration writes diff ids, as sha256:…");
    problem(StatusCode::BAD_REQUEST, &text)
}

fn told(mirror: Option<Arc<Mirror>>, look: impl FnOnce(Arc<Mirror>) -> BoxFuture<'static, LayerFound>) -> Response {
    let looking = match mirror {
        Some(mirror) => look(mirror),
        None => std::future::ready(LayerFound::Miss("this agent has no registry mirror")).boxed(),
    };
    let beats = stream::unfold(Some(looking), |looking| async move {
        let mut looking = looking?;
        Some(match tokio::time::timeout(BEAT, &mut looking).await {
            Ok(found) => (Bytes::from(answer(found)), None),
            Err(_) => (Bytes::from_static(b"\n"), Some(looking)),
        })
    });
    let body = Body::from_stream(futures_util::StreamExt::map(beats, Ok::<_, Infallible>));
    let response = Response::builder().header(header::CONTENT_TYPE, "application/json").body(body);
    response.expect("a header of letters")
}

fn answer(found: LayerFound) -> Vec<u8> {
    let answer = match found {
        LayerFound::Miss(reason) => LayerAnswer::Miss { reason: reason.to_owned() },
        LayerFound::Found(found) => LayerAnswer::Found(Box::new(told_of(*found))),
    };
    // The answer has no value that JSON can't express.
    serde_json::to_vec(&answer).unwrap_or_default()
}

fn told_of(found: mirror::FoundLayer) -> FoundLayer {
    FoundLayer {
        length_bytes: found.length,
        held_bytes: found.held,
        file: found.file,
        layer: found.layer,
        headers: found.credentials.headers,
        beside: found.beside.into_iter().map(told_of).collect(),
    }
}
