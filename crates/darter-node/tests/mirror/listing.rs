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
async fn referrers_keep_their_filter() {
    let world = with_tags().await;
    let digest = darter_core::Digest::sha256(b"subject");
    let path = format!("/v2/app/referrers/{digest}?artifactType=application%2Fspdx&ns={}", world.registry.name());
    let got = world.get(&path).await;
    assert_eq!(got.body, "referrers artifactType=application%2Fspdx");
    assert_eq!(got.header("oci-filters-applied"), "artifactType");
}
