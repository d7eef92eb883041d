//! A registry that claims to have what it never had: whose word opens what is cached (k3s documents the kind for its
//! embedded mirror; spegel#1432). With real agents, since they decide.

use std::path::Path;
use std::time::Duration;

use darter_agent::Agent;
use darter_agent::options::{Options, Role, UpstreamOption};
use darter_core::Digest;
use http::StatusCode;

use crate::registry::Registry;
use crate::seed;
use crate::world::content;

pub(crate) const ALICE: &str = "Bearer alice";

/// An agent's options; `lab` is its one configured registry, `reachable` may be asked and is not trusted.
pub(crate) fn options(role: Role, dir: &Path, join: Vec<String>, lab: &Registry, reachable: &Registry) -> Options {
    let lab = UpstreamOption {
        name: "lab".into(),
        urls: vec![format!("http://{}", lab.address).parse().unwrap()],
        ..UpstreamOption::default()
    };
    Options {
        role,
        local: Some(([127, 0, 0, 1], 0).into()),
        upstreams: vec![lab],
        plain_http: vec![reachable.name()],
        grant_ttl: Duration::from_secs(300),
        lazy: None,
        drain_timeout: Duration::from_secs(5),
        ..seed::node(dir, join)
    }
}

/// The answer to a GET of the agent's mirror: its status, and its body unless that broke off.
pub(crate) async fn get(agent: &Agent, authorization: Option<&str>, path: &str) -> (StatusCode, Option<Vec<u8>>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.get(format!("http://{}{path}", agent.status().local.unwrap()));
    if let Some(authorization) = authorization {
        request = request.header("authorization", authorization);
    }
    let response = request.send().await.unwrap();
    (response.status(), response.bytes().await.ok().map(|bytes| bytes.to_vec()))
}

/// Copies the files of a directory, without the lock and the socket.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, to) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() && entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A private image of `lab`, and a stranger that says yes to everything.
pub(crate) struct World {
    pub(crate) lab: Registry,
    pub(crate) stranger: Registry,
    pub(crate) layer: Vec<u8>,
    pub(crate) digest: Digest,
    manifest: Digest,
}

pub(crate) async fn world() -> World {
    let (lab, stranger) = (Registry::start().await, Registry::start().await);
    let layer = content(300_000);
    let (manifest, [_, digest]) = lab.put_image("private/app", Some("1"), &layer);
    lab.allow(ALICE, "private/app");
    stranger.state.lock().says_yes = true;
    World { lab, stranger, layer, digest, manifest }
}

impl World {
    /// A seed that knows both registries, with its data in `dir`.
    async fn seed(&self, dir: &Path) -> Agent {
        let options = options(Role::Seed, dir, Vec::new(), &self.lab, &self.stranger);
        darter_gateway::start(options).await.unwrap()
    }

    pub(crate) fn paths(&self, registry: &str) -> [String; 2] {
        let of = |kind: &str, digest: &Digest| format!("/v2/private/app/{kind}/{digest}?ns={registry}");
        [of("manifests", &self.manifest), of("blobs", &self.digest)]
    }

    /// Alice pulls the private image.
    pub(crate) async fn pull(&self, agent: &Agent) {
        assert_eq!(get(agent, Some(ALICE), "/v2/private/app/manifests/1?ns=lab").await.0, 200);
        let [manifest, blob] = self.paths("lab");
        assert_eq!(get(agent, Some(ALICE), &manifest).await.0, 200);
        assert_eq!(get(agent, Some(ALICE), &blob).await, (StatusCode::OK, Some(self.layer.clone())));
    }

    /// Nobody gets the image on the stranger's word.
    async fn assert_closed(&self, agent: &Agent) {
        for path in self.paths(&self.stranger.name()) {
            let (status, body) = get(agent, None, &path).await;
            assert!(!status.is_success(), "{path}: {status}");
            assert!(body.is_none_or(|body| body.len() < 1000), "{path}");
        }
        // A tag of the stranger's that "is" the private manifest opens nothing either.
        let tag = format!("/v2/private/app/manifests/{}?ns={}", "2", self.stranger.name());
        assert!(!get(agent, None, &tag).await.0.is_success());
    }
}

