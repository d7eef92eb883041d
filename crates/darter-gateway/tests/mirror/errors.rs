//! Which upstream a request means, and how errors look.

use http::{Method, StatusCode};

use crate::registry::Registry;
use crate::world::{world, world_with};
use darter_agent::options::UpstreamOption;
use darter_gateway::mirror::Rewrites;

const NO_DIGEST: &str = "sha256:0000";

#[tokio::test]
async fn the_upstream_is_chosen_by_ns_by_prefix_and_by_default() {
    let other = Registry::start().await;
    let address = vec![format!("http://{}", other.address).parse().unwrap()];
    let world = world_with(|options, config| {
        options.upstreams.push("hub".into());
        config.addresses.insert("hub".into(), address);
    })
    .await;
    let (here, _) = world.registry.put_image("app", Some("1"), b"by default");
    let (there, _) = other.put_image("app", Some("1"), b"elsewhere");
    let name = other.name();
    for (path, expected) in [
        ("/v2/app/manifests/1".to_owned(), here),
        (format!("/v2/app/manifests/1?ns={name}"), there),
        (format!("/v2/{name}/app/manifests/1"), there),
        ("/v2/app/manifests/1?ns=hub".to_owned(), there),
        ("/v2/hub/app/manifests/1".to_owned(), there),
        // The path says more than the registry that the engine's image names.
        ("/v2/hub/app/manifests/1?ns=docker.io".to_owned(), there),
    ] {
        assert_eq!(world.get(&path).await.header("docker-content-digest"), expected.to_string(), "{path}");
    }
    assert!(other.asked().iter().all(|line| line.ends_with("/v2/app/manifests/1")));
}

#[tokio::test]
async fn a_header_names_the_upstream_as_ns_does() {
    let other = Registry::start().await;
    let world = world_with(|options, _| options.default_upstream = None).await;
    let (there, _) = other.put_image("app", Some("1"), b"elsewhere");
    let name = other.name();
    let got = world.send(Method::GET, "/v2/app/manifests/1", &[("oci-namespace", &name)]).await;
    assert_eq!(got.header("docker-content-digest"), there.to_string());
    let own = world.registry.name();
    let both = world.send(Method::GET, &format!("/v2/app/manifests/1?ns={own}"), &[("oci-namespace", &name)]).await;
    assert_eq!(both.status, 404, "ns goes first");
}

/// Docker Hub must not be told the names of private images, and could not have them.
#[tokio::test]
async fn what_names_no_known_upstream_is_told_what_to_configure_and_asked_of_nobody() {
    let world = world_with(|options, config| {
        options.default_upstream = Some("docker.io".into());
        options.upstreams.push("corp".into());
        config.addresses.insert("docker.io".into(), vec!["http://127.0.0.1:1".parse().unwrap()]);
    })
    .await;
    for path in ["/v2/lab/shop/app/manifests/1", "/v2/shop/app/manifests/1?ns=lab", "/v2/app/tags/list?ns=lab"] {
        let got = world.get(path).await;
        assert_eq!(got.error(), (404, "NAME_UNKNOWN".into()), "{path}");
        let text = String::from_utf8_lossy(&got.body);
        assert!(text.contains("--upstream lab=URL") && text.contains("corp"), "{text}");
    }
}

#[tokio::test]
async fn a_repository_may_have_another_name_at_its_upstream() {
    let world = world_with(|options, config| {
        let registry = options.default_upstream.take().unwrap();
        let hub =
            UpstreamOption { name: "docker.io".into(), prefix: Some("hub-proxy".into()), ..UpstreamOption::default() };
        options.rewrites = Rewrites::from(&[hub][..]);
        config.addresses.insert("docker.io".into(), vec![format!("http://{registry}").parse().unwrap()]);
    })
    .await;
    let (_, [_, layer]) = world.registry.put_image("hub-proxy/library/app", Some("1"), b"layer");
    world.agent.hold(&b"layer"[..]);
    for n in 2..5 {
        world.registry.put_image("hub-proxy/library/app", Some(&n.to_string()), b"layer");
    }
    assert_eq!(world.get("/v2/library/app/manifests/1?ns=docker.io").await.status, 200);
    assert_eq!(world.get(&format!("/v2/library/app/blobs/{layer}?ns=docker.io")).await.body, "layer");
    let (source, _) = world.agent.0.lock().opened.last().unwrap().clone();
    assert!(source.to_string().contains("/hub-proxy/library/app@"), "{source}");
    let tags = world.get("/v2/library/app/tags/list?ns=docker.io").await;
    assert!(tags.header("link").starts_with("</v2/library/app/tags/list?"), "{}", tags.header("link"));
}

