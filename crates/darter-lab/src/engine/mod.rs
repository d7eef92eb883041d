//! Real container engines on hosts, each with directories and configuration of its own, so that several run on one machine.
//!
//! The settings for a machine that is itself a sandbox were found by trying, and stand where they are used: file locks instead of
//! shared memory, cgroups without systemd, limits as the machine has them.

mod config;
mod containerd;
mod cri;
mod docker;
pub mod peers;
mod podman;
mod proxied;
pub mod release;
mod remote;
mod route;
mod skopeo;
pub mod suite;

pub use containerd::{Build, Containerd, NAMESPACE};
pub use cri::Cri;
pub use docker::Docker;
pub use podman::Podman;
pub use proxied::Proxied;
pub use remote::{Remote, Starter};
pub use route::Route;
pub use skopeo::{Skopeo, ensure_copied};

use std::time::Duration;

/// How long one pull may take before it counts as stuck. On two cores that others use as well, some take more than a minute.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(300);
