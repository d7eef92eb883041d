//! `darter image profile`: the parts of an image that are read first, as the local daemon knows them.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use darter_api::Client;
use darter_api::client::ClientError;
use darter_api::profile::{LayerProfile, PinnedProfile, ProfileFile, ProfiledLayer, VERSION};
use darter_core::{Blame, Digest, Fault, Retry};
use darter_store::threads;
use serde::Serialize;

use crate::cli::ProfileArgs;
use crate::failure::Failure;
use crate::get::credentials::Senders;
use crate::mount::image;
use crate::table::{Align, Table};
use crate::{output, units};

/// The JSON that `--json` prints.
#[derive(Debug, Serialize)]
struct ProfileReport {
    image: String,
    digest: Digest,
    /// The lowest layer first; layers without a known profile are left out.
    layers: Vec<LayerProfile>,
}

pub(super) async fn run(args: &ProfileArgs) -> anyhow::Result<()> {
    let daemon = Client::choose(args.place.clients()?).await;
    let headers = Senders::gather(&args.credentials)?.of(&format!("https://{}/", args.image.registry).parse()?);
    let image = image::resolve(&daemon, &args.image, args.platform.as_ref(), &headers).await?;
    let mut seen = BTreeSet::new();
    let layers: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).filter(|layer| seen.insert(*layer)).collect();
    if let Some(file) = &args.pin {
        let pinned = read(file).await?;
        return pin(args, &daemon, &layers, &pinned).await;
    }
    let mut known = Vec::new();
    for layer in &layers {
        known.extend(daemon.layer_profile(*layer).await?);
    }
    if args.unpin {
        return unpin(args, &daemon, &known).await;
    }
    if known.is_empty() {
        let text = format!(
            "it is not known yet which parts of {0} are read first: start a container of it from --lazy-dir, the first on its host, or mount it anywhere \
             (darter mount {0} DIR) and run in DIR what its containers run; then run this again a few seconds later, there or on the seed that leads \
             its layers",
            args.image
        );
        return Err(Failure::Judged { text, blame: Blame::new(Fault::User, Retry::Later(None)) }.into());
    }
    match &args.export {
        Some(file) => export(args, file, &known).await,
        None if args.json => {
            output::json(&ProfileReport { image: args.image.to_string(), digest: image.digest, layers: known })
        }
        None => output::text(&table(&layers, &known)),
    }
}

fn table(layers: &[Digest], known: &[LayerProfile]) -> String {
    let mut table = Table::new([
        ("LAYER", Align::Left),
        ("SIZE", Align::Right),
        ("FIRST", Align::Right),
        ("PARTS", Align::Right),
        ("FROM", Align::Left),
    ]);
    for layer in layers {
        let dash = || "-".to_owned();
        let row = match known.iter().find(|profile| profile.diff_id == *layer) {
            Some(profile) => [
                layer.short(),
                profile.length_bytes.map_or_else(dash, units::size),
                units::size(profile.bytes),
                profile.ranges.len().to_string(),
                from(profile),
            ],
            None => [layer.short(), dash(), dash(), dash(), "nothing known".to_owned()],
        };
        table.row(row);
    }
    table.render()
}

fn from(profile: &LayerProfile) -> String {
    match (profile.pinned, profile.starts) {
        (true, _) => "pinned".to_owned(),
        (false, 1) => "1 start".to_owned(),
        (false, starts) => format!("{starts} starts"),
    }
}

async fn export(args: &ProfileArgs, file: &Path, known: &[LayerProfile]) -> anyhow::Result<()> {
    let layers = known.iter().map(|layer| ProfiledLayer { diff_id: layer.diff_id, ranges: layer.ranges.clone() });
    let profile = ProfileFile { version: VERSION, image: args.image.to_string(), layers: layers.collect() };
    if file == Path::new("-") {
        return output::json(&profile);
    }
    let text = serde_json::to_vec_pretty(&profile)?;
    let path = file.to_owned();
    threads::run(move || std::fs::write(path, text))
        .await
        .with_context(|| format!("can't write {}", file.display()))?;
    let bytes = known.iter().map(|layer| layer.bytes).sum();
    output::complain(&format!("{}: {} layers, {}", file.display(), known.len(), units::size(bytes)));
    Ok(())
}

async fn read(file: &Path) -> anyhow::Result<ProfileFile> {
    let (path, shown) = (file.to_owned(), file.display());
    let text = threads::run(move || std::fs::read(path)).await.with_context(|| format!("can't read {shown}"))?;
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let refused = |why: String| Failure::Usage(format!("{shown} {why}"));
    let no_profile = |error| refused(format!("is not a profile: {error}; make one with --export"));
    let Versioned { version } = serde_json::from_slice(&text).map_err(no_profile)?;
    if version > VERSION {
        return Err(refused(format!("is of version {version}, and this darter knows {VERSION}: upgrade it")).into());
    }
    Ok(serde_json::from_slice(&text).map_err(no_profile)?)
}

async fn pin(args: &ProfileArgs, daemon: &Client, layers: &[Digest], file: &ProfileFile) -> anyhow::Result<()> {
    let of_image: Vec<_> = file.layers.iter().filter(|layer| layers.contains(&layer.diff_id)).collect();
    if of_image.is_empty() {
        let text = format!("it names no layer of {}: it was made from {}", args.image, file.image);
        return Err(Failure::Usage(text).into());
    }
    // Each seed of a fleet leads only some of the layers.
    let (mut pinned, mut missing) = (0, Vec::new());
    for layer in &of_image {
        match daemon.pin_profile(layer.diff_id, Some(&PinnedProfile { ranges: layer.ranges.clone() })).await {
            Ok(()) => pinned += 1,
            Err(error) if matches!(&error, ClientError::Refused(problem) if problem.blame().fault == Fault::User) => {
                missing.push(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let lacking = missing.len();
    match missing.into_iter().next() {
        Some(error) if pinned == 0 => Err(error.into()),
        _ => told(args, "pinned", pinned, lacking),
    }
}

async fn unpin(args: &ProfileArgs, daemon: &Client, known: &[LayerProfile]) -> anyhow::Result<()> {
    let pinned: Vec<_> = known.iter().filter(|layer| layer.pinned).collect();
    for layer in &pinned {
        daemon.pin_profile(layer.diff_id, None).await?;
    }
    told(args, "unpinned", pinned.len(), 0)
}

fn told(args: &ProfileArgs, what: &str, layers: usize, missing: usize) -> anyhow::Result<()> {
    if args.json {
        let image = args.image.to_string();
        return output::json(&serde_json::json!({ "image": image, what: layers, "missing": missing }));
    }
    output::complain(&format!("{what}: {layers} layers of {}", args.image));
    if missing > 0 {
        output::complain(&format!("not here: {missing} layers; do the same at the seeds that lead these"));
    }
    Ok(())
}
