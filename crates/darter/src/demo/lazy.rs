//! `darter demo --lazy` if no container can be run, or if a file was given: a node that has no bytes of a large file opens it, and reads it in many places
//! before it is downloaded.
//!
//! The links of origin, seed and node are limited as in the rest of the demo; `darter mount` mounts the file in the ordinary way.
//! The bytes that are read are compared with the content.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use darter_core::{Clock as _, Rate, SystemClock};
use darter_mount::Fill;
use darter_plot::Panel;
use serde::Serialize;

use super::arriving::{Arriving, came, mark_at, until_whole};
use super::content::Content;
use super::fleet::{Fleet, darter, directory, unmount};
use super::origin::DemoOrigin;
use super::{check_places, check_room, draw, local_copy};
use crate::cli::DemoArgs;
use crate::{output, units};

/// The default length of generated content.
pub(super) const LENGTH: u64 = 1_000_000_000;

/// The default rate of a link: 200 Mbit/s.
pub(super) const RATE: u64 = 25_000_000;

/// How many places are read: the first, the last, and others between them.
pub(super) const PLACES: u64 = 16;

/// How many bytes are read at each place.
const PAGE: u64 = 4096;

/// The result, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct LazyOutcome {
    bytes: u64,
    /// Bytes per second.
    #[serde(flatten, with = "darter_api::units::rate_bytes_per_second")]
    rate: u64,
    /// Seconds from the command until the first page was read.
    first_seconds: f64,
    /// Seconds from the command until all places were read.
    all_seconds: f64,
    places: u64,
    /// How many places had the right bytes.
    places_right: u64,
    /// How many bytes the node had received by then.
    came_bytes: u64,
    /// How many seconds downloading the whole file takes at this rate.
    download_seconds: f64,
}

/// Runs this demo. Fails if nothing can be mounted.
pub(super) async fn show(args: &DemoArgs, room: &Path) -> anyhow::Result<LazyOutcome> {
    let rate = args.rate.or(Rate::from_bytes_per_second(RATE)).context("the rate is none")?;
    let content = Arc::new(match &args.content {
        None => Content::generated(args.size.unwrap_or(LENGTH)),
        Some(name) => Content::open(&local_copy(name, room).await?)?,
    });
    check_room(room, content.length(), 1)?;
    let origin = DemoOrigin::start(content.clone(), rate).await?;
    if !args.json {
        let length = units::size(content.length());
        output::complain(&format!(
            "{length} at an origin, which a seed and a node reach at {rate}; the node has nothing"
        ));
    }
    let fleet = Fleet::start(1, rate, room).await?;
    let clock = SystemClock::start();
    let start = clock.now();
    let node = &fleet.nodes[0].client;
    let arriving = args.plot.is_some().then(|| Arriving::watch(node.clone(), clock, start));
    let fill = if arriving.is_some() { Fill::Idle } else { Fill::Never };
    let mounted = DemoMount::make(room, origin.url.as_str(), fill).await?;
    let file = mounted.file.clone();
    let (first, right) = {
        let content = content.clone();
        let reading = tokio::task::spawn_blocking(move || read(&file, &content, || clock.now().since(start)));
        reading.await?.context("what was mounted can't be read")?
    };
    let all = clock.now().since(start);
    let came = came(node).await?;
    let download_seconds = content.length() as f64 / rate.bytes_per_second() as f64;
    let whole = match arriving {
        None => None,
        Some(arriving) => {
            until_whole(&mounted.data, download_seconds).await?;
            Some((clock.now().since(start), arriving.curve()))
        }
    };
    drop(mounted);
    fleet.stop().await;
    let outcome = LazyOutcome {
        bytes: content.length(),
        rate: rate.bytes_per_second(),
        first_seconds: first.as_secs_f64(),
        all_seconds: all.as_secs_f64(),
        places: PLACES,
        places_right: right,
        came_bytes: came,
        download_seconds,
    };
    if let Some((whole, curve)) = whole {
        draw(args, || vec![outcome.panel(whole.as_secs_f64(), curve)])?;
    }
    Ok(outcome)
}

/// Reads all places. Returns the time after the first one, and how many were right.
fn read<T>(path: &Path, content: &Content, time: impl Fn() -> T) -> std::io::Result<(T, u64)> {
    let file = File::open(path)?;
    let count = PAGE.min(content.length());
    let last = content.length() - count;
    let (mut first, mut right) = (None, 0);
    for place in 0..PLACES {
        let at = last / (PLACES - 1) * place;
        let mut bytes = vec![0; usize::try_from(count).expect("a page is small")];
        let mut expected = bytes.clone();
        file.read_exact_at(&mut bytes, at)?;
        content.read_at(at, &mut expected)?;
        right += u64::from(bytes == expected);
        first = first.or_else(|| Some(time()));
    }
    Ok((first.expect("there is a first place"), right))
}

impl LazyOutcome {
    /// The result in a sentence.
    pub(super) fn text(&self) -> String {
        format!(
            "The node read the first page after {}, and {} places from the beginning to the end after {}. {} had arrived by then; all of it takes {} at this rate.\n\
             \n\
             In earnest:  darter up, then  darter mount URL DIR\n",
            units::seconds(self.first_seconds),
            self.places,
            units::seconds(self.all_seconds),
            units::size(self.came_bytes),
            units::seconds(self.download_seconds),
        )
    }

    /// The picture of the bytes that arrived over time, until the file was complete after `whole` seconds.
    fn panel(&self, whole: f64, curve: Vec<(f64, f64)>) -> Panel {
        let marks = vec![
            mark_at(self.first_seconds, "the first page is read"),
            mark_at(self.all_seconds, &format!("{} places from the beginning to the end are read", self.places)),
            mark_at(whole, "all of the file is here"),
        ];
        let (length, rate) = (units::size(self.bytes), units::rate(self.rate));
        let title = format!("a file of {length} opened by a node that has nothing, {rate}");
        Panel { title, size: self.bytes, bound: self.download_seconds, curves: vec![curve], marks }
    }

    /// Fails if anything was wrong.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_places(self.places_right, self.places)
    }
}

/// A mount made by this program. Dropping it unmounts.
struct DemoMount {
    dir: PathBuf,
    data: PathBuf,
    file: PathBuf,
}

impl DemoMount {
    async fn make(room: &Path, url: &str, fill: Fill) -> anyhow::Result<Self> {
        let dir = room.join("mounted");
        std::fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        // The data directory of the node, which has its socket.
        let data = directory(room, "node 1");
        let mut command = darter()?;
        command.args(["mount", url]).arg(&dir).args(["--name", "content", "--data-dir"]).arg(&data);
        command.args(["--fill", &fill.to_string()]);
        let mounted = Self { file: dir.join("content"), dir, data };
        let output = command.stdin(Stdio::null()).output().await?;
        if !output.status.success() {
            bail!("could not mount it: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(mounted)
    }
}

impl Drop for DemoMount {
    fn drop(&mut self) {
        unmount(&self.dir, &self.data);
    }
}
