//! A fleet before one registry: what it costs the registry, and what nodes get that could not ask it themselves.

mod without_a_seed;

use std::path::Path;
use std::time::Duration;

use darter_agent::options::{LoginOption, Role, StaleTags};
use darter_agent::{Agent, Options};
use darter_core::source::Credentials;
use darter_core::{Digest, Source, rendezvous};
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode};

use crate::registry::{Registry, Seen};
use crate::seed;

const NODES: usize = 8;
const TAG: &str = "/v2/lab/app/manifests/1";
/// `alice:secret`, and what the registry's token service makes of it.
const ALICE: &str = "Basic YWxpY2U6c2VjcmV0";
const ALICES_TOKEN: &str = "Bearer YWxpY2U6c2VjcmV0";

pub(crate) fn options(directory: &Path, name: &str, registry: &Registry) -> Options {
    Options {
        local: Some(([127, 0, 0, 1], 0).into()),
        default_upstream: Some(registry.name()),
        grant_ttl: Duration::from_secs(300),
        ..seed::node(&directory.join(name), Vec::new())
    }
}

async fn start_seed(directory: &Path, registry: &Registry, logins: Vec<LoginOption>) -> Agent {
    let options = Options { role: Role::Seed, logins, ..options(directory, "seed", registry) };
    darter_gateway::start(options).await.unwrap()
}

async fn start_nodes(directory: &Path, registry: &Registry, seed: &Agent) -> Vec<Agent> {
    let join = vec![seed.status().listen.unwrap()];
    let options = (0..NODES).map(|n| Options { join: join.clone(), ..options(directory, &n.to_string(), registry) });
    join_all(options.map(|options| async { darter_gateway::start(options).await.unwrap() })).await
}

pub(crate) struct Got {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    pub(crate) body: bytes::Bytes,
}

pub(crate) async fn get(agent: &Agent, path: &str) -> Got {
    get_accepting(agent, path, "*/*").await
}

async fn get_accepting(agent: &Agent, path: &str, accept: &str) -> Got {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}{path}", agent.status().local.unwrap());
    let response = client.get(url).header("accept", accept).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Got { status, headers, body: response.bytes().await.unwrap() }
}

/// As an engine pulls: the index by tag, the image by digest, then its blobs.
async fn pull(agent: &Agent, image: Digest, blobs: &[Digest]) {
    assert_eq!(get(agent, TAG).await.status, 200);
    assert_eq!(get(agent, &format!("/v2/lab/app/manifests/{image}")).await.status, 200);
    for blob in blobs {
        let got = get(agent, &format!("/v2/lab/app/blobs/{blob}")).await;
        assert_eq!(Digest::sha256(&got.body), *blob);
    }
}

fn put_image(registry: &Registry) -> (Digest, [Digest; 2]) {
    let (image, blobs) = registry.put_image("lab/app", None, &[7; 300_000]);
    registry.put_index("lab/app", "1", &[image]);
    (image, blobs)
}

/// The requests of one pull of the image to its registry, sorted.
fn once(image: Digest, blobs: [Digest; 2]) -> Vec<String> {
    let mut once = vec![format!("GET {TAG}"), format!("GET /v2/lab/app/manifests/{image}")];
    once.extend(blobs.map(|blob| format!("GET /v2/lab/app/blobs/{blob}")));
    once.sort();
    once
}

/// dragonfly#3783, huggingface_hub#4487: it used to be two manifests for each node.
#[tokio::test(flavor = "multi_thread")]
async fn eight_nodes_that_pull_one_image_cost_the_registry_what_one_costs() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    join_all(nodes.iter().map(|node| pull(node, image, &blobs))).await;
    let asked = read_of(&registry);
    assert_eq!(asked, once(image, blobs));
    // The next pulls ask for the tag alone, within a few seconds once for all.
    join_all(nodes.iter().map(|node| pull(node, image, &blobs))).await;
    assert_eq!(registry.asked(), [format!("HEAD {TAG}")]);
}

