//! Needs of a scenario: what the machine must have, and what of it is lacking.

use std::env;
use std::path::PathBuf;

/// Programs that build hosts and links: iproute2 and util-linux.
pub const NETWORK: [&str; 5] = ["ip", "tc", "nsenter", "unshare", "mount"];
/// Programs that build the laboratory's images and serve them.
pub const IMAGES: [&str; 4] = ["mmdebstrap", "tar", "skopeo", "docker-registry"];
/// The engines that pull, what they run containers with, the program that asks mirrors by hand, and the one that maps files.
pub const ENGINES: [&str; 9] =
    ["containerd", "ctr", "runc", "dockerd", "docker", "podman", "conmon", "curl", "python3"];
/// Programs that races and measurements need besides [`NETWORK`]: the one that plays the origin, and the one that keeps an agent on a core.
pub const RACES: [&str; 2] = ["nginx", "taskset"];

/// The ones of `programs`, and root's rights, that this machine lacks, in words for people; `None` when nothing is lacking.
pub fn lacking(programs: &[&str]) -> Option<String> {
    let mut lacks: Vec<String> = programs
        .iter()
        .filter(|program| find(program).is_none())
        .map(|program| format!("the program {program}"))
        .collect();
    if !rustix::process::geteuid().is_root() {
        lacks.insert(0, "root".to_owned());
    }
    if lacks.is_empty() {
        return None;
    }
    Some(format!("needs {} (on Debian, as root: .ci/install-lab-packages)", lacks.join(", ")))
}

/// True if a continuous integration runs this, where a lack is a failure instead of a reason to skip.
pub fn in_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

/// The path of `program`, if it is installed. Debian keeps administrators' programs outside an ordinary user's PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}
