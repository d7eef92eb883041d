//! `darter snapshotter`, asked as containerd asks: by containerd's own suite, and by the distribution's containerd, which has no other way to start lazily.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, Digest, SystemClock};
use darter_lab::engine::{PULL_TIMEOUT, Proxied, Route, suite};
use darter_lab::oci::{Layer, Layout};
use darter_lab::process::wait_until;
use darter_lab::registry::NAME;
use darter_lab::rootfs::Tar;
use darter_lab::{Agent, Host, Process, Registry, Snapshotter};
use darter_oci::media_type;
use serde_json::json;

use crate::world::{Came, World, sizes};

const RATE: &str = "200mbit";

/// Tests of the suite in containerd 2.4.2.
const SUITE: usize = 21;

pub(crate) fn containerds_own_suite_passes(world: &World) -> Result<()> {
    let [host] = world.hosts(["snapshotter"], RATE)?;
    let snapshotter = Snapshotter::alone(&host)?;
    let passed = suite::run(&host, snapshotter.socket(), snapshotter.process_id())?;
    eprintln!("  {} of {SUITE} pass", passed.len());
    ensure!(passed.len() == SUITE, "{passed:?} passed, and {SUITE} are there");
    Ok(())
}

/// Reads files of its image again and again, and says so.
const READER: &str = "while :; do cat /etc/os-release /usr/bin/perl > /dev/null || exit 3; echo read; sleep 0.2; done";

pub(crate) fn the_distributions_containerd_starts_lazily(world: &World) -> Result<()> {
    let kernel = fs::read_to_string("/proc/filesystems").context("read which file systems there are")?;
    if !kernel.contains("\terofs") || !fs::exists("/dev/fuse")? {
        eprintln!("skipped: this kernel has no EROFS, or no FUSE");
        return Ok(());
    }
    let [origin, seed, host] = world.hosts(["registry", "seed", "node-1"], RATE)?;
    let storage = origin.make_directory("storage")?;
    let mixed = Mixed::shelve(world, &origin, &storage)?;
    let registry = Registry::public(&origin, &storage)?;
    let _seed = Agent::seed(&seed, &registry.url())?;
    let layers = host.make_directory("layers")?;
    let mut node = Agent::node_with(&host, &registry.url(), &seed, &["--lazy-dir", &layers.display().to_string()])?;
    let process = node.process_id().context("the agent runs")?;
    let seen = format!("/proc/{process}/root{}/sha256", layers.display());
    wait_until("the directory of layers", PULL_TIMEOUT, || Ok(fs::exists(&seen)?))?;
    let mut snapshotter = Snapshotter::beside(&node, &layers)?;
    let engine = Proxied::start(&host, &Route::mirrored(registry.authority()), &snapshotter, process)?;

    let image = &world.shelf.tools;
    let reference = image.reference(NAME);
    let clock = SystemClock::start();
    let (start, (major, minor)) = (clock.now(), engine.version());
    eprintln!("  containerd {major}.{minor}");
    engine.pull(&reference)?;
    let pulled = clock.now();
    ensure!(snapshotter.mounted()?.is_empty(), "a pull mounts nothing");
    let told = engine.run(&reference, "first", &["sh", "-c", "ls / && cat /etc/os-release"])?;
    let came = Came::to(&node)?;
    eprintln!(
        "  pull {:.2} s, run {:.2} s, {} of {} bytes came",
        pulled.since(start).as_secs_f64(),
        clock.now().since(pulled).as_secs_f64(),
        came.all(),
        image.size()
    );
    ensure!(told.contains("PRETTY_NAME"), "the container said {told}");
    for (digest, _) in sizes(image) {
        ensure!(!engine.has(digest), "containerd fetched the layer {digest}");
    }
    ensure!(came.from_origin == 0, "the node read the registry itself: {came:?}");
    let mounted = snapshotter.mounted()?;
    ensure!(mounted.len() == image.layers.len(), "each layer is mounted once: {mounted:?}");

    // The agent keeps what snapshots name.
    let named = |what: &str| -> Result<usize> {
        let list = fs::read_to_string(node.data().join("layers")).context("read the agent's list of layers")?;
        Ok(list.matches(&format!("\"named\":{what}")).count())
    };
    wait_until("the agent to know what snapshots name", PULL_TIMEOUT, || Ok(named("true")? == image.layers.len()))?;

    // An image of which a layer can't be shown is downloaded, on those layers of it that are lazy by now.
    engine.pull(&mixed.reference())?;
    let told = engine.run(&mixed.reference(), "mixed", &["cat", "/above", "/etc/os-release"])?;
    ensure!(told.starts_with("unpacked\n") && told.contains("PRETTY_NAME"), "the container of both kinds said {told}");
    ensure!(engine.has(&mixed.top), "the layer that can't be shown was fetched");
    for (digest, _) in sizes(image) {
        ensure!(!engine.has(digest), "containerd fetched the layer {digest}, which it has lazily");
    }
    // A layer that is whole by now is mounted from the store's file for new containers.
    let again = |mounted: &[String], now: &[String]| -> Result<()> {
        let are_kept = mounted.iter().all(|place| now.contains(place));
        ensure!(are_kept && now.len() <= 2 * image.layers.len(), "mounted was {mounted:?}, and is {now:?}");
        Ok(())
    };
    again(&mounted, &snapshotter.mounted()?)?;

    // Killed and started again under a container.
    let mut reader = engine.begin(&reference, "reader", &["sh", "-c", READER])?;
    let reads = |reader: &Process| -> Result<usize> { Ok(reader.output()?.lines().count()) };
    wait_until("the container to read", PULL_TIMEOUT, || Ok(reads(&reader)? > 2 || !reader.is_running()))?;
    ensure!(reader.is_running(), "the container did not read: {}", reader.tail());
    let mounted = snapshotter.mounted()?;
    snapshotter.restart()?;
    let before = reads(&reader)?;
    // One of a layer that was not whole when it was mounted, and has been since, stays a while, in case that containerd was just told of it.
    let mounted: Vec<_> = snapshotter.mounted()?.into_iter().filter(|place| mounted.contains(place)).collect();
    let found = image.layers.len()..=2 * image.layers.len();
    ensure!(found.contains(&mounted.len()), "its mounts were found again: {:?}", snapshotter.mounted()?);
    // containerd's client waits a little before it connects again.
    wait_until("containerd to find the snapshotter again", PULL_TIMEOUT, || {
        let told = engine.run(&reference, "second", &["cat", "/etc/os-release"]);
        Ok(told.is_ok_and(|told| told.contains("PRETTY_NAME")))
    })?;
    again(&mounted, &snapshotter.mounted()?)?;
    // So is the agent.
    node.kill();
    node.start()?;
    wait_until("the container to read on", PULL_TIMEOUT, || Ok(reads(&reader)? > before + 5 || !reader.is_running()))?;
    ensure!(reader.is_running(), "the container's reads failed: {}", reader.tail());
    let told = engine.run(&reference, "third", &["cat", "/etc/os-release"])?;
    ensure!(told.contains("PRETTY_NAME"), "the third container said {told}");

    // Layers that nobody names any more are unmounted, but not under a running container.
    engine.remove_images()?;
    again(&mounted, &snapshotter.mounted()?)?;
    engine.stop("reader")?;
    reader.wait(PULL_TIMEOUT)?;
    engine.collect()?;
    wait_until("the mounts to go", PULL_TIMEOUT, || Ok(snapshotter.mounted()?.is_empty()))?;
    let list = || fs::read_to_string(node.data().join("layers")).context("read the agent's list of layers");
    wait_until("the agent to hear of it", PULL_TIMEOUT, || Ok(!list()?.contains("\"named\":true")))
}