/// As a direct pull would be: engines and registries know SHA-384 and SHA-512, and no others.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_whichever_algorithm_is_pulled_through_the_fleet_and_checked() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let options = options(directory.path(), "node", &registry);
    let join = vec![seed.status().listen.unwrap()];
    let node = darter_gateway::start(Options { join, ..options }).await.unwrap();
    let (layer, manifest) = (vec![7; 600_000], r#"{"schemaVersion":2,"config":{},"layers":[]}"#);
    let kinds = [Digest::Sha256([0; 32]), Digest::Sha384([0; 48]), Digest::Sha512([0; 64])];
    assert_eq!(kinds.map(|kind| kind.algorithm()), Digest::ALGORITHMS);
    for kind in kinds {
        let digest_of = |bytes: &[u8]| {
            let mut hasher = kind.hasher();
            hasher.update(bytes);
            hasher.finish()
        };
        let (blob, image) = (digest_of(&layer), digest_of(manifest.as_bytes()));
        registry.put_blob_as("lab/app", blob, &layer);
        registry.put_signed("lab/app", "application/vnd.oci.image.manifest.v1+json", image, manifest.into(), "1");
        let got = get(&node, &format!("/v2/lab/app/manifests/{image}")).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, manifest.as_bytes()), "{image}");
        let path = format!("/v2/lab/app/blobs/{blob}");
        let got = get(&node, &path).await;
        assert!(got.status == 200 && got.body == layer, "{blob}");
        assert_eq!(got.headers["docker-content-digest"], blob.to_string());
        let reads = registry.asked().iter().filter(|line| line.starts_with("GET") && line.contains(&path)).count();
        assert_eq!(reads, 1, "{blob}");
        // Wrong content of it is no more passed on than of any other.
        let wrong = digest_of(b"right");
        registry.put_blob_as("lab/app", wrong, b"wrong");
        assert_ne!(get(&node, &format!("/v2/lab/app/blobs/{wrong}")).await.status, 200, "{wrong}");
    }
    for other in ["blake3:00", &format!("md5:{}", "0".repeat(32))] {
        let got = get(&node, &format!("/v2/lab/app/blobs/{other}")).await;
        let text = String::from_utf8(got.body.to_vec()).unwrap();
        assert!(got.status == 400 && text.contains("known: sha256, sha384, sha512"), "{} {text}", got.status);
    }
    node.drain().await;
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_access_checks_of_a_fleet_are_one_request_each() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (_, [_, layer]) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    let blob = format!("/v2/lab/app/blobs/{layer}");
    for (path, asked) in [
        ("/v2/lab/app/tags/list", vec!["GET /v2/lab/app/tags/list".to_owned()]),
        ("/v2/lab/app/manifests/none", vec!["GET /v2/lab/app/manifests/none".to_owned()]),
        (&blob, vec![format!("HEAD {blob}"), format!("GET {blob}")]),
    ] {
        let got = join_all(nodes.iter().map(|node| get(node, path))).await;
        assert!(got.windows(2).all(|two| (two[0].status, &two[0].body) == (two[1].status, &two[1].body)), "{path}");
        assert_eq!(registry.asked(), asked);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeds_login_opens_its_registry_to_nodes_that_have_none_and_a_callers_own_is_used_where_brought() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    registry.allow(ALICES_TOKEN, "lab/app");
    registry.state.lock().realm = Some(format!("http://{}/token", registry.address));
    let login = LoginOption { registry: registry.name(), username: "alice".to_owned(), password: "secret".to_owned() };
    let seed = start_seed(directory.path(), &registry, vec![login]).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    join_all(nodes.iter().map(|node| pull(node, image, &blobs))).await;
    assert_eq!(registry.state.lock().tokens.len(), 1, "one token for the fleet");
    let ask_as = async |authorization: &str| {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{TAG}", nodes[0].status().local.unwrap());
        client.get(url).header("authorization", authorization).send().await.unwrap().status()
    };
    assert_eq!(ask_as("Basic bWFsbG9yeTpndWVzcw==").await, 401);
    assert_eq!(ask_as(ALICE).await, 200);
}