#[tokio::test]
async fn a_registry_that_says_yes_to_everything_opens_nothing_also_after_a_restart() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    world.pull(&agent).await;
    world.assert_closed(&agent).await;
    agent.drain().await;

    // A copy of the disk, for another agent: the first one keeps its lock as long as this process lives.
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let agent = options(Role::Seed, copied.path(), Vec::new(), &world.lab, &world.stranger);
    let agent = darter_gateway::start(agent).await.unwrap();
    world.assert_closed(&agent).await;
    world.lab.asked();
    world.pull(&agent).await;
    let read_again = world.lab.asked().into_iter().filter(|line| line.starts_with("GET") && line.contains("/blobs/"));
    assert_eq!(read_again.count(), 0, "what the registry delivered before the restart is served from the store");
    agent.drain().await;
}

/// The place in the store had the name of whoever began, and counted as delivered by him once another one had filled it.
#[tokio::test]
async fn a_registry_that_began_and_never_ended_opens_nothing_of_what_another_one_delivers() {
    let world = world().await;
    let wrong = vec![7; world.layer.len()];
    {
        let mut state = world.stranger.state.lock();
        (state.says_yes, state.blobs_stop_after) = (false, Some(290_000));
    }
    world.stranger.put_blob("private/app", b"");
    world.stranger.state.lock().repositories.get_mut("private/app").unwrap().blobs.insert(world.digest, wrong.into());
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    let [_, blob] = world.paths(&world.stranger.name());
    let began = tokio::time::timeout(Duration::from_secs(2), get(&agent, None, &blob)).await;
    assert!(began.is_err(), "it stands still: {began:?}");
    assert!(agent.list().await.unwrap().iter().any(|row| row.held > 0), "a part of it is kept");
    agent.drain().await;

    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let agent = options(Role::Seed, copied.path(), Vec::new(), &world.lab, &world.stranger);
    let agent = darter_gateway::start(agent).await.unwrap();
    world.pull(&agent).await;
    {
        let mut state = world.stranger.state.lock();
        state.repositories.clear();
        state.says_yes = true;
    }
    world.assert_closed(&agent).await;
    agent.drain().await;
}

/// The part that another registry had left unfinished was thrown away and read again, whichever registry it was.
#[tokio::test]
async fn what_one_trusted_registry_began_another_one_goes_on_with() {
    for both_are_trusted in [true, false] {
        let world = world().await;
        {
            let mut state = world.stranger.state.lock();
            (state.says_yes, state.blobs_stop_after) = (false, Some(290_000));
        }
        world.stranger.put_blob("private/app", &world.layer);
        let options = |dir: &Path| {
            let mut options = options(Role::Seed, dir, Vec::new(), &world.lab, &world.stranger);
            if both_are_trusted {
                options.trusted_registries = vec![world.stranger.name()];
            }
            options
        };
        let dir = tempfile::tempdir().unwrap();
        let agent = darter_gateway::start(options(dir.path())).await.unwrap();
        let [_, blob] = world.paths(&world.stranger.name());
        let began = tokio::time::timeout(Duration::from_secs(2), get(&agent, None, &blob)).await;
        assert!(began.is_err(), "it stands still: {began:?}");
        let held = agent.list().await.unwrap().iter().map(|row| row.held).max();
        assert_eq!(held, Some(262_144), "a piece of it is kept");
        agent.drain().await;

        let copied = tempfile::tempdir().unwrap();
        copy(dir.path(), copied.path());
        let agent = darter_gateway::start(options(copied.path())).await.unwrap();
        world.lab.asked();
        world.pull(&agent).await;
        let seen = std::mem::take(&mut world.lab.state.lock().seen);
        let of_layer = format!("GET /v2/private/app/blobs/{}", world.digest);
        let reads = seen.iter().filter(|seen| seen.line.starts_with(&of_layer));
        let ranges: Vec<_> = reads.map(|seen| seen.headers.get("range").map(|range| range.to_str().unwrap())).collect();
        let rest = both_are_trusted.then_some("bytes=262144-299999");
        assert_eq!(ranges, [rest], "both are trusted: {both_are_trusted}");
        agent.drain().await;
    }
}

