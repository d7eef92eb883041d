//! Blobs: ranges, and what happens when the agent fails.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use darter_agent::FetchError;
use darter_core::{BlobId, Digest};
use darter_origin::{ErrorKind, OriginFailure};
use http::Method;

use crate::world::{World, content, world};

const LENGTH: usize = 10_500;

/// A blob that registry and agent have, and its path.
async fn with_blob() -> (World, Vec<u8>, String) {
    let world = world().await;
    let bytes = content(LENGTH);
    let digest = world.registry.put_blob("app", &bytes);
    world.agent.hold(bytes.clone());
    (world, bytes, format!("/v2/app/blobs/{digest}"))
}

fn unreachable() -> FetchError {
    FetchError::Origin(OriginFailure::new(ErrorKind::Unreachable, "nobody there"))
}

/// Reads an answer that must break off, in its body or before; returns what came.
pub(crate) async fn broken_off(world: &World, path: &str) -> Vec<u8> {
    let mut read = Vec::new();
    let Ok(mut response) = world.client.get(world.url(path)).send().await else { return read };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => read.extend_from_slice(&chunk),
            Ok(None) => panic!("the body ended as if it were whole, after {} bytes", read.len()),
            Err(_) => return read,
        }
    }
}

/// stargz-snapshotter#155, distribution#2055, moby#50065.
#[tokio::test]
async fn a_registry_that_refuses_head_in_whatever_way_serves_what_it_gives_by_get() {
    for status in [204, 400, 401, 403, 404, 405, 429, 500, 503] {
        let (world, bytes, path) = with_blob().await;
        let (image, _) = world.registry.put_image("app", Some("1"), b"layer");
        world.registry.state.lock().no_head = Some(status);
        let got = world.get(&path).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, &bytes[..]), "{status}");
        assert_eq!(world.head(&path).await.header("content-length"), LENGTH.to_string(), "{status}");
        for reference in ["1", "1", &image.to_string()] {
            let manifest = format!("/v2/app/manifests/{reference}");
            assert_eq!(world.head(&manifest).await.header("docker-content-digest"), image.to_string(), "{status}");
        }
    }
}

#[tokio::test]
async fn a_blob_comes_from_the_agent_with_its_headers() {
    let (world, bytes, path) = with_blob().await;
    let got = world.get(&path).await;
    let digest = Digest::sha256(&bytes).to_string();
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &bytes[..]));
    let head = world.head(&path).await;
    assert!(head.body.is_empty());
    for answer in [&got, &head] {
        assert_eq!(answer.header("content-length"), LENGTH.to_string());
        assert_eq!(answer.header("docker-content-digest"), digest);
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
    }
    assert_eq!(world.agent.opens(), 1, "a HEAD fetches nothing");
    assert_eq!(world.registry.asked(), [format!("HEAD {path}")]);
    let known = world.send(Method::GET, &path, &[("if-none-match", got.header("etag"))]).await;
    assert_eq!((known.status.as_u16(), known.body.len()), (304, 0));
}

#[tokio::test]
async fn ranges_are_served_as_asked() {
    let (world, bytes, path) = with_blob().await;
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=999-2000", 999, 2001),
        ("bytes=10000-", 10_000, LENGTH),
        ("bytes=-500", 10_000, LENGTH),
        ("bytes=5-999999", 5, LENGTH),
    ] {
        let got = world.send(Method::GET, &path, &[("range", range)]).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (206, &bytes[start..end]), "{range}");
        assert_eq!(got.header("content-range"), format!("bytes {start}-{}/{LENGTH}", end - 1));
        assert_eq!(got.header("content-length"), (end - start).to_string());
    }
    let beyond = world.send(Method::GET, &path, &[("range", "bytes=10500-")]).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), format!("bytes */{LENGTH}"));
    for ignored in ["bytes=0-1,4-5", "lines=0-1"] {
        assert_eq!(world.send(Method::GET, &path, &[("range", ignored)]).await.status, 200);
    }
    let other = [("range", "bytes=0-0"), ("if-range", "\"sha256:other\"")];
    assert_eq!(world.send(Method::GET, &path, &other).await.status, 200);
}

#[tokio::test]
async fn an_empty_blob_and_one_of_unknown_length_are_served_right() {
    let (world, bytes, path) = with_blob().await;
    let empty = world.registry.put_blob("app", b"");
    world.agent.hold(Bytes::new());
    let got = world.get(&format!("/v2/app/blobs/{empty}")).await;
    assert_eq!((got.status.as_u16(), got.header("content-length")), (200, "0"));
    world.agent.0.lock().hide_length = true;
    let got = world.send(Method::GET, &path, &[("range", "bytes=0-0")]).await;
    assert_eq!((got.status.as_u16(), got.header("content-length"), &got.body[..]), (200, "", &bytes[..]));
}

