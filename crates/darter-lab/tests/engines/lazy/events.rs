//! Events under running containers besides crashes of Darter: engines that restart, images that are removed, agents that stand still, networks that
//! go, disks that are full, layers that are not what their image says.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt as _, chown};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_lab::cluster::{LOCAL, LOCAL_PORT, PEER_PORT};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Route};
use darter_lab::lazy::LazyNode;
use darter_lab::process::wait_until;
use darter_lab::registry::NAME;
use darter_lab::{Agent, Host, Registry};
use rustix::process::Signal;

use super::reading::{Reading, read_everything, read_one};
use super::stand::{BLOB, Known, LATE, LATE_TEXT, SLEEP, data_of, first_pull, kill_keeper, signal_agent};
use crate::lazy::can_mount;
use crate::world::World;

const RATE: &str = "200mbit";
/// How long anything may take that has nothing in its way.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How long reads wait, where a scenario wants to see the end of it.
const LIMIT: Duration = Duration::from_secs(3);

/// The hosts that all scenarios share: a registry with an image, a seed that has read it, and a node.
struct Fleet<'a> {
    known: &'a Known,
    registry: Registry,
    seed: Agent<'a>,
    node: &'a Host,
}

/// Plays a scenario, where layers can be mounted.
fn play(world: &World, scenario: impl FnOnce(&Fleet<'_>) -> Result<()>) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let known = Known::make()?;
    let [origin, seed_host, first, node] = world.hosts(["registry", "seed", "node-first", "node"], RATE)?;
    let registry = Registry::public(&origin, &known.storage)?;
    let seed = Agent::seed(&seed_host, &registry.url())?;
    first_pull(&first, seed.host(), registry.authority(), &known.reference())?;
    scenario(&Fleet { known: &known, registry, seed, node: &node })
}

impl Fleet<'_> {
    fn start_node(&self) -> Result<LazyNode<'_>> {
        LazyNode::start(self.node, self.seed.host(), self.registry.authority())
    }
}

pub(crate) fn containerd_restarts_under_a_container(world: &World) -> Result<()> {
    play(world, |fleet| {
        let mut node = fleet.start_node()?;
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        let reading = Reading::begin(&fleet.known.truth, &data_of(container)?, 1)?;
        node.engine.restart()?;
        ensure!(node.engine.runs_container("reader")?, "containerd does not know the container any more");
        let outcome = reading.finish(TIMEOUT)?;
        ensure!(outcome.errors == 0, "{outcome:?}");
        let next = node.engine.start_container(&reference, "next", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(next)?, 2, TIMEOUT)
    })
}

pub(crate) fn an_image_is_removed_under_its_container(world: &World) -> Result<()> {
    play(world, |fleet| {
        let node = fleet.start_node()?;
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        let reading = Reading::begin(&fleet.known.truth, &data_of(container)?, 1)?;
        node.engine.remove_image(&reference)?;
        let outcome = reading.finish(TIMEOUT)?;
        ensure!(outcome.errors == 0, "{outcome:?}");
        ensure!(node.engine.runs_container("reader")?, "the container went with its image");
        // It can be pulled again, and run.
        node.pull(&reference)?;
        let next = node.engine.start_container(&reference, "next", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(next)?, 2, TIMEOUT)
    })
}

pub(crate) fn an_agent_stands_still_during_a_pull(world: &World) -> Result<()> {
    play(world, |fleet| {
        let node = fleet.start_node()?;
        let reference = fleet.known.reference();
        let name = format!("{}/{}", NAME, fleet.known.with_user.name);
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        signal_agent(&node, Signal::STOP)?;
        let mut pull = node.engine.pull(&name)?;
        // The keeper answers for the agent: what containerd was told of is there, other names are not.
        let digits = fleet.known.image.layers[1].diff.to_string().replace("sha256:", "");
        let shard = node.seen(&node.layers).join("sha256").join(&digits[..2]);
        let there = shard.join(format!("{digits}.erofs"));
        let other = shard.join(format!("{}{}.erofs", &digits[..2], "0".repeat(62)));
        ensure!(within(TIMEOUT, move || fs::symlink_metadata(there).is_ok())?, "what containerd was told of is gone");
        ensure!(within(TIMEOUT, move || fs::symlink_metadata(other).is_err())?, "there is what nobody told of");
        // Reads wait meanwhile.
        let reading = Reading::begin(&fleet.known.truth, &data_of(container)?, 1)?;
        thread::sleep(LIMIT);
        ensure!(pull.is_running(), "the pull needed no agent");
        signal_agent(&node, Signal::CONT)?;
        pull.finish(PULL_TIMEOUT)?;
        let outcome = reading.finish(TIMEOUT)?;
        ensure!(outcome.errors == 0, "{outcome:?}");
        let next = node.engine.start_container(&name, "next", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(next)?, 2, TIMEOUT)
    })
}

