//! The directory of layers that an engine mounts before they are downloaded: the process that keeps it, and how the agent starts that process.
//!
//! | file | what lives there |
//! |---|---|
//! | `lazy/agents.rs` | the agent, asked by processes that outlive it |
//! | `lazy/layers.rs` | what is in the directory, as the agent tells |
//! | `lazy/remembered.rs` | what it told a moment ago |
//!
//! The keeper has the descriptor of `/dev/fuse`, on which all mounts over the directory's files depend: it outlives the agent, which adopts it when
//! it comes again. One that was killed takes those mounts with it; the next one serves new containers.

pub(crate) mod agents;
mod layers;
mod remembered;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use darter_core::{Clock as _, SystemClock};
use darter_mount::{Mounted, Settings, engines};
use darter_store::threads;
use tokio::runtime::Handle;

use self::layers::AgentLayers;
use crate::cli::LazyDirArgs;
use crate::mount::{opened, register, unmount};
use crate::signals::Signals;

/// A name that is never in the directory: a keeper that lives says so.
const PROBE: &str = "keeper";

/// How often an agent looks whether the directory is kept: until it is, no container of a layer that is not here can start.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest pause before a keeper is started again that ended.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// How long programs may hold up a keeper that was told to end.
const LAST_READS: Duration = Duration::from_millis(500);

/// `darter lazy-dir`: keeps the directory until it is unmounted, or a signal tells it to end.
pub(crate) async fn keep(args: &LazyDirArgs) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let given = args.dir.clone();
    let dir = threads::run(move || prepare(&given)).await?;
    let clock = Arc::new(SystemClock::start());
    let since = UNIX_EPOCH + Duration::from_secs(clock.unix());
    let settings = Settings::of_layer(args.timeout, args.fill, args.fill_rate);
    let layers = Arc::new(AgentLayers::new(args.place.clients()?, settings, clock));
    let (mounted, shown) = {
        let (dir, runtime) = (dir.clone(), Handle::current());
        threads::run(move || Mounted::mount_layers(layers, &dir, since, opened, runtime)).await?
    };
    let engines_dir = dir.clone();
    threads::run(move || engines::attend(engines_dir, move |name| shown.is_whole(name))).await;
    tracing::info!(dir = %dir.display(), "layers can be mounted");
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            threads::run(move || unmount::unmount(&dir, true)).await?;
            // Reads that are still waiting get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
    }
}

/// The directory, behind all links, with nothing mounted there. Blocking.
fn prepare(given: &Path) -> anyhow::Result<PathBuf> {
    let dir = unmount::resolve(given).or_else(|error| {
        let Err(refusal) = std::fs::create_dir_all(given) else { return unmount::resolve(given) };
        if refusal.kind() == ErrorKind::AlreadyExists { Err(error) } else { Err(refusal.into()) }
    });
    let dir = dir.with_context(|| format!("can't make {}; give another directory", given.display()))?;
    while register::is_ours(&dir) {
        if answers(&dir) {
            bail!(
                "another process keeps the layers at {} already: stop that one, or give another directory",
                dir.display()
            );
        }
        // Its keeper is gone.
        unmount::unmount(&dir, true)?;
    }
    if register::is_mount_point(&dir) {
        bail!("something else is mounted at {}: take that away first, or give another directory", dir.display());
    }
    if !dir.is_dir() {
        std::fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    Ok(dir)
}

/// True if the process that keeps the directory lives.
fn answers(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir.join(PROBE)).is_err_and(|error| {
        // One of root's lets no other user look.
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
    })
}

/// How a directory was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// A process keeps it.
    Kept,
    /// The process that was started lives, and has not mounted it yet: another one would mount over it.
    Coming,
    /// One was started now, or could not be.
    Lacking,
}

/// How long until a directory is looked at again, and the pause that counts then, which was `pause`.
fn pauses(pause: Duration, look: Look) -> (Duration, Duration) {
    match look {
        Look::Kept => (LOOK_EVERY, LOOK_EVERY),
        Look::Coming => (LOOK_EVERY, pause),
        Look::Lacking => {
            let longer = (pause * 2).min(MAX_PAUSE);
            (longer, longer)
        }
    }
}

/// Sees to it that a directory is kept, as long as an agent runs. `arguments` say where the agent is.
pub(crate) async fn attend(dir: PathBuf, arguments: Vec<OsString>) -> Infallible {
    let (mut pause, mut last) = (LOOK_EVERY, None);
    loop {
        let (dir, arguments) = (dir.clone(), arguments.clone());
        let (look, keeper) = threads::run(move || look_after(dir, &arguments, last)).await;
        let next;
        (next, pause) = pauses(pause, look);
        last = keeper;
        tokio::time::sleep(next).await;
    }
}

/// Starts a keeper if there is none, and the last one that was started here has ended. Blocking.
fn look_after(dir: PathBuf, arguments: &[OsString], mut last: Option<Child>) -> (Look, Option<Child>) {
    let ended = last.as_mut().and_then(|keeper| keeper.try_wait().ok().flatten());
    if let Some(ended) = ended {
        tracing::warn!(%ended, "the process that kept the directory of layers ended");
        last = None;
    }
    let dir = std::path::absolute(&dir).unwrap_or(dir);
    if register::is_ours(&unmount::resolve(&dir).unwrap_or_else(|_| dir.clone())) && answers(&dir) {
        (Look::Kept, last)
    } else if last.is_some() {
        (Look::Coming, last)
    } else {
        (Look::Lacking, start(&dir, arguments))
    }
}

/// Starts a keeper that outlives this process; none if that can't be done.
fn start(dir: &Path, arguments: &[OsString]) -> Option<Child> {
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg0("darter").arg("lazy-dir").arg(dir).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // In a group of its own: a terminal's signals to this process are not for the keeper.
    let started = keeper.process_group(0).spawn();
    match &started {
        Ok(keeper) => {
            tracing::info!(dir = %dir.display(), pid = keeper.id(), "started a process that keeps the directory of layers");
        }
        Err(error) => tracing::error!(%error, "can't start a process that keeps the directory of layers"),
    }
    started.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_started_beside_one_that_lives_and_one_that_ends_at_once_is_started_ever_less_often() {
        let dir = tempfile::tempdir().unwrap().path().join("none");
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let id = child.id();
        let (look, child) = look_after(dir, &[], Some(child));
        let mut child = child.expect("it lives");
        assert_eq!((look, child.id()), (Look::Coming, id));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut pause = LOOK_EVERY;
        let mut spent = Duration::ZERO;
        for _ in 0..20 {
            let next;
            (next, pause) = pauses(pause, Look::Lacking);
            spent += next;
            (_, pause) = pauses(pause, Look::Coming);
        }
        assert!(pause == MAX_PAUSE && spent > MAX_PAUSE * 10);
        assert_eq!(pauses(pause, Look::Kept).1, LOOK_EVERY);
    }
}