/// An image of the laboratory's layers below, and a layer above that is kept away from registries: none that can be mounted.
struct Mixed {
    /// The digest of the layer above.
    top: Digest,
}

impl Mixed {
    const NAME: &str = "library/mixed:1";

    fn reference(&self) -> String {
        format!("{NAME}/{}", Self::NAME)
    }

    /// Puts it into a registry's storage, which gets everything that the laboratory's has.
    fn shelve(world: &World, host: &Host, storage: &Path) -> Result<Self> {
        let mut copy = host.command("cp");
        copy.args(["--archive", "--symbolic-link"]).arg(world.shelf.storage().join("docker")).arg(storage);
        host.run("cp", &mut copy, PULL_TIMEOUT)?;
        let content = host.make_directory("above")?;
        fs::write(content.join("above"), "unpacked\n").context("write a file")?;
        let layout = Layout::create(&host.make_directory("layout")?)?;
        let top = layout.add_layer(Tar::of(&content)?)?;
        let below = &world.shelf.tools.layers;
        let diffs: Vec<_> = below.iter().chain([&top]).map(|layer| layer.diff).collect();
        let config = json!({
            "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
            "os": "linux",
            "config": { "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = config.to_string();
        let described = |layer: &Layer, kind| json!({ "mediaType": kind, "digest": layer.digest, "size": layer.size });
        let mut layers: Vec<_> = below.iter().map(|layer| described(layer, media_type::LAYER)).collect();
        layers.push(described(&top, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::MANIFEST,
            "config": { "mediaType": media_type::CONFIG, "digest": Digest::sha256(config.as_bytes()), "size": config.len() },
            "layers": layers,
        });
        let manifest = manifest.to_string();
        let root = storage.join("docker/registry/v2");
        let (repository, tag) = Self::NAME.split_once(':').context("it has a tag")?;
        let repository = root.join("repositories").join(repository);
        let write = |path: PathBuf, content: &[u8]| -> Result<()> {
            fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))
        };
        let place = |digest: Digest| digest.to_string().replace(':', "/");
        let gzip = fs::read(layout.blob(top.digest)).context("read a layer")?;
        let manifest_digest = Digest::sha256(manifest.as_bytes());
        for content in [gzip.as_slice(), config.as_bytes(), manifest.as_bytes()] {
            let digest = Digest::sha256(content);
            let hex = digest.to_string().replace("sha256:", "");
            write(root.join("blobs/sha256").join(&hex[..2]).join(&hex).join("data"), content)?;
            if digest != manifest_digest {
                write(repository.join("_layers").join(place(digest)).join("link"), digest.to_string().as_bytes())?;
            }
        }
        for layer in below {
            let link = repository.join("_layers").join(place(layer.digest)).join("link");
            write(link, layer.digest.to_string().as_bytes())?;
        }
        let manifests = repository.join("_manifests");
        let link = manifest_digest.to_string();
        write(manifests.join("revisions").join(place(manifest_digest)).join("link"), link.as_bytes())?;
        write(manifests.join("tags").join(tag).join("current/link"), link.as_bytes())?;
        write(
            manifests.join("tags").join(tag).join("index").join(place(manifest_digest)).join("link"),
            link.as_bytes(),
        )?;
        Ok(Self { top: top.digest })
    }
}
