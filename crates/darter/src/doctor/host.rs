//! Judges the kernel, the daemon, its disk and its limits. No I/O.

use darter_agent::options::Role;
use darter_api::{SeedStatus, Status};

use super::facts::{Daemon, Kernel};
use super::findings::{Finding, Findings};
use crate::units;

/// Fewer open files than this run out: connections, blobs, and what they are served to.
const MIN_FILES: u64 = 4096;
/// Less free disk than this is none: a layer.
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
            "this user may not open /dev/fuse: only others can mount here (darter mount)",
            "chmod 666 /dev/fuse, as is usual, or mount as root",
        ),
        (true, true) if !kernel.root && !kernel.fusermount => found.warning(
            "fuse",
            "FUSE is there, but not fusermount3, which users mount with",
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
                "start it: systemctl start darter, or darter up; another one is named with --socket or --data-dir",
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
            format!("{role} of darter {}, and this command is of {own}", status.version),
            "restart the daemon: systemctl restart darter (transfers go on from what is stored)",
        );
    }
    if status.draining {
        found.warning("draining", "it is shutting down, and takes nothing new", "wait, or start it again");
    }
    mirror(&mut found, daemon, status.local.as_deref());
    seeds(&mut found, status);
    disk(&mut found, &status.store);
    match daemon.max_files {
        Some(files) if files < MIN_FILES => found.warning(
            "files",
            format!("it may have {files} files open, which many blobs and peers at once use up"),
            "LimitNOFILE=65536 in its unit file, or ulimit -n 65536 before it is started",
        ),
        Some(files) if files > 1 << 30 => found.ok("files", "any number of open files"),
        Some(files) => found.ok("files", format!("{files} open files")),
        None => {}
    }
    found.found
}

/// True if the mirror's port answers; `at`: where the daemon says that it has it.
fn mirror(found: &mut Findings, daemon: &Daemon, at: Option<&str>) {
    let local = daemon.local;
    match (&daemon.mirror, at) {
        (Ok(()), _) => found.ok("mirror", format!("the mirror answers at {local}")),
        (Err(reason), Some(at)) if at != local.to_string() => found.problem(
            "mirror",
            format!("no mirror at {local} ({reason}): the daemon has its own at {at}"),
            format!("darter doctor --local {at}, and darter setup containerd --local {at}"),
        ),
        (Err(reason), _) => found.problem(
            "mirror",
            format!("the mirror's port {local} does not answer ({reason}): engines go to the registries themselves"),
            "start the daemon; where its --local says another address, name it with --local here, too",
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
            format!("{free} free on the disk: what comes is passed on without being stored"),
            "free some disk, or move --data-dir to another one",
        );
    } else if store.quota.is_some_and(|quota| store.capacity < quota && room < MIN_FREE) {
        found.warning(
            "disk",
            format!("{free} free on the disk, nearly all of which is to be left free (--reserve): blobs are evicted for new ones"),
            "free some disk, or lower --reserve",
        );
    } else {
        found.ok("disk", format!("{} stored, {free} free on the disk", units::size(store.used)));
    }
}
