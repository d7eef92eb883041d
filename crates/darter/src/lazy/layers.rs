//! What is in the directory of layers, as the agent of this host tells.
//!
//! An agent that is [silent](super::agents) is not waited for: an engine downloads what it does not find, and waits for ever for a directory that hangs.
//! What was found before is found then, too, since the engine counts on it.

use std::sync::Arc;

use async_trait::async_trait;
use darter_api::GetRequest;
use darter_api::client::Client;
use darter_api::layers::{FoundLayer, LayerAnswer};
use darter_core::recent::Recent;
use darter_core::{Clock, Digest};
use darter_mount::{KeptFile, Layer, Layers, MountedFile, Settings};
use darter_store::threads;
use parking_lot::Mutex;

use super::agents::{Agents, RETRY_PAUSE};
use crate::mount::daemon::Daemon;

/// Layers that are remembered.
const MAX_KNOWN: u64 = 50_000;

/// See the module's text.
pub(super) struct AgentLayers {
    agents: Agents,
    settings: Settings,
    clock: Arc<dyn Clock>,
    known: Mutex<Recent<Digest, FoundLayer>>,
}

impl AgentLayers {
    pub(super) fn new(clients: Vec<Client>, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let known = Mutex::new(Recent::new(MAX_KNOWN));
        Self { agents: Agents::new(clients), settings, clock, known }
    }
}

#[async_trait]
impl Layers for AgentLayers {
    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        let asked = self.agents.ask(|client, beat| async move { client.layer(layer, beat).await }).await;
        let found = match asked {
            Ok(LayerAnswer::Found(found)) => {
                self.known.lock().insert(layer, (*found).clone(), 1);
                *found
            }
            Ok(LayerAnswer::Miss { reason }) => {
                tracing::debug!(%layer, reason, "not found");
                self.known.lock().remove(&layer);
                return None;
            }
            Ok(LayerAnswer::Unknown) => return None,
            Err(error) => {
                tracing::warn!(%layer, reason = error.brief(), "the agent could not be asked for a layer");
                self.known.lock().get(&layer)?.clone()
            }
        };
        let (file, length) = (found.file, found.length_bytes);
        if let Some(file) = file {
            let is_there = {
                let file = file.clone();
                threads::run(move || std::fs::metadata(file).is_ok_and(|found| found.len() == length)).await
            };
            // An agent in a container has it elsewhere.
            if is_there {
                return Some(Layer::Link(file));
            }
        }
        Some(Layer::File { length, here: found.held_bytes })
    }

    async fn open(&self, layer: Digest) -> Option<Arc<KeptFile>> {
        let found = self.known.lock().get(&layer)?.clone();
        let request = GetRequest {
            url: found.layer.address(),
            headers: found.headers,
            digest: None,
            disposition: false,
            range: None,
            layer: Some(found.layer),
            again: false,
        };
        let opened = async {
            loop {
                let daemon = Daemon::new(self.agents.client().await, request.clone());
                match daemon.connect(false).await {
                    Ok((content, supply)) => return (daemon, content, supply),
                    Err(error) => tracing::info!(%layer, reason = error.brief(), "a layer can't be opened yet"),
                }
                tokio::time::sleep(RETRY_PAUSE * 4).await;
            }
        };
        let (daemon, content, supply) = tokio::time::timeout(self.settings.limit, opened).await.ok()?;
        let file = MountedFile::new(content, supply, self.settings, Arc::clone(&self.clock));
        Some(KeptFile::begin(file, daemon))
    }

    fn listed(&self) -> Vec<Digest> {
        self.known.lock().keys().copied().collect()
    }
}