#[tokio::test]
async fn without_any_upstream_the_answer_says_how_to_name_one() {
    let world = world_with(|options, _| options.default_upstream = None).await;
    assert_eq!(world.get("/v2/").await.status, 200);
    let got = world.get("/v2/library/app/manifests/1").await;
    assert_eq!(got.error(), (404, "NAME_UNKNOWN".into()));
    assert!(String::from_utf8_lossy(&got.body).contains("default upstream"));
    assert_eq!(world.get("/v2/app/manifests/1?ns=not%20a%20host").await.error(), (404, "NAME_UNKNOWN".into()));
}

#[tokio::test]
async fn bad_names_references_and_paths_have_their_codes() {
    let world = world().await;
    for (path, status, code) in [
        ("/v2/App/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a..b/tags/list", 400, "NAME_INVALID"),
        ("/v2/app/manifests/.not-a-tag", 404, "MANIFEST_UNKNOWN"),
        (&format!("/v2/app/manifests/{NO_DIGEST}"), 400, "DIGEST_INVALID"),
        (&format!("/v2/app/blobs/{NO_DIGEST}"), 400, "DIGEST_INVALID"),
        ("/v2/app/blobs/md5:00", 400, "DIGEST_INVALID"),
        (&format!("/v2/app/referrers/{NO_DIGEST}"), 400, "DIGEST_INVALID"),
        ("/v2/_catalog", 404, "UNSUPPORTED"),
    ] {
        assert_eq!(world.get(path).await.error(), (status, code.to_owned()), "{path}");
    }
    assert_eq!(world.registry.asked(), [""; 0], "none of these is worth a request");
}

#[tokio::test]
async fn writing_is_refused_whatever_the_path() {
    let world = world().await;
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for path in ["/v2/app/blobs/uploads/", "/v2/app/manifests/1", "/v2/"] {
            let got = world.send(method.clone(), path, &[]).await;
            assert_eq!(got.error(), (405, "UNSUPPORTED".into()));
            assert_eq!(got.header("allow"), "GET, HEAD");
        }
    }
    assert_eq!(world.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn what_the_upstream_refuses_is_passed_on_in_its_own_words() {
    let world = world().await;
    world.registry.put_image("app", Some("1"), b"layer");
    let got = world.get("/v2/app/manifests/2").await;
    assert_eq!(got.error(), (404, "MANIFEST_UNKNOWN".into()));
    assert!(String::from_utf8_lossy(&got.body).contains("in the registry's own words"));
    let absent = format!("/v2/app/blobs/{}", darter_core::Digest::sha256(b"absent"));
    assert_eq!(world.get(&absent).await.error(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(world.get("/v2/nothing/tags/list").await.error(), (404, "NAME_UNKNOWN".into()));
    world.registry.state.lock().broken = Some(StatusCode::TOO_MANY_REQUESTS);
    let limited = world.get("/v2/app/manifests/1").await;
    assert_eq!(limited.error(), (429, "TOOMANYREQUESTS".into()));
    assert_eq!(limited.header("retry-after"), "7");
    world.registry.state.lock().broken = Some(StatusCode::SERVICE_UNAVAILABLE);
    let unavailable = world.get("/v2/app/manifests/1").await;
    assert_eq!(unavailable.error(), (502, "UNAVAILABLE".into()));
    // A pod's event shows nothing but this text.
    let text = String::from_utf8_lossy(&unavailable.body);
    assert!(text.contains("503 Service Unavailable") && text.contains("in the registry's own words"), "{text}");
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_bad_gateway_and_the_ping_still_answers() {
    let gone = Registry::start().await;
    let name = gone.name();
    gone.stop().await;
    let world = world_with(|options, _| options.default_upstream = Some(name)).await;
    assert_eq!(world.get("/v2/").await.status, 200);
    assert_eq!(world.get("/v2/app/manifests/1").await.error(), (502, "UNAVAILABLE".into()));
    assert_eq!(world.get("/v2/app/tags/list").await.error(), (502, "UNAVAILABLE".into()));
    assert!(world.metrics.encode().contains(r#"darter_mirror_requests_total{kind="tags",status="502","#));
}
