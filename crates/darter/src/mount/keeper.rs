//! The process that keeps a mount: it has the descriptor of `/dev/fuse`, answers the kernel, and asks an agent for bytes. It ends when the
//! file is unmounted. If a signal tells it to end, it unmounts first: programs that use the file then get errors.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context as _;
use darter_api::{MountKind, MountStatus};
use darter_core::{Clock as _, Source, SystemClock};
use darter_mount::supply::{Content, Supply};
use darter_mount::{Condition, MountOptions, Mounted, MountedFile, Pages, Settings};
use darter_store::threads;
use tokio::runtime::Handle;

use super::register::Registration;
use super::sources::{Agents, FileSource, request};
use super::told::About;
use super::{Mount, opened, told, unmount};
use crate::cli::MountArgs;
use crate::failure::Failure;
use crate::signals::Signals;

/// How long a keeper that was told to end waits for the last reads of programs.
pub(super) const LAST_READS: Duration = Duration::from_millis(500);

/// Mounts, calls `told` when that is done, and keeps the mount until it is unmounted. In the foreground, the keeper also ends with its terminal.
pub(super) async fn run(
    args: &MountArgs,
    mount: Mount,
    foreground: bool,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = if foreground { Signals::catch_in_foreground()? } else { Signals::catch()? };
    let asked = request(&mount.url, mount.headers.clone(), mount.digest);
    let agents = tokio::select! {
        agents = Agents::choose(args, &asked, mount.url.scheme() == "file", None) => agents?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let source = agents.source(asked)?;
    let opened = tokio::select! {
        opened = source.first() => opened,
        signal = signals.which() => Err(Failure::ended_by(signal, String::new()).into()),
    };
    let (content, supply) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            agents.close().await;
            return Err(error);
        }
    };
    let kept = keep(args, &mount, (&agents, &source), (content, supply), &mut signals, told).await;
    // Ends the keeper's own agent, which must not read any more.
    drop(source);
    agents.close().await;
    kept
}

async fn keep(
    args: &MountArgs,
    mount: &Mount,
    (agents, source): (&Agents, &FileSource),
    (content, supply): (Content, Arc<dyn Supply>),
    signals: &mut Signals,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock::start());
    let since = clock.unix();
    let settings = Settings {
        limit: args.timeout,
        fill: args.fill,
        fill_rate: args.fill_rate,
        has_digest: mount.digest.is_some(),
        pages: Pages::Mounted,
    };
    let modified = content.modified.as_deref().and_then(|date| httpdate::parse_http_date(date).ok());
    let options = MountOptions {
        name: mount.name.clone().into(),
        modified: modified.unwrap_or(UNIX_EPOCH + Duration::from_secs(since)),
        others: args.allow_other,
    };
    let file = MountedFile::new(content, supply, settings, clock);
    let (mounted, cache) = {
        let (file, dir, runtime) = (Arc::clone(&file), mount.dir.clone(), Handle::current());
        threads::run(move || Mounted::mount(file, &dir, options, opened, runtime)).await?
    };
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    let status = async || status(args, mount, agents, since, &file).await;
    let entry = match Registration::announce(&args.place, &status().await, told) {
        Ok(entry) => entry,
        Err(error) => {
            away(&mount.dir).await;
            return Err(error);
        }
    };
    let keeping = async {
        if let Condition::Tainted(reason) = file.keep(source).await {
            tracing::warn!(reason, "the mounted content is wrong: all reads fail from now on");
            // A file that is no longer mounted has no cached pages.
            let _ = tokio::task::spawn_blocking(move || cache.forget()).await;
        }
        std::future::pending::<std::convert::Infallible>().await
    };
    let result = tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            away(&mount.dir).await;
            // Reads that still wait get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
        never = keeping => match never {},
        never = entry.serve(status) => match never {},
    };
    drop(entry);
    result
}

/// Unmounts, even if programs use the mount.
pub(super) async fn away(dir: &Path) {
    let dir = dir.to_owned();
    if let Err(error) = threads::run(move || unmount::unmount(&dir, true)).await {
        tracing::warn!(error = %format!("{error:#}"), "can't unmount");
    }
}

async fn status(args: &MountArgs, mount: &Mount, agents: &Agents, since: u64, file: &MountedFile) -> MountStatus {
    let (source, _) = Source::from_signed_url(mount.url.clone(), &[], None, &args.origin.signed_parameter);
    let about = About {
        dir: &mount.dir,
        file: mount.name.clone(),
        url: source.to_string(),
        image: None,
        kind: MountKind::File,
        files: Some(1),
        blob: file.content().blob,
        length: file.content().length,
        since,
        daemon: agents.socket().map(Path::to_owned),
    };
    told::status(args, about, file.glance().await)
}
