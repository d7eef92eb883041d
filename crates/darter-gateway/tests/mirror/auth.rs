//! Credentials: which of them open what.

use bytes::Bytes;
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

/// A gateway shows a login page, or an error, with a status of success to whoever it does not know: also by redirect, and where
/// the registry names no digest, as those don't whose blobs lie in a store behind another redirect.
#[tokio::test]
async fn a_login_page_in_the_place_of_a_refusal_opens_nothing() {
    let pages: [(&str, Bytes); 5] = [
        ("text/html; charset=utf-8", "<!doctype html><title>Log in</title>".into()),
        ("Text/HTML", "".into()),
        ("application/json", r#"{"error":"log in first"}"#.into()),
        ("application/json", r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#.into()),
        // As long as the layer.
        ("application/octet-stream", "log in".into()),
    ];
    for page in pages {
        for bare in [false, true] {
            let Private { world, manifest, layer } = private().await;
            {
                let mut state = world.registry.state.lock();
                (state.gateway, state.no_digest_header) = (Some(page.clone()), bare);
            }
            let tags = "/v2/private/app/tags/list".to_owned();
            for path in [&tags, "/v2/private/app/manifests/1", &manifest, &layer, &tags, &manifest, &layer] {
                for caller in [&[("authorization", BOB)][..], &[]] {
                    for method in [Method::HEAD, Method::GET] {
                        let got = world.send(method.clone(), path, caller).await;
                        let is_given = got.body.as_ref() == b"secret" || got.body.starts_with(b"{\"config");
                        assert!(!is_given, "{method} {path} {page:?}");
                        assert!(
                            path.ends_with("/tags/list")
                                || method == Method::HEAD
                                || got.status != 200
                                || got.body == page.1
                        );
                    }
                }
            }
            // And hers is as it was.
            assert_eq!(world.get_as(ALICE, &layer).await.body.as_ref(), b"secret");
            assert_eq!(world.get_as(ALICE, &manifest).await.status, 200);
            world.clock.pass(GRANT_TTL);
            for method in [Method::HEAD, Method::GET] {
                let got = world.send(method, &layer, &[("authorization", ALICE)]).await;
                assert_eq!((got.status.as_u16(), got.header("content-length")), (200, "6"));
            }
        }
    }
}

#[tokio::test]
async fn a_registry_that_names_no_digest_of_blobs_shows_their_first_bytes_to_who_is_new() {
    let Private { world, layer, .. } = private().await;
    world.registry.state.lock().no_digest_header = true;
    world.registry.allow(BOB, "private/app");
    for no_ranges in [false, true] {
        world.registry.state.lock().no_ranges = no_ranges;
        for range in [None, Some(("range", "bytes=2-3"))] {
            let headers: Vec<_> = [("authorization", BOB)].into_iter().chain(range).collect();
            let got = world.send(Method::GET, &layer, &headers).await;
            assert_eq!(got.body.as_ref(), if range.is_some() { &b"cr"[..] } else { b"secret" });
        }
        assert_eq!(world.registry.asked(), [format!("HEAD {layer}"), format!("GET {layer}")]);
        world.clock.pass(GRANT_TTL);
    }
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
