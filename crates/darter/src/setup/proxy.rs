//! The settings with which containerd before 2.4 starts images before they are downloaded: `darter snapshotter` as a proxy plugin, and CRI configured to use it.
//! No I/O.
//!
//! CRI has to tell the snapshotter which image it unpacks (`disable_snapshot_annotations = false`). In 2.1 and later this setting also keeps CRI from pulling by the transfer
//! service, which can't unpack for a proxy unless its configuration names each one.

use std::path::Path;

use super::containerd::{Config, IMAGES, Part, Refusal, Release};
use super::lazy;

/// The name of the proxy snapshotter for clients.
pub(crate) const NAME: &str = "darter";

/// The first release in which a runtime handler may have its own snapshotter.
const FIRST_HANDLER: Release = (1, 7);

/// The paths of the snapshotter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SnapshotterPaths<'a> {
    /// Its socket.
    pub(crate) address: &'a Path,
    /// Its directory.
    pub(crate) root: &'a Path,
}

/// Writes the settings into a configuration. Returns notes for the operator.
pub(crate) fn write(
    config: &mut Config,
    place: SnapshotterPaths<'_>,
    handler: Option<&str>,
) -> anyhow::Result<Vec<String>> {
    if let Some(off) = config.disabled(&["io.containerd.cri.v1.runtime", IMAGES, "io.containerd.grpc.v1.cri", "cri"]) {
        let plugin = off.node.text().unwrap_or_default();
        let message = format!("{plugin} is disabled here, and lazy start needs it: remove it from disabled_plugins");
        return Err(Refusal::at(&off, message).into());
    }
    if let (Some(_), Some((major, minor))) = (handler, config.engine().filter(|engine| *engine < FIRST_HANDLER)) {
        anyhow::bail!(
            "containerd {major}.{minor} has one snapshotter for all runtime handlers (1.7 and later have one for each): leave out --runtime-handler"
        );
    }
    // Each insertion goes before the previous one.
    let texts = [("address", place.address.to_string_lossy()), ("type", "snapshot".into())];
    for (key, value) in texts {
        text(config, &[NAME], key, &value)?;
    }
    text(config, &[NAME, "exports"], "root", &place.root.to_string_lossy())?;
    let says = config.setting(Part::Images, "disable_snapshot_annotations");
    if !says.is_some_and(|found| found.node.is_false()) {
        config.set_value(Part::Images, &[], "disable_snapshot_annotations", false.into())?;
    }
    match handler {
        Some(handler) => lazy::write_handler(config, handler, NAME)?,
        None => {
            let says = config.setting(Part::Images, "snapshotter");
            if says.and_then(|found| found.node.text()) != Some(NAME) {
                config.set(Part::Images, &[], "snapshotter", NAME)?;
            }
        }
    }
    Ok(vec![
        "start `darter snapshotter` before containerd is restarted (contrib/darter-snapshotter.service), or no pod starts here".to_owned(),
        "images that were pulled before will be pulled again, for the new snapshotter".to_owned(),
    ])
}

fn text(config: &mut Config, below: &[&str], key: &str, value: &str) -> Result<(), Refusal> {
    let mut node = config.tables(Part::Proxies).into_iter().next_back().map(|found| found.node);
    for name in below.iter().copied().chain([key]) {
        node = node.and_then(|node| node.get(name));
    }
    if node.and_then(|node| node.text()) == Some(value) {
        return Ok(());
    }
    config.set(Part::Proxies, below, key, value)
}
