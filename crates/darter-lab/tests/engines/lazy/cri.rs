//! Pods: what a kubelet asks of containerd, by `crictl`.

use anyhow::{Result, ensure};
use darter_lab::engine::{Cri, Route};
use darter_lab::made::USER_ID;
use darter_lab::registry::NAME;
use darter_lab::{Agent, Host, Image, Registry, lazy};

use super::stand::{Known, first_pull};
use crate::lazy::can_mount;
use crate::world::{Came, World};

const RATE: &str = "200mbit";

/// Lets a pod say who it is.
const COMMAND: [&str; 2] = ["/bin/id", "-u"];

pub(crate) fn pods_start_before_their_layers_have_come(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let known = Known::make()?;
    let hosts = ["registry", "seed", "node-first", "node-all", "node-one"];
    let [origin, seed_host, first, all, one] = world.hosts(hosts, RATE)?;
    let registry = Registry::public(&origin, &known.storage)?;
    let seed = Agent::seed(&seed_host, &registry.url())?;
    first_pull(&first, seed.host(), registry.authority(), &known.with_user.reference(NAME))?;
    // Everything that CRI runs.
    play(&known, &registry, &seed, &all, None)?;
    // One runtime class.
    play(&known, &registry, &seed, &one, Some("lazy"))
}

fn play(known: &Known, registry: &Registry, seed: &Agent<'_>, host: &Host, handler: Option<&str>) -> Result<()> {
    let anchor = host.hold_mounts()?;
    let (agent, layers) = lazy::node::agent(host, seed.host(), registry.authority(), &anchor)?;
    let route = Route::mirrored(registry.authority());
    let sandbox = known.pause.reference(NAME);
    let cri = Cri::start(host, &route, (&layers, anchor.id()), handler, &sandbox)?;
    // A user who is found in the image's own list: containerd reads that out of the layer by itself.
    let image = &known.with_user;
    let reference = image.reference(NAME);
    cri.pull(&reference, handler)?;
    let said = cri.run(&reference, "user", handler, &COMMAND)?;
    ensure!(said.trim() == USER_ID.to_string(), "the pod said {said:?}");
    ensure_lazy(&cri, image, true)?;
    let came = Came::to(&agent)?;
    ensure!(came.all() < image.size() / 2, "{} of {} bytes came for a small program", came.all(), image.size());
    if handler.is_none() {
        return Ok(());
    }
    // Pods of other classes are unpacked, as before.
    let plain = known.image.reference(NAME);
    cri.pull(&plain, None)?;
    let said = cri.run(&plain, "plain", None, &COMMAND)?;
    ensure!(said.trim() == "0", "the pod said {said:?}");
    ensure_lazy(&cri, &known.image, false)
}

/// An error unless the layers of an image were downloaded, or were not.
fn ensure_lazy(cri: &Cri<'_>, image: &Image, is_lazy: bool) -> Result<()> {
    for layer in &image.layers {
        let is_there = cri.blob(&layer.digest).exists();
        ensure!(is_there != is_lazy, "containerd has the layer {}: {is_there}", layer.digest);
    }
    let snapshotter = if is_lazy { "erofs" } else { "overlayfs" };
    ensure!(cri.has_snapshot(snapshotter, &image.layers[0].diff)?, "{snapshotter} has no snapshot of the first layer");
    Ok(())
}