/// The answer of a question that may hang.
fn within(patience: Duration, question: impl FnOnce() -> bool + Send + 'static) -> Result<bool> {
    let asking = thread::spawn(question);
    wait_until("an answer of the directory of layers", patience, || Ok(asking.is_finished()))?;
    asking.join().ok().context("the question panicked")
}

pub(crate) fn reads_fail_in_time_without_a_network_and_work_again(world: &World) -> Result<()> {
    play(world, |fleet| {
        let anchor = fleet.node.hold_mounts()?;
        let mut keeper = fleet.node.command_beside(anchor.id(), darter_lab::place::darter_binary()?);
        let layers = fleet.node.make_directory("layers")?;
        let socket = darter_api::socket_path(&fleet.node.make_directory("darter")?);
        keeper.arg("lazy-dir").arg(layers).args(["--fill", "never", "--timeout"]);
        keeper.arg(format!("{}s", LIMIT.as_secs())).arg("--socket").arg(socket);
        let _keeper = fleet.node.spawn("keeper", &mut keeper)?;
        let node = LazyNode::start_beside(fleet.node, fleet.seed.host(), fleet.registry.authority(), anchor)?;
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        let data = data_of(container)?;
        let read = |at: u64| read_one(&fleet.known.truth, &data, "large", at, 4096);
        ensure!(read(0)?.0, "nothing can be read");
        // A file whose reads wait longer than the network is gone.
        let mounted = fleet.node.make_directory("mounted")?;
        let mut mount = fleet.node.command_beside(node.anchor.id(), darter_lab::place::darter_binary()?);
        mount
            .env("DARTER_DATA_DIR", node.agent.data())
            .arg("mount")
            .arg(fleet.known.blob_url(fleet.registry.authority()));
        mount.arg(&mounted).args(["--name", BLOB, "--fill", "never", "--timeout", "10m"]);
        fleet.node.run("darter-mount", &mut mount, TIMEOUT)?;
        let patient = node.seen(&mounted).join(BLOB);
        fleet.node.plug(false)?;
        let fails = || -> Result<()> {
            let (is_read, took) = read(20 << 20)?;
            ensure!(!is_read && took >= LIMIT && took < TIMEOUT, "read: {is_read}, after {took:?}");
            ensure!(read(0)?.0, "what was read before is gone");
            Ok(())
        };
        fails()?;
        // For longer than connections between agents outlast the silence of one.
        let has_peers =
            || anyhow::Ok(node.agent.ask(&["status"])?["peers"].as_array().is_some_and(|peers| !peers.is_empty()));
        wait_until("the agent to give up its seed", TIMEOUT, || Ok(!has_peers()?))?;
        fails()?;
        let truth = fleet.known.blob.join(BLOB);
        let waiting = thread::spawn(move || -> Result<bool> {
            let read = |path| -> Result<Vec<u8>> {
                let mut bytes = vec![0; 100_000];
                File::open(path)?.read_exact_at(&mut bytes, 15 << 20)?;
                Ok(bytes)
            };
            Ok(read(patient)? == read(truth)?)
        });
        thread::sleep(LIMIT);
        ensure!(!waiting.is_finished(), "it waits: {:?}", waiting.join());
        fleet.node.plug(true)?;
        wait_until("the read that waited", TIMEOUT, || Ok(waiting.is_finished()))?;
        ensure!(waiting.join().ok().context("the reader panicked")??, "it read other bytes");
        wait_until("reads to work again", TIMEOUT, || Ok(read(20 << 20)?.0))?;
        read_everything(&fleet.known.truth, &data, 1, TIMEOUT)
    })
}

