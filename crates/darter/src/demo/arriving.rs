//! The bytes that a node has received over time, and the moment when a mount is complete: for the picture of `--lazy`.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use darter_api::Client;
use darter_core::{Clock as _, Moment, SystemClock};
use darter_plot::Mark;
use tokio::task::JoinHandle;

use super::fleet::darter;
use crate::units;

/// How often a node is asked how much it has received.
const TICK: Duration = Duration::from_millis(50);

/// How often a mount is asked whether it is complete.
const POLL: Duration = Duration::from_millis(300);

/// How long a complete download may take, as a multiple of the shortest possible time.
const PATIENCE: f64 = 3.0;

/// Records how many bytes a node has received, until dropped.
#[derive(Debug)]
pub(super) struct Arriving {
    points: Arc<Mutex<Vec<(f64, f64)>>>,
    task: JoinHandle<()>,
}

impl Arriving {
    /// Starts recording at `start`, with zero bytes.
    pub(super) fn watch(client: Client, clock: SystemClock, start: Moment) -> Self {
        let points = Arc::new(Mutex::new(vec![(0.0, 0.0)]));
        let noted = Arc::clone(&points);
        let task = tokio::spawn(async move {
            loop {
                // If the agent is too busy to answer, one point is missing.
                if let Ok(came) = came(&client).await {
                    let at = clock.now().since(start).as_secs_f64();
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push((at, came as f64));
                }
                tokio::time::sleep(TICK).await;
            }
        });
        Self { points, task }
    }

    /// Seconds since the start, and bytes received by then.
    pub(super) fn curve(&self) -> Vec<(f64, f64)> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A mark in the picture for `what`, which happened after `at` seconds. The mark's name contains the time, too.
pub(super) fn mark_at(at: f64, what: &str) -> Mark {
    Mark { at, name: format!("{}: {what}", units::seconds(at)) }
}

/// How many bytes a node has received so far, from all sources.
pub(super) async fn came(client: &Client) -> anyhow::Result<u64> {
    let traffic = client.status().await?.traffic;
    Ok(traffic.from_origin + traffic.from_seed + traffic.from_peers)
}

/// Waits until the one mount that uses the agent with this data directory is complete. `least` is how many seconds that takes if the link is always full.
pub(super) async fn until_whole(data: &Path, least: f64) -> anyhow::Result<()> {
    let polling = async {
        loop {
            let mut command = darter()?;
            command.args(["mount", "--list", "--json", "--data-dir"]).arg(data).stdin(Stdio::null());
            let output = command.output().await?;
            let mounts: serde_json::Value =
                serde_json::from_slice(&output.stdout).context("can't read what is mounted")?;
            let mount = &mounts[0];
            if mount["whole"] == true {
                return Ok(());
            }
            if mount["state"] != "open" {
                bail!("the mount is {} before it is complete: {}", mount["state"], mount["reason"]);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let limit = Duration::from_secs_f64(10.0 + PATIENCE * least);
    tokio::time::timeout(limit, polling)
        .await
        .with_context(|| format!("the mount is not complete after {} s", limit.as_secs()))?
}
