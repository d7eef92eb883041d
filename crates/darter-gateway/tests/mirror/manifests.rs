//! Manifests by tag and by digest.

use darter_core::Digest;
use http::Method;

use crate::registry::{INDEX, MANIFEST};
use crate::world::{content, world, world_with};

#[tokio::test]
async fn a_pull_reads_each_manifest_once_and_asks_for_no_blob_and_the_next_pull_asks_once() {
    let world = world().await;
    let layer = content(5000);
    let (image, blobs) = world.registry.put_image("library/app", None, &layer);
    let index = world.registry.put_index("library/app", "1", &[image]);
    for blob in world.registry.state.lock().repositories["library/app"].blobs.values() {
        world.agent.hold(blob.clone());
    }
    let pull = async || {
        let tag = world.head("/v2/library/app/manifests/1").await;
        assert_eq!(tag.header("docker-content-digest"), index.to_string());
        assert_eq!(world.get(&format!("/v2/library/app/manifests/{index}")).await.header("content-type"), INDEX);
        assert_eq!(world.get(&format!("/v2/library/app/manifests/{image}")).await.header("content-type"), MANIFEST);
        for blob in blobs {
            let got = world.get(&format!("/v2/library/app/blobs/{blob}")).await;
            assert_eq!(Digest::sha256(&got.body), blob);
        }
    };
    pull().await;
    let first = world.registry.asked();
    assert_eq!(first, ["GET /v2/library/app/manifests/1".into(), format!("GET /v2/library/app/manifests/{image}")]);
    pull().await;
    assert_eq!(world.registry.asked(), ["HEAD /v2/library/app/manifests/1"]);
}

#[tokio::test]
async fn headers_are_those_of_the_content_for_get_and_head() {
    let world = world().await;
    let (image, _) = world.registry.put_image("app", Some("1"), b"layer");
    let digest = image.to_string();
    for reference in ["1", &digest] {
        let path = format!("/v2/app/manifests/{reference}");
        let got = world.get(&path).await;
        assert_eq!(Digest::sha256(&got.body), image);
        let head = world.head(&path).await;
        assert!(head.body.is_empty());
        for answer in [&got, &head] {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            assert_eq!(answer.header("content-type"), MANIFEST);
            assert_eq!(answer.header("content-length"), got.body.len().to_string());
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        }
        let known = world.send(Method::GET, &path, &[("if-none-match", got.header("etag"))]).await;
        assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
    }
}

