//! Tells the agent which layers the snapshots of the host's containerd name, so that it keeps them.
//!
//! The keeper does it, since only root may ask containerd. If containerd can't be asked, nothing is said: what it named before stays as long as other layers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use darter_api::layers::{NamedLayers, Namer};
use darter_core::{Digest, in_full};
use darter_mount::layers::layer_at;
use darter_snapshotter::{ContainerdError, named_files};

use super::agents::Agents;

/// How often containerd is asked. Layers of a removed image are kept for a day anyway.
const ASK_EVERY: Duration = Duration::from_secs(600);

/// The pause after a failure.
const RETRY: Duration = Duration::from_secs(60);

/// How long the agent may take to note the names.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the containerds at these sockets again and again, and tells the agent.
pub(crate) async fn report(sockets: Vec<PathBuf>, agents: Agents) -> Infallible {
    let mut last = Outcome::default();
    loop {
        let outcome = match named_layers(&sockets).await {
            Ok(named) => tell(named, &agents).await,
            Err(error) => Outcome::failed("containerd can't be asked which layers its snapshots name", &error),
        };
        // The same outcome is not logged twice.
        if outcome != last {
            outcome.log();
        }
        let pause = if outcome.failure.is_some() { RETRY } else { ASK_EVERY };
        last = outcome;
        tokio::time::sleep(pause).await;
    }
}

/// What came of one report.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    failure: Option<String>,
    /// Layers that snapshots name and the agent does not keep.
    unknown: Vec<Digest>,
}

impl Outcome {
    fn failed(what: &str, why: &(dyn std::error::Error + 'static)) -> Self {
        Self { failure: Some(format!("{what}: {}", in_full(why))), unknown: Vec::new() }
    }

    fn log(&self) {
        if let Some(failure) = &self.failure {
            tracing::warn!("{failure}; layers stay for --lazy-keep after the last request for them");
        }
        for layer in &self.unknown {
            tracing::warn!(%layer, "a snapshot names a layer that this agent does not keep: remove its image and pull it again");
        }
    }
}

/// The layers that the snapshots of all these containerds name.
async fn named_layers(sockets: &[PathBuf]) -> Result<BTreeSet<Digest>, ContainerdError> {
    let mut named = BTreeSet::new();
    for socket in sockets {
        match named_files(socket).await {
            Ok(files) => named.extend(files.iter().filter_map(|file| layer_at(file))),
            // Its snapshots, if it has any, are not of this kind.
            Err(ContainerdError::NoSnapshotter(..)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(named)
}

async fn tell(named: BTreeSet<Digest>, agents: &Agents) -> Outcome {
    let named = NamedLayers { named: named.into_iter().collect() };
    let what = "the agent can't be told which layers containerd's snapshots name";
    let told = async { agents.client().await.name_layers(Namer::Engine, &named).await };
    match tokio::time::timeout(ANSWER_TIMEOUT, told).await {
        Ok(Ok(told)) => Outcome { failure: None, unknown: told.unknown },
        Ok(Err(error)) => Outcome::failed(what, &error),
        Err(elapsed) => Outcome::failed(what, &elapsed),
    }
}
