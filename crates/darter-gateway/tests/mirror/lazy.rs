//! Layers of pulled images that can be mounted, asked for by diff id as the directory for containerd asks. With real agents, since they expand them.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use darter_agent::options::{LazyOption, Options, Role};
use darter_agent::{Access, Agent, AtHand, FetchError, Misfit, MountRoom};
use darter_api::changes::Change;
use darter_api::layers::{FoundLayer, LayerAnswer, NamedLayers, Namer};
use darter_api::{Client, GetRequest, LayerRequest, socket_path};
use darter_core::source::{Credentials, blob_of};
use darter_core::{BlobId, Digest};
use darter_gateway::mirror::{Beside, GivenLayers, LayerFound, LazyOptions, Mountable, MountableLayers};
use darter_oci::image::chain_ids;
use darter_store::{Dir, threads};
use http::Method;
use parking_lot::Mutex;
use serde_json::json;

use crate::provenance::{ALICE, get, options};
use crate::registry::{MANIFEST, Registry};
use crate::tar::{dir, file, tar};
use crate::world::world_with;

mod liars;
mod next;

const BOB: &str = "Bearer bob";
const WAIT: Duration = Duration::from_secs(20);
/// More than a loaded machine takes for anything that a played layer is to do.
const WITHIN: Duration = Duration::from_secs(60);
const KEEP: Duration = Duration::from_secs(3600);
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

struct World {
    lab: Registry,
    stranger: Registry,
    dir: tempfile::TempDir,
}

/// A tar of this name.
fn tar_of(name: &str) -> Vec<u8> {
    tar([dir("usr/"), file(&format!("usr/{name}"), name.repeat(1000))])
}

impl World {
    async fn new() -> Self {
        let (lab, stranger) = (Registry::start().await, Registry::start().await);
        Self { lab, stranger, dir: tempfile::tempdir().unwrap() }
    }

    async fn agent(&self, change: impl FnOnce(&mut Options)) -> Agent {
        let mut options = options(Role::Seed, &self.dir.path().join("data"), Vec::new(), &self.lab, &self.stranger);
        options.lazy = Some(LazyOption { wait: WAIT, keep: KEEP });
        options.drain_timeout = Duration::ZERO;
        change(&mut options);
        darter_gateway::start(options).await.unwrap()
    }