#[tokio::test]
async fn a_tag_that_moves_is_followed_at_once() {
    let world = world().await;
    let (old, _) = world.registry.put_image("app", Some("latest"), b"old");
    assert_eq!(Digest::sha256(&world.get("/v2/app/manifests/latest").await.body), old);
    let (new, _) = world.registry.put_image("app", Some("latest"), b"newer");
    assert_eq!(Digest::sha256(&world.get("/v2/app/manifests/latest").await.body), new);
    world.registry.state.lock().repositories.get_mut("app").unwrap().tags.clear();
    assert_eq!(world.get("/v2/app/manifests/latest").await.error(), (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test]
async fn what_a_caller_accepts_decides_what_a_tag_stands_for() {
    let world = world().await;
    let (image, _) = world.registry.put_image("app", None, b"layer");
    let index = world.registry.put_index("app", "1", &[image]);
    world.registry.state.lock().repositories.get_mut("app").unwrap().tags.insert("1".into(), vec![index, image]);
    for (accept, expected) in [(INDEX, index), (MANIFEST, image), (INDEX, index), (MANIFEST, image)] {
        let got = world.send(Method::GET, "/v2/app/manifests/1", &[("accept", accept)]).await;
        assert_eq!((got.header("content-type"), Digest::sha256(&got.body)), (accept, expected));
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says_is_refused_and_not_kept() {
    let world = world().await;
    let (image, _) = world.registry.put_image("app", Some("1"), b"layer");
    world.registry.state.lock().lies = true;
    for reference in ["1", &image.to_string()] {
        let path = format!("/v2/app/manifests/{reference}");
        assert_eq!(world.get(&path).await.error(), (502, "MANIFEST_INVALID".into()));
    }
    world.registry.state.lock().lies = false;
    let got = world.get(&format!("/v2/app/manifests/{image}")).await;
    assert_eq!(Digest::sha256(&got.body), image);
}

#[tokio::test]
async fn a_registry_without_digest_headers_or_head_is_read() {
    let world = world().await;
    let (image, _) = world.registry.put_image("app", Some("1"), b"layer");
    world.registry.state.lock().no_digest_header = true;
    for _ in 0..2 {
        assert_eq!(world.get("/v2/app/manifests/1").await.header("docker-content-digest"), image.to_string());
    }
    world.registry.state.lock().no_head = Some(405);
    assert_eq!(world.get("/v2/app/manifests/1").await.header("docker-content-digest"), image.to_string());
    world.clock.pass(crate::world::GRANT_TTL);
    let path = format!("/v2/app/manifests/{image}");
    assert_eq!(world.get(&path).await.header("docker-content-digest"), image.to_string());
}

#[tokio::test]
async fn a_manifest_itself_says_what_it_is_whatever_a_registry_calls_it() {
    let world = world().await;
    let digest = darter_core::Digest::sha256(b"part");
    let named = format!(r#"{{"mediaType":"{INDEX}","manifests":[]}}"#);
    let unnamed_index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    let unnamed_manifest = format!(r#"{{"config":{{"digest":"{digest}"}},"layers":[]}}"#);
    for (text, expected) in [(named, INDEX), (unnamed_index, INDEX), (unnamed_manifest, MANIFEST)] {
        let digest = world.registry.put_manifest("evil", "text/html", text, Some("1"));
        for path in ["/v2/evil/manifests/1".to_owned(), format!("/v2/evil/manifests/{digest}")] {
            assert_eq!(world.get(&path).await.header("content-type"), expected);
        }
    }
    world.registry.put_manifest("app", "application/odd+json", "{}".into(), Some("1"));
    assert_eq!(world.get("/v2/app/manifests/1").await.header("content-type"), "application/odd+json");
}

#[tokio::test]
async fn a_manifest_beyond_all_measure_is_refused() {
    let world = world().await;
    let huge = " ".repeat(7 << 20);
    world.registry.put_manifest("app", MANIFEST, huge, Some("huge"));
    assert_eq!(world.get("/v2/app/manifests/huge").await.error(), (502, "MANIFEST_INVALID".into()));
}

#[tokio::test]
async fn manifests_outlive_a_restart_but_grants_do_not() {
    let mut world = world().await;
    let (image, _) = world.registry.put_image("app", Some("1"), b"layer");
    let path = format!("/v2/app/manifests/{image}");
    assert_eq!(world.get(&path).await.status, 200);
    world.registry.asked();
    world.restart().await;
    let got = world.get(&path).await;
    assert_eq!((got.header("content-type"), Digest::sha256(&got.body)), (MANIFEST, image));
    assert_eq!(world.registry.asked(), [format!("HEAD {path}")]);
}

#[tokio::test]
async fn what_a_caller_has_already_is_compared_weakly_and_what_it_insists_on_strongly() {
    let world = world().await;
    let (image, [_, layer]) = world.registry.put_image("app", Some("1"), b"layer");
    world.agent.hold(&b"layer"[..]);
    for (path, digest) in [("/v2/app/manifests/1".to_owned(), image), (format!("/v2/app/blobs/{layer}"), layer)] {
        for (name, value, status) in [
            ("if-none-match", format!("W/\"{digest}\""), 304),
            ("if-none-match", format!("\"x\", W/\"{digest}\""), 304),
            ("if-none-match", "\"x\"".into(), 200),
            ("if-match", format!("\"{digest}\""), 200),
            ("if-match", "\"x\"".into(), 412),
            ("if-match", format!("W/\"{digest}\""), 412),
        ] {
            let got = world.send(Method::GET, &path, &[(name, &value)]).await;
            assert_eq!(got.status.as_u16(), status, "{path} {name}: {value}");
            assert_eq!(got.body.is_empty(), status != 200);
        }
    }
}

/// stargz-snapshotter#155, distribution#2055, moby#50065: HEAD is refused, or its answer is of no use, where GET works.
#[tokio::test]
async fn a_registry_that_refuses_head_in_any_way_is_asked_by_get() {
    for status in [400, 401, 403, 404, 405, 429, 500, 503] {
        let world = world().await;
        let (image, [_, layer]) = world.registry.put_image("app", Some("1"), b"layer");
        world.agent.hold(&b"layer"[..]);
        world.registry.state.lock().no_head_at_all = Some(http::StatusCode::from_u16(status).unwrap());
        let blob = format!("/v2/app/blobs/{layer}");
        let head = world.head(&blob).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "5"), "HEAD is {status}");
        assert_eq!(world.get(&blob).await.body, "layer");
        for _ in 0..2 {
            let got = world.get("/v2/app/manifests/1").await;
            assert_eq!((got.status.as_u16(), Digest::sha256(&got.body)), (200, image), "HEAD is {status}");
            assert_eq!(world.head("/v2/app/manifests/1").await.header("docker-content-digest"), image.to_string());
        }
        world.clock.pass(crate::world::GRANT_TTL);
        assert_eq!(world.get(&format!("/v2/app/manifests/{image}")).await.status, 200);
    }
}

/// A portal, or a proxy's error page.
#[tokio::test]
async fn a_page_in_the_place_of_a_manifest_is_a_bad_gateway() {
    for page in ["<!DOCTYPE html><html>Please log in</html>", "{\"message\": \"please log in\"}"] {
        let world = world().await;
        world.registry.state.lock().portal = Some(page);
        let got = world.get("/v2/app/manifests/1").await;
        assert_eq!(got.error(), (502, "MANIFEST_INVALID".into()), "{page}");
        assert!(String::from_utf8_lossy(&got.body).contains("text/html"));
    }
}

/// Its digest is that of what was signed, which is not all of its bytes.
#[tokio::test]
async fn docker_s_signed_manifests_are_passed_on_as_they_are() {
    let world = world().await;
    let payload = "{\n   \"schemaVersion\": 1\n}";
    // formatLength 23, formatTail "\n}".
    let protected = "eyJmb3JtYXRMZW5ndGgiOjIzLCJmb3JtYXRUYWlsIjoiQ24wIiwidGltZSI6IngifQ";
    let signed = format!("{},\n   \"signatures\": [{{\"protected\": \"{protected}\"}}]\n}}", &payload[..23]);
    let digest = Digest::sha256(payload.as_bytes());
    let media_type = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    world.registry.put_signed("app", media_type, digest, signed.clone(), "1");
    for path in ["/v2/app/manifests/1".to_owned(), format!("/v2/app/manifests/{digest}")] {
        for _ in 0..2 {
            let got = world.get(&path).await;
            assert_eq!((got.status.as_u16(), &*got.body), (200, signed.as_bytes()), "{path}");
            assert_eq!(
                (got.header("content-type"), got.header("docker-content-digest")),
                (media_type, &*digest.to_string())
            );
        }
    }
}

#[tokio::test]
async fn docker_hub_s_own_images_have_their_whole_name_there() {
    let world = world_with(|options, config| {
        let registry = options.default_upstream.clone().unwrap();
        let address: url::Url = format!("http://{registry}").parse().unwrap();
        config.addresses.insert("docker.io".into(), vec![address.clone()]);
        config.addresses.insert("lab".into(), vec![address]);
        options.upstreams.push("lab".into());
    })
    .await;
    for repository in ["library/debian", "debian", "lab/debian"] {
        world.registry.put_image(repository, Some("12"), repository.as_bytes());
    }
    for (path, asked) in [
        ("/v2/docker.io/debian/manifests/12", "GET /v2/library/debian/manifests/12"),
        ("/v2/docker.io/lab/debian/manifests/12", "GET /v2/lab/debian/manifests/12"),
        ("/v2/lab/debian/manifests/12", "GET /v2/debian/manifests/12"),
    ] {
        assert_eq!(world.get(path).await.status, 200, "{path}");
        assert_eq!(world.registry.asked(), [asked]);
    }
}
