//! What is in the directory of layers, as the agent of this host tells.
//!
//! An agent that is silent for [`SILENCE`] is not waited for: an engine downloads what it does not find, and waits for ever for a directory that hangs.
//! What was found before is found then, too, since the engine counts on it; and until the agent speaks again, nobody waits so long a second time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use darter_api::GetRequest;
use darter_api::client::{Client, ClientError};
use darter_api::layers::{FoundLayer, LayerAnswer};
use darter_core::recent::Recent;
use darter_core::{Clock, Digest};
use darter_mount::supply::Supplier as _;
use darter_mount::{KeptFile, Layer, Layers, MountedFile, Settings};
use darter_store::threads;
use parking_lot::Mutex;

use crate::mount::daemon::Daemon;

/// How long an agent may say nothing.
const SILENCE: Duration = Duration::from_secs(2);

/// The same of one that was silent when it was asked last.
const SILENCE_AGAIN: Duration = Duration::from_millis(100);

/// Between tries to reach an agent that is not there.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Layers that are remembered.
const MAX_KNOWN: u64 = 50_000;

/// See the module's text.
pub(super) struct AgentLayers {
    clients: Vec<Client>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    known: Mutex<Recent<Digest, FoundLayer>>,
    was_silent: AtomicBool,
}

impl AgentLayers {
    pub(super) fn new(clients: Vec<Client>, settings: Settings, clock: Arc<dyn Clock>) -> Self {
        let known = Mutex::new(Recent::new(MAX_KNOWN));
        Self { clients, settings, clock, known, was_silent: AtomicBool::new(false) }
    }

    /// Asks the agent; waits a little for one that is not there, as it may be starting again.
    async fn ask(&self, layer: Digest) -> Result<LayerAnswer, ClientError> {
        let silence = if self.was_silent.load(Ordering::Relaxed) { SILENCE_AGAIN } else { SILENCE };
        let mut left = silence;
        loop {
            let asked = Client::choose(self.clients.clone()).await.layer(layer, silence).await;
            match asked {
                Err(ClientError::NoDaemon(_) | ClientError::Broken(..)) if !left.is_zero() => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                    left = left.saturating_sub(RETRY_PAUSE);
                }
                asked => return asked,
            }
        }
    }
}

#[async_trait]
impl Layers for AgentLayers {
    async fn look_up(&self, layer: Digest) -> Option<Layer> {
        let asked = self.ask(layer).await;
        self.was_silent.store(asked.is_err(), Ordering::Relaxed);
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
        };
        let opened = async {
            loop {
                let daemon = Daemon::new(Client::choose(self.clients.clone()).await, request.clone());
                match daemon.open().await {
                    Ok((content, supply)) => return (daemon, content, supply),
                    Err(reason) => tracing::info!(%layer, reason, "a layer can't be opened yet"),
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
