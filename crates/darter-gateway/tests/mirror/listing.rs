//! Tags and referrers, passed through.

use crate::world::{World, world_with};

async fn with_tags() -> World {
    let world = world_with(|options, _| options.default_upstream = None).await;
    for tag in ["a", "b", "c", "d", "e"] {
        world.registry.put_image("app", Some(tag), tag.as_bytes());
    }
    world
}

#[tokio::test]
async fn pages_lead_on_from_one_to_the_next_on_the_mirror() {
    let world = with_tags().await;
    let name = world.registry.name();
    let by_namespace = format!("/v2/app/tags/list?n=2&ns={name}");
    let by_prefix = format!("/v2/{name}/app/tags/list?n=2");
    for first in [by_namespace, by_prefix] {
        let (mut next, mut tags) = (Some(first), Vec::new());
        while let Some(path) = next {
            let page = world.get(&path).await;
            assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "application/json"));
            let body: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
            tags.extend(body["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
            let link = page.header("link");
            next = link.strip_prefix('<').and_then(|link| link.split_once('>')).map(|(path, _)| path.to_owned());
        }
        assert_eq!(tags, ["a", "b", "c", "d", "e"]);
        let asked = world.registry.asked();
        assert_eq!(asked.len(), 3);
        assert_eq!(asked[1], "GET /v2/app/tags/list?n=2&last=b");
    }
}

#[tokio::test]
async fn pages_that_lead_in_a_circle_have_an_end_and_the_registry_is_told_nothing_of_it() {
    let world = with_tags().await;
    let link = r#"</v2/app/tags/list?last=a>; rel="next", </v2/app/tags/list>; rel="first""#;
    world.registry.state.lock().besides = vec![("link", link.into())];
    world.registry.state.lock().portal = Some("{}");
    let mut next = format!("/v2/{}/app/tags/list?last=b", world.registry.name());
    for _ in 0..2 {
        let page = world.get(&next).await;
        let Some((path, _)) = page.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) else {
            break;
        };
        next = path.to_owned();
    }
    assert_eq!(world.get(&next).await.header("link"), "");
    assert_eq!(world.registry.asked()[..2], ["GET /v2/app/tags/list?last=b", "GET /v2/app/tags/list?last=a"]);
    // A ring at paths of the registry's own.
    let mut next = page_elsewhere(&world, None).await;
    for page in 0.. {
        assert!(page < 20, "a circle");
        let link = format!("</v2/app/tags/page/{}>; rel=\"next\"", page % 3);
        world.registry.state.lock().besides = vec![("link", link)];
        let got = world.get(&next).await;
        let Some((path, _)) = got.header("link").strip_prefix('<').and_then(|link| link.split_once('>')) else { break };
        next = path.to_owned();
    }
}

#[tokio::test]
async fn referrers_keep_their_filter() {
    let world = with_tags().await;
    let digest = darter_core::Digest::sha256(b"subject");
    let path = format!("/v2/app/referrers/{digest}?artifactType=application%2Fspdx&ns={}", world.registry.name());
    let got = world.get(&path).await;
    assert_eq!(got.body, "referrers artifactType=application%2Fspdx");
    assert_eq!(got.header("oci-filters-applied"), "artifactType");
}

/// The first page of `app`'s tags, whose next one the registry has at a path of its own; the path of that on the mirror.
async fn page_elsewhere(world: &World, authorization: Option<&str>) -> String {
    let link = r#"</v2/app/tags/page/2?k=v>; rel="next""#;
    world.registry.state.lock().besides = vec![("link", link.into())];
    let first = format!("/v2/app/tags/list?n=9&ns={}", world.registry.name());
    let first = match authorization {
        Some(authorization) => world.get_as(authorization, &first).await,
        None => world.get(&first).await,
    };
    let path = first.header("link").strip_prefix('<').and_then(|link| link.split_once('>')).unwrap().0.to_owned();
    world.registry.state.lock().portal = Some("page two");
    world.registry.asked();
    path
}

#[tokio::test]
async fn a_page_that_the_registry_has_at_a_path_of_its_own_is_gone_to() {
    let world = with_tags().await;
    let path = page_elsewhere(&world, None).await;
    assert_eq!(world.get(&path).await.body, "page two");
    assert_eq!(world.registry.asked(), ["GET /v2/app/tags/page/2?k=v"]);
}

#[tokio::test]
async fn a_token_may_be_renewed_between_two_pages() {
    let world = with_tags().await;
    let path = page_elsewhere(&world, Some("Bearer first")).await;
    assert_eq!(world.get_as("Bearer second", &path).await.body, "page two");
}

#[tokio::test]
async fn a_page_that_the_registry_did_not_link_to_is_refused() {
    let world = with_tags().await;
    let (path, name) = (page_elsewhere(&world, None).await, world.registry.name());
    let code = path.split('&').find_map(|pair| pair.strip_prefix("darter-page-mac=")).unwrap().to_owned();
    let mut refused = vec![path.replace("/v2/app/", "/v2/other/"), path.replace("k%3Dv", "k%3Dw")];
    for page in [
        "/v2/token%3Fservice%3Dlab%26scope%3Drepository%3Aother%3Apull",
        "/v2/other/manifests/1",
        "/v2/other/bl%256fbs/1",
        "/v2/app/tags/page/2%3Fk%3Dv",
        "elsewhere",
        "",
    ] {
        refused.push(format!("/v2/app/tags/list?darter-page={page}&ns={name}"));
        refused.push(format!("/v2/app/tags/list?darter-page={page}&darter-page-mac={}&ns={name}", "0".repeat(64)));
        if !page.starts_with("/v2/app/tags") {
            refused.push(format!("/v2/app/tags/list?darter-page={page}&darter-page-mac={code}&ns={name}"));
        }
    }
    for path in refused {
        assert_eq!(world.get(&path).await.error(), (400, "UNSUPPORTED".into()), "{path}");
    }
    assert_eq!(world.get_as("Bearer alice", &path).await.status, 400, "it was linked for those without credentials");
    assert_eq!(world.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn a_page_that_was_linked_for_credentials_is_not_read_with_the_agents_login() {
    let world = with_tags().await;
    let path = page_elsewhere(&world, Some("Bearer alice")).await;
    assert_eq!(world.get(&path).await.error(), (400, "UNSUPPORTED".into()));
    assert_eq!(world.registry.asked(), [""; 0]);
}

#[tokio::test]
async fn a_list_begins_anew_after_a_restart() {
    let mut world = with_tags().await;
    let path = page_elsewhere(&world, None).await;
    world.restart().await;
    let refused = world.get(&path).await;
    assert_eq!(refused.error(), (400, "UNSUPPORTED".into()));
    assert!(String::from_utf8_lossy(&refused.body).contains("from its first page"));
}
