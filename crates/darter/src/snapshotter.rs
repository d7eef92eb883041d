//! `darter snapshotter`: serves snapshots to containerd, lazily if the local agent can show a layer.
//!
//! It is a separate process because the agent has no right to mount. It asks the agent for layers by chain id: the agent knows the manifests and
//! configurations that passed its mirror, and answers by the same rule as for the directory of layers, so that a snapshot gives access to no
//! further layers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use async_trait::async_trait;
use darter_api::layers::{LayerAnswer, NamedLayers, Namer};
use darter_core::{Digest, SystemClock, in_full};
use darter_gateway::local_socket::{NotMade, listen_at};
use darter_snapshotter::{FoundLayer, Layers, Options, Snapshotter};
use darter_store::threads;
use tokio::net::UnixListener;

use crate::cli::SnapshotterArgs;
use crate::lazy::agents::Agents;
use crate::notify::Manager;
use crate::signals::Signals;

/// How long the agent may take to note which layers are in use.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The layers of the local agent.
struct AgentLayers {
    agents: Agents,
}

#[async_trait]
impl Layers for AgentLayers {
    async fn uppermost(&self, chain: Digest) -> Option<FoundLayer> {
        let asked = self.agents.ask(|client, beat| async move { client.uppermost_layer(chain, beat).await }).await;
        match asked {
            Ok(LayerAnswer::Found(found)) => {
                Some(FoundLayer { diff_id: found.layer.diff_id, length: found.length_bytes, held: found.held_bytes })
            }
            Ok(LayerAnswer::Miss { reason }) => {
                tracing::info!(%chain, reason, "the agent does not show this layer; it is unpacked");
                None
            }
            Ok(LayerAnswer::Unknown) => None,
            Err(error) => {
                tracing::warn!(%chain, reason = error.brief(), "a layer is unpacked, since the agent could not be asked for it");
                None
            }
        }
    }

    async fn named(&self, layers: &[Digest]) -> Result<(), String> {
        let named = NamedLayers { named: layers.to_vec() };
        let told = async { self.agents.client().await.name_layers(Namer::Snapshotter, &named).await };
        let told =
            tokio::time::timeout(ANSWER_TIMEOUT, told).await.map_err(|_| "the agent does not answer".to_owned())?;
        let told = told.map_err(|error| in_full(&error).to_string())?;
        for layer in told.unknown {
            tracing::warn!(%layer, "a snapshot names a layer that this agent does not keep: remove its image and pull it again");
        }
        Ok(())
    }
}

/// `darter snapshotter`: serves until a signal ends it. Mounts stay.
pub(crate) async fn run(args: &SnapshotterArgs) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root may mount layers: run this as root (contrib/darter-snapshotter.service is a unit for it)");
    }
    let mut signals = Signals::catch()?;
    let mut manager = Manager::from_environment();
    let layers = Arc::new(AgentLayers { agents: Agents::new(args.place.clients()?) });
    let options =
        Options { root: args.root.clone(), layers: args.layers.clone(), clock: Arc::new(SystemClock::start()) };
    let snapshotter = threads::run(move || Snapshotter::open(options, layers)).await?;
    let listener = bind(&args.address)?;
    tracing::info!(address = %args.address.display(), "serving snapshots to containerd");
    manager.ready("serving snapshots");
    let told = snapshotter.clone();
    let attending = tokio::spawn(async move { told.attend().await });
    darter_snapshotter::serve(listener, snapshotter, signals.next()).await;
    manager.stopping("mounts stay");
    attending.abort();
    Ok(())
}

/// Listens on the socket to which containerd connects.
fn bind(address: &Path) -> anyhow::Result<UnixListener> {
    let listener = listen_at(address).map_err(|error| match error {
        NotMade::Taken => {
            anyhow!("another snapshotter answers at {}: stop it, or give another --address", address.display())
        }
        error => anyhow::Error::from(error).context(format!("can't make {}", address.display())),
    })?;
    Ok(UnixListener::from_std(listener)?)
}
