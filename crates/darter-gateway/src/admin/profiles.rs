//! Shows and pins profiles, which list the parts of layers that are read first, with the types of [`profile`](darter_api::profile).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use darter_agent::Agent;
use darter_api::profile::PinnedProfile;
use darter_core::{ByteRange, Digest};

use super::{failed, problem, told};

pub(super) async fn profile(State(agent): State<Agent>, Path(diff_id): Path<String>) -> Response {
    let Ok(diff_id) = diff_id.parse() else { return no_diff_id(&diff_id) };
    if !agent.keeps_profiles() {
        return switched_off();
    }
    match agent.layer_profile(diff_id).await {
        Ok(profile) => told(&profile),
        Err(error) => failed(&agent, &error),
    }
}

pub(super) async fn pin(
    State(agent): State<Agent>,
    Path(diff_id): Path<String>,
    Json(pinned): Json<PinnedProfile>,
) -> Response {
    let ranges = pinned.ranges.iter().filter(|(start, end)| start < end);
    let ranges: Vec<_> = ranges.map(|(start, end)| ByteRange::new(*start, *end)).collect();
    set_pinned(&agent, &diff_id, Some(&ranges)).await
}

pub(super) async fn unpin(State(agent): State<Agent>, Path(diff_id): Path<String>) -> Response {
    set_pinned(&agent, &diff_id, None).await
}

async fn set_pinned(agent: &Agent, text: &str, ranges: Option<&[ByteRange]>) -> Response {
    let Ok(diff_id) = text.parse::<Digest>() else { return no_diff_id(text) };
    if !agent.keeps_profiles() {
        return switched_off();
    }
    match agent.pin_layer_profile(diff_id, ranges).await {
        Ok(true) => StatusCode::NO_CONTENT.into_response(),
        Ok(false) => {
            let text = format!("nothing of the layer {diff_id} is on this host: mount or start its image here first");
            problem(StatusCode::NOT_FOUND, &text)
        }
        Err(error) => failed(agent, &error),
    }
}

fn switched_off() -> Response {
    problem(StatusCode::CONFLICT, "this agent keeps no profiles: it runs with --lazy-profiles=false")
}

fn no_diff_id(text: &str) -> Response {
    let text = format!("not a diff id: {text:?}; write it as an image's configuration does, as sha256:…");
    problem(StatusCode::BAD_REQUEST, &text)
}