#[tokio::test]
async fn an_agent_that_cannot_open_a_blob_is_not_noticed() {
    let (world, bytes, path) = with_blob().await;
    for fault in [FetchError::Draining, unreachable()] {
        world.agent.0.lock().open_fault = Some(fault);
        let got = world.get(&path).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, &bytes[..]));
        assert_eq!(got.header("content-length"), LENGTH.to_string());
        let part = world.send(Method::GET, &path, &[("range", "bytes=5-9")]).await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, &bytes[5..10]));
        assert_eq!(part.header("content-range"), format!("bytes 5-9/{LENGTH}"));
    }
    assert!(world.counted(r#"darter_mirror_fallbacks_total{result="start"} 4"#));
    for fault in ["ourselves", "network"] {
        assert!(world.counted(&format!(r#"darter_failures_total{{what="mirror",fault="{fault}"}} 2"#)), "{fault}");
    }
    let bytes = 2 * (LENGTH + 5);
    assert!(world.counted(&format!("darter_origin_bytes_total {bytes}")));
    assert!(world.counted(&format!("darter_local_served_bytes_total {bytes}")));
}

#[tokio::test]
async fn an_agent_that_fails_at_the_first_byte_is_not_noticed() {
    let (world, bytes, path) = with_blob().await;
    world.agent.0.lock().fault_at = Some((0, Some(FetchError::Draining)));
    assert_eq!(&world.get(&path).await.body[..], &bytes[..]);
}

#[tokio::test]
async fn a_blob_that_fails_half_way_goes_on_from_the_upstream() {
    let (world, bytes, path) = with_blob().await;
    world.get(&path).await;
    for (fault, range, start, end) in [
        (Some(unreachable()), None, 0, LENGTH),
        (None, None, 0, LENGTH),
        (Some(FetchError::Draining), Some("bytes=2000-8000"), 2000, 8001),
    ] {
        world.registry.asked();
        world.agent.0.lock().fault_at = Some((4321, fault));
        let headers: Vec<_> = range.map(|range| ("range", range)).into_iter().collect();
        let got = world.send(Method::GET, &path, &headers).await;
        assert!(got.body == bytes[start..end], "wrong bytes for {range:?}");
        let seen = std::mem::take(&mut world.registry.state.lock().seen);
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0].headers["range"], format!("bytes=4321-{}", end - 1));
    }
    assert!(world.counted(r#"darter_mirror_fallbacks_total{result="resumed"} 3"#));
}

#[tokio::test]
async fn where_the_upstream_cannot_go_on_the_body_is_visibly_incomplete() {
    let (world, bytes, path) = with_blob().await;
    world.registry.state.lock().no_ranges = true;
    world.agent.0.lock().fault_at = Some((4321, Some(FetchError::Draining)));
    let read = broken_off(&world, &path).await;
    assert!(bytes.starts_with(&read) && read.len() <= 4321);
    assert!(world.counted(r#"darter_mirror_fallbacks_total{result="cut"} 1"#));
}

#[tokio::test]
async fn a_blob_that_is_taken_back_half_way_is_broken_off_without_asking_anybody() {
    let (world, _, path) = with_blob().await;
    world.get(&path).await;
    let (expected, got) = (Digest::sha256(b"a").into(), Digest::sha256(b"b").into());
    let withdrawn = FetchError::Withdrawn { blob: BlobId([0; 32]), reason: "wrong content".into() };
    for fault in [withdrawn, FetchError::WrongDigest { expected, got, from: String::new(), reader: None }] {
        world.registry.asked();
        world.agent.0.lock().fault_at = Some((4321, Some(fault)));
        broken_off(&world, &path).await;
        assert_eq!(world.registry.asked(), [""; 0]);
    }
}

#[tokio::test]
async fn too_many_requests_are_said_as_they_are() {
    let (world, _, path) = with_blob().await;
    let kind = ErrorKind::RateLimited { retry_after: Some(Duration::from_secs(9)) };
    let limited = OriginFailure::new(kind, "slow down");
    world.agent.0.lock().open_fault = Some(FetchError::Origin(limited));
    let got = world.get(&path).await;
    assert_eq!(got.error(), (429, "TOOMANYREQUESTS".into()));
    assert_eq!(got.header("retry-after"), "9");
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_agent_too() {
    let (world, ..) = with_blob().await;
    let total = 64 << 20;
    let digest = world.agent.hold(vec![0; total]);
    world.registry.state.lock().repositories.get_mut("app").unwrap().blobs.insert(digest, Bytes::new());
    let mut response = world.client.get(world.url(&format!("/v2/app/blobs/{digest}"))).send().await.unwrap();
    response.chunk().await.unwrap();
    let given = std::sync::Arc::clone(&world.agent.0.lock().given);
    // Wait until nothing moves any more: the sockets' buffers are full.
    let mut before = 0;
    while before != given.load(Ordering::Relaxed) {
        before = given.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < total as u64 / 4, "{before} bytes were given to a reader that does not read");
}

#[tokio::test]
async fn an_empty_blob_of_unknown_length_is_an_empty_answer() {
    let (world, ..) = with_blob().await;
    let digest = world.agent.hold("");
    world.registry.put_blob("lab/app", b"");
    world.agent.0.lock().hide_length = true;
    let got = world.get(&format!("/v2/lab/app/blobs/{digest}")).await;
    assert_eq!((got.status.as_u16(), &got.body[..]), (200, &b""[..]));
}
