//! The process that keeps an image: its layers' files in a FUSE directory of its own, by a daemon, and the kernel's mounts on top.
//!
//! The directory leaves the file system's tree once the image is mounted, which alone still uses it. So unmounting the image ends
//! everything, and this process with it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use darter_api::client::{Client, ClientError};
use darter_api::{GetRequest, LayerRequest, MountKind, MountStatus};
use darter_core::{Clock, Digest, SystemClock};
use darter_mount::{KeptFile, Layer, Layers, Mounted, MountedFile, Settings, Waits};
use darter_store::threads;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::runtime::Handle;

use super::daemon::Daemon;
use super::image::{Image, ImageMount, Resolved, resolve_any};
use super::keeper::LAST_READS;
use super::register::{self, Registration};
use super::sources::say;
use super::told::About;
use super::{ends, stack, told, trees};
use crate::cli::MountArgs;
use crate::failure::Failure;
use crate::get::rooms;
use crate::signals::Signals;

/// Layers that are opened at a time: each may have to be read and expanded first, of which the daemon does no more than this at once.
const MAX_OPENING: usize = 16;

/// The image's layers, all of them open.
struct Files(HashMap<Digest, Arc<KeptFile>>);

#[async_trait]
impl Layers for Files {
    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        let file = self.0.get(&layer)?.file();
        Some(Layer::File { length: file.content().length, here: file.glance().await.held })
    }

    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>> {
        self.0.get(&layer).map(Arc::clone)
    }

    fn listed(&self) -> Vec<Digest> {
        self.0.keys().copied().collect()
    }
}

