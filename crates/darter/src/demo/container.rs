//! `darter demo --lazy` as root, if runc or crun is installed: runs a container of a large image on a node that has none of its bytes.
//!
//! The seed has read the image before, as if another host of the fleet had started it; the registry's rate is not limited, but the links of seed and node are. `darter mount`
//! mounts the image in the ordinary way, and a runtime runs a container on it. The bytes that the container reads in many places of the image are compared with
//! the content.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use darter_core::{Clock as _, Rate, SystemClock};
use darter_mount::Fill;
use darter_plot::Panel;
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use super::arriving::{Arriving, came, mark_at, until_whole};
use super::content::Content;
use super::fleet::{Fleet, Orders, darter, directory};
use super::image::{DemoImage, FILE, NAME, find};
use super::lazy::{LENGTH, PLACES};
use super::origin::DemoOrigin;
use super::{check_places, check_room, draw, fleet};
use crate::cli::DemoArgs;
use crate::{output, units};

/// The registry's name.
const REGISTRY: &str = "registry.demo";

/// How many bytes are read at each place.
const COUNT: usize = 16;

/// The result, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ContainerOutcome {
    /// The length of all layers together.
    bytes: u64,
    /// Bytes per second.
    #[serde(flatten, with = "darter_api::units::rate_bytes_per_second")]
    rate: u64,
    /// Seconds from the command that mounts the image to the start of the runtime.
    mounted_seconds: f64,
    /// Seconds from that command to the container's first output.
    first_seconds: f64,
    /// How many bytes the node had received by then.
    first_came_bytes: u64,
    /// Seconds from that command to the end of the container.
    all_seconds: f64,
    places: u64,
    /// How many places had the right bytes.
    places_right: u64,
    /// How many bytes the node had received by the end.
    came_bytes: u64,
    /// How many seconds downloading the whole image takes at this rate.
    download_seconds: f64,
}

/// A program that can run containers here, or why no container can run on a mounted image.
pub(super) fn runtime() -> Result<PathBuf, &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root mounts images");
    }
    let kernel = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    for (kind, why) in [("erofs", "this kernel has no EROFS"), ("overlay", "this kernel has no overlayfs")] {
        if !kernel.lines().any(|line| line.ends_with(&format!("\t{kind}"))) {
            return Err(why);
        }
    }
    ["runc", "crun"].into_iter().find_map(find).ok_or("neither runc nor crun is installed")
}

/// Runs this demo.
pub(super) async fn show(args: &DemoArgs, room: &Path, runtime: &Path) -> anyhow::Result<ContainerOutcome> {
    let rate = args.rate.or(Rate::from_bytes_per_second(super::lazy::RATE)).context("the rate is none")?;
    let length = args.size.unwrap_or(LENGTH);
    check_room(room, length, 1)?;
    let say = |line: String| {
        if !args.json {
            output::complain(&line);
        }
    };
    let image = tokio::task::spawn_blocking(move || DemoImage::generated(length)).await??;
    let bytes = image.length;
    let origin = DemoOrigin::serve(image.files, None).await?;
    let address = origin.url.origin().ascii_serialization();
    let upstream = Some(format!("{REGISTRY}={address}"));
    let fleet = Fleet::start_with(1, &Orders { rate, seed_receives: None, upstream }, room).await?;
    say(format!("an image of {}, which the seed reads first", units::size(bytes)));
    drop(MountedImage::make(room, "seed", Fill::Never).await?);
    say(format!("a node that has nothing of it runs a container of it; its link to the seed has {rate}"));

    let clock = SystemClock::start();
    let start = clock.now();
    let node = &fleet.nodes[0].client;
    let arriving = args.plot.is_some().then(|| Arriving::watch(node.clone(), clock, start));
    let fill = if arriving.is_some() { Fill::Idle } else { Fill::Never };
    let mounted = MountedImage::make(room, "node 1", fill).await?;
    let mounted_after = clock.now().since(start);
    let mut container = Container::start(room, runtime, &mounted.dir, &script(length))?;
    let first_line = container.line().await?;
    let first = clock.now().since(start);
    let first_came = came(node).await?;
    say(format!("  after {}: {}", units::seconds(first.as_secs_f64()), first_line.trim_end()));
    let said = container.rest().await?;
    let all = clock.now().since(start);
    let came = came(node).await?;
    let download_seconds = bytes as f64 / rate.bytes_per_second() as f64;
    let whole = match arriving {
        None => None,
        Some(arriving) => {
            say("  the container has ended; the rest of the image is fetched for the picture".to_owned());
            until_whole(&mounted.data, download_seconds).await?;
            Some((clock.now().since(start), arriving.curve()))
        }
    };
    drop((container, mounted));
    fleet.stop().await;
    let outcome = ContainerOutcome {
        bytes,
        rate: rate.bytes_per_second(),
        mounted_seconds: mounted_after.as_secs_f64(),
        first_seconds: first.as_secs_f64(),
        first_came_bytes: first_came,
        all_seconds: all.as_secs_f64(),
        places: PLACES,
        places_right: right(&said, length)?,
        came_bytes: came,
        download_seconds,
    };
    if let Some((whole, curve)) = whole {
        draw(args, || vec![outcome.panel(whole.as_secs_f64(), curve)])?;
    }
    Ok(outcome)
}