pub(crate) fn a_start_of_whole_layers_is_noted(world: &World) -> Result<()> {
    /// A part of the image's large file.
    const READ: u64 = 12 << 20;
    play(world, |fleet| {
        let flags = ["--lazy-fill", "always"];
        let node = LazyNode::start_with(fleet.node, fleet.seed.host(), fleet.registry.authority(), &flags)?;
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        node.complete(&fleet.known.image, TIMEOUT)?;
        let large = fleet.known.image.layers[2].diff.to_string();
        // Whether a byte of the large file is known to be read first, and how many bytes of its layer are.
        let known = |at: u64| -> Result<(bool, u64)> {
            let Ok(profile) = node.agent.ask(&["image", "profile", &reference]) else { return Ok((false, 0)) };
            let layers = profile["layers"].as_array().context("a profile has layers")?;
            let Some(layer) = layers.iter().find(|layer| layer["diff_id"] == large.as_str()) else {
                return Ok((false, 0));
            };
            let ranges: Vec<(u64, u64)> = serde_json::from_value(layer["ranges"].clone())?;
            Ok((
                ranges.iter().any(|(start, end)| (*start..*end).contains(&at)),
                layer["bytes"].as_u64().unwrap_or_default(),
            ))
        };
        ensure!(!known(READ)?.0, "nobody has read it");
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        ensure!(read_one(&fleet.known.truth, &data_of(container)?, "large", READ, 4096)?.0, "it can't be read");
        wait_until("the read to be known", TIMEOUT, || Ok(known(READ)?.0))?;
        let (_, bytes) = known(READ)?;
        ensure!(bytes < READ / 2, "{bytes} bytes count as read first");
        Ok(())
    })
}

