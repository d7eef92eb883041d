//! Judges the kernel, the daemon, its disk and its limits. No I/O.

use darter_agent::options::Role;
use darter_api::{SeedStatus, Status};

use super::facts::{Daemon, Kernel};
use super::findings::{Finding, Findings};
use crate::units;

/// The minimum limit of open files: connections, blobs and clients use up fewer quickly.
const MIN_FILES: u64 = 4096;
/// The minimum of free disk space in bytes: about one layer.
const MIN_FREE: u64 = 1 << 30;

pub(super) fn kernel(kernel: &Kernel) -> Vec<Finding> {
    let mut found = Findings::about("kernel");
    let knows = |name: &str| kernel.filesystems.iter().any(|known| known == name);
    found.ok("version", format!("Linux {}", kernel.name));
    match (knows("fuse") || kernel.modules.contains(&"fuse"), kernel.fuse_device) {
        (_, false) => found.warning(
            "fuse",
            "there is no /dev/fuse: files can't be opened before they are downloaded (darter mount)",
            "modprobe fuse; in a container --device /dev/fuse --cap-add SYS_ADMIN",
        ),
        (false, true) => found.warning("fuse", "the kernel does not list FUSE", "modprobe fuse"),
        (true, true) if !kernel.fuse_open => found.warning(
            "fuse",
            "this user may not open /dev/fuse, and so can't mount (darter mount)",
            "chmod 666 /dev/fuse, which is the usual mode, or mount as root",
        ),
        (true, true) if !kernel.root && !kernel.fusermount => found.warning(
            "fuse",
            "FUSE is there, but not fusermount3, with which users mount",
            "install the package fuse3",
        ),
        (true, true) => found.ok("fuse", "FUSE"),
    }
    if knows("overlay") || kernel.modules.contains(&"overlay") {
        found.ok("overlayfs", "overlayfs");
    } else {
        found.warning("overlayfs", "the kernel has no overlayfs, on which engines run containers", "modprobe overlay");
    }
    found.found
}

pub(super) fn daemon(daemon: &Daemon) -> Vec<Finding> {
    let mut found = Findings::about("daemon");
    let status = match &daemon.status {
        Ok(status) => status,
        Err(reason) => {
            found.problem(
                "daemon",
                reason.clone(),
                "start it: systemctl start darter, or darter up; name another one with --socket or --data-dir",
            );
            mirror(&mut found, daemon, None);
            return found.found;
        }
    };
    let own = env!("CARGO_PKG_VERSION");
    let role = match status.role {
        Role::Seed => "a seed",
        Role::Node => "a node",
        Role::Embedded => "an embedded agent",
    };
    if status.version == own {
        found.ok("daemon", format!("{role}, darter {own}, at {}", daemon.socket.display()));
    } else {
        found.warning(
            "daemon",
            format!("the daemon is {role} of darter {}, but this command is of darter {own}", status.version),
            "restart the daemon: systemctl restart darter (transfers then resume)",
        );
    }
    if status.draining {
        found.warning(
            "draining",
            "the daemon is shutting down, and accepts no new requests",
            "wait, or start it again",
        );
    }
    mirror(&mut found, daemon, status.local.as_deref());
    seeds(&mut found, status);
    disk(&mut found, &status.store);
    match daemon.max_files {
        Some(files) if files < MIN_FILES => found.warning(
            "files",
            format!("the daemon may have only {files} files open, too few for many blobs and peers at once"),
            "set LimitNOFILE=65536 in its unit file, or ulimit -n 65536 before it is started",
        ),
        Some(files) if files > 1 << 30 => found.ok("files", "any number of open files"),
        Some(files) => found.ok("files", format!("{files} open files")),
        None => {}
    }
    found.found
}

/// Judges whether the mirror's port answers; `at` is its address according to the daemon.
fn mirror(found: &mut Findings, daemon: &Daemon, at: Option<&str>) {
    let local = daemon.local;
    match (&daemon.mirror, at) {
        (Ok(()), _) => found.ok("mirror", format!("the mirror answers at {local}")),
        (Err(reason), Some(at)) if at != local.to_string() => found.problem(
            "mirror",
            format!("no mirror at {local} ({reason}): the daemon's mirror is at {at}"),
            format!("darter doctor --local {at}, and darter setup containerd --local {at}"),
        ),
        (Err(reason), _) => found.problem(
            "mirror",
            format!("the mirror's port {local} does not answer ({reason}): engines go to the registries directly"),
            "start the daemon; if its --local is another address, give that to this command, too",
        ),
    }
}

fn seeds(found: &mut Findings, status: &Status) {
    if status.seeds.is_empty() {
        return;
    }
    let told = |seed: &SeedStatus| match &seed.reason {
        Some(reason) => format!("{}: {reason}", seed.addr),
        None => seed.addr.clone(),
    };
    let down: Vec<_> = status.seeds.iter().filter(|seed| !seed.up).map(told).collect();
    let all = status.seeds.len();
    let todo = "is darter running there, and may this host reach that port? (nc -vz HOST PORT)";
    match down.len() {
        0 => found.ok("seeds", format!("connected with {all} of {all} seeds")),
        some if some < all => {
            found.warning("seeds", format!("{some} of {all} seeds do not answer: {}", down.join(", ")), todo);
        }
        _ => found.problem(
            "seeds",
            format!(
                "no seed answers ({}): this host reads registries by itself, or with the nodes that it knows",
                down.join(", ")
            ),
            todo,
        ),
    }
}

fn disk(found: &mut Findings, store: &darter_api::StoreStatus) {
    let room = store.capacity.saturating_sub(store.used);
    let free = units::size(store.free);
    if store.free < MIN_FREE {
        found.problem(
            "disk",
            format!("{free} free on the disk: received bytes are passed on without being stored"),
            "free some space, or move --data-dir to another one",
        );
    } else if store.quota.is_some_and(|quota| store.capacity < quota && room < MIN_FREE) {
        found.warning(
            "disk",
            format!("{free} free on the disk, nearly all of it reserved (--reserve): new blobs evict older ones"),
            "free some space, or lower --reserve",
        );
    } else {
        found.ok("disk", format!("{} stored, {free} free on the disk", units::size(store.used)));
    }
}