fn places(length: u64) -> impl Iterator<Item = u64> {
    let last = length.saturating_sub(COUNT as u64);
    (0..PLACES).map(move |place| last / (PLACES - 1) * place)
}

/// The container's shell script: it prints a line first, then reads.
fn script(length: u64) -> String {
    let places: Vec<_> = places(length).map(|place| place.to_string()).collect();
    format!(
        "echo \"hello from a container, process $$, on an image that is not downloaded\"\n\
         for place in {}; do od -v -A n -t x1 -j $place -N {COUNT} /{FILE} || exit 1; done",
        places.join(" ")
    )
}

/// How many places the container has read correctly, according to its output.
fn right(said: &str, length: u64) -> anyhow::Result<u64> {
    let content = Content::generated(length);
    let mut right = 0;
    for (place, line) in places(length).zip(said.lines()) {
        let mut expected = [0; COUNT];
        content.read_at(place, &mut expected)?;
        let read = line.split_whitespace().map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<Vec<_>, _>>();
        right += u64::from(read.is_ok_and(|read| read == expected));
    }
    Ok(right)
}

impl ContainerOutcome {
    /// The result in sentences.
    pub(super) fn text(&self) -> String {
        format!(
            "The image was mounted after {}, and the container spoke after {}, when {} of {} had come. It read {} places of a large file \
             from the beginning to the end, and had ended after {}: {} had arrived. All of it takes {} at this rate.\n\
             \n\
             In earnest:  darter up --lazy-dir /run/darter/layers, then  darter setup containerd --lazy\n",
            units::seconds(self.mounted_seconds),
            units::seconds(self.first_seconds),
            units::size(self.first_came_bytes),
            units::size(self.bytes),
            self.places,
            units::seconds(self.all_seconds),
            units::size(self.came_bytes),
            units::seconds(self.download_seconds),
        )
    }

    /// The picture of the bytes that arrived over time, until the image was complete after `whole` seconds.
    fn panel(&self, whole: f64, curve: Vec<(f64, f64)>) -> Panel {
        let marks = vec![
            mark_at(
                self.first_seconds,
                &format!("the container prints its first line; {} have arrived", units::size(self.first_came_bytes)),
            ),
            mark_at(self.all_seconds, &format!("it has read {} places from the beginning to the end", self.places)),
            mark_at(whole, "all of the image is here"),
        ];
        Panel {
            title: format!(
                "a container of an image of {} on a node that has nothing, {}",
                units::size(self.bytes),
                units::rate(self.rate)
            ),
            size: self.bytes,
            bound: self.download_seconds,
            curves: vec![curve],
            marks,
        }
    }

    /// Fails if anything was wrong.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_places(self.places_right, self.places)
    }
}

/// The image, mounted by this program through an agent. Dropping it unmounts the image.
struct MountedImage {
    dir: PathBuf,
    data: PathBuf,
}

