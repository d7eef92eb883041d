//! Content that is not what its digest says: once found out, it is refused up front, so that engines go round
//! (quay#1310, harbor#20788, dragonfly#4604).

use std::time::Duration;

use bytes::Bytes;
use darter_agent::FetchError;
use darter_core::Digest;

use crate::blobs::broken_off;
use crate::world::{World, content, world};

struct Image {
    world: World,
    layer: String,
    config: String,
    digest: Digest,
}

async fn image() -> Image {
    let world = world().await;
    let bytes = content(10_500);
    let (_, [config, digest]) = world.registry.put_image("app", Some("1"), &bytes);
    world.agent.hold(bytes);
    world.agent.hold(&b"configuration for 10500 bytes"[..]);
    assert_eq!(world.get("/v2/app/manifests/1").await.status, 200);
    let of = |digest: Digest| format!("/v2/app/blobs/{digest}");
    Image { world, layer: of(digest), config: of(config), digest }
}

fn wrong() -> FetchError {
    let (expected, got) = (Digest::sha256(b"a").into(), Digest::sha256(b"b").into());
    FetchError::WrongDigest { expected, got, from: String::new(), reader: None }
}

impl Image {
    /// The layer is refused without asking anybody, and so is the manifest that names it; all else is served.
    async fn assert_refused_for_some_minutes(&self) {
        let world = &self.world;
        world.registry.asked();
        let opens = world.agent.opens();
        for _ in 0..2 {
            assert_eq!(world.get(&self.layer).await.error(), (502, "DIGEST_INVALID".into()));
            assert_eq!(world.head(&self.layer).await.status, 502);
        }
        assert_eq!((world.registry.asked().len(), world.agent.opens()), (0, opens));
        assert_eq!(world.get("/v2/app/manifests/1").await.error(), (502, "DIGEST_INVALID".into()));
        assert_eq!(world.get(&self.config).await.status, 200);
        assert!(world.metrics.encode().contains(r#"darter_mirror_fallbacks_total{result="refused"}"#));
        world.clock.pass(Duration::from_secs(300));
        assert_eq!(world.get("/v2/app/manifests/1").await.status, 200);
        assert_eq!(Digest::sha256(&world.get(&self.layer).await.body), self.digest);
    }
}

#[tokio::test]
async fn what_the_agent_found_wrong_before_the_first_byte_is_refused() {
    let image = image().await;
    image.world.agent.0.lock().open_fault = Some(wrong());
    assert_eq!(image.world.get(&image.layer).await.error(), (502, "DIGEST_INVALID".into()));
    image.world.agent.0.lock().open_fault = None;
    image.assert_refused_for_some_minutes().await;
}

#[tokio::test]
async fn what_the_agent_found_wrong_at_the_end_is_refused() {
    let image = image().await;
    image.world.agent.0.lock().fault_at = Some((4321, Some(wrong())));
    broken_off(&image.world, &image.layer).await;
    while image.world.agent.opens() < 2 {
        // Another reader is asked to try meanwhile.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    image.world.agent.0.lock().fault_at = None;
    image.assert_refused_for_some_minutes().await;
}

#[tokio::test]
async fn what_the_registry_itself_sends_wrong_past_the_agent_is_broken_off_and_refused() {
    let image = image().await;
    let put = |bytes: Bytes| {
        let mut state = image.world.registry.state.lock();
        state.repositories.get_mut("app").unwrap().blobs.insert(image.digest, bytes);
    };
    let mut bytes = content(10_500);
    bytes[10_000] ^= 1;
    put(bytes.into());
    image.world.agent.0.lock().open_fault = Some(FetchError::Draining);
    let read = broken_off(&image.world, &image.layer).await;
    assert!(read.len() < 10_500, "the end was held back");
    image.world.agent.0.lock().open_fault = None;
    put(content(10_500).into());
    image.assert_refused_for_some_minutes().await;
}

/// An engine that has no way round the mirror gets the layer as soon as somebody has read it right.
#[tokio::test]
async fn what_another_reader_got_right_meanwhile_is_served() {
    let image = image().await;
    image.world.agent.0.lock().open_fault = Some(wrong());
    assert_eq!(image.world.get(&image.layer).await.status, 502);
    image.world.agent.0.lock().open_fault = None;
    assert_eq!(image.world.get("/v2/app/manifests/1").await.error(), (502, "DIGEST_INVALID".into()));
    image.world.agent.0.lock().whole.insert(image.digest);
    assert_eq!(image.world.get("/v2/app/manifests/1").await.status, 200);
    assert_eq!(Digest::sha256(&image.world.get(&image.layer).await.body), image.digest);
}

/// A proxy compresses layers. Engines that ask by Go's client are used to that and get such a layer from the registry itself,
/// but Podman's family goes there only for the whole image.
#[tokio::test]
async fn an_image_whose_layer_comes_encoded_is_refused_with_its_manifest() {
    let image = image().await;
    image.world.agent.0.lock().open_fault = Some(FetchError::Draining);
    image.world.registry.state.lock().besides.push(("content-encoding", "gzip".into()));
    let refused = image.world.get(&image.layer).await;
    assert_eq!(refused.status, 502);
    image.world.registry.state.lock().besides.clear();
    image.world.agent.0.lock().open_fault = None;
    image.assert_refused_for_some_minutes().await;
}
