//! Logins of programs that send one only when the mirror asks: what `/v2/` answers, and what becomes of what they bring.

use http::{Method, StatusCode};

use crate::world::{World, world_with};

/// `alice:secret`, and the token that the registry's token service gives for it.
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";
const ALICES_TOKEN: &str = "Bearer YWxpY2U6c2VjcmV0";
const MALLORY: &str = "Basic bWFsbG9yeTpndWVzcw==";
/// The header that Podman's family sends for want of a login.
const EMPTY: &str = "Basic Og==";

/// A mirror that asks for logins, before a registry that has `lab` for a name besides its address.
async fn asking() -> World {
    world_with(|options, config| {
        options.ask_login = true;
        let registry = options.default_upstream.clone().unwrap();
        config.addresses.insert("lab".into(), vec![format!("http://{registry}").parse().unwrap()]);
        options.upstreams.push("lab".into());
    })
    .await
}

#[tokio::test]
async fn a_mirror_that_asks_for_logins_does_so_at_the_ping() {
    let world = asking().await;
    for empty in [&[][..], &[("authorization", EMPTY)]] {
        let ping = world.send(Method::GET, "/v2/", empty).await;
        assert_eq!(ping.error(), (401, "UNAUTHORIZED".into()));
        assert_eq!(ping.header("www-authenticate"), r#"Basic realm="darter""#);
        let head = world.send(Method::HEAD, "/v2/", empty).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (401, 0));
    }
    assert_eq!(world.get_as(ALICE, "/v2/").await.status, 200);
    assert_eq!(world.registry.asked(), [""; 0], "the login may be for another registry than the default one");
}

#[tokio::test]
async fn a_ping_that_names_its_upstream_needs_no_login() {
    let world = asking().await;
    let path = format!("/v2/?ns={}", world.registry.name());
    assert_eq!(world.get(&path).await.status, 200);
    assert_eq!(world.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn nobody_is_asked_for_a_login_by_default() {
    let world = world_with(|options, _| options.default_upstream = None).await;
    assert_eq!(world.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn docker_hub_is_not_asked_about_pings_that_do_not_name_it() {
    let world = world_with(|options, _| options.default_upstream = Some("docker.io".into())).await;
    assert_eq!(world.get("/v2/").await.status, 200);
    assert_eq!(world.get_as(ALICE, "/v2/").await.status, 200);
    assert!(!world.metrics.encode().contains(r#"darter_mirror_upstream_requests_total{kind="ping"}"#));
}

#[tokio::test]
async fn a_login_opens_what_its_owner_may_read_where_the_registry_wants_tokens() {
    let world = asking().await;
    let (_, [_, layer]) = world.registry.put_image("app", Some("1"), b"layer");
    world.agent.hold(&b"layer"[..]);
    world.registry.allow(ALICES_TOKEN, "app");
    world.registry.state.lock().realm = Some(format!("http://{}/token", world.registry.address));
    let (manifest, layer) = ("/v2/lab/app/manifests/1", format!("/v2/lab/app/blobs/{layer}"));
    assert_eq!(world.get_as(ALICE, manifest).await.status, 200);
    assert_eq!(world.get_as(ALICE, &layer).await.body, "layer");
    // The agent reads as the caller does.
    let (_, credentials) = world.agent.0.lock().opened.last().unwrap().clone();
    assert_eq!(credentials.headers, [("authorization".to_owned(), ALICE.to_owned())]);

    for stranger in [MALLORY, EMPTY] {
        for path in [manifest, &layer] {
            let refused = world.get_as(stranger, path).await;
            assert_eq!(refused.error(), (401, "UNAUTHORIZED".into()), "{stranger} {path}");
            assert!(refused.header("www-authenticate").starts_with("Bearer realm="));
        }
    }
}

#[tokio::test]
async fn an_empty_login_is_no_login() {
    let world = asking().await;
    let (_, [_, layer]) = world.registry.put_image("app", Some("1"), b"layer");
    world.agent.hold(&b"layer"[..]);
    for empty in [EMPTY, "basic  Og=="] {
        assert_eq!(world.get_as(empty, "/v2/lab/app/manifests/1").await.status, StatusCode::OK);
        assert_eq!(world.get_as(empty, &format!("/v2/lab/app/blobs/{layer}")).await.body, "layer");
    }
    let (_, credentials) = world.agent.0.lock().opened.last().unwrap().clone();
    assert_eq!(credentials.headers, []);
    let seen = world.registry.state.lock().seen.clone();
    assert!(!seen.is_empty() && seen.iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[tokio::test]
async fn who_has_no_login_is_served_with_the_configured_one() {
    let world = world_with(|options, config| {
        options.ask_login = true;
        let login = darter_origin::Login::Password { user: "alice".into(), password: "secret".into() };
        config.logins.insert(options.default_upstream.clone().unwrap(), login);
    })
    .await;
    world.registry.put_image("app", Some("1"), b"layer");
    world.registry.allow(ALICE, "app");
    assert_eq!(world.get_as(EMPTY, "/v2/app/manifests/1").await.status, 200);
    assert_eq!(world.get_as(MALLORY, "/v2/app/manifests/1").await.status, 401);
}