/// harbor#13566: the fleet goes on with what any of it has pulled.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_pulled_gets_what_the_fleet_holds_while_the_registry_is_away() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    pull(&nodes[0], image, &blobs).await;
    registry.state.lock().broken = Some(StatusCode::TOO_MANY_REQUESTS);
    registry.asked();
    // Another `Accept`, so that the seed does not give the answer that it has just been given.
    let got = get_accepting(&nodes[1], TAG, crate::registry::INDEX).await;
    assert_eq!((got.status.as_u16(), got.headers.contains_key("darter-stale")), (200, true));
    pull(&nodes[1], image, &blobs).await;
    registry.stop().await;
    pull(&nodes[2], image, &blobs).await;
}

/// How a registry is away.
#[derive(Clone, Copy, Debug)]
enum Away {
    Gone,
    Hangs,
    Answers(u16),
    /// A portal answers in its place.
    Portal,
}

/// How a seed comes to have nothing of what it read.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// It comes back with an empty disk.
    Disk,
    /// Its blobs made room for others.
    Blobs,
}

/// harbor#13566, where the seed has nothing of it any more: the nodes that hold the blobs give them, to the seed's own host too, and
/// nobody waits until the seed has given the registry up.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_seed_lost_comes_from_nodes_while_the_registry_is_away() {
    let answers = [429, 503, 500].map(Away::Answers);
    let ways = [Away::Gone, Away::Hangs, Away::Portal].into_iter().chain(answers);
    let cases = ways.flat_map(|away| [(away, Lost::Disk), (away, Lost::Blobs)]);
    join_all(cases.map(|(away, lost)| async move {
        let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
        let (image, blobs) = put_image(&registry);
        let seed = start_seed(directory.path(), &registry, Vec::new()).await;
        let listen = seed.status().listen.unwrap();
        let node = async |name: &str| {
            let options = Options { join: vec![listen.clone()], ..options(directory.path(), name, &registry) };
            darter_gateway::start(options).await.unwrap()
        };
        let (holder, newcomer) = (node("holder").await, node("newcomer").await);
        pull(&holder, image, &blobs).await;
        let seed = match lost {
            Lost::Blobs => {
                for blob in &blobs {
                    assert_eq!(seed.remove(&blob.to_string()).await.unwrap().map(|gone| gone.len()), Some(1));
                }
                seed
            }
            Lost::Disk => {
                seed.drain().await;
                drop(seed);
                let another = options(directory.path(), "another disk", &registry);
                let options = Options { role: Role::Seed, listen: Some(listen.parse().unwrap()), ..another };
                let seed = darter_gateway::start(options).await.unwrap();
                while [&holder, &newcomer].iter().any(|node| !node.status().seeds.iter().any(|seed| seed.up)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                seed
            }
        };
        let address = registry.address;
        let registry = match away {
            Away::Gone => {
                registry.stop().await;
                None
            }
            Away::Hangs => {
                registry.state.lock().hangs = true;
                Some(registry)
            }
            Away::Portal => {
                registry.state.lock().portal = Some("<html>Welcome! Log in to the network</html>");
                Some(registry)
            }
            Away::Answers(status) => {
                registry.state.lock().broken = Some(StatusCode::from_u16(status).unwrap());
                Some(registry)
            }
        };
        // A blob first, as who has the manifest asks.
        let ask_all = async |agent, who| {
            for path in [format!("blobs/{}", blobs[0]), format!("manifests/{image}"), format!("blobs/{}", blobs[1])] {
                let got = get(agent, &format!("/v2/lab/app/{path}?ns={address}")).await;
                let text = String::from_utf8_lossy(&got.body[..got.body.len().min(300)]).into_owned();
                assert_eq!(got.status, 200, "{away:?} {lost:?} {who} {path}: {text}");
            }
            let got = get_accepting(agent, &format!("{TAG}?ns={address}"), crate::registry::INDEX).await;
            // A registry that answers at all may have another image for the tag by now.
            let is_known = matches!(away, Away::Gone | Away::Answers(429));
            assert!(!is_known || got.status == 200, "{away:?} {lost:?} {who}: {:?}", got.body);
        };
        tokio::join!(ask_all(&newcomer, "newcomer"), ask_all(&seed, "seed"));
        let named = seed.status().wrong;
        let is_portal = matches!(away, Away::Portal);
        assert!(!is_portal || named.iter().any(|it| it.from.contains(&address.to_string())), "{lost:?}: {named:?}");
        drop((seed, registry));
    }))
    .await;
}

