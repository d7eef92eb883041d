//! The start of the scenarios about faults: an image of which every byte is known, and signals to the processes that give it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use darter_core::Digest;
use darter_lab::lazy::LazyNode;
use darter_lab::lazy::node::keeper;
use darter_lab::made::{self, USER, Workshop, drawn};
use darter_lab::process::wait_until;
use darter_lab::registry::NAME;
use darter_lab::{Host, Image};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::reading::Seen;

/// The image's directory of known files.
pub(super) const DATA: &str = "data";

/// The name of the last layer's file, where it is mounted.
pub(super) const BLOB: &str = "layer";

/// The process of a container that only holds its mounts.
pub(super) const SLEEP: [&str; 2] = ["/bin/sleep", "100000"];

/// A file of a layer that no other image has, and what is in it.
pub(super) const LATE: &str = "/late";
pub(super) const LATE_TEXT: &str = "pulled when the disk was full";

/// Small files, and bytes of the large one. Nothing of it gets smaller on its way.
const SMALL_FILES: u64 = 300;
const LARGE_FILE: u64 = 24 << 20;

/// An image of three layers, and the files that it has to have.
pub(super) struct Known {
    pub(super) image: Image,
    /// The same with a user, whom containerd finds in the image's own list.
    pub(super) with_user: Image,
    /// The same whose configuration names another tar for the last layer.
    pub(super) wrong: Image,
    /// The programs alone.
    pub(super) pause: Image,
    /// The programs, and [`LATE`] with [`LATE_TEXT`].
    pub(super) late: Image,
    pub(super) storage: PathBuf,
    /// The known files, as they are below [`DATA`].
    pub(super) truth: PathBuf,
    /// The file of the last layer as the registry has it, in a directory of its own.
    pub(super) blob: PathBuf,
    _directory: tempfile::TempDir,
}

/// Pulls an image as the first host of the fleet: that one gets all of the layers while it waits for them, and others only what they touch.
pub(super) fn first_pull(host: &Host, seed: &Host, registry: &str, reference: &str) -> Result<()> {
    LazyNode::start(host, seed, registry)?.pull(reference)
}

impl Known {
    pub(super) fn make() -> Result<Self> {
        let directory = tempfile::tempdir_in(darter_lab::place::cache_directory()?).context("make a directory")?;
        let at = |name: &str| directory.path().join(name);
        made::programs(&at("programs"), &["sleep", "cat", "id"])?;
        for number in 0..SMALL_FILES {
            let length = drawn(number) % (96 << 10) + 1;
            made::noise(&at(&format!("small/{DATA}/small/{}/{number}", number % 7)), number, length)?;
        }
        made::noise(&at(&format!("large/{DATA}/large")), SMALL_FILES, LARGE_FILE)?;
        fs::create_dir(at("late")).context("make a directory")?;
        fs::write(at("late").join(LATE.trim_start_matches('/')), LATE_TEXT).context("write a file")?;
        let workshop = Workshop::new(&at("images"))?;
        let late = workshop.layer(&at("late"))?;
        let layers =
            ["programs", "small", "large"].iter().map(|name| workshop.layer(&at(name))).collect::<Result<Vec<_>>>()?;
        let config = |user: &str| json!({ "Cmd": SLEEP, "User": user, "Env": ["PATH=/bin"] });
        let mut lie = layers.clone();
        lie[2].diff = Digest::sha256(b"another tar");
        let truth = at("truth");
        fs::create_dir(&truth).context("make a directory")?;
        fs::rename(at(&format!("small/{DATA}/small")), truth.join("small")).context("move files")?;
        fs::rename(at(&format!("large/{DATA}/large")), truth.join("large")).context("move a file")?;
        let image = workshop.image("library/known:1", &layers, &config(""))?;
        let blob = at("blob");
        fs::create_dir(&blob).context("make a directory")?;
        let name = layers[2].digest.to_string();
        let hex = name.split_once(':').context("a digest names its algorithm")?.1;
        let data = workshop.storage().join("docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
        std::os::unix::fs::symlink(data, blob.join(BLOB)).context("make a link")?;
        Ok(Self {
            image,
            with_user: workshop.image("library/known:user", &layers, &config(USER))?,
            pause: workshop.image("library/pause:1", &layers[..1], &config(""))?,
            late: workshop.image("library/late:1", &[layers[0].clone(), late], &config(""))?,
            wrong: workshop.image("library/wrong:1", &lie, &config(""))?,
            storage: workshop.storage(),
            truth,
            blob,
            _directory: directory,
        })
    }

    /// The address of the last layer at a registry.
    pub(super) fn blob_url(&self, registry: &str) -> String {
        format!("http://{registry}/v2/library/known/blobs/{}", self.image.layers[2].digest)
    }

    pub(super) fn reference(&self) -> String {
        self.image.reference(NAME)
    }
}

/// The known files in a container.
pub(super) fn data_of(container: u32) -> Result<Seen> {
    Seen::open(Path::new(&format!("/proc/{container}/root/{DATA}")))
}

/// Ends the process that keeps a directory, which was started with this command of the program, as a crash would.
pub(super) fn kill_keeper(command: &str, directory: &Path) -> Result<()> {
    let find = || keeper(command, directory);
    let Some(id) = find()? else { bail!("no process keeps {}", directory.display()) };
    signal(id, Signal::KILL)?;
    wait_until("the keeper to be gone", Duration::from_secs(20), || Ok(find()? != Some(id)))
}

pub(super) fn signal_agent(node: &LazyNode<'_>, what: Signal) -> Result<()> {
    signal(node.agent.process_id().context("no agent runs")?, what)
}

fn signal(process: u32, what: Signal) -> Result<()> {
    let process = Pid::from_raw(process.try_into()?).context("a process has a number")?;
    kill_process(process, what).context("send a signal")
}