/// Layers that containerd's snapshots name are to stay in the store: the agent has to know them, whoever tells it.
pub(crate) fn the_agent_learns_which_layers_snapshots_name(world: &World) -> Result<()> {
    play(world, |fleet| {
        let socket = fleet.node.directory().join("containerd/sock").display().to_string();
        let flags = ["--lazy-containerd", &socket];
        let node = LazyNode::start_with(fleet.node, fleet.seed.host(), fleet.registry.authority(), &flags)?;
        ensure!(node.engine.socket() == Path::new(&socket), "containerd listens elsewhere");
        // How many layers the agent has given, and how many of them snapshots name.
        let given = || -> Result<(usize, usize)> {
            let list = fs::read_to_string(node.agent.data().join("layers")).unwrap_or_default();
            let named = list.lines().filter(|line| line.contains(r#""named_by_engine":true"#)).count();
            Ok((list.lines().skip(1).count(), named))
        };
        // A keeper asks when it starts. The next one does not have to wait for ten minutes.
        let ask_again = || kill_keeper("lazy-dir", &node.layers);
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let layers = fleet.known.image.layers.len();
        ensure!(given()? == (layers, 0), "{:?}: nobody has told it", given()?);
        ask_again()?;
        wait_until("the agent to know what snapshots name", TIMEOUT, || Ok(given()? == (layers, layers)))?;
        node.engine.remove_image(&reference)?;
        ask_again()?;
        wait_until("the agent to know that none does any more", TIMEOUT, || Ok(given()? == (layers, 0)))
    })
}

pub(crate) fn a_full_disk_keeps_nobody_from_reading(world: &World) -> Result<()> {
    play(world, |fleet| {
        let anchor = fleet.node.hold_mounts()?;
        let data = fleet.node.make_directory("darter")?;
        let mut mount = fleet.node.command_beside(anchor.id(), "mount");
        mount.args(["-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs"]).arg(&data);
        fleet.node.run("mount", &mut mount, TIMEOUT)?;
        let mut node = LazyNode::start_beside(fleet.node, fleet.seed.host(), fleet.registry.authority(), anchor)?;
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        // Somebody else's file takes what is left, while the layers are open of which little has come.
        let mut filler = File::create(node.seen(&data).join("filler")).context("create a file")?;
        let block = vec![1; 64 << 10];
        let full = loop {
            match filler.write_all(&block) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        ensure!(full.kind() == ErrorKind::StorageFull, "filling the disk: {full}");
        let outcome = Reading::begin(&fleet.known.truth, &data_of(container)?, 1)?.finish(TIMEOUT)?;
        ensure!(outcome.errors == 0, "{outcome:?}");
        let free = node.agent.ask(&["status"])?["store"]["free_bytes"].as_u64().context("a status tells of room")?;
        ensure!(free < 1 << 20, "the disk was not full: {free} bytes are free");
        // An image that is pulled now has room in memory alone, and the agent that starts again knows it.
        let late = fleet.known.late.reference(NAME);
        node.pull(&late)?;
        for layer in &fleet.known.late.layers {
            ensure!(!node.engine.blob(&layer.digest).exists(), "containerd fetched the layer {}", layer.digest);
        }
        node.agent.kill();
        node.agent.start()?;
        for (reference, name) in [(&late, "late"), (&reference, "again")] {
            node.engine.start_container(reference, name, &SLEEP)?;
        }
        let text = node.engine.run(&late, &["/bin/cat", LATE])?;
        ensure!(text == LATE_TEXT, "a container read {text:?}");
        // Room again: the next container is served as ever.
        filler.set_len(0).context("empty a file")?;
        let next = node.engine.start_container(&reference, "next", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(next)?, 2, TIMEOUT)
    })
}

pub(crate) fn a_layer_that_is_not_what_its_image_says_is_never_read(world: &World) -> Result<()> {
    play(world, |fleet| {
        let node = fleet.start_node()?;
        let reference = fleet.known.wrong.reference(NAME);
        // The pull fails, or the container: never is it taken for right.
        let pulled = node.engine.pull(&reference)?.finish(PULL_TIMEOUT);
        let ran = pulled.and_then(|_| node.engine.run(&reference, &["/bin/cat", "/data/large"]).map(drop));
        ensure!(ran.is_err(), "a container read a layer that is not what its image says");
        // The layers below are right, in the image that names them rightly, too.
        let reference = fleet.known.reference();
        node.pull(&reference)?;
        let container = node.engine.start_container(&reference, "reader", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(container)?, 1, TIMEOUT)
    })
}

pub(crate) fn an_agent_without_rights_serves_what_a_keeper_mounts(world: &World) -> Result<()> {
    /// Owns nothing.
    const NOBODY: u32 = 65534;
    play(world, |fleet| {
        let host = fleet.node;
        let anchor = host.hold_mounts()?;
        let (layers, data) = (host.make_directory("layers")?, host.make_directory("darter")?);
        chown(&data, Some(NOBODY), Some(NOBODY)).context("give the agent its directory")?;
        let binary = darter_lab::place::darter_binary()?;
        let mut agent = host.command_beside(anchor.id(), "setpriv");
        let nobody = NOBODY.to_string();
        agent.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups", "--no-new-privs", "--bounding-set=-all"]);
        agent.arg(&binary).args(["node", "--insecure", "--reserve", "0", "--local", LOCAL, "--join"]);
        agent.arg(format!("{}:{PEER_PORT}", fleet.seed.host().address()));
        agent.arg("--listen").arg(format!("{}:{PEER_PORT}", host.address())).arg("--lazy-dir").arg(&layers);
        agent.arg("--upstream").arg(format!("{NAME}={}", fleet.registry.url()));
        agent.env("DARTER_DATA_DIR", &data).env("DARTER_CONFIG", "");
        let mut agent = host.spawn("darter", &mut agent)?;
        agent.wait_for_port(LOCAL_PORT, TIMEOUT)?;
        let mut keeper = host.command_beside(anchor.id(), &binary);
        keeper.arg("lazy-dir").arg(&layers).arg("--socket").arg(darter_api::socket_path(&data));
        let _keeper = host.spawn("keeper", &mut keeper)?;
        let seen = format!("/proc/{}/root{}/sha256", anchor.id(), layers.display());
        wait_until("the directory of layers", TIMEOUT, || Ok(fs::exists(&seen)?))?;
        let route = Route::mirrored(fleet.registry.authority());
        let engine = Containerd::start_lazy(host, &route, &layers, anchor.id())?;
        let reference = fleet.known.reference();
        engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
        for layer in &fleet.known.image.layers {
            ensure!(!engine.blob(&layer.digest).exists(), "containerd fetched the layer {}", layer.digest);
        }
        let container = engine.start_container(&reference, "reader", &SLEEP)?;
        read_everything(&fleet.known.truth, &data_of(container)?, 1, TIMEOUT)?;
        let status = fs::read_to_string(format!("/proc/{}/status", agent.id())).context("look at the agent")?;
        let has = |field: &str| status.lines().any(|line| line.split_whitespace().eq(field.split_whitespace()));
        ensure!(has(&format!("Uid: {NOBODY} {NOBODY} {NOBODY} {NOBODY}")), "the agent is somebody: {status}");
        ensure!(has(&format!("CapBnd: {}", "0".repeat(16))), "the agent has rights: {status}");
        Ok(())
    })
}