    /// An image with these layers and, in its configuration, these diff ids.
    fn image(&self, registry: &Registry, repository: &str, layers: &[&[u8]], diff_ids: &[Digest]) {
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
        let digest = registry.put_blob(repository, config.as_bytes());
        let layer = |layer: &&[u8]| json!({ "mediaType": LAYER, "digest": registry.put_blob(repository, layer), "size": layer.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": digest, "size": config.len() },
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        registry.put_manifest(repository, MANIFEST, manifest.to_string(), Some("1"));
    }

    /// A private image of two layers, which alice may read.
    fn private(&self) -> [Vec<u8>; 2] {
        let layers = [tar_of("base"), tar_of("top")];
        self.lab.allow(ALICE, "private/app");
        self.image(&self.lab, "private/app", &[&layers[0], &layers[1]], &layers.each_ref().map(|tar| id(tar)));
        layers
    }
}

fn id(tar: &[u8]) -> Digest {
    Digest::sha256(tar)
}

/// As an engine pulls: its manifest passes.
async fn pull(agent: &Agent, authorization: &str, registry: &str, repository: &str) -> u16 {
    let path = format!("/v2/{repository}/manifests/1?ns={registry}");
    get(agent, Some(authorization), &path).await.0.as_u16()
}

fn client(agent: &Agent) -> Client {
    Client::at(socket_path(Path::new(&agent.status().data_dir)))
}

async fn look_up(agent: &Agent, diff_id: Digest) -> LayerAnswer {
    client(agent).layer(diff_id, true, Duration::from_secs(5)).await.unwrap()
}

async fn found(agent: &Agent, diff_id: Digest) -> FoundLayer {
    match look_up(agent, diff_id).await {
        LayerAnswer::Found(found) => *found,
        other => panic!("{other:?}"),
    }
}

async fn misses(agent: &Agent, diff_id: Digest) -> bool {
    matches!(look_up(agent, diff_id).await, LayerAnswer::Miss { .. })
}

/// Opens a layer as the keeper of the directory does, and reads its first bytes: those of a superblock.
async fn opens(agent: &Agent, found: FoundLayer) -> bool {
    let request = GetRequest::of_layer(found.layer, found.headers);
    match client(agent).parts(&request).await {
        Ok((opened, _)) => opened.length == found.length_bytes,
        Err(_) => false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_an_image_that_was_pulled_are_found_and_opened_and_others_are_not() {
    let world = World::new().await;
    let [base, top] = world.private();
    let agent = world.agent(|_| ()).await;
    assert!(misses(&agent, id(&base)).await, "nobody has pulled it");
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    for tar in [&base, &top] {
        let layer = found(&agent, id(tar)).await;
        assert!(layer.length_bytes > tar.len() as u64);
        assert_eq!((&*layer.layer.registry, &*layer.layer.repository), ("lab", "private/app"));
        if let Some(file) = &layer.file {
            assert_eq!(std::fs::metadata(file).unwrap().len(), layer.length_bytes);
        }
        assert!(opens(&agent, layer).await);
    }
    assert!(misses(&agent, Digest::sha256(b"another")).await);
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_keeps_no_profiles_says_that_it_wants_no_reports_of_touches() {
    for profiles in [true, false] {
        let world = World::new().await;
        let [base, _] = world.private();
        let agent = world.agent(|options| options.profiles = profiles).await;
        assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
        let found = found(&agent, id(&base)).await;
        let opened = client(&agent).parts(&GetRequest::of_layer(found.layer, found.headers)).await;
        assert_eq!(opened.unwrap().0.takes_touches, profiles);
        agent.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_that_merely_names_a_private_layers_diff_id_gets_a_miss() {
    let world = World::new().await;
    let [base, top] = world.private();
    world.lab.allow(BOB, "bob/liar");
    world.lab.allow(BOB, "bob/copy");
    let bogus = tar_of("bogus");
    world.image(&world.lab, "bob/liar", &[&bogus], &[id(&base)]);
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    let _ = found(&agent, id(&base)).await;
    assert_eq!(pull(&agent, BOB, "lab", "bob/liar").await, 200);
    assert!(misses(&agent, id(&base)).await, "it may be bob who asks");
    let _ = found(&agent, id(&top)).await;
    assert_eq!(pull(&agent, BOB, "lab", "private/app").await, 401, "bob may not read it");

    // A stranger's registry names the layer itself, and says yes to everything.
    world.image(&world.stranger, "evil", &[&top], &[id(&top)]);
    let digest = Digest::sha256(&top);
    world.stranger.state.lock().repositories.get_mut("evil").unwrap().blobs.remove(&digest);
    world.stranger.state.lock().says_yes = true;
    assert_eq!(pull(&agent, BOB, &world.stranger.name(), "evil").await, 200);
    assert!(misses(&agent, id(&top)).await, "which it never delivered");
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_of_two_repositories_is_given_for_both_also_where_their_registry_has_to_deliver_it_for_each() {
    let world = World::new().await;
    let [base, one, two] = ["base", "one", "two"].map(tar_of);
    for (repository, own) in [("one", &one), ("two", &two)] {
        world.image(&world.stranger, repository, &[&base, own], &[id(&base), id(own)]);
    }
    let (agent, registry) = (world.agent(|_| ()).await, world.stranger.name());
    assert_eq!(pull(&agent, ALICE, &registry, "one").await, 200);
    assert_eq!(all_of(&found(&agent, id(&one)).await).len(), 2);
    // Another engine has downloaded it.
    let blob = format!("/v2/one/blobs/{}?ns={registry}", id(&base));
    assert_eq!(get(&agent, Some(ALICE), &blob).await.1, Some(base.clone()));
    // An engine that has the lower layer as a mounted one can't pull the other image the ordinary way any more.
    assert_eq!(pull(&agent, ALICE, &registry, "two").await, 200);
    assert_eq!(all_of(&found(&agent, id(&two)).await).len(), 2);
    let _ = found(&agent, id(&base)).await;
    agent.drain().await;
}

/// Everything that an answer has: the layer and those beside it.
fn all_of(found: &FoundLayer) -> Vec<Digest> {
    let mut all: Vec<_> = found.beside.iter().map(|beside| beside.layer.diff_id).collect();
    all.push(found.layer.diff_id);
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_has_all_layers_of_the_image_but_those_that_would_not_be_given_and_changes_are_told_first() {
    let world = World::new().await;
    let [base, top] = world.private();
    let agent = world.agent(|_| ()).await;
    let mut changes = client(&agent).changes().await.unwrap();
    assert_eq!(changes.look(), Change::None);
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    assert_eq!(changes.look(), Change::Some, "before the manifest has come");
    // The lower layer may be known before the upper one.
    let layer = found(&agent, id(&top)).await;
    assert_eq!(all_of(&layer), [id(&base), id(&top)]);
    assert_eq!(changes.look(), Change::Some, "the image was looked at");
    assert_eq!(all_of(&found(&agent, id(&base)).await), [id(&top), id(&base)]);
    assert_eq!(changes.look(), Change::None, "what was answered holds");
    // Bob's configuration names alice's layer.
    world.lab.allow(BOB, "bob/liar");
    let bogus = tar_of("bogus");
    world.image(&world.lab, "bob/liar", &[&bogus], &[id(&top)]);
    assert_eq!(pull(&agent, BOB, "lab", "bob/liar").await, 200);
    assert_eq!(changes.look(), Change::Some, "before bob can ask for it");
    assert_eq!(all_of(&found(&agent, id(&base)).await), [id(&base)], "the other one is to be looked at");
    assert!(misses(&agent, id(&top)).await);
    assert_eq!(all_of(&found(&agent, id(&base)).await), [id(&base)]);
    agent.drain().await;
    drop(agent);
    assert_eq!(changes.look(), Change::Over);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_of_two_images_is_given_with_the_login_of_the_one_that_answers_for_it_whoever_asks_for_the_others_layers()
 {
    let world = World::new().await;
    let [shared, first, second] = ["shared", "first", "second"].map(tar_of);
    for (login, repository, own) in [(ALICE, "alice/app", &first), (BOB, "bob/app", &second)] {
        world.lab.allow(login, repository);
        world.image(&world.lab, repository, &[own, &shared], &[id(own), id(&shared)]);
    }
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "alice/app").await, 200);
    // The uppermost layer is known last.
    let _ = found(&agent, id(&shared)).await;
    let answer = found(&agent, id(&first)).await;
    assert_eq!(all_of(&answer), [id(&shared), id(&first)]);
    // Her login may be no good any more by now: the latest pull counts.
    assert_eq!(pull(&agent, BOB, "lab", "bob/app").await, 200);
    let is_bobs =
        |found: &FoundLayer| found.layer.repository == "bob/app" && found.headers.iter().any(|(_, value)| value == BOB);
    assert!(is_bobs(&found(&agent, id(&shared)).await));
    assert_eq!(all_of(&found(&agent, id(&first)).await), [id(&first)], "the other one is not given with her login");
    let answer = found(&agent, id(&second)).await;
    assert_eq!(all_of(&answer), [id(&shared), id(&second)]);
    assert!(answer.beside.iter().all(is_bobs));
    let alone = client(&agent).layer(id(&second), false, Duration::from_secs(5)).await.unwrap();
    let LayerAnswer::Found(alone) = alone else { panic!("{alone:?}") };
    assert!(alone.beside.is_empty(), "nobody asked for them");
    agent.drain().await;
}

/// Layers that can be had, or not any more.
#[derive(Clone, Default)]
struct Played(Arc<Mutex<PlayedState>>);

#[derive(Default)]
struct PlayedState {
    /// Those that can't be had.
    gone: HashSet<Digest>,
    /// Those that were opened and have not failed since.
    open: HashSet<BlobId>,
    /// Those that are still being read.
    read: HashSet<Digest>,
    /// Those of which it is not known whether they name all of their directories.
    unnamed: HashSet<BlobId>,
    /// Those of which the parts were fetched that every mount reads.
    fetched: Vec<BlobId>,
    /// Those of which the work was stopped.
    let_go: Vec<Digest>,
}

impl Played {
    /// Waits until this is so, and panics with `what` if it never is.
    async fn until(&self, what: &str, is_so: impl Fn(&PlayedState) -> bool) {
        let waits = async {
            while !is_so(&self.0.lock()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(WITHIN, waits).await.unwrap_or_else(|_| panic!("waited {WITHIN:?} in vain until {what}"));
    }
}

#[async_trait]
impl MountableLayers for Played {
    async fn expanded(&self, layer: &LayerRequest, _: Credentials, _: Duration) -> Result<Mountable, FetchError> {
        self.until("the test lets the layer be read", |state| !state.read.contains(&layer.diff_id)).await;
        let mut state = self.0.lock();
        if state.gone.contains(&layer.diff_id) {
            return Err(FetchError::Silent);
        }
        let blob = blob_of(&layer.diff_id);
        state.open.insert(blob);
        Ok(Mountable { blob, length: 4096 })
    }

    fn fetch_for_mount(&self, layers: &[BlobId], _: &mut MountRoom) {
        self.0.lock().fetched.extend(layers);
    }

    fn let_go(&self, layers: &[Digest]) {
        self.0.lock().let_go.extend(layers);
    }

    async fn misfit(&self, _: Vec<BlobId>, _: Duration) -> Result<Option<Misfit>, FetchError> {
        Ok(None)
    }

    async fn names_all(&self, layer: BlobId, _: Duration) -> bool {
        self.until("the test lets the layer name its directories", |state| !state.unnamed.contains(&layer)).await;
        true
    }

    async fn are_ready(&self, blobs: Vec<BlobId>) -> Vec<bool> {
        blobs.iter().map(|blob| self.0.lock().open.contains(blob)).collect()
    }

    async fn at_hand(&self, blobs: Vec<BlobId>) -> Vec<AtHand> {
        vec![AtHand::default(); blobs.len()]
    }

    async fn spare(&self, _: Vec<BlobId>, _: bool) {}
}

/// A mirror in front of layers that are played, which has passed the manifest of an image with these diff ids.
async fn played_world(played: &Played, diff_ids: &[Digest]) -> (crate::world::World, tempfile::TempDir) {
    let list = tempfile::tempdir().unwrap();
    let path = list.path().to_owned();
    let given = threads::run(move || GivenLayers::open(Dir::open(&path).unwrap(), KEEP)).await;
    let layers = Arc::new(played.clone());
    let world = world_with(|options, _| options.lazy = Some(LazyOptions { layers, wait: WAIT, given })).await;
    let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } }).to_string();
    let digest = world.registry.put_blob("app", config.as_bytes());
    world.agent.hold(config.clone());
    let layer = |diff_id: &Digest| {
        let stored = format!("stored {diff_id}");
        json!({ "mediaType": LAYER, "digest": world.registry.put_blob("app", stored.as_bytes()), "size": stored.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": digest, "size": config.len() },
        "layers": diff_ids.iter().map(layer).collect::<Vec<_>>(),
    });
    world.registry.put_manifest("app", MANIFEST, manifest.to_string(), Some("1"));
    assert_eq!(world.send(Method::GET, "/v2/app/manifests/1", &[]).await.status, 200);
    (world, list)
}

#[tokio::test]
async fn the_lower_layers_are_given_while_the_upper_ones_are_being_read() {
    let diff_ids = ["base", "middle", "top"].map(|name| Digest::sha256(name.as_bytes()));
    let [base, middle, top] = diff_ids;
    let played = Played::default();
    played.0.lock().read.extend([middle, top]);
    let (world, _list) = played_world(&played, &diff_ids).await;
    let ask = |diff_id| {
        let mirror = Arc::clone(&world.mirror);
        tokio::spawn(async move {
            match mirror.layer(diff_id, Beside::All).await {
                LayerFound::Found(found) => Some(found.beside.len()),
                LayerFound::Miss(_) => None,
            }
        })
    };
    let of_top = ask(top);
    assert_eq!(ask(base).await.unwrap(), Some(0), "an engine has work with it meanwhile");
    let of_middle = ask(middle);
    assert_eq!(ask(base).await.unwrap(), Some(0));
    played.until("the base is fetched for mounts", |state| state.fetched == [blob_of(&base)]).await;
    played.0.lock().read.remove(&top);
    // Though the middle one may take long.
    let both = [base, top].map(|diff_id| blob_of(&diff_id));
    played.until("the top is fetched for mounts, too", |state| state.fetched == both).await;
    assert_eq!(ask(base).await.unwrap(), Some(0));
    assert!(!of_top.is_finished() && !of_middle.is_finished(), "one below it is not known");
    played.0.lock().read.remove(&middle);
    assert!(of_middle.await.unwrap().is_some() && of_top.await.unwrap().is_some());
    assert_eq!(ask(base).await.unwrap(), Some(2));
    let fetched: HashSet<_> = played.0.lock().fetched.drain(..).collect();
    assert_eq!(fetched, diff_ids.iter().map(blob_of).collect());
    assert!(played.0.lock().let_go.is_empty());
}

#[tokio::test]
async fn layers_below_one_that_cannot_be_mounted_stay_given_and_those_above_it_are_not() {
    let diff_ids = ["base", "odd", "top"].map(|name| Digest::sha256(name.as_bytes()));
    let [base, odd, top] = diff_ids;
    let played = Played::default();
    played.0.lock().gone.insert(odd);
    played.0.lock().read.insert(odd);
    let (world, _list) = played_world(&played, &diff_ids).await;
    let is_given = async |diff_id| matches!(world.mirror.layer(diff_id, Beside::All).await, LayerFound::Found(_));
    assert!(is_given(base).await);
    played.0.lock().read.remove(&odd);
    assert!(!is_given(top).await && !is_given(odd).await);
    assert!(is_given(base).await, "an engine relies on it");
    assert_eq!(played.0.lock().let_go, [odd, top], "which the engine downloads");
}

#[tokio::test]
async fn a_layer_is_not_given_early_that_may_have_to_be_compared_with_those_below() {
    let diff_ids = ["base", "unsaid", "top"].map(|name| Digest::sha256(name.as_bytes()));
    let [base, unsaid, top] = diff_ids;
    let played = Played::default();
    played.0.lock().unnamed.insert(blob_of(&unsaid));
    played.0.lock().read.insert(top);
    let (world, _list) = played_world(&played, &diff_ids).await;
    let is_given = async |diff_id| matches!(world.mirror.layer(diff_id, Beside::All).await, LayerFound::Found(_));
    let mirror = Arc::clone(&world.mirror);
    let asking = tokio::spawn(async move { mirror.layer(unsaid, Beside::None).await });
    assert!(is_given(base).await);
    played.until("the middle layer is opened", |state| state.open.contains(&blob_of(&unsaid))).await;
    assert!(is_given(base).await && !asking.is_finished());
    played.0.lock().read.remove(&top);
    assert!(matches!(asking.await.unwrap(), LayerFound::Found(_)), "all of them were compared");
}

#[tokio::test]
async fn a_layer_that_cannot_be_had_any_more_is_not_promised_and_one_that_failed_is_opened_anew() {
    let played = Played::default();
    let diff_ids = [Digest::sha256(b"base"), Digest::sha256(b"top")];
    let (world, _list) = played_world(&played, &diff_ids).await;
    let [base, top] = diff_ids;
    // How many stand beside it; `None`: it is not given.
    let ask = async |diff_id| match world.mirror.layer(diff_id, Beside::All).await {
        LayerFound::Found(found) => Some(found.beside.len()),
        LayerFound::Miss(_) => None,
    };
    assert_eq!(ask(base).await, Some(1));
    let fail = |diff_id: Digest| played.0.lock().open.remove(&blob_of(&diff_id));
    assert!(fail(top));
    assert_eq!(ask(base).await, Some(0), "the other one has failed");
    assert_eq!(ask(top).await, Some(1), "it is opened anew");
    assert_eq!(ask(base).await, Some(1));
    assert!(fail(base));
    played.0.lock().gone.insert(base);
    assert_eq!(ask(base).await, None, "an engine would mount what can't be read");
    assert_eq!(ask(top).await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_many_layers_asks_upstream_no_more_than_one_of_one_and_small_layers_come_whole() {
    const MANY: usize = 33;
    let world = World::new().await;
    let layers: Vec<_> = (0..MANY).map(|number| tar_of(&format!("{number}"))).collect();
    let ids: Vec<_> = layers.iter().map(|tar| id(tar)).collect();
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    world.image(&world.lab, "many", &all, &ids);
    world.image(&world.lab, "one", &all[..1], &ids[..1]);
    let seed = world.agent(|_| ()).await;
    // The fleet knows both.
    for name in ["one", "many"] {
        assert_eq!(pull(&seed, ALICE, "lab", name).await, 200);
        let uppermost = if name == "one" { 0 } else { MANY - 1 };
        let _ = found(&seed, ids[uppermost]).await;
    }
    let join = vec![seed.status().listen.unwrap()];
    let mut asked = Vec::new();
    for (name, layer) in [("one", 0), ("many", MANY - 1)] {
        let directory = world.dir.path().join(name);
        let node = world
            .agent(|options| {
                (options.role, options.join, options.data_dir) = (Role::Node, join.clone(), directory.clone());
            })
            .await;
        let _ = world.lab.asked();
        assert_eq!(pull(&node, ALICE, "lab", name).await, 200);
        let answer = found(&node, ids[layer]).await;
        let lines = world.lab.asked();
        assert!(!lines.iter().any(|line| ids.iter().any(|id| line.contains(&id.to_string()))), "{lines:?}");
        asked.push(lines.len());
        // Nobody reads anything.
        let whole = async {
            while node.list().await.unwrap().iter().filter(|row| row.complete).count() <= all_of(&answer).len() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(WAIT, whole).await.expect("they come, and the configuration");
        let again = found(&node, ids[layer]).await;
        assert_eq!(all_of(&again).len(), all_of(&answer).len());
        assert!(again.file.is_some() && again.beside.iter().all(|beside| beside.file.is_some()));
        for beside in again.beside.into_iter().take(2) {
            assert!(opens(&node, beside).await);
        }
        node.drain().await;
    }
    assert_eq!(asked[0], asked[1]);
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_id_finds_the_uppermost_of_its_layers_by_the_same_rule() {
    let world = World::new().await;
    let [base, top] = world.private();
    let agent = world.agent(|_| ()).await;
    let client = client(&agent);
    let ask = async |chain| client.uppermost_layer(chain, Duration::from_secs(5)).await.unwrap();
    let [first, second] = chain_ids(&[id(&base), id(&top)])[..] else { panic!("two") };
    assert!(matches!(ask(second).await, LayerAnswer::Miss { .. }), "nobody has pulled it");
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    for (chain, tar) in [(second, &top), (first, &base)] {
        let LayerAnswer::Found(found) = ask(chain).await else { panic!("it is found") };
        assert_eq!(found.layer.diff_id, id(tar));
    }
    // Bob's configuration puts the private layer on another one.
    world.lab.allow(BOB, "bob/liar");
    let (under, bogus) = (tar_of("under"), tar_of("bogus"));
    world.image(&world.lab, "bob/liar", &[&under, &bogus], &[id(&under), id(&top)]);
    assert_eq!(pull(&agent, BOB, "lab", "bob/liar").await, 200);
    let liars = chain_ids(&[id(&under), id(&top)])[1];
    assert!(matches!(ask(liars).await, LayerAnswer::Miss { .. }), "it is another layer in truth");
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_of_an_image_up_to_one_that_cannot_be_mounted() {
    let world = World::new().await;
    let good = tar_of("good");
    let no_tar = vec![7; 5000];
    let last = tar_of("last");
    world.image(&world.lab, "odd", &[&good, &no_tar, &last], &[id(&good), id(&no_tar), id(&last)]);
    // Another number of diff ids than of layers.
    world.image(&world.lab, "short", &[&last], &[]);
    // The same layer twice, and an empty one.
    let empty = vec![0; 1024];
    world.image(&world.lab, "fine", &[&empty, &last, &empty], &[id(&empty), id(&last), id(&empty)]);
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "odd").await, 200);
    assert_eq!(pull(&agent, ALICE, "lab", "short").await, 200);
    for tar in [&no_tar, &last] {
        assert!(misses(&agent, id(tar)).await, "one of them can't be mounted");
    }
    assert!(opens(&agent, found(&agent, id(&good)).await).await, "it is below that one");
    assert_eq!(pull(&agent, ALICE, "lab", "fine").await, 200);
    for tar in [&empty, &last] {
        assert!(opens(&agent, found(&agent, id(tar)).await).await);
    }
    agent.drain().await;
}

/// Unpacked, the directory would have the mode that the layer below says, which a mounted layer can't know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_with_a_directory_that_its_layer_does_not_name_is_given_only_where_the_layers_below_have_it_alike() {
    let world = World::new().await;
    let base = tar([dir("tmp/").mode(0o1777), dir("srv/"), file("srv/old", "")]);
    let plain_base = tar([dir("tmp/"), file("tmp/old", "")]);
    let [named, unnamed] = [tar([dir("tmp/").mode(0o1777), file("tmp/named", "")]), tar([file("tmp/unnamed", "")])];
    let alike = tar([file("srv/alike", "")]);
    for (name, below, above) in [
        ("named", &base, &named),
        ("unnamed", &base, &unnamed),
        ("alike", &base, &alike),
        ("plain", &plain_base, &unnamed),
    ] {
        world.image(&world.lab, name, &[below, above], &[id(below), id(above)]);
    }
    let seed = world.agent(|_| ()).await;
    let (join, data_dir) = (vec![seed.status().listen.unwrap()], world.dir.path().join("node"));
    // An agent that has everything, and one that has its word for it.
    let node =
        world.agent(|options| (options.role, options.join, options.data_dir) = (Role::Node, join, data_dir)).await;
    for agent in [&seed, &node] {
        for (name, above) in [("named", &named), ("alike", &alike), ("plain", &unnamed)] {
            assert_eq!(pull(agent, ALICE, "lab", name).await, 200);
            let _ = found(agent, id(above)).await;
        }
        let _ = found(agent, id(&base)).await;
        assert_eq!(pull(agent, ALICE, "lab", "unnamed").await, 200);
        assert!(misses(agent, id(&unnamed)).await, "its puller may be the one who asks");
        let _ = found(agent, id(&base)).await;
    }
    node.drain().await;
    seed.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_by_an_answer_is_told_when_a_layer_can_not_be_had_any_more() {
    let world = World::new().await;
    // Long enough for some of it to be given before its end is known to be wrong.
    let (tar, wrong) = (tar([file("large", vec![7; 3 << 20])]), tar_of("another"));
    world.image(&world.lab, "app", &[&tar], &[id(&tar)]);
    let agent = world.agent(|_| ()).await;
    let mut changes = client(&agent).changes().await.unwrap();
    assert_eq!(changes.look(), Change::None);
    // Somebody opens a layer that turns out to have another tar.
    let layer = LayerRequest {
        registry: "lab".to_owned(),
        repository: "app".to_owned(),
        digest: id(&tar),
        size: None,
        media_type: None,
        diff_id: id(&wrong),
    };
    assert!(agent.expanded(&layer, Credentials::none(), Access::Granted, WAIT).await.is_err());
    let told = async {
        while changes.look() != Change::Some {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WAIT, told).await.expect("a change");
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_known_though_who_asked_first_went_away_while_its_configuration_was_read() {
    let world = World::new().await;
    let tar = tar_of("slow");
    world.image(&world.lab, "app", &[&tar], &[id(&tar)]);
    let agent = world.agent(|_| ()).await;
    assert_eq!(pull(&agent, ALICE, "lab", "app").await, 200);
    let asked = world.lab.asked().len();
    world.lab.state.lock().slow_blobs = Duration::from_millis(20);
    world.lab.state.lock().slow_heads = Duration::from_secs(2);
    let (client, first) = (client(&agent), id(&tar));
    let going = tokio::spawn(async move { client.layer(first, true, Duration::from_secs(5)).await });
    while world.lab.asked().len() == asked {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    going.abort();
    let _ = going.await;
    world.lab.state.lock().slow_heads = Duration::ZERO;
    // The agent hears of it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(found(&agent, id(&tar)).await.layer.repository, "app");
    agent.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_the_directory_finds_nothing_and_what_is_no_diff_id_is_refused() {
    let world = World::new().await;
    let [base, _] = world.private();
    let agent = world.agent(|options| options.lazy = None).await;
    assert_eq!(pull(&agent, ALICE, "lab", "private/app").await, 200);
    assert!(misses(&agent, id(&base)).await);
    agent.drain().await;
}
