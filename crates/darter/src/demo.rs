//! `darter demo`: one seed and eight nodes share a file on this machine, live in the terminal.
//!
//! | file | what lives there |
//! |---|---|
//! | `demo/content.rs` | the bytes: generated, or a file's |
//! | `demo/origin.rs` | an HTTP server in this process with a byte budget, which counts what it gives out |
//! | `demo/fleet.rs` | the seed and the nodes, each a separate process |
//! | `demo/swarm.rs` | all nodes fetch at the same time, through their sockets |
//! | `demo/plain.rs` | the same number of plain downloads from the same origin |
//! | `demo/container.rs` | a node that runs a container before its image is downloaded (`--lazy`, as root) |
//! | `demo/image.rs` | the image of that container |
//! | `demo/lazy.rs` | a node that opens a large file before it is downloaded (`--lazy` otherwise) |
//! | `demo/arriving.rs` | the bytes that the node has received over time, for `--plot` |
//! | `demo/picture.rs` | the live picture: what each member holds |
//! | `demo/finish.rs` | the end of one download |
//! | `demo/result.rs` | the result, as a table and as a sentence |
//!
//! The demo uses no special code path: the nodes are this same program with ordinary flags, and the
//! clock stops when the last byte has left a node's socket. The demo itself hashes every download.

mod arriving;
mod container;
mod content;
mod finish;
mod fleet;
mod image;
mod lazy;
mod origin;
mod picture;
mod plain;
mod result;
mod swarm;

#[cfg(test)]
mod tests;

use std::num::NonZero;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use darter_core::Rate;
use darter_plot::Panel;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::container::ContainerOutcome;
use self::content::Content;
use self::fleet::Fleet;
use self::lazy::LazyOutcome;
use self::origin::DemoOrigin;
use self::plain::PlainRun;
use self::result::Outcome;
use self::swarm::SwarmRun;
use crate::cli::DemoArgs;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::{output, units};

/// How many seconds generated content takes at the theoretical best: long enough to watch, and eight plain downloads end within a
/// minute.
const BOUND_SECONDS: u64 = 5;

/// Runs the demo. Fails when a digest is wrong.
pub(crate) async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let mut signals = Signals::catch()?;
    let room = tempfile::Builder::new()
        .prefix("darter-demo-")
        .tempdir()
        .context("can't make a temporary directory; set TMPDIR to one that can be written to")?;
    // If a signal interrupts this, the show is dropped and ends its processes before their directory is removed.
    let mut hangup = signal(SignalKind::hangup())?;
    let shown = tokio::select! {
        shown = show_either(args, room.path()) => shown,
        () = signals.next() => Err(Failure::Interrupted.into()),
        _ = hangup.recv() => Err(Failure::Interrupted.into()),
    };
    put_away(room, args.keep);
    let outcome = match shown? {
        DemoOutcome::Swarm(outcome) => outcome,
        DemoOutcome::Lazy(outcome) => {
            if args.json {
                output::json(&outcome)?;
            } else {
                output::text(&format!("\n{}", outcome.text()))?;
            }
            return outcome.check();
        }
        DemoOutcome::Container(outcome) => {
            if args.json {
                output::json(&outcome)?;
            } else {
                output::text(&format!("\n{}", outcome.text()))?;
            }
            return outcome.check();
        }
    };
    if args.json {
        output::json(&outcome)?;
    } else {
        output::text(&format!("\n{}", outcome.table()))?;
    }
    if outcome.digests_right < outcome.digests_checked {
        bail!("{} of {} downloads are wrong", outcome.digests_checked - outcome.digests_right, outcome.digests_checked);
    }
    Ok(())
}

/// The result of any kind of demo.
enum DemoOutcome {
    Swarm(Box<Outcome>),
    Lazy(LazyOutcome),
    Container(ContainerOutcome),
}

async fn show_either(args: &DemoArgs, room: &Path) -> anyhow::Result<DemoOutcome> {
    if let Some(file) = &args.plot {
        may_draw(file)?;
    }
    if args.lazy {
        // If a file was given, a file is shown.
        let why = match (container::runtime(), &args.content) {
            (Ok(runtime), None) => return container::show(args, room, &runtime).await.map(DemoOutcome::Container),
            (Ok(_), Some(_)) => None,
            (Err(why), _) => Some(why),
        };
        if let Some(why) = why.filter(|_| !args.json) {
            output::complain(&format!("showing a file instead of a container: {why}"));
        }
        return lazy::show(args, room).await.map(DemoOutcome::Lazy);
    }
    show(args, room).await.map(Box::new).map(DemoOutcome::Swarm)
}

