//! Judges whether containerd before 2.4 starts images before they are downloaded, through Darter's snapshotter. No I/O.

use std::path::PathBuf;

use super::erofs;
use super::facts::{Containerd, Kernel, SocketState};
use super::findings::Findings;
use crate::setup::containerd::{Config, IMAGES, Part};
use crate::setup::document::Node;
use crate::setup::proxy::NAME;

const SET_UP: &str = "darter setup containerd --lazy";

/// The socket of Darter's snapshotter, according to containerd's configuration.
pub(super) fn address(config: &Config) -> Option<PathBuf> {
    let plugin = config.setting(Part::Proxies, NAME)?;
    let is_snapshotter = plugin.node.get("type").and_then(Node::text) == Some("snapshot");
    plugin.node.get("address").and_then(Node::text).filter(|_| is_snapshotter).map(PathBuf::from)
}

pub(super) fn start(found: &mut Findings, facts: &Containerd, config: &Config, kernel: &Kernel) {
    let Some(address) = address(config) else {
        found.warning(
            "containerd",
            "containerd before 2.4 needs a proxy snapshotter to mount layers before they are downloaded, and Darter's is not configured: pulls download everything first",
            format!("{SET_UP}, with darter snapshotter running"),
        );
        return;
    };
    found.found.extend(erofs::of_kernel(kernel));
    match &facts.snapshotter {
        Some(SocketState::No(reason)) => found.problem(
            "snapshotter",
            format!(
                "no snapshotter answers at {} ({reason}): no image can be pulled with it, and no container created",
                address.display()
            ),
            "systemctl start darter-snapshotter, or darter snapshotter --address PATH as root",
        ),
        Some(SocketState::Hidden) => found.warning(
            "snapshotter",
            format!("only root may ask whether Darter's snapshotter answers at {}", address.display()),
            "sudo darter doctor",
        ),
        Some(SocketState::Yes) | None => {
            found.ok("snapshotter", format!("Darter's snapshotter is at {}", address.display()));
        }
    }
    used(found, config);
    for names in [&[IMAGES, "io.containerd.grpc.v1.cri", "cri"][..]] {
        if let Some(off) = config.disabled(names) {
            let plugin = off.node.text().unwrap_or_default();
            found.warning(
                "switched off",
                format!("{}: {plugin} is disabled", off.place()),
                "remove it from disabled_plugins and restart containerd",
            );
        }
    }
    let by_transfer = facts.release.is_some_and(|release| release >= (2, 1))
        && !config.setting(Part::Images, "disable_snapshot_annotations").is_some_and(|it| it.node.is_false());
    if by_transfer {
        found.problem(
            "annotations",
            "disable_snapshot_annotations is not false: CRI pulls through the transfer service, which does not unpack for a proxy (\"no unpack platforms defined\")",
            SET_UP,
        );
    }
    // From 2.0 on, ctr pulls through the transfer service by default.
    let ctr = match facts.release {
        Some(release) if release >= (2, 0) => {
            "ctr images pull is refused (\"no unpack platforms defined\") until unpack_config has an entry for darter, and with --local it downloads everything"
        }
        _ => "ctr images pull downloads everything",
    };
    found.ok("by hand", format!("crictl pull and nerdctl --snapshotter darter start lazily; {ctr}"));
}

/// Judges whether pods use the snapshotter.
fn used(found: &mut Findings, config: &Config) {
    let is_ours = |node: &Node| node.get("snapshotter").and_then(Node::text) == Some(NAME);
    let all = config.setting(Part::Images, "snapshotter").is_some_and(|it| it.node.text() == Some(NAME));
    let tables = config.tables(Part::Runtimes);
    let mut runtimes = tables.iter().flat_map(|table| table.node.entries());
    if all {
        found.ok("used", "pods use Darter's snapshotter");
    } else if let Some((handler, _)) = runtimes.find(|(_, runtime)| is_ours(runtime)) {
        found.ok("used", format!("pods of the runtime handler {handler} use Darter's snapshotter"));
    } else {
        found.warning(
            "used",
            "neither CRI nor any runtime handler uses Darter's snapshotter: only clients that ask for it start lazily",
            format!("{SET_UP}, for one runtime class with --runtime-handler NAME"),
        );
    }
}
