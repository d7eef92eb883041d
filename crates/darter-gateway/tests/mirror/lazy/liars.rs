//! Images of bob's that name the diff id of alice's private layer in ways that an engine understands and a strict reader does not: while such an
//! image may be the one for which is asked, her layer is not given.

use super::*;

const NONDISTRIBUTABLE: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";

/// Alice's image, found and not opened yet, and what bob's repository may hold.
struct Scene {
    world: World,
    agent: Agent,
    base: Vec<u8>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let [base, _] = world.private();
        world.lab.allow(BOB, "bob/liar");
        let agent = world.agent(|_| ()).await;
        assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
        let _ = found(&agent, id(&base)).await;
        Self { world, agent, base }
    }

    /// Puts an image into bob's repository, of one layer of this media type and with this configuration. `layers` is the field's name in its manifest.
    fn put(&self, repository: &str, layers: &str, layer_type: &str, config: &str) {
        let (lab, bogus) = (&self.world.lab, tar_of("bogus"));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": lab.put_blob(repository, config.as_bytes()), "size": config.len() },
            layers: [{ "mediaType": layer_type, "digest": lab.put_blob(repository, &bogus), "size": bogus.len() }],
        });
        lab.put_manifest(repository, MANIFEST, manifest.to_string(), Some("1"));
    }

    /// An ordinary configuration that names alice's layer.
    fn config(&self) -> String {
        json!({ "rootfs": { "type": "layers", "diff_ids": [id(&self.base)] } }).to_string()
    }

    async fn bob_pulls(&self, repository: &str) {
        assert_eq!(pull(&self.agent, BOB, "lab", repository).await, 200);
    }

    /// Bob pulls, and her layer is a miss.
    async fn misses_after_his_pull(self) {
        self.bob_pulls("bob/liar").await;
        assert!(misses(&self.agent, id(&self.base)).await, "it may be bob who asks");
        self.agent.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_layers_can_not_be_mounted_names_diff_ids_too() {
    for layer_type in [NONDISTRIBUTABLE, "application/vnd.oci.image.layer.v1.tar+anything"] {
        let scene = Scene::new().await;
        scene.put("bob/liar", "layers", layer_type, &scene.config());
        scene.misses_after_his_pull().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_letters_of_a_field_may_be_of_either_case() {
    for (layers, field, diff_ids) in [("layers", "RootFS", "Diff_Ids"), ("Layers", "rootfs", "diff_ids")] {
        let scene = Scene::new().await;
        let config = json!({ field: { "type": "layers", diff_ids: [id(&scene.base)] } }).to_string();
        scene.put("bob/liar", layers, LAYER, &config);
        scene.misses_after_his_pull().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_may_come_twice() {
    let (own, named) = (id(&tar_of("bogus")), "diff_ids");
    for (first, second) in [("rootfs", "rootfs"), ("rootfs", "ROOTFS")] {
        let scene = Scene::new().await;
        let config =
            format!(r#"{{"{first}":{{"{named}":["{own}"]}},"{second}":{{"{named}":["{}"]}}}}"#, id(&scene.base));
        scene.put("bob/liar", "layers", LAYER, &config);
        scene.misses_after_his_pull().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_configuration_can_not_be_read_may_name_any_layer() {
    let scene = Scene::new().await;
    let mut config = scene.config();
    config.insert_str(1, &format!(r#""history":["{}"],"#, "x".repeat(4 << 20)));
    scene.put("bob/liar", "layers", LAYER, &config);
    scene.misses_after_his_pull().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_whose_registry_holds_its_configuration_back_may_name_any_layer() {
    let scene = Scene::new().await;
    scene.put("bob/liar", "layers", LAYER, &scene.config());
    scene.bob_pulls("bob/liar").await;
    scene.world.lab.state.lock().slow_heads = WITHIN;
    scene.world.lab.state.lock().slow_blobs = WITHIN;
    assert!(misses(&scene.agent, Digest::sha256(b"another")).await, "somebody else's question");
    scene.world.lab.state.lock().slow_heads = Duration::ZERO;
    scene.world.lab.state.lock().slow_blobs = Duration::ZERO;
    assert!(misses(&scene.agent, id(&scene.base)).await, "bob's engine has waited for it");
    scene.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_was_forgotten_among_many_may_name_any_layer() {
    let scene = Scene::new().await;
    scene.put("bob/liar", "layers", LAYER, &scene.config());
    scene.bob_pulls("bob/liar").await;
    scene.world.lab.allow(BOB, "bob/many");
    for number in 0..64 {
        let own = json!({ "rootfs": { "diff_ids": [id(&tar_of("bogus"))] }, "number": number }).to_string();
        scene.put("bob/many", "layers", LAYER, &own);
        scene.bob_pulls("bob/many").await;
    }
    assert!(misses(&scene.agent, id(&scene.base)).await);
    scene.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_engine_unpacks_names_no_layer_and_a_layer_that_anybody_may_read_is_given_in_any_case() {
    let scene = Scene::new().await;
    let public = tar_of("public");
    let stranger = &scene.world.stranger;
    scene.world.image(stranger, "public/app", &[&public], &[id(&public)]);
    let (manifests, cosign) = ("manifests", "application/vnd.dev.cosign.simplesigning.v1+json");
    let chart = ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip");
    for (config_type, layer_type) in [
        (CONFIG, cosign),
        (CONFIG, "application/vnd.in-toto+json"),
        chart,
        ("application/vnd.oci.empty.v1+json", LAYER),
    ] {
        // Their configurations can't be read.
        let missing = Digest::sha256(config_type.as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "config": { "mediaType": config_type, "digest": missing, "size": 2 },
            "layers": [{ "mediaType": layer_type, "digest": scene.world.lab.put_blob("bob/liar", b"{}"), "size": 2 }],
        });
        scene.world.lab.put_manifest("bob/liar", MANIFEST, manifest.to_string(), Some("1"));
        scene.bob_pulls("bob/liar").await;
    }
    let index = json!({ "schemaVersion": 2, manifests: [{ "mediaType": MANIFEST, "digest": id(b"x"), "size": 2 }] });
    scene.world.lab.put_manifest("bob/liar", darter_oci::media_type::INDEX, index.to_string(), Some("1"));
    scene.bob_pulls("bob/liar").await;
    let _ = found(&scene.agent, id(&scene.base)).await;

    scene.put("bob/liar", "layers", LAYER, "[");
    scene.bob_pulls("bob/liar").await;
    assert!(misses(&scene.agent, id(&scene.base)).await, "nobody knows what bob's image names");
    let path = format!("/v2/public/app/manifests/1?ns={}", stranger.name());
    assert_eq!(get(&scene.agent, None, &path).await.0.as_u16(), 200);
    assert!(found(&scene.agent, id(&public)).await.headers.is_empty());
    scene.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_in_use_is_no_new_snapshot_of_a_liars_image_but_stays_in_the_directory_for_containers_that_have_it() {
    let scene = Scene::new().await;
    let layer = found(&scene.agent, id(&scene.base)).await;
    assert!(opens(&scene.agent, layer).await);
    let by_chain =
        async || client(&scene.agent).uppermost_layer(id(&scene.base), Duration::from_secs(5)).await.unwrap();
    assert!(matches!(by_chain().await, LayerAnswer::Found(_)));
    scene.put("bob/liar", "layers", LAYER, &scene.config());
    scene.bob_pulls("bob/liar").await;
    assert!(matches!(by_chain().await, LayerAnswer::Miss { .. }), "only an unpacker asks for a chain");
    let _ = found(&scene.agent, id(&scene.base)).await;
    scene.agent.drain().await;
}