/// Fails early if the picture could not be written; an old picture stays until the new one is drawn.
fn may_draw(file: &Path) -> anyhow::Result<()> {
    let is_new = !file.exists();
    let opened = std::fs::OpenOptions::new().append(true).create(true).open(file);
    opened.with_context(|| format!("can't write {}", file.display()))?;
    if is_new {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// Draws `panels` into the file that `--plot` names, if it is given.
fn draw(args: &DemoArgs, panels: impl FnOnce() -> Vec<Panel>) -> anyhow::Result<()> {
    let Some(file) = &args.plot else { return Ok(()) };
    std::fs::write(file, darter_plot::svg(&panels())).with_context(|| format!("can't write {}", file.display()))?;
    if !args.json {
        output::complain(&format!("\ndrew {}", file.display()));
    }
    Ok(())
}

async fn show(args: &DemoArgs, room: &Path) -> anyhow::Result<Outcome> {
    let rate = args.rate.unwrap_or_else(rate_for_this_machine);
    let content = Arc::new(match &args.content {
        None => Content::generated(args.size.unwrap_or(rate.bytes_per_second() * BOUND_SECONDS)),
        Some(name) => Content::open(&local_copy(name, room).await?)?,
    });
    check_room(room, content.length(), args.nodes)?;
    let digest = {
        let content = content.clone();
        tokio::task::spawn_blocking(move || content.digest()).await??
    };
    let origin = DemoOrigin::start(content.clone(), rate).await?;
    let say = |line: String| {
        if !args.json {
            output::complain(&line);
        }
    };

    say(format!(
        "{} from an origin at {rate}; one seed and {} nodes that send and receive at {rate} each",
        units::size(content.length()),
        args.nodes,
    ));
    let fleet = Fleet::start(args.nodes, rate, room).await?;
    let swarm = swarm::run(&fleet, &origin, &content, digest, args.json).await?;
    fleet.stop().await;

    let plain = if args.plain {
        say(format!("\nthe same for {} plain downloads", args.nodes));
        Some(plain::run(args, &origin, &content, digest).await?)
    } else {
        None
    };
    let outcome = Outcome::new(args.nodes, rate, content.length(), digest, &swarm, plain.as_ref());
    draw(args, || panels(&outcome, swarm, plain))?;
    Ok(outcome)
}

/// The panels of both runs over time, one below the other.
fn panels(outcome: &Outcome, swarm: SwarmRun, plain: Option<PlainRun>) -> Vec<Panel> {
    let panel =
        |title: String, curves| Panel { title, size: outcome.bytes, bound: outcome.bound, curves, marks: Vec::new() };
    let what =
        format!("{} to {} nodes, {} each way", units::size(outcome.bytes), outcome.nodes, units::rate(outcome.rate));
    let mut panels = vec![panel(format!("Darter: {what}"), swarm.curves)];
    panels.extend(plain.map(|plain| panel(format!("plain downloads: {what}"), plain.curves)));
    panels
}

/// A rate at which this machine can run all members: the links should be the limit, not the cores.
fn rate_for_this_machine() -> Rate {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let megabytes = if cores < 4 { 40 } else { 50 };
    Rate::from_bytes_per_second(megabytes * 1_000_000).expect("neither is zero")
}

/// The path of the file, or of a copy of what a URL names.
async fn local_copy(name: &str, room: &Path) -> anyhow::Result<std::path::PathBuf> {
    if !name.contains("://") {
        return Ok(name.into());
    }
    let copy = room.join("content");
    let status = fleet::darter()?
        .arg("get")
        .arg(name)
        .arg("-o")
        .arg(&copy)
        .arg("--no-daemon")
        .arg("--data-dir")
        .arg(room.join("get"))
        .stdin(Stdio::null())
        .status()
        .await?;
    if !status.success() {
        bail!("could not fetch {name}");
    }
    Ok(copy)
}

/// Fails if the copies that all members keep would not fit, rather than half-way.
fn check_room(room: &Path, length: u64, nodes: u16) -> anyhow::Result<()> {
    let disk = rustix::fs::statvfs(room)?;
    let free = disk.f_bavail * disk.f_frsize;
    let needed = length * (u64::from(nodes) + 1) + length / 10;
    if free < needed {
        bail!(
            "the demo needs {} in {}, where {} are free; set TMPDIR to another directory, or give a smaller --size",
            units::size(needed),
            room.parent().unwrap_or(room).display(),
            units::size(free)
        );
    }
    Ok(())
}

/// Fails unless all places that were compared are `right`.
fn check_places(right: u64, all: u64) -> anyhow::Result<()> {
    if right < all {
        bail!("{} of {all} places were wrong", all - right);
    }
    Ok(())
}

fn put_away(room: TempDir, keep: bool) {
    if keep {
        output::complain(&format!("kept {}", room.keep().display()));
    }
}
