//! Headers of a registry that tell something besides what was asked for.

use http::{Method, StatusCode};

use crate::world::world;

#[tokio::test]
async fn warnings_and_limits_come_with_blobs_manifests_lists_and_errors() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    world.registry.state.lock().besides = vec![
        ("warning", "299 - \"this image moves to lab/app\"".into()),
        ("ratelimit-remaining", "76;w=21600".into()),
        ("docker-ratelimit-source", "192.0.2.1".into()),
        ("set-cookie", "session=1".into()),
    ];
    // The second time the tag is asked for by HEAD, and the manifest comes from the cache.
    let blob = format!("/v2/app/blobs/{}", darter_core::Digest::sha256(b"layer"));
    world.agent.hold(&b"layer"[..]);
    for path in [&*blob, "/v2/app/manifests/1", "/v2/app/manifests/1", "/v2/app/tags/list", "/v2/app/manifests/2"] {
        let got = world.get(path).await;
        assert_eq!(got.header("warning"), "299 - \"this image moves to lab/app\"", "{path}");
        assert_eq!(got.header("ratelimit-remaining"), "76;w=21600", "{path}");
        assert_eq!(got.header("docker-ratelimit-source"), "192.0.2.1", "{path}");
        assert_eq!(got.header("set-cookie"), "");
    }
}

#[tokio::test]
async fn a_registrys_own_words_of_a_refusal_are_the_same_each_time() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    assert_eq!(world.get("/v2/app/manifests/1").await.status, 200);
    world.registry.state.lock().repositories.get_mut("app").unwrap().tags.clear();
    for _ in 0..2 {
        let got = world.get("/v2/app/manifests/1").await;
        assert_eq!(got.error(), (404, "MANIFEST_UNKNOWN".into()));
        assert!(String::from_utf8_lossy(&got.body).contains("in the registry's own words"));
    }
    let blob = format!("/v2/app/blobs/{}", darter_core::Digest::sha256(b"absent"));
    let got = world.get(&blob).await;
    assert!(String::from_utf8_lossy(&got.body).contains("in the registry's own words"));
}

#[tokio::test]
async fn a_bad_gateway_names_the_registrys_own_error() {
    let world = world().await;
    world.registry.state.lock().broken = Some(StatusCode::SERVICE_UNAVAILABLE);
    let got = world.get("/v2/app/manifests/1").await;
    let text = String::from_utf8_lossy(&got.body).into_owned();
    assert!(text.contains("503 Service Unavailable") && text.contains("in the registry's own words"), "{text}");
}

#[tokio::test]
async fn what_comes_encoded_goes_on_encoded_and_says_so() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    world.registry.state.lock().besides = vec![("content-encoding", "x-lab".into())];
    for path in [
        "/v2/app/tags/list",
        "/v2/app/referrers/sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ] {
        let got = world.get(path).await;
        assert_eq!((got.status.as_u16(), got.header("content-encoding")), (200, "x-lab"), "{path}");
        assert!(!got.body.is_empty());
    }
    let refused = world.get("/v2/app/manifests/2").await;
    assert_eq!((refused.status.as_u16(), refused.header("content-encoding")), (404, "x-lab"));
    assert!(String::from_utf8_lossy(&refused.body).contains("in the registry's own words"));
}

#[tokio::test]
async fn the_methods_that_a_registry_allows_are_told() {
    let world = world().await;
    world.registry.state.lock().besides = vec![("allow", "PUT".into())];
    world.registry.state.lock().broken = Some(StatusCode::METHOD_NOT_ALLOWED);
    let got = world.send(Method::GET, "/v2/app/tags/list", &[]).await;
    assert_eq!((got.status.as_u16(), got.header("allow")), (405, "PUT"));
}
