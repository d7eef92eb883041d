//! Names that people give to things: images, digests and the first digits of digests, on a node that pulled.

use darter_agent::Agent;
use darter_agent::error::FetchError;
use darter_agent::options::Role;
use darter_api::{Explained, ImageExplanation, ImageRole};
use darter_core::Digest;

use crate::expanded;
use crate::registries::{get, options};
use crate::registry::Registry;
use crate::tar::{file, tar};

struct World {
    agent: Agent,
    registry: Registry,
    _directory: tempfile::TempDir,
}

/// `lab/app:1` is an index of one image, `lab/tools:1` an image that shares its configuration with nothing. Both were
/// pulled.
async fn world() -> (World, Digest, [Digest; 2], [Digest; 2]) {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, app) = registry.put_image("lab/app", None, &[7; 300_000]);
    registry.put_index("lab/app", "1", &[image]);
    let (_, tools) = registry.put_image("lab/tools", Some("1"), &[8; 200_000]);
    let seed = darter_agent::Options { role: Role::Seed, ..options(directory.path(), "seed", &registry) };
    let agent = darter_gateway::start(seed).await.unwrap();
    let mut paths =
        vec!["lab/app/manifests/1".to_owned(), format!("lab/app/manifests/{image}"), "lab/tools/manifests/1".into()];
    paths.extend(app.map(|blob| format!("lab/app/blobs/{blob}")));
    paths.extend(tools.map(|blob| format!("lab/tools/blobs/{blob}")));
    for path in paths {
        assert_eq!(get(&agent, &format!("/v2/{path}")).await.status, 200, "{path}");
    }
    (World { agent, registry, _directory: directory }, image, app, tools)
}

impl World {
    async fn image(&self, name: &str) -> ImageExplanation {
        match self.agent.explain_named(name).await.unwrap() {
            Some(Explained::Image(image)) => image,
            other => panic!("{name}: {other:?}"),
        }
    }