/// Mounts an image, tells `told` when that is done, and keeps it until it is gone.
pub(super) async fn run(
    args: &MountArgs,
    mount: ImageMount,
    foreground: bool,
    told: impl FnOnce(&MountStatus) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut signals = if foreground { Signals::catch_in_foreground()? } else { Signals::catch()? };
    let resolved = async {
        let daemon = daemon(args).await?;
        let resolved = resolve_any(&daemon, &mount.image, args.platform.as_ref(), &mount.headers).await?;
        anyhow::Ok((daemon, resolved))
    };
    let (daemon, resolved) = tokio::select! {
        resolved = resolved => resolved?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let image = match resolved {
        Resolved::Image(image) => image,
        Resolved::Artifact(artifact) => {
            return trees::run_artifact(args, &mount, (daemon, artifact), signals, told).await;
        }
    };
    stack::check()?;
    let files = tokio::select! {
        opened = open(args, &mount, &daemon, &image) => opened?,
        signal = signals.which() => return Err(Failure::ended_by(signal, String::new()).into()),
    };
    let since = SystemClock::start().unix();
    let work = register::directory(&args.place)?.join(format!("{}.image", std::process::id()));
    let mounted = {
        let (files, runtime) = (Arc::clone(&files), Handle::current());
        let (work, dir, layers) = (work.clone(), mount.dir.clone(), image.layers.clone());
        threads::run(move || mounted(files, &layers, since, (&work, &dir), runtime)).await
    };
    // Nothing is in it any more but empty directories.
    let cleared = work.clone();
    threads::run(move || drop(std::fs::remove_dir_all(cleared))).await;
    let mounted = mounted?;
    let mut session = tokio::task::spawn_blocking(move || mounted.wait());
    let status = async || status(args, &mount, &daemon, (&image, since), &files).await;
    let entry = match Registration::announce(&args.place, &status().await, told) {
        Ok(entry) => entry,
        Err(error) => {
            away(&mount.dir).await;
            return Err(error);
        }
    };
    let result = tokio::select! {
        ended = &mut session => ended.context("the mount's thread failed")?.context("the kernel ended the mount"),
        () = signals.next() => {
            away(&mount.dir).await;
            // Readers still get an error when this process ends.
            let _ = tokio::time::timeout(LAST_READS, &mut session).await;
            Ok(())
        }
        never = entry.serve(status) => match never {},
    };
    drop(entry);
    // Later mounts have sooner what was touched here.
    join_all(files.0.values().map(|kept| kept.file().hand_over())).await;
    result
}

/// The daemon that reads the layers: only one can expand them for a fleet.
async fn daemon(args: &MountArgs) -> anyhow::Result<Client> {
    if args.no_daemon {
        return Err(Failure::Usage("an image is mounted by way of a daemon: leave out --no-daemon".to_owned()).into());
    }
    for client in args.place.clients()? {
        match client.runs().await {
            Ok(true) => return Ok(client),
            Ok(false) | Err(ClientError::Forbidden(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no daemon runs, by way of which images are mounted: start one with `darter up`, or name its --data-dir")
}

/// Opens each layer's file, and reads what every mount reads of it.
async fn open(args: &MountArgs, mount: &ImageMount, daemon: &Client, image: &Image) -> anyhow::Result<Arc<Files>> {
    let settings = Settings::of_layer(args.timeout, args.fill, args.fill_rate);
    let (clock, waits): (Arc<dyn Clock>, _) = (Arc::new(SystemClock::start()), Waits::new());
    let (mut layers, room) = (HashMap::new(), ends::MetadataAllowance::new());
    layers.extend(image.layers.iter().map(|layer| (layer.diff_id, layer)));
    let opened = stream::iter(layers.into_values()).map(async |layer: &LayerRequest| {
        let request = GetRequest::of_layer(layer.clone(), mount.headers.clone());
        let daemon = Daemon::new(Client::at(daemon.socket().to_owned()), request);
        let (content, supply) = daemon.first(say).await?;
        let directories = ends::read(&content, &*supply, &room, args.timeout).await;
        let file = MountedFile::among(content, supply, settings, Arc::clone(&clock), waits.clone());
        anyhow::Ok((layer.diff_id, (KeptFile::begin(file, daemon), directories)))
    });
    let opened: HashMap<_, _> = opened.buffer_unordered(MAX_OPENING).try_collect().await?;
    // One that is not known may have what others below or above it ask for: nothing is said then.
    let known = image.layers.iter().map(|layer| opened.get(&layer.diff_id)?.1.clone());
    if let Some(known) = known.collect() {
        ends::tell_differences(known).await;
    }
    Ok(Arc::new(Files(opened.into_iter().map(|(diff_id, (kept, _))| (diff_id, kept)).collect())))
}

/// Makes all mounts. Blocking.
fn mounted(
    files: Arc<Files>,
    layers: &[LayerRequest],
    since: u64,
    (work, dir): (&Path, &Path),
    runtime: Handle,
) -> anyhow::Result<Mounted> {
    let below = work.join("files");
    rooms::make(&below).with_context(|| format!("can't make {}; give another --data-dir", below.display()))?;
    let (mounted, shown) =
        Mounted::mount_layers(files, &below, UNIX_EPOCH + Duration::from_secs(since), super::opened, runtime)?;
    let file_of = |layer: &LayerRequest| {
        let text = layer.diff_id.to_string();
        let digits = text.split_once(':').map_or(text.as_str(), |(_, digits)| digits);
        below.join("sha256").join(digits.get(..2).unwrap_or_default()).join(format!("{digits}.erofs"))
    };
    let paths: Vec<_> = layers.iter().map(file_of).collect();
    let stacked = stack::mount_all(&paths, work, dir);
    if let Err(error) = shown.hide() {
        tracing::warn!(dir = %below.display(), %error, "can't remove the directory of an image's layers");
    }
    stacked.map(|()| mounted)
}

async fn away(dir: &Path) {
    let dir = dir.to_owned();
    threads::run(move || stack::away(&dir)).await;
}

async fn status(
    args: &MountArgs,
    mount: &ImageMount,
    daemon: &Client,
    (image, since): (&Image, u64),
    files: &Files,
) -> MountStatus {
    let (mut glances, mut length) = (Vec::new(), 0);
    for kept in files.0.values() {
        glances.push(kept.file().glance().await);
        length += kept.file().content().length;
    }
    let top = image.layers.last().and_then(|layer| files.0.get(&layer.diff_id));
    let about = About {
        dir: &mount.dir,
        file: String::new(),
        url: mount.image.to_string(),
        image: Some(image.digest),
        kind: MountKind::Image,
        files: None,
        blob: top.map_or(darter_core::BlobId([0; 32]), |top| top.file().content().blob),
        length,
        since,
        daemon: Some(daemon.socket().to_owned()),
    };
    told::status(args, about, told::together(glances))
}
