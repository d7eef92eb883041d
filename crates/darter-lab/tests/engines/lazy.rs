//! containerd 2.4 with a directory of layers that Darter keeps (`--lazy-dir`): pulls fetch no layer, and containers run all the same.
//!
//! | file | what lives there |
//! |---|---|
//! | [`faults`] | agent, keeper and seed killed at random moments |
//! | [`events`] | everything else that happens under a container |
//! | [`cri`] | pods, as a kubelet asks for them |
//! | [`hosts`] | hosts that end, and containerd's namespaces |
//! | [`loops`] | layers by way of loop devices |
//! | [`trees`] | images of all kinds, unpacked and mounted, compared |
//! | [`victims`] | what is read in three ways, and whose processes are killed under it |
//! | [`stand`] | the node and the image that these start from |
//! | [`reading`] | every byte of a container's files, read and compared |
//! | [`mapped`] | the same of files that are mapped |

pub(crate) mod cri;
pub(crate) mod events;
pub(crate) mod faults;
pub(crate) mod hosts;
pub(crate) mod loops;
mod mapped;
mod reading;
mod stand;
pub(crate) mod trees;
mod victims;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use darter_core::{Clock as _, SystemClock};
use darter_lab::engine::{Containerd, PULL_TIMEOUT, Route};
use darter_lab::process::wait_until;
use darter_lab::registry::NAME;
use darter_lab::{Agent, Registry};

use crate::world::{Came, World, sizes};

const RATE: &str = "200mbit";

/// A program of the image that reads several of its files.
const COMMAND: [&str; 3] = ["sh", "-c", "ls / && cat /etc/os-release"];

/// True if layers can be mounted here; else it prints the reason.
fn can_mount() -> Result<bool> {
    let kernel = fs::read_to_string("/proc/filesystems").context("read which file systems there are")?;
    let can = kernel.contains("\terofs") && fs::exists("/dev/fuse")?;
    if !can {
        eprintln!("skipped: this kernel has no EROFS, or no FUSE");
    }
    Ok(can)
}

pub(crate) fn containers_start_before_their_layers_have_come(world: &World) -> Result<()> {
    if !can_mount()? {
        return Ok(());
    }
    let [origin, seed, one, two] = world.hosts(["registry", "seed", "node-1", "node-2"], RATE)?;
    let registry = Registry::public(&origin, world.shelf.storage())?;
    let _seed = Agent::seed(&seed, &registry.url())?;
    let image = &world.shelf.tools;
    let (reference, route) = (image.reference(NAME), Route::mirrored(registry.authority()));
    let clock = SystemClock::start();
    let mut outputs = Vec::new();
    for host in [&one, &two] {
        let layers = host.make_directory("layers")?;
        let node = Agent::node_with(host, &registry.url(), &seed, &["--lazy-dir", &layers.display().to_string()])?;
        let process = node.process_id().context("the agent runs")?;
        let seen = format!("/proc/{process}/root{}/sha256", layers.display());
        wait_until("the directory of layers", PULL_TIMEOUT, || Ok(fs::exists(&seen)?))?;
        let engine = Containerd::start_lazy(host, &route, &layers, process)?;
        let start = clock.now();
        engine.pull(&reference)?.finish(PULL_TIMEOUT)?;
        let pulled = clock.now();
        outputs.push(engine.run(&reference, &COMMAND)?);
        let ran = clock.now();
        let came = Came::to(&node)?;
        eprintln!(
            "  {}: pull {:.2} s, run {:.2} s, {} of {} bytes came",
            host.name(),
            pulled.since(start).as_secs_f64(),
            ran.since(pulled).as_secs_f64(),
            came.all(),
            image.size()
        );
        for (digest, _) in sizes(image) {
            ensure!(!engine.blob(digest).exists(), "containerd on {} fetched the layer {digest}", host.name());
        }
        ensure!(came.from_origin == 0, "{} read the registry itself: {came:?}", host.name());
    }
    ensure!(outputs[0] == outputs[1] && outputs[0].contains("PRETTY_NAME"), "the containers said {outputs:?}");
    registry.ensure_read_once(sizes(image))
}
