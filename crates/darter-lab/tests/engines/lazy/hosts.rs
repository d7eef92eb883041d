//! The snapshotter over the life of a host: a container whose host ended comes back, and what a namespace of containerd may read is what its own login opens.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_lab::engine::{Proxied, Route};
use darter_lab::lazy::node::agent;
use darter_lab::process::wait_until;
use darter_lab::registry::{NAME, PASSWORD, USER};
use darter_lab::{Agent, Registry, Snapshotter};

use super::reading::read_everything;
use super::stand::{Known, SLEEP, data_of, first_pull};
use crate::lazy::can_mount;
use crate::world::World;

const RATE: &str = "200mbit";
/// How long anything may take that has nothing in its way.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn containers_come_back_after_their_host_ended(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let known = Known::make()?;
    let [origin, seed_host, first, host] = world.hosts(["registry", "seed", "node-first", "node"], RATE)?;
    let registry = Registry::public(&origin, &known.storage)?;
    let seed = Agent::seed(&seed_host, &registry.url())?;
    first_pull(&first, seed.host(), registry.authority(), &known.reference())?;
    let (route, reference) = (Route::mirrored(registry.authority()), known.reference());
    let written = |container: u32| format!("/proc/{container}/root/written");
    {
        let anchor = host.hold_mounts()?;
        let (agent, layers) = agent(&host, seed.host(), registry.authority(), &anchor)?;
        let snapshotter = Snapshotter::beside(&agent, &layers)?;
        let engine = Proxied::start(&host, &route, &snapshotter, anchor.id())?;
        engine.pull(&reference)?;
        let container = engine.start_container(&reference, "lasting", &SLEEP)?;
        fs::write(written(container), "before").context("write into a container")?;
        ensure!(!snapshotter.mounted()?.is_empty(), "nothing is mounted");
        // Its process goes, and everything that was mounted, with nobody to tidy up.
        host.end_all()?;
    }
    let anchor = host.hold_mounts()?;
    let (agent, layers) = agent(&host, seed.host(), registry.authority(), &anchor)?;
    let snapshotter = Snapshotter::beside(&agent, &layers)?;
    ensure!(snapshotter.mounted()?.is_empty(), "mounts outlived their host");
    let engine = Proxied::start(&host, &route, &snapshotter, anchor.id())?;
    let container = engine.start_again("lasting")?;
    let content = fs::read_to_string(written(container)).context("read what a container wrote")?;
    ensure!(content == "before", "the container's own file has {content:?}");
    read_everything(&known.truth, &data_of(container)?, 1, TIMEOUT)?;
    for layer in &known.image.layers {
        ensure!(!engine.has(&layer.digest), "containerd fetched the layer {}", layer.digest);
    }
    // A new container of the image needs no pull.
    let next = engine.start_container(&reference, "next", &SLEEP)?;
    read_everything(&known.truth, &data_of(next)?, 2, TIMEOUT)?;
    engine.remove_images()?;
    for container in ["lasting", "next"] {
        engine.remove_container(container)?;
    }
    engine.collect()?;
    wait_until("the mounts to go", TIMEOUT, || Ok(snapshotter.mounted()?.is_empty()))
}

pub(crate) fn a_namespace_gets_what_its_own_login_opens(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let known = Known::make()?;
    let [origin, seed_host, host] = world.hosts(["registry", "seed", "node"], RATE)?;
    let registry = Registry::private(&origin, &known.storage)?;
    let seed = Agent::seed(&seed_host, &registry.url())?;
    let anchor = host.hold_mounts()?;
    let (agent, layers) = agent(&host, seed.host(), registry.authority(), &anchor)?;
    let snapshotter = Snapshotter::beside(&agent, &layers)?;
    let engine = Proxied::start(&host, &Route::mirrored(registry.authority()), &snapshotter, anchor.id())?;
    let (reference, right) = (known.reference(), format!("{USER}:{PASSWORD}"));
    // A kubelet's pods with a secret, and without the right one.
    for login in [None, Some("mallory:open-sesame")] {
        ensure!(engine.pull_as(&reference, login).is_err(), "{login:?} pulled a private image");
    }
    engine.pull_as(&reference, Some(&right))?;
    let container = engine.start_container(&reference, "reader", &SLEEP)?;
    read_everything(&known.truth, &data_of(container)?, 1, TIMEOUT)?;
    for layer in &known.image.layers {
        ensure!(!engine.has(&layer.digest), "containerd fetched the layer {}", layer.digest);
    }
    if !engine.pulls_into_namespaces() {
        eprintln!("  other namespaces were left out: this containerd has no service that pulls for them");
        return Ok(());
    }
    // Though the layers are mounted already, another namespace gets them by its own login alone.
    for login in [None, Some("mallory:open-sesame")] {
        ensure!(engine.pull_into("other", &reference, login).is_err(), "{login:?} pulled a private image");
        ensure!(engine.run_in("other", &reference, "thief", &["/bin/cat", "/data/large"]).is_err(), "{login:?} ran it");
    }
    let before = registry.access_log()?.blob_reads();
    engine.pull_into("other", &reference, Some(&right))?;
    let said = engine.run_in("other", &format!("{NAME}/{}", known.image.name), "owner", &["/bin/id", "-u"])?;
    ensure!(said.trim() == "0", "the container said {said:?}");
    for layer in &known.image.layers {
        ensure!(!engine.has(&layer.digest), "containerd fetched the layer {} for its other namespace", layer.digest);
    }
    let after = registry.access_log()?.blob_reads();
    let read = |reads: &std::collections::BTreeMap<_, darter_lab::registry::Reads>| -> u64 {
        known.image.layers.iter().filter_map(|layer| reads.get(&layer.digest)).map(|read| read.bytes).sum()
    };
    ensure!(read(&after) == read(&before), "the registry was read again: {after:?}");
    Ok(())
}
