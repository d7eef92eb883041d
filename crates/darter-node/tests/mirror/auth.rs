//! Whose credentials open what.

use http::Method;

use crate::registry::MANIFEST;
use crate::world::{GRANT_TTL, World, world};

const ALICE: &str = "Bearer alice";
const BOB: &str = "Bearer bob";

struct Private {
    world: World,
    manifest: String,
    layer: String,
}

/// Alice has pulled `private/app`, so that all of it is cached. Bob may read `public/app` only.
async fn private() -> Private {
    let world = world().await;
    let (image, [_, layer]) = world.registry.put_image("private/app", Some("1"), b"secret");
    world.registry.put_image("public/app", Some("1"), b"open to all");
    world.registry.allow(ALICE, "private/app");
    world.registry.allow(BOB, "public/app");
    world.agent.hold(&b"secret"[..]);
    let (manifest, layer) = (format!("/v2/private/app/manifests/{image}"), format!("/v2/private/app/blobs/{layer}"));
    assert_eq!(world.get_as(ALICE, "/v2/private/app/manifests/1").await.status, 200);
    for path in [&manifest, &layer] {
        assert_eq!(world.get_as(ALICE, path).await.status, 200);
    }
    world.registry.asked();
    Private { world, manifest, layer }
}

#[tokio::test]
async fn a_caller_without_rights_gets_the_upstreams_401_and_no_byte_of_what_is_cached() {
    let Private { world, manifest, layer } = private().await;
    assert_eq!(world.get_as(BOB, "/v2/public/app/manifests/1").await.status, 200);
    let opens = world.agent.opens();
    for path in ["/v2/private/app/manifests/1", &manifest, &layer] {
        let bob = world.get_as(BOB, path).await;
        assert_eq!(bob.error(), (401, "UNAUTHORIZED".into()), "{path}");
        assert_eq!(bob.header("www-authenticate"), r#"Basic realm="lab""#);
        assert_eq!(world.get(path).await.error(), (401, "UNAUTHORIZED".into()), "{path}, without credentials");
        let head = world.send(Method::HEAD, path, &[("authorization", BOB)]).await;
        assert_eq!((head.status.as_u16(), head.header("docker-content-digest")), (401, ""));
    }
    assert_eq!(world.agent.opens(), opens);
    assert!(world.registry.asked().len() >= 9, "each was asked for upstream");
}

#[tokio::test]
async fn a_digest_does_not_open_through_a_repository_that_lacks_it() {
    let Private { world, layer, .. } = private().await;
    assert_eq!(world.get_as(BOB, "/v2/public/app/manifests/1").await.status, 200);
    let through_public = layer.replace("private", "public");
    assert_eq!(world.get_as(BOB, &through_public).await.error(), (404, "BLOB_UNKNOWN".into()));
}

#[tokio::test]
async fn a_yes_is_believed_for_its_time_and_then_asked_for_again() {
    let Private { world, layer, .. } = private().await;
    assert_eq!(world.get_as(ALICE, &layer).await.status, 200);
    assert_eq!(world.registry.asked(), [""; 0]);
    world.clock.pass(GRANT_TTL);
    assert_eq!(world.get_as(ALICE, &layer).await.status, 200);
    assert_eq!(world.registry.asked(), [format!("HEAD {layer}")]);
    world.registry.state.lock().rights.remove(ALICE);
    assert_eq!(world.get_as(ALICE, &layer).await.status, 200);
    world.clock.pass(GRANT_TTL);
    assert_eq!(world.get_as(ALICE, &layer).await.status, 401);
    assert!(world.counted(r#"darter_mirror_access_checks_total{result="granted"} 1"#));
}

#[tokio::test]
async fn a_refused_tag_ends_the_callers_grant() {
    let Private { world, layer, .. } = private().await;
    world.registry.state.lock().rights.remove(ALICE);
    assert_eq!(world.get_as(ALICE, "/v2/private/app/manifests/1").await.status, 401);
    assert_eq!(world.get_as(ALICE, &layer).await.status, 401);
}

#[tokio::test]
async fn the_agent_reads_with_the_callers_own_credentials_and_nothing_else_is_passed_on() {
    let Private { world, layer, .. } = private().await;
    let headers = [("authorization", ALICE), ("cookie", "session=1"), ("x-other", "2")];
    world.send(Method::GET, &layer, &headers).await;
    let (source, credentials) = world.agent.0.lock().opened.last().unwrap().clone();
    assert_eq!(source.to_string().split('@').next().unwrap(), format!("{}/private/app", world.registry.name()));
    assert_eq!(credentials.headers, [("authorization".to_owned(), ALICE.to_owned())]);
    world.send(Method::GET, "/v2/private/app/manifests/1", &headers).await;
    let seen = world.registry.state.lock().seen.last().unwrap().clone();
    assert_eq!(seen.headers["authorization"], ALICE);
    assert!(!seen.headers.contains_key("cookie") && !seen.headers.contains_key("x-other"));
}

#[tokio::test]
async fn an_engine_does_its_token_dance_through_the_mirror() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    world.registry.allow("Bearer alice", "app");
    world.registry.state.lock().realm = Some(format!("http://{}/token", world.registry.address));
    let refused = world.get("/v2/app/manifests/1").await;
    assert_eq!(refused.error(), (401, "UNAUTHORIZED".into()));
    let challenge = refused.header("www-authenticate");
    assert!(challenge.contains(r#"scope="repository:app:pull""#), "{challenge}");
    let realm = challenge.split('"').nth(1).unwrap();
    let answer = world.client.get(realm).header("authorization", "Basic alice").send().await.unwrap();
    let token: serde_json::Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let got = world.get_as(&bearer, "/v2/app/manifests/1").await;
    assert_eq!((got.status.as_u16(), got.header("content-type")), (200, MANIFEST));
}

#[tokio::test]
async fn a_ping_is_answered_by_the_mirror_itself() {
    let Private { world, .. } = private().await;
    for path in ["/v2/".to_owned(), "/v2".to_owned(), format!("/v2/?ns={}", world.registry.name())] {
        assert_eq!(world.get(&path).await.status, 200);
    }
    assert_eq!(world.registry.asked(), [""; 0]);
}