    async fn blob(&self, name: &str) -> Digest {
        match self.agent.explain_named(name).await.unwrap() {
            Some(Explained::Blob(blob)) => blob.digest.unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_explained_by_its_manifests_and_layers() {
    let (world, manifest, [config, layer], _) = world().await;
    let full = format!("{}/lab/app:1", world.registry.name());
    for name in ["app:1", "lab/app:1", &full] {
        let image = world.image(name).await;
        assert_eq!(image.image, full);
        let parts: Vec<_> = image.parts.iter().map(|part| (part.role, part.digest)).collect();
        let expected = [
            (ImageRole::Index, image.digest),
            (ImageRole::Manifest, manifest),
            (ImageRole::Config, config),
            (ImageRole::Layer, layer),
        ];
        assert_eq!(parts, expected, "{name}");
        let told = image.parts[3].explanation.as_ref().unwrap();
        assert_eq!((told.traffic.from_origin, image.parts[3].length), (300_000, Some(300_000)));
    }
    // By digest, too: of the index, and of the manifest.
    assert_eq!(world.image(&format!("{full}@{manifest}")).await.parts[0].digest, manifest);
    assert_eq!(world.image(&manifest.to_string()).await.parts.len(), 3);
    assert!(world.agent.explain_named("app:2").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn digests_and_their_first_digits_name_blobs() {
    let (world, manifest, [_, layer], _) = world().await;
    let text = layer.to_string();
    let hex = text.strip_prefix("sha256:").unwrap();
    let of_image = format!("lab/app:1@{}", &text[..19]);
    for name in [&text, &text[..15], &hex[..8], hex, &hex[..12].to_uppercase(), &text.to_uppercase(), &of_image] {
        assert_eq!(world.blob(name).await, layer, "{name}");
    }
    // As the explanation of an image shows them.
    assert_eq!(world.image(&manifest.short()).await.digest, manifest);
    assert_eq!(world.image(&manifest.to_string()["sha256:".len()..]).await.digest, manifest);
    let rows = world.agent.list().await.unwrap();
    let row = rows.iter().find(|row| row.digest == Some(layer)).unwrap();
    assert_eq!(row.images, [format!("{}/lab/app:1", world.registry.name())]);
    assert_eq!(world.blob(&row.name).await, layer, "by what ls shows");
    assert_eq!(world.blob(&row.blob.to_string()[..8]).await, layer);
    assert_eq!(world.agent.top(Some(&hex[..8])).await.unwrap().swarm.unwrap().row.progress.blob, row.blob);
    assert!(world.agent.top(Some("app:1")).await.unwrap().swarm.is_some(), "a layer of the image");
}

/// An image that was started lazily: its layer is here in its expanded form alone.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_layer_is_here_expanded_is_explained_kept_and_removed_by_the_same_names() {
    let (directory, tar) = (tempfile::tempdir().unwrap(), tar([file("a", [7; 300_000])]));
    let registry = Registry::start().await;
    let packed = expanded::gzip(&tar);
    let (_, [config, layer]) = registry.put_image("lab/app", Some("1"), &packed);
    let agent = expanded::seed(directory.path(), &registry).await;
    for path in ["manifests/1".to_owned(), format!("blobs/{config}")] {
        assert_eq!(get(&agent, &format!("/v2/lab/app/{path}")).await.status, 200, "{path}");
    }
    let asked = expanded::request(&registry, layer, packed.len(), &tar);
    drop(expanded::open(&agent, &asked).await.unwrap());
    let is_expanded = |row: &darter_api::BlobRow| row.name.contains(" expanded-");
    // A copy of the layer itself, kept for a while for other readers, goes before its expanded form.
    agent.remove(&layer.to_string()).await.unwrap();
    let row = agent.list().await.unwrap().into_iter().find(is_expanded).unwrap();
    assert_eq!(row.images, [format!("{}/lab/app:1", registry.name())]);
    for name in [layer.to_string(), asked.diff_id.to_string(), layer.short(), asked.diff_id.short()] {
        let Some(Explained::Blob(told)) = agent.explain_named(&name).await.unwrap() else { panic!("{name}") };
        assert_eq!(told.blob, row.blob, "{name}");
    }
    let Some(Explained::Image(image)) = agent.explain_named("lab/app:1").await.unwrap() else { panic!() };
    assert_eq!(image.parts[2].explanation.as_ref().unwrap().blob, row.blob);
    assert!(agent.pin("lab/app:1", true).await.unwrap().contains(&row.blob));
    assert!(agent.pin("lab/app:1", false).await.unwrap().contains(&row.blob));
    // An engine was told of it: it stays, and the image goes.
    agent.spare(vec![row.blob], true).await;
    assert!(!agent.remove("lab/app:1").await.unwrap().unwrap().contains(&row.blob));
    assert_eq!(get(&agent, "/v2/lab/app/manifests/1").await.status, 200);
    agent.spare(vec![row.blob], false).await;
    assert!(agent.remove("lab/app:1").await.unwrap().unwrap().contains(&row.blob));
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_an_image_leaves_the_other() {
    let (world, _, _, tools) = world().await;
    assert_eq!(world.agent.remove("app:1").await.unwrap().unwrap().len(), 2);
    let left: Vec<_> = world.agent.list().await.unwrap().into_iter().filter_map(|row| row.digest).collect();
    assert!(left.len() == 2 && tools.iter().all(|blob| left.contains(blob)), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_two_names_stays_until_its_last_name_goes() {
    let (world, _, _, tools) = world().await;
    world.registry.put_image("lab/tools", Some("2"), &[8; 200_000]);
    assert_eq!(get(&world.agent, "/v2/lab/tools/manifests/2").await.status, 200);
    assert_eq!(world.agent.remove("tools:1").await.unwrap().unwrap(), [], "the other name needs all of it");
    assert!(world.agent.explain_named("tools:1").await.unwrap().is_none(), "the name is gone");
    assert_eq!(world.agent.remove("tools:1").await.unwrap(), None);
    let held = async || world.agent.list().await.unwrap().into_iter().filter_map(|row| row.digest).collect::<Vec<_>>();
    let before = held().await;
    assert!(tools.iter().all(|blob| before.contains(blob)), "{before:?}");
    assert_eq!(world.agent.remove("tools:2").await.unwrap().unwrap().len(), 2);
    let after = held().await;
    assert!(tools.iter().all(|blob| !after.contains(blob)), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_two_images_is_refused_with_both() {
    let (world, ..) = world().await;
    world.registry.put_image("other/app", Some("1"), &[9; 1000]);
    assert_eq!(get(&world.agent, "/v2/other/app/manifests/1").await.status, 200);
    let error = world.agent.explain_named("app:1").await.unwrap_err();
    assert!(matches!(&error, FetchError::Ambiguous { candidates, .. } if candidates.len() == 2), "{error}");
    let text = error.to_string();
    assert!(text.contains("lab/app:1") && text.contains("other/app:1") && text.contains("write more"), "{text}");
}
