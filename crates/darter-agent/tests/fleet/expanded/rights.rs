//! Nobody is given a layer that their own credentials would not have opened, whatever a caller, a gateway or another registry says.

use super::*;

const BOB: &str = "Basic Ym9iOnNlY3JldA==";

fn credentials(authorization: &str) -> Credentials {
    Credentials { headers: vec![("authorization".into(), authorization.into())] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_what_their_own_credentials_would_not_have_opened() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    // Bob has a repository of his own, with a layer of his own.
    let own = gzip(b"bob's own");
    let his = registry.put_blob("lab/bobs", &own);
    registry.allow(ALICE, "lab/app");
    registry.allow(BOB, "lab/bobs");
    let seed = seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    let open = async |layer: &LayerRequest, authorization| {
        node.expanded(layer, credentials(authorization), Access::Asked, WITHIN).await
    };
    open(&layer, ALICE).await.unwrap().ensure(ByteRange::new(0, 10), WITHIN).await.unwrap();
    for agent in [&seed, &node] {
        for nobody in [credentials(BOB), Credentials::none()] {
            let error = agent.expanded(&layer, nobody, Access::Asked, WITHIN).await.err().unwrap();
            assert!(matches!(kind(&error), Some(ErrorKind::Unauthorized { .. })), "{error:?}");
        }
    }
    // He names the tar of a layer that he may not read as that of one that he may.
    let claim =
        LayerRequest { repository: "lab/bobs".into(), digest: his, size: Some(own.len() as u64), ..layer.clone() };
    for agent in [&seed, &node] {
        let error = agent.expanded(&claim, credentials(BOB), Access::Asked, WITHIN).await.err().unwrap();
        assert!(!matches!(kind(&error), Some(ErrorKind::Unauthorized { .. })), "his layer is his: {error:?}");
    }
    assert!(open(&layer, ALICE).await.is_ok());
    join_all([&node, &seed].map(Agent::drain)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_a_caller_makes_up_opens_no_blob_behind_a_gateway_that_says_yes() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = registry_with(&some_tar()).await;
    registry.allow(ALICE, "lab/app");
    let page = r#"{"please":"log in"}"#;
    {
        let mut state = registry.state.lock();
        state.no_digest_header = true;
        state.gateway = Some(("application/json", page.into()));
    }
    let seed = seed(directory.path(), &registry).await;
    let open = async |size: Option<usize>, credentials| {
        let (registry, repository) = (layer.registry.clone(), layer.repository.clone());
        let size = size.map(|size| size as u64);
        seed.registry_blob(&BlobRequest { registry, repository, digest: layer.digest, size }, credentials, WITHIN).await
    };
    let hers = open(None, credentials(ALICE)).await.expect("the registry told how long it is");
    hers.ensure(ByteRange::new(0, 10), WITHIN).await.unwrap();
    for made_up in [None, Some(page.len()), layer.size.map(|size| size as usize)] {
        let error = open(made_up, Credentials::none()).await.err().expect("only Alice may read it");
        assert_eq!(kind(&error), Some(&ErrorKind::Protocol), "{made_up:?}");
    }
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repositorys_name_that_makes_the_path_of_another_blob_opens_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (registry, layer) = registry_with(&some_tar()).await;
    // As long as the layer that Bob may not read.
    let his = registry.put_blob("lab/bobs", &vec![7; layer.size.unwrap() as usize]);
    registry.allow(ALICE, "lab/app");
    registry.allow(BOB, "lab/bobs");
    registry.state.lock().no_digest_header = true;
    let seed = seed(directory.path(), &registry).await;
    let open = async |repository: &str, login| {
        let (registry, repository) = (layer.registry.clone(), repository.to_owned());
        let blob = BlobRequest { registry, repository, digest: layer.digest, size: layer.size };
        seed.registry_blob(&blob, credentials(login), WITHIN).await
    };
    open("lab/app", ALICE).await.unwrap().ensure(ByteRange::new(0, 10), WITHIN).await.unwrap();
    for repository in [format!("lab/bobs/blobs/{his}?x="), format!("lab/bobs/blobs/{his}#"), "lab/bobs/../app".into()] {
        let error = open(&repository, BOB).await.err().expect("only Alice may read it");
        assert_eq!(kind(&error), Some(&ErrorKind::Protocol), "{repository}");
    }
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_says_yes_to_every_digest_opens_no_layer_that_came_from_another() {
    let directory = tempfile::tempdir().unwrap();
    let tar = some_tar();
    let (registry, layer) = registry_with(&tar).await;
    let stored = gzip(&tar);
    let (evil, friend) = (Registry::start().await, Registry::start().await);
    evil.state.lock().says_yes = true;
    friend.put_blob("lab/app", &stored);
    let seed = seed(directory.path(), &registry).await;
    let node = node(directory.path(), "node", &registry, &[&seed]).await;
    let trusting = Options { trusted_registries: vec![friend.name()], ..options(directory.path(), "alone", &registry) };
    let alone = darter_gateway::start(trusting).await.unwrap();
    for agent in [&seed, &alone] {
        let got = get(agent, &format!("/v2/lab/app/blobs/{}", layer.digest)).await;
        assert!(got.status == 200 && got.body == stored);
    }
    registry.asked();
    let claim = LayerRequest { registry: evil.name(), ..layer.clone() };
    let refused = async || {
        for agent in [&alone, &node, &seed] {
            // That it said yes is granted: an address of this network is not asked by default.
            let opened = agent.expanded(&claim, Credentials::none(), Access::Granted, WITHIN).await;
            let Ok(download) = opened else { continue };
            let got = download.ensure(ByteRange::new(0, 1), WITHIN).await;
            assert!(got.is_err(), "{} was given for a registry that does not have it", layer.digest);
        }
    };
    // It has nothing, and nothing is expanded yet.
    refused().await;
    // One that the operator trusts has only to say yes, and nobody reads the layer again of whom it came from.
    assert!(read(&alone, &LayerRequest { registry: friend.name(), ..layer.clone() }).await.unwrap() == expanded(&tar));
    for agent in [&alone, &node] {
        assert!(read(agent, &layer).await.unwrap() == expanded(&tar));
    }
    assert_eq!(
        reads(&registry, layer.digest) + reads(&friend, layer.digest),
        0,
        "the copy that is stored here will do"
    );
    // Now the expanded file is here, too; then it sends something else.
    refused().await;
    evil.put_blob_as("lab/app", layer.digest, &gzip(b"others"));
    refused().await;
    join_all([&node, &seed, &alone].map(Agent::drain)).await;
}