#[tokio::test]
async fn a_registry_that_claimed_it_and_went_away_opens_nothing_either() {
    let mut world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    world.pull(&agent).await;
    world.assert_closed(&agent).await;
    let paths = world.paths(&world.stranger.name());
    std::mem::replace(&mut world.stranger, Registry::start().await).stop().await;
    for path in paths {
        assert!(!get(&agent, None, &path).await.0.is_success(), "{path}");
    }
    agent.drain().await;
}

#[tokio::test]
async fn a_manifest_of_a_stranger_that_names_the_layer_opens_nothing() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    world.pull(&agent).await;
    world.stranger.put_index("private/app", "mine", &[world.manifest, world.digest]);
    world.stranger.state.lock().says_yes = false;
    let mine = format!("/v2/private/app/manifests/mine?ns={}", world.stranger.name());
    assert_eq!(get(&agent, None, &mine).await.0, 200);
    world.assert_closed(&agent).await;
    // Nor does one in another repository of the trusted registry: its word on the blob itself counts.
    world.lab.put_index("public/app", "mine", &[world.manifest, world.digest]);
    world.lab.allow("Bearer bob", "public/app");
    assert_eq!(get(&agent, Some("Bearer bob"), "/v2/public/app/manifests/mine?ns=lab").await.0, 200);
    for path in world.paths("lab") {
        let path = path.replace("private", "public");
        assert_eq!(get(&agent, Some("Bearer bob"), &path).await.0, 404, "{path}");
    }
    agent.drain().await;
}