impl MountedImage {
    async fn make(room: &Path, agent: &str, fill: Fill) -> anyhow::Result<Self> {
        let data = directory(room, agent);
        let dir = data.with_extension("root");
        std::fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let mut command = darter()?;
        command.arg("mount").arg(format!("{REGISTRY}/{NAME}")).arg(&dir).arg("--data-dir").arg(&data);
        command.args(["--fill", &fill.to_string()]);
        let mounted = Self { dir, data };
        let output = command.stdin(Stdio::null()).output().await?;
        if !output.status.success() {
            bail!("could not mount the image: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(mounted)
    }
}

impl Drop for MountedImage {
    fn drop(&mut self) {
        fleet::unmount(&self.dir, &self.data);
    }
}

/// A running container. Dropping it removes the container.
struct Container {
    runtime: PathBuf,
    state: PathBuf,
    id: String,
    child: tokio::process::Child,
    output: BufReader<tokio::process::ChildStdout>,
}

impl Container {
    fn start(room: &Path, runtime: &Path, root: &Path, script: &str) -> anyhow::Result<Self> {
        let bundle = room.join("bundle");
        std::fs::create_dir(&bundle).with_context(|| format!("can't make {}", bundle.display()))?;
        let namespaces = ["mount", "pid", "ipc", "uts", "network"].map(|kind| json!({ "type": kind }));
        let mount = |at: &str, kind: &str| json!({ "destination": at, "type": kind, "source": kind });
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": ["/bin/sh", "-c", script],
                "env": ["PATH=/bin"],
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": root, "readonly": true },
            "mounts": [mount("/proc", "proc"), mount("/dev", "tmpfs")],
            "linux": { "namespaces": namespaces },
        });
        std::fs::write(bundle.join("config.json"), config.to_string())
            .context("can't write a container's configuration")?;
        let (state, id) = (room.join("containers"), format!("darter-demo-{}", std::process::id()));
        let mut command = Command::new(runtime);
        command.arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle).arg(&id).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("can't run {}", runtime.display()))?;
        let output = BufReader::new(child.stdout.take().context("it has an output")?);
        Ok(Self { runtime: runtime.to_owned(), state, id, child, output })
    }

    /// The next line of the container's output.
    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.output.read_line(&mut line).await? == 0 {
            return Err(self.failure().await);
        }
        Ok(line)
    }

    /// The rest of the output.
    async fn rest(&mut self) -> anyhow::Result<String> {
        let mut text = String::new();
        self.output.read_to_string(&mut text).await?;
        if !self.child.wait().await?.success() {
            return Err(self.failure().await);
        }
        Ok(text)
    }

    async fn failure(&mut self) -> anyhow::Error {
        let mut told = String::new();
        if let Some(errors) = &mut self.child.stderr {
            // If reading fails, the part that was read is still useful.
            let _ = errors.read_to_string(&mut told).await;
        }
        anyhow::anyhow!("the container did not run: {}", told.trim())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Needed also if the demo is interrupted: a container outlives the program that started it.
        let mut command = std::process::Command::new(&self.runtime);
        command.arg("--root").arg(&self.state).args(["delete", "--force", &self.id]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_container_says_is_compared() {
        let content = Content::generated(1_000_000);
        let line = |place: u64| {
            let mut bytes = [0; COUNT];
            content.read_at(place, &mut bytes).unwrap();
            bytes.iter().map(|byte| format!(" {byte:02x}")).collect::<String>()
        };
        let said: Vec<_> = places(1_000_000).map(line).collect();
        assert_eq!(right(&said.join("\n"), 1_000_000).unwrap(), PLACES);
        let mut wrong = said.clone();
        wrong.swap(2, 9);
        assert_eq!(right(&wrong.join("\n"), 1_000_000).unwrap(), PLACES - 2);
        assert_eq!(right(&said[..3].join("\n"), 1_000_000).unwrap(), 3, "one that ends early has read no more");
        assert!(places(1_000_000).last().unwrap() > 999_000);
    }
}
