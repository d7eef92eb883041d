//! The directory of layers, which an engine mounts before they are downloaded: the process that keeps the directory, and how the agent starts that process.
//!
//! | file | what lives there |
//! |---|---|
//! | `lazy/agents.rs` | asks the agent, which may restart meanwhile |
//! | `lazy/layers.rs` | the contents of the directory, as the agent knows them |
//! | `lazy/names.rs` | tells the agent which layers containerd's snapshots name |
//! | `lazy/remembered.rs` | caches the agent's recent answers |
//! | `lazy/starts.rs` | what is read first of layers that are whole here |
//!
//! The keeper has the descriptor of `/dev/fuse`, on which all mounts of the directory's files depend. It outlives the agent, and an agent that restarts uses the
//! keeper that runs. If a keeper is killed, those mounts fail; the next keeper serves new containers.

pub(crate) mod agents;
mod layers;
mod names;
mod remembered;
mod starts;

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

use self::agents::Agents;
use self::layers::AgentLayers;
use crate::cli::LazyDirArgs;
use crate::mount::{opened_below, register, unmount};
use crate::signals::Signals;

/// A name that no file of the directory has. Looking it up shows whether the keeper is alive.
const PROBE: &str = "keeper";

/// How often an agent checks the keeper: without one, no container with a lazy layer can start.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The longest pause before a keeper that ended is started again.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// How long a keeper that was told to end waits for the last reads of programs.
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
        let (dir, runtime, layers) = (dir.clone(), Handle::current(), Arc::clone(&layers));
        threads::run(move || Mounted::mount_layers(layers, &dir, since, opened_below, runtime)).await?
    };
    let (engines_dir, runtime) = (dir.clone(), Handle::current());
    let starts = move |layer, mounted| {
        let layers = Arc::clone(&layers);
        runtime.spawn(async move { layers.note_start(layer, mounted).await });
    };
    threads::run(move || engines::attend(engines_dir, move |name| shown.is_whole(name), starts)).await;
    tracing::info!(dir = %dir.display(), "layers can be mounted");
    let named = names::report(args.containerd.clone(), Agents::new(args.place.clients()?));
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    tokio::select! {
        never = named => match never {},
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            threads::run(move || unmount::unmount(&dir, true)).await?;
            // Reads that still wait get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
    }
}

/// Creates the directory and returns its path with all links resolved; nothing is mounted there. Blocking.
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
        // The directory's keeper has ended.
        unmount::unmount(&dir, true)?;
    }
    if register::is_mount_point(&dir) {
        bail!("something else is mounted at {}: unmount that first, or give another directory", dir.display());
    }
    if !dir.is_dir() {
        std::fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
    }
    Ok(dir)
}

/// True if the directory's keeper is alive.
fn answers(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir.join(PROBE)).is_err_and(|error| {
        // The directory of a keeper that runs as root lets no other user look.
        matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
    })
}

/// The state of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// A keeper has it mounted.
    Kept,
    /// The keeper that was started is alive, and has not mounted the directory yet. A second keeper would mount over it.
    Coming,
    /// There was no keeper: one has been started now, or could not be started.
    Lacking,
}

/// Given the last pause, returns how long to wait until the next check, and the pause to pass in then.
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

/// Keeps a keeper running as long as the agent runs. `arguments` tell the keeper where the agent is.
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

/// Starts a keeper if there is none and the last one that was started here has ended. Blocking.
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

/// Starts a keeper that outlives this process; `None` if that fails.
fn start(dir: &Path, arguments: &[OsString]) -> Option<Child> {
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg0("darter").arg("lazy-dir").arg(dir).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // In a process group of its own: signals of a terminal to this process are not meant for the keeper.
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