#[tokio::test]
async fn a_seed_opens_nothing_to_a_node_on_a_strangers_word() {
    let world = world().await;
    let (for_seed, for_node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seed = options(Role::Seed, for_seed.path(), Vec::new(), &world.lab, &world.stranger);
    let seed = darter_gateway::start(seed).await.unwrap();
    world.pull(&seed).await;
    let join = vec![seed.status().listen.unwrap()];
    let node =
        darter_gateway::start(options(Role::Node, for_node.path(), join, &world.lab, &world.stranger)).await.unwrap();
    world.assert_closed(&node).await;
    world.pull(&node).await;
    world.assert_closed(&node).await;
    node.drain().await;
    seed.drain().await;
}

#[tokio::test]
async fn a_registry_that_delivers_its_own_copy_counts_as_one_that_has_it() {
    let world = world().await;
    world.stranger.state.lock().says_yes = false;
    world.stranger.put_image("private/app", Some("1"), &world.layer);
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    world.pull(&agent).await;
    let whole = (StatusCode::OK, Some(world.layer.clone()));
    let [_, blob] = world.paths(&world.stranger.name());
    let reads = |registry: &Registry| registry.asked().iter().filter(|line| line.starts_with("GET")).count();
    assert_eq!(get(&agent, None, &blob).await, whole);
    assert_eq!(reads(&world.stranger), 1, "its own copy was passed on");
    assert_eq!(get(&agent, None, &blob).await, whole);
    assert_eq!(reads(&world.stranger), 0, "now it is known to have it");
    agent.drain().await;
}

#[tokio::test]
async fn a_strangers_wrong_copy_breaks_off_and_proves_nothing() {
    let world = world().await;
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    world.pull(&agent).await;
    let mut wrong = world.layer.clone();
    wrong[299_999] ^= 1;
    world.stranger.put_blob("private/app", b"");
    world.stranger.state.lock().repositories.get_mut("private/app").unwrap().blobs.insert(world.digest, wrong.into());
    let [_, blob] = world.paths(&world.stranger.name());
    assert_eq!(get(&agent, None, &blob).await, (StatusCode::OK, None), "the body breaks off");
    assert_eq!(get(&agent, None, &blob).await.0, StatusCode::BAD_GATEWAY, "and is refused up front from then on");
    let [_, blob] = world.paths("lab");
    assert_eq!(get(&agent, Some(ALICE), &blob).await.0, StatusCode::OK, "where it is right, it is served");
    agent.drain().await;
}

#[tokio::test]
async fn nodes_that_ask_for_what_their_seed_has_from_elsewhere_cost_the_registry_one_comparison() {
    let world = world().await;
    world.stranger.state.lock().says_yes = false;
    world.stranger.put_image("private/app", Some("1"), &world.layer);
    let (for_seed, for_node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seed = options(Role::Seed, for_seed.path(), Vec::new(), &world.lab, &world.stranger);
    let seed = darter_gateway::start(seed).await.unwrap();
    world.pull(&seed).await;
    let join = vec![seed.status().listen.unwrap()];
    let node =
        darter_gateway::start(options(Role::Node, for_node.path(), join, &world.lab, &world.stranger)).await.unwrap();
    let [_, blob] = world.paths(&world.stranger.name());
    assert_eq!(get(&node, None, &blob).await, (StatusCode::OK, Some(world.layer.clone())));
    let reads = world.stranger.asked().iter().filter(|line| line.starts_with("GET")).count();
    assert_eq!((reads, node.status().traffic.from_origin), (1, 0), "the seed compared, the node got it from the seed");
    node.drain().await;
    seed.drain().await;
}

#[tokio::test]
async fn a_registry_at_a_private_address_is_asked_only_if_it_is_configured() {
    let world = world().await;
    let unknown = Registry::start().await;
    unknown.put_image("app", Some("1"), b"layer");
    let dir = tempfile::tempdir().unwrap();
    let agent = world.seed(dir.path()).await;
    let port = unknown.address.port();
    for name in [unknown.name(), format!("localhost:{port}"), format!("[::ffff:127.0.0.1]:{port}"), format!("0:{port}")]
    {
        for path in [format!("/v2/app/manifests/1?ns={name}"), format!("/v2/{name}/app/manifests/1")] {
            let (status, body) = get(&agent, None, &path).await;
            assert!(status.is_client_error(), "{path}: {status}");
            let body = String::from_utf8(body.unwrap()).unwrap();
            assert!(body.contains("--upstream") || body.contains("NAME_INVALID"), "{path}: {body}");
        }
    }
    assert_eq!(unknown.asked(), [""; 0]);
    agent.drain().await;
}

/// A seed that has nothing of a blob lets in whoever names a registry that answers; a node that holds the blob from elsewhere
/// must not take that for a proof.
#[tokio::test]
async fn a_seed_that_lost_the_blob_opens_nothing_of_its_nodes_to_a_stranger() {
    let world = world().await;
    let (for_seed, for_node) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let seed = options(Role::Seed, for_seed.path(), Vec::new(), &world.lab, &world.stranger);
    let seed = darter_gateway::start(seed).await.unwrap();
    let join = vec![seed.status().listen.unwrap()];
    let node =
        darter_gateway::start(options(Role::Node, for_node.path(), join, &world.lab, &world.stranger)).await.unwrap();
    world.pull(&node).await;
    assert_eq!(seed.remove(&world.digest.to_string()).await.unwrap().unwrap().len(), 1);
    // It claims the blob, and its answer begins: with other bytes, since it never had these.
    world.stranger.put_blob("private/app", b"");
    let bytes = vec![7; world.layer.len()].into();
    world.stranger.state.lock().repositories.get_mut("private/app").unwrap().blobs.insert(world.digest, bytes);
    let [_, blob] = world.paths(&world.stranger.name());
    for _ in 0..2 {
        let (status, body) = get(&node, None, &blob).await;
        assert!(body.as_ref() != Some(&world.layer), "{status}");
    }
    let [_, blob] = world.paths("lab");
    assert_eq!(get(&node, Some(ALICE), &blob).await, (StatusCode::OK, Some(world.layer.clone())), "nothing was lost");
    node.drain().await;
    seed.drain().await;
}
