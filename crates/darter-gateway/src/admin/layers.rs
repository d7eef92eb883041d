//! Says which layers of images can be mounted, as [`layers`](darter_api::layers) has it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use darter_api::layers::{BEAT, FoundLayer, LayerAnswer};
use darter_core::Digest;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, stream};

use super::problem;
use crate::mirror::{LayerFound, Mirror};

pub(super) async fn look_up(State(mirror): State<Option<Arc<Mirror>>>, Path(diff_id): Path<String>) -> Response {
    let Ok(diff_id) = diff_id.parse::<Digest>() else {
        let text = format!("not a diff id: {diff_id:?}; write it as an image's configuration does, as sha256:…");
        return problem(StatusCode::BAD_REQUEST, &text);
    };
    let looking: BoxFuture<'static, LayerFound> = match mirror {
        Some(mirror) => async move { mirror.layer(diff_id).await }.boxed(),
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
        LayerFound::Found(found) => LayerAnswer::Found(Box::new(FoundLayer {
            length_bytes: found.length,
            held_bytes: found.held,
            file: found.file,
            layer: found.layer,
            headers: found.credentials.headers,
        })),
    };
    // It has nothing that can't be written so.
    serde_json::to_vec(&answer).unwrap_or_default()
}
