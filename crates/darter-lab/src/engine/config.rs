//! containerd's configuration before `darter setup` has changed it: nothing of registries, snapshotters or layers.

use std::path::Path;

/// The plugin that a kubelet speaks to.
pub(super) const CRI: &str = "io.containerd.grpc.v1.cri";

/// Plugins that need a kubelet's world, other file systems, or directories of the machine.
pub(super) const UNUSED_PLUGINS: [&str; 7] = [
    CRI,
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
];

/// The configuration of a daemon with its CRI service, as version 4. Sandboxes are containers of the image `sandbox`.
pub(super) fn with_cri(directory: &Path, root: &Path, socket: &Path, sandbox: &str) -> String {
    let unused: Vec<_> = UNUSED_PLUGINS.into_iter().filter(|plugin| *plugin != CRI).collect();
    let place = |name: &str| directory.join(name);
    format!(
        "version = 4\nroot = {root:?}\nstate = {:?}\ndisabled_plugins = {unused:?}\n\
         [plugins.'io.containerd.server.v1.grpc']\naddress = {socket:?}\n\
         [plugins.'io.containerd.server.v1.ttrpc']\naddress = {:?}\n\
         [plugins.'io.containerd.nri.v1.nri']\ndisable = true\n\
         [plugins.'io.containerd.cri.v1.runtime']\nrestrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\nbin_dirs = [{:?}]\nconf_dir = {:?}\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox = {sandbox:?}\n",
        place("state"),
        place("ttrpc"),
        place("cni/bin"),
        place("cni/net.d"),
    )
}