/// As wrong content of any other kind: the pause before anybody tries again holds for the way past the agent, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_blobs_place_is_asked_for_once_however_often_programs_ask() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, [_, layer]) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    assert_eq!(get(&seed, &format!("/v2/lab/app/manifests/{image}")).await.status, 200);
    registry.asked();
    registry.state.lock().portal = Some("<!DOCTYPE html><html>Please log in</html>");
    let path = format!("/v2/lab/app/blobs/{layer}");
    for _ in 0..5 {
        let got = get(&seed, &path).await;
        assert_eq!(got.status, 502, "{}", String::from_utf8_lossy(&got.body));
    }
    let asked = registry.asked();
    assert_eq!(asked.iter().filter(|asked| **asked == format!("GET {path}")).count(), 1, "{asked:?}");
}

/// The seed may be told anything, and answers a tag as it was last seen by default.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_to_serve_no_stale_tags_takes_none_from_its_seed() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, blobs) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let join = vec![seed.status().listen.unwrap()];
    let strict =
        Options { join: join.clone(), stale_tags: StaleTags::Never, ..options(directory.path(), "strict", &registry) };
    let strict = darter_gateway::start(strict).await.unwrap();
    let lenient =
        darter_gateway::start(Options { join, ..options(directory.path(), "lenient", &registry) }).await.unwrap();
    pull(&strict, image, &blobs).await;
    registry.stop().await;
    // Another `Accept`, so that nobody gives the answer that was just given.
    let got = get_accepting(&strict, TAG, crate::registry::INDEX).await;
    assert_eq!(got.status.as_u16(), 502);
    assert!(String::from_utf8_lossy(&got.body).contains("--stale-tags never"), "{:?}", got.body);
    assert_eq!(get(&strict, &format!("/v2/lab/app/manifests/{image}")).await.status, 200, "a digest is never stale");
    let got = get_accepting(&lenient, TAG, crate::registry::INDEX).await;
    assert_eq!((got.status.as_u16(), got.headers.contains_key("darter-stale")), (200, true));
}

/// huggingface_hub#3342: no host goes round the seed to ask for itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_less_is_not_asked_by_every_host() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    registry.state.lock().broken = Some(StatusCode::TOO_MANY_REQUESTS);
    for path in ["/v2/lab/app/manifests/2", "/v2/lab/app/tags/list"] {
        for got in join_all(nodes.iter().map(|node| get(node, path))).await {
            assert_eq!((got.status.as_u16(), got.headers["retry-after"].to_str().unwrap()), (429, "7"));
        }
        assert_eq!(registry.asked().len(), 1, "{path}");
    }
}

/// huggingface_hub#4487: the same for the bytes of a blob.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_less_is_not_asked_for_a_blob_by_every_host() {
    let (directory, registry) = (tempfile::tempdir().unwrap(), Registry::start().await);
    let (image, [_, layer]) = put_image(&registry);
    let seed = start_seed(directory.path(), &registry, Vec::new()).await;
    let nodes = start_nodes(directory.path(), &registry, &seed).await;
    let manifest = format!("/v2/lab/app/manifests/{image}");
    for got in join_all(nodes.iter().map(|node| get(node, &manifest))).await {
        assert_eq!(got.status, 200);
    }
    registry.asked();
    registry.state.lock().broken = Some(StatusCode::TOO_MANY_REQUESTS);
    let blob = format!("/v2/lab/app/blobs/{layer}");
    for got in join_all(nodes.iter().map(|node| get(node, &blob))).await {
        assert_eq!(got.status, 429, "{}", String::from_utf8_lossy(&got.body));
    }
    let asked = registry.asked();
    assert!(asked.len() < NODES, "{asked:?}");
}

/// The targets that were read, sorted. A node that comes more than three seconds after the first asks, once for all, whether it is still
/// so.
fn read_of(registry: &Registry) -> Vec<String> {
    let (mut read, checked): (Vec<_>, Vec<_>) =
        registry.asked().into_iter().partition(|asked| asked.starts_with("GET "));
    assert!(checked.len() <= 2, "{checked:?}");
    read.sort();
    read
}
